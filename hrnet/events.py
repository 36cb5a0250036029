"""What a training or an evaluation tells its consumer: a stream of plain events.

hrnet never calls back into a platform. Training and evaluation are generators of `Event`; whoever iterates (a `for`
loop on a laptop, a Ray worker) decides what to record, where to store and when to stop. A training takes an answer to
any of its events: `generator.send("save")` asks for a checkpoint soon, `generator.send("stop")` for one and the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["Event", "Kind"]

Kind = Literal["started", "step", "progress", "checkpoint", "validated", "finished"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened. Every rank of a gang yields the same events in the same order."""

    kind: Kind
    """started: the first event of a training that resumes nothing; step: an iteration, or an image of a validation on
    every worker, passed (a sign of life without metrics, too frequent to be recorded); progress: a logging interval
    passed; checkpoint: the state may be saved now; validated: an evaluation ended; finished: the last event of a
    generator."""

    step: int
    """Iterations (or images, in an evaluation) completed."""

    total: int
    """Iterations (or images) that there will be in all."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Metric name, such as `train/loss` or `val/mIoU`, to value."""

    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    """Relative path, such as `eval/confusion.png`, to file content. Filled on rank 0 only."""

    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """For kinds `started` and `validated`: name to PNG of what is looked at over the steps of a training. Filled on
    rank 0 only."""

    save: Callable[[Path], None] | None = None
    """For kind `checkpoint`: writes the complete state into a folder (rank 0 writes, valid until the next event)."""

    best: bool = False
    """For kind `checkpoint`: the last validation is the best so far."""

    wish: str = ""
    """For kind `checkpoint`: `save` or `stop` if it was asked for, on every rank; after `stop` the generator ends."""
