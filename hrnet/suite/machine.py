"""The machine that figures were measured on: what it is, what it can do at most, and who else was using it."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from hrnet.speed import cpu_name

__all__ = ["Busy", "conditions", "one_thread", "products", "tf32", "wait_for"]

_SETS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
"""Instruction sets, by their names in /proc/cpuinfo, that the speed of networks depends on."""

_SIDE = {("cpu", torch.float32): 1536, ("cpu", torch.bfloat16): 384, ("cuda", torch.float32): 8192,
         ("cuda", torch.bfloat16): 8192}  # fmt: skip
"""The side of the matrices whose product is timed: large enough to be bound by arithmetic. Without instructions for
bfloat16 a processor takes a hundred times as long for it."""


def conditions(device: torch.device, threads: int) -> dict[str, Any]:
    """Machine and software, as JSON values."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        "device_type": device.type,
        "cpu": cpu_name(),
        "instruction_sets": _instruction_sets(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": threads,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onednn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,  # type: ignore[no-untyped-call]
        "opencv": cv2.__version__,
        "numpy": np.__version__,
        "load": os.getloadavg()[0],
    }


def _instruction_sets() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return [name for name in _SETS if name in flags]


def products(device: torch.device, *, seconds: float = 1.0) -> Mapping[str, float]:
    """Measured speed of matrix products by precision, in 1e9 multiply-accumulates per second.

    The best within so many seconds for each: what the hardware can do through the libraries of torch with the threads
    that are set. Where the processor has no
    bfloat16 arithmetic its figure is below that of fp32, and fp32 is the limit of both.
    """
    found = {"fp32": _product(device, torch.float32, seconds), "bf16": _product(device, torch.bfloat16, seconds)}
    if device.type == "cuda":
        with tf32(True):
            found["tf32"] = _product(device, torch.float32, seconds)
    return found


def _product(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    side, wait = _SIDE[device.type, dtype], wait_for(device)
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while not best or time.perf_counter() < end:
        began = time.perf_counter()
        torch.mm(first, second)
        wait()
        best = max(best, side**3 / 1e9 / (time.perf_counter() - began))
    return best


def wait_for(device: torch.device) -> Callable[[], None]:
    """Return what waits until the device has done what it was given."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Let float32 products on a GPU be rounded to TF32, or not; a no-op elsewhere."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, OpenCV too."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


class Busy:
    """Who else uses the machine while something is measured."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._before = _times()

    def load(self) -> float:
        """Processes that wanted to run when it began (average of a minute)."""
        return self._load

    def stolen(self) -> float:
        """Percent of the processors' time since it began that the host gave to other machines; 0 where unknown."""
        spent = [now - then for now, then in zip(_times(), self._before, strict=True)]
        total = sum(spent)
        return 100 * spent[7] / total if len(spent) > 7 and total else 0.0


def _times() -> list[int]:
    """Ticks of all processors by what they did (proc(5): user, nice, system, idle, iowait, irq, softirq, steal)."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return []
    return [int(word) for word in first.split()[1:9]]
