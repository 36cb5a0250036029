"""The `hrgrid` command itself: help, exit codes, near misses."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import COMMANDS, main
from orchestrator.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one error line; anything else on stderr is a failure."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("hrgrid: error: ")
    return lines[0].removeprefix("hrgrid: error: ")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in shown
        assert text in shown


def test_without_a_command_the_overview_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: hrgrid COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(COMMANDS[name][0])
    with pytest.raises(SystemExit) as leaving:
        main([name, "--help"])
    assert leaving.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"usage: hrgrid {name}" in shown
    assert module.HELP.split(".")[0] in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_module_to_run(name: str) -> None:
    module = COMMANDS[name][0]
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"usage: hrgrid {name}" in done.stdout


@pytest.mark.parametrize(("word", "near"), [("lunch", "launch"), ("stat", "status"), ("recipe", "recipes")])
def test_a_mistyped_command_gets_a_suggestion(word: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert complaint(capsys) == f"no command {word!r}; did you mean {near!r}?"


@pytest.mark.parametrize(
    ("argv", "near"),
    [
        (["launch", "--widht", "w18"], "--width"),
        (["plan", "--worker=2"], "--workers"),
        (["recipes", "--jsn"], "--json"),
        (["data", "prepare", "x", "--dataste", "ade20k", "--to", "y"], "--dataset"),
    ],
)
def test_a_mistyped_option_gets_a_suggestion(argv: list[str], near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    said = complaint(capsys)
    assert f"did you mean {near}?" in said
    assert "--help" in said


def test_an_option_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--stor", "x"]) == 2
    assert "--storage" in complaint(capsys)


def test_exit_codes_of_what_goes_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from jobs import status

    def fail_with(error: BaseException) -> None:
        def run(args: object) -> int:
            raise error

        monkeypatch.setattr(status, "run", run)

    fail_with(UsageError("mend this"))
    assert main(["status"]) == 2
    assert complaint(capsys) == "mend this"
    fail_with(KeyboardInterrupt())
    assert main(["status"]) == 130
    assert capsys.readouterr().err == "hrgrid: interrupted\n"
    fail_with(RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        main(["status"])


def test_a_defect_keeps_its_traceback() -> None:
    code = "from jobs import status; from jobs.cli import main\nstatus.run = lambda args: 1 / 0\nmain(['status'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "from jobs.cli import main; import sys; sys.exit(main(['recipes', '--json']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("hrgrid ")


def test_defaults_come_from_the_environment(tmp_path: Path) -> None:
    env = {**os.environ, "HRGRID_STORAGE": str(tmp_path / "elsewhere")}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "status"], cwd=ROOT, capture_output=True, text=True, timeout=60, env=env
    )
    assert done.returncode == 2
    assert str(tmp_path / "elsewhere") in done.stderr


def test_recipes_prints_the_whole_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    recipes = json.loads(capsys.readouterr().out)
    assert len(recipes) == 45
    assert sum(recipe["published"] is not None for recipe in recipes) == 37
    assert recipes[0]["table"]["Backbone"] == "HRNetV2p-W18-Small"
    assert recipes[0]["table"]["checkpoint"].endswith("-93db27d0.pth")
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("45 recipes")
    assert lines[1].split() == [
        "fcn_hr18s_4xb2-40k_cityscapes-512x1024", "cityscapes", "w18-small", "40k", "512x1024", "8", "73.86", "75.91",
    ]  # fmt: skip


def test_recipes_filters_and_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    name = "fcn_hr48_4xb4-80k_ade20k-512x512"
    assert main(["recipes", "--dataset", "ade20k", "--width", "w48", "--schedule", "80k", "--json"]) == 0
    assert [recipe["name"] for recipe in json.loads(capsys.readouterr().out)] == [name]
    assert main(["recipes", name, "--set", "lr=0.02", "--set", "*hr18*:lr=7", "--json"]) == 0
    recipe = json.loads(capsys.readouterr().out)
    assert recipe["lr"] == 0.02
    assert recipe["published"]["val/mIoU"] == 41.90
    assert main(["recipes", name]) == 0
    assert "num_classes: 150" in capsys.readouterr().out
