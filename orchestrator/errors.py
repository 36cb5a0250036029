"""Errors of the platform. Every message is one sentence or two: what, where, the value seen, what to do.

OrchestratorError
+-- UsageError       a filter, override, name or option that cannot be
+-- StorageError     a storage location that cannot be read or written
+-- LeaseLostError   another launch has taken over the trial
+-- TrackingError    the MLflow store or server cannot be reached or refuses
+-- ClusterError     no cluster, a cluster that cannot hold a gang, a job that is not there
+-- TrialError       one cell's training failed (carries the end of its log)
"""

from __future__ import annotations

__all__ = [
    "ClusterError", "LeaseLostError", "OrchestratorError", "StorageError", "TrackingError", "TrialError", "UsageError",
]  # fmt: skip


class OrchestratorError(ValueError):
    """Base of every error that a user of the platform can cause and mend."""


class UsageError(OrchestratorError):
    """A filter, override, name or option that cannot be."""


class StorageError(OrchestratorError):
    """A storage location that cannot be read or written."""


class LeaseLostError(OrchestratorError):
    """Another launch has taken over the trial; this one must stop and write nothing more."""


class TrackingError(OrchestratorError):
    """The MLflow store or server cannot be reached, or refuses."""


class ClusterError(OrchestratorError):
    """No cluster, a cluster that cannot hold a gang, or a job that is not there."""


class TrialError(OrchestratorError):
    """One cell's training failed; the message ends with the last lines of its log."""
