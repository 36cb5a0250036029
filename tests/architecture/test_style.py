"""Sizes that keep the code readable: offenders are listed, not counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hrnet", "orchestrator", "jobs")

FUNCTION_LINES = 90
P90_LINES = 45
FILE_LINES = 450


def _files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _functions() -> Iterator[tuple[str, int]]:
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def test_no_function_is_long() -> None:
    long = [f"{where} has {lines} lines" for where, lines in _functions() if lines > FUNCTION_LINES]
    assert not long, "\n".join(long)


def test_nine_functions_of_ten_are_short() -> None:
    lengths = sorted(lines for _, lines in _functions())
    assert lengths[int(0.9 * len(lengths))] <= P90_LINES


def test_no_file_is_long() -> None:
    sizes = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in _files()}
    long = [f"{path} has {lines} lines" for path, lines in sizes.items() if lines > FILE_LINES]
    assert not long, "\n".join(long)


def test_source_is_ascii_and_packages_are_marked_typed() -> None:
    for path in _files():
        assert path.read_text().isascii(), path
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()
