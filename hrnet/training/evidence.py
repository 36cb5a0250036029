"""What is known of the iterations since the last logging, for the case that the loss is not finite any more."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from hrnet.catalogue import Recipe
from hrnet.data.sampler import index_at
from hrnet.data.shards import Split
from hrnet.errors import DivergedError
from hrnet.training.gang import Gang

__all__ = ["Interval"]

_KEPT: Final = 1000
"""Iterations that are kept where a logging interval has more."""


@dataclass(frozen=True, slots=True)
class _Iteration:
    number: int
    lr: float
    loss: Tensor
    """Of this worker's share, on its device: to look at it here would make the host wait for the device."""


class Interval:
    """Keeps the loss of every iteration on the device until the next logging finds that all is well."""

    def __init__(self, recipe: Recipe, split: Split, seed: int, gang: Gang) -> None:
        self._recipe, self._split, self._seed, self._gang = recipe, split, seed, gang
        self._iterations: deque[_Iteration] = deque(maxlen=_KEPT)

    def note(self, number: int, lr: float, loss: Tensor) -> None:
        """Keep the loss of the iteration `number` (from 1)."""
        self._iterations.append(_Iteration(number, lr, loss.detach()))

    def clear(self) -> None:
        """Forget the iterations: their losses were finite."""
        self._iterations.clear()

    def diverged(self, step: int) -> DivergedError:
        """Return the error that names the first iteration without a finite loss; every worker must call this.

        `step` is named if that iteration is not among those kept. The evidence has `iteration`, `recipe`, `seed`,
        `workers` and `iterations`, a list with `iteration`, `loss` (the mean), `losses` (by worker), `lr`, `positions`
        (first and last in the sample stream) and `samples` (names, in the order of the workers' shares). Numbers that
        are not finite are strings, which JSON can hold.
        """
        kept = list(self._iterations)
        own = torch.stack([each.loss for each in kept]).double() if kept else torch.zeros(0, dtype=torch.float64)
        losses = self._gang.gathered(own.to(self._gang.device)).T.tolist()
        rows = [self._row(each, by_worker) for each, by_worker in zip(kept, losses, strict=True)]
        first = next((row for row in rows if isinstance(row["loss"], str)), None)
        found = {"iteration": step, "loss": "not finite"} if first is None else first
        recipe = self._recipe
        return DivergedError(
            f"{recipe.name}: the loss is {found['loss']} at iteration {found['iteration']}: lower lr (now "
            f"{recipe.lr}), or look at the data with `hrgrid data check`",
            {"iteration": found["iteration"], "recipe": recipe.name, "seed": self._seed, "workers": self._gang.world,
             "iterations": rows},
        )  # fmt: skip

    def _row(self, iteration: _Iteration, losses: list[float]) -> dict[str, Any]:
        first = (iteration.number - 1) * self._recipe.batch_size
        positions = range(first, first + self._recipe.batch_size)
        indices = [index_at(self._seed, position, len(self._split)) for position in positions]
        return {
            "iteration": iteration.number,
            "loss": _jsonable(sum(losses) / len(losses)),
            "losses": [_jsonable(loss) for loss in losses],
            "lr": iteration.lr,
            "positions": [positions[0], positions[-1]],
            "samples": [self._split.names[index] for index in indices],
        }


def _jsonable(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
