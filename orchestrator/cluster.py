"""The same commands on a cluster: submit as a Ray job, list, follow, stop. Token authentication by default."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import ClusterError, UsageError, reason_of
from orchestrator.workload import Json

__all__ = ["PACKAGE", "Job", "Submission", "job", "jobs", "logs", "package", "stop", "submit"]

PACKAGE: Final = ("hrnet", "orchestrator", "jobs", "pyproject.toml")
"""What travels to the cluster; nothing else of the working folder does."""
DEFAULT_ADDRESS: Final = "http://127.0.0.1:8265"
ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
PATIENCE_SECONDS: Final = 300.0
"""How long `logs` keeps trying to reach a cluster that has gone silent."""
_STOP_ENVIRONMENT: Final = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "120"}
"""A job is asked to stop as by Ctrl-C and gets the time to leave true states behind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as the cluster tells it."""

    name: str
    """Submission id."""
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    command: str
    message: str = ""
    started: float | None = None
    """Epoch seconds."""
    ended: float | None = None
    exit_code: int | None = None

    @property
    def has_ended(self) -> bool:
        """No more output will come."""
        return self.status in ENDED

    @property
    def code(self) -> int:
        """Exit code that a command which waited for the job should end with."""
        if self.status == "SUCCEEDED":
            return 0
        return 130 if self.status == "STOPPED" else self.exit_code or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What was sent."""

    job: str
    address: str
    package_bytes: int


def submit(
    entrypoint: Sequence[str],
    *,
    root: Path,
    address: str | None = None,
    env: Mapping[str, str] | None = None,
    submission_id: str | None = None,
    provenance: Mapping[str, Json] | None = None,
) -> Submission:
    """Send the repository's packages below `root` and start a command (an argument list) as a Ray job.

    `env` must hold no secret: Ray shows it to everybody who may see the job. Raises ClusterError, or UsageError for
    a submission id that is taken.
    """
    with tempfile.TemporaryDirectory(prefix="hrgrid-package-") as temporary:
        size = package(root, Path(temporary))
        variables = {**_STOP_ENVIRONMENT, "PYTHONUNBUFFERED": "1", **(env or {})}
        if provenance:
            variables["HRGRID_PROVENANCE"] = json.dumps(provenance)
        with _client(address) as (client, where):
            try:
                # `exec`, so that the stop signal reaches Python and not a shell.
                name = client.submit_job(
                    entrypoint=f"exec {shlex.join(entrypoint)}",
                    submission_id=submission_id,
                    runtime_env={"working_dir": temporary, "env_vars": variables},
                )
            except RuntimeError as error:
                if submission_id and "already exists" in str(error):
                    raise UsageError(f"a job {submission_id!r} exists on {where}; choose another name") from None
                raise
    return Submission(job=str(name), address=where, package_bytes=size)


def package(root: Path, target: Path) -> int:
    """Copy the allow-listed sources of a checkout to a folder; return their size in bytes."""
    for name in PACKAGE:
        source = root / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
            shutil.copytree(source, target / name, ignore=ignore)
        elif source.is_file():
            shutil.copy2(source, target / name)
        else:
            raise UsageError(f"{root} is no checkout of hrgrid: it has no {name}; run submit in the repository's root")
    return sum(file.stat().st_size for file in target.rglob("*") if file.is_file())


def jobs(address: str | None = None) -> list[Job]:
    """All submitted jobs, oldest first."""
    with _client(address) as (client, _):
        found = [_job(detail) for detail in client.list_jobs() if detail.submission_id]
    return sorted(found, key=lambda job: job.started or float("inf"))


def job(name: str, address: str | None = None) -> Job:
    """One job; raises UsageError when there is none of this name."""
    with _client(address) as (client, where):
        return _find(client, name, where)


def logs(
    name: str,
    *,
    write: Callable[[str], object],
    address: str | None = None,
    follow: bool = False,
    interval: float = 1.0,
) -> Job:
    """Hand a job's output to `write`; with `follow` until the job has ended. Return the job as it is then.

    A connection that breaks is made again for five minutes, and no line is lost or written twice.
    """
    shown, silent_since = 0, None
    while True:
        try:
            with _client(address) as (client, where):
                current = _find(client, name, where)
                text = str(client.get_job_logs(name))
            silent_since = None
        except ClusterError:
            silent_since = silent_since or time.monotonic()
            if not follow or time.monotonic() - silent_since > PATIENCE_SECONDS:
                raise
            time.sleep(interval)
            continue
        if len(text) > shown:
            write(text[shown:])
            shown = len(text)
        if current.has_ended or not follow:
            return current
        # The whole log is read each time: the longer it is, the less often.
        time.sleep(interval * (1.0 + len(text) / 1e6))


def stop(name: str, *, address: str | None = None, timeout: float = 150.0) -> Job:
    """Stop a job and wait until it has ended; raises ClusterError when it has not after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with _client(address) as (client, where):
        current = _find(client, name, where)
        if not current.has_ended:
            client.stop_job(name)
        while not current.has_ended:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"job {name!r} is still {current.status} {timeout:.0f} s after it was asked to stop; look at its "
                    "log, or stop it again"
                )
            time.sleep(0.5)
            current = _find(client, name, where)
    return current


@contextmanager
def _client(address: str | None) -> Iterator[tuple[Any, str]]:
    """Ray's job client and the address in use; what goes wrong with the connection becomes one sentence."""
    where = _http(address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
    _prepare_token()
    from ray.job_submission import JobSubmissionClient

    try:
        yield JobSubmissionClient(where), where
    except ClusterError:
        raise
    except UsageError:
        raise
    except Exception as error:
        text = str(error).strip()
        if "401" in text or "403" in text or "authentication" in text.lower():
            reason = "it asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"
        else:
            reason = reason_of(error)
        raise ClusterError(f"the Ray cluster at {where} cannot be used ({reason})") from error


def _prepare_token() -> None:
    from orchestrator.raystart import has_token, prepare_environment

    prepare_environment(local=False)
    if has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _http(address: str) -> str:
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    if "://" in address:
        raise UsageError(f"the address {address!r} is not that of a Ray dashboard, such as {DEFAULT_ADDRESS}")
    return f"http://{address}"


def _find(client: Any, name: str, where: str) -> Job:
    try:
        return _job(client.get_job_info(name))
    except RuntimeError as error:
        if "404" not in str(error) and "does not exist" not in str(error):
            raise
    known: list[str] = []
    with contextlib.suppress(RuntimeError):
        known = sorted(detail.submission_id for detail in client.list_jobs() if detail.submission_id)
    raise UsageError(f"there is no job {name!r} at {where}; known: {', '.join(known) or 'none'}")


def _job(detail: Any) -> Job:
    status = detail.status
    return Job(
        name=str(detail.submission_id),
        status=str(getattr(status, "value", status)),
        command=str(detail.entrypoint).removeprefix("exec "),
        message=str(detail.message or ""),
        started=None if not detail.start_time else detail.start_time / 1e3,
        ended=None if not detail.end_time else detail.end_time / 1e3,
        exit_code=detail.driver_exit_code,
    )
