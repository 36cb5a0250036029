"""The published table: what it says of 37 of the 45 recipes, read from `published.csv`.

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

__all__ = ["BACKBONES", "METHOD", "Published", "all_published", "published"]

METHOD = "FCN"
"""Head of every recipe."""

BACKBONES: Mapping[str, str] = MappingProxyType(
    {"w18-small": "HRNetV2p-W18-Small", "w18": "HRNetV2p-W18", "w48": "HRNetV2p-W48"}
)
"""Width to the backbone's name in the table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One row of the published table."""

    name: str
    """Name of the recipe, which is the configuration's."""
    dataset: str
    """Heading of the table's section."""
    method: str
    """Head."""
    backbone: str
    """Backbone with its width."""
    crop: str
    """Height x width of a training sample, in pixels."""
    schedule: int
    """Iterations of training."""
    miou: float
    """Mean IoU on the validation split, single scale, in percent."""
    miou_ms_flip: float
    """Mean IoU over six scales and mirrored images, in percent."""
    mem_gb: float | None
    """Training memory of the GPU that used most, in GB; None where it was not measured."""
    fps: float | None
    """Images per second of single-image inference; None where it was not measured."""
    device: str
    """GPU that memory and speed were measured on."""
    checkpoint: str
    """URL of the trained weights."""
    log: str
    """URL of the training log."""

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
        dataset=row["dataset"],
        method=row["method"],
        backbone=row["backbone"],
        crop=row["crop"],
        schedule=int(row["schedule"]),
        miou=float(row["miou"]),
        miou_ms_flip=float(row["miou_ms_flip"]),
        mem_gb=float(row["mem_gb"]) if row["mem_gb"] else None,
        fps=float(row["fps"]) if row["fps"] else None,
        device=row["device"],
        checkpoint=row["checkpoint"],
        log=row["log"],
    )
