"""MLflow's pages of a benchmark in Chromium, over a real server: what one looks for is there, and no error logged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from jobs import _mlpages
from jobs._mlserver import Server, ServerPlan
from jobs._reporting import make_report
from orchestrator.describe import benchmark_note
from orchestrator.notes import write_note
from orchestrator.pages import open_experiment
from orchestrator.settings import make_settings
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from orchestrator.views import CURVES, experiment_address
from tests.integration import recorded, trained
from tests.integration.browser import Visit, visit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAME, BELOW = "fcn_hr18s_4xb4-20k_voc12aug-512x512", "fcn_hr18_4xb4-20k_voc12aug-512x512"
GAPS = {NAME: 0.25, BELOW: -2.5}
OWN_FAULTS = ("users/current", "the server responded with a status of 404 (Not Found)", "ResizeObserver loop")
"""MLflow asks a server without accounts who is logged in, and its console says that there is no such page; its cards
of pictures are drawn in two rounds, of which Chromium tells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A small benchmark behind a server, and one browser page for all tests."""

    seen: Visit
    pages: str
    experiment_id: str
    run_id: str
    """Of a trial that is finished."""
    summary_id: str
    """The benchmark's summary run."""
    real: tuple[str, str]
    """Experiment and run of a training that has really been done."""

    def go(self, path: str) -> Any:
        """Open a page of the server; returns Playwright's `Page`."""
        self.seen.errors.clear()
        self.seen.page.goto(path if path.startswith("http") else f"{self.pages}/#/{path}")
        return self.seen.page

    def run_page(self, tab: str = "") -> Any:
        return self.go(f"experiments/{self.experiment_id}/runs/{self.run_id}{tab}")

    def real_page(self, tab: str = "") -> Any:
        experiment, run = self.real
        return self.go(f"experiments/{experiment}/runs/{run}{tab}")

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
        summary = recorded.summarise(tracker, places, {"reproduced": 1, "below": 1}, {"report.md": b"# Leaderboard\n"})
        write_note(tracker, summary, benchmark_note(make_report(places, recorded.WORKLOAD, every_cell=True), "here"))
        really = dataclasses.replace(places, benchmark="drawn")
        other = Tracker(really.tracking, really.benchmark, artifacts=really.artifacts)
        real = trained.train(other, really, folder)
        server.wait()
        with visit(experiment_address(server.uri, known)) as seen:
            yield Shown(
                seen=seen,
                pages=server.uri,
                experiment_id=known,
                run_id=runs[NAME],
                summary_id=summary,
                real=(other.experiment_id, real),
            )
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


def test_the_summary_of_a_benchmark_is_its_leaderboard(shown: Shown) -> None:
    page = shown.go(f"experiments/{shown.experiment_id}/runs/{shown.summary_id}")
    page.get_by_text("Show more").click()
    table = page.get_by_role("table").first
    assert table.get_by_role("row").count() == 1 + len(recorded.WORKLOAD.cells())
    assert "isaid w48 80k" in table.get_by_role("row").last.inner_text()
    shown.seen.shoot("mlflow-summary")
    assert shown.errors() == []


def test_a_run_describes_itself(shown: Shown) -> None:
    page = shown.real_page()
    page.get_by_text("Show more").click()
    page.get_by_text("Not comparable with the published numbers, because").wait_for()
    for words in ("published 73.86", "max_iters 6 instead of 40000", "Published memory and speed are of a V100."):
        assert page.get_by_text(words).first.is_visible(), words
    for link in ("per-class IoU", "worst", "rank 0", "every setting", f"drawn.{trained.CELL}, version 1"):
        assert page.get_by_role("link", name=link, exact=True).is_visible(), link
    shown.seen.shoot("mlflow-trained")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="confusion matrix", exact=True).click()
    opened.value.get_by_alt_text("eval/confusion.png").wait_for()
    opened.value.close()
    assert shown.errors() == []


def test_the_data_of_a_run_are_datasets(shown: Shown) -> None:
    page = shown.real_page()
    page.get_by_text("cityscapes train").first.click()
    page.get_by_text("2 datasets used").wait_for()
    assert page.get_by_text("ignored pixels, percent: 4.688").is_visible()
    shown.seen.shoot("mlflow-dataset")
    assert shown.errors() == []


def test_scores_of_classes_are_a_table(shown: Shown) -> None:
    page = shown.real_page("/artifacts/eval/per_class.table.json")
    page.get_by_role("columnheader", name="accuracy").wait_for()
    assert page.get_by_text("traffic light", exact=True).is_visible()
    shown.seen.shoot("mlflow-table")
    assert shown.errors() == []


def test_predictions_are_followed_over_the_steps(shown: Shown) -> None:
    page = shown.real_page("/model-metrics")
    pictures = page.locator("img[src*='images%2Foverlays']")
    pictures.nth(2).wait_for()
    assert pictures.evaluate_all("pictures => pictures.every(picture => picture.src.includes('step%2B0%2B'))")
    assert min(pictures.evaluate_all("pictures => pictures.map(picture => picture.naturalWidth)")) > 200
    card = page.locator("[data-testid=experiment-view-compare-runs-card]").first.bounding_box()
    picture = pictures.first.bounding_box()
    assert card["y"] + card["height"] > picture["y"] + picture["height"]
    for step in (3, 6):
        page.get_by_role("slider").first.press("ArrowRight")
        page.locator(f"img[src*='step%2B{step}%2B']").first.wait_for()
    page.locator("[data-component-id=fullscreen_button_chartcard]").first.click()
    page.get_by_role("dialog").locator("img[src*='step%2B6%2B']").wait_for()
    shown.seen.shoot("mlflow-pictures")
    assert shown.errors() == []


def test_the_model_of_a_run_is_registered(shown: Shown) -> None:
    page = shown.go("models")
    page.get_by_role("link", name=f"drawn.{trained.CELL}").click()
    page.get_by_text("Serve it:").wait_for()
    assert page.get_by_text("HRNetV2p-W18-Small with an FCN head for the 19 classes of Cityscapes").is_visible()
    assert page.get_by_text("@ best").count() == 1
    shown.seen.shoot("mlflow-model")
    page.get_by_role("link", name="Version 1").click()
    page.get_by_text("Schema").first.wait_for()
    shown.seen.shoot("mlflow-model-version")
    assert shown.errors() == []
