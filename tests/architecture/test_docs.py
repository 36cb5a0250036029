"""The documents point at things that exist, and name the commands that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from jobs.cli import COMMANDS
from tests.architecture.commands import check_words

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


def test_commands_in_pages_exist_with_their_options() -> None:
    from ray.scripts.scripts import cli

    seen = 0
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                # What is said of a command stands far to its right.
                program, _, rest = re.split(r" {6,}", line)[0].partition(" ")
                if program == "hrgrid":
                    check_words(shlex.split(rest))
                    seen += 1
                elif program == "ray":
                    command = cli.commands[rest.split()[0]]
                    known = {option for parameter in command.params for option in parameter.opts}
                    assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known, line
    assert seen > 30
