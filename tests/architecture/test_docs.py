"""The documents point at things that exist, and name the commands that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = [match[1] for match in _LINK.finditer(page.read_text())]
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing, f"{page.name} links to {missing}"


def test_pages_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "index.md", "metrics.md"} <= {page.name for page in PAGES}


def test_readme_lists_exactly_the_commands() -> None:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    table = " ".join(rows)
    named = {command for command in COMMANDS if re.search(rf"`(hrgrid )?{command}\b", table)}
    assert named == set(COMMANDS)


def test_pages_are_ascii() -> None:
    for page in PAGES:
        assert page.read_text().isascii(), page
