"""MLflow's pages of a benchmark in Chromium, over a real server: what one looks for is there, and no error logged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from jobs import _mlpages
from jobs._mlserver import Server, ServerPlan
from orchestrator.pages import open_experiment
from orchestrator.settings import make_settings
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from orchestrator.views import CURVES, experiment_address
from tests.integration import recorded
from tests.integration.browser import Visit, visit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAME, BELOW = "fcn_hr18s_4xb4-20k_voc12aug-512x512", "fcn_hr18_4xb4-20k_voc12aug-512x512"
GAPS = {NAME: 0.25, BELOW: -2.5}
OWN_FAULTS = ("users/current", "the server responded with a status of 404 (Not Found)")
"""MLflow asks a server without accounts who is logged in, and its console says that there is no such page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A small benchmark behind a server, and one browser page for all tests."""

    seen: Visit
    pages: str
    experiment_id: str
    run_id: str
    """Of a trial that is finished."""

    def go(self, path: str) -> Any:
        """Open a page of the server; returns Playwright's `Page`."""
        self.seen.errors.clear()
        self.seen.page.goto(path if path.startswith("http") else f"{self.pages}/#/{path}")
        return self.seen.page

    def run_page(self, tab: str = "") -> Any:
        return self.go(f"experiments/{self.experiment_id}/runs/{self.run_id}{tab}")

    def errors(self) -> list[str]:
        return [error for error in self.seen.errors if not any(fault in error for fault in OWN_FAULTS)]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("pages")
    places = make_settings(storage=str(folder), benchmark="bench", environment={})
    server = Server(ServerPlan(backend=places.tracking, log=folder / "server.log"))
    known = open_experiment(places)
    server.launch()
    try:
        tracker = Tracker(places.tracking, places.benchmark, artifacts=places.artifacts)
        trials = {trial.spec.cell.name: trial for trial in recorded.planned()}
        runs = {}
        for name, gap in GAPS.items():
            score = (recorded.WORKLOAD.published(trials[name].spec.cell) or {})["val/mIoU"] + gap
            Storage(places.storage).write_bytes(f"trials/{trials[name].key}/logs/rank0.log", b"step 50 loss 1.9\n")
            runs[name] = recorded.trained(tracker, trials[name], places, score, points=40)
            per_class = {"aeroplane": {"IoU": 81.5, "acc": 90.0}}
            tracker.log_artifact(runs[name], json.dumps(per_class), "eval/per_class_iou.json")
            metrics = {"val/mIoU": score, "val/mIoU_ms_flip": score + 1.25, "speed/fps": 23.75}
            recorded.finish(tracker, runs[name], trials[name], places, metrics)
        recorded.summarise(tracker, places, {"reproduced": 1, "below": 1}, {"report.md": b"# Leaderboard\n"})
        server.wait()
        with visit(experiment_address(server.uri, known)) as seen:
            yield Shown(seen=seen, pages=server.uri, experiment_id=known, run_id=runs[NAME])
    finally:
        server.stop()


CURVE = ".js-plotly-plot .scatterlayer .trace"
_X = "heads => heads.map(head => [head.getBoundingClientRect().x, head.innerText.trim()])"


def _column(page: Any, name: str) -> list[str]:
    """The texts of a column of the leaderboard, from top to bottom."""
    return [str(text) for text in page.locator(f".ag-center-cols-container [col-id='{name}']").all_inner_texts()]


