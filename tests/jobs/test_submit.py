"""What `hrgrid submit` refuses before anything is sent; the sending itself is tested in tests/integration."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.submit import SUBMITTABLE, _check_reach
from orchestrator.errors import UsageError

STORED = ("--storage", "s3://bucket/results")


@pytest.fixture(autouse=True)
def _no_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HRGRID_DATA", "HRGRID_STORAGE", "HRGRID_TRACKING", "HRGRID_BENCHMARK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(Path(__file__).parents[2])


def refused(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["submit", "--address", "http://127.0.0.1:9", *argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("hrgrid: error: ")


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], list(SUBMITTABLE)),
        (["lunch"], ["'lunch'", "did you mean 'launch'?"]),
        (["ui"], ["'ui'"]),
        (["launch", "--widht", "w18", *STORED], ["hrgrid launch", "did you mean --width?"]),
        (["launch", "--data", "/data"], ["--storage", "HRGRID_STORAGE"]),
        (["launch", "--storage", "results"], ["--storage results", "in full"]),
        (["launch", "--data=prepared", *STORED], ["--data prepared", "in full"]),
        (["data", "prepare", "/raw", "--to", "prepared"], ["--to prepared", "in full"]),
        (["launch", "--tracking", "http://me:secret@host:5000", *STORED], ["password"]),
        (
            ["launch", "--set", "pretrained=https://h/f.pth?X-Amz-Signature=secret", *STORED],
            ["h/f.pth holds", "nodes"],
        ),
        (["launch", *STORED], ["--data", "HRGRID_DATA"]),
        (["launch", "--data", "/data", "--set", "lr", *STORED], ["lr"]),
        (["data", "prepare", "/raw", "--to", "/out", "--card", "pyproject.toml"], ["pyproject.toml", "in full"]),
        (["evaluate", "x", "--weights=docs/index.md", *STORED], ["docs/index.md", "in full"]),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_refused_before_anything_is_sent(
    argv: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(argv, capsys)
    for part in parts:
        assert part in said
    assert "secret" not in said


@pytest.mark.parametrize("tracking", ["sqlite:////data/mlflow.db", "http://localhost:5000", "http://127.0.0.1:5000"])
def test_a_tracking_store_that_one_machine_of_several_reaches_is_refused(tracking: str) -> None:
    words = ("launch", "--tracking", tracking)
    with pytest.raises(UsageError, match="another one on each of the cluster's 2 machines"):
        _check_reach(words, ["a", "b"])
    _check_reach(words, ["a"])
    _check_reach(("launch", "--tracking", "http://10.0.0.5:5000"), ["a", "b"])
    _check_reach(("launch",), ["a", "b"])


def test_data_that_is_missing_on_the_only_machine_is_told(tmp_path: Path) -> None:
    words = ("launch", "--data", f"{tmp_path}/data")
    with pytest.raises(UsageError, match="is not there; the cluster is this machine alone"):
        _check_reach(words, [socket.gethostname()])
    _check_reach(words, ["another"])
    (tmp_path / "data").mkdir()
    _check_reach(words, [socket.gethostname()])


def test_places_of_the_environment_are_held_to_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HRGRID_STORAGE", "results")
    assert "--storage results" in refused(["status"], capsys)


@pytest.mark.parametrize("argv", [["jobs"], ["logs", "a-job"], ["stop", "a-job"], ["submit", "status", *STORED]])
def test_a_cluster_that_is_not_there(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert main([argv[0], "--address", address, *argv[1:]]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hrgrid: error: ")]
    assert len(said) == 1
    assert address in said[0]
