"""The parts of a drill: the relay, who is found to be killed, what counts as equal; and, slow, the drill itself."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jobs._drill_evidence import Evidence, curve_faults, differences, lost_seconds, read_marks, redone, resumed
from jobs._drill_faults import LocalFolder
from jobs._family import ROLES, descendants, end, victims
from jobs._relay import Relay
from jobs.cli import main


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a service that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with connection:
                while piece := connection.recv(100):
                    connection.sendall(piece)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def ask(port: int, words: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(words)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_a_relay_passes_on_refuses_cuts_and_comes_back(echo: int) -> None:
    with Relay("127.0.0.1", echo) as relay:
        port, long = relay.port, b"x" * 300_000
        assert ask(port, b"hello") == b"hello"
        assert ask(port, long) == long
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"open")
            assert client.recv(100) == b"open"
            relay.down()
            assert client.recv(100) == b""
        with pytest.raises(ConnectionRefusedError):
            ask(port, b"away")
        relay.down()
        relay.up()
        relay.up()
        assert relay.port == port
        assert ask(port, b"again") == b"again"
    with pytest.raises(ConnectionRefusedError):
        ask(port, b"closed")


def test_a_relay_to_nobody_closes_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with Relay("127.0.0.1", port) as relay:
        assert ask(relay.port, b"") == b""


PARENT = """
import subprocess, sys, time
sleep = "import time; time.sleep(60)"
children = [
    subprocess.Popen([title, "-c", sleep], executable=sys.executable)
    for title in ("ray::RayTrainWorker", "/ray/raylet", "ray::IDLE", "ray::RayTrainWorker", "/x/not_gcs_server")
]
print(*(child.pid for child in children), flush=True)
time.sleep(60)
"""


def test_victims_are_found_by_descent_and_title() -> None:
    stranger = subprocess.Popen(["ray::RayTrainWorker", "-c", "input()"], executable=sys.executable, stdin=-1)
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    family = descendants(parent.pid)
    try:
        assert {process.pid for process in family} == set(pids)
        assert [victim.process.pid for victim in victims(parent.pid, "worker")] == [pids[0], pids[3]]
        assert {(v.role, v.process.pid) for v in victims(parent.pid)} == {
            ("worker", pids[0]), ("raylet", pids[1]), ("worker", pids[3]),
        }  # fmt: skip
        assert not victims(parent.pid, "driver")
        with pytest.raises(KeyError):
            victims(parent.pid, "cook")
        (raylet,) = victims(parent.pid, "raylet")
        raylet.kill()
        psutil.wait_procs([raylet.process], timeout=10)
        raylet.kill()
        assert stranger.poll() is None
    finally:
        parent.kill()
        end(family)
        stranger.kill()
        parent.communicate()
        stranger.communicate()
    assert not descendants(parent.pid)
    assert not any(process.is_running() for process in family)
    assert set(ROLES) == {"worker", "driver", "gcs", "raylet"}


def log(*entries: tuple[float, str, int]) -> bytes:
    lines = []
    for time, kind, step in entries:
        entry: dict[str, object] = {"time": time, "phase": "train", "kind": kind, "step": step, "total": 9}
        if kind == "start":
            entry = {"time": time, "kind": "note", "text": "worker 0 of 2 starts on host", "pid": step}
        lines.append(json.dumps(entry))
    return "\n".join(lines).encode()


UNBROKEN = log((0.5, "start", 7), *((float(step), "progress", step) for step in range(1, 9)))
FIRST = log((0.5, "start", 7), *((float(step), "progress", step) for step in range(1, 6)))
SECOND = log((9.0, "start", 8), *((12.0 + step, "progress", step) for step in range(3, 9)))


def test_marks_tell_what_was_lost_and_done_again() -> None:
    marks = read_marks([FIRST, FIRST + b'\n{"time": 99.0, "kin', SECOND])
    assert [mark.step for mark in marks if mark.kind == "progress"] == [1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]
    assert redone(marks) == 3
    assert redone(marks, since=16.5) == 1
    assert redone(marks, until=9.0) == 0
    assert resumed(marks, 5.5) == (15.0, 3)
    assert resumed(marks, 9.5) is None
    usual = read_marks([UNBROKEN])
    assert redone(usual) == 0
    assert lost_seconds(marks, usual, since=5.5) == pytest.approx((20.0 - 5.0) - (8.0 - 5.0))
    assert lost_seconds(usual, usual, since=5.5) == 0.0
    assert math.isnan(lost_seconds(usual, usual, since=8.5))  # nothing came after


def evidence(**changes: object) -> Evidence:
    curves = {
        "train/loss": [(1, 0.5), (2, 0.25)], "train/images_per_s": [(1, 3.0), (2, 4.0)], "val/mIoU": [(2, 10.0)],
        "system/node0/cpu": [(3, 1.0)],
    }  # fmt: skip
    found: dict[str, object] = {"curves": curves, "weights": "ab" * 32, "status": "FINISHED", "state": "finished"}
    return Evidence(**{**found, **changes, "curves": {**curves, **changes.get("curves", {})}})  # type: ignore


def test_equal_runs_may_differ_in_speed_alone() -> None:
    quick = evidence(curves={"train/images_per_s": [(1, 9.0), (2, 9.0)], "system/node0/cpu": []})
    assert differences(quick, evidence()) == []
    assert curve_faults(quick, evidence()) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "cd" * 32}, "final weights cdcdcdcdcdcd instead of abababababab"),
        ({"weights": ""}, "final weights missing instead of"),
        ({"curves": {"train/loss": [(1, 0.5), (2, 0.26)]}}, "train/loss is 0.26 instead of 0.25 at step 2"),
        ({"curves": {"train/loss": [(1, 0.5), (1, 0.5), (2, 0.25)]}}, "1 points of the curves are there twice, 0"),
        ({"curves": {"val/mIoU": []}}, "0 points of the curves are there twice, 1 are missing"),
        ({"status": "RUNNING"}, "the ledger says finished and tracking says RUNNING"),
        ({"state": "failed"}, "the ledger says failed"),
    ],
)
def test_a_difference_is_told(changes: dict[str, object], words: str) -> None:
    (told,) = differences(evidence(**changes), evidence())
    assert words in told


def test_a_folder_that_is_away_cannot_be_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "storage"
    (folder / "trials").mkdir(parents=True)
    outage = LocalFolder(folder)
    outage.up()
    outage.down()
    with pytest.raises(OSError, match="storage"):
        (folder / "trials").mkdir(parents=True, exist_ok=True)
    outage.up()
    outage.up()
    assert (folder / "trials").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["storage"]


def test_what_cannot_be_taken_away_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    folder = f"--folder={tmp_path}/drill"
    assert main(["drill", folder, "--tracking", "sqlite:////x/mlflow.db"]) == 2
    assert main(["drill", folder, "--storage", "s3://bucket/x"]) == 2
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.example.com")
    assert main(["drill", folder, "--storage", "s3://bucket/x"]) == 2
    (tmp_path / "file").touch()
    assert main(["drill", "--folder", f"{tmp_path}/file"]) == 2
    assert main(["drill", "--folder", ""]) == 2
    told = capsys.readouterr().err
    assert "nothing can be written there (Not a directory)" in told
    assert "it is empty; name a folder" in told
    assert "only an http:// server can be taken away" in told
    assert "AWS_ENDPOINT_URL must name the API" in told
    assert "AWS_ENDPOINT_URL is https://s3.example.com: only http://host:port" in told
    assert not (tmp_path / "drill").exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_the_drill_proves_that_nothing_changes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "drill", "--folder", str(tmp_path / "drill"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout)
    assert facts["proven"]
    assert [fault["fault"] for fault in facts["faults"]] == [
        "worker killed", "trial driver killed", "launcher killed", "tracking away", "storage away",
    ]  # fmt: skip
    assert all(0 < fault["steps_redone"] <= 10 for fault in facts["faults"][:3])
    assert json.loads((Path(facts["folder"]) / "drill.json").read_text()) == facts
