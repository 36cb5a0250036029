"""Weights into a model: OpenMMLab's trained segmentors, ImageNet backbones of OpenMMLab, the official HRNet and timm.

Files are read so that they cannot run code (`hrnet.safeload`). Every load says what became of every entry, and fails
where the backbone was not filled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hrnet.errors import WeightsError
from hrnet.fetch import local_copy
from hrnet.model.segmentor import HRNetSegmentor
from hrnet.weightsfile import WeightsFile, open_weights

__all__ = ["LoadReport", "load_weights", "put_weights", "save_weights"]

_CLASSIFIER = "classification head of the backbone's pretraining"
_FOREIGN = dict.fromkeys(("incre_modules", "downsamp_modules", "final_layer", "classifier"), _CLASSIFIER)
_TRAINING = "state of the training that wrote the file"
_HEAD = "head of a segmentor; the backbone alone was asked for"


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
    what: str = ""
    """The file in words: who wrote it, width, classes, hash."""
    trained_here: bool = False
    """Whether hrgrid trained these weights."""
    sha256: str = ""
    """The file's hash in hexadecimal."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where the file has them."""

    def summary(self) -> str:
        """Return a few lines for people: what was loaded, left as it was, ignored and unknown, and why."""
        lines = [
            f"weights {self.source} ({self.what})" if self.what else f"weights {self.source}",
            f"  loaded: {len(self.loaded)} of {len(self.loaded) + len(self.missing)} entries ({_parts(self.loaded)})",
        ]
        if self.missing:
            lines.append(f"  not in the file, left as initialised: {_parts(self.missing)}")
        for reason in dict.fromkeys(self.ignored.values()):
            names = [name for name, why in self.ignored.items() if why == reason]
            lines.append(f"  ignored: {_parts(names)}: {reason}")
        if self.unexpected:
            lines.append(f"  unknown, left out: {_parts(self.unexpected)}")
        return "\n".join(lines)


def load_weights(
    model: HRNetSegmentor, source: str | Path, sha256_prefix: str | None = None, *, backbone_only: bool = False
) -> LoadReport:
    """Load a file, an http(s) URL or an S3 URI into a model; the model is untouched if anything does not fit.

    A segmentor's file must fit entry by entry. A backbone's may have the entries of its classification head, which are
    ignored. What is remote is fetched once into the cache folder; its name's hash (`...-b5a04e21.pth`) is verified.

    Args:
        model: where the weights go.
        source: a `.pth`, `.pt` or `.safetensors` file.
        sha256_prefix: first hexadecimal digits that the file's SHA-256 must have.
        backbone_only: leave the head as it is, also where the file has one.

    Raises:
        WeightsError: no such file, an interrupted download, a damaged or unsafe file, or weights of another network.
    """
    return put_weights(model, open_weights(local_copy(str(source), sha256_prefix)), backbone_only=backbone_only)


def put_weights(model: HRNetSegmentor, file: WeightsFile, *, backbone_only: bool = False) -> LoadReport:
    """Load a file that was read; see `load_weights`."""
    if file.kind == "segmentor" and not backbone_only:
        return _load_segmentor(model, file)
    return _load_backbone(model, file)


def save_weights(model: HRNetSegmentor, path: str | Path) -> None:
    """Write the model's weights (on the CPU) as `{"meta": ..., "state_dict": ...}`, the form that OpenMMLab reads."""
    entries = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    meta = {"format": "hrgrid", "width": model.width, "num_classes": model.num_classes}
    torch.save({"meta": meta, "state_dict": entries}, path)


def _load_segmentor(model: HRNetSegmentor, file: WeightsFile) -> LoadReport:
    _check_width(model, file)
    if file.num_classes is not None and file.num_classes != model.num_classes:
        raise WeightsError(f"{file.path} predicts {file.num_classes} classes, the model {model.num_classes}; use its "
                           "recipe")  # fmt: skip
    own = model.state_dict()
    _check_entries(own, file.entries, file.path)
    for name in file.entries:
        if name not in own:
            raise WeightsError(f"{file.path} has the entry {name}, which HRNet {model.width} with its head has not")
    return _copy(own, file.entries, file, "segmentor", ignored={}, unexpected=())


def _load_backbone(model: HRNetSegmentor, file: WeightsFile) -> LoadReport:
    named, own = file.backbone, model.backbone.state_dict()
    ignored = {name: _FOREIGN[name.split(".")[0]] for name in named if name.split(".")[0] in _FOREIGN}
    rest = {name: tensor for name, tensor in named.items() if name not in ignored}
    if not any(name in own for name in rest):
        raise WeightsError(f"{file.path} has no entry of HRNet (its first is {next(iter(file.entries))}); use weights "
                           "of HRNet")  # fmt: skip
    _check_width(model, file)
    _check_entries(own, rest, file.path)
    ignored |= {name: _HEAD for name in file.entries if name.startswith("decode_head.")}
    unexpected = tuple(name for name in rest if name not in own)
    full = {f"backbone.{name}": tensor for name, tensor in rest.items() if name in own}
    return _copy(model.state_dict(), full, file, "backbone", ignored=ignored, unexpected=unexpected)


def _check_width(model: HRNetSegmentor, file: WeightsFile) -> None:
    """Name the width of the file if it is another one, which says more than a list of shapes."""
    if file.width is not None and file.width != model.width:
        raise WeightsError(
            f"{file.path} holds weights of width {file.width}, the model is {model.width}; use its own width"
        )


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
    file: WeightsFile,
    kind: str,
    *,
    ignored: Mapping[str, str],
    unexpected: tuple[str, ...],
) -> LoadReport:
    with torch.no_grad():
        for name, tensor in entries.items():
            own[name].copy_(tensor)
    return LoadReport(
        source=str(file.path),
        kind=kind,
        loaded=tuple(name for name in own if name in entries),
        missing=tuple(name for name in own if name not in entries),
        unexpected=unexpected,
        ignored={**ignored, **dict.fromkeys(file.beside, _TRAINING)},
        what=file.describe(),
        trained_here=file.trained_here,
        sha256=file.sha256,
        classes=file.classes,
    )


def _parts(names: Iterable[str]) -> str:
    """Count entries by the part of the network that they belong to: `backbone 864, decode_head 8`."""
    counts = Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{part} {count}" for part, count in counts.items())
