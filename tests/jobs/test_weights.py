"""`hrgrid weights` and `hrgrid evaluate` on files: from elsewhere, to elsewhere, and against the published table."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch

from hrnet.catalogue import recipe
from hrnet.data.cards import cards
from hrnet.data.writer import encode, write_dataset
from hrnet.evaluation.inference import segment
from hrnet.model.segmentor import build_model
from hrnet.published import published
from hrnet.weightsfile import open_weights
from jobs.cli import main
from tests.hrnet.fill import fill, image

HR18S = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
SMALL = ("--set", "test_scale=128x64", "--set", "tta_ratios=1.0", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared Cityscapes of 2 validation images, and a checkpoint in OpenMMLab's form whose weights are random."""
    made = tmp_path_factory.mktemp("weights")
    argv = ["data", "synth", "cityscapes", "--to", str(made / "cityscapes"), "--train", "2", "--val", "2"]
    assert main([*argv, "--size", "64x128"]) == 0
    assert main(["data", "prepare", str(made / "cityscapes"), "--to", str(made / "prepared"), "--partial"]) == 0
    model = build_model("w18-small", 19, seed=0)
    meta = {
        "mmseg_version": "0.5.0",
        "config": "norm_cfg = dict()\n" * 40,
        "CLASSES": tuple(f"c{i}" for i in range(19)),
    }
    torch.save({"meta": meta, "state_dict": model.state_dict(), "optimizer": {"lr": 0.1}}, made / "theirs.pth")
    return made


def run(argv: list[str | Path], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in argv])
    return (code, *capsys.readouterr())


def evaluate(folder: Path, weights: str | Path, *more: str) -> list[str | Path]:
    return ["evaluate", HR18S, "--weights", weights, "--data", folder / "prepared", *SMALL, *more]


def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["weights", "show", folder / "theirs.pth"], capsys)
    assert code == 0
    for line in (
        "origin: OpenMMLab 0.x",
        "kind: segmentor",
        "width: w18-small",
        "num_classes: 19",
        "beside: optimizer",
    ):
        assert line in out.splitlines()
    assert "  config: norm_cfg = dict()... (" in out
    facts = json.loads(run(["weights", "show", folder / "theirs.pth", "--json"], capsys)[1])
    assert facts["sha256"] == hashlib.sha256((folder / "theirs.pth").read_bytes()).hexdigest()
    assert facts["parameters"] == 3_939_309
    code, _, error = run(["weights", "show", folder / "theirs.pth", "--sha256", "00000000"], capsys)
    assert (code, "expected 00000000" in error) == (2, True)


