"""The rows of a run as cells of a table, what is to be said beside it, and the trend since an earlier run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hrnet.errors import HrnetError
from hrnet.suite.contest import Row, Spread, Unit
from hrnet.suite.profiles import Profile

__all__ = ["COLUMNS", "FORMAT", "PROFILE_COLUMNS", "RIGHT", "cells", "notes", "output_file", "plain", "profile_cells",
           "read_earlier"]  # fmt: skip

FORMAT = "hrgrid-suite-1"
"""What a file of figures says it is."""

COLUMNS = ("part", "what", "how", "ours", "+-", "peer", "+-", "ratio", "goal", "reached", "limit", "equal", "memory",
           "since")  # fmt: skip
RIGHT = frozenset({"ours", "+-", "peer", "ratio", "limit", "equal", "memory", "since", "calls", "ms", "share"})
"""Columns that are aligned to the right."""

_DIGITS: Mapping[Unit, int] = {"ms": 1, "s": 2, "per s": 1, "x": 3}


def cells(rows: Sequence[Row], earlier: Mapping[str, Any] | None = None) -> tuple[list[str], list[list[str]]]:
    """Return the heads of the columns and the cells; columns that are empty in every row are left out.

    With the content of an `earlier` run the last column says how many times as good each figure is as then.
    """
    table = [[*_cells(row), _trend(row, earlier)] for row in rows]
    kept = [number for number in range(len(COLUMNS)) if number < 4 or any(line[number] for line in table)]
    return [COLUMNS[i] for i in kept], [[line[i] for i in kept] for line in table]


def _cells(row: Row) -> list[str]:
    return [
        row.part,
        row.case,
        row.way,
        _figure(row.ours, row.unit),
        _spread(row.ours),
        "" if row.peer is None else _figure(row.peer, row.unit),
        "" if row.peer is None else _spread(row.peer),
        "" if row.ratio is None else f"{row.ratio.median:.2f}x",
        row.goal,
        "" if row.reached is None else "yes" if row.reached else "NO",
        "" if row.limit is None else f"{100 * row.limit:.0f} %",
        "" if row.equal is None else f"{row.equal:.3f} %",
        _memory(row),
    ]


def _figure(spread: Spread, unit: Unit) -> str:
    return f"{spread.median:.{_DIGITS[unit]}f} {unit}"


def _spread(spread: Spread) -> str:
    """Half the distance of the quartiles, in percent of the median."""
    return f"{50 * (spread.high - spread.low) / spread.median:.0f} %"


def _memory(row: Row) -> str:
    if row.memory_gb is None:
        return ""
    beside = "" if not row.peer_memory_gb else f" ({row.memory_gb / row.peer_memory_gb:.2f}x)"
    return f"{row.memory_gb:.2f} GB{beside}"


def _trend(row: Row, earlier: Mapping[str, Any] | None) -> str:
    same = [
        then
        for then in (earlier or {"rows": ()})["rows"]
        if [then[key] for key in ("part", "case", "way")] == [row.part, row.case, row.way]
    ]
    if not same or not row.ours.median or not same[0]["ours"]["median"]:
        return ""
    gain = row.ours.median / float(same[0]["ours"]["median"])
    return f"{gain if row.unit == 'per s' else 1 / gain:.2f}x"


def notes(conditions: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Return the lines below the table: the machine, how it was measured, and what disturbed it."""
    machine, speeds, peer = conditions, conditions["gigamacs_per_s"], conditions["peer"]
    lines = [
        f"machine: {machine['device']}, {machine['threads']} threads of {machine['cores']} cores, "
        f"{', '.join(machine['instruction_sets']) or 'no known instruction sets'}; "
        f"torch {machine['torch']} ({machine['torch_capability']})",
        "matrix products (the limit is of the faster of fp32 and the row's own): "
        + ", ".join(f"{name} {2 * speed:.0f} GFLOP/s" for name, speed in speeds.items()),
        f"each figure is the median of {machine['rounds']} turns, back and forth; +- is half the distance of the "
        "quartiles; ratio is the median over the rounds, > 1 where ours is better",
    ]
    if peer is None:
        lines.append("no peer: install mmsegmentation 1.2.2 with `make peer`, or name its interpreter with --peer")
    else:
        lines.append("peer: " + ", ".join(f"{name} {version}" for name, version in peer.items()))
    loads, stolen = [row.load for row in rows], [row.stolen for row in rows]
    if rows:
        lines.append(
            f"load of the machine when a contest began, this work's own included: {min(loads):.1f} to "
            f"{max(loads):.1f}; stolen by the host: up to {max(stolen):.0f} %"
        )
    return lines


PROFILE_COLUMNS = ("where", "calls", "ms", "share")


def profile_cells(found: Profile) -> tuple[str, list[list[str]]]:
    """Return the title of a profile, and its cells under `PROFILE_COLUMNS`."""
    rows = [[place.name, f"{place.calls:.1f}", f"{place.ms:.2f}", f"{place.share:.0f} %"] for place in found.places]
    return f"{found.what}: {found.ms:.1f} ms, of which", rows


def read_earlier(path: Path | None) -> Mapping[str, Any] | None:
    """Return what an earlier run wrote into a file, None without one; raises HrnetError if it is no such file."""
    if path is None:
        return None
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HrnetError(f"{path} holds no figures of an earlier run ({error}); make some with -o FILE") from error
    return dict(content)


def output_file(path: Path | None) -> Path | None:
    """Return the path if a file can be made there, before the long work begins; raises HrnetError if not."""
    if path is not None and not path.parent.is_dir():
        raise HrnetError(f"{path} cannot be written: there is no folder {path.parent}")
    return path


def plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table without any library."""
    widths = [max(len(line[i]) for line in (columns, *rows)) for i in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if column in RIGHT else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ).rstrip()
        for line in (columns, *rows)
    ]
