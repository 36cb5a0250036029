"""How long a trial will take: from what earlier trials of this storage have measured, and it says from which.

Most specific first: the trial itself, its cell, trials alike (the same arithmetic per sample, all facets but one
equal), its family scaled by arithmetic, a rate that the user gave. Nothing is made up: without any of these the
duration is unknown. Only what was measured on the same kind of device counts.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from orchestrator.grid import Trial
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.shape import ClusterShape
from orchestrator.workload import Cell, Estimate, Json, Spec, Workload

__all__ = ["EFFICIENCY", "Estimator", "Measurement", "Source", "Timing", "efficiency", "measurements"]

EFFICIENCY: Final = 0.9
"""What is left of a worker's speed whenever the number of workers doubles, where no measurement with that number says
better: gradients and batch norm statistics are exchanged, and every worker has fewer samples to fill its device with.
An assumption, chosen low: data-parallel training of convolutional networks keeps 0.9 to 0.97 on one node."""

_OTHERS: Final = 400
"""Trials outside the plan that are looked at; the newest of a benchmark's list come first."""

_THREADS: Final = 16

_ENOUGH: Final = 50
"""Measurements of one level that a median is taken of."""

_TABLE_GB: Final = 2**30 / 1e9
"""The gigabyte of `speed/train_mem_gb`, which is that of the published table, in units of 1e9 bytes."""

