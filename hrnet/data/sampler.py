"""Which sample comes when, and with which random draws: pure functions of a seed and a position.

The sample stream is endless: one permutation of the data set after another, nothing dropped. Nothing here depends on
rank, world size, loading process or restart, so a training that goes on from position p sees what it would have seen.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

__all__ = ["GeneratorDraws", "index_at", "rng_at"]

# Second word of the generator's key: streams of different purpose never overlap.
_ORDER, _AUGMENTATION = 1, 2


class GeneratorDraws:
    """A numpy Generator behind the three functions that the transforms draw from."""

    __slots__ = ("_generator",)

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def random(self) -> float:
        """Return a float in [0, 1)."""
        return float(self._generator.random())

    def integers(self, low: int, high: int) -> int:
        """Return an integer in [low, high)."""
        return int(self._generator.integers(low, high))

    def uniform(self, low: float, high: float) -> float:
        """Return a float in [low, high)."""
        return float(self._generator.uniform(low, high))


def index_at(seed: int, position: int, length: int) -> int:
    """Return the index of the sample at `position` (from 0) of the endless stream over `length` samples."""
    cycle, offset = divmod(position, length)
    return int(_permutation(seed, cycle, length)[offset])


def rng_at(seed: int, position: int) -> GeneratorDraws:
    """Return the draws for the sample at `position` of the stream."""
    return GeneratorDraws(_generator(seed, _AUGMENTATION, position))


def _generator(seed: int, purpose: int, position: int) -> np.random.Generator:
    # The counter's highest word is the position; 2**192 numbers lie between two positions.
    key = np.array([seed % 2**64, purpose], dtype=np.uint64)
    counter = np.array([0, 0, 0, position], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, cycle: int, length: int) -> NDArray[np.int64]:
    return _generator(seed, _ORDER, cycle).permutation(length)
