"""What the published configurations have in common within one dataset. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Settings shared by all published configurations of a dataset; the defaults are the most frequent values."""

    num_classes: int
    """Classes that are predicted."""
    schedules: tuple[int, ...]
    """Published lengths of training, in thousands of iterations."""
    crop: tuple[int, int] = (512, 512)
    """Height and width of a training sample."""
    train_scale: tuple[int, int] = (2048, 512)
    """Width and height that bound the training image at ratio 1."""
    test_scale: tuple[int, int] = (2048, 512)
    """Width and height that bound the test image."""
    per_gpu: int = 4
    """Samples per GPU and iteration, on four GPUs."""
    loader_workers: int = 4
    """Loader processes per GPU."""
    reduce_zero_label: bool = False
    """Whether label 0 is ignored."""
    lr: float = 0.01
    """First learning rate."""
    weight_decay: float = 0.0005
    """L2 penalty."""
    slide_crop: tuple[int, int] | None = None
    """Height and width of the test window; None tests on whole images."""
    slide_stride: tuple[int, int] | None = None
    """Distance of test windows."""


_CITYSCAPES = Family(
    num_classes=19,
    schedules=(40, 80, 160),
    crop=(512, 1024),
    train_scale=(2048, 1024),
    test_scale=(2048, 1024),
    per_gpu=2,
    loader_workers=2,
)


def _context(num_classes: int, *, reduce_zero_label: bool) -> Family:
    return Family(
        num_classes=num_classes,
        schedules=(40, 80),
        crop=(480, 480),
        train_scale=(520, 520),
        test_scale=(520, 520),
        reduce_zero_label=reduce_zero_label,
        lr=0.004,
        weight_decay=0.0001,
        slide_crop=(480, 480),
        slide_stride=(320, 320),
    )


_ISPRS = Family(num_classes=6, schedules=(80,), train_scale=(512, 512), test_scale=(512, 512), reduce_zero_label=True)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "cityscapes": _CITYSCAPES,
        "ade20k": Family(num_classes=150, schedules=(80, 160), reduce_zero_label=True),
        "voc12aug": Family(num_classes=21, schedules=(20, 40)),
        "pascal-context": _context(60, reduce_zero_label=False),
        "pascal-context-59": _context(59, reduce_zero_label=True),
        "loveda": Family(num_classes=7, schedules=(80,), test_scale=(1024, 1024), reduce_zero_label=True),
        "potsdam": _ISPRS,
        "vaihingen": _ISPRS,
        "isaid": Family(
            num_classes=16, schedules=(80,), crop=(896, 896), train_scale=(896, 896), test_scale=(896, 896)
        ),
    }
)
"""Dataset to its family, in the order of the published table."""
