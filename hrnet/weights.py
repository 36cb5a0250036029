"""Weights in and out: OpenMMLab's trained segmentors, ImageNet backbones of OpenMMLab, the official HRNet and timm.

Files are read with torch's restricted unpickler only, which cannot run code.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrnet.errors import WeightsError
from hrnet.fetch import cache_folder, check_sha256, fetch, is_url, name_hash, reachable
from hrnet.model.backbone import LAYOUTS
from hrnet.model.segmentor import HRNetSegmentor

__all__ = ["LoadReport", "fetch", "load_weights", "reachable", "read_state_dict", "save_weights"]

_FOREIGN = {
    "incre_modules": "classification head of the backbone's pretraining",
    "downsamp_modules": "classification head of the backbone's pretraining",
    "final_layer": "classification head of the backbone's pretraining",
    "classifier": "classification head of the backbone's pretraining",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """What became of every entry of a weights file and of the model."""

    source: str
    """The file that was read."""
    kind: str
    """`segmentor` (the whole model) or `backbone` (the head keeps its initialisation)."""
    loaded: tuple[str, ...]
    """Entries of the model that were overwritten."""
    missing: tuple[str, ...] = ()
    """Entries of the model that the file lacks and that were left as they are."""
    unexpected: tuple[str, ...] = ()
    """Entries of the file that no model of this kind has; they were left out."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    """Entries of the file that were left out on purpose, with the reason."""


def load_weights(model: HRNetSegmentor, source: str | Path, sha256_prefix: str | None = None) -> LoadReport:
    """Load a file or an http(s) URL into a model; the model is untouched if anything does not fit.

    A segmentor's file must fit entry by entry. A backbone's may have the entries of its classification head, which are
    ignored. A URL is fetched once into the cache folder; its name's hash (`...-b5a04e21.pth`) is verified.

    Args:
        model: where the weights go.
        source: path or URL of a `.pth` file.
        sha256_prefix: first hexadecimal digits that the file's SHA-256 must have.

    Raises:
        WeightsError: no such file, an interrupted download, a damaged or unsafe file, or weights of another network.
    """
    if is_url(str(source)):
        path = fetch(str(source), cache_folder(), sha256_prefix or name_hash(str(source)))
    else:
        path = Path(source)
        if sha256_prefix is not None:
            check_sha256(path, sha256_prefix)
    entries = read_state_dict(path)
    if any(name.startswith("decode_head.") for name in entries):
        return _load_segmentor(model, entries, path)
    return _load_backbone(model, entries, path)


def save_weights(model: HRNetSegmentor, path: str | Path) -> None:
    """Write the model's weights (on the CPU) as `{"meta": ..., "state_dict": ...}`, the form that OpenMMLab reads."""
    entries = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    meta = {"format": "hrgrid", "width": model.width, "num_classes": model.num_classes}
    torch.save({"meta": meta, "state_dict": entries}, path)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file, without the `module.` that data-parallel training puts before names."""
    content = _read(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no state dict but {type(content).__name__}; give a file of named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path} holds no state dict: entry {name!r} is {type(value).__name__}, not a tensor")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _read(path: Path) -> Any:
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}; check the path")
    try:
        with _numpy_scalars():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found:
            raise WeightsError(
                f"{path} was refused: it holds an object of type {found[1]}, and loading such objects can run code; "
                "save only its state dict again where you trust it"
            ) from None
        raise WeightsError(_damaged(path)) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, IndexError, TypeError):
        raise WeightsError(_damaged(path)) from None


def _damaged(path: Path) -> str:
    return f"{path} is damaged or no torch file ({path.stat().st_size} bytes); fetch it again"


@contextmanager
def _numpy_scalars() -> Iterator[None]:
    """Allow NumPy numbers, which published files may hold in `meta`; they are plain data."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4", "?")]
    with torch.serialization.safe_globals(
        [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]  # type: ignore[list-item]
    ):
        yield


def _load_segmentor(model: HRNetSegmentor, entries: Mapping[str, Tensor], path: Path) -> LoadReport:
    classes = entries.get("decode_head.conv_seg.weight")
    _check_width(model, {name.removeprefix("backbone."): tensor for name, tensor in entries.items()}, path)
    if classes is not None and classes.shape[0] != model.num_classes:
        raise WeightsError(
            f"{path} predicts {classes.shape[0]} classes, the model {model.num_classes}; use its recipe"
        )
    own = model.state_dict()
    _check_entries(own, entries, path)
    for name in entries:
        if name not in own:
            raise WeightsError(f"{path} has the entry {name}, which HRNet {model.width} with its head has not")
    return _copy(own, entries, path, "segmentor", ignored={}, unexpected=())


def _load_backbone(model: HRNetSegmentor, entries: Mapping[str, Tensor], path: Path) -> LoadReport:
    named = {name.removeprefix("backbone."): tensor for name, tensor in entries.items()}
    own = model.backbone.state_dict()
    ignored = {name: _FOREIGN[name.split(".")[0]] for name in named if name.split(".")[0] in _FOREIGN}
    rest = {name: tensor for name, tensor in named.items() if name not in ignored}
    if not any(name in own for name in rest):
        raise WeightsError(f"{path} has no entry of HRNet (its first is {next(iter(named))}); use weights of HRNet")
    _check_width(model, rest, path)
    _check_entries(own, rest, path)
    unexpected = tuple(name for name in rest if name not in own)
    full = {f"backbone.{name}": tensor for name, tensor in rest.items() if name in own}
    return _copy(model.state_dict(), full, path, "backbone", ignored=ignored, unexpected=unexpected)


def _check_width(model: HRNetSegmentor, backbone: Mapping[str, Tensor], path: Path) -> None:
    """Name the width of the file if it is another one, which says more than a list of shapes."""
    branch = backbone.get("stage4.0.branches.0.0.conv1.weight")
    if branch is None:
        return
    found = (branch.shape[0], _children(backbone, "layer1"), _children(backbone, "stage4"))
    for width, layout in LAYOUTS.items():
        if found == (layout.channels[0], layout.blocks, layout.modules[2]) and width != model.width:
            raise WeightsError(f"{path} holds weights of width {width}, the model is {model.width}; use its own width")


def _children(entries: Mapping[str, Tensor], parent: str) -> int:
    parts = [name.split(".") for name in entries]
    return len({part[1] for part in parts if part[0] == parent and len(part) > 1})


def _check_entries(own: Mapping[str, Tensor], entries: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in own.items():
        if name in entries:
            if entries[name].shape != tensor.shape:
                shapes = f"{tuple(entries[name].shape)}, the model's {tuple(tensor.shape)}"
                raise WeightsError(f"{path} does not fit: the shape of {name} is {shapes}")
        elif not name.endswith("num_batches_tracked"):
            raise WeightsError(f"{path} is incomplete: it lacks {name}")


def _copy(
    own: Mapping[str, Tensor],
    entries: Mapping[str, Tensor],
    path: Path,
    kind: str,
    *,
    ignored: Mapping[str, str],
    unexpected: tuple[str, ...],
) -> LoadReport:
    with torch.no_grad():
        for name, tensor in entries.items():
            own[name].copy_(tensor)
    return LoadReport(
        source=str(path),
        kind=kind,
        loaded=tuple(name for name in own if name in entries),
        missing=tuple(name for name in own if name not in entries),
        unexpected=unexpected,
        ignored=dict(ignored),
    )
