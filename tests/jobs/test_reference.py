"""What `--reference-log` may name, through `hrgrid plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs._reference import Rule, parse_references
from jobs.cli import main
from orchestrator.ledger import Entry, Ledger
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

CELL = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
UNPUBLISHED = "fcn_hr18_4xb4-40k_pascal-context-480x480"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    file = tmp_path / "a.log.json"
    file.write_text(json.dumps({"mode": "val", "iter": 4000, "mIoU": 0.5, "aAcc": 0.9}) + "\n")
    return file


def plan(tmp_path: Path, *words: str) -> list[str]:
    return ["plan", "--cluster", "gpus=4,memory=80", "--storage", str(tmp_path / "results"), *words]


def references(capsys: pytest.CaptureFixture[str], words: list[str]) -> dict[str, str | None]:
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    return {cell["cell"]: facts["references"].get(cell["key"]) for cell in facts["cells"]}


def refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("hrgrid: error: ")
    assert err.count("\n") == 1, err
    return err


def test_a_colon_divides_pattern_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:name.json").touch()
    texts = ["a.json", "fcn_*:a.json", "https://host:80/a.json", "fcn_*:s3://bucket/a.json", "odd:name.json"]
    assert parse_references(texts) == [
        Rule("*", "a.json"),
        Rule("fcn_*", "a.json"),
        Rule("*", "https://host:80/a.json"),
        Rule("fcn_*", "s3://bucket/a.json"),
        Rule("*", "odd:name.json"),
    ]


def test_each_cell_gets_its_own(tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "b.log.json"
    other.write_bytes(log.read_bytes())
    names = [CELL, CELL.replace("hr18s", "hr18"), CELL.replace("hr18s", "hr48")]
    words = ["--reference-log", f"*hr18*:{log}", "--reference-log", f"*hr18_*:{other}"]
    assert references(capsys, plan(tmp_path, *names, *words)) == dict(
        zip(names, (str(log), str(other), None), strict=True)
    )
    assert main(plan(tmp_path, *names, *words)) == 0
    assert f"reference of 1 cell: {other}" in capsys.readouterr().out


def test_a_published_log_is_fetched_from_its_address(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRGRID_WEIGHTS_MIRROR", str(tmp_path / "mirror"))
    words = plan(tmp_path, CELL, UNPUBLISHED, "--reference-log", "published")
    assert "there is no reference log https://download.openmmlab.com/" in refused(capsys, words)
    path = "mmsegmentation/v0.5/hrnet/fcn_hr18s_512x1024_40k_cityscapes"
    file = tmp_path / "mirror" / path / "fcn_hr18s_512x1024_40k_cityscapes_20200601_014216.log.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(log.read_bytes())
    found = references(capsys, words)
    assert found == {CELL: f"https://download.openmmlab.com/{path}/{file.name}", UNPUBLISHED: None}
    assert "no log is published for any cell" in refused(
        capsys, plan(tmp_path, UNPUBLISHED, "--reference-log", "published")
    )


def test_an_earlier_run_by_key_and_by_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage, key = tmp_path / "results", "0123456789abcdef"
    ledger = Ledger(Storage(str(storage)))
    ledger.add_benchmark("old", [Entry(cell=CELL, key=key, facets={}, seed=0)])
    words = plan(tmp_path, CELL, "--reference-log", CELL)
    assert "no trial of" in refused(capsys, words)
    tracker = Tracker(str(storage / "mlflow.db"), "old")
    run_id = tracker.start_run(key, CELL)
    capsys.readouterr()  # MLflow tells that it makes its tables
    ledger.write_result(key, {"state": "finished", "metrics": {}, "run_id": run_id})
    assert "has no curve" in refused(capsys, words)
    tracker.finish(run_id, "FINISHED", metrics={"val/mIoU": 70.0}, step=40000)
    assert references(capsys, words) == {CELL: f"trial {key}"}
    assert references(capsys, plan(tmp_path, CELL, "--reference-log", key)) == {CELL: f"trial {key}"}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("no.json", "the reference 'no.json' is neither a file that is there, nor an address, nor 'published'"),
        (f"{CELL[:-1]}:published", f"which no cell has; did you mean '{CELL}'?"),
        (":a.json", "is neither LOG nor PATTERN:LOG"),
        ("0123456789abcdef", "nor a trial key or cell of"),
        (__file__, "is no training log of OpenMMLab"),
        ("http://127.0.0.1:9/a.log.json", "cannot fetch http://127.0.0.1:9/a.log.json: "),
    ],
)
def test_what_is_no_reference_is_one_sentence(
    tmp_path: Path, rule: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, plan(tmp_path, CELL, "--reference-log", rule))
