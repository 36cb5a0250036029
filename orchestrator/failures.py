"""Which failures of a gang are worth another attempt, and what a person is told about those that are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from ray.exceptions import RayError
from ray.train import ControllerError, UserCallback, WorkerGroupError

from orchestrator.errors import TrialError

__all__ = ["Judge", "explain"]


class Judge(UserCallback):
    """Lives in Ray Train's controller and ends a training whose failure would only repeat itself.

    A worker that dies is restarted (up to the failure limit of the run). A ValueError is the user's mistake and is
    not tried again, nor is any exception that the attempt before ended with too.
    """

    def __init__(self) -> None:
        self._before: set[str] = set()

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise TrialError, which Ray Train does not retry, for a failure that is final."""
        raised = {rank: error for rank, error in worker_exceptions.items() if not isinstance(error, RayError)}
        for rank, error in sorted(raised.items()):
            if isinstance(error, ValueError):
                _give_up(rank, error)
        signatures = {f"{type(error).__name__}: {error}" for error in raised.values()}
        for rank, error in sorted(raised.items()):
            if f"{type(error).__name__}: {error}" in self._before:
                _give_up(rank, error)
        self._before = signatures


def explain(error: BaseException) -> tuple[int, str]:
    """Return the rank whose log tells most about a failed training, and the failure in one line or few."""
    if isinstance(error, ControllerError):
        cause = error.controller_failure
        if isinstance(cause, TrialError):
            rank = getattr(cause, "rank", 0)
            return int(rank), str(cause)
        return 0, _line(cause)
    if isinstance(error, WorkerGroupError):
        return _of_workers(error.worker_failures)
    return 0, _line(error)


def _of_workers(failures: Mapping[int, BaseException]) -> tuple[int, str]:
    raised = {rank: error for rank, error in failures.items() if not isinstance(error, RayError)}
    if raised:
        rank = min(raised)
        return rank, f"worker {rank}: {_line(raised[rank])}"
    rank = min(failures, default=0)
    reason = _line(failures[rank]) if failures else "no reason given"
    return rank, f"worker {rank} died too often; look for lack of memory or a lost machine ({reason})"


def _give_up(rank: int, error: Exception) -> NoReturn:
    final = TrialError(f"worker {rank}: {_line(error)}")
    final.rank = rank  # type: ignore[attr-defined]
    raise final from error


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    # A ValueError of ours or of the workload is a sentence for people already.
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
