"""The fenced blocks of a page: commands to run, files to write, output to find."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/quickstart.md", "docs/tutorial.md")
"""Pages whose commands are executed, in this order in one checkout: the quickstart goes on from what README made."""

_BLOCK = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    """Of the page, at which the block begins."""
    language: str
    """`sh`: commands; `text`: what they print; anything else with a file: its content."""
    text: str
    file: str | None
    """Where to save the text: the name that stands alone on the line before the block."""

    @property
    def commands(self) -> list[str]:
        """The lines of a block of commands, those that end in a backslash joined with the next."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page of the repository, in order."""
    text = (ROOT / page).read_text(encoding="ascii")
    return [
        Block(page=page, line=text.count("\n", 0, found.start(2)) + 1, language=found[2], text=found[3], file=found[1])
        for found in _BLOCK.finditer(text)
    ]


def shape(text: str) -> list[str]:
    """Lines of an output without what differs from machine to machine: numbers and the width of columns."""
    lines = [re.sub(r"[+-]?\d[\d.,]*", "#", " ".join(line.split())) for line in text.splitlines()]
    return [line for line in lines if line]
