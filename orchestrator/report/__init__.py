"""The published table again, with the reproduced numbers beside each published one and a verdict per row.

Made of the ledger and the workload's published facts alone: no tracking server, no Ray. The same facts come as
Markdown, CSV, JSON and one self-contained HTML file.
"""

from __future__ import annotations

from orchestrator.report.collect import collect
from orchestrator.report.flat import leaderboard, to_csv, to_json
from orchestrator.report.html import to_html
from orchestrator.report.markdown import to_markdown
from orchestrator.report.rows import Row, Trial
from orchestrator.report.table import Report
from orchestrator.report.verdict import MEANINGS, VERDICTS, Verdict

__all__ = [
    "MEANINGS", "VERDICTS", "Report", "Row", "Trial", "Verdict", "collect", "leaderboard", "to_csv", "to_html",
    "to_json", "to_markdown",
]  # fmt: skip
