"""The published table again, with the reproduced number beside each published one and a verdict per row.

Made of the ledger and the workload's published numbers alone: no tracking server, no Ray. The same facts come as
Markdown, CSV, JSON and one self-contained HTML file.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

from orchestrator.ledger import Entry, Ledger, State, TrialRecord
from orchestrator.workload import Json, Workload

__all__ = [
    "TOLERANCE", "VERDICTS", "Report", "Row", "Verdict", "collect", "leaderboard", "to_csv", "to_html", "to_json",
    "to_markdown",
]  # fmt: skip

SCORE, SCORE_MS_FLIP = "val/mIoU", "val/mIoU_ms_flip"
MEMORY, SPEED = "speed/train_mem_gb", "speed/fps"

TOLERANCE = 0.5
"""Points of mIoU below the published score that still count as reproduced: training again with another seed moves a
score by about as much."""

Verdict = Literal[
    "reproduced", "below", "not comparable", "no published number", "failed", "running", "stopped", "not run"
]

VERDICTS: Mapping[Verdict, str] = {
    "reproduced": "\u2713", "below": "\u25bc", "not comparable": "\u2260", "no published number": "\u2013",
    "failed": "\u2715", "running": "\u25b6", "stopped": "\u25a0", "not run": "\u25cb",
}  # fmt: skip
"""Every verdict with the sign that tells it apart without colour, best first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One trial of the table."""

    cell: str
    key: str
    facets: Mapping[str, str]
    seed: int = 0
    state: State = "new"
    published: Mapping[str, float] = field(default_factory=dict)
    reproduced: Mapping[str, float] = field(default_factory=dict)
    not_comparable: tuple[str, ...] = ()
    """Sentences why the score must not be compared with the published one."""

    step: int | None = None
    total: int | None = None
    error: str | None = None
    """Why it failed."""

    run_url: str | None = None
    """Page of the tracking run; shown as a link only if it is http(s)."""

    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """File name to PNG."""

    @property
    def name(self) -> str:
        """The cell, with the seed when it is not 0."""
        return f"{self.cell} seed {self.seed}" if self.seed else self.cell

    @property
    def run_link(self) -> str | None:
        """The address of the run if a browser may be sent there."""
        return self.run_url if self.run_url and self.run_url.startswith(("http://", "https://")) else None

    @property
    def told(self) -> bool:
        """There is more to tell than fits the table."""
        return bool(self.pictures or self.error or self.not_comparable)

    @property
    def gap(self) -> float | None:
        """Reproduced minus published mIoU; None before the end and while one of them is missing."""
        return self._gap(SCORE)

    @property
    def gap_ms_flip(self) -> float | None:
        """The same with multi-scale and flip."""
        return self._gap(SCORE_MS_FLIP)

    def _gap(self, metric: str) -> float | None:
        ours, theirs = _number(self.reproduced.get(metric)), _number(self.published.get(metric))
        return None if self.state != "finished" or ours is None or theirs is None else ours - theirs

    @property
    def verdict(self) -> Verdict:
        """What may be said of this row."""
        unfinished: dict[State, Verdict] = {
            "new": "not run", "running": "running", "failed": "failed", "stopped": "stopped", "interrupted": "stopped",
        }  # fmt: skip
        if self.state in unfinished:
            return unfinished[self.state]
        if self.not_comparable or _number(self.reproduced.get(SCORE)) is None:
            return "not comparable"
        if self.gap is None:
            return "no published number"
        # The published number has two digits, so a gap of exactly the tolerance must not fall to rounding.
        return "reproduced" if round(self.gap, 6) >= -TOLERANCE else "below"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A table and what must be known to read it."""

    title: str
    rows: Sequence[Row]
    conditions: Sequence[str] = ()
    """Sentences on how to read the numbers."""

    provenance: Mapping[str, Json] = field(default_factory=dict)
    """Commit, versions and host, as `provenance.capture` gives them."""

    created: str = ""
    """When, as text."""

    @property
    def facets(self) -> tuple[str, ...]:
        """All facets of the rows, in the order in which they appear."""
        return tuple(dict.fromkeys(facet for row in self.rows for facet in row.facets))

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many rows have each verdict; verdicts that none has are left out."""
        seen = Counter(row.verdict for row in self.rows)
        return {verdict: seen[verdict] for verdict in VERDICTS if seen[verdict]}

    @property
    def shared_reasons(self) -> tuple[str, ...]:
        """Reasons against a comparison that hold for every row; they are told once, above the table."""
        first = self.rows[0].not_comparable if self.rows else ()
        return tuple(reason for reason in first if all(reason in row.not_comparable for row in self.rows))


def collect(
    ledger: Ledger,
    benchmark: str,
    workload: Workload,
    *,
    run_url: Callable[[str], str | None] = lambda _: None,
    pictures: int = 0,
    every_cell: bool = False,
) -> list[Row]:
    """Return the rows of a benchmark in the workload's order; cells that it no longer has follow.

    `run_url` turns a run id into the address of its page; `pictures` is how many to take per trial; with `every_cell`
    cells without a trial are rows too. Raises StorageError.
    """
    cells = {cell.name: cell for cell in workload.cells()}
    entries = ledger.benchmark(benchmark)
    if every_cell:
        begun = {entry.cell for entry in entries}
        entries += [Entry(cell=c.name, key="", facets=c.facets, seed=0) for c in cells.values() if c.name not in begun]
    order = {name: place for place, name in enumerate(cells)}
    entries.sort(key=lambda entry: (order.get(entry.cell, len(order)), entry.seed))
    records = ledger.trials(entry.key for entry in entries if entry.key)
    rows = []
    for entry in entries:
        known = workload.published(cells[entry.cell]) if entry.cell in cells else None
        drawn = ledger.pictures(entry.key, pictures) if pictures and entry.key else {}
        record = records.get(entry.key) or TrialRecord(key=entry.key, state="new")
        rows.append(_row(entry, record, known or {}, drawn, run_url))
    return rows


def leaderboard(rows: Iterable[Row]) -> list[dict[str, Json]]:
    """Return one flat, JSON-able dict per row, with None for what is missing."""
    return [
        {
            "name": row.name,
            "cell": row.cell,
            "seed": row.seed,
            "key": row.key,
            **row.facets,
            "state": row.state,
            "published_mIoU": _number(row.published.get(SCORE)),
            "mIoU": _number(row.reproduced.get(SCORE)),
            "gap": _number(row.gap),
            "published_mIoU_ms_flip": _number(row.published.get(SCORE_MS_FLIP)),
            "mIoU_ms_flip": _number(row.reproduced.get(SCORE_MS_FLIP)),
            "gap_ms_flip": _number(row.gap_ms_flip),
            "published_mem_gb": _number(row.published.get(MEMORY)),
            "published_fps": _number(row.published.get(SPEED)),
            "verdict": row.verdict,
            "not_comparable": list(row.not_comparable),
            "error": row.error,
            "run_url": row.run_url,
        }
        for row in rows
    ]


def to_json(report: Report) -> str:
    """Return the report as JSON, without pictures."""
    document = {
        "title": report.title,
        "created": report.created,
        "counts": report.counts,
        "rows": leaderboard(report.rows),
        "conditions": list(report.conditions),
        "provenance": dict(report.provenance),
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def to_csv(report: Report) -> str:
    """Return the table as CSV with a header; reasons are joined with `; `."""
    sink = io.StringIO()
    flat = leaderboard(report.rows)
    names = list(dict.fromkeys(name for line in flat for name in line))
    writer = csv.DictWriter(sink, names, restval="", lineterminator="\n")
    writer.writeheader()
    for line in flat:
        writer.writerow({**line, "not_comparable": "; ".join(line["not_comparable"])})
    return sink.getvalue()


def to_markdown(report: Report) -> str:
    """Return the table, the reasons, the conditions and the provenance as Markdown."""
    head = ["cell", *report.facets, "published", "reproduced", "gap", "ms+flip published", "ms+flip reproduced",
            "Mem (GB)", "fps", "verdict"]  # fmt: skip
    left = 1 + len(report.facets)
    ruler = ["---"] * left + ["---:"] * (len(head) - left - 1) + ["---"]
    lines = [f"# {report.title}", "", _summary(report), "", _table_line(head), _table_line(ruler)]
    lines += [_table_line(_markdown_cells(report, row)) for row in report.rows]
    reasons = [f"- {row.name}: {'; '.join(row.not_comparable)}" for row in report.rows if row.not_comparable]
    errors = [f"- {row.name}: {row.error.strip().splitlines()[0]}" for row in report.rows if row.error]
    facts = [f"- {name}: {text}" for name, text in provenance_lines(report.provenance)]
    for title, items in (
        ("Not comparable, because", reasons),
        ("Failed", errors),
        ("Conditions", [f"- {sentence}" for sentence in report.conditions]),
        ("Provenance", facts),
    ):
        lines += ["", f"## {title}", "", *items] if items else []
    return "\n".join(lines) + "\n"


def to_html(report: Report) -> str:
    """Return the report as one HTML page that loads nothing from anywhere."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    environment.filters.update(number=_text, signed=_signed, data_uri=_data_uri, caption=_caption)
    source = resources.files("orchestrator").joinpath("templates/report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        signs=VERDICTS,
        tolerance=TOLERANCE,
        names={"score": SCORE, "score_ms": SCORE_MS_FLIP, "memory": MEMORY, "speed": SPEED},
        provenance=provenance_lines(report.provenance),
    )


