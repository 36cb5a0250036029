"""The same commands on a cluster: submit as a Ray job, list, follow, stop. Token authentication by default."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator import withdraw
from orchestrator.checkout import Checkout
from orchestrator.errors import ClusterError, OrchestratorError, UsageError, reason_of
from orchestrator.joblog import Reader
from orchestrator.provenance import CARRIED, PATCH_FILE, Source

__all__ = ["Job", "Submission", "hosts", "job", "jobs", "logs", "stop", "submit"]

_ADDRESS: Final = "RAY_API_SERVER_ADDRESS"
DEFAULT_ADDRESS: Final = "http://127.0.0.1:8265"
ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
STOP_SECONDS: Final = 120
"""What a job gets to leave true states behind: a launch waits up to a minute for checkpoints, then tells MLflow."""
PENDING_SECONDS: Final = 5.0
"""A job that is still PENDING so long after it was asked to stop has no process that could hear it."""
FRESH_SECONDS: Final = 60.0
"""A head answers some time before it can start jobs."""
_STOP_ENVIRONMENT: Final = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
"""A job is asked to stop as by Ctrl-C."""
_CHATTY: Final = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray that tell of every upload and every connection."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as the cluster tells it."""

    name: str
    """Submission id."""
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    command: str
    message: str = ""
    """Why it is in this state; of a failed one with the end of its log."""
    started: float | None = None
    """When it was submitted, epoch seconds."""
    ended: float | None = None
    exit_code: int | None = None

    @property
    def has_ended(self) -> bool:
        """No more output will come."""
        return self.status in ENDED

    @property
    def seconds(self) -> float | None:
        """How long it lasted, or has lasted by now; None before it was started."""
        return None if self.started is None else (self.ended or time.time()) - self.started

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
    """Name of the job."""
    address: str
    """Dashboard of its cluster."""
    package_bytes: int
    """Size of the code that travelled."""
    before: Job | None = None
    """The ended job whose name was asked for; this one has a number behind it."""


