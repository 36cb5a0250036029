"""How many workers train a trial: as published, as a rule says, or chosen so that the whole grid ends early."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from orchestrator.dispatch import Gang
from orchestrator.errors import UsageError
from orchestrator.estimates import efficiency
from orchestrator.grid import Trial, near_miss
from orchestrator.packing import CLOSE, attempts, simulate
from orchestrator.shape import ClusterShape, count
from orchestrator.workload import Estimate

__all__ = [
    "AUTO",
    "Choice",
    "asked_sizes",
    "best_choices",
    "bound_of_choices",
    "choose_sizes",
    "default_workers",
    "divisors",
    "effective_work",
    "parse_workers",
]

AUTO = "auto"

Choice = tuple[int, float]
"""A number of workers and the seconds that a trial takes with it."""


def parse_workers(workers: int | Sequence[str] | None, trials: Sequence[Trial]) -> list[tuple[str, range]]:
    """Return (pattern, numbers) rules in the order given; raises UsageError for what is none, or matches no cell."""
    texts = [str(workers)] if isinstance(workers, int) else list(workers or ())
    rules = []
    for text in texts:
        left, equals, right = text.rpartition("=")
        pattern, numbers = left.strip() if equals else "*", _NUMBERS.fullmatch(right.strip())
        low, high = (int(number or 0) for number in numbers.groups(numbers[1])) if numbers else (0, 0)
        if not 1 <= low <= high or not pattern:
            raise UsageError(
                f"the workers rule {text!r} is neither N nor PATTERN=N with N of 1 or more, or a range such as 2-4"
            )
        names = list(dict.fromkeys(trial.spec.cell.name for trial in trials))
        if names and not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"the workers rule {text!r} matches no cell{near_miss(pattern, names)}")
        rules.append((pattern, range(low, high + 1)))
    return rules


def asked_sizes(rules: Sequence[tuple[str, range]], trial: Trial) -> tuple[int, ...]:
    """Return the divisors of the batch within what the last rule that matches says, ascending; empty without a rule.

    Raises UsageError if there is none within it.
    """
    name, batch = trial.spec.cell.name, trial.estimate.batch
    asked = next((numbers for pattern, numbers in reversed(rules) if fnmatchcase(name, pattern)), None)
    if asked is None:
        return ()
    sizes = tuple(number for number in divisors(batch) if number in asked)
    if not sizes:
        number = f"{asked[0]} to {asked[-1]} workers" if len(asked) > 1 else count(asked[0], "worker")
        raise UsageError(
            f"{name}: {number} cannot share a batch of {batch} equally; take {_alternatives(divisors(batch))}"
        )
    return sizes


def default_workers(estimate: Estimate, cluster: ClusterShape) -> int:
    """As many as the recipe was published with and the cluster has, rounded down to a divisor of the batch."""
    limit = max(1, min(estimate.workers, cluster.slots))
    return max(number for number in divisors(estimate.batch) if number <= limit)


def divisors(batch: int) -> list[int]:
    """Return the numbers of workers that can share a batch equally."""
    return [number for number in range(1, batch + 1) if batch % number == 0]


def effective_work(trial: Trial, workers: int, done: int) -> float:
    """Arithmetic per worker that is left of a trial after `done` iterations, and what more workers lose of their
    speed: a measure of its length where no speed is known."""
    work = trial.estimate.work * max(0, trial.estimate.iterations - done)
    return work / (workers * efficiency(trial.estimate.workers, workers))


def bound_of_choices(choices: Sequence[Sequence[Choice]], slots: int) -> float:
    """Return the seconds below which no schedule can come, whatever is chosen for each trial.

    To end by T every trial must take a choice that lasts no longer than T, so at least the cheapest of those in
    worker-seconds; all of them together must fit into slots * T. The least T for which both hold is the bound (Turek,
    Wolf and Yu 1992), found by bisection and rounded down.
    """
    low = max((min(seconds for _, seconds in options) for options in choices), default=0.0)
    high = max(low, sum(min(size * seconds for size, seconds in options) for options in choices) / slots)
    high = max(high, max((max(seconds for _, seconds in options) for options in choices), default=0.0))
    if _fits(choices, slots, low):
        return low
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _fits(choices, slots, middle) else (middle, high)
    return low


def best_choices(choices: Sequence[Sequence[Choice]], seconds: float) -> list[int]:
    """Return for every trial the workers that cost least among those with which it ends within `seconds`.

    Where none does, the fastest is taken.
    """
    return [min(options, key=lambda o: (o[1] > seconds, o[0] * o[1] if o[1] <= seconds else o[1]))[0]
            for options in choices]  # fmt: skip


def choose_sizes(choices: Sequence[Sequence[Choice]], slots: int, usual: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return workers for every trial, and the order in which to consider them, so that the last ends early.

    All trials get the same time, a part of the bound or a little more, and take with it what costs least; of several
    such times, and of the `usual` numbers, what ends first when simulated is improved by changes at one place, drawn
    from a fixed seed. `usual` must be among the choices. The same choices always give the same answer.
    """
    bound, count_ = bound_of_choices(choices, slots), len(choices)
    everyone, seconds = range(count_), [dict(row) for row in choices]
    best, order, finish = list(usual), list(everyone), float("inf")
    for part in (*(number / 20 for number in range(2, 21)), *_LATER, None):
        sizes = list(usual) if part is None else best_choices(choices, bound * part)
        tried = sorted(everyone, key=lambda i: (-seconds[i][sizes[i]], i))
        end = _end(sizes, tried, seconds, slots)
        if end < finish:
            best, order, finish = sizes, tried, end
    draw = random.Random(0)
    for _ in range(attempts(count_)):
        if finish <= CLOSE * bound or count_ < 2:
            break
        sizes, tried = list(best), list(order)
        change = draw.random()
        if change < _BOTH_UNTIL:
            i = draw.randrange(count_)
            sizes[i] = draw.choice(choices[i])[0]
        if change > _BOTH_FROM:
            tried.insert(draw.randrange(count_), tried.pop(draw.randrange(count_)))
        end = _end(sizes, tried, seconds, slots)
        if end <= finish:
            best, order, finish = sizes, tried, end
    return best, order


_NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")

_LATER = (1.001, 1.01, 1.02, 1.03, 1.05, 1.1)
"""Times longer than the bound that are tried: a trial that just misses it may be much cheaper with fewer workers."""

_BOTH_FROM, _BOTH_UNTIL = 0.2, 0.35
"""Of the changes, the share up to which only a size changes, and from which only the order does."""


def _end(sizes: Sequence[int], order: Sequence[int], seconds: Sequence[dict[int, float]], slots: int) -> float:
    return simulate([Gang(size=sizes[i], seconds=seconds[i][sizes[i]]) for i in order], slots).finish


def _fits(choices: Sequence[Sequence[Choice]], slots: int, seconds: float) -> bool:
    work = 0.0
    for options in choices:
        cheapest = min((size * length for size, length in options if length <= seconds), default=None)
        if cheapest is None:
            return False
        work += cheapest
    return work <= slots * seconds


def _alternatives(numbers: Sequence[int]) -> str:
    texts = [str(number) for number in numbers]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
