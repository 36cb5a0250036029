"""Plain facts on a terminal: tables, durations, sizes. Long lines are never folded when nobody's terminal is there."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ask", "console", "duration", "number", "plural", "print_table", "reason_of"]

_PIPE_WIDTH = 10_000
"""Columns when the output is no terminal: a file or another program reads it, and nothing may be cut."""


def console() -> Console:
    """A rich console on stdout, as it is now."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()) -> None:
    """Print a table; the columns named in `right` are aligned to the right, and a row of one cell is a heading.

    A terminal that is too narrow folds its lines, as rich would leave out whole columns.
    """
    widths = _widths([columns, *rows])
    if not sys.stdout.isatty() or sum(widths) + 2 * (len(widths) - 1) > console().width:
        _print_plain(columns, rows, right)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(value) for value in row), style="bold" if len(row) == 1 < len(columns) else None)
    console().print(table)


def _print_plain(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str]) -> None:
    """The same without a terminal: nothing is cut, and a thousand rows cost no second of layout."""
    widths = _widths([columns, *rows])
    for line in (columns, *rows):
        cells = [
            text.rjust(width) if column in right else text.ljust(width)
            for text, column, width in zip(line, columns, widths, strict=False)
        ]
        print("  ".join(cells).rstrip())


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """Width of every column."""
    return [max(len(line[i]) for line in lines if len(line) > i) for i in range(len(lines[0]))]


def duration(seconds: float | None) -> str:
    """`45 s`, `12 min`, `3 h 20 min` or `5 d 2 h`; `-` for None or NaN."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def number(value: float | None, digits: int = 2) -> str:
    """A number with fixed digits; `-` for None or NaN."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def plural(count: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def reason_of(error: str, cell: str) -> str:
    """The first line of a trial's error, without the name of its cell that it begins with."""
    return error.strip().splitlines()[0].removeprefix(f"{cell}: ")


def ask(question: str) -> bool:
    """Ask on the terminal; only `y` or `yes` is yes."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
