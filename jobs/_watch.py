"""Work on this machine with its progress: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from jobs._progress import progress

__all__ = ["watched"]

Step = TypeVar("Step")
Result = TypeVar("Result")


def watched(work: Generator[Step, None, Result], title: str, place: Callable[[Step], tuple[int, int]]) -> Result:
    """Run work to its end and return what it returns; `place` turns what it yields into (done, total).

    Progress goes to stderr, which results never do.
    """
    with progress(False, title) as report:
        assert report is not None
        while True:
            try:
                done, total = place(next(work))
            except StopIteration as stop:
                result: Result = stop.value
                return result
            report(done, total, "")
