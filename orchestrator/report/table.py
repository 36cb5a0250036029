"""The table as a whole: its rows in sections, its counts, and what must be known to read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from orchestrator.report.rows import Row
from orchestrator.report.verdict import TOLERANCE, VERDICTS, Verdict
from orchestrator.workload import Json

__all__ = ["Report"]

_READING = (
    f"The verdict is of the single-scale mIoU. A row's tolerance is {TOLERANCE} points of mIoU or two sample standard "
    "deviations of its own comparable seeds (from two seeds on), whichever is more; its score is then their mean. The "
    "gap is reproduced minus published; in brackets it is told for information only.",
    "mIoU(ms+flip) has a gap and no verdict. Memory and speed stand beside the published ones and are never judged: "
    "they belong to the device that they were measured on.",
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A table and what must be known to read it."""

    # Without slots: every row of every form asks for what is found over all rows, and that is kept.

    title: str
    rows: Sequence[Row]
    conditions: Sequence[str] = ()
    """Sentences on how the numbers came about."""

    provenance: Mapping[str, Json] = field(default_factory=dict)
    """Commit, versions and host, as `provenance.capture` gives them."""

    created: str = ""
    """When, as text."""

    @property
    def sections(self) -> dict[str, list[Row]]:
        """Heading to its rows, in the order in which they appear."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.section, []).append(row)
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the facts that the published table tells of its rows; without any, the facets."""
        named = dict.fromkeys(name for row in self.rows for name in row.facts.columns)
        return tuple(named or dict.fromkeys(facet for row in self.rows for facet in row.facets))

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many cells have each verdict; verdicts that none has are left out."""
        seen = Counter(row.verdict for row in self.rows)
        return {verdict: seen[verdict] for verdict in VERDICTS if seen[verdict]}

    @property
    def summary(self) -> str:
        """The counts in words."""
        if not self.rows:
            return "no trials yet"
        cells, trials = len(self.rows), sum(len(row.trials) for row in self.rows)
        of = f" ({trials} {_plural(trials, 'trial')})" if trials != cells else ""
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())
        return f"{cells} {_plural(cells, 'cell')}{of}: {counts}"

    @property
    def reading(self) -> tuple[str, ...]:
        """How to read the table, then the conditions."""
        return (*_READING, *self.conditions)

    @cached_property
    def against(self) -> tuple[Row, ...]:
        """The rows with reasons against a comparison."""
        return tuple(row for row in self.rows if row.not_comparable)

    @cached_property
    def shared_reasons(self) -> tuple[str, ...]:
        """Reasons that all of several such rows have; they are told once, above the table."""
        first, *others = self.against or (None,)
        if first is None or not others:
            return ()
        return tuple(reason for reason in first.not_comparable if all(reason in row.not_comparable for row in others))

    @cached_property
    def notes(self) -> dict[str, list[str]]:
        """All other reasons, to be numbered from 1, with the cells that each holds for."""
        found: dict[str, list[str]] = {}
        shared = self.shared_reasons
        for row in self.against:
            for reason in row.not_comparable:
                if reason not in shared:
                    found.setdefault(reason, []).append(row.cell)
        return found

    def marks(self, row: Row) -> list[int]:
        """The numbers of the notes that a row has."""
        return [number for number, cells in enumerate(self.notes.values(), 1) if row.cell in cells]


def _plural(count: int, noun: str) -> str:
    return noun if count == 1 else f"{noun}s"
