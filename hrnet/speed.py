"""Speed and memory by the protocol behind the columns of the published table, with every condition beside the figure.

The protocol is that of mmsegmentation 0.x (`tools/benchmark.py` and the "Common settings" of its model zoo;
REFERENCE.md section 6). Speed: one image at a time, 200 images of which the first 5 are not counted; copying the
network's input to the device, the network (whole or by windows, as the recipe tests), the resize to the original
image, the arg-max and copying the class map back are timed; reading, resizing and normalising the image are not.
Memory: the most that torch has allocated on one GPU over training steps at the recipe's crop and its batch per GPU.
"""

from __future__ import annotations

import itertools
import platform
import socket
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hrnet.allocator import keep_blocks
from hrnet.catalogue import Recipe
from hrnet.data.loader import Batch
from hrnet.data.shards import Split
from hrnet.evaluation.classmap import class_map
from hrnet.evaluation.inference import network_input, network_logits, scaled_size
from hrnet.evaluation.run import val_images
from hrnet.model.backbone import resize
from hrnet.model.segmentor import HRNetSegmentor, build_model
from hrnet.published import published
from hrnet.training.loop import train_step
from hrnet.training.optim import build_optimizer

__all__ = ["BYTES_PER_GB", "IMAGES", "Memory", "Speed", "conditions", "cpu_name", "figures", "images_of",
           "measure_memory", "measure_speed", "per_gpu", "random_images", "ready_to_train",
           "typical_size"]  # fmt: skip

IMAGES = 200
"""Images of one measurement, those of the warm-up included."""

WARM_UP = 5
"""Images at the start that are not counted."""

MEMORY_STEPS = 5
"""Training steps whose memory is measured; the momentum is there from the second on, and nothing is added later."""

BYTES_PER_GB = 1 << 30
"""The reference logs bytes // 2^20, and the scripts of its project that fill model zoos divide that by 1024."""

PUBLISHED_DEVICE = "NVIDIA V100, PyTorch 1.5, CUDA 10.1, cuDNN 7.6.03"
"""What the published speed was measured with; the published memory is of four such GPUs."""

_TYPICAL: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "cityscapes": (1024, 2048),
        "ade20k": (512, 683),
        "voc12aug": (375, 500),
        "pascal-context": (375, 500),
        "pascal-context-59": (375, 500),
        "loveda": (1024, 1024),
        "potsdam": (512, 512),
        "vaihingen": (512, 512),
        "isaid": (896, 896),
    }
)
"""Height and width of a validation image: the only size of the data set, or its most frequent."""

Image = NDArray[np.uint8]
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How fast one image after the other was segmented."""

    timed: int
    """Images that were timed."""
    warm_up: int
    """Images before them that were not counted."""
    wanted: int
    """Images that were asked for, those of the warm-up included; fewer were timed where the budget ended first."""
    budget: float | None
    """Seconds after which no further image was begun; None had no end."""
    seconds: float
    """Sum of the timed parts."""
    original_sizes: tuple[Size, ...]
    """Heights and widths of the images that were timed, each once."""
    network_sizes: tuple[Size, ...]
    """Heights and widths of what the network saw of them, each once; windows are cut from these."""

    @property
    def fps(self) -> float:
        """Images per second."""
        return self.timed / self.seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """What training takes on one GPU."""

    bytes: int
    """Most bytes that torch had allocated; its cache and the CUDA context come on top."""
    batch: int
    """Images per step on this GPU."""
    crop: Size
    """Height and width of them."""
    steps: int
    """Steps that were taken."""

    @property
    def gb(self) -> float:
        """The same in the table's unit."""
        return self.bytes / BYTES_PER_GB


def typical_size(recipe: Recipe) -> Size:
    """Return (height, width) of a typical validation image; for a custom data set that of a crop."""
    return _TYPICAL.get(recipe.dataset, recipe.crop)


