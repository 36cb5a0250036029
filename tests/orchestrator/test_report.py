"""The verdict of a row, and the same facts in every format."""

from __future__ import annotations

import csv
import io
import json
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orchestrator.grid import expand
from orchestrator.ledger import Entry, Ledger
from orchestrator.report import (
    MEANINGS,
    VERDICTS,
    Report,
    Row,
    Trial,
    collect,
    leaderboard,
    to_csv,
    to_html,
    to_json,
    to_markdown,
)
from orchestrator.storage import Storage
from orchestrator.workload import Facts
from tests.orchestrator.fake import FakeWorkload

SCORE = "val/mIoU"


def png() -> bytes:
    """A picture of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\x00\x80")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def trial(score: float | None, state: str = "finished", **more: object) -> Trial:
    metrics = {} if score is None else {SCORE: score}
    return Trial(cell="a", key="k", state=state, metrics=metrics, **more)  # type: ignore[arg-type]


def row(published: float | None, *trials: Trial) -> Row:
    return Row(cell="a", facets={"task": "add"}, published={} if published is None else {SCORE: published},
               trials=trials)  # fmt: skip


WHY = ("max_iters 20 instead of 40000",)


@pytest.mark.parametrize(
    ("published", "alone", "verdict"),
    [
        (73.86, trial(73.36), "reproduced"),
        (73.86, trial(73.359), "below"),
        (73.86, trial(74.36), "reproduced"),
        (73.86, trial(74.361), "above"),
        (73.86, trial(73.86, not_comparable=WHY), "not comparable"),
        (73.86, trial(90.0, not_comparable=WHY), "not comparable"),
        (None, trial(73.86), "no published number"),
        (None, trial(73.86, not_comparable=WHY), "not comparable"),
        (73.86, trial(float("nan")), "not comparable"),
        (73.86, trial(73.86, "failed"), "failed"),
        (73.86, trial(73.86, "running"), "running"),
        (73.86, trial(73.86, "stopped"), "stopped"),
        (73.86, trial(73.86, "interrupted"), "stopped"),
        (73.86, trial(None, "new"), "not run"),
    ],
)
def test_the_verdict_of_one_trial_and_of_its_cell(published: float | None, alone: Trial, verdict: str) -> None:
    cell = row(published, alone)
    assert alone.verdict(cell.published) == verdict
    assert cell.verdict == verdict
    assert cell.tolerance == 0.5


def test_a_cell_without_trials_was_not_run() -> None:
    assert row(73.86).verdict == "not run"
    assert row(73.86).score is None


def test_seeds_are_judged_by_their_mean_within_two_standard_deviations() -> None:
    # sample sd of (72, 74) is sqrt(2): tolerance 2.828..., mean 73
    pair = trial(72.0, seed=0), trial(74.0, seed=1)
    for published, verdict in ((75.82, "reproduced"), (75.83, "below"), (70.18, "reproduced"), (70.17, "above")):
        cell = row(published, *pair)
        assert cell.verdict == verdict, published
        assert (cell.tolerance, cell.gap) == (pytest.approx(2 * 2**0.5), pytest.approx(73 - published))
    assert pair[0].verdict({SCORE: 73.0}) == "below"
    assert row(73.0, trial(73.0), trial(73.2, seed=1)).tolerance == 0.5


def test_only_comparable_finished_seeds_count() -> None:
    seeds = trial(72.0, seed=0), trial(10.0, seed=1, not_comparable=WHY), trial(50.0, "failed", seed=2, error="no")
    cell = row(72.3, *seeds)
    assert (cell.verdict, cell.gap, cell.not_comparable) == ("reproduced", pytest.approx(-0.3), ())
    assert cell.counted == (seeds[0],)
    assert cell.state == "2 finished, 1 failed"
    assert row(72.3, *seeds[1:]).verdict == "not comparable"
    assert row(72.3, seeds[1], trial(9.0, "running", seed=3)).verdict == "running"
    assert row(72.3, seeds[2], trial(9.0, "stopped", seed=3)).verdict == "failed"


def test_of_two_trials_of_one_seed_the_newer_counts() -> None:
    cell = row(73.0, trial(60.0, seed=0), trial(73.1, seed=0))
    assert (cell.score and cell.score.n, cell.verdict) == (1, "reproduced")


def test_a_missing_score_says_why_it_cannot_be_compared() -> None:
    assert row(73.0, trial(None)).not_comparable == ("the trial finished without a score",)


def test_memory_and_speed_are_of_one_device() -> None:
    first = Trial(cell="a", key="1", state="finished", device="NVIDIA H200",
                  metrics={SCORE: 70.0, "speed/fps": 99.0, "speed/train_mem_gb": 1.5})  # fmt: skip
    second = Trial(cell="a", key="2", seed=1, state="finished", device="CPU, AMD EPYC",
                   metrics={SCORE: 70.0, "speed/fps": 2.0})  # fmt: skip
    both, unmeasured = row(70.0, first, second), row(70.0, second, trial(70.0, seed=2, device="NVIDIA H200"))
    assert (both.memory, both.speed, both.device, both.memory_on_cpu) == (None, 2.0, "CPU, AMD EPYC", True)
    assert row(70.0, first).memory == 1.5
    assert (unmeasured.speed, unmeasured.device) == (2.0, "CPU, AMD EPYC")
    assert not row(70.0, trial(70.0)).memory_on_cpu
    assert not row(70.0, trial(70.0, "running", device="CPU")).memory_on_cpu


def test_every_verdict_has_its_own_sign_and_meaning() -> None:
    assert len(set(VERDICTS.values())) == len(VERDICTS)
    assert set(MEANINGS) == set(VERDICTS)


def test_there_is_no_gap_before_the_end() -> None:
    assert row(73.86, trial(70.0, "running")).gap is None
    assert row(73.0, trial(74.0)).gap == 1.0
    assert row(73.0, trial(74.0)).gap_ms_flip is None


@pytest.fixture
def report() -> Report:
    scores = {SCORE: 73.5, "val/mIoU_ms_flip": float("nan")}
    published = {SCORE: 73.86, "val/mIoU_ms_flip": 75.91, "speed/fps": 23.74, "speed/train_mem_gb": 1.7}
    url = "http://127.0.0.1:5000/#/runs/7"
    good = Trial(cell="fine", key="1", state="finished", metrics=scores, run_url=url, pictures={"eval/one.png": png()})
    other = Trial(cell="other|<b>", key="2", seed=3, state="finished", metrics=scores,
                  not_comparable=(*WHY, "5 < 6 images"), run_url="javascript:alert(1)")  # fmt: skip
    broken = Trial(cell="broken", key="3", state="failed", error="ValueError: bad <crop>\nline two")
    rows = [
        Row(cell="fine", facets={"task": "add", "shape": "thin"}, published=published, trials=(good,)),
        Row(cell="other|<b>", facets={"task": "sort"}, published=published, trials=(other,)),
        Row(cell="broken", trials=(broken,)),
    ]
    provenance = {"git_commit": "abc", "git_dirty": True, "host": None, "packages": {"ray": "2.60.0"}}
    return Report(title="a & b", rows=rows, conditions=["one GPU"], provenance=provenance)


def test_json_and_csv_hold_the_same_facts(report: Report) -> None:
    document = json.loads(to_json(report))
    assert document["counts"] == {"reproduced": 1, "not comparable": 1, "failed": 1}
    assert document["rows"] == leaderboard(report.rows)
    first = document["rows"][0]
    assert (first["mIoU"], first["mIoU_ms_flip"], first["gap"]) == (73.5, None, pytest.approx(-0.36))
    assert (first["mIoU_sd"], first["tolerance"], first["n"]) == (None, 0.5, 1)
    assert [trial["verdict"] for trial in first["trials"]] == ["reproduced"]
    lines = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert [line["verdict"] for line in lines] == ["reproduced", "not comparable", "failed"]
    assert lines[1]["not_comparable"] == "max_iters 20 instead of 40000; 5 < 6 images"
    assert (lines[0]["shape"], lines[1]["shape"], lines[1]["seeds"]) == ("thin", "", "3")
    assert lines[2]["error"] == "ValueError: bad <crop>"


def test_markdown(report: Report) -> None:
    text = to_markdown(report)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {19}
    assert [line for line in text.splitlines() if line.startswith("## ")][:3] == ["## add", "## sort", "## Cells"]
    assert table[2] == (
        "| add | thin | 73.86 | 73.50 | -0.36 | 75.91 |  |  | 1.70 |  | 23.74 |  |  |  | "
        f"{VERDICTS['reproduced']} reproduced | 0.50 | fine | [run](http://127.0.0.1:5000/#/runs/7) |"
    )
    assert "(-0.36)" in table[5]
    assert "not comparable [1, 2]" in table[5]
    assert "1. max_iters 20 instead of 40000 (other|&lt;b>)\n2. 5 &lt; 6 images (other|&lt;b>)\n" in text
    assert "- broken: ValueError: bad &lt;crop>\n" in text
    assert "- git commit: abc with uncommitted changes" in text
    assert "javascript" not in text


class Page(HTMLParser):
    """Collects links, pictures and the text of the table's rows of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.rows: list[str] = []
        self.inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data") and value]
        if tag == "tr":
            self.inside = True
            self.rows.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "tr"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1] += f" {data.strip()}"


