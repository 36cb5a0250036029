"""Weights files of every form that occurs."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from hrnet.errors import WeightsError
from hrnet.model.segmentor import HRNetSegmentor, build_model
from hrnet.weights import load_weights, save_weights
from hrnet.weightsfile import open_weights

EXTRA = {
    "incre_modules.0.0.conv1.weight": torch.zeros(2, 2),
    "downsamp_modules.0.0.weight": torch.zeros(2),
    "final_layer.0.weight": torch.zeros(2),
    "classifier.weight": torch.zeros(10, 4),
}


@pytest.fixture(scope="module")
def source() -> HRNetSegmentor:
    return build_model("w18-small", 4, seed=1)


@pytest.fixture
def target() -> HRNetSegmentor:
    return build_model("w18-small", 4, seed=2)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_round_trip(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path) -> None:
    save_weights(source, tmp_path / "w.pth")
    report = load_weights(target, tmp_path / "w.pth")
    assert same(source.state_dict(), target.state_dict())
    assert (report.kind, len(report.loaded)) == ("segmentor", 872)
    assert (report.missing, report.unexpected, report.ignored) == ((), (), {})


@pytest.mark.parametrize("zipped", [False, True], ids=["2020", "2021"])
def test_published_segmentor(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path, zipped: bool) -> None:
    """The form of the published files: `meta` with text, lists and NumPy numbers; the older ones are not zip files."""
    meta = {
        "env_info": "sys.platform: linux",
        "mmseg_version": "0.5.0",
        "config": "norm_cfg = dict(type='SyncBN')",
        "CLASSES": ("road", "car"),
        "PALETTE": [[128, 64, 128], [0, 0, 142]],
        "iter": 40000,
        "hook_msgs": {"best_score": np.float64(0.7386), "best_iter": np.int64(40000), "last": np.float32(0.5)},
    }
    content = {"meta": meta, "state_dict": {f"module.{name}": t for name, t in source.state_dict().items()}}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert load_weights(target, tmp_path / "w.pth").kind == "segmentor"
    assert same(source.state_dict(), target.state_dict())


def test_numpy_numbers_by_their_old_name(tmp_path: Path, target: HRNetSegmentor, source: HRNetSegmentor) -> None:
    """NumPy 1 wrote `numpy.core.multiarray`, NumPy 2 writes `numpy._core.multiarray`."""

    class OldNames(pickle._Pickler):
        def save_global(self, obj: Any, name: str | None = None) -> None:
            if getattr(obj, "__module__", "") == "numpy._core.multiarray":
                self.write(b"cnumpy.core.multiarray\nscalar\n")
                self.memoize(obj)
            else:
                super().save_global(obj, name)

    module = type("module", (), {"Pickler": OldNames, "__name__": "pickle", "dump": pickle.dump})
    content = {"meta": {"score": np.float64(0.7)}, "state_dict": source.state_dict()}
    torch.save(content, tmp_path / "w.pth", pickle_module=module)
    assert b"numpy.core.multiarray" in (tmp_path / "w.pth").read_bytes()
    load_weights(target, tmp_path / "w.pth")
    assert same(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("wrapped", [False, True])
def test_official_backbone(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path, wrapped: bool) -> None:
    """The classification head of the ImageNet weights is ignored, the segmentation head keeps what it has."""
    entries = {**source.backbone.state_dict(), **EXTRA}
    torch.save(
        {"state_dict": {f"module.{n}": t for n, t in entries.items()}} if wrapped else entries, tmp_path / "b.pth"
    )
    before = {name: tensor.clone() for name, tensor in target.decode_head.state_dict().items()}
    report = load_weights(target, tmp_path / "b.pth")
    assert same(source.backbone.state_dict(), target.backbone.state_dict())
    assert same(before, target.decode_head.state_dict())
    assert (report.kind, len(report.loaded), set(report.ignored)) == ("backbone", 864, set(EXTRA))
    assert report.missing == tuple(f"decode_head.{name}" for name in target.decode_head.state_dict())


def test_backbone_reports_what_it_does_not_know(
    source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path
) -> None:
    counters = {n: t for n, t in source.backbone.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save({**counters, "teacher.weight": torch.zeros(1)}, tmp_path / "b.pth")
    report = load_weights(target, tmp_path / "b.pth")
    assert report.unexpected == ("teacher.weight",)
    assert "backbone.bn1.num_batches_tracked" in report.missing


def test_timm_weights_as_safetensors(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path) -> None:
    """The form in which timm's HRNet weights are published today."""
    entries = {**source.backbone.state_dict(), **EXTRA}
    save_file({name: tensor.contiguous() for name, tensor in entries.items()}, tmp_path / "model.safetensors")
    report = load_weights(target, tmp_path / "model.safetensors")
    assert same(source.backbone.state_dict(), target.backbone.state_dict())
    assert (report.kind, len(report.loaded), set(report.ignored)) == ("backbone", 864, set(EXTRA))
    save_file({name: tensor.contiguous() for name, tensor in EXTRA.items()}, tmp_path / "model.safetensors")
    refused(target, tmp_path / "model.safetensors", "has no entry of HRNet")


