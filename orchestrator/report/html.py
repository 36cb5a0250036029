"""The table and its pictures as one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from orchestrator.report import figures, text
from orchestrator.report.classes import Comparison, Scored, as_json, scored
from orchestrator.report.rows import MEMORY, SCORE, SCORE_MS_FLIP, SPEED, Row, Trial
from orchestrator.report.table import Report
from orchestrator.report.verdict import MEANINGS, VERDICTS

__all__ = ["to_html"]

_GALLERY: Mapping[str, str] = {
    "best_": "Best validation images", "worst_": "Worst validation images", "": "Fixed validation images"
}  # fmt: skip
"""What the name of a picture begins with, and the heading above such ones."""


def to_html(report: Report) -> str:
    """Return the report with its pictures."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=text.number, signed=text.signed, data_uri=_data_uri)
    sections, names, runs = report.sections, figures.series(report.rows), scored(report.sections)
    groups, told = figures.groups(sections, names), {row.cell for row in report.rows if row.told}
    parts = {"table": "Table", "choosing": groups, "classes": runs, "cells": told, "foot": "Conditions"}
    return environment.get_template("report.html.jinja").render(
        report=report,
        notes=list(report.notes.items()),
        signs=VERDICTS,
        meanings=MEANINGS,
        names={"score": SCORE, "score_ms": SCORE_MS_FLIP, "memory": MEMORY, "speed": SPEED},
        text=text,
        provenance=text.provenance_lines(report.provenance),
        parts=[(target, _PARTS[target]) for target, there in parts.items() if there],
        facets=_facets(report.rows),
        cards={row.cell: f"cell-{place}" for place, row in enumerate(report.rows, 1)},
        told=told,
        groups=groups,
        series=names,
        learning=figures.learning,
        gallery=_gallery,
        bars=Comparison.first_of(runs),
        choosable=_choosable(runs),
        scored_json=as_json(runs),
    )


_PARTS: Mapping[str, str] = {
    "table": "Table", "choosing": "Choosing a model", "classes": "Class by class", "cells": "Cell by cell",
    "foot": "Conditions and provenance",
}  # fmt: skip
"""Anchor to the name of a part of the page."""


def _facets(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Every facet with its values in the order of the table."""
    names = dict.fromkeys(name for row in rows for name in row.facets)
    return {name: list(dict.fromkeys(row.facets[name] for row in rows if name in row.facets)) for name in names}


def _choosable(runs: Sequence[Scored]) -> dict[str, list[tuple[int, str]]]:
    """Section to the place and name of its runs."""
    found: dict[str, list[tuple[int, str]]] = {}
    for place, run in enumerate(runs):
        found.setdefault(run.section, []).append((place, run.name))
    return found


def _gallery(trial: Trial) -> list[tuple[str, list[tuple[str, bytes]]]]:
    """The pictures of a trial under their headings, each with a caption that tells its own score if that is known."""
    scores = {name.replace("/", "_"): score for name, score in trial.exhibit.images.items()}
    found: dict[str, list[tuple[str, bytes]]] = {heading: [] for heading in _GALLERY.values()}
    for name, picture in trial.pictures.items():
        prefix = next((prefix for prefix in _GALLERY if prefix and name.startswith(prefix)), "")
        number, _, image = PurePosixPath(name.removeprefix(prefix)).stem.partition("_")
        label = image if number.isdecimal() and image else PurePosixPath(name).stem
        score = scores.get(label)
        found[_GALLERY[prefix]].append((label + ("" if score is None else f", mIoU {score:.2f}"), picture))
    return [(heading, pictures) for heading, pictures in found.items() if pictures]


def _data_uri(picture: bytes) -> str:
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()
