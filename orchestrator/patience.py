"""Waiting for a storage that is away: a limited time, ever longer pauses, a sentence when it begins and one after."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from orchestrator.errors import StorageError

__all__ = ["LONGEST_PAUSE", "PATIENCE", "duration", "patiently"]

PATIENCE: Final = 1800.0
"""Seconds that a training goes on, or waits, without a storage before it ends."""

LONGEST_PAUSE: Final = 30.0
"""Most seconds between two attempts."""

_LASTING: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "NoSuchBucket", "SignatureDoesNotMatch"})

_Value = TypeVar("_Value")


def patiently(
    what: str,
    job: Callable[[], _Value],
    *,
    say: Callable[[str], None],
    seconds: float = PATIENCE,
    pause: float = 1.0,
) -> _Value:
    """Return the value of a job that needs the storage, done again for up to `seconds` while it raises StorageError.

    `what` is what waits, the subject of a sentence. `pause`: seconds before the second attempt, doubled for each
    further one. Raises StorageError at once for what waiting does not mend: a bucket that is not there, a refused key.
    """
    began = time.monotonic()
    told = False
    while True:
        try:
            value = job()
        except StorageError as error:
            away = time.monotonic() - began
            if _is_lasting(error):
                raise
            if away + pause > seconds:
                raise StorageError(f"{what} waited {duration(away)} for the storage in vain: {error}") from error
            if not told:
                say(f"{what} waits up to {duration(seconds)} for the storage: {error}")
            told = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            if told:
                say(f"{what} goes on: the storage was away for {duration(time.monotonic() - began)}")
            return value


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def _is_lasting(error: StorageError) -> bool:
    cause: Any = error.__cause__
    code = getattr(cause, "response", {}).get("Error", {}).get("Code")
    return code in _LASTING or type(cause).__name__ in ("NoCredentialsError", "PartialCredentialsError")