def test_html_stands_alone(report: Report) -> None:
    html = to_html(report)
    page = Page(html)
    outside = [a for a in page.addresses if not a.startswith(("#", "data:image/png;base64,"))]
    assert outside == ["http://127.0.0.1:5000/#/runs/7"]
    assert sum(a.startswith("data:") for a in page.addresses) == 1
    assert "url(" not in html
    assert "default-src 'none'" in html
    heads, sections = 2, 2
    assert len(page.rows) == heads + sections + 3
    for words in ("fine", "73.86", "73.50", "-0.36", "1.7", "23.74", f"{VERDICTS['reproduced']} reproduced"):
        assert words in " ".join(page.rows[3].split())


def test_html_escapes_what_it_did_not_write(report: Report) -> None:
    html = to_html(report)
    for raw in ("other|<b>", "<crop>", "5 < 6", "javascript:", "a & b"):
        assert raw not in html
    for told in ("a &amp; b", "bad &lt;crop&gt;\nline two", "5 &lt; 6 images", "one GPU", "2.60.0"):
        assert told in html


def test_a_link_that_is_not_https_is_no_link() -> None:
    links = {"log": "javascript:alert(2)", "checkpoint": "https://host/a.pth"}
    html = to_html(Report(title="demo", rows=[Row(cell="a", facts=Facts(section="S", links=links))]))
    assert "https://host/a.pth" in html
    assert "javascript:" not in html


