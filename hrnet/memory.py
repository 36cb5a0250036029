"""A lack of memory in one sentence: what was being done, how much there is, how much it took, what to change."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from hrnet.catalogue import Recipe
from hrnet.errors import MemoryShortage

__all__ = ["evaluation_remedies", "memory_explained", "training_remedies"]

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "_ALLOC_FAILED")
"""What CUDA, torch's CPU allocator (two wordings) and cuBLAS say in a plain RuntimeError."""


@contextmanager
def memory_explained(device: torch.device, doing: str | Callable[[], str], remedies: Sequence[str]) -> Iterator[None]:
    """Turn a lack of memory within the block into a `MemoryShortage`.

    Args:
        device: where the block computes.
        doing: what it does, a noun phrase that starts with the recipe's name; called when it has failed.
        remedies: what would make it take less, in the words of a command line; may be empty.

    Raises:
        MemoryShortage: in place of torch.OutOfMemoryError, MemoryError or a RuntimeError that says the same.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        what = doing if isinstance(doing, str) else doing()
        hint = " or ".join(remedies) or "a device with more memory"
        raise MemoryShortage(f"{what} ran out of memory: {_measured(device)}; take {hint}") from error


def training_remedies(recipe: Recipe, world: int) -> list[str]:
    """What makes one of `world` workers take less memory in training."""
    more = [str(n) for n in range(world + 1, recipe.batch_size + 1) if recipe.batch_size % n == 0]
    workers = [f"more workers (--workers {', '.join(more)})"] if more else []
    precision = [f"{each} (another experiment, which starts anew)" for each in _precision(recipe)]
    return [*workers, *precision, "a device with more memory"]


def evaluation_remedies(recipe: Recipe, *, ms_flip: bool = False) -> list[str]:
    """What makes the evaluation of one image take less memory; a smaller test scale gives other scores."""
    height, width = recipe.test_scale[1], recipe.test_scale[0]
    fewer = ["--set ms_flip=false"] if ms_flip else []
    return [*fewer, *_precision(recipe), f"a smaller --set test_scale (now {width}x{height}; other scores)"]


def _precision(recipe: Recipe) -> list[str]:
    return ["--set precision=bf16"] if recipe.precision != "bf16" else []


def _is_shortage(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS)


def _measured(device: torch.device) -> str:
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        peak = torch.cuda.max_memory_allocated(device)
        return f"{torch.cuda.get_device_name(device)} has {total / 1e9:.1f} GB, torch took up to {peak / 1e9:.1f} GB"
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Linux counts in units of 1024 bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"this machine has {total / 1e9:.1f} GB, the process took up to {peak / 1e9:.1f} GB before"
