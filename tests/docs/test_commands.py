"""Every command of README, quickstart and tutorial: known to the harness, and run as it is written."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, blocks, shape
from tests.docs.exceptions import ENDS_OTHERWISE, NOT_RUN
from tests.docs.run import run_pages


def test_every_page_with_commands_is_run_or_named_with_a_reason() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    with_commands = {
        page.relative_to(ROOT).as_posix()
        for page in pages
        if any(
            re.match(r"(hrgrid|make|ray|mlflow|docker|kubectl|aws|python) ", line)
            for block in blocks(page.relative_to(ROOT).as_posix())
            for line in block.text.splitlines()
        )
    }
    # The page about Python has a test of its own.
    assert with_commands == {*PAGES, *NOT_RUN, "docs/python.md"}


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_a_page_say_what_they_are(page: str) -> None:
    for block in blocks(page):
        assert block.language in ("sh", "text") or block.file is not None, f"{page}:{block.line}"


def test_exceptions_are_of_commands_that_are_there() -> None:
    typed = [" ".join(line.split()) for page in PAGES for block in blocks(page) for line in block.commands]
    for beginning in ENDS_OTHERWISE:
        assert any(line.startswith(beginning) for line in typed), beginning


def test_outputs_are_compared_without_numbers() -> None:
    assert shape("cell   1.25  (-3.4)\n\n a  2 % ") == ["cell # (#)", "a # %"]


def test_data_of_the_tutorial_is_drawn_checked_and_listed_as_written(tmp_path: Path) -> None:
    ran = run_pages(["docs/tutorial.md"], until="export HRGRID_DATA", results=tmp_path)
    assert len(ran) >= 8
    assert not [each for each in ran if each.wrong]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_all_commands_run_as_written() -> None:
    wrong = [f"{each.page}: {each.command}: {each.wrong}" for each in run_pages(list(PAGES)) if each.wrong]
    assert not wrong, "\n".join(wrong)
