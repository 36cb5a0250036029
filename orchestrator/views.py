"""What MLflow's pages show of a benchmark: saved views of its runs, their addresses, and a description.

MLflow keeps a saved view as a tag of the experiment, `mlflow.sharedViewState.<id>`. The value is what its "Save view"
button writes (MLflow 3.17): JSON with the view's name and times, and its state, which is JSON deflated and in base64.
Fields that the state leaves out are as in a new browser. Pure: nothing here asks a server.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from orchestrator.workload import Json

__all__ = [
    "CURVES",
    "GAPS",
    "LEADERBOARD",
    "NOTE_TAG",
    "View",
    "description",
    "experiment_address",
    "experiment_tags",
    "experiments_address",
]

NOTE_TAG: Final = "mlflow.note.content"
"""Tag of an experiment or a run that holds its description."""
_KIND: Final = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's own mark of an experiment that holds trainings, not traces of language models."""
_TAG: Final = "mlflow.sharedViewState."
_TRIALS: Final = "tags.`hrgrid.kind` = 'trial'"
"""Leaves out the summary run, which is no row of a leaderboard."""
_FACETS: Final = ("dataset", "width", "schedule")
_VERDICT: Final = "hrgrid.verdict"
_SCORES: Final = ("val/mIoU", "published/mIoU", "published/gap", "val/mIoU_ms_flip")
_RUN_NAME: Final = "attributes.`Run Name`"
_CREATED: Final = "runDateAndNestInfo"
"""Column with a run's status and age, which MLflow always shows."""
_WIDTHS: Final[Mapping[str, int]] = {
    _RUN_NAME: 300, _CREATED: 118, "dataset": 110, "width": 86, "schedule": 76, _VERDICT: 114, "val/mIoU": 78,
    "published/mIoU": 122, "published/gap": 112, "val/mIoU_ms_flip": 130,
}  # fmt: skip
"""Pixels: as many as name and values need, which MLflow would cut off; all fit into a window of 1500."""
_FIRST_MS: Final = 1_600_000_000_000
"""Some time long before any benchmark: views of users are newer, and MLflow lists newest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One saved view of an experiment's runs."""

    key: str
    """Its id in addresses; a view that is written again keeps it."""

    name: str
    """What MLflow's list of views calls it."""

    mode: str
    """How runs are shown: `TABLE` or `CHART`."""

    order: str
    """What runs are sorted by, as MLflow's search takes it."""

    ascending: bool
    """Whether the least comes first; runs without a value always come last."""

    charts: bool = False
    """Whether it brings its own charts."""


LEADERBOARD: Final = View(key="leaderboard", name="Leaderboard", mode="TABLE", order="tags.`dataset`", ascending=True)
GAPS: Final = View(
    key="gaps", name="Furthest below published", mode="TABLE", order="metrics.`published/gap`", ascending=True
)
CURVES: Final = View(
    key="curves", name="Curves", mode="CHART", order="attributes.start_time", ascending=False, charts=True
)
_VIEWS: Final = (LEADERBOARD, GAPS, CURVES)


def experiment_tags() -> dict[str, str]:
    """Return the tags that make an experiment one of trainings and give it its views; the same every time."""
    return _KIND | {f"{_TAG}{view.key}": _saved(view, _FIRST_MS - number) for number, view in enumerate(_VIEWS)}


def experiment_address(pages: str, experiment_id: str, view: View = LEADERBOARD) -> str:
    """Return where a browser shows an experiment's runs as a view has them, in MLflow's model training mode.

    `pages`: address of the MLflow server without a slash at its end; empty for links between its own pages.
    """
    mode = {} if view.mode == "TABLE" else {"compareRunsMode": view.mode}
    query = urlencode({"workflowType": "machine_learning", "viewStateShareKey": view.key, **mode})
    return f"{pages and f'{pages}/'}#/experiments/{experiment_id}/runs?{query}"


def experiments_address(pages: str) -> str:
    """Return where a browser shows the list of all experiments; `pages` as above."""
    return f"{pages}/#/experiments?workflowType=machine_learning"


