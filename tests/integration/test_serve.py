"""`hrgrid serve` over PostgreSQL with accounts: what it takes, keeps and refuses, and that nothing of it is left."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs._relay import free_port
from orchestrator.errors import TrackingError
from orchestrator.recorder import Recorder
from orchestrator.tracking import Tracker, denial
from tests.integration.postgresql import postgresql

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a password of the tests"

CLOSED = (
    ("GET", "/"),
    ("GET", "/signup"),
    ("GET", "/version"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("POST", "/graphql"),
    ("GET", "/get-artifact?path=a&run_uuid={run}"),
    ("GET", "/model-versions/get-artifact?path=a&name=m&version=1"),
    ("POST", "/v1/traces"),
    ("GET", "/gateway/mlflow/v1/chat/completions"),
    *(
        (method, f"/{api}/{path}")
        for api in ("api", "ajax-api")
        for method, path in (
            ("GET", "2.0/mlflow/experiments/search?max_results=1"),
            ("POST", "2.0/mlflow/experiments/create"),
            ("POST", "2.0/mlflow/experiments/delete"),
            ("GET", "2.0/mlflow/experiments/get-by-name?experiment_name=bench"),
            ("GET", "2.0/mlflow/runs/get?run_id={run}"),
            ("POST", "2.0/mlflow/runs/search"),
            ("POST", "2.0/mlflow/runs/create"),
            ("POST", "2.0/mlflow/runs/delete"),
            ("POST", "2.0/mlflow/runs/log-batch"),
            ("POST", "2.0/mlflow/runs/log-metric"),
            ("POST", "2.0/mlflow/runs/set-tag"),
            ("GET", "2.0/mlflow/metrics/get-history?run_id={run}&metric_key=train/loss"),
            ("GET", "2.0/mlflow/artifacts/list?run_id={run}"),
            ("GET", "2.0/mlflow-artifacts/artifacts?path="),
            ("GET", "2.0/mlflow-artifacts/artifacts/1/{run}/artifacts/note.txt"),
            ("PUT", "2.0/mlflow-artifacts/artifacts/1/{run}/artifacts/planted.txt"),
            ("DELETE", "2.0/mlflow-artifacts/artifacts/1/{run}/artifacts/note.txt"),
            ("POST", "2.0/mlflow-artifacts/mpu/create/1/{run}/artifacts/planted.txt"),
            ("GET", "2.0/mlflow/registered-models/search"),
            ("POST", "2.0/mlflow/registered-models/create"),
            ("GET", "2.0/mlflow/model-versions/search"),
            ("GET", "2.0/mlflow/users/list"),
            ("GET", "2.0/mlflow/users/get?username=admin"),
            ("GET", "2.0/mlflow/users/current"),
            ("POST", "2.0/mlflow/users/create"),
            ("PATCH", "2.0/mlflow/users/update-password"),
            ("PATCH", "2.0/mlflow/users/update-admin"),
            ("DELETE", "2.0/mlflow/users/delete"),
            ("POST", "2.0/mlflow/webhooks/create"),
            ("GET", "3.0/mlflow/logged-models/search"),
            ("GET", "3.0/mlflow/traces/search"),
            ("POST", "3.0/jobs/"),
        )
    ),
    ("GET", "/ajax-api/2.0/mlflow/metrics/get-history-bulk?run_id={run}&metric_key=train/loss"),
    ("POST", "/ajax-api/2.0/mlflow/experiments/search-datasets"),
    ("POST", "/ajax-api/2.0/mlflow/upload-artifact?run_uuid={run}&path=planted.txt"),
    ("POST", "/ajax-api/2.0/mlflow/gateway-proxy"),
    ("GET", "/ajax-api/3.0/mlflow/ui-telemetry"),
)
"""What a stranger might ask, in both interfaces of MLflow: the one of clients and the one of its pages."""

OPEN = ("/health", "/api/3.0/mlflow/server-info")
"""What MLflow answers anybody: that it is up, and how a client is to log in."""


@dataclass(frozen=True)
class Served:
    facts: dict[str, Any]
    process: subprocess.Popen[str]
    family: list[psutil.Process]
    backend: str
    folder: Path

    @property
    def uri(self) -> str:
        return str(self.facts["tracking"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    (folder / "password").write_text(f"{PASSWORD}\n")
    with postgresql() as backend:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "jobs.cli", "serve", "--folder", str(folder / "server"), "--json", "--auth",
                "--admin-password-file", str(folder / "password"), "--workers", "1", "--port", str(free_port()),
            ],
            cwd=ROOT, env={**os.environ, "HRGRID_BACKEND": backend}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        guard = threading.Timer(280, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            facts = json.loads(process.stdout.readline())
            family = psutil.Process(process.pid).children(recursive=True)
            yield Served(facts=facts, process=process, family=family, backend=backend, folder=folder)
        finally:
            guard.cancel()
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def status(uri: str, path: str, method: str = "GET", body: Mapping[str, str] | None = None, **headers: str) -> int:
    data = json.dumps(body or {}).encode() if method in ("POST", "PUT", "PATCH") else None
    request = urllib.request.Request(
        f"{uri}{path}", data, {"Content-Type": "application/json", **headers}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.usefixtures("account")
def test_a_run_with_points_and_an_artifact_is_read_back(served: Served, tmp_path: Path) -> None:
    tracker = Tracker(served.uri, "bench")
    tracker.check()
    run_id = tracker.start_run("k", "cell", params={"lr": "0.01"})
    recorder = Recorder(served.uri, run_id, tracker.start_ms(run_id), folder=tmp_path)
    for step in range(300):
        recorder.record({"train/loss": 1 / (1 + step), "train/lr": 0.01}, step)
    assert recorder.close(120)
    tracker.log_artifact(run_id, "a note", "note.txt")
    tracker.finish(run_id, "FINISHED")

    assert tracker.history(run_id, "train/loss") == tuple((step, 1 / (1 + step)) for step in range(300))
    assert tracker.read_artifact(run_id, "note.txt") == b"a note"
    assert [run.status for run in tracker.runs()] == ["FINISHED"]
    assert list((served.folder / "server" / "artifacts").rglob("note.txt"))


@pytest.mark.usefixtures("account")
def test_nothing_is_told_or_taken_without_a_password(served: Served) -> None:
    run_id = Tracker(served.uri, "bench").start_run("stranger", "cell")

    answers = {(method, path): status(served.uri, path.format(run=run_id), method) for method, path in CLOSED}
    assert {request: code for request, code in answers.items() if code != 401} == {}
    assert [status(served.uri, path) for path in OPEN] == [200, 200]
    assert not list((served.folder / "server" / "artifacts").rglob("planted.txt"))


def test_a_wrong_name_of_the_server_is_refused(served: Served) -> None:
    port = served.uri.rpartition(":")[2]
    names = ("evil.example", f"evil.example:{port}", "10.evil.example", "169.254.169.254", "localhost.evil.example")
    paths = ("/", "/api/2.0/mlflow/experiments/search?max_results=1", "/graphql", "/ajax-api/2.0/mlflow/users/list")
    assert {status(served.uri, path, Host=name) for path in paths for name in names} == {403}
    assert {status(served.uri, "/", Host=name) for name in ("localhost", "localhost:8080", "127.0.0.1")} == {401}


@pytest.mark.parametrize(
    ("user", "said"), [("admin", "does not take the password of user 'admin'"), (None, "asks for")]
)
def test_a_wrong_password_is_one_sentence_at_once(
    served: Served, user: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another")
    if user is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    began = time.monotonic()
    with pytest.raises(TrackingError, match=f"{said}.*; set MLFLOW_TRACKING_USERNAME"):
        Tracker(served.uri, "bench").check()
    assert time.monotonic() - began < 60


def test_another_account_records_where_it_may(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    tracker = Tracker(served.uri, "shared")
    tracker.check()
    administrator = {"Authorization": f"Basic {base64.b64encode(f'admin:{PASSWORD}'.encode()).decode()}"}
    account = {"username": "anna", "password": PASSWORD[::-1]}
    assert status(served.uri, "/api/2.0/mlflow/users/create", "POST", account, **administrator) == 200

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD[::-1])
    with pytest.raises(Exception, match=r"Permission denied|403") as refusal:
        Tracker(served.uri, "shared").start_run("k", "cell")
    assert "does not allow user 'anna'" in str(denial(served.uri, refusal.value))
    right = {"resource_type": "experiment", "resource_id": tracker.experiment_id, "permission": "EDIT"}
    path = "/api/3.0/mlflow/users/permissions/grant"
    assert status(served.uri, path, "POST", {"username": "anna", **right}, **administrator) == 200
    assert Tracker(served.uri, "shared").start_run("k", "cell")


def test_no_password_is_in_a_command_line_a_log_or_an_open_file(served: Served) -> None:
    database = served.backend.split("@")[0].rpartition(":")[2]
    seen = [" ".join(process.cmdline()) for process in served.family] + [json.dumps(served.facts)]
    seen += [path.read_text(errors="replace") for path in (served.folder / "server").rglob("*") if path.is_file()]
    assert len(seen) > 3
    assert not [text for text in seen if PASSWORD in text or database in text]


def test_ending_it_ends_all_of_it(served: Served) -> None:
    assert len(served.family) >= 2
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
    assert not [p for p in served.family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
