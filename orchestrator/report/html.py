"""The table as one HTML page that loads nothing from anywhere."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import PurePosixPath

from orchestrator.report import text
from orchestrator.report.rows import MEMORY, SCORE, SCORE_MS_FLIP, SPEED
from orchestrator.report.table import Report
from orchestrator.report.verdict import MEANINGS, VERDICTS

__all__ = ["to_html"]


def to_html(report: Report) -> str:
    """Return the report with its pictures."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    environment.filters.update(number=text.number, signed=text.signed, data_uri=_data_uri, caption=_caption)
    source = resources.files("orchestrator").joinpath("templates/report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        notes=list(report.notes.items()),
        signs=VERDICTS,
        meanings=MEANINGS,
        names={"score": SCORE, "score_ms": SCORE_MS_FLIP, "memory": MEMORY, "speed": SPEED},
        text=text,
        provenance=text.provenance_lines(report.provenance),
    )


def _data_uri(picture: bytes) -> str:
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()


def _caption(name: str) -> str:
    return PurePosixPath(name).stem.replace("_", " ")