def test_import_then_export(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(["weights", "import", folder / "theirs.pth", "-o", tmp_path / "ours.pth"], capsys)
    assert code == 0
    assert "loaded: 872 of 872 entries (backbone 864, decode_head 8)" in out
    assert "ignored: optimizer 1: state of the training that wrote the file" in out
    ours = open_weights(tmp_path / "ours.pth")
    assert (ours.origin, ours.trained_here, ours.classes[18]) == ("hrgrid", False, "c18")
    code, out, _ = run(["weights", "export", tmp_path / "ours.pth", "-o", tmp_path / "out.safetensors"], capsys)
    assert code == 0
    source = torch.load(folder / "theirs.pth", weights_only=True)["state_dict"]
    assert all(
        torch.equal(tensor, source[n]) for n, tensor in open_weights(tmp_path / "out.safetensors").entries.items()
    )
    code, out, _ = run(
        ["weights", "export", tmp_path / "out.safetensors", "-o", tmp_path / "x.onnx", "--json"], capsys
    )
    assert (code, json.loads(out)["width"]) == (0, "w18-small")
    onnx.checker.check_model(str(tmp_path / "x.onnx"))


def test_a_backbone_is_converted_to_a_start_of_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = build_model("w18-small", 2, seed=0).backbone.state_dict()
    entries = {**{f"module.{n}": t for n, t in backbone.items()}, "module.classifier.weight": torch.zeros(3)}
    torch.save({"state_dict": entries}, tmp_path / "b.pth")
    code, out, _ = run(["weights", "import", tmp_path / "b.pth", "-o", tmp_path / "ours.pth"], capsys)
    assert code == 0
    assert "ignored: classifier 1: classification head of the backbone's pretraining" in out
    assert set(open_weights(tmp_path / "ours.pth").entries) == set(backbone)
    code, _, error = run(["weights", "export", tmp_path / "b.pth", "-o", tmp_path / "x.onnx"], capsys)
    assert (code, "is a backbone without the head" in error) == (2, True)


def test_weights_that_do_not_score_as_published(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights: a low score, exit code 1, and what is wrong; a changed recipe is said to be not comparable."""
    code, out, _ = run(evaluate(folder, folder / "theirs.pth", "--ms-flip"), capsys)
    assert code == 1
    assert "loaded: 872 of 872 entries" in out
    assert "nothing can be said of your data: test_scale 128x64 instead of 2048x1024" in out
    assert "2 of 500 val images of Cityscapes" in out
    assert "mIoU ms+flip" in out
    assert ", 73.86 published" in out
    assert ", 75.91 published" in out
    facts = json.loads(run(evaluate(folder, folder / "theirs.pth", "--json"), capsys)[1])
    assert facts["verdict"]["right"] is False
    assert facts["verdict"]["causes"]


@pytest.mark.parametrize("shift", [0, 1])
def test_labels_that_were_not_reduced_are_found(
    shift: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network is its own ground truth; with its classes moved up by one, the confusion matrix says so."""
    model = build_model("w18-small", 19, seed=0)
    fill(model)
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    known = recipe(HR18S).with_overrides({"test_scale": "128x64"})
    samples = []
    for index in range(2):
        pixels = image(f"own truth {index}", 64, 128)
        label = np.minimum(segment(model.eval(), pixels, known) + shift, 18).astype(np.uint8)
        samples.append(encode(f"s{index}", cv2.imencode(".png", pixels)[1].tobytes(), label, 19))
    write_dataset(tmp_path / "prepared" / "cityscapes", cards()["cityscapes"], {"train": samples, "val": samples})
    code, out, _ = run(evaluate(tmp_path, tmp_path / "theirs.pth", "--json"), capsys)
    facts = json.loads(out)
    assert code == 1, "on another test scale and two images nothing is called right"
    if shift:
        assert facts["verdict"]["causes"][0].startswith("labels are shifted by one")
        assert "reduce_zero_label was not applied" in facts["verdict"]["causes"][0]
    else:
        assert facts["metrics"]["val/mIoU"] == 100
        assert "shifted" not in str(facts["verdict"])


def test_scores_of_nothing_are_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = cv2.imencode(".png", image("ignored", 64, 128))[1].tobytes()
    samples = [encode("s", png, np.full((64, 128), 255, np.uint8), 19)]
    write_dataset(tmp_path / "prepared" / "cityscapes", cards()["cityscapes"], {"train": samples, "val": samples})
    out = run(evaluate(tmp_path, folder / "theirs.pth", "--json"), capsys)[1]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    facts = json.loads(out, parse_constant=refuse)
    assert facts["metrics"]["val/mIoU"] is None
    assert "no pixel was compared" in facts["verdict"]["causes"][0]


def test_weights_trained_here_are_not_held_against_the_table(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = torch.load(folder / "theirs.pth", weights_only=True)
    torch.save({"meta": {"format": "hrgrid"}, "state_dict": theirs["state_dict"]}, tmp_path / "own.pth")
    code, out, _ = run(evaluate(folder, tmp_path / "own.pth"), capsys)
    assert code == 0
    assert "your data" not in out


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a local server serves in place of the publisher."""
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "served"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(root))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("HRGRID_WEIGHTS_MIRROR", f"http://127.0.0.1:{server.server_address[1]}")
        yield root
        server.shutdown()
        thread.join()


def test_published_weights_come_from_the_mirror_and_are_held_to_their_hash(
    folder: Path, mirror: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = published(HR18S)
    assert row is not None
    code, _, error = run(evaluate(folder, "published"), capsys)
    assert code == 2
    assert "the server answers 404" in error
    assert "http://127.0.0.1:" in error
    served = mirror / row.checkpoint.removeprefix("https://download.openmmlab.com/")
    served.parent.mkdir(parents=True)
    shutil.copy(folder / "theirs.pth", served)
    code, _, error = run(evaluate(folder, "published"), capsys)
    assert code == 2
    assert "expected 93db27d0" in error
    assert len(error.splitlines()) == 1
    # The cache holds what once had the right hash; anything else put there is not trusted either.
    url = f"http://{error.split('http://')[1].split('/')[0]}/{served.relative_to(mirror)}"
    hashed = hashlib.sha256(served.read_bytes()).hexdigest()[:8]
    good = served.with_name(f"theirs-{hashed}.pth")
    served.rename(good)
    code, out, _ = run(evaluate(folder, url.replace(served.name, good.name)), capsys)
    assert code == 1
    assert f"theirs-{hashed}.pth (OpenMMLab 0.x" in out


def test_a_recipe_without_a_row_has_no_published_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said before the data set is needed: nobody should prepare Pascal Context for this answer."""
    argv: list[str | Path] = ["evaluate", "fcn_hr18_4xb4-40k_pascal-context-480x480", "--weights", "published"]
    code, _, error = run([*argv, "--data", folder / "prepared"], capsys)
    assert code == 2
    assert "has no row in the published table" in error


def test_missing_data_are_named_before_weights_are_fetched(mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv: list[str | Path] = [
        "evaluate",
        HR18S,
        "--weights",
        "published",
        "--data",
        mirror / "none",
        "--device",
        "cpu",
    ]
    code, _, error = run(argv, capsys)
    assert (code, len(error.splitlines())) == (2, 1)
    assert "holds no prepared data set 'cityscapes'" in error


def test_predict_says_what_it_loaded_and_where_it_cannot_compute(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 60, 3), np.uint8))
    argv: list[str | Path] = ["predict", folder / "theirs.pth", tmp_path / "a.png", "--recipe", HR18S, "--to"]
    code, _, error = run([*argv, tmp_path / "out", "--device", "cuda:7"], capsys)
    assert (code, "there is no device 'cuda:7' here" in error) == (2, True)


def test_weights_that_cannot_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(["weights", "show", "nothing", "--storage", tmp_path / "none"], capsys)
    assert (code, len(error.splitlines())) == (2, 1)
    assert "'nothing' is no file" in error
