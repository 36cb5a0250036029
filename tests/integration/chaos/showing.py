"""What the programs of this folder share: figures as a table and as JSON, and a folder that is gone at the end."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from jobs._show import print_table

FIGURES: Final = "HRGRID_CHAOS_JSON"
"""Environment variable with the file that `make chaos` wants a program's figures in."""


def add_output(parser: argparse.ArgumentParser) -> None:
    asked = os.environ.get(FIGURES)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", default=asked and Path(asked), help="write the figures there, too"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="work there and keep everything")


def write(file: Path | None, figures: Any) -> None:
    """Write figures as JSON if a file was asked for."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures, indent=1) + "\n")


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of the same keys as a table."""
    columns = tuple(rows[0])
    numbers = {column for column in columns if all(isinstance(row[column], int | float | None) for row in rows)}
    print_table(columns, [[_text(row[column]) for column in columns] for row in rows], right=numbers)


@contextmanager
def workplace(folder: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or a temporary one. SIGTERM is from here on an interruption, which tidies up."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix="hrchaos-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.1f}"
    return "-" if value is None else str(value)
