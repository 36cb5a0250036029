"""What a launch will do with each trial, and why: run, resume, skip or not at all. The first half of every launch.

Planning writes nothing and starts nothing. It is a function of the trials, what the ledger says of them and the shape
of the cluster, so that the plan that is printed is the plan that is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from orchestrator.dispatch import Dispatch, Gang
from orchestrator.errors import UsageError
from orchestrator.grid import Trial, near_miss
from orchestrator.ledger import TrialRecord
from orchestrator.packing import best_order, lower_bound, simulate
from orchestrator.workload import Estimate, Spec

__all__ = ["Action", "ClusterShape", "Plan", "PlannedTrial", "make_plan", "measured_rate", "parse_cluster"]

Action = Literal["run", "resume", "skip", "blocked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterShape:
    """What gangs are cut from."""

    slots: int
    """Workers that can run at once: GPUs, or for kind CPU as many as the cluster shall run."""

    kind: Literal["CPU", "GPU"] = "CPU"
    """What a worker computes on."""

    cpus: int = 1
    """CPU cores of all nodes."""

    gpus: int = 0
    """GPUs of all nodes."""

    gpu_memory_gb: float | None = None
    """Memory of the smallest GPU in units of 1e9 bytes; None: unknown, and then not checked."""

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise UsageError(
                f"a cluster of {self.slots} workers cannot train; add a node, or give at least one worker"
            )

    def __str__(self) -> str:
        if self.kind == "CPU":
            return f"{_count(self.slots, 'worker')} on {_count(self.cpus, 'CPU core')}"
        memory = "" if self.gpu_memory_gb is None else f" of {self.gpu_memory_gb:g} GB"
        return f"{_count(self.gpus, 'GPU')}{memory} and {_count(self.cpus, 'CPU core')}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTrial:
    """One trial with what will be done about it."""

    spec: Spec
    key: str
    action: Action
    reason: str
    """One sentence that says why this action."""

    workers: int
    """Size of the gang."""

    cpus_per_worker: int
    gpus_per_worker: float
    estimate: Estimate
    resume_step: int | None = None
    """Step of the checkpoint that a resumed trial goes on from."""

    seconds: float | None = None
    """Expected duration of what remains; None without a measured rate."""

    start: float | None = None
    """Expected start, seconds from the launch."""

    end: float | None = None
    """Expected end, seconds from the launch."""

    @property
    def runs(self) -> bool:
        """The launch will train it."""
        return self.action in ("run", "resume")

    @property
    def gang(self) -> Gang:
        """What the dispatch policy knows of it."""
        return Gang(size=self.workers, seconds=self.seconds)

    @property
    def remaining_work(self) -> float:
        """Arithmetic that is left, in units of 1e9 multiply-accumulates."""
        return self.estimate.work * max(0, self.estimate.iterations - (self.resume_step or 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a launch will do: the trials that run come first, in the order in which the policy considers them (longest
    first, unless another order ends earlier); then the rest in the grid's order."""

    trials: tuple[PlannedTrial, ...]
    cluster: ClusterShape
    finish_seconds: float | None
    """Expected end of the last trial, seconds from the launch; None without a measured rate."""

    bound_seconds: float | None
    """No schedule of these trials on this cluster ends before this."""

    slot_hours: float | None
    """Hours of all workers together (GPU-hours on GPUs)."""

    @property
    def to_run(self) -> tuple[PlannedTrial, ...]:
        """The trials that the launch will train, in order."""
        return tuple(trial for trial in self.trials if trial.runs)

    def policy(self) -> Dispatch:
        """Return the policy that the simulation behind this plan followed, for the launch to follow; indices are those
        of `to_run`."""
        return Dispatch([trial.gang for trial in self.to_run], self.cluster.slots)

    def count(self, action: Action) -> int:
        """Return the number of trials with this action."""
        return sum(trial.action == action for trial in self.trials)


