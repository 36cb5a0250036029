"""Every mistake gives one sentence (what, where, what to do) and exit code 2, and leaves nothing half written."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from jobs.cli import main

HR18S = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
QUICK = ("--set", "pretrained=none", "--set", "max_iters=4", "--set", "batch_size=4", "--set", "crop=64x64")


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic Cityscapes as it would be downloaded."""
    folder = tmp_path_factory.mktemp("drawn") / "cityscapes"
    argv = ["data", "synth", "cityscapes", "--to", str(folder), "--train", "3", "--val", "2", "--size", "64x128"]
    assert main(argv) == 0
    return folder


@pytest.fixture(scope="session")
def prepared(drawn: Path) -> Path:
    """A folder of prepared data sets that holds Cityscapes."""
    folder = drawn.parent / "prepared"
    assert main(["data", "prepare", str(drawn), "--to", str(folder), "--partial"]) == 0
    return folder


@pytest.fixture
def copied(drawn: Path, tmp_path: Path) -> Path:
    """A copy of the drawn data set, to be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / "copy"))


def refused(argv: Sequence[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with one sentence; return the sentence."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("hrgrid: error: ")
    assert "Traceback" not in lines[0]
    return lines[0].removeprefix("hrgrid: error: ")


def launch(data: Path, storage: Path, *more: str, names: Sequence[str] = (HR18S,)) -> list[str]:
    return ["launch", *names, "--data", str(data), "--storage", str(storage), "--yes", *QUICK, *more]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["recipes", "fcn_hr18s_4xb2-40k_cityscape-512x1024"], ["cityscape-512x1024", f"did you mean '{HR18S}'?"]),
        (["recipes", "--dataset", "citiscapes"], ["'citiscapes'", "did you mean 'cityscapes'?"]),
        (["recipes", "--width", "w19"], ["'w19'", "did you mean 'w18'?"]),
        (["recipes", "--schedule", "41k"], ["'41k'", "did you mean '40k'?"]),
        (["plan", "fcn_hr18s_4xb2-40k_cityscape-512x1024"], [f"did you mean '{HR18S}'?"]),
        (["plan", "--dataset", "ade2k"], ["'ade2k'", "did you mean 'ade20k'?"]),
        (["plan", "--width", "w84"], ["'w84'", "did you mean 'w48'?"]),
        (["plan", "--dataset", "loveda", "--schedule", "40k"], ["loveda", "40k", "loosen"]),
        (["plan", HR18S, "--set", "max_iter=5"], [HR18S, "'max_iter'", "did you mean 'max_iters'?"]),
        (["plan", HR18S, "--set", "max_iters"], ["'max_iters'", "KEY=VALUE"]),
        (["plan", HR18S, "--set", "max_iters=soon"], [HR18S, "max_iters", "'soon'", "whole number"]),
        (["plan", HR18S, "--set", "lr=-1"], [HR18S, "lr", "-1"]),
        (["plan", HR18S, "--set", "crop=256"], ["crop", "'256'", "512x1024"]),
        (["plan", HR18S, "--set", "width=w48"], ["width", "cannot be set"]),
        (["plan", HR18S, "--set", "*hr81*:lr=0.1"], ["'*hr81*'", "no"]),
        (["plan", HR18S, "--workers", "3"], [HR18S, "3 workers", "batch of 8", "1, 2, 4 or 8"]),
        (["plan", HR18S, "--workers", "none"], ["'none'"]),
        (["plan", HR18S, "--seeds", "0,zero"], ["'0,zero'", "0,1,2"]),
        (["plan", HR18S, "--cluster", "eight"], ["'eight'", "gpus=8"]),
        (["plan", HR18S, "--cluster", "cpus=4", "--workers", "8"], [HR18S, "8 workers", "has 4", "--workers 4"]),
        (
            ["plan", HR18S, "--cluster", "gpus=4,memory=1", "--workers", "4"],
            [HR18S, "GB", "--workers 8 would fit, on 8 such GPUs"],
        ),
        (["plan", HR18S, "--cluster", ""], ["cluster ''", "gpus=8"]),
        (["plan", HR18S, "--seeds", "9223372036854775808"], ["seed above 9223372036854775807"]),
        (["plan", HR18S, "--name", "two words"], ["'two words'"]),
        (["plan", HR18S, "--storage", "ftp://somewhere"], ["'ftp://somewhere'", "s3://bucket/prefix"]),
        (["plan", HR18S, "--tracking", "file:/tmp/runs"], ["file:/tmp/runs", "sqlite"]),
        (["launch", HR18S], ["no data", "--data"]),
        (["report", "--format", "pdf"], ["'pdf'", "html"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_what_cannot_be(
    argv: list[str],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(argv, capsys)
    for part in parts:
        assert part in said
    assert not list(tmp_path.iterdir()), "something was left behind"


@pytest.mark.parametrize(
    "argv",
    [["status"], ["report"], ["ui"], ["predict", "nothing.pth", "image.png", "--to", "out"]],
    ids=lambda v: v[0],
)
def test_nothing_there_yet(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(argv, capsys)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("no image")
    said = refused(["data", "prepare", tmp_path / "photos", "--to", tmp_path / "to"], capsys)
    assert str(tmp_path / "photos") in said
    said = refused(
        ["data", "prepare", tmp_path / "photos", "--dataset", "cityscapes", "--to", tmp_path / "to"], capsys
    )
    assert "leftImg8bit" in said
    assert not (tmp_path / "to").exists()
    said = refused(["data", "check", tmp_path / "photos"], capsys)
    assert "hrgrid data prepare" in said
    said = refused(launch(tmp_path / "photos", tmp_path / "results"), capsys)
    assert "'cityscapes'" in said
    assert not (tmp_path / "results").exists()


def test_where_to_get_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "sources"]) == 0
    out = capsys.readouterr().out
    for known in ("gtFine_trainvaltest.zip", "https://zenodo.org", "DOTA", "trainval_merged.json", "non-commercial"):
        assert known in out
    assert main(["data", "sources", "voc12aug", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["voc12aug"]["files"][1] == "benchmark.tgz"
    assert "'voc12aug'" in refused(["data", "sources", "voc12"], capsys)


def _image(folder: Path) -> Path:
    return sorted(folder.glob("leftImg8bit/train/*/*.png"))[0]


def _label(folder: Path) -> Path:
    return sorted(folder.glob("gtFine/train/*/*_labelTrainIds.png"))[0]


def _empty(folder: Path) -> Path:
    _image(folder).write_bytes(b"")
    return _image(folder)


def _truncated(folder: Path) -> Path:
    path = _image(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def _missing(folder: Path) -> Path:
    path = _label(folder)
    for label in path.parent.glob(path.name.replace("labelTrainIds.png", "*")):
        label.unlink()
    return _image(folder)


def _other_size(folder: Path) -> Path:
    path = _label(folder)
    cv2.imwrite(str(path), np.zeros((32, 64), np.uint8))
    return path


def _no_class(folder: Path) -> Path:
    path = _label(folder)
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert label is not None
    label[0, 0] = 77
    cv2.imwrite(str(path), label)
    return path


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (_empty, "empty"),
        (_truncated, "truncated"),
        (_missing, "no label"),
        (_other_size, "64x32"),
        (_no_class, "77"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_images_and_labels(
    damage: object, part: str, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    path = damage(copied)
    said = refused(["data", "prepare", copied, "--to", tmp_path / "to", "--partial"], capsys)
    assert part in said
    assert path.name in said
    assert not list(tmp_path.glob("to/**/*.parquet")), "a half-written data set was left behind"
    assert not list(tmp_path.glob("to/**/manifest.json"))


def test_a_damaged_prepared_data_set(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(prepared, tmp_path / "prepared"))
    shard = next(copy.glob("cityscapes/train-*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(bytes(content))
    assert main(["data", "check", str(copy / "cityscapes")]) == 2
    assert shard.name in capsys.readouterr().out
    said = refused(launch(copy, tmp_path / "results"), capsys)
    assert shard.name in said
    assert not (tmp_path / "results").exists()


def test_an_unwritable_storage(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    said = refused(launch(prepared, blocked / "results"), capsys)
    assert str(blocked / "results") in said
    assert blocked.read_text() == "not a folder"


def test_a_tracking_server_that_is_not_there(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    storage = tmp_path / "results"
    said = refused(launch(prepared, storage, "--tracking", f"http://127.0.0.1:{port}"), capsys)
    assert f"http://127.0.0.1:{port}" in said
    assert "hrgrid serve" in said
    assert not [path for path in storage.rglob("*") if path.is_file()]


def test_workers_that_do_not_divide_and_gangs_that_cannot_fit(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "results"
    said = refused(launch(prepared, storage, "--workers", "3"), capsys)
    assert "batch of 4" in said
    said = refused(launch(prepared, storage, "--workers", "4", "--cluster", "cpus=2"), capsys)
    assert "the cluster has 2" in said
    said = refused(launch(prepared, storage, "--workers", "1", "--cpus-per-worker", "9999"), capsys)
    assert "9999 CPU cores" in said
    assert not storage.exists()


def test_weights_that_cannot_be_used(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["evaluate", HR18S, "--data", prepared, "--storage", tmp_path / "results", "--weights"]
    said = refused([*argv, "fcn_hr18"], capsys)
    assert "'fcn_hr18'" in said
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"no weights")
    said = refused([*argv, broken], capsys)
    assert "broken.pth" in said
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))
    said = refused(["predict", broken, image, "--to", tmp_path / "out"], capsys)
    assert "--recipe" in said
    said = refused(["predict", broken, tmp_path / "absent.png", "--to", tmp_path / "out"], capsys)
    assert "absent.png" in said
    assert not (tmp_path / "out").exists()


def test_plan_as_json_says_the_same(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = launch(prepared, tmp_path / "results", "--cluster", "cpus=4,workers=2")[1:]
    capsys.readouterr()
    assert main(["plan", *[word for word in argv if word != "--yes"], "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["counts"] == {"run": 1, "resume": 0, "skip": 0, "blocked": 0}
    assert facts["cells"][0]["cell"] == HR18S
    assert facts["cells"][0]["iterations"] == 4
    assert facts["cells"][0]["cpus_per_worker"] == 2
    assert any("max_iters 4 instead of 40000" in reason for reason in facts["cells"][0]["not_comparable"])
    assert not (tmp_path / "results").exists()
