"""Batches for training, the same whatever the number of workers, loading processes and restarts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from hrnet.data.decoded import Decoded
from hrnet.data.sampler import index_at, rng_at
from hrnet.data.shards import Split
from hrnet.data.transforms import IGNORE, Augmentation, train_transform
from hrnet.errors import DataError, LoaderError, TrainingError

__all__ = ["Batch", "Loading", "collate", "train_batches"]


class Loading(Augmentation, Protocol):
    """The fields of a recipe that loading reads."""

    @property
    def batch_size(self) -> int:
        """Samples per iteration over the whole gang."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One worker's part of an iteration, not normalised yet: a quarter of the bytes to move to a device."""

    images: torch.Tensor
    """(n, H, W, 3) uint8, BGR, 0 outside the valid part; H x W is the recipe's crop."""

    labels: torch.Tensor
    """(n, H, W) uint8 training ids, 255 where ignored and outside the valid part."""

    sizes: torch.Tensor
    """(n, 2) int64, height and width of the valid part, from the top left corner."""

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (called by the DataLoader)."""
        return Batch(images=self.images.pin_memory(), labels=self.labels.pin_memory(), sizes=self.sizes)


def collate(samples: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], crop: tuple[int, int]) -> Batch:
    """Stack (image, label) pairs no larger than `crop`, padding at the right and bottom."""
    images = torch.empty((len(samples), *crop, 3), dtype=torch.uint8)
    labels = torch.empty((len(samples), *crop), dtype=torch.uint8)
    sizes = torch.tensor([label.shape for _, label in samples], dtype=torch.int64)
    for sample, image, label in zip(samples, images.numpy(), labels.numpy(), strict=True):
        height, width = sample[1].shape
        if (height, width) != crop:
            image.fill(0)
            label.fill(IGNORE)
        image[:height, :width], label[:height, :width] = sample
    return Batch(images=images, labels=labels, sizes=sizes)


def train_batches(
    split: Split, recipe: Loading, *, seed: int, start: int, stop: int, rank: int, world: int, processes: int
) -> Iterator[Batch]:
    """Yield this worker's batches of the iterations `start` .. `stop` - 1.

    Iteration k of the gang takes the positions k*B .. k*B+B-1 of the sample stream (B = recipe.batch_size); rank r of
    `world` takes the r-th of `world` equal parts. `processes` processes load ahead; 0 loads in this one. Closing the
    generator ends them.

    Raises TrainingError if the workers do not divide the batch, LoaderError if a loading process dies, and DataError,
    naming file and sample, if a sample is broken.
    """
    if recipe.batch_size % world:
        raise TrainingError(f"{world} workers do not divide the batch of {recipe.batch_size} images")
    # Several remote shards at a time, and before the fork, which clients of remote storage do not survive.
    split.fetch()
    iterations = _Iterations(Decoded(split), recipe, seed=seed, rank=rank, world=world)
    if processes == 0:
        for iteration in range(start, stop):
            yield _checked(iterations[iteration])
        return
    yield from _load_ahead(iterations, range(start, stop), processes)


class _Iterations(Dataset["Batch | DataError"]):
    """Batch by iteration number. A broken sample is returned, not raised, so that its message arrives unchanged."""

    def __init__(self, decoded: Decoded, recipe: Loading, *, seed: int, rank: int, world: int) -> None:
        self._decoded = decoded
        self._recipe = recipe
        self._seed = seed
        self._rank = rank
        self._share = recipe.batch_size // world

    def __getitem__(self, iteration: int) -> Batch | DataError:
        first = iteration * self._recipe.batch_size + self._rank * self._share
        try:
            samples = [self._sample(position) for position in range(first, first + self._share)]
        except DataError as error:
            return error
        return collate(samples, self._recipe.crop)

    def _sample(self, position: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, label = self._decoded[index_at(self._seed, position, len(self._decoded))]
        return train_transform(image, label, self._recipe, rng_at(self._seed, position))


def _load_ahead(iterations: _Iterations, numbers: range, processes: int) -> Iterator[Batch]:
    with warnings.catch_warnings():
        # torch counts this machine's cores; how many processes are right is the caller's decision.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader(
            iterations,
            batch_size=None,
            sampler=numbers,
            num_workers=processes,
            collate_fn=_as_it_is,
            worker_init_fn=_one_thread,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=2,
        )
        batches = iter(loader)
    try:
        for batch in batches:
            yield _checked(batch)
    except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
        # What a killed process leaves depends on what it was doing: torch notices, or a socket is gone.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise LoaderError(f"a loading process died, often for want of memory ({error!r})") from error
    finally:
        # Its own destructor would do this at some later time.
        batches._shutdown_workers()  # type: ignore[attr-defined]


def _checked(batch: Batch | DataError) -> Batch:
    if isinstance(batch, DataError):
        raise batch
    return batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
