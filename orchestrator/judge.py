"""What Ray says of a gang's end, brought to the classes of failure; and the judge who decides in Ray's controller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.train import ControllerError, UserCallback, WorkerGroupError

from orchestrator.deaths import DeathBook
from orchestrator.errors import StorageError, TrialError
from orchestrator.failures import CLASSES, classify, first_line
from orchestrator.storage import Storage
from orchestrator.watchdog import HANG_FILE

__all__ = ["Judge", "Verdict", "explain", "judge", "oom_kills", "too_often"]

# A process that lost a peer says so in these words of gloo, NCCL and torch's store; the peer is what failed.
_PEER_LOST: Final = re.compile(
    r"connection (was )?(closed|reset)|broken pipe|nccl|gloo|connection refused|socket (timeout|error)", re.IGNORECASE
)
_OF_TORCH: Final = frozenset({"DistBackendError", "DistNetworkError", "DistStoreError", "DistError"})
_NO_MEMORY: Final = "running low on memory"
_LOST: Final = ("node-lost", "worker-lost")
_NODE_DIED: Final = "its node has died"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What ended a gang, or one attempt of it."""

    failure: str
    """Class of failure; `waiting` when the gang could only not be placed within Ray's patience."""

    rank: int
    """The worker whose log tells most."""

    reason: str
    """What happened, in one line."""

    signatures: tuple[str, ...] = ()
    """The exceptions that the program raised, to know them again."""

    final: bool = False
    """The judge has decided already that the gang is not started again."""


