"""Batches for training, the same whatever the number of workers, loading processes and restarts."""

from __future__ import annotations

import math
import mmap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from hrnet.data.decoded import Decoded
from hrnet.data.sampler import index_at, rng_at
from hrnet.data.shards import Split
from hrnet.data.transforms import IGNORE, Augmentation, train_transform
from hrnet.errors import DataError, LoaderError, TrainingError

__all__ = ["Batch", "Loading", "collate", "train_batches"]

Image = NDArray[np.uint8]

_AHEAD = 2
"""Batches that each loading process may be ahead."""


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

    @classmethod
    def empty(cls, count: int, crop: tuple[int, int], *, shared: bool = False) -> Batch:
        """Return a batch of `count` samples whose values are undefined.

        If it is `shared`, processes that are forked later see the same memory. It is anonymous, not in /dev/shm, which
        is small in many containers.
        """

        def array(shape: tuple[int, ...], dtype: type[np.generic]) -> torch.Tensor:
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if shared:
                return torch.from_numpy(np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape))
            return torch.from_numpy(np.empty(shape, dtype))

        images, labels = array((count, *crop, 3), np.uint8), array((count, *crop), np.uint8)
        return cls(images=images, labels=labels, sizes=array((count, 2), np.int64))

    def fill(self, samples: Sequence[tuple[Image, Image]]) -> Batch:
        """Write (image, label) pairs no larger than the crop, padded at the right and bottom; returns the batch."""
        parts = zip(samples, self.images.numpy(), self.labels.numpy(), self.sizes.numpy(), strict=True)
        for sample, image, label, size in parts:
            height, width = size[:] = sample[1].shape
            if (height, width) != label.shape:
                image.fill(0)
                label.fill(IGNORE)
            image[:height, :width], label[:height, :width] = sample
        return self


def collate(samples: Sequence[tuple[Image, Image]], crop: tuple[int, int]) -> Batch:
    """Stack (image, label) pairs no larger than `crop`, padding at the right and bottom."""
    return Batch.empty(len(samples), crop).fill(samples)


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
            yield iterations.empty().fill(iterations[iteration])
        return
    yield from _load_ahead(iterations, range(start, stop), processes)


class _Iterations:
    """Samples by iteration number."""

    def __init__(self, decoded: Decoded, recipe: Loading, *, seed: int, rank: int, world: int) -> None:
        self._decoded = decoded
        self._recipe = recipe
        self._seed = seed
        self._rank = rank
        self._share = recipe.batch_size // world

    def empty(self, *, shared: bool = False) -> Batch:
        return Batch.empty(self._share, self._recipe.crop, shared=shared)

    def __getitem__(self, iteration: int) -> list[tuple[Image, Image]]:
        first = iteration * self._recipe.batch_size + self._rank * self._share
        return [self._sample(position) for position in range(first, first + self._share)]

    def _sample(self, position: int) -> tuple[Image, Image]:
        image, label = self._decoded[index_at(self._seed, position, len(self._decoded))]
        return train_transform(image, label, self._recipe, rng_at(self._seed, position))


_places: dict[int, list[list[Batch]]] = {}
"""Of each loader of this process the batches in shared memory, by loading process: they are used again and again,
because the new pages of a new one would cost a loading process a quarter of its time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a loading process has written a batch. It stays there until the second next one of the same process."""

    loader: int
    process: int
    number: int

    def _batch(self) -> Batch:
        return _places[self.loader][self.process][self.number]

    def copy(self) -> Batch:
        """Return a copy of the batch."""
        batch = self._batch()
        return Batch(images=batch.images.clone(), labels=batch.labels.clone(), sizes=batch.sizes.clone())

    def pin_memory(self) -> Batch:
        """Return a copy of the batch in page-locked memory (called by the DataLoader)."""
        batch = self._batch()
        return Batch(images=batch.images.pin_memory(), labels=batch.labels.pin_memory(), sizes=batch.sizes.clone())


class _Placed(Dataset["_Place | DataError"]):
    """Batches by iteration number, in the loading processes.

    A broken sample is returned, not raised, so that its message arrives unchanged.
    """

    def __init__(self, iterations: _Iterations, loader: int, places: list[list[Batch]]) -> None:
        self._iterations, self._loader, self._places = iterations, loader, places
        self._filled = 0

    def __getitem__(self, iteration: int) -> _Place | DataError:
        try:
            samples = self._iterations[iteration]
        except DataError as error:
            return error
        worker = get_worker_info()
        assert worker is not None
        number = self._filled % len(self._places[worker.id])
        self._places[worker.id][number].fill(samples)
        self._filled += 1
        return _Place(loader=self._loader, process=worker.id, number=number)


def _load_ahead(iterations: _Iterations, numbers: range, processes: int) -> Iterator[Batch]:
    # One more than is ahead: that which was taken last is being copied.
    places = [[iterations.empty(shared=True) for _ in range(_AHEAD + 1)] for _ in range(processes)]
    key = id(places)
    _places[key] = places
    with warnings.catch_warnings():
        # torch counts this machine's cores; how many processes are right is the caller's decision.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader(
            _Placed(iterations, key, places),
            batch_size=None,
            sampler=numbers,
            num_workers=processes,
            multiprocessing_context="fork",
            collate_fn=_as_it_is,
            worker_init_fn=_one_thread,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=_AHEAD,
        )
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, DataError):
                raise batch
            yield batch.copy() if isinstance(batch, _Place) else batch
    except (RuntimeError, EOFError, ConnectionError, FileNotFoundError) as error:
        # What a killed process leaves depends on what it was doing: torch notices, or a socket is gone.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise LoaderError(f"a loading process died, often for want of memory ({error!r})") from error
    finally:
        # Its own destructor would do this at some later time.
        batches._shutdown_workers()  # type: ignore[attr-defined]
        del _places[key]


def _as_it_is(batch: Any) -> Any:
    return batch


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
