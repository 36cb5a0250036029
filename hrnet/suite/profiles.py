"""Where the time of a training step, an inference and a training sample goes."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from hrnet.suite.bench import Bench
from hrnet.suite.contest import Contest, Repeating
from hrnet.suite.network import inference, train
from hrnet.suite.samples import data

__all__ = ["Place", "Profile", "profiles"]

_STEPS = 3
_SAMPLES = 5.0
"""Seconds that samples are made for."""
_SHOWN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where time was spent: an operator or a function."""

    name: str
    calls: float
    """Per step or sample."""
    ms: float
    """In it alone, not in what it calls; per step or sample."""
    share: float
    """Of the whole, in percent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The places of one piece of work that took most."""

    what: str
    ms: float
    """All places together, per step or sample."""
    places: tuple[Place, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def profiles(bench: Bench, parts: Collection[str]) -> Iterator[Profile]:
    """Profile, of the named parts, training steps and inferences in float32, and the making of samples."""
    for name, contests in (("train", train), ("inference", inference)):
        for contest in contests(bench) if name in parts else ():
            with contest.entries["fp32"].open() as ready:
                assert isinstance(ready, Repeating)
                yield _operators(f"{name} {contest.case} fp32", ready.once, bench.device)
    for contest in data(bench) if "data" in parts else ():
        # Loading processes do the same.
        if contest.peer is not None:
            yield from _functions(contest, 0.0 if bench.quick else _SAMPLES)


def _operators(what: str, step: Callable[[], object], device: torch.device) -> Profile:
    step()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=kinds) as recorded:
        for _ in range(_STEPS):
            step()
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    found = [(event.key, event.count, getattr(event, attribute) / 1000) for event in recorded.key_averages()]
    return _profile(what, found, _STEPS)


def _functions(contest: Contest, seconds: float) -> Iterator[Profile]:
    for name, entry in contest.entries.items():
        with entry.open() as ready:
            assert isinstance(ready, Repeating)
            ready.once()
            recorder, items, left = cProfile.Profile(), 0, seconds
            recorder.enable()
            while items == 0 or left > 0:
                took, count = ready.once()
                items, left = items + count, left - took
            recorder.disable()
        stats: Any = pstats.Stats(recorder)
        found = [(_function(key), calls, 1000 * own) for key, (_, calls, own, _, _) in stats.stats.items()]
        yield _profile(f"{contest.part} {contest.case}, {name}", found, items)


def _function(key: tuple[str, int, str]) -> str:
    file, line, name = key
    return name.strip("<>") if file == "~" else f"{Path(file).name}:{line} {name}"


def _profile(what: str, found: list[tuple[str, int, float]], count: int) -> Profile:
    total = sum(ms for _, _, ms in found)
    largest = sorted(found, key=lambda each: -each[2])[:_SHOWN]
    places = [
        Place(name=name, calls=calls / count, ms=ms / count, share=100 * ms / total) for name, calls, ms in largest
    ]
    return Profile(what=what, ms=total / count, places=tuple(places))
