"""`hrgrid ui` opens the right store on loopback, and leaves nothing running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import psutil
import pytest

from jobs.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_ui_serves_the_store_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "ui", "--storage", str(tmp_path), "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    guard = threading.Timer(120, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"MLflow UI: http://127.0.0.1:{port}")
        servers = psutil.Process(process.pid).children(recursive=True)
        listening = {c.laddr.ip for server in servers for c in server.net_connections() if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as page:
            assert page.status == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        guard.cancel()
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")
    assert not [server for server in servers if server.is_running() and server.status() != psutil.STATUS_ZOMBIE]


def test_a_port_that_is_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", "--storage", str(tmp_path), "--port", str(port)]) == 2
    assert f"port {port} is taken" in capsys.readouterr().err


def test_a_server_is_named_and_not_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--tracking", "http://tracking.example:5000"]) == 0
    assert "http://tracking.example:5000" in capsys.readouterr().out
