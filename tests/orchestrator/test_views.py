"""The saved views of an experiment: their form is MLflow's, their address opens them, and they stay as they are."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from orchestrator.pages import address, open_experiment
from orchestrator.settings import Settings
from orchestrator.tracking import Tracker
from orchestrator.views import CURVES, GAPS, LEADERBOARD, description, experiment_address, experiment_tags


def _state(key: str) -> dict[str, Any]:
    saved = json.loads(experiment_tags()[f"mlflow.sharedViewState.{key}"])
    packed = saved["state"].removeprefix("deflate;")
    return dict(json.loads(zlib.decompress(base64.b64decode(packed))))


def test_the_leaderboard_shows_what_decides_and_leaves_the_summary_out() -> None:
    state = _state(LEADERBOARD.key)
    assert state["selectedColumns"] == [
        "tags.`dataset`", "tags.`width`", "tags.`schedule`", "tags.`hrgrid.verdict`", "metrics.`val/mIoU`",
        "metrics.`published/mIoU`", "metrics.`published/gap`", "metrics.`val/mIoU_ms_flip`",
    ]  # fmt: skip
    assert state["columnOrder"][2:] == state["selectedColumns"]
    assert set(state["columnWidths"]) == set(state["columnOrder"])
    assert state["searchFilter"] == "tags.`hrgrid.kind` = 'trial'"
    assert (state["orderByKey"], state["orderByAsc"]) == ("tags.`dataset`", True)
    assert _state(GAPS.key)["orderByKey"] == "metrics.`published/gap`"


def test_the_curves_stand_in_the_section_that_is_open() -> None:
    state = _state(CURVES.key)
    assert [section["name"] for section in state["compareRunSections"] if section["display"]] == ["benchmark"]
    charts = state["compareRunCharts"]
    assert {chart["metricSectionId"] for chart in charts} == {"benchmark"}
    assert charts[0]["selectedMetricKeys"] == ["val/mIoU", "published/mIoU"]
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_views_are_the_same_every_time_and_fit_into_a_tag_of_any_mlflow() -> None:
    assert experiment_tags() == experiment_tags()
    assert max(map(len, experiment_tags().values())) <= 5000  # the limit up to MLflow 3.9


def test_an_address_names_server_experiment_and_view() -> None:
    assert experiment_address("http://host:5000", "7") == (
        "http://host:5000/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=leaderboard"
    )
    assert experiment_address("", "7", CURVES).startswith("#/experiments/7/runs?")
    assert experiment_address("", "7", CURVES).endswith("&compareRunsMode=CHART")


def test_a_description_says_how_many_cells_there_are_and_where_to_go_on() -> None:
    text = description("hrnet", {"reproduced": 2, "below": 1}, experiment_id="7", report="/store/report.html")
    assert text.splitlines()[0] == "hrnet: 3 cells: 2 reproduced, 1 below."
    assert "[Leaderboard](#/experiments/7/runs?" in text
    assert "`/store/report.html`" in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_an_opened_experiment_is_found_again_and_keeps_its_users_views(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    places = Settings(
        storage=str(tmp_path), tracking=store, artifacts=str(tmp_path / "mlartifacts"), benchmark="bench"
    )
    assert address(places, "http://host:5000") is None
    known = open_experiment(places)
    assert address(places, "http://host:5000") == experiment_address("http://host:5000", known)
    elsewhere = dataclasses.replace(places, tracking="http://elsewhere:5000")
    assert address(elsewhere, elsewhere.tracking) is None

    tracker = Tracker(store, "bench", artifacts=places.artifacts)
    own = {"mlflow.sharedViewState.mine": "{}", "mlflow.sharedViewState.leaderboard": "of an earlier version"}
    tracker.tag_experiment(own)
    assert open_experiment(places) == known
    assert tracker.client.get_experiment(known).tags == own | experiment_tags()
