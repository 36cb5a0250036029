"""A run of the suite from its options to its rows, and what was found in JSON."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hrnet.catalogue import WIDTHS, Width
from hrnet.errors import HrnetError, suggestion
from hrnet.suite.bench import Bench
from hrnet.suite.contest import Contest, Row, compete
from hrnet.suite.machine import conditions, products
from hrnet.suite.network import inference, train
from hrnet.suite.peer import DEFAULT_PEER, Peer
from hrnet.suite.profiles import Profile, profiles
from hrnet.suite.samples import checkpoint, data, metric
from hrnet.suite.scaling import scaling
from hrnet.suite.table import FORMAT

__all__ = ["PARTS", "Options", "Part", "Result", "Step", "default_threads", "part_names", "run_suite"]

Part = Callable[[Bench], Iterator[Contest]]

PARTS: Mapping[str, Part] = {
    "train": train,
    "inference": inference,
    "data": data,
    "metric": metric,
    "checkpoint": checkpoint,
    "scaling": scaling,
}
"""The parts that need nothing but this package."""

_SECONDS = 1.0
"""Length of a turn, and of the measuring of a limit; longer where one repetition takes longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a run measures."""

    parts: tuple[str, ...]
    """Names of the parts, in the order they are run."""

    device: torch.device
    """Where networks compute."""

    threads: int
    """Threads of each side."""

    rounds: int = 5
    """Turns of each contestant."""

    widths: tuple[Width, ...] = WIDTHS
    """Networks that are measured."""

    precisions: tuple[str, ...] = ()
    """Arithmetic of our networks; empty measures all that the device has."""

    peer: Path | None = DEFAULT_PEER
    """Interpreter of the peer; None, or one that is not there, measures our side alone."""

    quick: bool = False
    """Tiny sizes and short turns, to see that all works."""

    profile: bool = False
    """Whether to say where the time of train, inference and data goes, if they are among the parts."""

    def __post_init__(self) -> None:
        """Check what has a range; raises HrnetError."""
        for name in ("rounds", "threads"):
            if getattr(self, name) < 1:
                raise HrnetError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise HrnetError("the device is cuda, but torch sees no GPU here; leave it out to measure on the CPU")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """How far a run is."""

    done: int
    """Parts that are done."""

    total: int
    """Parts in all."""

    doing: str
    """What is measured next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was measured, where."""

    rows: tuple[Row, ...]
    """The table."""

    conditions: Mapping[str, Any]
    """Machine and software, as JSON values."""

    profiles: tuple[Profile, ...]
    """Where the time goes; empty where it was not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "format": FORMAT,
            "conditions": dict(self.conditions),
            "rows": [row.to_dict() for row in self.rows],
            "profiles": [profile.to_dict() for profile in self.profiles],
        }


def part_names(text: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the parts that `text` names, separated by commas; raises HrnetError for one that there is not."""
    names, parts = tuple(text.split(",")), tuple(known)
    for name in names:
        if name not in parts:
            raise HrnetError(f"the suite has no part {name!r}{suggestion(name, parts)}")
    return names


def default_threads() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_suite(options: Options, parts: Mapping[str, Part] = PARTS) -> Generator[Step, None, Result]:
    """Measure; yields what comes next and returns all rows. `parts` holds those that `options` names.

    Raises PeerError if the peer's interpreter is there but fails.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hrgrid-suite-")))
        stack.enter_context(_threads(options.threads))
        stack.enter_context(_cache(folder / "cache"))
        total = len(options.parts)
        yield Step(done=0, total=total, doing="the speed of matrix products")
        limits = products(options.device, seconds=0.0 if options.quick else _SECONDS)
        bench = Bench(
            device=options.device, threads=options.threads, folder=folder, products=limits, widths=options.widths,
            quick=options.quick, only=options.precisions,
        )  # fmt: skip
        peer = _peer(options, folder, stack)
        machine = {
            **conditions(options.device, options.threads),
            "rounds": options.rounds,
            "gigamacs_per_s": dict(limits),
            "peer": None if peer is None else peer.about,
        }
        rows: list[Row] = []
        for done, name in enumerate(options.parts):
            yield Step(done=done, total=total, doing=f"{name}: preparation")
            for contest in parts[name](bench):
                rows += yield from _told(
                    compete(contest, peer, rounds=options.rounds, seconds=0.0 if options.quick else _SECONDS),
                    done, total,
                )  # fmt: skip
        found: list[Profile] = []
        if options.profile:
            for each in profiles(bench, options.parts):
                yield Step(done=total, total=total, doing=f"profile of {each.what}")
                found.append(each)
        return Result(rows=tuple(rows), conditions=machine, profiles=tuple(found))


def _told(work: Generator[str, None, list[Row]], done: int, total: int) -> Generator[Step, None, Sequence[Row]]:
    while True:
        try:
            yield Step(done=done, total=total, doing=next(work))
        except StopIteration as stop:
            rows: list[Row] = stop.value
            return rows


def _peer(options: Options, folder: Path, stack: ExitStack) -> Peer | None:
    if options.peer is None or not options.peer.exists():
        return None
    peer = Peer(options.peer, folder, threads=options.threads, device=options.device.type)
    stack.callback(peer.close)
    return peer


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """Let what loaders keep go with the run."""
    before = os.environ.get("HRGRID_CACHE")
    os.environ["HRGRID_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("HRGRID_CACHE")
        if before is not None:
            os.environ["HRGRID_CACHE"] = before


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
