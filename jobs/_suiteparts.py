"""The platform's own figures in the suite: planning, the command line, the finish of the grid; all without Ray."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from hrnet.suite.bench import Bench
from hrnet.suite.contest import Contest, Contestant, Entry, Goal, Repeating
from hrnet.suite.run import Part
from jobs._wiring import HrnetWorkload
from orchestrator.estimates import Estimator
from orchestrator.grid import Trial, expand
from orchestrator.plan import Plan, make_plan, parse_cluster

__all__ = ["PLATFORM"]

_CELLS = (10, 100, 1000)
_GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
_COMMANDS = {
    "hrgrid --help": ("-m", "jobs.cli", "--help"),
    "hrgrid recipes": ("-m", "jobs.cli", "recipes"),
    "import torch, ray, mlflow": ("-c", "import torch, ray, mlflow"),
}
"""What is run in a fresh process; the last is what the others must not wait for."""


def plan(bench: Bench) -> Iterator[Contest]:
    """Plan grids of growing size for 64 GPUs: the time of the plan itself, without that of a process."""
    workload = HrnetWorkload()
    for count in _CELLS[: 1 if bench.quick else None]:
        seeds = tuple(range(-(-count // len(workload.cells()))))
        trials = expand(workload, workload.cells(), seeds=seeds)[:count]
        yield Contest(
            part="plan", case=f"{count} cells, 64 GPUs", unit="ms",
            entries={"make_plan": Entry(open=functools.partial(_open_plan, trials))},
        )  # fmt: skip


@contextmanager
def _open_plan(trials: Sequence[Trial]) -> Iterator[Contestant]:
    def step() -> int:
        _planned(trials, 64)
        return 1

    yield Repeating(step)


def _planned(trials: Sequence[Trial], gpus: int) -> Plan:
    cluster = parse_cluster(f"gpus={gpus},memory=80,rate=3000")
    return make_plan(trials, {}, cluster, estimator=Estimator((), cluster))


def cli(bench: Bench) -> Iterator[Contest]:
    """Whole commands in fresh processes."""
    for name, words in _COMMANDS.items():
        yield Contest(
            part="cli", case=name, unit="s",
            entries={
                "fresh process": Entry(
                    open=functools.partial(_open_command, words),
                    goal=Goal(most=0.5) if name.startswith("hrgrid") else Goal(),
                )
            },
        )  # fmt: skip


@contextmanager
def _open_command(words: Sequence[str]) -> Iterator[Contestant]:
    def step() -> int:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        return 1

    yield Repeating(step)


def grid(bench: Bench) -> Iterator[Contest]:
    """Finish of the 45 published cells over its lower bound, max(work / GPUs, longest), with published gangs.

    Durations are arithmetic at one speed for all, so that they cancel.
    """
    workload = HrnetWorkload()
    trials = expand(workload, workload.cells())
    for gpus in _GPUS[: 2 if bench.quick else None]:
        yield Contest(
            part="grid", case=f"45 cells, {gpus} GPUs", unit="x",
            entries={
                "finish over bound": Entry(open=functools.partial(_open_grid, trials, gpus), goal=Goal(most=1.05))
            },
        )  # fmt: skip


class _Finish:
    """A ratio that is the same in every turn."""

    memory = None

    def __init__(self, trials: Sequence[Trial], gpus: int) -> None:
        planned = _planned(trials, gpus)
        longest = max(trial.seconds or 0.0 for trial in planned.to_run)
        bound = max((planned.slot_hours or 0.0) * 3600 / gpus, longest)
        self._ratio = (planned.finish_seconds or 0.0) / bound

    def turn(self, seconds: float) -> list[float]:
        """The ratio."""
        return [self._ratio]

    def output(self) -> None:
        """There is nothing to compare."""


@contextmanager
def _open_grid(trials: Sequence[Trial], gpus: int) -> Iterator[Contestant]:
    yield _Finish(trials, gpus)


PLATFORM: Mapping[str, Part] = {"plan": plan, "cli": cli, "grid": grid}
"""The parts that need the platform."""
