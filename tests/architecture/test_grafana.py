"""The dashboard asks for what the launches and the installed Ray export, and for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from orchestrator import gauges

ROOT = Path(__file__).resolve().parents[2]


def queries() -> list[str]:
    """Every query of the dashboard."""
    dashboard = json.loads((ROOT / "docs/cluster/grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return asked + [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]


def names() -> set[str]:
    """Every metric that the dashboard asks for."""
    return {name for query in queries() for name in re.findall(r"\bray_\w+", query)}


def test_every_query_names_a_metric_that_is_exported() -> None:
    told = re.findall(r"`([a-z]+/\w+)`", (ROOT / "docs/metrics.md").read_text())
    ours = {f"ray_{gauges.gauge_name(name)}" for name in [*gauges.OF_TRIALS, *told]}
    rays = {f"ray_{name}" for name in METRICS_GAUGES}
    assert names() <= ours | rays
    assert len(names() & ours) >= 8
    assert all(re.search(r"\bray_\w+", query) for query in queries())


def test_panels_do_not_overlap() -> None:
    panels = json.loads((ROOT / "docs/cluster/grafana.json").read_text())["panels"]
    squares = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(squares) == len(set(squares))
    assert max(x for x, _ in squares) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