def submit(
    entrypoint: Sequence[str],
    *,
    root: Path,
    address: str | None = None,
    env: Mapping[str, str] | None = None,
    name: str | None = None,
    source: Source | None = None,
) -> Submission:
    """Send the packages of the checkout `root` and start a command (an argument list) as a Ray job.

    `env` must hold no secret: Ray shows it to everybody who may see the job. A `name` of a job that has ended gets a
    number; None: Ray makes one up. `source`: what is known of the code, which the job's `provenance` then returns.
    Raises ClusterError, and UsageError for a name that is taken or a package that is too large.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(f"the job name {name!r} is not usable; take letters, digits, '.', '_' or '-', up to 100")
    with tempfile.TemporaryDirectory(prefix="hrgrid-package-") as temporary:
        size = Checkout(root).copy(Path(temporary))
        variables = {**_STOP_ENVIRONMENT, "PYTHONUNBUFFERED": "1", **(env or {})}
        if source is not None:
            variables[CARRIED] = json.dumps({**source.facts, "submit_host": socket.gethostname()})
            if source.patch:
                size += (Path(temporary) / PATCH_FILE).write_bytes(source.patch.encode())
        with _client(address) as (client, where):
            before = None if name is None else _namesake(client, name, where)
            free = name if before is None else _free_name(client, str(name))
            # `exec`, so that the stop signal reaches Python and not a shell.
            runtime_env = {"working_dir": temporary, "env_vars": variables}
            facts = _facts(variables, source)
            taken = _start(client, f"exec {shlex.join(entrypoint)}", free, runtime_env, where, facts)
    return Submission(job=taken, address=where, package_bytes=size, before=before)


def jobs(address: str | None = None) -> list[Job]:
    """All submitted jobs, oldest first."""
    with _client(address) as (client, _):
        found = [_job(detail) for detail in client.list_jobs() if detail.submission_id]
    return sorted(found, key=lambda job: job.started or float("inf"))


def job(name: str, address: str | None = None) -> Job:
    """One job; raises UsageError when there is none of this name."""
    with _client(address) as (client, where):
        return _find(client, name, where)


def hosts(address: str | None = None) -> list[str]:
    """Host names of the machines that are in the cluster now."""
    with _client(address) as (client, where):
        answer = client._do_request("GET", "/nodes?view=hostNameList")
        if answer.status_code != 200:
            raise ClusterError(f"the Ray cluster at {where} does not tell its machines ({answer.status_code})")
        return sorted(answer.json()["data"]["hostNameList"])


def logs(
    name: str,
    *,
    write: Callable[[str], object],
    tell: Callable[[str], object] = lambda sentence: None,
    address: str | None = None,
    follow: bool = False,
) -> Job:
    """Hand a job's output to `write`; with `follow` until the job has ended. Return the job as it is then.

    `tell` is given a sentence when the connection breaks; it is made again, see `orchestrator.joblog`.
    """
    current: list[Job] = []

    def ended(client: Any, where: str) -> bool:
        current[:] = [_find(client, name, where)]
        return current[0].has_ended or not follow

    Reader(name, lambda: _client(address), write, tell).read(ended)
    return current[0]


def stop(
    name: str, *, address: str | None = None, timeout: float = STOP_SECONDS + 30.0, python: str = "python"
) -> Job:
    """Stop a job and wait until it has ended; one that has ended already is returned as it is.

    A job that waits for resources is withdrawn: a small job on the cluster ends what waits in its place, with the
    cluster's `python`. Raises ClusterError when the job has not ended after `timeout` seconds.
    """
    asked = time.monotonic()
    with _client(address) as (client, where):
        current = _find(client, name, where)
        if not current.has_ended:
            client.stop_job(name)
        while not current.has_ended:
            waited = time.monotonic() - asked
            if current.status == "PENDING" and waited > PENDING_SECONDS:
                _withdraw(client, name, python, asked + timeout, where)
            elif waited > timeout:
                raise ClusterError(
                    f"job {name!r} is still {current.status} {timeout:.0f} s after it was asked to stop; look at its "
                    "log, or stop it again"
                )
            time.sleep(0.5)
            current = _find(client, name, where)
    return current


def _withdraw(client: Any, name: str, python: str, until: float, where: str) -> None:
    """Run `orchestrator.withdraw` on the cluster, as a job of its own, which stays in the list of jobs."""
    with tempfile.TemporaryDirectory(prefix="hrgrid-withdraw-") as temporary:
        shutil.copy(withdraw.__file__, Path(temporary) / "withdraw.py")
        entrypoint = f"exec {shlex.join([python, 'withdraw.py', name])}"
        helper = _start(client, entrypoint, None, {"working_dir": temporary}, where)
    done = _find(client, helper, where)
    while not done.has_ended:
        if time.monotonic() > until:
            raise ClusterError(
                f"job {name!r} waits for resources, and {helper}, which is to withdraw it, does not end"
            )
        time.sleep(0.5)
        done = _find(client, helper, where)
    if done.status != "SUCCEEDED" and _find(client, name, where).status == "PENDING":
        said = (done.message.strip().splitlines() or ["no reason given"])[-1]
        raise ClusterError(f"job {name!r} waits for resources and could not be withdrawn ({said})")


def _facts(variables: Mapping[str, str], source: Source | None) -> dict[str, str]:
    """What the dashboard shows of a job beside its command."""
    facts = {"from": socket.gethostname(), "benchmark": variables.get("HRGRID_BENCHMARK")}
    if source is not None:
        facts["commit"] = str(source.facts["git_commit"])
        facts["uncommitted changes"] = "yes" if source.facts["git_dirty"] else "no"
    return {name: value for name, value in facts.items() if value}


def _start(
    client: Any,
    entrypoint: str,
    name: str | None,
    runtime_env: Mapping[str, Any],
    where: str,
    facts: Mapping[str, str] | None = None,
) -> str:
    """Start a job; a head that has only just been started is waited for."""
    until = time.monotonic() + FRESH_SECONDS
    while True:
        try:
            return str(
                client.submit_job(
                    entrypoint=entrypoint, submission_id=name, runtime_env=runtime_env, metadata=dict(facts or {})
                )
            )
        except RuntimeError as error:
            if "already exists" in str(error):
                raise UsageError(f"a job {name!r} exists on {where}; choose another name") from None
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
        time.sleep(1.0)


def _namesake(client: Any, name: str, where: str) -> Job | None:
    """The ended job of a name, or None; raises UsageError for one that has not ended."""
    found = next((_job(detail) for detail in client.list_jobs() if detail.submission_id == name), None)
    if found is not None and not found.has_ended:
        raise UsageError(
            f"a job {name!r} is {found.status} on {where}; stop it first (hrgrid stop {name}) or choose another name"
        )
    return found


def _free_name(client: Any, name: str) -> str:
    """Ray takes no name twice: `NAME-2`, or the first number that is free."""
    taken = {detail.submission_id for detail in client.list_jobs()}
    return next(candidate for number in range(2, 10_000) if (candidate := f"{name}-{number}") not in taken)


@contextmanager
def _client(address: str | None) -> Iterator[tuple[Any, str]]:
    """Ray's job client and the address in use; what goes wrong with the connection becomes one sentence."""
    where = _http(address or os.environ.get(_ADDRESS) or DEFAULT_ADDRESS)
    _prepare_token()
    from ray.job_submission import JobSubmissionClient

    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        with _asked_for(where):
            client = JobSubmissionClient(where)
        yield client, where
    except (OrchestratorError, BrokenPipeError):  # the latter of whoever reads our output
        raise
    except Exception as error:
        text = str(error).strip()
        if "401" in text or "403" in text or "authentication" in text.lower():
            reason = "it asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"
        elif "Failed to connect to Ray" in text:
            reason = "nothing answers; is the cluster up, and its port forwarded, as by `ray dashboard cluster.yaml`?"
        else:
            reason = reason_of(error)
        raise ClusterError(f"the Ray cluster at {where} cannot be used ({reason})") from error


@contextmanager
def _asked_for(where: str) -> Iterator[None]:
    """Let Ray's client take the address it is given: it prefers those of the environment."""
    before = os.environ.get(_ADDRESS)
    os.environ[_ADDRESS] = where
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ADDRESS]
        else:
            os.environ[_ADDRESS] = before


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
