"""What all parts of the suite share: device, threads, sizes, a folder, and the machine's measured limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hrnet.catalogue import WIDTHS, Width
from hrnet.suite.machine import wait_for
from hrnet.suite.scenes import Scenes, draw_scenes

__all__ = ["PRECISIONS", "Bench"]

PRECISIONS = ("fp32", "tf32", "bf16")
"""Arithmetic that networks may be measured in; a CPU has no TF32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """One run of the suite."""

    device: torch.device
    """Where networks compute."""

    threads: int
    """Threads of each side's computations."""

    folder: Path
    """An existing empty folder for what the run makes."""

    products: Mapping[str, float]
    """Precision to the measured speed of matrix products, in 1e9 multiply-accumulates per second."""

    widths: tuple[Width, ...] = WIDTHS
    """Networks that are measured."""

    quick: bool = False
    """Tiny sizes, to see that all works; the figures say nothing."""

    only: tuple[str, ...] = ()
    """Precisions that are measured; empty measures all that the device has."""

    drawn: dict[str, Scenes] = field(default_factory=dict)
    """Data sets that were drawn so far, by name of their folder."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """Arithmetic of our own entries."""
        known = ("fp32", "bf16") if self.device.type == "cpu" else PRECISIONS
        return tuple(name for name in known if not self.only or name in self.only)

    def floor(self, gigamacs: float, precision: str) -> float:
        """Seconds that the arithmetic takes at the speed of matrix products, in this precision or in fp32."""
        return gigamacs / max(self.products["fp32"], self.products[precision])

    def scenes(self, name: str, dataset: str, *, images: int, size: tuple[int, int]) -> Scenes:
        """Return the drawn data set of that name, drawing it at first."""
        if name not in self.drawn:
            self.drawn[name] = draw_scenes(dataset, self.folder / name, images=images, size=size)
        return self.drawn[name]

    def memory(self) -> Callable[[Callable[[], int]], float | None]:
        """Return what takes two steps and returns the most that they and what was made since now take, in 1e9 bytes;
        None on a CPU.
        """
        if self.device.type == "cpu":
            return lambda step: None
        before = torch.cuda.memory_allocated(self.device)

        def peak(step: Callable[[], int]) -> float:
            torch.cuda.reset_peak_memory_stats(self.device)
            step()
            step()
            wait_for(self.device)()
            return (torch.cuda.max_memory_allocated(self.device) - before) / 1e9

        return peak
