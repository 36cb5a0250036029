"""Jobs on a real Ray head with a token: submitted, followed, stopped with true states left behind."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from tests.integration import children
from tests.orchestrator.mlflow_store import free_port

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


class Head:
    """A Ray head as a child process, with its own token, ports, home and temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = f"{folder}/results"
        dashboard = free_port()
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        address = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        self.environment = children.environment(folder / "home", **token, **address)
        # Ray makes sockets below its folder, whose path must be short.
        self.temporary = tempfile.mkdtemp(prefix="hr", dir="/tmp")
        options = {
            "port": free_port(), "dashboard-port": dashboard, "dashboard-host": "127.0.0.1",
            "dashboard-agent-listen-port": free_port(), "dashboard-agent-grpc-port": free_port(),
            "ray-client-server-port": free_port(), "node-ip-address": "127.0.0.1", "num-cpus": 2,
            "resources": json.dumps({"hrgrid_slots": 1}), "temp-dir": self.temporary, "include-dashboard": "true",
            "object-store-memory": 100_000_000,
        }  # fmt: skip
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in options.items()]
        with (folder / "head.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def client(self, *arguments: str, token: bool = True) -> Any:
        environment = dict(self.environment)
        if not token:
            environment |= {"RAY_AUTH_TOKEN": "0" * 64}
        command = [sys.executable, "-m", "tests.integration.client", *arguments]
        done = subprocess.run(
            command, cwd=children.ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def submit(self, name: str, arguments: Sequence[str]) -> dict[str, Any]:
        entrypoint = [sys.executable, "-m", "tests.integration.launch", self.results, *arguments, "--slots", "1"]
        sent: dict[str, Any] = self.client("submit", name, str(children.ROOT), *entrypoint)
        return sent

    def end(self) -> None:
        children.end(self.process, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            children.end(self.process)
            self.process.wait(20)
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    head = Head(tmp_path_factory.mktemp("head"))
    try:
        children.wait_for(lambda: isinstance(head.client("jobs"), list), 120, "the head answers")
        yield head
    finally:
        head.end()


def test_a_job_runs_a_grid_and_its_log_is_followed_to_the_end(head: Head) -> None:
    sent = head.submit("grid-1", ["thin-add-short"])
    assert sent["job"] == "grid-1"
    assert 1_000 < sent["package_bytes"] < 2_000_000
    followed = head.client("logs", "grid-1")
    assert followed["status"] == "SUCCEEDED", followed["text"]
    assert followed["code"] == 0
    document = json.loads(followed["text"].splitlines()[-1])
    assert document["outcomes"]["thin-add-short"]["state"] == "finished"
    (run,) = Tracker(f"{head.results}/mlflow.db", "bench").runs()
    assert run.status == "FINISHED"
    again = head.submit("grid-1", ["thin-add-short"])
    assert again["error"].startswith("UsageError: a job 'grid-1' exists")


def test_a_stopped_job_leaves_true_states(head: Head) -> None:
    head.submit("grid-2", ["thick-add-short", "--set", "sleep=0.5", "--set", "steps=400"])
    ledger = Ledger(Storage(head.results))

    def trains() -> bool:
        progress = [ledger.progress(entry.key) or {} for entry in ledger.benchmark("bench")]
        return any(document.get("cell") == "thick-add-short" and document["step"] >= 2 for document in progress)

    children.wait_for(trains, 150, "the job trains")
    stopped = head.client("stop", "grid-2")
    assert stopped["status"] == "STOPPED"
    (entry,) = (entry for entry in ledger.benchmark("bench") if entry.cell == "thick-add-short")
    assert ledger.state(entry.key) == "stopped"
    (run,) = (run for run in Tracker(f"{head.results}/mlflow.db", "bench").runs() if run.key == entry.key)
    assert run.status == "KILLED"
    assert {job["name"]: job["status"] for job in head.client("jobs")} == {
        "grid-1": "SUCCEEDED",
        "grid-2": "STOPPED",
    }


def test_without_the_token_or_the_job_there_is_one_sentence(head: Head) -> None:
    refused = head.client("jobs", token=False)
    assert "ClusterError" in refused["error"]
    assert "asks for a token" in refused["error"]
    unknown = head.client("stop", "nothing")
    assert unknown["error"].startswith("UsageError: there is no job 'nothing'")
