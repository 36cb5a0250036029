"""What a weights file is: its tensors under their plain names, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from hrnet.catalogue import Width
from hrnet.errors import WeightsError
from hrnet.fetch import sha256_of
from hrnet.model.backbone import LAYOUTS
from hrnet.safeload import read_weights_file

__all__ = ["WeightsFile", "open_weights"]

_WRAPPERS = ("state_dict", "model")
"""Keys under which files keep their tensors: OpenMMLab's and ours; those of timm's training script."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A weights file that was read."""

    path: Path
    """Where it is on this machine."""
    entries: Mapping[str, Tensor]
    """Name to tensor, without the `module.` that data-parallel training puts before names."""
    meta: Mapping[str, Any]
    """What the file says of itself; empty where it says nothing."""
    beside: tuple[str, ...] = ()
    """Names of what it holds beside weights and `meta`, such as the state of an optimizer."""

    @cached_property
    def sha256(self) -> str:
        """Its hash in hexadecimal."""
        return sha256_of(self.path)

    @property
    def kind(self) -> str:
        """`segmentor` (the whole network) or `backbone` (without the head that segments)."""
        return "segmentor" if any(name.startswith("decode_head.") for name in self.entries) else "backbone"

    @property
    def backbone(self) -> dict[str, Tensor]:
        """The entries that are not the head's, named as within the backbone."""
        rest = {name: tensor for name, tensor in self.entries.items() if not name.startswith("decode_head.")}
        return {name.removeprefix("backbone."): tensor for name, tensor in rest.items()}

    @property
    def width(self) -> Width | None:
        """The network's width by its shapes; None if it is none of the three."""
        branch = self.backbone.get("stage4.0.branches.0.0.conv1.weight")
        if branch is None:
            return None
        found = (branch.shape[0], self._children("layer1"), self._children("stage4"))
        for width, layout in LAYOUTS.items():
            if found == (layout.channels[0], layout.blocks, layout.modules[2]):
                return width
        return None

    @property
    def num_classes(self) -> int | None:
        """Classes that its head tells apart; None without a head."""
        head = self.entries.get("decode_head.conv_seg.weight")
        return None if head is None else int(head.shape[0])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, where `meta` has them (`CLASSES` of 0.x, `dataset_meta` of 1.x)."""
        names = self._dataset_meta("classes", "CLASSES")
        return tuple(map(str, names)) if isinstance(names, list | tuple) else ()

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Colours (RGB) of the classes, where `meta` has them."""
        colours = self._dataset_meta("palette", "PALETTE")
        if not isinstance(colours, list | tuple) or not all(_is_colour(colour) for colour in colours):
            return ()
        return tuple((int(red), int(green), int(blue)) for red, green, blue in colours)

    @property
    def origin(self) -> str:
        """Who wrote it, in words."""
        if "hrgrid" in self.meta or self.meta.get("format") == "hrgrid" or "recipe_hash" in self.meta:
            return "hrgrid"
        if "mmengine_version" in self.meta:
            return "OpenMMLab 1.x"
        if "mmseg_version" in self.meta or "mmcv_version" in self.meta:
            return "OpenMMLab 0.x"
        return "ImageNet weights (official HRNet, timm)" if self.kind == "backbone" else "state dict"

    @property
    def trained_here(self) -> bool:
        """Whether hrgrid trained these weights, rather than converted somebody else's."""
        imported = self.meta.get("hrgrid")
        return self.origin == "hrgrid" and not (isinstance(imported, Mapping) and imported.get("imported"))

    def describe(self) -> str:
        """One phrase: origin, width, classes, hash."""
        classes = f", {self.num_classes} classes" if self.num_classes is not None else ""
        return f"{self.origin}, {self.kind} {self.width or 'of no known width'}{classes}, SHA-256 {self.sha256[:16]}"

    def _children(self, parent: str) -> int:
        parts = [name.split(".") for name in self.backbone]
        return len({part[1] for part in parts if part[0] == parent and len(part) > 1})

    def _dataset_meta(self, new: str, old: str) -> Any:
        described = self.meta.get("dataset_meta")
        if isinstance(described, Mapping) and new in described:
            return described[new]
        return self.meta.get(old)


def open_weights(path: Path) -> WeightsFile:
    """Read a weights file of any accepted form.

    Raises:
        WeightsError: there is no such file, it is damaged or unsafe, or it holds no named tensors.
    """
    content = read_weights_file(path)
    meta: Any = {}
    beside: tuple[str, ...] = ()
    if isinstance(content, Mapping):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                meta = content.get("meta", {})
                beside = tuple(str(name) for name in content if name not in (wrapper, "meta"))
                content = content[wrapper]
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no state dict but {type(content).__name__}; give a file of named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path} holds no state dict: entry {name!r} is {type(value).__name__}, not a tensor")
    entries = {name.removeprefix("module."): value for name, value in content.items()}
    return WeightsFile(path=path, entries=entries, meta=_meta(meta), beside=beside)


def _meta(meta: object) -> Mapping[str, Any]:
    """What a file says of itself; safetensors files hold texts alone, ours one JSON text."""
    if not isinstance(meta, Mapping):
        return {}
    try:
        inner = json.loads(meta["meta"])
    except (KeyError, TypeError, ValueError):
        return meta
    return inner if isinstance(inner, dict) else meta


def _is_colour(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(part, int) for part in value)
