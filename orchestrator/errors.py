"""Errors of the platform. Every message is one sentence or two: what, where, the value seen, what to do.

OrchestratorError
+-- UsageError       a filter, override, name or option that cannot be
+-- StorageError     a storage location that cannot be read or written
+-- LeaseLostError   another launch has taken over the trial
+-- TrackingError    the MLflow store or server cannot be reached or refuses
+-- ClusterError     no cluster, a cluster that cannot hold a gang, a job that is not there
+-- TrialError       one cell's training failed (carries the end of its log)
+-- StopAskedError   a user asked for a stop where no checkpoint is to be made

Each class says in `failure` which class of `orchestrator.failures` it is when it ends a trial.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ClusterError", "LeaseLostError", "OrchestratorError", "StopAskedError", "StorageError", "TrackingError",
    "TrialError", "UsageError", "reason_of",
]  # fmt: skip


class OrchestratorError(ValueError):
    """Base of every error that a user of the platform can cause and mend."""

    failure: ClassVar[str] = "mistake"


class UsageError(OrchestratorError):
    """A filter, override, name or option that cannot be."""


class StorageError(OrchestratorError):
    """A storage location that cannot be read or written."""

    failure = "storage"


class LeaseLostError(OrchestratorError):
    """Another launch has taken over the trial; this one must stop and write nothing more."""

    failure = "lease-lost"


class TrackingError(OrchestratorError):
    """The MLflow store or server cannot be reached, or refuses."""

    failure = "tracking"


class ClusterError(OrchestratorError):
    """No cluster, a cluster that cannot hold a gang, or a job that is not there."""

    failure = "node-lost"


class TrialError(OrchestratorError):
    """One cell's training failed; the message ends with the last lines of its log."""


class StopAskedError(OrchestratorError):
    """A user asked for a stop where no checkpoint is to be made: in the final evaluation."""

    failure = "stopped"


def reason_of(error: BaseException) -> str:
    """Return the first line of what an exception says, or its class where it says nothing: a part of a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
