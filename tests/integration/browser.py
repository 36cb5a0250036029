"""A page of Debian's Chromium for tests: what it logs as an error is kept, and pictures go to test-results/screens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

__all__ = ["PHONE", "SCREENS", "WIDE", "Visit", "axe_findings", "visit"]

CHROMIUM: Final = shutil.which("chromium") or "/usr/bin/chromium"
SCREENS: Final = Path(__file__).resolve().parents[2] / "test-results" / "screens"
WIDE: Final[Mapping[str, int]] = {"width": 1500, "height": 950}
PHONE: Final[Mapping[str, int]] = {"width": 390, "height": 844}
SERIOUS: Final = ("serious", "critical")


class Visit:
    """One browser page, and what went wrong on it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        """Playwright's `Page`."""
        self.errors: list[str] = []
        """Errors of the console, exceptions of scripts, and answers from 400 on, in the order in which they came."""
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("response", self._answered)

    def _answered(self, answer: Any) -> None:
        if answer.status >= 400:
            self.errors.append(f"{answer.status} {answer.url}")

    def shoot(self, name: str, *, whole: bool = False) -> Path:
        """Save a picture of the page as test-results/screens/NAME.png; `whole`: also what must be scrolled to."""
        SCREENS.mkdir(parents=True, exist_ok=True)
        target = SCREENS / f"{name}.png"
        self.page.screenshot(path=target, full_page=whole)
        return target


@contextmanager
def visit(address: str, *, size: Mapping[str, int] = WIDE, **context: Any) -> Iterator[Visit]:
    """Open an address in a fresh Chromium profile; further options are those of Playwright's `new_context`.

    Skips the test where there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    if not Path(CHROMIUM).exists():
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            page = browser.new_context(viewport=dict(size), **context).new_page()
            seen = Visit(page)
            page.goto(address, wait_until="domcontentloaded", timeout=120_000)
            yield seen
        finally:
            browser.close()


def axe_findings(seen: Visit) -> list[str]:
    """Serious and critical findings of axe-core on the page as it is, one sentence each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(seen.page).response["violations"]
    return [
        f"{finding['impact']}: {finding['id']}: {finding['help']}: {finding['nodes'][0]['html'][:160]}"
        for finding in found
        if finding["impact"] in SERIOUS
    ]
