"""`hrgrid benchmark --suite`: the table, the file beside it, the trend, and the peer where there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hrnet.suite.peer import DEFAULT_PEER
from hrnet.suite.run import PARTS as SCIENCE
from hrnet.suite.table import FORMAT
from jobs._suite import PARTS
from jobs._suiteparts import PLATFORM
from jobs.cli import main

NOWHERE = "/nowhere/bin/python"
QUICK = ["benchmark", "--suite", "--quick", "--rounds", "1", "--threads", "1", "--width", "w18-small"]
ALONE = [*QUICK, "--device", "cpu", "--peer", NOWHERE]


def test_table_file_and_trend(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = tmp_path / "first.json"
    assert main([*ALONE, "--parts", "metric,data,checkpoint", "-o", str(first)]) == 0
    said, _ = capsys.readouterr()
    head, *lines = said.splitlines()
    assert head.split() == ["part", "what", "how", "ours", "+-", "goal", "reached"]
    assert [line.split()[0] for line in lines[:10]] == ["metric", *["data"] * 8, "checkpoint"]
    assert "make peer" in said, "why there is no peer"
    found = json.loads(first.read_text())
    assert (found["format"], found["conditions"]["peer"], found["conditions"]["threads"]) == (FORMAT, None, 1)
    assert found["conditions"]["torch"] == torch.__version__
    metric = found["rows"][0]
    assert (metric["unit"], metric["ratio"], metric["peer"]) == ("ms", None, None)
    assert metric["ours"]["low"] <= metric["ours"]["median"] <= metric["ours"]["high"]
    assert len(metric["ours"]["turns"]) == 1
    half = {**found, "rows": [{**metric, "ours": {**metric["ours"], "median": 1e9}}]}
    first.write_text(json.dumps(half))
    assert main([*ALONE, "--parts", "metric", "--against", str(first)]) == 0
    head, line, *_ = capsys.readouterr().out.splitlines()
    assert head.endswith("since")
    assert float(line.split()[-1].removesuffix("x")) > 1000, "far faster than the file says it was"


def test_platform(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ALONE, "--parts", "plan,grid", "--json"]) == 0
    plan, *grid = json.loads(capsys.readouterr().out)["rows"]
    assert (plan["case"], plan["unit"]) == ("10 cells, 64 GPUs", "ms")
    assert [row["case"] for row in grid] == ["45 cells, 8 GPUs", "45 cells, 16 GPUs"]
    assert all(1 <= row["ours"]["median"] <= 1.05 and row["reached"] for row in grid)


def test_network_without_platform(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    program = (
        "import sys, hrnet.suite.__main__ as suite; code = suite.main(sys.argv[1:]); "
        "assert not {'ray', 'mlflow', 'orchestrator', 'rich', 'boto3'} & set(sys.modules); sys.exit(code)"
    )
    words = [*ALONE[2:], "--parts", "train,inference", "--profile", "-o", str(output)]
    done = subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(output.read_text())
    rows = found["rows"]
    assert [(row["part"], row["way"]) for row in rows] == [
        (part, way) for part in ("train", "inference") for way in ("fp32", "bf16")
    ]
    assert all(0 < row["limit"] < 1.5 and row["reached"] is None for row in rows)
    steps = {profile["what"]: profile["places"] for profile in found["profiles"]}
    assert {what.split()[0] for what in steps} == {"train", "inference"}
    assert any("convolution" in place["name"] for places in steps.values() for place in places)
    assert "1 of 2: train: w18-small 64x64 batch 2, fp32" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["benchmark"], "takes the NAME of a recipe or --suite"),
        ([*ALONE, "fcn_hr18s_4xb2-40k_cityscapes-512x1024"], "takes the NAME of a recipe or --suite"),
        ([*ALONE, "--parts", "metrics"], "the suite has no part 'metrics'; did you mean 'metric'?"),
        ([*ALONE, "--against", "/nowhere/figures.json"], "/nowhere/figures.json holds no figures of an earlier run"),
        ([*ALONE, "-o", "/nowhere/figures.json"], "there is no folder /nowhere"),
        ([*QUICK, "--peer", sys.executable, "--parts", "metric"], "No module named"),
    ],
)
def test_what_cannot_be_measured(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said


def test_parts_are_those_that_there_are() -> None:
    assert (*SCIENCE, *PLATFORM) == PARTS


@pytest.mark.slow
@pytest.mark.skipif(not DEFAULT_PEER.exists(), reason=f"no environment of the peer at {DEFAULT_PEER}: make peer")
def test_beside_the_peer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    assert main([*QUICK, "--device", "cpu", "--parts", ",".join(SCIENCE), "-o", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["conditions"]["peer"]["mmsegmentation"] == "1.2.2"
    rows = {(row["part"], row["way"]): row for row in found["rows"]}
    beside = {part for (part, _), row in rows.items() if row["peer"] and row["ratio"]["median"] > 0}
    assert beside == {"train", "inference", "data", "metric", "checkpoint"}
    assert {way for part, way in rows if part == "scaling"} >= {"1 gloo worker", "2 gloo workers", "4 images"}
    assert rows["inference", "fp32"]["equal"] > 99.9
    assert rows["metric", "matrix"]["equal"] == 100
    assert "mmsegmentation 1.2.2" in capsys.readouterr().out
