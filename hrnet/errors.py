"""Errors of the science package. Every message is one sentence or two: what, where, the value seen, what to do.

HrnetError
+-- RecipeError     an unknown recipe, dataset, width or schedule; an override of the wrong type or range
+-- DataError       a folder that is no dataset, a missing, broken or inconsistent image or label
+-- WeightsError    a weights or checkpoint file that cannot be read or does not fit the model
+-- TrainingError   training cannot go on (a loss that is not finite, a batch that the workers do not divide)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["DataError", "HrnetError", "RecipeError", "TrainingError", "WeightsError", "suggestion"]


class HrnetError(ValueError):
    """Base of every error that a user of `hrnet` can cause and mend."""


class RecipeError(HrnetError):
    """A recipe, or a field of one, is unknown or has a value outside its range."""


class DataError(HrnetError):
    """A data set, image, label or manifest is missing, broken or inconsistent."""


class WeightsError(HrnetError):
    """A weights or checkpoint file is unreadable or does not fit the model."""


class TrainingError(HrnetError):
    """Training cannot start or go on."""


def suggestion(value: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'w18'?"` for a near miss of a known name, else the sorted list of known names."""
    names = sorted(set(known))
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {shown}"