def random_images(size: Size) -> Iterator[Image]:
    """Yield one image of random pixels without end; what is seen makes no difference to the time it takes."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return itertools.repeat(pixels)


def images_of(split: Split, recipe: Recipe) -> Iterator[Image]:
    """Yield the validation images of a split, over and over."""
    return (split[index].image for index in itertools.cycle(range(val_images(split, recipe))))


def measure_speed(
    model: nn.Module,
    images: Iterator[Image],
    recipe: Recipe,
    device: torch.device,
    *,
    wanted: int = IMAGES,
    budget: float | None = None,
) -> Generator[int, None, Speed]:
    """Time a model that is on `device`; yields the number of images done and returns the result.

    Args:
        model: a segmentor; it works in evaluation mode and is left in the mode it was in.
        images: (H,W,3) uint8, blue first; at least `wanted`.
        recipe: says at what size and how the network sees an image, and in what precision.
        device: where to compute.
        wanted: images in all. Of fewer than ten, half are the warm-up.
        budget: seconds after which no further image is begun; at least one is timed, and of the budget at most a
            quarter goes into the warm-up (at least one image where two are wanted).
    """
    warm_up, done, seconds = min(WARM_UP, wanted // 2), 0, 0.0
    originals: dict[Size, None] = {}
    seen: dict[Size, None] = {}
    training, began = model.training, time.perf_counter()
    model.eval()
    for image in itertools.islice(images, wanted):
        height, width = image.shape[:2]
        size = scaled_size(height, width, recipe.test_scale)
        with torch.inference_mode(), _protocol():
            x = network_input(image, size, torch.device("cpu"))
            elapsed = _timed(model, x, (height, width), recipe, device)
        done += 1
        if done > warm_up:
            seconds += elapsed
            originals[height, width], seen[size] = None, None
        yield done
        spent = time.perf_counter() - began
        if budget is not None and done < warm_up and spent > budget / 4:
            warm_up = done
        if budget is not None and done > warm_up and spent > budget:
            break
    model.train(training)
    return Speed(
        timed=done - warm_up, warm_up=warm_up, wanted=wanted, budget=budget, seconds=seconds,
        original_sizes=tuple(originals), network_sizes=tuple(seen),
    )  # fmt: skip


def _timed(model: nn.Module, x: Tensor, size: Size, recipe: Recipe, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    class_map(resize(network_logits(model, x.to(device), recipe), size))
    _wait(device)
    return time.perf_counter() - began


def measure_memory(recipe: Recipe, device: torch.device, *, steps: int = MEMORY_STEPS) -> Generator[int, None, Memory]:
    """Train on random pixels on a GPU; yields the number of steps done and returns the memory that they took.

    It is one process: buckets of a gang, in which gradients are collected, come on top (as large as the weights).
    Raises ValueError if the device is no GPU, and torch.OutOfMemoryError if the training does not fit on it.
    """
    if device.type != "cuda":
        raise ValueError(f"training memory is measured on a GPU, not on {device.type}")
    batch = _random_batch(recipe, per_gpu(recipe))
    model, optimizer = ready_to_train(recipe, device)
    torch.cuda.reset_peak_memory_stats(device)
    with _protocol():
        for step in range(steps):
            train_step(model, optimizer, batch, recipe, device)
            yield step + 1
    _wait(device)
    peak = torch.cuda.max_memory_allocated(device)
    return Memory(bytes=peak, batch=len(batch.images), crop=recipe.crop, steps=steps)


def ready_to_train(recipe: Recipe, device: torch.device) -> tuple[HRNetSegmentor, torch.optim.SGD]:
    """Return a network with random weights and its optimizer on a device, as a training has them."""
    if device.type == "cpu":
        keep_blocks()
    model = build_model(recipe.width, recipe.num_classes, seed=0).to(device).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this form
    return model, build_optimizer(model, recipe)


def per_gpu(recipe: Recipe) -> int:
    """Images per step on the fullest of the published number of GPUs."""
    return -(-recipe.batch_size // recipe.workers)


def _random_batch(recipe: Recipe, images: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    height, width = recipe.crop
    return Batch(
        images=torch.randint(0, 256, (images, height, width, 3), generator=generator, dtype=torch.uint8),
        labels=torch.randint(0, recipe.num_classes, (images, height, width), generator=generator, dtype=torch.uint8),
        sizes=torch.tensor([[height, width]] * images),
    )


def conditions(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Everything about the machine and the settings that a figure depends on, as JSON values."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        "device_type": device.type,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,  # type: ignore[no-untyped-call]
        "threads": torch.get_num_threads(),
        "precision": recipe.precision,
    }


def figures(
    recipe: Recipe,
    machine: Mapping[str, Any],
    speed: Speed | None,
    train_mem_gb: float | None,
    *,
    images: str = "",
    weights: str = "",
    memory: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the figures of a recipe with their conditions and the published ones beside them, as JSON values.

    Args:
        recipe: what was measured.
        machine: what `conditions` returned.
        speed: None if it was not measured.
        train_mem_gb: None where there is no GPU or it was not measured.
        images: where the images of `speed` came from.
        weights: what the network's weights were.
        memory: how `train_mem_gb` was measured.
    """
    row = published(recipe.name)
    return {
        "recipe": recipe.name,
        "fps": None if speed is None else speed.fps,
        "train_mem_gb": train_mem_gb,
        "published": {
            "fps": None if row is None else row.fps,
            "train_mem_gb": None if row is None else row.mem_gb,
            "device": PUBLISHED_DEVICE,
            "comparable": False,
        },
        "conditions": dict(machine),
        "fps_conditions": None if speed is None else _speed_conditions(recipe, speed, images, weights),
        "train_mem_conditions": None if train_mem_gb is None else {"unit": "GB of 2^30 bytes", **(memory or {})},
    }


def _speed_conditions(recipe: Recipe, speed: Speed, images: str, weights: str) -> dict[str, Any]:
    slide = {"windows": list(recipe.slide_crop or ()), "stride": list(recipe.slide_stride or ())}
    return {
        "images": images,
        "weights": weights,
        "batch": 1,
        "timed_images": speed.timed,
        "warm_up_images": speed.warm_up,
        "wanted_images": speed.wanted,
        "budget_seconds": speed.budget,
        "seconds": speed.seconds,
        "original_sizes": [f"{height}x{width}" for height, width in speed.original_sizes],
        "network_sizes": [f"{height}x{width}" for height, width in speed.network_sizes],
        "test_scale": list(recipe.test_scale),
        "mode": recipe.test_mode,
        **(slide if recipe.test_mode == "slide" else {}),
        "multi_scale_flip": False,
        "batch_norm_folded": False,
        "tf32": False,
        "cudnn_benchmark": False,
        "timed_part": "copy to the device, network, resize to the original, arg-max, copy back; synchronised",
        "not_timed": "reading, resizing and normalising the image",
    }


def _protocol() -> AbstractContextManager[None]:
    """No choice of algorithms by trial, and float32 that is float32."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=False, allow_tf32=False
    )
    return flags


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cpu_name() -> str:
    """Return what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
