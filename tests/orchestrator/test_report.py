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
    VERDICTS,
    Report,
    Row,
    collect,
    leaderboard,
    to_csv,
    to_html,
    to_json,
    to_markdown,
)
from orchestrator.storage import Storage
from tests.orchestrator.fake import FakeWorkload

SCORE = "val/mIoU"


def png() -> bytes:
    """A picture of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\x00\x80")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def row(ours: float | None, published: float | None, state: str = "finished", **more: object) -> Row:
    return Row(
        cell="a", key="k", facets={"task": "add"}, state=state,  # type: ignore[arg-type]
        reproduced={} if ours is None else {SCORE: ours},
        published={} if published is None else {SCORE: published},
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (row(73.36, 73.86), "reproduced"),
        (row(73.359, 73.86), "below"),
        (row(90.0, 73.86), "reproduced"),
        (row(73.86, 73.86, not_comparable=("max_iters 20 instead of 40000",)), "not comparable"),
        (row(73.86, None), "no published number"),
        (row(float("nan"), 73.86), "not comparable"),
        (row(73.86, 73.86, "failed"), "failed"),
        (row(73.86, 73.86, "running"), "running"),
        (row(73.86, 73.86, "stopped"), "stopped"),
        (row(73.86, 73.86, "interrupted"), "stopped"),
        (row(None, 73.86, "new"), "not run"),
    ],
)
def test_verdicts(given: Row, verdict: str) -> None:
    assert given.verdict == verdict


def test_every_verdict_has_its_own_sign() -> None:
    assert len(set(VERDICTS.values())) == len(VERDICTS)


def test_there_is_no_gap_before_the_end() -> None:
    assert row(70.0, 73.86, "running").gap is None
    assert row(74.0, 73.0).gap == 1.0
    assert row(74.0, 73.0).gap_ms_flip is None


@pytest.fixture
def report() -> Report:
    scores = {SCORE: 73.5, "val/mIoU_ms_flip": float("nan")}
    published = {SCORE: 73.86, "val/mIoU_ms_flip": 75.91, "speed/fps": 23.74, "speed/train_mem_gb": 1.7}
    url = "http://127.0.0.1:5000/#/runs/7"
    good = Row(cell="fine", key="1", facets={"task": "add", "shape": "thin"}, state="finished", published=published,
               reproduced=scores, run_url=url, pictures={"eval/one.png": png()})  # fmt: skip
    other = Row(cell="other|<b>", key="2", facets={"task": "sort"}, seed=3, state="finished", published=published,
                reproduced=scores, not_comparable=("max_iters 20 instead of 40000", "5 < 6 images"),
                run_url="javascript:alert(1)")  # fmt: skip
    broken = Row(cell="broken", key="3", facets={}, state="failed", error="ValueError: bad <crop>\nline two")
    provenance = {"git_commit": "abc", "git_dirty": True, "host": None, "packages": {"ray": "2.60.0"}}
    return Report(title="a & b", rows=[good, other, broken], conditions=["one GPU"], provenance=provenance)


def test_json_and_csv_hold_the_same_facts(report: Report) -> None:
    document = json.loads(to_json(report))
    assert document["counts"] == {"reproduced": 1, "not comparable": 1, "failed": 1}
    assert document["rows"] == leaderboard(report.rows)
    first = document["rows"][0]
    assert (first["mIoU"], first["mIoU_ms_flip"], first["gap"]) == (73.5, None, pytest.approx(-0.36))
    lines = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert [line["verdict"] for line in lines] == ["reproduced", "not comparable", "failed"]
    assert lines[1]["not_comparable"] == "max_iters 20 instead of 40000; 5 < 6 images"
    assert (lines[0]["shape"], lines[1]["shape"], lines[1]["seed"]) == ("thin", "", "3")


def test_markdown(report: Report) -> None:
    text = to_markdown(report)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {12}
    assert table[2] == (
        "| [fine](http://127.0.0.1:5000/#/runs/7) | add | thin | 73.86 | 73.50 | -0.36 | 75.91 |  | 1.7 | 23.74 "
        "| reproduced |"
    )
    assert "(-0.36)" in table[3]
    assert "- other|<b> seed 3: max_iters 20 instead of 40000; 5 < 6 images" in text
    assert "- broken: ValueError: bad <crop>\n" in text
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
    assert len(page.rows) == 2 + 3
    for words in ("fine", "73.86", "73.50", "-0.36", "1.7", "23.74", f"{VERDICTS['reproduced']} reproduced"):
        assert words in " ".join(page.rows[2].split())


def test_html_escapes_what_it_did_not_write(report: Report) -> None:
    html = to_html(report)
    for raw in ("other|<b>", "<crop>", "5 < 6", "javascript:", "a & b"):
        assert raw not in html
    for told in ("a &amp; b", "bad &lt;crop&gt;\nline two", "5 &lt; 6 images", "one GPU", "2.60.0"):
        assert told in html


def test_reasons_that_all_rows_share_are_told_once() -> None:
    rows = [row(5.0, 70.0, not_comparable=("few steps", reason)) for reason in ("small crop", "tiny crop")]
    report = Report(title="demo", rows=rows)
    assert report.shared_reasons == ("few steps",)
    assert to_html(report).count("few steps") == 1
    assert to_html(report).count("tiny crop") == 1


def test_a_report_of_nothing() -> None:
    empty = Report(title="nothing", rows=[])
    assert "no trials yet" in to_markdown(empty)
    assert json.loads(to_json(empty))["rows"] == []
    assert "0 trials" in to_html(empty)


def test_collected_from_the_ledger_alone(tmp_path: Path) -> None:
    workload, ledger = FakeWorkload(), Ledger(Storage(str(tmp_path)))
    first, second, third = expand(workload, [workload.cells()[i] for i in (4, 1, 0)], data="d")
    trials = (first, second, third)
    ledger.add_benchmark(
        "b", [Entry(cell=t.spec.cell.name, key=t.key, facets=t.spec.cell.facets, seed=0) for t in trials]
    )
    ledger.write_spec(second.key, second.spec)
    ledger.write_progress(third.key, {"step": 4, "total": 8, "metrics": {SCORE: 60.0}, "run_id": "r3"})
    ledger.write_result(second.key, {"state": "finished", "metrics": {SCORE: 71.0}, "run_id": "r2"})
    ledger.write_result(first.key, {"state": "failed", "error": "no", "run_id": None})
    ledger.write_picture(second.key, "one.png", png())
    rows = collect(ledger, "b", workload, run_url=lambda run: f"http://host/{run}", pictures=2)
    assert [(r.cell, r.verdict, r.run_url) for r in rows] == [
        ("thin-add-short", "running", "http://host/r3"),
        ("thick-add-short", "reproduced", "http://host/r2"),
        ("thin-sort-short", "failed", None),
    ]
    assert (rows[0].step, rows[0].total, rows[1].gap, rows[2].error) == (4, 8, 1.0, "no")
    assert rows[1].pictures == {"one.png": png()}
    every = collect(ledger, "b", workload, every_cell=True)
    assert [r.cell for r in every] == [cell.name for cell in workload.cells()]
    assert [r.verdict for r in every].count("not run") == 5