def make_plan(
    trials: Sequence[Trial],
    records: Mapping[str, TrialRecord],
    cluster: ClusterShape,
    *,
    workers: int | Sequence[str] | None = None,
    cpus_per_worker: int | None = None,
    problems: Mapping[str, Sequence[str]] | None = None,
    rate: float | None = None,
) -> Plan:
    """Decide about every trial.

    `records` is what `Ledger.trials` says of their keys (a key that is not in it is new). `workers` is a number, or
    rules "N" and "PATTERN=N" of which the last that matches a cell's name holds; by default as many as the recipe was
    published with and the cluster has, rounded down to a divisor of the batch. `problems` (key to sentences from a
    preflight) block their trials. `rate` is the speed of one worker in 1e9 multiply-accumulates per second. Raises
    UsageError for a rule that cannot be, before anything is decided.
    """
    rules = _parse_workers(workers, trials)
    found = problems or {}
    planned = []
    for trial in trials:
        record = records.get(trial.key) or TrialRecord(key=trial.key, state="new")
        asked = _asked(rules, trial)
        planned.append(_decide(trial, record, cluster, asked, cpus_per_worker, found.get(trial.key, ())))
    return _timed(planned, cluster, rate)


def parse_cluster(text: str) -> ClusterShape:
    """Parse a shape such as `cpus=4`, `gpus=8,memory=80` or `gpus=8,memory=80,cpus=96`; raises UsageError.

    `memory` is that of one GPU in GB; `workers` may say how many workers share the CPUs (default: one per core).
    """
    values: dict[str, float] = {}
    for part in text.replace(" ", "").split(","):
        name, _, number = part.partition("=")
        if name not in ("cpus", "gpus", "memory", "workers") or not number.replace(".", "", 1).isdigit():
            raise UsageError(f"the cluster {text!r} is not like 'cpus=4' or 'gpus=8,memory=80,cpus=96' (at {part!r})")
        values[name] = float(number)
    gpus, cpus = int(values.get("gpus", 0)), int(values.get("cpus", 0))
    if gpus:
        memory = values.get("memory")
        return ClusterShape(slots=gpus, kind="GPU", cpus=cpus or 4 * gpus, gpus=gpus, gpu_memory_gb=memory)
    slots = int(values.get("workers", cpus))
    if not slots:
        raise UsageError(f"the cluster {text!r} has no GPU and no CPU; say for example 'cpus=4' or 'gpus=8'")
    return ClusterShape(slots=slots, cpus=cpus or slots)