def test_the_benchmark_opens_on_its_leaderboard(shown: Shown) -> None:
    page = shown.seen.page
    page.get_by_role("link", name=NAME).wait_for()
    page.locator("[col-id='tags.`hrgrid.verdict`'].ag-cell").nth(1).wait_for()
    shown.seen.shoot("mlflow-leaderboard")
    heads = page.locator(".ag-header-cell").evaluate_all(_X)
    assert [text for _, text in sorted(heads) if text] == [
        "Run Name", "Created", "dataset", "width", "schedule", "hrgrid.verdict", "val/mIoU", "published/mIoU",
        "published/gap", "val/mIoU_ms_flip", "Duration",
    ]  # fmt: skip
    assert sorted(_column(page, "tags.`hrgrid.verdict`")) == ["below", "reproduced"]
    assert sorted(_column(page, "tags.`width`")) == ["w18", "w18-small"]
    assert sorted(float(text) for text in _column(page, "metrics.`published/gap`")) == pytest.approx([-2.5, 0.25])
    assert page.get_by_text("bench: 2 cells: 1 reproduced, 1 below.").is_visible()
    assert page.get_by_text("2 matching runs").is_visible()
    assert page.get_by_role("link", name="Model registry").is_visible()
    shown.seen.shoot("mlflow-leaderboard")
    assert shown.errors() == []


def test_a_description_leads_to_the_other_views(shown: Shown) -> None:
    page = shown.seen.page
    address = page.get_by_role("link", name=CURVES.name, exact=True).first.get_attribute("href")
    assert f"{shown.pages}/{address}" == experiment_address(shown.pages, shown.experiment_id, CURVES)
    page = shown.go(f"{shown.pages}/{address}")
    page.locator(CURVE).nth(3).wait_for(state="attached")
    for title in ("val/mIoU vs published/mIoU", "train/loss", "published/gap"):
        assert page.get_by_text(title, exact=True).first.is_visible()
    shown.seen.shoot("mlflow-curves")
    assert shown.errors() == []


def test_a_run_says_what_it_is(shown: Shown) -> None:
    page = shown.run_page()
    page.get_by_role("link", name="published/gap", exact=True).wait_for()
    assert page.get_by_text(NAME, exact=True).first.is_visible()
    assert page.get_by_text("photometric", exact=True).count() == 1
    tags = page.get_by_text("hrgrid.verdict").locator("xpath=ancestor::*[3]").inner_text()
    assert "reproduced" in tags
    shown.seen.shoot("mlflow-run")
    assert shown.errors() == []


def test_a_runs_curves_and_its_machine_are_drawn(shown: Shown) -> None:
    page = shown.run_page("/model-metrics")
    page.locator(CURVE).first.wait_for()
    page.get_by_placeholder("Search metric charts").fill("train/loss")
    page.get_by_text(f"{NAME} (train/loss)").wait_for()
    page.locator(CURVE).first.wait_for()
    shown.seen.shoot("mlflow-run-metrics")
    page = shown.run_page("/system-metrics")
    page.get_by_text("gpu_percent", exact=True).first.wait_for()
    page.locator(CURVE).first.wait_for()
    shown.seen.shoot("mlflow-run-system")
    assert shown.errors() == []


def test_logs_and_results_are_read_in_the_browser(shown: Shown) -> None:
    page = shown.run_page("/artifacts/logs/rank0.log")
    page.get_by_text("step 50 loss 1.9").wait_for()
    shown.seen.shoot("mlflow-log")
    page.get_by_text("eval", exact=True).click()
    page.get_by_text("per_class_iou.json", exact=True).first.click()
    page.get_by_text("aeroplane").wait_for()
    assert shown.errors() == []


@pytest.mark.skipif(not _mlpages.installed(), reason="hrgrid was installed before it had an application of MLflow")
def test_a_new_browser_meets_trainings_and_nothing_else(shown: Shown) -> None:
    context = shown.seen.page.context.browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"{shown.pages}/#/experiments/{shown.experiment_id}/runs/{shown.run_id}")
        page.get_by_role("link", name="published/gap", exact=True).wait_for()
        assert page.get_by_role("link", name="Model registry").is_visible()
        assert page.get_by_text("AI Gateway").count() == 0
        assert page.get_by_text("MLflow Assistant Beta").count() == 0
        assert page.get_by_placeholder("Ask a question...").count() == 0
    finally:
        context.close()
