"""`hrgrid ui`: the MLflow UI on the store that the launches of a storage recorded in."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from jobs._command import main_of
from jobs._mlserver import QUIET
from jobs._options import add_name, add_storage, positive, settings
from orchestrator.errors import TrackingError, UsageError

HELP = "Open the MLflow UI on the right store. It listens on 127.0.0.1 alone; Ctrl-C ends it."

HOST = "127.0.0.1"
DEFAULT_PORT = 5000
_START_SECONDS = 90.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which store, which port."""
    add_storage(parser)
    add_name(parser)
    parser.add_argument(
        "--port", type=positive, metavar="N", help=f"port (default: {DEFAULT_PORT} or the next free one)"
    )


def run(args: argparse.Namespace) -> int:
    """Start the server, say where it is, and wait for Ctrl-C."""
    places = settings(args)
    if places.tracking.startswith("http"):
        print(f"The runs are on a server already: {places.tracking}")
        return 0
    database = Path(places.tracking.removeprefix("sqlite:///"))
    if places.tracking.startswith("sqlite:") and not database.is_file():
        raise UsageError(f"nothing is recorded at {database} yet; run hrgrid launch or hrgrid demo, or give --storage")
    port = _free_port(args.port)
    with tempfile.TemporaryFile("w+") as output:
        server = _start(places.tracking, port, output)
        try:
            _wait_until_up(server, port, output)
            print(f"MLflow UI: http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)
            server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            _end(server)
        raise TrackingError(f"the MLflow UI ended by itself: {_last_line(output)}")


def _start(tracking: str, port: int, output: IO[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking, "--workers", "1"]
    # A session of its own: Ctrl-C reaches this process alone, which then ends the whole group in order.
    server = subprocess.Popen(
        [*command, "--host", HOST, "--port", str(port)],
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **QUIET},
        start_new_session=True,
        text=True,
    )
    signal.signal(signal.SIGTERM, _interrupt)
    return server


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _wait_until_up(server: subprocess.Popen[str], port: int, output: IO[str]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TrackingError(f"the MLflow UI did not start: {_last_line(output)}")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TrackingError(f"the MLflow UI did not answer on port {port} within {_START_SECONDS:.0f} s")


def _end(server: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _last_line(output: IO[str]) -> str:
    output.seek(0)
    lines = [line.strip() for line in output.read().splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _free_port(wanted: int | None) -> int:
    for port in [wanted] if wanted else range(DEFAULT_PORT, DEFAULT_PORT + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    where = f"port {wanted} is taken" if wanted else f"ports {DEFAULT_PORT} to {DEFAULT_PORT + 99} are all taken"
    raise UsageError(f"{where}; choose another with --port")


if __name__ == "__main__":
    sys.exit(main_of("ui", HELP, add_arguments, run))
