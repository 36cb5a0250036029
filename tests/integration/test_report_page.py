"""The report's page in Chromium: one file that shows, sorts, filters, compares and prints, on any screen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs._reporting import make_report
from jobs._wiring import HrnetWorkload
from orchestrator.report import to_html
from orchestrator.settings import make_settings
from tests.integration.browser import PHONE, WIDE, Visit, axe_findings, visit
from tests.jobs.made_up import write_exhibits, write_ledger

FIRST, SECOND = "fcn_hr18s_4xb2-40k_cityscapes-512x1024", "fcn_hr18_4xb2-40k_cityscapes-512x1024"
STILL = {"reduced_motion": "reduce"}


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a made-up benchmark of the whole table."""
    folder = tmp_path_factory.mktemp("report")
    write_ledger(folder)
    write_exhibits(folder, pictured=4)
    places = make_settings(storage=str(folder), tracking="http://mlflow:5000", benchmark="made-up", environment={})
    target = folder / "report.html"
    target.write_text(to_html(make_report(places, HrnetWorkload(), every_cell=True)), encoding="utf-8")
    return target


@pytest.fixture(scope="module")
def wide(page_file: Path) -> Iterator[Visit]:
    """One browser page for the tests that use the report; each opens it anew."""
    with visit(page_file.as_uri(), **STILL) as seen:
        yield seen


def _opened(seen: Visit, page_file: Path, anchor: str = "") -> Any:
    seen.errors.clear()
    seen.page.goto("about:blank")
    seen.page.goto(page_file.as_uri() + anchor)
    return seen.page


def _cells(page: Any) -> list[str]:
    return [str(text) for text in page.locator("tr.row:visible td.cell > :first-child").all_inner_texts()]


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [("light", WIDE, "light"), ("dark", WIDE, "dark"), ("phone", PHONE, "light")],
)
def test_everyone_can_read_the_page(page_file: Path, name: str, size: dict[str, int], scheme: str) -> None:
    with visit(page_file.as_uri(), size=size, color_scheme=scheme, **STILL) as seen:
        seen.shoot(f"report-{name}")
        for part in ("choosing", "classes", "cells", "foot"):
            seen.page.evaluate(f"document.getElementById('{part}').scrollIntoView()")
            seen.shoot(f"report-{name}-{part}")
        if size is WIDE:  # the phone has the same words and colours
            assert axe_findings(seen) == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert seen.errors == []


def test_the_page_asks_for_nothing_else(wide: Visit, page_file: Path) -> None:
    asked: list[str] = []
    wide.page.on("request", lambda request: asked.append(request.url))
    page = _opened(wide, page_file)
    page.locator("#foot").scroll_into_view_if_needed()
    assert {url for url in asked if not url.startswith("data:")} <= {"about:blank", page_file.as_uri()}
    assert page_file.as_uri() in asked
    assert wide.errors == []


def test_filters_stand_in_the_address(wide: Visit, page_file: Path) -> None:
    page = _opened(wide, page_file)
    assert len(_cells(page)) == 45
    page.get_by_label("dataset").select_option("cityscapes")
    page.get_by_label("width").select_option("w48")
    assert len(_cells(page)) == 3
    assert page.locator("#shown").inner_text() == "3 of 45 shown"
    assert page.locator(".group:visible h3").all_inner_texts() == ["Cityscapes"]
    assert page.locator("article:visible").count() == 3
    page.locator(".chip[data-verdict=below]").click()
    assert _cells(page) == ["fcn_hr48_4xb2-40k_cityscapes-512x1024"]
    anchor = page.evaluate("location.hash")
    page = _opened(wide, page_file, anchor)
    assert _cells(page) == ["fcn_hr48_4xb2-40k_cityscapes-512x1024"]
    page.get_by_role("button", name="show all").click()
    assert len(_cells(page)) == 45
    page.get_by_label("Filter the cells").fill("w48 potsdam")
    assert _cells(page) == ["fcn_hr48_4xb4-80k_potsdam-512x512"]
    assert wide.errors == []


