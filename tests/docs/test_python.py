"""docs/python.md: its commands and its Python, one block after the other, in one process."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from jobs.cli import main
from tests.docs.blocks import blocks


def test_examples_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("docs/python.md"):
        if block.language == "sh":
            for command in block.commands:
                program, *words = shlex.split(command)
                assert program == "hrgrid"
                assert main(words) == 0
        else:
            code = compile(block.text, f"docs/python.md:{block.line}", "exec")
            exec(code, names)
    said = capsys.readouterr().out
    assert "8 lo" in said or "(128, 128, 3) (128, 128)" in said
    assert "max_iters 20 instead of 80000" in said
    assert "(128, 128) uint8" in said
    assert "(1, 7, 32, 32)" in said
    assert (tmp_path / "loveda.pth").is_file()
