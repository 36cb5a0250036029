"""An MLflow server of one's own as a child process, which can be killed and started again on the same port."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType

from jobs._family import descendants, end
from jobs._relay import HOST, free_port
from orchestrator.errors import TrackingError

__all__ = ["QUIET", "Server"]

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Environment of a server that tells nobody of itself and starts no process for jobs that nobody gives it."""

_START_SECONDS = 180.0


class Server:
    """MLflow over SQLite and a folder of artifacts; a context manager that starts it and ends it."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """`folder`: where runs, artifacts and the server's log go."""
        self.folder = folder
        self.port = port or free_port()
        self.uri = f"http://{HOST}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it answers; raises TrackingError with its last words when it does not."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination", f"{self.folder}/artifacts", "--host", HOST, "--port", str(self.port),
            "--workers", "1",
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env={**os.environ, **QUIET}, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until it answers; raises TrackingError with its last words when it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return
            time.sleep(0.2)
        log = self.folder / "server.log"
        last = (log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
        raise TrackingError(f"the MLflow server on port {self.port} did not start ({last}); its log is {log}")

    def kill(self) -> None:
        """Send SIGKILL to it and to all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        family = descendants(process.pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        end(family)
