"""The table for programs: JSON with every trial, CSV with one line per cell."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable

from orchestrator.report.rows import MEMORY, SCORE, SCORE_MS_FLIP, SPEED, Row, Trial
from orchestrator.report.table import Report
from orchestrator.report.verdict import DIGITS, Sample, finite
from orchestrator.workload import Json

__all__ = ["leaderboard", "to_csv", "to_json"]


def leaderboard(rows: Iterable[Row]) -> list[dict[str, Json]]:
    """Return one JSON-able dict per cell, with None for what is missing.

    `section`, the published table's facts and the links are those of the workload, in lower case with underscores;
    `mIoU` and `mIoU_ms_flip` are means over `n` seeds and `..._sd` their sample standard deviations; `tolerance` and
    `gap` are in points of mIoU; `mem_gb` (GB as the workload counts them) and `fps` (images per second) were measured
    on `device`; `trials` holds every trial of the cell, with its thinned curves and the IoU of its classes where they
    were read.
    """
    return [_flat(row) for row in rows]


def to_json(report: Report) -> str:
    """Return the report as JSON, without pictures."""
    document = {
        "title": report.title,
        "created": report.created,
        "counts": report.counts,
        "rows": leaderboard(report.rows),
        "conditions": list(report.reading),
        "provenance": dict(report.provenance),
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def to_csv(report: Report) -> str:
    """Return the table as CSV with a header, one line per cell: what `leaderboard` gives.

    Of the trials there are `seeds` (of all of them) and `run_url` (of those that the scores are of); these,
    reasons, errors and warnings are joined with `; `. What is missing is empty.
    """
    sink = io.StringIO()
    lines = [_line(row, flat) for row, flat in zip(report.rows, leaderboard(report.rows), strict=True)]
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(sink, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return sink.getvalue()


def _line(row: Row, flat: dict[str, Json]) -> dict[str, Json]:
    urls = [trial.run_url for trial in row.counted or row.trials if trial.run_url]
    return {
        **{name: value for name, value in flat.items() if name != "trials"},
        "not_comparable": "; ".join(row.not_comparable),
        "error": "; ".join(trial.error.strip().splitlines()[0] for trial in row.trials if trial.error),
        "warning": "; ".join(trial.warning for trial in row.trials if trial.warning),
        "seeds": "; ".join(str(trial.seed) for trial in row.trials),
        "run_url": "; ".join(urls),
    }


def _flat(row: Row) -> dict[str, Json]:
    return {
        "section": row.section,
        "cell": row.cell,
        **row.facets,
        **{_key(name): text for name, text in row.facts.columns.items()},
        "state": row.state,
        "n": len(row.counted),
        "published_mIoU": finite(row.published.get(SCORE)),
        **_score("mIoU", row.score),
        "gap": _points(row.gap),
        "tolerance": row.tolerance,
        "published_mIoU_ms_flip": finite(row.published.get(SCORE_MS_FLIP)),
        **_score("mIoU_ms_flip", row.score_ms_flip),
        "gap_ms_flip": _points(row.gap_ms_flip),
        "published_mem_gb": finite(row.published.get(MEMORY)),
        "mem_gb": row.memory,
        "published_fps": finite(row.published.get(SPEED)),
        "fps": row.speed,
        "published_device": row.facts.device or None,
        "device": row.device,
        "verdict": row.verdict,
        "not_comparable": list(row.not_comparable),
        **{_key(name): address for name, address in row.facts.links.items()},
        "trials": [_trial(row, trial) for trial in row.trials],
    }


def _trial(row: Row, trial: Trial) -> dict[str, Json]:
    return {
        "seed": trial.seed,
        "key": trial.key,
        "state": trial.state,
        "step": trial.step,
        "total": trial.total,
        "mIoU": finite(trial.metrics.get(SCORE)),
        "gap": _points(trial.gap(row.published)),
        "mIoU_ms_flip": finite(trial.metrics.get(SCORE_MS_FLIP)),
        "gap_ms_flip": _points(trial.gap(row.published, SCORE_MS_FLIP)),
        "mem_gb": finite(trial.metrics.get(MEMORY)),
        "fps": finite(trial.metrics.get(SPEED)),
        "device": trial.device,
        "verdict": trial.verdict(row.published),
        "not_comparable": list(trial.reasons),
        "error": trial.error,
        "warning": trial.warning or None,
        "sample": dict(trial.sample),
        "run_url": trial.run_url,
        "curves": {name: [list(point) for point in curve] for name, curve in trial.exhibit.curves.items()},
        "per_class_iou": dict(trial.exhibit.classes),
    }


def _score(name: str, sample: Sample | None) -> dict[str, float | None]:
    return {name: None if sample is None else sample.mean, f"{name}_sd": None if sample is None else sample.sd}


def _points(gap: float | None) -> float | None:
    """Without the noise of binary rounding, as the verdict reads it."""
    return None if gap is None else round(gap, DIGITS)


def _key(heading: str) -> str:
    return heading.lower().replace(" ", "_")