class Judge(UserCallback):
    """Lives in Ray Train's controller; ends a training whose failure would only repeat itself.

    Ray Train itself restarts for ever. What this callback raises it takes for an error of its controller, and does not
    retry.
    """

    def __init__(self, storage: str, key: str, owner: str, max_failures: int) -> None:
        """`max_failures`: deaths in a row, without a new checkpoint in between, that are followed by a restart."""
        self._storage, self._key, self._owner, self._max_failures = storage, key, owner, max_failures
        self._book: DeathBook | None = None
        self._hang = _last_hang(Storage(storage), key)
        self._oom_kills = oom_kills()

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        """Remember the kernel's count, so that only a kill since then counts as one of this gang."""
        self._oom_kills = oom_kills()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise TrialError, which Ray Train does not retry, for a failure that is final."""
        hang, kills = _last_hang(Storage(self._storage), self._key), oom_kills()
        hung = str(hang["reason"]) if hang and hang != self._hang else None
        verdict = judge(worker_exceptions, hung=hung, out_of_memory=kills > self._oom_kills)
        self._hang, self._oom_kills = hang, kills
        policy = CLASSES[verdict.failure].policy
        if policy == "always":
            return
        if policy == "never":
            _give_up(verdict, verdict.reason, worker_exceptions)
        self._book = self._book or DeathBook(Storage(self._storage), self._key, self._owner)
        reason = too_often(self._book, verdict, self._max_failures)
        if reason is not None:
            _give_up(verdict, reason, worker_exceptions)


def too_often(book: DeathBook, verdict: Verdict, max_failures: int) -> str | None:
    """Count a death; return why it was one too many, None while another attempt is worth it."""
    deaths = book.count(verdict.signatures)
    if CLASSES[verdict.failure].policy == "unless repeated" and deaths.repeated:
        return verdict.reason
    if deaths.row > max_failures:
        return f"{verdict.reason}; that was death {deaths.row} in a row without a new checkpoint"
    return None


def judge(errors: Mapping[int, BaseException], *, hung: str | None = None, out_of_memory: bool = False) -> Verdict:
    """Return what ended the workers that failed: the first cause, not what followed from it on other ranks.

    `errors`: of each rank that failed. `hung`: what a watchdog of the gang said since the last look. `out_of_memory`:
    the kernel of this machine killed for lack of memory since then.
    """
    named: dict[str, list[int]] = {}
    causes = {rank: _unwrapped(error) for rank, error in sorted(errors.items())}
    for rank, error in causes.items():
        named.setdefault(_class_of(error, out_of_memory=out_of_memory), []).append(rank)
    if hung is not None and not {*named} - {"worker-lost", "hang", "peer-lost"}:
        rank = min(named.get("worker-lost") or causes)
        return Verdict(failure="hang", rank=rank, reason=hung)
    # What says most comes first; what a lost peer causes comes last.
    told = (
        *(name for name in CLASSES if name not in _LOST and name != "bug"),
        "preempted",
        *_LOST,
        "bug",
        "peer-lost",
    )
    failure = next(name for name in told if name in named)
    rank = named[failure][0]
    raised = tuple(f"{type(error).__name__}: {error}" for error in causes.values() if not isinstance(error, RayError))
    reason = f"worker {rank}: {_described(causes[rank], failure)}"
    failure = "worker-lost" if failure == "peer-lost" else failure
    return Verdict(failure=failure, rank=rank, reason=reason, signatures=raised if failure == "bug" else ())


def explain(error: BaseException) -> Verdict:
    """Return what a failed `fit` of Ray Train means."""
    if isinstance(error, ControllerError):
        cause = error.controller_failure
        if isinstance(cause, TrialError):
            rank, failure = int(getattr(cause, "rank", 0)), str(getattr(cause, "ending", "bug"))
            return Verdict(failure=failure, rank=rank, reason=str(cause), final=True)
        if type(cause).__name__ == "WorkerGroupStartupTimeoutError":
            return Verdict(failure="waiting", rank=0, reason="the gang could not be placed")
        # Ray does not retry what fails while it sets up the process group: most often, a worker that has died.
        return Verdict(failure="worker-lost", rank=0, reason=f"the gang could not be set up: {first_line(cause)}")
    if isinstance(error, WorkerGroupError):
        return judge(error.worker_failures)
    if isinstance(error, RayError):
        return Verdict(failure="worker-lost", rank=0, reason=f"its controller died: {first_line(error)}")
    signature = f"{type(error).__name__}: {error}"
    return Verdict(failure=classify(error), rank=0, reason=first_line(error), signatures=(signature,))


def oom_kills() -> int:
    """How many processes of this container or machine the kernel has killed for lack of memory; 0 if unknown."""
    for place in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat"):
        try:
            lines = Path(place).read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdigit():
                return int(value)
    return 0


def _class_of(error: BaseException, *, out_of_memory: bool) -> str:
    if isinstance(error, OutOfMemoryError) or (isinstance(error, RayError) and _NO_MEMORY in str(error)):
        return "out-of-memory"
    if isinstance(error, RayActorError):
        if error.preempted:
            return "preempted"
        if _NODE_DIED in str(error):
            return "node-lost"
        return "out-of-memory" if out_of_memory else "worker-lost"
    if isinstance(error, RayError) or type(error).__name__ == "WorkerHealthCheckTimeoutError":
        return "worker-lost"
    if type(error).__name__ in _OF_TORCH or (
        isinstance(error, RuntimeError | OSError) and _PEER_LOST.search(str(error))
    ):
        return "peer-lost"
    return classify(error)


def _described(error: BaseException, failure: str) -> str:
    if not isinstance(error, RayError):
        return first_line(error)
    match failure:
        case "out-of-memory":
            return "its process was killed for lack of memory"
        case "node-lost":
            return "its machine was lost"
        case "preempted":
            return "its machine was taken away"
        case _:
            return "its process died"


def _unwrapped(error: BaseException) -> BaseException:
    """The cause of a failed health check of Ray Train."""
    cause = getattr(error, "health_check_failure", None)
    return cause if isinstance(cause, BaseException) else error


def _last_hang(storage: Storage, key: str) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] | None = storage.find_json(f"trials/{key}/{HANG_FILE}")
        return found
    except StorageError:
        return None


def _give_up(verdict: Verdict, reason: str, errors: Mapping[int, Exception]) -> NoReturn:
    final: Any = TrialError(reason)
    final.rank, final.ending = verdict.rank, verdict.failure
    raise final from errors.get(verdict.rank)
