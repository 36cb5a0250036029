"""One cell of the table and its trials: what was published, what came out, and what may be said of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.ledger import State
from orchestrator.report.verdict import TOLERANCE, UNFINISHED, Sample, Verdict, finite, judge
from orchestrator.shown import Exhibit
from orchestrator.workload import Facts

__all__ = ["MEMORY", "SCORE", "SCORE_MS_FLIP", "SPEED", "Row", "Trial"]

SCORE, SCORE_MS_FLIP = "val/mIoU", "val/mIoU_ms_flip"
MEMORY, SPEED = "speed/train_mem_gb", "speed/fps"

_NO_SCORE = "the trial finished without a score"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial of a cell."""

    cell: str
    key: str
    seed: int = 0
    state: State = "new"
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The final ones, or the last ones of a trial that has not ended."""

    not_comparable: tuple[str, ...] = ()
    """Sentences why its score must not be compared with the published one."""

    step: int | None = None
    total: int | None = None
    error: str | None = None
    """Why it failed."""

    sample: Mapping[str, str] = field(default_factory=dict)
    """Settings that a search drew."""

    warning: str = ""
    """One sentence if it runs, or ran to its end, far below its reference curve."""

    device: str | None = None
    """What it ran on, such as `NVIDIA H200` or `CPU, Intel(R) Xeon(R)`; None if that is not known."""

    run_url: str | None = None
    """Page of the tracking run; shown as a link only if it is http(s)."""

    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """File name to PNG or JPEG."""

    exhibit: Exhibit = field(default_factory=Exhibit)
    """Curves and tables to draw."""

    @property
    def name(self) -> str:
        """The cell, with the seed when it is not 0 and what a search drew."""
        drawn = "".join(f" {name}={value}" for name, value in self.sample.items())
        return (f"{self.cell} seed {self.seed}" if self.seed else self.cell) + drawn

    @property
    def run_link(self) -> str | None:
        """The address of the run if a browser may be sent there."""
        return self.run_url if self.run_url and self.run_url.startswith(("http://", "https://")) else None

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why its score must not be compared, a missing score included."""
        lost = self.state == "finished" and finite(self.metrics.get(SCORE)) is None
        return (*self.not_comparable, _NO_SCORE) if lost else self.not_comparable

    @property
    def on_cpu(self) -> bool:
        """It is known to have run without a GPU."""
        return self.device is not None and self.device.split(",")[0] == "CPU"

    def gap(self, published: Mapping[str, float], metric: str = SCORE) -> float | None:
        """Reproduced minus published score; None before the end and while one of them is missing."""
        ours, theirs = finite(self.metrics.get(metric)), finite(published.get(metric))
        return None if self.state != "finished" or ours is None or theirs is None else ours - theirs

    def verdict(self, published: Mapping[str, float]) -> Verdict:
        """What may be said of this trial alone."""
        if self.state in UNFINISHED:
            return UNFINISHED[self.state]
        score, theirs = Sample.of([self.metrics.get(SCORE)]), finite(published.get(SCORE))
        if self.reasons or score is None:
            return "not comparable"
        return "no published number" if theirs is None else judge(score, theirs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One cell of the table."""

    cell: str
    facets: Mapping[str, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    published: Mapping[str, float] = field(default_factory=dict)
    """Published metrics, under the names of the trials' own."""

    trials: tuple[Trial, ...] = ()
    """In the order in which they were added; none for a cell that was never launched."""

    @property
    def section(self) -> str:
        """The heading that it stands under."""
        return self.facts.section or next(iter(self.facets.values()), "")

    def fact(self, column: str) -> str:
        """What the published table, or else the grid, says under a heading."""
        return self.facts.columns.get(column) or self.facets.get(column, "")

    @property
    def counted(self) -> tuple[Trial, ...]:
        """The trials that the row's scores are of, one per seed (the newest): those that are finished and comparable,
        or, if there is none, all that are finished."""
        finished = [trial for trial in self.trials if trial.state == "finished"]
        comparable = [trial for trial in finished if not trial.reasons]
        return tuple({trial.seed: trial for trial in comparable or finished}.values())

    @property
    def not_comparable(self) -> tuple[str, ...]:
        """Why its score must not, or once it is there must not, be compared with the published one."""
        return tuple(dict.fromkeys(reason for trial in self.counted or self.trials for reason in trial.reasons))

    @property
    def score(self) -> Sample | None:
        """Single-scale score; of a cell without a finished trial the last one seen."""
        return self._sample(SCORE)

    @property
    def score_ms_flip(self) -> Sample | None:
        """The same with multi-scale and flip."""
        return self._sample(SCORE_MS_FLIP)

    @property
    def gap(self) -> float | None:
        """Reproduced minus published score; None before the end and while one of them is missing."""
        return self._gap(SCORE)

    @property
    def gap_ms_flip(self) -> float | None:
        """The same with multi-scale and flip."""
        return self._gap(SCORE_MS_FLIP)

    @property
    def tolerance(self) -> float:
        """Points that the score may be away from the published one."""
        score = self.score if self.counted else None
        return TOLERANCE if score is None else score.tolerance

    @property
    def verdict(self) -> Verdict:
        """What may be said of this cell, from the single-scale score alone."""
        if self.counted and not self.not_comparable:
            theirs = finite(self.published.get(SCORE))
            assert self.score is not None
            return "no published number" if theirs is None else judge(self.score, theirs)
        states = [trial.state for trial in self.trials]
        if "running" in states:
            return "running"
        if self.counted:
            return "not comparable"
        return next((verdict for state, verdict in UNFINISHED.items() if state in states), "not run")

    @property
    def state(self) -> str:
        """The states of its trials, counted when they are several."""
        states = [trial.state for trial in self.trials] or ["new"]
        if len(states) == 1:
            return states[0]
        return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))

    @property
    def memory(self) -> float | None:
        """Own peak memory of one GPU in training, in GB as the workload counts them."""
        return None if self._measured is None else finite(self._measured.metrics.get(MEMORY))

    @property
    def speed(self) -> float | None:
        """Own images per second in inference."""
        return None if self._measured is None else finite(self._measured.metrics.get(SPEED))

    @property
    def device(self) -> str | None:
        """What the own memory and speed were measured on."""
        return None if self._measured is None else self._measured.device

    @property
    def memory_on_cpu(self) -> bool:
        """It finished on a CPU, where the published memory has no counterpart."""
        return self.memory is None and self._measured is not None and self._measured.on_cpu

    @property
    def current(self) -> Trial | None:
        """The trial that runs now."""
        return next((trial for trial in self.trials if trial.state == "running"), None)

    @property
    def told(self) -> bool:
        """There is more to tell than fits the table."""
        return len(self.trials) > 1 or any(
            trial.pictures or trial.error or trial.warning or trial.exhibit.curves for trial in self.trials
        )

    @property
    def _measured(self) -> Trial | None:
        """The newest trial with a measurement: figures of two devices are never mixed."""
        newest = self.counted[::-1]
        return next((trial for trial in newest if {MEMORY, SPEED} & set(trial.metrics)), next(iter(newest), None))

    def _sample(self, metric: str) -> Sample | None:
        if self.counted:
            return Sample.of(trial.metrics.get(metric) for trial in self.counted)
        return Sample.of(_last(trial.metrics.get(metric) for trial in self.trials))

    def _gap(self, metric: str) -> float | None:
        ours, theirs = self._sample(metric), finite(self.published.get(metric))
        return None if not self.counted or ours is None or theirs is None else ours.mean - theirs


def _last(values: Iterable[float | None]) -> list[float]:
    return [value for value in map(finite, values) if value is not None][-1:]
