"""Notices that a worker's machine will be taken away: Ray's drain of its node, or SIGTERM from the machine itself."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["listen", "notice_given"]

_terminated = threading.Event()


def listen() -> None:
    """Take the first SIGTERM to this worker as a notice; later ones end it as before. For the main thread alone."""
    before: Any = signal.getsignal(signal.SIGTERM)

    def take(number: int, frame: FrameType | None) -> None:
        if _terminated.is_set() and callable(before):
            before(number, frame)
        _terminated.set()

    signal.signal(signal.SIGTERM, take)


def notice_given() -> bool:
    """Tell whether this worker, or a node of its gang, has been given notice; costs nothing, waits for nobody.

    `ray.train.get_preemption_info` says the same, but is a barrier of the whole gang. The workload itself shares the
    wish that follows from a notice, so each rank only looks at what Ray has told it.
    """
    if _terminated.is_set():
        return True
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        context: Any = get_train_context()
        return context.preemption_context.preemption_info is not None
    except (ImportError, AttributeError, RuntimeError):
        return False
