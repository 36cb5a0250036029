"""Converting the files of a download: several at a time, here or elsewhere, in order, with little in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

from hrnet.data.cards import Card
from hrnet.data.prepare.found import Job
from hrnet.data.writer import Encoded, encode

__all__ = ["Call", "Threads", "Workers", "convert_all"]

_AHEAD = 2
"""Calls under way beyond those that are worked on. The tiles of a large image are a hundred megabytes."""

_MOST = 64
"""Source images of one call."""


class Call(Protocol):
    """A call under way, as `concurrent.futures.Future` has it."""

    def result(self) -> Any:
        """Wait for what it returns, or raise what it raises."""

    def cancel(self) -> object:
        """Let it be, if it has not begun."""


class Workers(Protocol):
    """Who converts: an executor of `concurrent.futures`, or whatever else runs calls of picklable functions."""

    @property
    def at_once(self) -> int:
        """Calls that run at a time."""

    @property
    def load(self) -> int:
        """Bytes of source files worth a call; 0: one image."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Call:
        """Call a function of picklable arguments elsewhere."""


class Threads(ThreadPoolExecutor):
    """Threads of this process: decoding, compressing and hashing release the interpreter's lock."""

    load = 0

    def __init__(self, at_once: int) -> None:
        super().__init__(at_once)
        self.at_once = at_once


def convert_all(
    jobs: Sequence[Job], card: Card, workers: Workers, start: tuple[int, int], done: Callable[[Job], None]
) -> Iterator[Encoded]:
    """Yield the encoded samples of a split in order, which are the same whoever converts.

    Args:
        jobs: source images of the split.
        card: what the label files mean.
        workers: who converts.
        start: number of the source image to begin with, and how many of its samples are left out.
        done: called after the last sample of each source image.

    Raises:
        DataError: a file is missing, broken, or does not fit its image.
    """
    first, skipped = start
    ahead: deque[tuple[Sequence[Job], Call]] = deque()
    waiting = _portions(jobs, first, workers.load)
    try:
        while True:
            while len(ahead) < workers.at_once + _AHEAD and (following := next(waiting, None)) is not None:
                number, portion = following
                ahead.append((portion, workers.submit(_convert, portion, number, card)))
            if not ahead:
                return
            portion, call = ahead.popleft()
            converted: list[list[Encoded]] = call.result()
            for job, samples in zip(portion, converted, strict=True):
                yield from samples[skipped:]
                skipped = 0
                done(job)
    finally:
        for _, call in ahead:
            call.cancel()


def _portions(jobs: Sequence[Job], first: int, load: int) -> Iterator[tuple[int, Sequence[Job]]]:
    """Yield runs of source images, each with the number of its first one."""
    portion: list[Job] = []
    size = 0
    for number, job in enumerate(islice(jobs, first, None), first):
        portion.append(job)
        size += sum(file.size for file in job.inputs)
        if size >= load or len(portion) == _MOST:
            yield number - len(portion) + 1, portion
            portion, size = [], 0
    if portion:
        yield len(jobs) - len(portion), portion


def _convert(jobs: Sequence[Job], first: int, card: Card) -> list[list[Encoded]]:
    return [
        [
            encode(each.name, each.image, each.label, card.num_classes, raw=each.raw, job=number)
            for each in job.convert(job, card)
        ]
        for number, job in enumerate(jobs, first)
    ]
