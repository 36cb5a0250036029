"""The site is built without a warning from the pages and the code, loads nothing from a network, and can be read."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jobs._command import CommandParser
from jobs.cli import COMMANDS
from tests.integration.browser import PHONE, WIDE, axe_findings, visit

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(page.stem for page in (ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet", "-d", f"{folder}/trees"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, f"{ROOT}/docs", f"{folder}/html"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "html"


def text_of(site: Path, page: str) -> str:
    """What a page says, without tags."""
    article = (site / f"{page}.html").read_text().partition('<article role="main"')[2].partition("</article>")[0]
    return " ".join(unescape(re.sub(r"<[^>]+>", "", article)).split())


def test_every_page_is_in_the_side_bar_and_no_mark_is_left(site: Path) -> None:
    index = (site / "index.html").read_text()
    listed = set(re.findall(r'class="toctree-l1"><a class="reference internal" href="([\w-]+)\.html"', index))
    assert listed == set(PAGES) - {"index"}
    assert not [page for page in PAGES if "generated:" in (site / f"{page}.html").read_text()]


def test_nothing_is_loaded_from_a_network(site: Path) -> None:
    loading = re.compile(
        r"""<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)="(https?:|//)[^"]*"|url\((https?:|//)"""
    )
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert not loading.search(file.read_text()), file


def test_external_links_are_whole() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for address in re.findall(r"\]\((https?://[^)\s]*)\)", page.read_text()):
            parts = urlsplit(address)
            assert parts.hostname, (page, address)
            assert "." in parts.hostname, (page, address)


def test_the_reference_has_every_option_of_every_command(site: Path) -> None:
    said = text_of(site, "commands")

    def parsers(name: str, module: str) -> list[argparse.ArgumentParser]:
        loaded = importlib.import_module(module)
        parser = CommandParser(f"hrgrid {name}", loaded.HELP)
        loaded.add_arguments(parser)
        below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        return [parser, *(step for action in below for step in action.choices.values())]

    for name, (module, _) in COMMANDS.items():
        for parser in parsers(name, module):
            own = said[said.index(f"{parser.prog} [-h]") :].partition(" [-h]")[2].partition(" [-h]")[0]
            for action in parser._actions:
                for option in set(action.option_strings) - {"-h", "--help"}:
                    assert option in own, (parser.prog, option)


def test_the_reference_has_every_recipe_with_its_numbers(site: Path) -> None:
    from hrnet import recipes
    from hrnet.published import published

    said = text_of(site, "recipes")
    for recipe in recipes():
        row = published(recipe.name)
        numbers = "" if row is None else f" {row.miou:g} {row.miou_ms_flip:g}"
        crop = f"{recipe.crop[0]}x{recipe.crop[1]}"
        assert f"{recipe.name} {recipe.width} {recipe.schedule} {crop} {recipe.batch_size}{numbers}" in said


def look(site: Path, pages: list[str], size: Mapping[str, int], scheme: str) -> None:
    with visit(f"file://{site}/index.html", size=size, color_scheme=scheme) as seen:
        for page in pages:
            seen.page.goto(f"file://{site}/{page}.html")
            seen.shoot(f"docs-{page}-{scheme}")
            assert not seen.errors, page
            width, window = seen.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
            assert width <= window, f"{page} is wider than its window"
            # Its stylesheets are files, which axe may not read a second time: that it logs.
            assert axe_findings(seen) == [], page
            seen.errors.clear()


def test_a_page_with_a_picture_can_be_read_on_a_phone_at_night(site: Path) -> None:
    look(site, ["architecture"], PHONE, "dark")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")], ids=["wide", "phone"])
def test_every_page_can_be_read(site: Path, size: Mapping[str, int], scheme: str) -> None:
    look(site, PAGES, size, scheme)