def test_reasons_that_all_such_rows_share_are_told_once() -> None:
    rows = [row(70.0, trial(5.0, not_comparable=("few steps", reason))) for reason in ("small crop", "tiny crop")]
    report = Report(title="demo", rows=[*rows, row(70.0)])
    assert report.shared_reasons == ("few steps",)
    for form in (to_html, to_markdown):
        assert form(report).count("few steps") == 1
    assert to_markdown(report).count("tiny crop") == 1
    assert "2 of 3 scores must not" in to_html(report)
    assert "None of these scores may" in to_html(Report(title="demo", rows=rows))


def test_a_report_of_nothing() -> None:
    empty = Report(title="nothing", rows=[])
    assert "no trials yet" in to_markdown(empty)
    assert json.loads(to_json(empty))["rows"] == []
    assert "no trials yet" in to_html(empty)


def test_collected_from_the_ledger_alone(tmp_path: Path) -> None:
    workload, ledger = FakeWorkload(), Ledger(Storage(str(tmp_path)))
    first, second, third = expand(workload, [workload.cells()[i] for i in (4, 1, 0)], data="d")
    trials = (first, second, third)
    ledger.add_benchmark(
        "b", [Entry(cell=t.spec.cell.name, key=t.key, facets=t.spec.cell.facets, seed=0) for t in trials]
    )
    ledger.write_spec(second.key, second.spec)
    ledger.write_progress(
        third.key, {"step": 4, "total": 8, "metrics": {SCORE: 60.0}, "run_id": "r3", "device": "CPU"}
    )
    ledger.write_result(second.key, {"state": "finished", "metrics": {SCORE: 71.0}, "run_id": "r2"})
    ledger.write_result(first.key, {"state": "failed", "error": "no", "run_id": None})
    ledger.write_picture(second.key, "one.png", png())
    rows = collect(ledger, "b", workload, run_url=lambda run: f"http://host/{run}", drawn=True)
    assert [(r.cell, r.verdict, r.trials[0].run_url) for r in rows] == [
        ("thin-add-short", "running", "http://host/r3"),
        ("thick-add-short", "above", "http://host/r2"),
        ("thin-sort-short", "failed", None),
    ]
    running, finished, failed = (r.trials[0] for r in rows)
    assert (running.step, running.total, running.device) == (4, 8, "CPU")
    assert (rows[1].gap, failed.error) == (1.0, "no")
    assert finished.pictures == {"one.png": png()}
    every = collect(ledger, "b", workload, every_cell=True)
    assert [r.cell for r in every] == [cell.name for cell in workload.cells()]
    assert [r.verdict for r in every].count("not run") == 5
    # this workload tells no facts: the facets stand for columns and sections
    report = Report(title="fake", rows=every)
    assert report.columns == ("task", "shape", "plan")
    assert list(report.sections) == ["add", "sort"]
    for form in (to_html, to_markdown, to_csv, to_json):
        assert "thick-add-short" in form(report)


def test_a_cell_that_the_workload_no_longer_has_follows(tmp_path: Path) -> None:
    ledger = Ledger(Storage(str(tmp_path)))
    gone = Entry(cell="a-gone", key="1", facets={"task": "add"}, seed=0)
    kept = Entry(cell="thin-add-short", key="2", facets={"task": "add"}, seed=0)
    ledger.add_benchmark("b", [gone, kept])
    rows = collect(ledger, "b", FakeWorkload())
    assert [(r.cell, r.published == {}) for r in rows] == [("thin-add-short", False), ("a-gone", True)]