def test_columns_sort_within_their_sections(wide: Visit, page_file: Path) -> None:
    page = _opened(wide, page_file)
    score = page.locator("#heads th").filter(has_text="ours").first
    score.get_by_role("button").click()
    texts = page.locator("#section-1 td[data-label='mIoU ours']").all_inner_texts()
    first = [float(text.split()[0]) for text in texts if text]
    assert first == sorted(first)
    assert len(first) >= 8
    score.get_by_role("button").click()
    assert score.get_attribute("aria-sort") == "descending"
    assert page.locator("#section-1 .row td.cell").first.inner_text().startswith("fcn_hr48_4xb2-160k")


def test_the_trade_off_is_told_and_leads_to_its_cell(wide: Visit, page_file: Path) -> None:
    page = _opened(wide, page_file)
    group = page.locator(".group").filter(has=page.get_by_role("heading", name="Cityscapes"))
    titles = group.locator("text.title").all_text_contents()
    assert titles == ["mIoU over schedule", "mIoU over speed", "mIoU over training memory"]
    mark = group.locator(f".m.own[aria-label*='{FIRST}']").first
    mark.focus()
    told = page.locator("#tip")
    assert told.is_visible()
    assert re.search(r"published +73\.86 mIoU, 23\.74 images/s, 1\.70 GB\nhere +73\.96 mIoU", told.inner_text())
    page.keyboard.press("Escape")
    assert not told.is_visible()
    mark.click()
    assert page.evaluate("location.hash") == "#cell-1"
    assert page.locator("article:target h3").inner_text() == FIRST


def test_classes_beside_those_of_another_run(wide: Visit, page_file: Path) -> None:
    page = _opened(wide, page_file)
    bars = page.locator("#bars li")
    assert bars.count() == 19
    assert bars.first.locator("b").inner_text() == "road"
    assert bars.first.locator("i").count() == 2
    page.get_by_label("in the order of").select_option("gap")
    gaps = [float(text) for text in page.locator("#bars .gap-of").all_inner_texts()]
    assert gaps == sorted(gaps)
    page.locator("#other").select_option("")
    assert bars.first.locator("i").count() == 1
    page.locator("#one").select_option(label="fcn_hr48_4xb4-80k_loveda-512x512")
    assert bars.count() == 7
    other = page.locator("#other option:not([disabled])").all_text_contents()
    assert other == ["nothing", *(f"fcn_hr{width}_4xb4-80k_loveda-512x512" for width in ("18s", "18", "48"))]
    assert wide.errors == []


def test_a_cell_shows_its_training_and_its_images(wide: Visit, page_file: Path) -> None:
    page = _opened(wide, page_file, "#cell-1")
    card = page.locator("#cell-1")
    assert card.locator("svg.panel").count() == 2
    assert card.get_by_text("published 73.86", exact=True).count() == 1
    assert card.locator("h4").all_inner_texts() == [
        "Best validation images", "Worst validation images", "Fixed validation images"
    ]  # fmt: skip
    picture = card.locator("figure").first
    assert picture.locator("figcaption").inner_text() == "scene_4, mIoU 85.96"
    before = picture.bounding_box()["width"]
    picture.get_by_role("button").click()
    assert picture.bounding_box()["width"] > 1.5 * before
    assert page.locator("#cell-2 .seeds tbody tr").count() == 3


def test_it_prints_without_what_only_a_screen_can_do(wide: Visit, page_file: Path, tmp_path: Path) -> None:
    page = _opened(wide, page_file)
    page.emulate_media(media="print")
    assert page.locator(".tools").is_hidden()
    assert page.locator("#bars").is_visible()
    page.pdf(path=tmp_path / "report.pdf", format="A4", landscape=True)
    assert (tmp_path / "report.pdf").stat().st_size > 100_000
    page.emulate_media(media="screen")
