"""Which trials may share a GPU with others, and why the rest may not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orchestrator.estimates import Estimator
from orchestrator.grid import Trial
from orchestrator.shape import ClusterShape

__all__ = ["Sharing", "refusal"]

RESERVE: Final = 0.1
"""Part of a GPU's memory that sharers leave free: each has its own CUDA context and allocator, of which neither an
estimate nor a measured peak of tensors knows."""

BUSY_PERCENT: Final = 60.0
"""Utilisation above which a trial is taken to fill its GPU: beyond it two sharers mostly wait for each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """That trials may share GPUs."""

    number: int = 2
    """Trials per GPU."""

    measured: bool = True
    """Only trials of which a measurement says that their GPU has room; False: the user says so with the number."""


def refusal(trial: Trial, workers: int, cluster: ClusterShape, sharing: Sharing, estimator: Estimator) -> str:
    """Return why a trial must have its GPUs alone, in a few words; empty if it may share."""
    if cluster.kind != "GPU":
        return "the workers compute on CPUs"
    if workers > 1:
        # NCCL refuses two ranks of one gang on one GPU, and a gang whose ranks wait for different sharers is slow.
        return f"a gang of {workers} workers; only single workers share"
    if cluster.gpu_memory_gb is None:
        return "the memory of the GPUs is not known"
    need, was_measured = estimator.memory_gb(trial, workers)
    room = cluster.gpu_memory_gb * (1 - RESERVE) / sharing.number
    if need > room:
        how = "used" if was_measured else "needs about"
        return f"it {how} {need:.1f} GB, and {sharing.number} on a GPU have {room:.1f} GB each"
    if not sharing.measured:
        return ""
    percent = estimator.gpu_percent(trial)
    if percent is None:
        return "nothing of its kind was measured; give the number of trials per GPU to share all the same"
    if percent > BUSY_PERCENT:
        return f"trials of its kind used {percent:.0f} % of a GPU (limit {BUSY_PERCENT:.0f} %)"
    return ""
