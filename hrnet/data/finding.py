"""What the integrity gate has to say: one finding, one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["INCOMPLETE", "SHOWN", "Finding", "Kind", "listed", "many", "told"]

Kind = Literal["file", "sample", "manifest", "count", "tile", "swap", "leak", "duplicate", "values", "shift", "absent"]
"""What a finding is about: a file, a sample, the manifest, the number of images, tiles of a grid, exchanged splits, an
image in two splits or twice in one, label values, labels moved by a class or by pixels, classes without a pixel."""

INCOMPLETE: frozenset[Kind] = frozenset({"count", "tile"})
"""Kinds that say that the data set is not the complete one: allowed only where a person asked for a partial one."""

SHOWN = 10
"""Findings of one kind that are listed one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that a person should know about a data set."""

    kind: Kind
    """What it is about."""

    where: str
    """File, or split and sample."""

    message: str
    """One sentence."""

    fatal: bool
    """The data set must not be used like this."""


def listed(names: Sequence[str], shown: int = 4) -> str:
    """Return the first names with commas, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def many(count: int, noun: str) -> str:
    """Return `1 image`, `2 images`, `1 class`, `2 classes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{ending}"


def told(findings: Iterable[Finding]) -> str:
    """Return findings as one text: place and sentence of each."""
    return "; ".join(f"{finding.where}: {finding.message}" for finding in findings)