def provenance_lines(provenance: Mapping[str, Json]) -> list[tuple[str, str]]:
    """Return what is known of a result's origin as (name, text), ready to print."""
    facts = {**{k: v for k, v in provenance.items() if k != "packages"}, **provenance.get("packages", {})}
    if facts.pop("git_dirty", None):
        facts["git_commit"] = f"{facts.get('git_commit')} with uncommitted changes"
    return [(name.replace("_", " "), str(value)) for name, value in facts.items() if value is not None]


def _row(
    entry: Entry,
    record: TrialRecord,
    published: Mapping[str, float],
    pictures: Mapping[str, bytes],
    run_url: Callable[[str], str | None],
) -> Row:
    progress = record.progress or {}
    return Row(
        cell=entry.cell,
        key=entry.key,
        facets=entry.facets,
        seed=entry.seed,
        state=record.state,
        published=published,
        reproduced=record.metrics,
        not_comparable=tuple((record.spec or {}).get("not_comparable", ())),
        step=progress.get("step"),
        total=progress.get("total"),
        error=(record.result or {}).get("error") if record.state == "failed" else None,
        run_url=run_url(record.run_id) if record.run_id else None,
        pictures=pictures,
    )


def _markdown_cells(report: Report, row: Row) -> list[str]:
    name = f"[{row.name}]({row.run_link})" if row.run_link else row.name
    # In brackets: told for information, not to be compared.
    gap = f"({_signed(row.gap)})" if row.gap is not None and row.verdict == "not comparable" else _signed(row.gap)
    return [
        name,
        *(row.facets.get(facet, "") for facet in report.facets),
        _text(row.published.get(SCORE)),
        _text(row.reproduced.get(SCORE)),
        gap,
        _text(row.published.get(SCORE_MS_FLIP)),
        _text(row.reproduced.get(SCORE_MS_FLIP)),
        _text(row.published.get(MEMORY), 1),
        _text(row.published.get(SPEED)),
        row.verdict,
    ]


def _table_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _summary(report: Report) -> str:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
    total = f"{len(report.rows)} {'trial' if len(report.rows) == 1 else 'trials'}"
    return f"{total}: {counts}" if counts else "no trials yet"


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _text(value: float | None, digits: int = 2) -> str:
    found = _number(value)
    return "" if found is None else f"{found:.{digits}f}"


def _signed(value: float | None) -> str:
    found = _number(value)
    return "" if found is None else f"{found:+.2f}"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _caption(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".png").replace("_", " ")
