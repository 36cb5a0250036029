"""Jobs on a real Ray head with a token: submitted, followed, stopped with true states left behind."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from orchestrator.ledger import Ledger
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from tests.integration import children
from tests.integration.client import PATCH
from tests.orchestrator.checkouts import git
from tests.orchestrator.mlflow_store import free_port

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
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
            command, cwd=children.ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
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
        children.wait_for(lambda: isinstance(head.client("jobs"), list), 300, "the head answers")
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
    tracker = Tracker(f"{head.results}/mlflow.db", "bench")
    assert tracker.read_artifact(run.run_id, "provenance/diff.patch") == PATCH.encode()
    origin = json.loads(tracker.read_artifact(run.run_id, "provenance/provenance.json") or b"")
    assert (origin["git_commit"], origin["git_dirty"]) == ("0123abc", True)
    assert (origin["submit_host"], origin["key"]) == (socket.gethostname(), run.key)
    assert origin["packages"]["ray"] == metadata.version("ray")


def test_a_stopped_job_leaves_true_states(head: Head) -> None:
    head.submit("grid-2", ["thick-add-short", "--set", "sleep=0.5", "--set", "steps=400"])
    ledger = Ledger(Storage(head.results))

    def trains() -> bool:
        progress = [ledger.progress(entry.key) or {} for entry in ledger.benchmark("bench")]
        return any(document.get("cell") == "thick-add-short" and document["step"] >= 2 for document in progress)

    children.wait_for(trains, 500, "the job trains")
    follower = subprocess.Popen(
        [sys.executable, "-m", "jobs.logs", "grid-2", "-f"], cwd=children.ROOT, env=head.environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert follower.stdout is not None
    assert "Runtime env is setting up" in follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=60)
    assert follower.returncode == 130, said
    assert "job grid-2 goes on; follow it again: hrgrid logs grid-2 -f   stop it: hrgrid stop grid-2" in said
    assert "Traceback" not in said
    taken = head.submit("grid-2", ["thick-add-short"])
    assert taken["error"].startswith("UsageError: a job 'grid-2' is RUNNING")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(head.client, ["stop", "stop"], ["grid-2", "grid-2"]))
    assert [stopped["status"] for stopped in both] == ["STOPPED", "STOPPED"]
    assert head.client("stop", "grid-2") == both[0]
    (entry,) = (entry for entry in ledger.benchmark("bench") if entry.cell == "thick-add-short")
    assert ledger.state(entry.key) == "stopped"
    (run,) = (run for run in Tracker(f"{head.results}/mlflow.db", "bench").runs() if run.key == entry.key)
    assert run.status == "KILLED"
    listed = {job["name"]: job["status"] for job in head.client("jobs")}
    assert (listed["grid-1"], listed["grid-2"]) == ("SUCCEEDED", "STOPPED")


def test_a_log_is_followed_over_outages_without_a_line_lost_or_doubled(head: Head) -> None:
    program = "import sys, time\nfor i in range(250):\n    print('line', i)\n    time.sleep(0.1)\nsys.exit(3)"
    head.client("submit", "talker", str(children.ROOT), sys.executable, "-c", program)
    followed = head.client("cut", "talker")
    lines = [line for line in followed["text"].splitlines() if line.startswith("line ")]
    assert lines == [f"line {number}" for number in range(250)]
    assert followed["pieces"] > 10
    assert followed["outages"] == 2
    assert any("trying again" in sentence for sentence in followed["told"]), followed["told"]
    assert (followed["status"], followed["code"]) == ("FAILED", 3)
    # Ray takes no name twice; the log of the first job stays what it was.
    again = head.client("submit", "talker", str(children.ROOT), sys.executable, "-c", "print('once more')")
    assert again["job"] == "talker-2"
    assert (again["before"]["name"], again["before"]["status"]) == ("talker", "FAILED")
    assert "once more" in head.client("logs", "talker-2")["text"]


@pytest.mark.slow
def test_a_job_that_waits_for_resources_is_withdrawn_with_its_demand(head: Head) -> None:
    head.client("greedy", "greedy")
    children.wait_for(lambda: [{"CPU": 64.0}, 1] in head.client("demand"), 60, "the demand is known")
    stopped = head.client("stop", "greedy")
    assert stopped["status"] == "STOPPED"
    assert "withdrawn on request before it began" in stopped["message"]
    children.wait_for(lambda: not head.client("demand"), 60, "the demand is gone")
    assert head.client("stop", "greedy") == stopped


@pytest.mark.slow
def test_a_dirty_checkout_beside_20_megabytes_is_submitted_and_its_difference_is_kept(
    head: Head, tmp_path: Path
) -> None:
    root, cell, results = tmp_path / "checkout", "fcn_hr18s_4xb2-40k_cityscapes-512x1024", f"{tmp_path}/results"
    git(tmp_path, "clone", "-q", str(children.ROOT), str(root))
    for place in ("dataset.bin", "hrnet/weights.bin"):
        (root / place).write_bytes(secrets.token_bytes(10_000_000))
    with (root / "hrnet/__init__.py").open("a") as file:
        file.write("# a change that nobody committed\n")

    def run(*words: str) -> str:
        environment = {**head.environment, "PYTHONPATH": str(root)}
        done = subprocess.run(
            words, cwd=root, env=environment, capture_output=True, text=True, timeout=500, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    launch = ("launch", cell, "--smoke", "--storage", results)
    said = run(sys.executable, "-m", "jobs.submit", "--python", sys.executable, "-f", *launch)
    (sent,) = [line for line in said.splitlines() if "was sent to" in line]
    assert "with uncommitted changes" in sent
    assert float(sent.split(" MB")[0].split()[-1]) < 2
    assert f"{cell}: finished" in said
    tracker = Tracker(f"{results}/mlflow.db", "smoke")
    (trained,) = tracker.runs()
    patch = (tracker.read_artifact(trained.run_id, "provenance/diff.patch") or b"").decode()
    assert "+# a change that nobody committed" in patch
    origin = json.loads(tracker.read_artifact(trained.run_id, "provenance/provenance.json") or b"")
    assert origin["git_commit"] == git(root, "rev-parse", "HEAD") == trained.tags["mlflow.source.git.commit"]

    # The same module as a plain Ray job; the weights and data beside the code are the user's to leave out then.
    for name in ("dataset.bin", "hrnet/weights.bin"):
        (root / name).unlink()
    ray = str(Path(sys.executable).with_name("ray"))
    job = ("job", "submit", "--working-dir", ".", "--", sys.executable, "-m", "jobs.launch", *launch[1:])
    assert "succeeded" in run(ray, *job, "--seeds", "1")
    assert sorted(found.status for found in tracker.runs()) == ["FINISHED", "FINISHED"]


def test_without_the_token_or_the_job_there_is_one_sentence(head: Head) -> None:
    refused = head.client("jobs", token=False)
    assert "ClusterError" in refused["error"]
    assert "asks for a token" in refused["error"]
    for command in ("logs", "stop", "hosts"):
        assert "asks for a token" in head.client(command, "grid-1", token=False)["error"]
    assert head.client("hosts") == [socket.gethostname()]
    unknown = head.client("stop", "nothing")
    assert unknown["error"].startswith("UsageError: there is no job 'nothing'")
