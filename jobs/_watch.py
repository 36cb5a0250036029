"""An evaluation on this machine, with its progress: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from hrnet.evaluation.confusion import ConfusionMatrix
    from hrnet.events import Event

__all__ = ["watched"]

NEWS_SECONDS = 30.0
"""Without a terminal: seconds between two lines."""


def watched(evaluation: Generator[Event, None, ConfusionMatrix], title: str) -> ConfusionMatrix:
    """Run an evaluation to its end and return what it returns; progress goes to stderr, which results never do."""
    with _bar() as bar:
        task = None if bar is None else bar.add_task(title, total=None)
        told = time.monotonic()
        while True:
            try:
                event = next(evaluation)
            except StopIteration as stop:
                matrix: ConfusionMatrix = stop.value
                return matrix
            if bar is not None and task is not None:
                bar.update(task, completed=event.step, total=event.total)
            elif time.monotonic() - told >= NEWS_SECONDS:
                told = time.monotonic()
                print(f"{title}: {event.step} of {event.total} images", file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[Progress | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar
