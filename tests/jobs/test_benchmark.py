"""`hrgrid benchmark`: the figure, its conditions, and the published one beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from jobs.cli import main

NAME = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
SMALL = ["--set", "test_scale=64x32", "--device", "cpu"]


def measured(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["benchmark", NAME, *SMALL, *words, "--json"]) == 0
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    return facts


def test_speed_with_its_conditions(capsys: pytest.CaptureFixture[str]) -> None:
    facts = measured(capsys, "--images", "4", "--size", "48x96")
    assert facts["fps"] > 0
    assert facts["train_mem_gb"] is None
    assert facts["published"]["fps"] == 23.74
    timed = facts["fps_conditions"]
    assert (timed["timed_images"], timed["warm_up_images"], timed["weights"]) == (2, 2, "random")
    assert (timed["original_sizes"], timed["network_sizes"]) == (["48x96"], ["32x64"])
    assert facts["conditions"]["torch"] == torch.__version__
    assert facts["fps"] == pytest.approx(2 / timed["seconds"])


def test_images_of_a_prepared_data_set(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    drawn, prepared = str(tmp_path / "native"), str(tmp_path / "prepared")
    assert main(["data", "synth", "cityscapes", "--to", drawn, "--train", "1", "--val", "2", "--size", "64x128"]) == 0
    assert main(["data", "prepare", drawn, "--to", prepared, "--partial"]) == 0
    capsys.readouterr()
    facts = measured(capsys, "--images", "5", "--data", prepared, "--what", "fps")
    assert facts["fps_conditions"]["original_sizes"] == ["64x128"]
    assert facts["fps_conditions"]["timed_images"] == 3, "two images are shown over and over"
    assert prepared in facts["fps_conditions"]["images"]


def test_on_a_cpu_there_is_no_training_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", NAME, "--what", "memory", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "n/a on CPU" in said
    assert "not comparable with" in said
    assert "images per second" not in said


def test_progress_and_the_figure_beside_the_published_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs._progress.PLAIN_SECONDS", 0.0)
    assert main(["benchmark", NAME, *SMALL, "--images", "2", "--size", "32x64"]) == 0
    said, progress = capsys.readouterr()
    assert "timing images: 2 of 2" in progress
    assert "timing images" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("images per second")]
    assert line.endswith("23.74")
    assert "V100" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([NAME, "--what", "speed"], "'speed' is not one of memory, fps or memory,fps"),
        ([NAME, "--size", "8x8"], "'8x8' is no size of 32 to 16384 pixels such as 1024x2048"),
        ([NAME, "--images", "0"], "'0' is no whole number of 1 or more"),
        ([NAME + "4"], f"did you mean '{NAME}'?"),
        ([NAME, "--set", "test_mode=slide"], "test_mode slide needs slide_crop and slide_stride"),
        ([NAME, "--data", "/nowhere"], "/nowhere"),
        pytest.param(
            [NAME, "--device", "cuda"], "torch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_measured(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
