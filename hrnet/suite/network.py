"""The parts that are the network: training step and inference, every width and precision."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hrnet.catalogue import PREFIXES, Recipe, Width, recipe
from hrnet.data.loader import Batch, train_batches
from hrnet.data.shards import PreparedDataset
from hrnet.data.transforms import resize_image
from hrnet.evaluation.inference import network_input, segment
from hrnet.model.fused import fused
from hrnet.model.segmentor import build_model
from hrnet.speed import per_gpu, ready_to_train
from hrnet.suite.bench import Bench
from hrnet.suite.contest import Contest, Contestant, Entry, Goal, Repeating
from hrnet.suite.machine import tf32, wait_for
from hrnet.training.loop import train_step
from hrnet.weights import load_weights, save_weights
from hrnet.workload import BACKWARD, forward_gigamacs

__all__ = ["inference", "train"]

Image = NDArray[np.uint8]

_GOALS = {
    ("train", "cpu", "fp32"): Goal(ratio=1.7),
    ("train", "cpu", "bf16"): Goal(ratio=2.5),
    ("inference", "cpu", "fp32"): Goal(ratio=2.5),
    ("inference", "cpu", "bf16"): Goal(ratio=4.0, equal=99.5),
    ("train", "cuda", "bf16"): Goal(ratio=3.0, memory=0.6),
    ("inference", "cuda", "bf16"): Goal(ratio=5.0, equal=99.5),
}
"""Part, type of device and precision to the goal."""

_FIT_CROP = "128x128"
_FIT_STEPS = 40
"""Training steps on drawn scenes that the weights come from: class maps of random weights are no picture, and their
nearly equal scores would make every rounding another class."""


def train(bench: Bench) -> Iterator[Contest]:
    """One training step: 256x256 batch 2 on a CPU, the published crop and batch per GPU of Cityscapes on a GPU."""
    for width in bench.widths:
        own = _recipe(width)
        size, images = ((256, 256), 2) if bench.device.type == "cpu" else (own.crop, per_gpu(own))
        if bench.quick:
            size = (64, 64)
        batch, arrays = _batch(bench, width, size, images)
        weights = _fitted(bench, width)
        macs = forward_gigamacs(width, size) * images * BACKWARD
        entries = {
            precision: Entry(
                open=functools.partial(_open_train, bench, width, precision, batch, weights),
                goal=_GOALS.get(("train", bench.device.type, precision), Goal()),
                floor=bench.floor(macs, precision),
            )
            for precision in bench.precisions
        }
        yield Contest(
            part="train", case=f"{width} {size[0]}x{size[1]} batch {images}", unit="ms", entries=entries,
            peer={"op": "train", "recipe": own.name, "weights": str(weights), "size": size, "arrays": str(arrays),
                  "threads": bench.threads},
        )  # fmt: skip


def inference(bench: Bench) -> Iterator[Contest]:
    """From an image to its class map: 512x512 on a CPU, the whole image of Cityscapes on a GPU."""
    size = (512, 512) if bench.device.type == "cpu" else (1024, 2048)
    if bench.quick:
        size = (64, 64)
    for width in bench.widths:
        own = _recipe(width)
        image = _image(bench, size)
        arrays = bench.folder / f"image-{size[0]}x{size[1]}.npz"
        np.savez(arrays, x=network_input(image, size, torch.device("cpu")).contiguous().numpy())
        weights = _fitted(bench, width)
        entries = {
            precision: Entry(
                open=functools.partial(_open_inference, bench, width, precision, image, weights),
                goal=_GOALS.get(("inference", bench.device.type, precision), Goal()),
                floor=bench.floor(forward_gigamacs(width, size), precision),
            )
            for precision in bench.precisions
        }
        yield Contest(
            part="inference", case=f"{width} {size[0]}x{size[1]} batch 1", unit="ms", entries=entries,
            peer={"op": "inference", "recipe": own.name, "weights": str(weights), "arrays": str(arrays),
                  "threads": bench.threads},
        )  # fmt: skip


def _recipe(width: Width, **changes: str) -> Recipe:
    return recipe(f"fcn_{PREFIXES[width]}_4xb2-40k_cityscapes-512x1024").with_overrides(changes)


def _named(precision: str) -> str:
    """The recipe's word for a precision: TF32 is a setting of torch for float32."""
    return "bf16" if precision == "bf16" else "fp32"


@contextmanager
def _open_train(bench: Bench, width: Width, precision: str, batch: Batch, weights: Path) -> Iterator[Contestant]:
    own = _recipe(width, precision=_named(precision))
    peak = bench.memory()
    model, optimizer = ready_to_train(own, bench.device)
    load_weights(model, weights)

    def step() -> int:
        with tf32(precision == "tf32"):
            train_step(model, optimizer, batch, own, bench.device)
        return 1

    yield Repeating(step, wait=wait_for(bench.device), memory=peak(step))


@contextmanager
def _open_inference(bench: Bench, width: Width, precision: str, image: Image, weights: Path) -> Iterator[Contestant]:
    # The image is its own test scale, so that the network sees it as it is.
    own = _recipe(width, precision=_named(precision), test_scale=f"{image.shape[1]}x{image.shape[0]}")
    peak = bench.memory()
    trained = build_model(width, own.num_classes)
    load_weights(trained, weights)
    model = fused(trained.to(bench.device).eval())
    del trained

    def classes() -> Image:
        with tf32(precision == "tf32"):
            return segment(model, image, own)

    def step() -> int:
        classes()
        return 1

    yield Repeating(step, wait=wait_for(bench.device), output=classes, memory=peak(step))


def _scenes(bench: Bench) -> PreparedDataset:
    size = (128, 128) if bench.quick else (512, 512)
    return bench.scenes("scenes", "cityscapes", images=8, size=size).prepared


def _image(bench: Bench, size: tuple[int, int]) -> Image:
    return resize_image(_scenes(bench).split("val")[0].image, size)


def _batch(bench: Bench, width: Width, size: tuple[int, int], images: int) -> tuple[Batch, Path]:
    """A batch of full crops, and a file of it for the peer."""
    own = _recipe(
        width, crop=f"{size[0]}x{size[1]}", train_scale="1024x1024", ratio_range="1,1", batch_size=str(images)
    )
    (batch,) = train_batches(_scenes(bench).split("train"), own, seed=0, start=0, stop=1, rank=0, world=1, processes=0)
    path = bench.folder / f"batch-{width}.npz"
    np.savez(path, images=batch.images.numpy(), labels=batch.labels.numpy())
    return batch, path


def _fitted(bench: Bench, width: Width) -> Path:
    """A file of weights that were trained a little."""
    path = bench.folder / f"{width}.pth"
    if path.exists():
        return path
    own = _recipe(width, crop=_FIT_CROP, train_scale="512x512", batch_size="2")
    model, optimizer = ready_to_train(own, bench.device)
    split, steps = _scenes(bench).split("train"), 2 if bench.quick else _FIT_STEPS
    for batch in train_batches(split, own, seed=0, start=0, stop=steps, rank=0, world=1, processes=0):
        train_step(model, optimizer, batch, own, bench.device)
    save_weights(model.cpu(), path)
    return path
