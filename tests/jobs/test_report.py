"""The whole table: 45 rows in nine sections with every published column, in every form, over a made-up ledger."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hrnet.catalogue import recipes
from hrnet.published import all_published, published
from jobs._reporting import make_report, print_leaderboard
from jobs._wiring import HrnetWorkload
from jobs.cli import main
from orchestrator.ledger import Entry, Ledger
from orchestrator.report import VERDICTS, Report, Row, Trial, leaderboard, to_csv, to_html, to_json, to_markdown
from orchestrator.settings import make_settings
from orchestrator.storage import Storage
from tests.jobs.made_up import CPU, FULL, GPU, SCORE, SMOKE, write_ledger

SECTIONS = {
    "Cityscapes": 9, "ADE20K": 6, "Pascal VOC 2012 + Aug": 6, "Pascal Context": 6, "Pascal Context 59": 6,
    "LoveDA": 3, "Potsdam": 3, "Vaihingen": 3, "iSAID": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("ledger")
    write_ledger(folder)
    places = make_settings(storage=str(folder), tracking="http://me:secret@mlflow:5000", benchmark="made-up")
    return make_report(places, HrnetWorkload(), every_cell=True)


def test_45_rows_in_nine_sections_in_the_published_order(report: Report) -> None:
    assert [row.cell for row in report.rows] == [recipe.name for recipe in recipes()]
    assert {name: len(rows) for name, rows in report.sections.items()} == SECTIONS
    assert list(report.sections) == list(SECTIONS)
    assert set(report.counts) == set(VERDICTS)
    with_numbers = [row.cell for row in report.rows if row.published]
    assert with_numbers == list(all_published())


def test_links_to_runs_hold_no_password(report: Report) -> None:
    assert report.rows[0].trials[0].run_url == "http://mlflow:5000/#/runs/run0000"
    assert "secret" not in to_html(report) + to_json(report) + to_csv(report) + to_markdown(report)


def test_the_verdicts_of_the_made_up_results(report: Report) -> None:
    verdicts = [row.verdict for row in report.rows]
    assert verdicts[:9] == ["reproduced", "reproduced", "below", "above", "reproduced", "reproduced", "failed",
                            "running", "stopped"]  # fmt: skip
    assert verdicts[9:15] == ["not comparable"] * 6
    assert verdicts[-2:] == ["not run"] * 2
    unknown = [row.cell for row in report.rows if row.verdict == "no published number"]
    assert len(unknown) == 8
    assert all("pascal-context" in cell and "hr48" not in cell for cell in unknown)
    seeds = report.rows[1]
    assert seeds.score is not None
    assert (len(seeds.trials), seeds.score.n, seeds.tolerance) == (3, 3, 0.5)
    assert seeds.score.mean == pytest.approx(77.19 + 0.1 + 0.4 / 3)
    assert seeds.score.sd == pytest.approx(0.4 / math.sqrt(3))


def test_json_and_csv_hold_the_published_table_field_by_field(report: Report) -> None:
    flat = json.loads(to_json(report), parse_constant=pytest.fail)["rows"]
    assert flat == leaderboard(report.rows)
    lines = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert len(lines) == len(flat) == 45
    for row in all_published().values():
        (told,) = [line for line in flat if line["cell"] == row.name]
        assert (told["section"], told["method"], told["backbone"]) == (row.dataset, row.method, row.backbone)
        assert (told["crop_size"], told["lr_schd"]) == (row.crop, str(row.schedule))
        assert (told["published_mem_gb"], told["published_fps"]) == (row.mem_gb, row.fps)
        assert (told["published_mIoU"], told["published_mIoU_ms_flip"]) == (row.miou, row.miou_ms_flip)
        assert (told["published_device"], told["checkpoint"], told["log"]) == (row.device, row.checkpoint, row.log)
        assert told["config"].endswith(f"/configs/hrnet/{row.name}.py")
        (line,) = [line for line in lines if line["cell"] == row.name]
        for name, value in told.items():
            if isinstance(value, str | float | int):
                assert line[name] == str(value)
            elif value is None:
                assert line[name] == ""
    assert [trial["seed"] for trial in flat[1]["trials"]] == [0, 1, 2]
    assert lines[1]["seeds"] == "0; 1; 2"
    assert lines[9]["not_comparable"] == f"max_iters 4 instead of 80000; {SMOKE[0]}; {SMOKE[1]}"
    assert (flat[9]["mem_gb"], flat[9]["fps"], flat[9]["device"]) == (None, 2.5, CPU)
    assert (flat[0]["mem_gb"], flat[0]["fps"], flat[0]["device"]) == (1.25, 88.125, GPU)


COLUMNS = (
    "Method",
    "Backbone",
    "Crop Size",
    "Lr schd",
    "Mem (GB)",
    "Inf time (fps)",
    "Device",
    "mIoU",
    "mIoU(ms+flip)",
)


def test_markdown_has_a_table_per_section_with_every_column(report: Report) -> None:
    text = to_markdown(report)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[:9] == list(SECTIONS)
    table = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    assert len(table) == 45 + 2 * 9
    assert {len(line) for line in table} == {20}
    assert set(COLUMNS) <= set(table[0])
    first = all_published()[recipes()[0].name]
    links = "/mlflow:5000/#/runs/run0000"
    assert table[2][:-1] == [
        "FCN", "HRNetV2p-W18-Small", "512x1024", "40000", "73.86", "73.96", "+0.10", "75.91", "75.46", "-0.45",
        "1.70", "1.25", "23.74", "88.12", "V100", GPU, f"{VERDICTS['reproduced']} reproduced", "0.50", first.name,
    ]  # fmt: skip
    for address in (first.checkpoint, first.log, links):
        assert address in table[2][-1]
    assert table[3][5] == "77.42 \u00b1 0.23 (n=3)"
    (smoke,) = [line for line in table if recipes()[9].name in line]
    assert (smoke[6], smoke[11], smoke[16]) == (
        "(+0.10)",
        "n/a (CPU)",
        f"{VERDICTS['not comparable']} not comparable [1]",
    )
    assert f"- {SMOKE[0]}\n" in text
    assert text.count(SMOKE[0]) == 1
    assert "1. max_iters 4 instead of 80000 (fcn_hr18s_4xb4-80k_ade20k-512x512, fcn_hr18_" in text
    assert "- fcn_hr18s_4xb2-160k_cityscapes-512x1024: ValueError: the loss is &lt;nan> at step 30; lower lr\n" in text
    assert "<" not in text, "a reader would take it for a tag"


class Page(HTMLParser):
    """The table of a page: headings of sections, and the texts of each row's cells by label."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.heads: list[str] = []
        self.sections: list[str] = []
        self.rows: list[dict[str, str]] = []
        self.links: list[list[str]] = []
        self.ids: Counter[str] = Counter()
        self.targets: set[str] = set()
        self._into = self._label = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if known.get("id"):
            self.ids[str(known["id"])] += 1
        if tag == "tr":
            self._into = {"row": "row", "section": "section"}.get(known.get("class") or "", "")
            if self._into == "row":
                self.rows.append({})
                self.links.append([])
        if tag == "th" and not self._into:
            self.heads.append("")
        if tag == "td":
            self._label = known.get("data-label") or "Recipe"
            if self._label == "gap" and "gap" in (self.rows or [{}])[-1]:
                self._label = "gap ms+flip"
        if tag == "a" and known.get("href"):
            address = str(known["href"])
            if address.startswith("#"):
                self.targets.add(address[1:])
            elif self._into == "row":
                self.links[-1].append(address)

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self._into = self._label = ""

    def handle_data(self, data: str) -> None:
        if self._into == "row":
            self.rows[-1][self._label] = " ".join(f"{self.rows[-1].get(self._label, '')} {data}".split())
        elif self._into == "section" and data.strip():
            self.sections.append(data.strip())
        elif self.heads:
            self.heads[-1] = f"{self.heads[-1]} {data}".strip()