def description(benchmark: str, counts: Mapping[str, int], *, experiment_id: str, report: str) -> str:
    """Return an experiment's description, Markdown.

    `counts`: verdict or state to number of cells. `report`: where the report is.
    """
    cells = sum(counts.values())
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    pages = " | ".join(f"[{view.name}]({experiment_address('', experiment_id, view)})" for view in _VIEWS)
    return (
        f"{benchmark}: {cells} {'cell' if cells == 1 else 'cells'}: {verdicts}.\n\n"
        f"{pages}\n\n"
        "One run per recipe, seed and data; `published/gap` is reproduced minus published mIoU in points, and "
        "`hrgrid.verdict` says whether that is within the tolerance. The summary run holds the leaderboard.\n\n"
        f"Report: `{report}`\n"
    )


def _saved(view: View, made_ms: int) -> str:
    state = json.dumps(_state(view), separators=(",", ":"))
    packed = base64.b64encode(zlib.compress(state.encode(), 9)).decode()
    return json.dumps({"name": view.name, "createdAt": made_ms, "updatedAt": made_ms, "state": f"deflate;{packed}"})


def _state(view: View) -> dict[str, Json]:
    names = [*_tags(*_FACETS, _VERDICT), *_metrics(*_SCORES)]
    titles = dict(zip((*_FACETS, _VERDICT, *_SCORES), names, strict=True))
    widths = {titles.get(name, name): width for name, width in _WIDTHS.items()}
    state: dict[str, Json] = {
        "searchFilter": _TRIALS,
        "orderByKey": view.order,
        "orderByAsc": view.ascending,
        "selectedColumns": names,
        "columnOrder": [_RUN_NAME, _CREATED, *names],
        "columnWidths": widths,
        "runsHiddenMode": "FIRST_10_RUNS",
    }
    return state | _charts() if view.charts else state


def _tags(*names: str) -> list[str]:
    return [f"tags.`{name}`" for name in names]


def _metrics(*names: str) -> list[str]:
    return [f"metrics.`{name}`" for name in names]


def _charts() -> dict[str, Json]:
    """The charts that answer what one asks first; MLflow adds those of all other metrics below, folded up."""
    first = [
        _line("val/mIoU", "val/mIoU", "published/mIoU"),
        _line("train/loss", "train/loss"),
        _bar("published/gap"),
        _scatter("speed/fps", "val/mIoU"),
    ]
    sections = [("benchmark", True), *((name, False) for name in ("train", "val", "published", "speed", "reference"))]
    return {
        "compareRunSections": [
            {"uuid": name, "name": name, "display": shown, "isReordered": False, "isGenerated": False}
            for name, shown in sections
        ],
        "compareRunCharts": first,
        "isAccordionReordered": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _card(kind: str, name: str) -> dict[str, Json]:
    return {
        "uuid": f"benchmark-{name}", "type": kind, "metricSectionId": "benchmark", "runsCountToCompare": 10,
        "deleted": False, "isGenerated": False, "displayName": name,
    }  # fmt: skip


def _line(name: str, *metrics: str) -> dict[str, Json]:
    return _card("LINE", name) | {
        "metricKey": metrics[0], "selectedMetricKeys": list(metrics), "lineSmoothness": 0, "scaleType": "linear",
        "xAxisScaleType": "linear", "xAxisKey": "step", "selectedXAxisMetricKey": "", "yAxisKey": "metric",
        "yAxisExpressions": [], "range": {}, "ignoreOutliers": False, "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }  # fmt: skip


def _bar(metric: str) -> dict[str, Json]:
    return _card("BAR", metric) | {"metricKey": metric}


def _scatter(across: str, up: str) -> dict[str, Json]:
    axes = {"xaxis": {"key": across, "type": "METRIC"}, "yaxis": {"key": up, "type": "METRIC"}}
    return _card("SCATTER", f"{up} over {across}") | {**axes, "runsCountToCompare": 100}
