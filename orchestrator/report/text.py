"""Numbers and facts of the table as text, the same in every form that people read."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.report.rows import Row
from orchestrator.report.verdict import Sample, finite
from orchestrator.workload import Json

__all__ = ["first_line", "gap", "memory", "number", "provenance_lines", "score", "signed"]


def number(value: float | None, digits: int = 2) -> str:
    """Fixed digits; empty for what is missing."""
    found = finite(value)
    return "" if found is None else f"{found:.{digits}f}"


def signed(value: float | None) -> str:
    """Two digits and the sign; empty for what is missing."""
    found = finite(value)
    return "" if found is None else f"{found:+.2f}"


def gap(row: Row, value: float | None) -> str:
    """The gap; in brackets where it is told for information, not to be compared."""
    text = signed(value)
    return f"({text})" if text and row.not_comparable else text


def score(sample: Sample | None) -> str:
    """The mean, with the standard deviation and the number of seeds when there are several."""
    if sample is None:
        return ""
    return number(sample.mean) if sample.sd is None else f"{sample.mean:.2f} \u00b1 {sample.sd:.2f} (n={sample.n})"


def memory(row: Row) -> str:
    """Own memory, or why there is none."""
    return "n/a (CPU)" if row.memory_on_cpu else number(row.memory)


def first_line(error: str) -> str:
    """What happened, without the log."""
    return error.strip().splitlines()[0]


def provenance_lines(provenance: Mapping[str, Json]) -> list[tuple[str, str]]:
    """Return what is known of a result's origin as (name, text), ready to print."""
    facts = {**{k: v for k, v in provenance.items() if k != "packages"}, **provenance.get("packages", {})}
    if facts.pop("git_dirty", None):
        facts["git_commit"] = f"{facts.get('git_commit')} with uncommitted changes"
    return [(name.replace("_", " "), str(value)) for name, value in facts.items() if value is not None]
