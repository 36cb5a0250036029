"""The published numbers of 37 of the 45 recipes, read from `published.csv`.

Source: the HRNet model zoo of OpenMMLab's mmsegmentation. Scores were measured on the validation split in percent,
memory and speed on V100 GPUs. Eight Pascal Context recipes were configured but never published.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

__all__ = ["Published", "all_published", "published"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One row of the published table."""

    name: str
    """Name of the recipe."""
    miou: float
    """Mean IoU on the validation split, single scale, in percent."""
    miou_ms_flip: float
    """Mean IoU over six scales and mirrored images, in percent."""
    mem_gb: float | None
    """Training memory of the GPU that used most, in GB; None where it was not measured."""
    fps: float | None
    """Images per second of single-image inference; None where it was not measured."""
    checkpoint: str
    """URL of the trained weights."""

    @property
    def sha256_prefix(self) -> str:
        """First eight hexadecimal digits of the weights' SHA-256, which the file's name ends with."""
        return self.checkpoint.removesuffix(".pth").rsplit("-", 1)[1]


@cache
def all_published() -> Mapping[str, Published]:
    """Return the 37 published rows by recipe name, in the table's order."""
    with Path(__file__).with_name("published.csv").open(newline="", encoding="ascii") as file:
        rows = [_row(row) for row in csv.DictReader(file)]
    return MappingProxyType({row.name: row for row in rows})


def published(name: str) -> Published | None:
    """Return the published numbers of a recipe, or None if there are none."""
    return all_published().get(name)


def _row(row: Mapping[str, str]) -> Published:
    return Published(
        name=row["config"],
        miou=float(row["miou"]),
        miou_ms_flip=float(row["miou_ms_flip"]),
        mem_gb=float(row["mem_gb"]) if row["mem_gb"] else None,
        fps=float(row["fps"]) if row["fps"] else None,
        checkpoint=row["checkpoint"],
    )
