"""Preparing on a cluster's CPUs: the same data set byte for byte, also when a process that converts is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hrnet.data.prepare.run import prepare
from hrnet.data.synthetic import synthesise
from jobs.cli import main
from orchestrator.tasks import Task, Tasks, tasks

pytestmark = pytest.mark.ray


class Deadly:
    """Workers of which the first two to have done something are killed before they can say so."""

    load = 1 << 18

    def __init__(self, workers: Tasks, folder: Path) -> None:
        self.at_once = workers.at_once
        self._workers, self._folder = workers, folder

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Task:
        return self._workers.submit(_killed_at_first, self._folder, function, *args)


def _killed_at_first(folder: Path, function: Callable[..., Any], *args: Any) -> Any:
    result = function(*args)
    for name in ("first", "second"):
        try:
            (folder / name).touch(exist_ok=False)
        except FileExistsError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def test_prepared_by_tasks_two_of_which_are_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesise("cityscapes", tmp_path / "raw", train=20, val=4, size=(128, 256), seed=1)
    (tmp_path / "killed").mkdir()
    prepare(tmp_path / "raw", tmp_path / "plain", dataset="cityscapes", partial=True, workers=1)
    with tasks("local") as workers:
        deadly = Deadly(workers, tmp_path / "killed")
        prepare(tmp_path / "raw", tmp_path / "out", dataset="cityscapes", partial=True, elsewhere=deadly)
        assert len(list((tmp_path / "killed").iterdir())) == 2
        assert workers.blind(str(tmp_path / "raw")) == []
        assert len(workers.blind(str(tmp_path / "nothing"))) == 1
        # The command meets the cluster that is there.
        monkeypatch.chdir(tmp_path)
        words = ["data", "prepare", "raw", "--to", "below", "--dataset", "cityscapes", "--partial"]
        assert main([*words, "--address", "local"]) == 0
    assert "20 train, 4 val images in" in capsys.readouterr().out
    for file in (tmp_path / "plain").iterdir():
        for folder in (tmp_path / "out", tmp_path / "below" / "cityscapes"):
            assert (folder / file.name).read_bytes() == file.read_bytes(), file.name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "killed", "out", "plain", "raw"]