def measured_rate(records: Mapping[str, TrialRecord], estimates: Mapping[str, Estimate]) -> float | None:
    """Return the speed of one worker that earlier progress shows, in 1e9 multiply-accumulates per second, or None.

    Uses `train/images_per_s` and `workers` of the progress documents; the median over trials.
    """
    rates = []
    for key, estimate in estimates.items():
        progress = (records[key].progress if key in records else None) or {}
        speed, gang = (progress.get("metrics") or {}).get("train/images_per_s"), progress.get("workers")
        if speed and gang:
            rates.append(estimate.work / estimate.batch * speed / gang)
    return sorted(rates)[len(rates) // 2] if rates else None


def _decide(
    trial: Trial,
    record: TrialRecord,
    cluster: ClusterShape,
    asked: int | None,
    cpus_per_worker: int | None,
    problems: Sequence[str],
) -> PlannedTrial:
    gang = asked or _default_workers(trial.estimate, cluster)
    action, reason = _action(record, trial.estimate)
    obstacle = "; ".join(problems) or _misfit(trial, gang, cluster, cpus_per_worker)
    if obstacle and action != "skip":
        action, reason = "blocked", obstacle
    return PlannedTrial(
        spec=trial.spec,
        key=trial.key,
        action=action,
        reason=reason,
        workers=gang,
        cpus_per_worker=cpus_per_worker or max(1, cluster.cpus // cluster.slots),
        gpus_per_worker=1.0 if cluster.kind == "GPU" else 0.0,
        estimate=trial.estimate,
        resume_step=record.checkpoint_step if action == "resume" else None,
    )


def _action(record: TrialRecord, estimate: Estimate) -> tuple[Action, str]:
    if record.state == "finished":
        return "skip", "finished before with the same recipe, seed, data and code"
    if record.state == "running":
        step = (record.progress or {}).get("step", 0)
        return "skip", f"another launch is training it (step {step} of {estimate.iterations}, {record.age:.0f} s ago)"
    before = {
        "failed": f"failed before ({_first_line((record.result or {}).get('error'))})",
        "stopped": "stopped before",
        "interrupted": "interrupted before",
    }.get(record.state, "")
    step = record.checkpoint_step
    if step is None:
        return "run", f"{before}, without a checkpoint" if before else "not run before"
    left = f"goes on from step {step} of {estimate.iterations}"
    return "resume", f"{before}; {left}" if before else left


def _misfit(trial: Trial, gang: int, cluster: ClusterShape, cpus_per_worker: int | None) -> str:
    """Return the sentence why a gang never fits the cluster, or an empty string."""
    unit = "GPU" if cluster.kind == "GPU" else "worker"
    if gang > cluster.slots:
        return (
            f"it needs {_count(gang, unit)} at once and the cluster has {cluster.slots}; "
            f"give --workers {_divisor_at_most(trial.estimate.batch, cluster.slots)} or a larger cluster"
        )
    if cpus_per_worker and gang * cpus_per_worker > cluster.cpus:
        return (
            f"it needs {gang * cpus_per_worker} CPU cores ({gang} workers with {cpus_per_worker} each) and the "
            f"cluster has {cluster.cpus}; give fewer cores per worker or a larger cluster"
        )
    need = trial.estimate.memory_gb * trial.estimate.workers / gang
    if cluster.kind == "CPU" or cluster.gpu_memory_gb is None or need <= cluster.gpu_memory_gb:
        return ""
    enough = [w for w in _divisors(trial.estimate.batch) if need * gang / w <= cluster.gpu_memory_gb]
    advice = f"--workers {enough[0]} would fit" if enough else "no number of workers would fit"
    return (
        f"it needs about {need:.1f} GB on each of {_count(gang, 'GPU')} and the cluster's GPUs have "
        f"{cluster.gpu_memory_gb:g} GB; {advice}"
    )


def _timed(planned: Sequence[PlannedTrial], cluster: ClusterShape, rate: float | None) -> Plan:
    """Order the trials that run longest first, and say when each starts and ends if the speed is known."""
    going = sorted((p for p in planned if p.runs), key=lambda p: -p.remaining_work / p.workers)
    rest = tuple(p for p in planned if not p.runs)
    if rate is None:
        trials = (*going, *rest)
        return Plan(trials=trials, cluster=cluster, finish_seconds=None, bound_seconds=None, slot_hours=None)
    going = [replace(p, seconds=p.remaining_work / (p.workers * rate)) for p in going]
    order = best_order([p.gang for p in going], cluster.slots)
    going = [going[i] for i in order]
    gangs = [p.gang for p in going]
    schedule = simulate(gangs, cluster.slots)
    timed = [
        replace(p, start=start, end=start + (p.seconds or 0.0))
        for p, start in zip(going, schedule.starts, strict=True)
    ]
    return Plan(
        trials=(*timed, *rest),
        cluster=cluster,
        finish_seconds=schedule.finish,
        bound_seconds=lower_bound(gangs, cluster.slots),
        slot_hours=sum((gang.seconds or 0.0) * gang.size for gang in gangs) / 3600,
    )


def _parse_workers(workers: int | Sequence[str] | None, trials: Sequence[Trial]) -> list[tuple[str, int]]:
    """Return (pattern, number) rules in the order given."""
    texts = [str(workers)] if isinstance(workers, int) else list(workers or ())
    rules = []
    for text in texts:
        left, equals, number = text.rpartition("=")
        pattern = left.strip() if equals else "*"
        if not number.strip().isdigit() or int(number) < 1 or not pattern:
            raise UsageError(f"the workers rule {text!r} is neither N nor PATTERN=N with N of 1 or more")
        names = [trial.spec.cell.name for trial in trials]
        if names and not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"the workers rule {text!r} matches no cell{near_miss(pattern, names)}")
        rules.append((pattern, int(number)))
    return rules


def _asked(rules: Sequence[tuple[str, int]], trial: Trial) -> int | None:
    name, batch = trial.spec.cell.name, trial.estimate.batch
    asked = next((number for pattern, number in reversed(rules) if fnmatchcase(name, pattern)), None)
    if asked is not None and batch % asked:
        raise UsageError(
            f"{name}: {_count(asked, 'worker')} cannot share a batch of {batch} equally; "
            f"take {_alternatives(_divisors(batch))}"
        )
    return asked


def _default_workers(estimate: Estimate, cluster: ClusterShape) -> int:
    return _divisor_at_most(estimate.batch, min(estimate.workers, cluster.slots))


def _divisors(batch: int) -> list[int]:
    return [number for number in range(1, batch + 1) if batch % number == 0]


def _divisor_at_most(batch: int, limit: int) -> int:
    return max(number for number in _divisors(batch) if number <= max(1, limit))


def _alternatives(numbers: Sequence[int]) -> str:
    texts = [str(number) for number in numbers]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _first_line(error: object) -> str:
    lines = str(error or "").strip().splitlines()
    return lines[0][:160] if lines else "without a message"