def test_html_has_every_column_section_and_link(report: Report) -> None:
    html = to_html(report)
    page = Page(html)
    assert page.sections == list(SECTIONS)
    assert len(page.rows) == 45
    assert set(COLUMNS) <= {head.splitlines()[0] for head in page.heads if head}
    assert max(page.ids.values()) == 1
    assert page.targets <= set(page.ids)
    for row, links, known in zip(page.rows, page.links, report.rows, strict=True):
        theirs = published(known.cell)
        assert row["Recipe"].split()[0] == known.cell
        assert VERDICTS[known.verdict] in row["Verdict"]
        assert known.verdict in row["Verdict"]
        assert row["Backbone"].startswith("HRNetV2p-W")
        assert (theirs is None) == (not row.get("mIoU published"))
        assert any(link.endswith(f"{known.cell}.py") for link in links)
        if theirs is not None:
            assert row["mIoU published"] == f"{theirs.miou:.2f}"
            assert row["Device published"] == "V100"
            assert {theirs.checkpoint, theirs.log} <= set(links)
    assert page.rows[0]["fps ours"] == "88.12"
    assert page.rows[9]["Mem (GB) ours"] == "n/a (CPU)"
    assert page.rows[1]["mIoU ours"] == "77.42 \u00b1 0.23"
    assert page.rows[1]["Verdict"].endswith("reproduced tolerance 0.50, 3 seeds")
    assert "6 of 45 scores must not" in html
    assert "the loss is &lt;nan&gt; at step 30" in html
    assert "<nan>" not in html


