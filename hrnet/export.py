"""A model out of here: a checkpoint that OpenMMLab's tools read, safetensors, or ONNX."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrnet.data.transforms import MEAN, STD
from hrnet.errors import WeightsError
from hrnet.model.backbone import resize
from hrnet.model.segmentor import HRNetSegmentor

__all__ = ["OPSET", "SUFFIXES", "checkpoint_meta", "export", "to_onnx", "to_openmmlab", "to_safetensors"]

OPSET = 17
"""ONNX operator set; every runtime since 2022 has it."""
SUFFIXES = (".pth", ".pt", ".safetensors", ".onnx")

# Odd at every resolution of the network, so that no resize of the traced pass is skipped for being none.
_TRACED_SIZE = (65, 97)


def export(
    model: HRNetSegmentor,
    path: Path,
    meta: Mapping[str, Any],
    *,
    with_preprocessing: bool = False,
    backbone_only: bool = False,
) -> None:
    """Write a model in the form that the file's suffix names; the file appears whole or not at all.

    Args:
        model: what to write.
        path: ends with one of `SUFFIXES`.
        meta: what the file shall say of itself (see `checkpoint_meta`).
        with_preprocessing: for ONNX; see `to_onnx`.
        backbone_only: leave the head out; a file to start a training from.

    Raises:
        WeightsError: another suffix, onnx is not installed, or the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"cannot write {path}: its name must end with {', '.join(SUFFIXES)}")
    if with_preprocessing and path.suffix != ".onnx":
        raise WeightsError(f"preprocessing can be built into ONNX alone, not into {path}")
    if backbone_only and path.suffix == ".onnx":
        raise WeightsError(f"a backbone alone cannot be written as ONNX ({path}); give a trained segmentor")
    partial = path.with_name(f".{path.name}.partial")
    network = model.backbone if backbone_only else model
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.suffix == ".onnx":
                to_onnx(model, partial, meta, with_preprocessing=with_preprocessing)
            elif path.suffix == ".safetensors":
                to_safetensors(network, partial, meta)
            else:
                to_openmmlab(network, partial, meta)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error


def checkpoint_meta(
    model: HRNetSegmentor,
    *,
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    recipe: str | None = None,
    imported: str | None = None,
) -> dict[str, Any]:
    """What an exported file says of itself: the classes where OpenMMLab's 0.x and 1.x look for them, and its origin.

    `imported` is the SHA-256 of the file that the weights were converted from; None where they were trained here.
    """
    colours = [list(colour) for colour in palette]
    named = {"CLASSES": list(classes), "PALETTE": colours} if classes else {}
    described = {"dataset_meta": {"classes": tuple(classes), "palette": colours}} if classes else {}
    origin = {"width": model.width, "num_classes": model.num_classes, "recipe": recipe, "imported": imported}
    return {"format": "hrgrid", "hrgrid": origin, **named, **described}


def to_openmmlab(model: nn.Module, path: Path, meta: Mapping[str, Any]) -> None:
    """Write `{"meta": ..., "state_dict": ...}`, which mmsegmentation 0.x and 1.x load as one of their own."""
    with path.open("wb") as file:
        torch.save({"meta": dict(meta), "state_dict": _entries(model)}, file)


def to_safetensors(model: nn.Module, path: Path, meta: Mapping[str, Any]) -> None:
    """Write the tensors as safetensors, with `meta` as JSON text beside them."""
    from safetensors.torch import save

    path.write_bytes(save(_entries(model), metadata={"format": "pt", "meta": json.dumps(meta)}))


def to_onnx(model: HRNetSegmentor, path: Path, meta: Mapping[str, Any], *, with_preprocessing: bool = False) -> None:
    """Write an ONNX graph of operator set `OPSET` with free batch, height and width.

    Input `image` is (N,3,H,W) float32 RGB, normalised by the mean and deviation that the file's metadata holds, output
    `logits` (N,classes,ceil(H/4),ceil(W/4)) float32. With preprocessing, `image` is (N,H,W,3) uint8 RGB and output
    `classes` (N,H,W) uint8: the class of every pixel, as at test scale equal to the image's size.

    The graph is traced. torch's newer exporter gives the same numbers, but takes more than a minute for the smallest
    width where tracing takes seconds.

    Raises:
        WeightsError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise WeightsError("ONNX export needs the package onnx: pip install 'hrgrid[export]'") from None
    height, width = _TRACED_SIZE
    training = model.training
    network: nn.Module = _Complete(model) if with_preprocessing else model
    network.eval()
    if with_preprocessing:
        example, output, axes = torch.zeros(2, height, width, 3, dtype=torch.uint8), "classes", (1, 2)
        free = {0: "batch", 1: "height", 2: "width"}
    else:
        example, output, axes = torch.zeros(2, 3, height, width), "logits", (2, 3)
        free = {0: "batch", 2: "height_4", 3: "width_4"}
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # Of the older exporter's age, and of Python comparing sizes while it traces (see _TRACED_SIZE).
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network, (example.to(next(model.parameters()).device),), str(path), dynamo=False, opset_version=OPSET,
                input_names=["image"], output_names=[output],
                dynamic_axes={"image": {0: "batch", axes[0]: "height", axes[1]: "width"}, output: free},
            )  # fmt: skip
    finally:
        model.train(training)
    written = onnx.load(str(path))
    texts = {"mean": MEAN, "std": STD, "channels": "RGB", "preprocessing": with_preprocessing, **meta}
    onnx.helper.set_model_props(written, {name: json.dumps(value) for name, value in texts.items()})
    onnx.checker.check_model(written)
    onnx.save(written, str(path))


class _Complete(nn.Module):
    """From the pixels of images to the class of every pixel."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("std", torch.tensor(STD))

    def forward(self, image: Tensor) -> Tensor:
        x = ((image.to(torch.float32) - self.mean) / self.std).permute(0, 3, 1, 2)
        return resize(self.model(x), image.shape[1:3]).argmax(dim=1).to(torch.uint8)


def _entries(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
