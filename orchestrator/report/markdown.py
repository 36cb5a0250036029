"""The table as Markdown: one table per section, as the published one has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.report import text
from orchestrator.report.rows import MEMORY, SCORE, SCORE_MS_FLIP, SPEED, Row
from orchestrator.report.table import Report
from orchestrator.report.verdict import MEANINGS, VERDICTS

__all__ = ["to_markdown"]

_HEAD = ("mIoU", "ours", "gap", "mIoU(ms+flip)", "ours", "gap", "Mem (GB)", "ours", "Inf time (fps)", "ours", "Device",
         "ours", "verdict", "tolerance", "recipe", "links")  # fmt: skip
_LEFT = frozenset({10, 11, 12, 14, 15})
"""Columns of text in `_HEAD`; numbers stand to the right."""


def to_markdown(report: Report) -> str:
    """Return the tables, the reasons, the failures, the conditions and the provenance as Markdown."""
    lines = [f"# {report.title}", "", f"{report.summary}."]
    lines += ["", "In every pair of columns the first is published and `ours` is reproduced."] if report.rows else []
    if report.shared_reasons:
        lines += ["", f"Not comparable with the published scores ({len(report.against)} of {len(report.rows)} cells):"]
        lines += ["", *(f"- {reason}" for reason in report.shared_reasons)]
    for section, rows in report.sections.items():
        lines += ["", f"## {section or 'Cells'}", "", *_table(report, rows)]
    notes = [f"{n}. {reason} ({_cells(cells)})" for n, (reason, cells) in enumerate(report.notes.items(), 1)]
    trials = [trial for row in report.rows for trial in row.trials]
    for title, items in (
        ("Not comparable, because", notes),
        ("Seeds", [line for row in report.rows if len(row.trials) > 1 for line in _seeds(row)]),
        ("Failed", [f"- {trial.name}: {text.first_line(trial.error)}" for trial in trials if trial.error]),
        ("Far below the reference", [f"- {trial.name}: {trial.warning}" for trial in trials if trial.warning]),
        ("Verdicts", [f"- {VERDICTS[v]} {v} ({count}): {MEANINGS[v]}" for v, count in report.counts.items()]),
        ("Conditions", [f"- {sentence}" for sentence in report.reading]),
        ("Provenance", [f"- {name}: {value}" for name, value in text.provenance_lines(report.provenance)]),
    ):
        lines += ["", f"## {title}", "", *items] if items else []
    # Errors and names come from anywhere: what they hold is shown, neither swallowed as a tag nor a line of its own.
    return "".join(" ".join(line.splitlines()).replace("<", "&lt;") + "\n" for line in lines)


def _table(report: Report, rows: Sequence[Row]) -> Iterator[str]:
    columns = report.columns
    ruler = ["---"] * len(columns) + ["---" if place in _LEFT else "---:" for place in range(len(_HEAD))]
    yield _line([*columns, *_HEAD])
    yield _line(ruler)
    for row in rows:
        yield _line([*(row.fact(column) for column in columns), *_numbers(row), *_words(report, row)])


def _numbers(row: Row) -> list[str]:
    return [
        text.number(row.published.get(SCORE)),
        text.score(row.score),
        text.gap(row, row.gap),
        text.number(row.published.get(SCORE_MS_FLIP)),
        text.score(row.score_ms_flip),
        text.gap(row, row.gap_ms_flip),
        text.number(row.published.get(MEMORY)),
        text.memory(row),
        text.number(row.published.get(SPEED)),
        text.number(row.speed),
        row.facts.device,
        row.device or "",
    ]


def _words(report: Report, row: Row) -> list[str]:
    marks = ", ".join(str(mark) for mark in report.marks(row))
    verdict = f"{VERDICTS[row.verdict]} {row.verdict}" + (f" [{marks}]" if marks else "")
    run = next((trial.run_link for trial in row.counted or row.trials if trial.run_link), None)
    links = [f"[{name}]({address})" for name, address in row.facts.links.items()]
    return [verdict, f"{row.tolerance:.2f}", row.cell, " ".join([*links, f"[run]({run})"] if run else links)]


def _seeds(row: Row) -> Iterator[str]:
    for trial in row.trials:
        scores = " / ".join(text.number(trial.metrics.get(metric)) or "-" for metric in (SCORE, SCORE_MS_FLIP))
        link = f" [run]({trial.run_link})" if trial.run_link else ""
        label = trial.name if trial.sample else f"{row.cell} seed {trial.seed}"
        yield f"- {label}: mIoU / ms+flip {scores}, {trial.verdict(row.published)}{link}"


def _cells(cells: Sequence[str]) -> str:
    return ", ".join(cells) if len(cells) <= 3 else f"{len(cells)} cells"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