def test_the_forms_of_45_cells_take_little_time(report: Report) -> None:
    began = time.process_time()
    for form in (to_html, to_markdown, to_csv, to_json):
        form(report)
    assert time.process_time() - began < 1.0


def test_the_terminal_shows_the_sections(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    print_leaderboard(report)
    lines = capsys.readouterr().out.splitlines()
    headings = [line.strip() for line in lines if line.strip() in SECTIONS]
    assert headings == list(SECTIONS)
    table = lines[: lines.index(report.summary)]
    assert len(table) == 1 + 9 + 45
    assert max(len(line.rstrip()) for line in table) - len("  0.23") <= 120  # only several seeds need that column
    assert table[2].split() == ["fcn_hr18s_4xb2-40k_cityscapes-512x1024", "73.96", "-", "73.86", "+0.10", "75.46",
                                "75.91", "1.2", "88.1", "reproduced"]  # fmt: skip
    (smoke,) = [line.split() for line in table if recipes()[9].name in line]
    assert smoke[1:] == ["31.48", "-", "31.38", "(+0.10)", "32.98", "32.45", "n/a", "2.5", "not", "comparable"]


def test_many_reasons_do_not_fill_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [
        Trial(cell="a", key=str(n), state="finished", metrics={SCORE: 1.0}, not_comparable=("small", f"reason {n}"))
        for n in range(9)
    ]
    print_leaderboard(Report(title="many", rows=[Row(cell=f"cell {t.key}", trials=(t,)) for t in trials]))
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not comparable")]
    assert told[:2] == ["not comparable: small", "not comparable (cell 0): reason 0"]
    assert told[-1].startswith("not comparable: 3 more reasons")
    assert len(told) == 8


def test_the_command_lists_its_cells_or_every_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ledger(tmp_path)
    for words, rows in (([], FULL), (["--every-cell"], 45)):
        assert main(["report", "--storage", str(tmp_path), "--format", "csv", *words]) == 0
        assert len((tmp_path / "reports" / "made-up" / "report.csv").read_text().splitlines()) == 1 + rows
    assert str(tmp_path / "reports" / "made-up" / "report.csv") in capsys.readouterr().out


def test_a_cell_of_a_custom_data_set_that_is_not_at_hand_keeps_its_row(tmp_path: Path) -> None:
    ledger = Ledger(Storage(str(tmp_path)))
    name, facets = "fcn_hr48_4xb2-40k_camvid-512x1024", {"dataset": "camvid", "width": "w48", "schedule": "40k"}
    ledger.add_benchmark("own", [Entry(cell=name, key="1", facets=facets, seed=0)])
    ledger.write_result("1", {"state": "finished", "metrics": {SCORE: 60.0}})
    places = make_settings(storage=str(tmp_path), tracking=None, benchmark="own")
    (row,) = make_report(places, HrnetWorkload()).rows
    assert (row.section, row.fact("Backbone"), row.fact("Lr schd")) == ("camvid", "HRNetV2p-W48", "40000")
    assert (row.verdict, row.facts.links, row.facts.device) == ("no published number", {}, "")
