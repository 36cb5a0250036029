"""Converting the files of a download: several at a time, in order, with little in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from hrnet.data.cards import Card
from hrnet.data.prepare.found import Job
from hrnet.data.writer import Encoded, encode

__all__ = ["convert_all"]

_AHEAD = 2
"""Source images under way beyond the one of each thread. The tiles of a large one are a hundred megabytes."""


def convert_all(
    jobs: Sequence[Job], card: Card, threads: int, start: tuple[int, int], done: Callable[[Job], None]
) -> Iterator[Encoded]:
    """Yield the encoded samples of a split in order (decoding, compressing and hashing release the lock).

    Args:
        jobs: source images of the split.
        card: what the label files mean.
        threads: how many are converted at a time.
        start: number of the source image to begin with, and how many of its samples are left out.
        done: called after the last sample of each source image.

    Raises:
        DataError: a file is missing, broken, or does not fit its image.
    """
    first, skipped = start
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[tuple[Job, Future[list[Encoded]]]] = deque()
        waiting = islice(enumerate(jobs), first, None)
        try:
            while True:
                while len(ahead) < threads + _AHEAD and (following := next(waiting, None)) is not None:
                    number, job = following
                    ahead.append((job, pool.submit(_convert, job, number, card)))
                if not ahead:
                    return
                job, future = ahead.popleft()
                yield from future.result()[skipped:]
                skipped = 0
                done(job)
        finally:
            pool.shutdown(cancel_futures=True)


def _convert(job: Job, number: int, card: Card) -> list[Encoded]:
    return [
        encode(each.name, each.image, each.label, card.num_classes, raw=each.raw, job=number)
        for each in job.convert(job, card)
    ]
