"""What the consumer of a training wishes (a checkpoint, an end), made one decision of the whole gang."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, distributed

from hrnet.training.gang import Gang

__all__ = ["WISHES", "Wishes"]

WISHES: Final = ("", "save", "stop")
"""No wish, a checkpoint, a checkpoint and the end; of several, the last in this order counts."""

_CUDA_INTERVAL: Final = 10
"""Iterations between two rounds on GPUs."""


class Wishes:
    """Collects answers to events on any rank, and tells all ranks the same wish at the same iteration.

    A gang shares its wishes in one all-reduce of a number: on CPUs at every iteration, on GPUs at every tenth, where
    the result is read an iteration later, so that the device never runs out of work. A gang of one has nothing to
    share.
    """

    def __init__(self, gang: Gang) -> None:
        self._gang = gang
        self._own = 0
        self._under_way: tuple[Tensor, torch.cuda.Event] | None = None

    def take(self, answer: str | None) -> None:
        """Note the answer to an event; raises ValueError if it is neither None nor a wish."""
        if answer is None:
            return
        if answer not in WISHES:
            raise ValueError(f"a training can be answered with 'save' or 'stop', not with {answer!r}")
        self._own = max(self._own, WISHES.index(answer))

    def agreed(self, step: int) -> str:
        """Return what the gang wishes after iteration `step`; every rank must call this after every iteration."""
        if self._gang.world == 1:
            return self._granted(self._own)
        if self._gang.device.type == "cpu":
            return self._granted(self._gang.largest(self._own))
        wish = ""
        if self._under_way is not None:
            shared, copied = self._under_way
            copied.synchronize()
            self._under_way, wish = None, self._granted(int(shared))
        if step % _CUDA_INTERVAL == 0:
            self._under_way = self._shared_later()
        return wish

    def _granted(self, wish: int) -> str:
        # What came in while a smaller wish was under way waits for the next round.
        self._own = 0 if self._own <= wish else self._own
        return WISHES[wish]

    def _shared_later(self) -> tuple[Tensor, torch.cuda.Event]:
        """Start a round on the device; its result is in the tensor, on the host, once the event has passed."""
        sent = torch.tensor([self._own]).pin_memory().to(self._gang.device, non_blocking=True)
        distributed.all_reduce(sent, distributed.ReduceOp.MAX)
        result = torch.empty(1, dtype=torch.int64, pin_memory=True)
        result.copy_(sent, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return result, copied
