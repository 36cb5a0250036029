"""What a launch will do with each trial, and why: run, resume, skip or not at all. The first half of every launch.

Planning writes nothing and starts nothing. It is a function of the trials, what the ledger says of them and the shape
of the cluster, so that the plan that is printed is the plan that is carried out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.dispatch import Dispatch, Gang
from orchestrator.estimates import Estimator, Source
from orchestrator.grid import Trial
from orchestrator.ledger import TrialRecord
from orchestrator.packing import best_order, lower_bound, simulate
from orchestrator.search import STOPPED_EARLY
from orchestrator.shape import ClusterShape, count, parse_cluster
from orchestrator.sharing import Sharing, refusal
from orchestrator.sizing import (
    asked_sizes,
    bound_of_choices,
    choose_sizes,
    default_workers,
    divisors,
    effective_work,
    parse_workers,
)
from orchestrator.workload import Estimate, Spec

__all__ = ["Action", "ClusterShape", "Plan", "PlannedTrial", "make_plan", "parse_cluster"]

Action = Literal["run", "resume", "skip", "blocked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedTrial:
    """One trial with what will be done about it."""

    spec: Spec
    key: str
    action: Action
    reason: str
    """One sentence that says why this action."""

    workers: int
    """Size of the gang; of one that may have several the largest, which the plan reckons with."""

    cpus_per_worker: int
    gpus_per_worker: float
    estimate: Estimate
    resume_step: int | None = None
    """Step of the checkpoint that a resumed trial goes on from."""

    memory_gb: float = 0.0
    """Peak memory of one worker in units of 1e9 bytes: measured before, or estimated."""

    fewer: tuple[int, ...] = ()
    """Smaller sizes with which it goes on while workers are missing, ascending; empty: it never does."""

    share: int = 1
    """Trials on its GPU, itself included."""

    alone: str = ""
    """Why it shares no GPU although trials may; empty if it does, or if none may."""

    seconds: float | None = None
    """Expected duration of what remains; None if unknown."""

    estimate_source: Source = "unknown"
    """Where `seconds` comes from."""

    estimate_detail: str = ""
    """The same in one sentence."""

    start: float | None = None
    """Expected start, seconds from the launch."""

    end: float | None = None
    """Expected end, seconds from the launch."""

    @property
    def runs(self) -> bool:
        """The launch will train it."""
        return self.action in ("run", "resume")

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes that its gang may have, ascending."""
        return (*self.fewer, self.workers)

    @property
    def gang(self) -> Gang:
        """What the dispatch policy knows of it."""
        return Gang(size=self.workers, seconds=self.seconds, share=self.share)

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
    """Expected end of the last trial, seconds from the launch; None if the duration of one is unknown."""

    bound_seconds: float | None
    """No schedule of these trials on this cluster ends before this, with any number of workers that was open."""

    slot_hours: float | None
    """Hours of all workers together (GPU-hours on GPUs)."""

    @property
    def unknown(self) -> int:
        """Trials to run whose duration nobody knows."""
        return sum(trial.seconds is None for trial in self.to_run)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wishes:
    """What a plan is made with beside trials, records and cluster."""

    cluster: ClusterShape
    estimator: Estimator
    cpus_per_worker: int | None
    resume_stopped: bool = False


