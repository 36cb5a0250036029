"""The parts around the network: training samples, loading processes, the confusion matrix, checkpoints."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrnet.catalogue import PREFIXES, Recipe, recipe
from hrnet.data.decoded import LIMIT
from hrnet.data.loader import Batch, train_batches
from hrnet.data.shards import Split
from hrnet.data.transforms import IGNORE, resize_label
from hrnet.evaluation.confusion import ConfusionMatrix
from hrnet.speed import ready_to_train
from hrnet.suite.bench import Bench
from hrnet.suite.contest import Contest, Contestant, Entry, Goal, Repeating
from hrnet.suite.machine import one_thread
from hrnet.training.state import Progress, save_state

__all__ = ["checkpoint", "data", "metric"]

Image = NDArray[np.uint8]

_SOURCES = {
    "cityscapes": ("fcn_hr18s_4xb2-40k_cityscapes-512x1024", (1024, 2048), "PNG", Goal(ratio=5.0)),
    "ade20k": ("fcn_hr18s_4xb4-80k_ade20k-512x512", (512, 683), "JPEG", Goal(ratio=2.0)),
}
"""Data set to the recipe whose pipeline is measured, its usual image, what that is stored as, and the goal."""

_IMAGES = 8
_PROCESSES = (1, 2)
_CLASSES = 150


def data(bench: Bench) -> Iterator[Contest]:
    """Make training samples with one thread in this process, then through loading processes.

    Our loader decodes an image once per machine, so from the second epoch on; the peer decodes it every time.
    """
    for dataset, (name, size, stored, goal) in _SOURCES.items():
        own = recipe(name)
        if bench.quick:
            size = (size[0] // 8, size[1] // 8)
        scenes = bench.scenes(dataset, dataset, images=2 if bench.quick else _IMAGES, size=size)
        split, case = scenes.prepared.split("train"), f"{dataset} {size[0]}x{size[1]} {stored}"
        task = {"op": "data", "recipe": name, "files": scenes.files, "items": own.batch_size, "threads": 1}
        yield Contest(
            part="data", case=f"{case}, 1 thread", unit="per s", peer=task,
            entries={
                "decoded once": Entry(open=functools.partial(_open_data, own, split), goal=goal),
                "decoded anew": Entry(open=functools.partial(_open_data, own, split, keep=False)),
            },
        )  # fmt: skip
        yield Contest(
            part="data", case=f"{case}, loading", unit="per s",
            entries={
                f"{count} processes": Entry(open=functools.partial(_open_loading, own, split, count))
                for count in _PROCESSES
            },
        )  # fmt: skip


def _batches(own: Recipe, split: Split, processes: int) -> Generator[Batch, None, None]:
    return cast(
        Generator[Batch, None, None],
        train_batches(split, own, seed=0, start=0, stop=own.max_iters, rank=0, world=1, processes=processes),
    )


@contextmanager
def _open_data(own: Recipe, split: Split, *, keep: bool = True) -> Iterator[Contestant]:
    batches = _batches(own, split, 0)

    def step() -> int:
        return len(next(batches).images)

    with one_thread():
        with _limited(None if keep else "0"):
            step()
        for _ in range(len(split) // own.batch_size if keep else 0):
            step()
        yield Repeating(step)


@contextmanager
def _limited(gigabytes: str | None) -> Iterator[None]:
    """Set what a loader that starts now may keep of what it decodes."""
    before = os.environ.pop(LIMIT, None)
    if gigabytes is not None:
        os.environ[LIMIT] = gigabytes
    try:
        yield
    finally:
        os.environ.pop(LIMIT, None)
        if before is not None:
            os.environ[LIMIT] = before


class _Loading:
    """Loading processes. They are started anew for each turn: they would work ahead in the turns of others."""

    memory = None

    def __init__(self, own: Recipe, split: Split, processes: int) -> None:
        self._own = own
        self._split = split
        self._processes = processes

    def turn(self, seconds: float) -> list[float]:
        """Seconds per sample over all batches after those that the start covers; they arrive in bursts."""
        batches = _batches(self._own, self._split, self._processes)
        try:
            for _ in range(2 * self._processes):
                next(batches)
            count, began = 0, time.perf_counter()
            while not count or time.perf_counter() < began + seconds:
                count += sum(len(next(batches).images) for _ in range(2 * self._processes))
            return [(time.perf_counter() - began) / count]
        finally:
            batches.close()

    def output(self) -> None:
        """There is nothing to compare."""


@contextmanager
def _open_loading(own: Recipe, split: Split, processes: int) -> Iterator[Contestant]:
    yield _Loading(own, split, processes)


def metric(bench: Bench) -> Iterator[Contest]:
    """Count one validation image of 2048x1024 and 150 classes."""
    pred, label = _maps(bench, _CLASSES)
    path = bench.folder / "maps.npz"
    np.savez(path, pred=pred, label=label)
    yield Contest(
        part="metric", case=f"{label.shape[1]}x{label.shape[0]}, {_CLASSES} classes", unit="ms",
        entries={"matrix": Entry(open=functools.partial(_open_metric, pred, label), goal=Goal(most=8, equal=100))},
        peer={"op": "metric", "arrays": str(path), "classes": _CLASSES, "threads": bench.threads},
    )  # fmt: skip


@contextmanager
def _open_metric(pred: Image, label: Image) -> Iterator[Contestant]:
    matrix = ConfusionMatrix(_CLASSES)

    def step() -> int:
        matrix.update(pred, label)
        return 1

    def areas() -> NDArray[np.int64]:
        once = ConfusionMatrix(_CLASSES)
        once.update(pred, label)
        both, predicted, labelled = once.areas()
        return np.stack([both, predicted + labelled - both, predicted, labelled])

    yield Repeating(step, output=areas)


def _maps(bench: Bench, classes: int) -> tuple[Image, Image]:
    """A prediction that is right in most places, and a label map of regions with some ignored pixels."""
    height, width = (128, 256) if bench.quick else (1024, 2048)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, classes, (2, height // 32, width // 32), dtype=np.uint8)
    label, other = (resize_label(each, (height, width)) for each in coarse)
    right = cv2.resize(rng.random((height // 16, width // 16)), (width, height)) < 0.7
    pred = np.where(right, label, other)
    label[: height // 16] = IGNORE
    return pred, label


def checkpoint(bench: Bench) -> Iterator[Contest]:
    """Save the whole state of a training; ours is on the disk when it is done (fsync)."""
    for width in bench.widths:
        own = recipe(f"fcn_{PREFIXES[width]}_4xb2-40k_cityscapes-512x1024")
        yield Contest(
            part="checkpoint", case=f"{width}, model and optimizer", unit="ms",
            entries={"fsync": Entry(open=functools.partial(_open_checkpoint, bench, own))},
            peer={"op": "checkpoint", "recipe": own.name, "path": str(bench.folder / "peer.pth"),
                  "threads": bench.threads},
        )  # fmt: skip


@contextmanager
def _open_checkpoint(bench: Bench, own: Recipe) -> Iterator[Contestant]:
    model, optimizer = ready_to_train(own, bench.device)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def step() -> int:
        save_state(bench.folder / "checkpoint", model, optimizer, Progress(step=1), own, seed=0)
        return 1

    yield Repeating(step)
