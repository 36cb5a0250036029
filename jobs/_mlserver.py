"""An MLflow server as a child process: started as it should be, watched until it answers, ended with all it started.

What may hold a password - the database, the accounts - reaches it through its environment, which other users of the
machine cannot read, and never through its command line, which everybody can.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

import psutil

from jobs._family import descendants, end
from jobs._mlpages import APP, installed
from jobs._relay import HOST, free_port
from orchestrator.errors import TrackingError
from orchestrator.runstore import absolute_uri

__all__ = ["Server", "ServerPlan", "stoppable"]

_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""It tells nobody of itself, and starts no processes for jobs (judges of language models) that nobody gives it: they
are 8 of 10 processes and 1.7 of 2.2 GB."""

_START_SECONDS = 300.0
"""Ten on an idle machine; what is not up after this is not going to be."""

_STOP_SECONDS = 10.0
_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception): (.+)")
"""The end of a traceback."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerPlan:
    """What a server is started with."""

    backend: str
    """Database of the runs, with its password if it needs one."""

    log: Path
    """The file that its output is added to."""

    artifacts: str | None = None
    """Folder or `s3://` URI of artifacts, which clients reach through the server; None: as MLflow does."""

    host: str = HOST
    """Address that it listens on."""

    port: int = field(default_factory=free_port)
    """Port that it listens on."""

    workers: int = 1
    """Processes that answer requests."""

    app: str | None = None
    """MLflow's application: `basic-auth`, or None for the one without accounts."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Further settings of MLflow."""

    descriptors: tuple[int, ...] = ()
    """Open files that it holds, too: a lock on them lasts as long as it does."""

    @property
    def uri(self) -> str:
        """Where this machine reaches it."""
        near = {"0.0.0.0": HOST, "::": "::1"}.get(self.host, self.host)
        return f"http://[{near}]:{self.port}" if ":" in near else f"http://{near}:{self.port}"


class Server:
    """One MLflow server; a context manager that starts it and ends it. It may be killed and started again."""

    def __init__(self, plan: ServerPlan) -> None:
        """`plan`: what it is started with."""
        self.plan = plan
        self.uri = plan.uri
        self._process: subprocess.Popen[bytes] | None = None
        self._said = 0

    @classmethod
    def within(cls, folder: Path) -> Server:
        """SQLite, artifacts and log in one folder, on a free port of loopback."""
        artifacts = str(folder / "artifacts")
        plan = ServerPlan(backend=f"sqlite:///{folder}/mlflow.db", artifacts=artifacts, log=folder / "server.log")
        return cls(plan)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, waiting: Callable[[], object] = lambda: None) -> None:
        """Start it and wait until it answers, calling `waiting` now and then.

        Raises:
            TrackingError: it does not start, with its own reason; nothing of it is left.
        """
        self.launch()
        try:
            self.wait(waiting)
        except BaseException:
            self.kill()
            raise

    def launch(self) -> None:
        """Start it without waiting."""
        plan = self.plan
        command = [sys.executable, "-m", "mlflow", "server", "--host", plan.host, "--port", str(plan.port)]
        command += ["--workers", str(plan.workers), "--uvicorn-opts", "--no-access-log"]
        command += ["--artifacts-destination", plan.artifacts] if plan.artifacts else []
        app = plan.app or (APP if installed() else None)
        command += ["--app-name", app] if app else []
        backend = {"MLFLOW_BACKEND_STORE_URI": absolute_uri(plan.backend)}
        plan.log.parent.mkdir(parents=True, exist_ok=True)
        with plan.log.open("ab") as log:
            self._said = log.tell()
            # A session of its own: Ctrl-C reaches this process alone, which then ends the whole group in order.
            self._process = subprocess.Popen(
                command, env={**os.environ, **_QUIET, **backend, **plan.environment}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, pass_fds=plan.descriptors,
            )  # fmt: skip

    def wait(self, waiting: Callable[[], object] = lambda: None) -> None:
        """Wait until it answers; raises TrackingError with its own reason when it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return
            waiting()
            time.sleep(0.2)
        raise TrackingError(
            f"the MLflow server on port {self.plan.port} did not start ({self.reason()}); its log is {self.plan.log}"
        )

    def until_it_ends(self) -> None:
        """Return when the process has ended by itself."""
        if self._process is not None:
            self._process.wait()

    def reason(self) -> str:
        """What the newest error in its log says, or its last line where there is none; a part of a sentence."""
        with self.plan.log.open("rb") as log:
            log.seek(self._said)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [match[1] for line in lines if (match := _ERROR.match(line))]
        return (errors or lines or ["it printed nothing"])[-1].rstrip(".")

    def stop(self) -> None:
        """Let it end its requests, then kill what is left of it after ten seconds."""
        process = self._process
        if process is None:
            return
        family = descendants(process.pid)
        try:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            psutil.wait_procs(family, timeout=1.0)
        finally:  # also when Ctrl-C is pressed a second time
            self._end(family)

    def kill(self) -> None:
        """Send SIGKILL to it and to all that it started."""
        if self._process is not None:
            self._end(descendants(self._process.pid))

    def _end(self, family: list[psutil.Process]) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.wait()
        end(family)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Take SIGTERM and the end of the terminal as Ctrl-C: KeyboardInterrupt, whose way out ends what was started."""

    def interrupt(signum: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