def test_a_backbone_that_is_not_filled_is_refused(
    source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path
) -> None:
    entries = {**source.backbone.state_dict(), **EXTRA}
    del entries["stage4.1.fuse_layers.3.0.2.0.weight"]
    torch.save({"model": entries}, tmp_path / "b.pth")
    refused(target, tmp_path / "b.pth", r"is incomplete: it lacks stage4\.1\.fuse_layers\.3\.0\.2\.0\.weight")
    torch.save({"state_dict": dict.fromkeys(EXTRA, torch.zeros(1))}, tmp_path / "b.pth")
    refused(target, tmp_path / "b.pth", "has no entry of HRNet")


def test_summary_says_what_and_why(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path) -> None:
    entries = {**source.backbone.state_dict(), **EXTRA, "teacher.weight": torch.zeros(1)}
    torch.save({"state_dict": entries, "optimizer": {"lr": 0.1}}, tmp_path / "b.pth")
    lines = load_weights(target, tmp_path / "b.pth").summary().splitlines()
    assert lines[0].startswith(
        f"weights {tmp_path / 'b.pth'} (ImageNet weights (official HRNet, timm), backbone w18-sm"
    )
    assert lines[1:] == [
        "  loaded: 864 of 872 entries (backbone 864)",
        "  not in the file, left as initialised: decode_head 8",
        "  ignored: incre_modules 1, downsamp_modules 1, final_layer 1, classifier 1: classification head of the "
        "backbone's pretraining",
        "  ignored: optimizer 1: state of the training that wrote the file",
        "  unknown, left out: teacher 1",
    ]


@pytest.mark.parametrize("line", ["0.x", "1.x"])
def test_what_a_published_file_says_of_itself(source: HRNetSegmentor, tmp_path: Path, line: str) -> None:
    names, colours = ("road", "car", "sky", "person"), [[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3]]
    old = {"mmseg_version": "0.5.0", "CLASSES": names, "PALETTE": colours}
    new = {"mmengine_version": "0.10.7", "dataset_meta": {"classes": names, "palette": colours}}
    torch.save({"meta": old if line == "0.x" else new, "state_dict": source.state_dict()}, tmp_path / "w.pth")
    file = open_weights(tmp_path / "w.pth")
    assert (file.kind, file.width, file.num_classes, file.classes) == ("segmentor", "w18-small", 4, names)
    assert file.palette == ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 3, 3))
    assert (file.origin, file.trained_here) == (f"OpenMMLab {line}", False)
    save_weights(source, tmp_path / "w.pth")
    assert open_weights(tmp_path / "w.pth").trained_here


def refused(model: HRNetSegmentor, path: Path, message: str) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(model, path)
    assert str(path) in str(caught.value)
    assert same(before, model.state_dict()), "a refused file must not change the model"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_truncated_file(target: HRNetSegmentor, tmp_path: Path, zipped: bool, kept: float) -> None:
    torch.save({"state_dict": target.state_dict()}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: int(kept * len(whole))])
    refused(target, tmp_path / "w.pth", r"is damaged or no torch file \(\d+ bytes\)")


def test_other_things_that_are_no_weights(target: HRNetSegmentor, tmp_path: Path) -> None:
    refused(target, tmp_path / "none.pth", "there is no weights file")
    (tmp_path / "text.pth").write_text("<html>404</html>")
    refused(target, tmp_path / "text.pth", "is damaged or no torch file")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    refused(target, tmp_path / "list.pth", "holds no state dict but list")
    torch.save({"epoch": 3, "weight": torch.zeros(1)}, tmp_path / "dict.pth")
    refused(target, tmp_path / "dict.pth", "entry 'epoch' is int, not a tensor")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    refused(target, tmp_path / "resnet.pth", r"has no entry of HRNet \(its first is fc.weight\)")


@pytest.mark.parametrize("backbone", [False, True])
def test_weights_of_another_width(target: HRNetSegmentor, tmp_path: Path, backbone: bool) -> None:
    for width in ("w18", "w48"):
        # Zeros take no room in the file if they are one number, expanded.
        with torch.device("meta"):
            shapes = HRNetSegmentor(width, 4)
        entries = (shapes.backbone if backbone else shapes).state_dict()
        zero = torch.zeros(())
        torch.save({name: zero.expand(t.shape) for name, t in entries.items()}, tmp_path / "w.pth")
        refused(target, tmp_path / "w.pth", f"holds weights of width {width}, the model is w18-small")


def test_weights_that_do_not_fit(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    save_weights(build_model("w18-small", 19, seed=0), path)
    refused(target, path, "predicts 19 classes, the model 4")
    entries = source.state_dict()
    torch.save({**entries, "auxiliary_head.conv.weight": torch.zeros(1)}, path)
    refused(target, path, "has the entry auxiliary_head.conv.weight")
    torch.save({**entries, "backbone.bn2.weight": torch.zeros(7)}, path)
    refused(target, path, r"the shape of backbone.bn2.weight is \(7,\), the model's \(64,\)")
    del entries["backbone.bn1.running_mean"]
    torch.save(entries, path)
    refused(target, path, "is incomplete: it lacks backbone.bn1.running_mean")


def test_hash_of_a_local_file(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path) -> None:
    save_weights(source, tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    load_weights(target, tmp_path / "w.pth", sha256_prefix=digest[:8].upper())
    with pytest.raises(WeightsError, match="expected 00000000"):
        load_weights(target, tmp_path / "w.pth", sha256_prefix="00000000")
