"""What goes out comes back: OpenMMLab's form, safetensors, and ONNX against PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hrnet.catalogue import WIDTHS, Width
from hrnet.data.transforms import normalise
from hrnet.errors import WeightsError
from hrnet.export import OPSET, checkpoint_meta, export
from hrnet.model.backbone import resize
from hrnet.model.segmentor import HRNetSegmentor
from hrnet.weightsfile import open_weights
from tests.hrnet.onnx_difference import SHAPES, filled, largest_difference, session

CLASSES = ("road", "car", "sky", "person")
COLOURS = ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3))


@pytest.fixture(scope="module")
def model() -> HRNetSegmentor:
    return filled("w18-small", 4)


@pytest.mark.parametrize(("suffix", "imported"), [(".pth", None), (".safetensors", "ab" * 32)])
def test_round_trip(model: HRNetSegmentor, tmp_path: Path, suffix: str, imported: str | None) -> None:
    path = tmp_path / f"w{suffix}"
    export(model, path, checkpoint_meta(model, classes=CLASSES, palette=COLOURS, recipe="r", imported=imported))
    file = open_weights(path)
    assert (file.origin, file.width, file.classes, file.palette) == ("hrgrid", "w18-small", CLASSES, COLOURS)
    assert file.trained_here == (imported is None)
    assert set(file.entries) == set(model.state_dict())
    assert all(torch.equal(tensor, file.entries[name]) for name, tensor in model.state_dict().items())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_form_that_openmmlab_reads(model: HRNetSegmentor, tmp_path: Path) -> None:
    """0.x takes CLASSES and PALETTE, 1.x dataset_meta; both load state_dict by names; plain values throughout."""
    export(model, tmp_path / "w.pth", checkpoint_meta(model, classes=CLASSES, palette=COLOURS))
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    assert set(content) == {"meta", "state_dict"}
    assert (content["meta"]["CLASSES"], content["meta"]["PALETTE"][3]) == (list(CLASSES), [3, 3, 3])
    assert content["meta"]["dataset_meta"] == {"classes": CLASSES, "palette": [list(c) for c in COLOURS]}
    assert list(content["state_dict"]) == list(model.state_dict())


def test_onnx_equals_pytorch_at_any_size(model: HRNetSegmentor, tmp_path: Path) -> None:
    export(model.train(), tmp_path / "w.onnx", checkpoint_meta(model, classes=CLASSES))
    assert model.training, "exporting leaves the model as it was"
    written = onnx.load(str(tmp_path / "w.onnx"))
    assert [(each.domain, each.version) for each in written.opset_import] == [("", OPSET)]
    assert json.loads({p.key: p.value for p in written.metadata_props}["CLASSES"]) == list(CLASSES)
    worst, equal = largest_difference(model.eval(), tmp_path / "w.onnx", SHAPES)
    assert worst < 2e-5
    assert equal == 1.0


def test_onnx_with_preprocessing_gives_class_maps(model: HRNetSegmentor, tmp_path: Path) -> None:
    export(model, tmp_path / "w.onnx", checkpoint_meta(model), with_preprocessing=True)
    run = session(tmp_path / "w.onnx")
    model.eval()
    for n, height, width in ((1, 64, 96), (2, 51, 77)):
        pixels = np.random.default_rng(n).integers(0, 256, (n, height, width, 3)).astype(np.uint8)
        (classes,) = run(pixels)
        bgr = torch.from_numpy(pixels[..., ::-1].copy())
        with torch.inference_mode():
            logits = model(normalise(bgr, torch.tensor([[height, width]] * n)))
        expected = resize(logits, (height, width)).argmax(1).numpy()
        assert (classes.dtype, classes.shape) == (np.uint8, (n, height, width))
        assert (classes == expected).mean() > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_onnx_of_each_width(width: Width, tmp_path: Path) -> None:
    wide = filled(width, 19)
    export(wide, tmp_path / "w.onnx", checkpoint_meta(wide))
    worst, equal = largest_difference(wide, tmp_path / "w.onnx", SHAPES)
    assert worst < 1e-4
    assert equal > 0.9999


def test_what_cannot_be_written(model: HRNetSegmentor, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"must end with \.pth, \.pt, \.safetensors, \.onnx"):
        export(model, tmp_path / "w.bin", {})
    with pytest.raises(WeightsError, match="into ONNX alone"):
        export(model, tmp_path / "w.pth", {}, with_preprocessing=True)
    with pytest.raises(WeightsError, match="a backbone alone cannot be written as ONNX"):
        export(model, tmp_path / "w.onnx", {}, backbone_only=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot write"):
        export(model, tmp_path / "file" / "w.pth", {})
    for suffix in (".pth", ".safetensors"):
        with pytest.raises(WeightsError, match=r"cannot write .*: File name too long"):
            export(model, tmp_path / ("w" * 250 + suffix), {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
