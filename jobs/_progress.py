"""How far long work on images is: a bar on a terminal, a line now and then in a pipe. It goes to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs._show import duration

__all__ = ["PLAIN_SECONDS", "Report", "plain", "progress"]

PLAIN_SECONDS = 10.0
"""Between two lines where there is no terminal."""

Report = Callable[[int, int, str], None]
"""Called with (done, total, what was done last or nothing)."""


@contextmanager
def progress(silent: bool, what: str) -> Iterator[Report | None]:
    """Yield what is to be called after each image; None if silent."""
    if silent:
        yield None
        return
    if not sys.stderr.isatty():
        yield plain(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        TextColumn("{task.fields[last]}", style="dim"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="", last="")
        pace = _Pace()

        def report(done: int, total: int, last: str) -> None:
            rate = pace.rate(done)
            bar.update(task, completed=done, total=total, rate="" if rate is None else f"{rate:.1f}/s", last=last)

        yield report


def plain(what: str) -> Report:
    """Return what prints a line every PLAIN_SECONDS: how many are done, how fast, and how long the rest takes."""
    pace = _Pace()
    said = time.monotonic()

    def report(done: int, total: int, last: str) -> None:
        nonlocal said
        rate = pace.rate(done)
        if time.monotonic() - said < PLAIN_SECONDS:
            return
        said = time.monotonic()
        speed = "" if rate is None else f", {rate:.1f}/s, {duration((total - done) / rate)} left"
        told = f" ({last})" if last else ""
        print(f"{what}: {done} of {total}{speed}{told}", file=sys.stderr, flush=True)

    return report


class _Pace:
    """Images per second since the first report, which may be far into work that goes on."""

    def __init__(self) -> None:
        self._first: tuple[float, int] | None = None

    def rate(self, done: int) -> float | None:
        """The rate, once there is one; a count that falls starts it anew (another step of the work)."""
        now = time.monotonic()
        if self._first is None or done <= self._first[1]:
            self._first = (now, done)
        began, at = self._first
        return (done - at) / (now - began) if done > at and now > began else None