def make_plan(
    trials: Sequence[Trial],
    records: Mapping[str, TrialRecord],
    cluster: ClusterShape,
    *,
    workers: int | Sequence[str] | None = None,
    cpus_per_worker: int | None = None,
    problems: Mapping[str, Sequence[str]] | None = None,
    estimator: Estimator | None = None,
    auto_gangs: bool = False,
    sharing: Sharing | None = None,
    resume_stopped: bool = False,
) -> Plan:
    """Decide about every trial.

    `records` is what `Ledger.trials` says of their keys (a key that is not in it is new). `workers` is a number, or
    rules "N" and "PATTERN=N" of which the last that matches a cell's name holds; "MIN-MAX" in place of N lets the gang
    have any divisor of the batch within the range that fits, planned with the largest. Cells without a rule get as
    many as the recipe was published with and the cluster has, rounded down to a divisor of the batch: a number that is
    known to train well, whose memory is published, and with which a plan is only as wrong as its measured speeds. With
    `auto_gangs` the plan takes any divisor of the batch that fits the memory instead, so that the grid ends early:
    then the longest cells get more workers, at the price of efficiency that is assumed where it was not measured
    (`estimates.EFFICIENCY`). `problems` (key to sentences from a preflight) block their trials. With `sharing`,
    trials of one worker that fit share GPUs. A sample that a search stopped early is left alone unless
    `resume_stopped`. Raises UsageError for a rule that cannot be, before anything is decided.
    """
    rules = parse_workers(workers, trials)
    wishes = _Wishes(
        cluster=cluster,
        estimator=estimator or Estimator((), cluster),
        cpus_per_worker=cpus_per_worker,
        resume_stopped=resume_stopped,
    )
    found, known = problems or {}, [records.get(t.key) or TrialRecord(key=t.key, state="new") for t in trials]
    asked = [_fitting(asked_sizes(rules, trial), trial, wishes) for trial in trials]
    gangs = [sizes or (default_workers(trial.estimate, cluster),) for sizes, trial in zip(asked, trials, strict=True)]
    order, bound = None, None
    if auto_gangs:
        going = [
            i
            for i, (trial, record) in enumerate(zip(trials, known, strict=True))
            if not found.get(trial.key) and _action(record, trial, wishes)[0] in ("run", "resume")
        ]
        chosen, order, bound = _sizes(
            [(trials[i], known[i], asked[i][-1] if asked[i] else None, gangs[i][-1]) for i in going], wishes
        )
        for i, size in zip(going, chosen, strict=True):
            gangs[i] = (*gangs[i][:-1], size)
    planned = [
        _decide(trial, record, gang, found.get(trial.key, ()), wishes, sharing)
        for trial, record, gang in zip(trials, known, gangs, strict=True)
    ]
    sharers = [i for i, one in enumerate(planned) if one.runs and one.share > 1]
    if len(sharers) == 1:
        i = sharers[0]
        single = _decide(trials[i], known[i], gangs[i], found.get(trials[i].key, ()), wishes, None)
        planned[i] = replace(single, alone="no other cell could share with it")
    return _timed(planned, cluster, order, None if sharing is not None else bound)


def _sizes(
    going: Sequence[tuple[Trial, TrialRecord, int | None, int]], wishes: _Wishes
) -> tuple[list[int], list[str], float | None]:
    """Choose the workers of trials that run, given with record, rule and published number: the workers, the keys of
    those that fit in the order found, and the bound of all choices if the speeds are known."""
    cluster, estimator = wishes.cluster, wishes.estimator
    sizes_of = [
        [size for size in ([asked] if asked else divisors(trial.estimate.batch)) if not _misfit(trial, size, wishes)]
        for trial, _, asked, _ in going
    ]
    done = [record.checkpoint_step or 0 for _, record, _, _ in going]
    times = [
        [estimator.timing(going[i][0], size, done=done[i]).seconds for size in sizes]
        for i, sizes in enumerate(sizes_of)
    ]
    known = all(time is not None for row in times for time in row)
    # Without speeds the arithmetic alone still tells which trials are long.
    options = [
        [
            (size, time if known and time is not None else effective_work(going[i][0], size, done[i]))
            for size, time in zip(sizes, times[i], strict=True)
        ]
        for i, sizes in enumerate(sizes_of)
    ]
    fitting = [i for i, row in enumerate(options) if row]
    rows, usual = [options[i] for i in fitting], [going[i][3] for i in fitting]
    # What was published may not fit; then any number that does is as good to start from.
    usual = [size if size in dict(row) else row[-1][0] for size, row in zip(usual, rows, strict=True)]
    sizes, order = choose_sizes(rows, cluster.slots, usual)
    best = [workers for _, _, _, workers in going]
    for i, size in zip(fitting, sizes, strict=True):
        best[i] = size
    bound = bound_of_choices(rows, cluster.slots) if known else None
    return best, [going[fitting[place]][0].key for place in order], bound


