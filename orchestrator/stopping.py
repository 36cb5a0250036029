"""How a launch ends when it is asked to: first with checkpoints, then, asked again or out of time, at once."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from orchestrator.ledger import Ledger

__all__ = ["stop_with_checkpoints", "undisturbed", "until_interrupted"]

_log = logging.getLogger(__name__)


def stop_with_checkpoints(
    ledger: Ledger,
    at_work: Callable[[], Mapping[str, int]],
    *,
    seconds: float,
    halt: Callable[[], None],
    step: Callable[[], bool],
    tell: Callable[[str], None],
) -> None:
    """Ask all that train for a checkpoint and an end, and wait for it; never raises.

    `at_work`: key and lease of each trial that can be asked. `halt`: keeps further ones from beginning. `step`: waits
    a moment, and returns True when all have ended. Ends after `seconds`, or at once at a second interrupt.
    """
    try:
        with until_interrupted():
            halt()
            asked: dict[str, int] = {}
            deadline = time.monotonic() + seconds
            while (left := at_work()) and time.monotonic() < deadline:
                if not asked:
                    tell(f"stopping: waiting for checkpoints, up to {seconds:.0f} s ... Ctrl-C again to stop at once")
                for key, lease in left.items():
                    if asked.get(key) != lease:
                        ledger.ask_stop(key, lease)
                        asked[key] = lease
                if step():
                    return
            if left:
                tell(f"no checkpoint within {seconds:.0f} s; stopping at once")
    except KeyboardInterrupt:
        tell("stopping at once")
    except Exception as error:
        _log.warning("checkpoints are not waited for: %s", error)


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: raise KeyboardInterrupt."""
    with _handled({signal.SIGTERM: _interrupt}):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Take no Ctrl-C and no SIGTERM: what is done now must be done to leave true states behind."""
    with _handled({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
        yield


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
