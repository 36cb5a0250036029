"""Errors of the science package. Every message is one sentence or two: what, where, the value seen, what to do.

HrnetError
+-- RecipeError     an unknown recipe, dataset, width or schedule; an override of the wrong type or range
+-- DataError       a folder that is no dataset, a missing, broken or inconsistent image or label
    +-- DataAwayError   a remote location of data that does not answer
+-- WeightsError    a weights or checkpoint file that cannot be read or does not fit the model
+-- TrainingError   training cannot go on (a batch that the workers do not divide)
    +-- LoaderError     a loading process died
    +-- DivergedError   the loss is not finite any more
+-- MemoryShortage  the memory of a GPU or of the machine was not enough

Each class says in `failure` what kind of failure it is, in the words of whoever runs many trainings: `mistake` (of the
user), `data`, `diverged`, `out-of-memory`, `storage` (it may answer again later) or `worker-lost`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

__all__ = ["DataAwayError", "DataError", "DivergedError", "HrnetError", "LoaderError", "MemoryShortage", "RecipeError",
           "TrainingError", "WeightsError", "suggestion"]  # fmt: skip


class HrnetError(ValueError):
    """Base of every error that a user of `hrnet` can cause and mend."""

    failure: ClassVar[str] = "mistake"


class RecipeError(HrnetError):
    """A recipe, or a field of one, is unknown or has a value outside its range."""


class DataError(HrnetError):
    """A data set, image, label or manifest is missing, broken or inconsistent."""

    failure = "data"


class DataAwayError(DataError):
    """A remote location of data cannot be read now; nothing is known to be wrong with the data."""

    failure = "storage"


class WeightsError(HrnetError):
    """A weights or checkpoint file is unreadable or does not fit the model."""


class TrainingError(HrnetError):
    """Training cannot start or go on."""


class LoaderError(TrainingError):
    """A process that loads samples died."""

    failure = "worker-lost"


class DivergedError(TrainingError):
    """The loss is not finite any more."""

    failure = "diverged"

    def __init__(self, message: str, evidence: Mapping[str, Any]) -> None:
        """`evidence` is JSON-able: the iteration, and the losses and samples of the last iterations."""
        super().__init__(message)
        self.evidence = dict(evidence)

    def __reduce__(self) -> tuple[type[DivergedError], tuple[str, dict[str, Any]]]:
        """It travels between processes with its evidence."""
        return type(self), (str(self), self.evidence)


class MemoryShortage(HrnetError):
    """The memory of a GPU or of the machine was not enough."""

    failure = "out-of-memory"


def suggestion(value: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'w18'?"` for a near miss of a known name, else the sorted list of known names."""
    names = sorted(set(known))
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {shown}"
