"""The scores of every class, for one cell to be laid beside another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.report.rows import Row
from orchestrator.workload import Json

__all__ = ["Bar", "Comparison", "Scored", "as_json", "scored"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One trial with the IoU of every class."""

    name: str
    section: str
    classes: tuple[str, ...]
    values: tuple[float | None, ...]
    """Percent, in the order of the classes; None for a class that did not occur."""

    @property
    def mean(self) -> float:
        """Over the classes that occurred."""
        known = [value for value in self.values if value is not None]
        return statistics.fmean(known) if known else math.nan


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One class of two trials."""

    name: str
    first: float | None
    second: float | None

    @property
    def gap(self) -> float | None:
        """First minus second."""
        return None if self.first is None or self.second is None else self.first - self.second


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What the page shows before anybody has chosen: the first trial beside the next with the same classes."""

    first: int
    second: int | None
    means: str
    lines: Sequence[Bar]

    @classmethod
    def first_of(cls, runs: Sequence[Scored]) -> Comparison | None:
        """Return it, or None where there is no trial."""
        if not runs:
            return None
        ours = runs[0]
        second = next((place for place, run in enumerate(runs[1:], 1) if run.classes == ours.classes), None)
        theirs = (None,) * len(ours.values) if second is None else runs[second].values
        lines = [
            Bar(name=name, first=a, second=b) for name, a, b in zip(ours.classes, ours.values, theirs, strict=True)
        ]
        means = f"mean {ours.mean:.2f}" + ("" if second is None else f" beside {runs[second].mean:.2f}")
        return cls(first=0, second=second, means=means, lines=lines)


def scored(sections: dict[str, list[Row]]) -> list[Scored]:
    """Return all trials whose classes are known, in the order of the table."""
    return [
        Scored(name=trial.name, section=section or "Cells", classes=tuple(trial.exhibit.classes),
               values=tuple(trial.exhibit.classes.values()))
        for section, rows in sections.items() for row in rows for trial in row.trials if trial.exhibit.classes
    ]  # fmt: skip


def as_json(runs: Sequence[Scored]) -> dict[str, Json]:
    """Return what the page's script needs: the lists of classes, each once, and of every run which list and values."""
    lists = list(dict.fromkeys(run.classes for run in runs))
    rounded = [[None if value is None else round(value, 2) for value in run.values] for run in runs]
    return {
        "lists": lists,
        "runs": [
            {"name": run.name, "section": run.section, "list": lists.index(run.classes), "values": values}
            for run, values in zip(runs, rounded, strict=True)
        ],
    }