def _decide(
    trial: Trial,
    record: TrialRecord,
    sizes: Sequence[int],
    problems: Sequence[str],
    wishes: _Wishes,
    sharing: Sharing | None,
) -> PlannedTrial:
    """Decide about a trial whose gang may have these sizes, and shall have the last."""
    gang, cluster, estimator = sizes[-1], wishes.cluster, wishes.estimator
    action, reason = _action(record, trial, wishes)
    obstacle = "; ".join(problems) or _misfit(trial, gang, wishes)
    if obstacle and action != "skip":
        action, reason = "blocked", obstacle
    alone = refusal(trial, gang, cluster, sharing, estimator) if sharing is not None else ""
    share = sharing.number if sharing is not None and not alone else 1
    step = record.checkpoint_step if action == "resume" else None
    timing = estimator.timing(trial, gang, done=step or 0, share=share)
    return PlannedTrial(
        spec=trial.spec,
        key=trial.key,
        action=action,
        reason=reason,
        workers=gang,
        cpus_per_worker=wishes.cpus_per_worker or max(1, cluster.cpus // cluster.slots // share),
        gpus_per_worker=Gang(size=1, share=share).slots if cluster.kind == "GPU" else 0.0,
        estimate=trial.estimate,
        memory_gb=estimator.memory_gb(trial, gang)[0],
        resume_step=step,
        fewer=tuple(sizes[:-1]),
        share=share,
        alone=alone,
        seconds=timing.seconds if action in ("run", "resume") else None,
        estimate_source=timing.source,
        estimate_detail=timing.detail,
    )


def _action(record: TrialRecord, trial: Trial, wishes: _Wishes) -> tuple[Action, str]:
    estimate, ended = trial.estimate, str((record.result or {}).get("error") or "")
    if record.state == "finished":
        return "skip", "finished before with the same recipe, seed, data and code"
    if record.state == "running":
        step = (record.progress or {}).get("step", 0)
        return "skip", f"another launch is training it (step {step} of {estimate.iterations}, {record.age:.0f} s ago)"
    left_alone = trial.spec.sample and not wishes.resume_stopped
    if left_alone and record.state == "stopped" and ended.startswith(STOPPED_EARLY):
        return "skip", f"{ended}; --resume-stopped goes on with it"
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


def _fitting(sizes: Sequence[int], trial: Trial, wishes: _Wishes) -> tuple[int, ...]:
    """Keep the sizes that fit the cluster; where none does, the one that comes nearest."""
    fitting = tuple(size for size in sizes if not _misfit(trial, size, wishes))
    at_once = [size for size in sizes if size <= wishes.cluster.slots]
    return fitting or tuple(at_once[-1:] or sizes[:1])


def _misfit(trial: Trial, gang: int, wishes: _Wishes) -> str:
    """Return the sentence why a gang never fits the cluster, or an empty string."""
    cluster, cpus, batch = wishes.cluster, wishes.cpus_per_worker, trial.estimate.batch
    unit = "GPU" if cluster.kind == "GPU" else "worker"
    if gang > cluster.slots:
        fitting = max(number for number in divisors(batch) if number <= cluster.slots)
        return (
            f"it needs {count(gang, unit)} at once and the cluster has {cluster.slots}; "
            f"give --workers {fitting} or a larger cluster"
        )
    if cpus and gang * cpus > cluster.cpus:
        return (
            f"it needs {gang * cpus} CPU cores ({gang} workers with {cpus} each) and the "
            f"cluster has {cluster.cpus}; give fewer cores per worker or a larger cluster"
        )
    need, measured = wishes.estimator.memory_gb(trial, gang)
    if cluster.kind == "CPU" or cluster.gpu_memory_gb is None or need <= cluster.gpu_memory_gb:
        return ""
    enough = next((w for w in divisors(batch) if need * gang / w <= cluster.gpu_memory_gb), None)
    if enough is None:
        advice = "no number of workers would fit"
    elif enough <= cluster.slots:
        advice = f"--workers {enough} would fit"
    else:
        advice = f"--workers {enough} would fit, on {enough} such GPUs"
    return (
        f"it {'used' if measured else 'needs about'} {need:.1f} GB on each of {count(gang, 'GPU')} and the cluster's "
        f"GPUs have {cluster.gpu_memory_gb:g} GB; {advice}"
    )


def _timed(
    planned: Sequence[PlannedTrial], cluster: ClusterShape, found: Sequence[str] | None, bound: float | None
) -> Plan:
    """Put the trials that run into the best order, and say when each starts and ends if all durations are known."""
    going = sorted((p for p in planned if p.runs), key=lambda p: -p.remaining_work / p.workers)
    rest = tuple(p for p in planned if not p.runs)
    if any(p.seconds is None for p in going):
        trials = (*going, *rest)
        return Plan(trials=trials, cluster=cluster, finish_seconds=None, bound_seconds=None, slot_hours=None)
    place = {p.key: i for i, p in enumerate(going)}
    known = None if found is None or len(found) < len(going) else [place[key] for key in found]
    order = best_order([p.gang for p in going], cluster.slots, known)
    going = [going[i] for i in order]
    gangs = [p.gang for p in going]
    schedule = simulate(gangs, cluster.slots)
    ends = [start + (gang.seconds or 0.0) for start, gang in zip(schedule.starts, gangs, strict=True)]
    timed = [replace(p, start=start, end=end) for p, start, end in zip(going, schedule.starts, ends, strict=True)]
    return Plan(
        trials=(*timed, *rest),
        cluster=cluster,
        finish_seconds=schedule.finish,
        bound_seconds=lower_bound(gangs, cluster.slots) if bound is None else bound,
        slot_hours=sum((gang.seconds or 0.0) * gang.size / gang.share for gang in gangs) / 3600,
    )


def _first_line(error: object) -> str:
    lines = str(error or "").strip().splitlines()
    return lines[0][:160] if lines else "without a message"
