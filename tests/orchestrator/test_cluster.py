"""The sentences of a cluster that is not there, and how a job's end becomes an exit code."""

from __future__ import annotations

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.cluster import Job, jobs
from orchestrator.errors import ClusterError, UsageError
from orchestrator.raystart import prepare_environment

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def test_a_cluster_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ClusterError, match=r"the Ray cluster at http://127.0.0.1:9 cannot be used \(nothing answers"):
        jobs("127.0.0.1:9")
    with pytest.raises(UsageError, match="not that of a Ray dashboard"):
        jobs("ray://127.0.0.1:10001")


def test_the_address_that_is_asked_for_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(503)

        def log_message(self, *arguments: object) -> None:
            pass

    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ClusterError, match="cannot be used"):
            jobs(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert asked == ["/api/version"]
    assert os.environ["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("status", "exit_code", "code"), [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("STOPPED", None, 130)]
)
def test_a_waiting_command_ends_as_its_job_did(status: str, exit_code: int | None, code: int) -> None:
    job = Job(name="j", status=status, command="c", exit_code=exit_code)
    assert job.has_ended
    assert job.code == code


def test_a_local_ray_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HRGRID_LOCAL_RAY", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    prepare_environment(local=True)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
    assert not (tmp_path / ".ray").exists()