Source = Literal["trial", "cell", "alike", "scaled", "given", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What one earlier trial has measured."""

    key: str
    cell: str
    facets: Mapping[str, str]
    family: str
    sample_work: float
    """Arithmetic of one sample in 1e9 multiply-accumulates."""

    device: str
    workers: int
    share: int
    """Trials that shared a GPU with it, itself included."""

    rate: float
    """Samples per second of the whole gang."""

    beside: float | None = None
    """Seconds of a whole attempt that were not training: start-up, validations, checkpoints, evaluation."""

    memory_gb: float | None = None
    """Peak memory of one worker in units of 1e9 bytes."""

    gpu_percent: float | None = None
    """Highest utilisation of its GPUs that was sampled while it trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long what is left of a trial takes, and how that is known."""

    seconds: float | None
    source: Source
    detail: str
    """One sentence."""


_UNKNOWN: Final = Timing(seconds=None, source="unknown", detail="nothing like it has been measured on this device")
_WORDS: Final[Mapping[Source, str]] = {
    "trial": "this trial",
    "cell": "trials of this cell",
    "alike": "trials alike",
    "scaled": "trials of other sizes, by arithmetic,",
}


class Estimator:
    """Looks up measurements for the trials of one plan."""

    def __init__(self, measured: Sequence[Measurement], cluster: ClusterShape) -> None:
        self._cluster = cluster
        self._of_key: dict[str, list[Measurement]] = defaultdict(list)
        self._of_cell: dict[str, list[Measurement]] = defaultdict(list)
        self._of_family: dict[str, list[Measurement]] = defaultdict(list)
        self._found: dict[tuple[str, str, int], tuple[Source, list[Measurement]]] = {}
        for one in _same_device(measured, cluster):
            self._of_key[one.key].append(one)
            self._of_cell[one.cell].append(one)
            self._of_family[one.family].append(one)

    def timing(self, trial: Trial, workers: int, *, done: int = 0, share: int = 1) -> Timing:
        """Expected duration of a trial with `workers`, `done` of whose iterations are behind it.

        `share` trials run on its GPU. Where that was not measured they are taken to slow each other down as much as
        their utilisation adds up to more than the whole, and to win nothing if even that is unknown.
        """
        left = max(0, trial.estimate.iterations - done) * trial.estimate.batch
        source, found = self._measured(trial, share)
        slower = 1.0
        if share > 1 and not found:
            source, found = self._measured(trial, 1)
            percent = self.gpu_percent(trial)
            slower = float(share) if percent is None else max(1.0, share * percent / 100)
        work = trial.estimate.work / trial.estimate.batch
        if not found:
            if self._cluster.rate is None:
                return _UNKNOWN
            speed = self._cluster.rate * workers * efficiency(trial.estimate.workers, workers)
            detail = f"from the given {self._cluster.rate:g} GMAC/s per worker"
            return Timing(seconds=left * work / speed * slower, source="given", detail=detail)
        same = [one for one in found if one.workers == workers]
        rates = [
            one.rate / one.workers * efficiency(one.workers, workers) * one.sample_work / work for one in same or found
        ]
        beside = [one.beside for one in same or found if one.beside is not None]
        seconds = left / (median(rates) * workers) * slower + (median(beside) if beside and left else 0.0)
        detail = f"measured in {len(rates)} {_WORDS[source]} on {found[0].device}"
        if not same:
            detail += f" with {found[0].workers} workers, {EFFICIENCY:g} of the speed kept per doubling"
        return Timing(seconds=seconds, source=source, detail=detail)

    def memory_gb(self, trial: Trial, workers: int) -> tuple[float, bool]:
        """Peak memory of one worker in units of 1e9 bytes, and whether it was measured: the largest of this cell's."""
        estimate = trial.estimate
        peaks = [
            one.memory_gb * one.workers / workers
            for one in self._of_cell[trial.spec.cell.name]
            if one.memory_gb is not None and math.isclose(one.sample_work, estimate.work / estimate.batch)
        ]
        return (max(peaks), True) if peaks else (estimate.memory_gb * estimate.workers / workers, False)

    def gpu_percent(self, trial: Trial) -> float | None:
        """Highest utilisation that a trial of its family showed alone on its GPUs, or None."""
        family = self._of_family[trial.estimate.family]
        percents = [one.gpu_percent for one in family if one.gpu_percent is not None and one.share == 1]
        return max(percents, default=None)

    def _measured(self, trial: Trial, share: int) -> tuple[Source, list[Measurement]]:
        identity = (trial.key, trial.spec.cell.name, share)
        if identity not in self._found:
            self._found[identity] = self._look_up(trial, share)
        return self._found[identity]

    def _look_up(self, trial: Trial, share: int) -> tuple[Source, list[Measurement]]:
        estimate, facets = trial.estimate, trial.spec.cell.facets
        work = estimate.work / estimate.batch
        family = self._of_family[estimate.family]
        levels: list[tuple[Source, list[Measurement]]] = [
            ("trial", self._of_key[trial.key]),
            ("cell", self._of_cell[trial.spec.cell.name]),
            ("alike", [m for m in family if math.isclose(m.sample_work, work) and _near(m.facets, facets)]),
            ("scaled", family if estimate.family else []),
        ]
        for source, those in levels:
            found = [one for one in those if one.share == share]
            if found:
                return source, found[:_ENOUGH]
        return "unknown", []


def measurements(
    ledger: Ledger, trials: Sequence[Trial], records: Mapping[str, TrialRecord], workload: Workload
) -> list[Measurement]:
    """Return what the trials of a plan and other trials of the same storage have measured."""
    ours = {trial.key: trial for trial in trials}
    found = []
    for key, record in records.items():
        if key in ours:
            found.append(_measurement(ours[key].spec.cell, ours[key].estimate, key, record.progress, record.result))
    others = [entry.key for name in ledger.benchmarks() for entry in reversed(ledger.benchmark(name))]
    with ThreadPoolExecutor(_THREADS) as pool:
        strange = [key for key in dict.fromkeys(others) if key not in ours][:_OTHERS]
        found += pool.map(lambda key: _of_stranger(ledger, key, workload), strange)
    return [one for one in found if one is not None]


def _of_stranger(ledger: Ledger, key: str, workload: Workload) -> Measurement | None:
    progress = ledger.progress(key)
    if not _rate(progress):
        return None
    # A recipe of an older version may not be understood any more, and then tells nothing.
    with contextlib.suppress(KeyError, TypeError, ValueError):
        spec: Spec = ledger.spec(key)
        return _measurement(spec.cell, workload.estimate(spec), key, progress, ledger.result(key))
    return None


def _measurement(
    cell: Cell,
    estimate: Estimate,
    key: str,
    progress: Mapping[str, Json] | None,
    result: Mapping[str, Json] | None,
) -> Measurement | None:
    rate, document = _rate(progress), progress or {}
    if not rate or not document.get("workers") or not document.get("device"):
        return None
    finished = result if result is not None and result.get("state") == "finished" else None
    peak = ((finished or {}).get("metrics") or {}).get("speed/train_mem_gb")
    beside = None
    if finished is not None and document.get("resumed_from") is not None:
        trained = (estimate.iterations - int(document["resumed_from"])) * estimate.batch / rate
        beside = max(0.0, float(finished.get("seconds") or 0.0) - trained)
    return Measurement(
        key=key,
        cell=cell.name,
        facets=cell.facets,
        family=estimate.family,
        sample_work=estimate.work / estimate.batch,
        device=str(document["device"]),
        workers=int(document["workers"]),
        share=int(document.get("share") or 1),
        rate=rate,
        beside=beside,
        memory_gb=None if peak is None else peak * _TABLE_GB,
        gpu_percent=document.get("gpu_percent"),
    )


def _rate(progress: Mapping[str, Json] | None) -> float:
    return float(((progress or {}).get("metrics") or {}).get("train/images_per_s") or 0.0)


def _same_device(measured: Iterable[Measurement], cluster: ClusterShape) -> list[Measurement]:
    """Those of the cluster's device; where it has no name, those of the device of its kind that most are of."""
    gpu = cluster.kind == "GPU"
    kind = [one for one in measured if one.device.upper().startswith("CPU") != gpu]
    if cluster.device is not None:
        return [one for one in kind if cluster.device.lower() in one.device.lower()]
    most = Counter(one.device for one in kind).most_common(1)
    return [one for one in kind if most and one.device == most[0][0]]


def _near(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return sum(one.get(name) != other.get(name) for name in {*one, *other}) <= 1


def efficiency(measured: int, planned: int) -> float:
    """Return the part of a worker's speed that is left with another number of workers than it was measured with."""
    return float(EFFICIENCY ** math.log2(planned / measured))
