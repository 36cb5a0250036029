"""How near plans come to the lower bound on 8 to 1,024 GPUs, and how long planning takes; without Ray.

`python -m tests.orchestrator.packing_figures`: for the published grid and for 23 seeds of it (1,035 cells), the finish
of the simulation over max(work / GPUs, longest) with published gangs, what `--gangs auto` makes of the finish, and the
seconds of `hrgrid plan` as a command. Durations are arithmetic at one speed for all, so they cancel in the ratios.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jobs._wiring import HrnetWorkload
from orchestrator.estimates import Estimator
from orchestrator.grid import Trial, expand
from orchestrator.plan import Plan, make_plan, parse_cluster

GPUS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
SEEDS = tuple(range(23))
ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Print the tables; exit code 1 if a plan with published gangs ends more than 5 % after the bound."""
    worst = 0.0
    workload = HrnetWorkload()
    for seeds in ((0,), SEEDS):
        trials = expand(workload, workload.cells(), seeds=seeds)
        print(f"\n{len(trials)} cells: finish over the bound max(work / GPUs, longest)")
        print(f"{'GPUs':>5}  published gangs  longest first  seconds | --gangs auto: over its bound  finish  seconds")
        for gpus in GPUS:
            worst = max(worst, _row(trials, gpus))
    print("\nhrgrid plan as a command (seconds):")
    for seeds in ((0,), SEEDS):
        for gpus, more in ((64, ()), (1024, ()), (1024, ("--gangs", "auto"))):
            print(
                f"{45 * len(seeds):>5} cells, {gpus:>4} GPUs {' '.join(more):<13} {_command(seeds, gpus, more):6.2f}"
            )
    print(f"\nworst ratio with published gangs: {worst:.4f} (goal 1.05)")
    return 0 if worst <= 1.05 else 1


def _row(trials: list[Trial], gpus: int) -> float:
    usual, seconds = _planned(trials, gpus, auto=False)
    auto, auto_seconds = _planned(trials, gpus, auto=True)
    longest = max(trial.seconds or 0.0 for trial in usual.to_run)
    bound = max((usual.slot_hours or 0.0) * 3600 / gpus, longest)
    first = _longest_first(usual)
    ratio, other = (usual.finish_seconds or 0.0) / bound, (auto.finish_seconds or 0.0) / (auto.bound_seconds or 1.0)
    gain = (auto.finish_seconds or 0.0) / (usual.finish_seconds or 1.0)
    print(
        f"{gpus:>5}  {ratio:>15.4f}  {first / bound:>13.4f}  {seconds:>7.2f} |"
        f" {other:>29.3f}  x {gain:>4.2f}  {auto_seconds:>7.2f}",
        flush=True,
    )
    return ratio


def _planned(trials: list[Trial], gpus: int, *, auto: bool) -> tuple[Plan, float]:
    cluster = parse_cluster(f"gpus={gpus},memory=80,rate=3000")
    began = time.perf_counter()
    plan = make_plan(trials, {}, cluster, estimator=Estimator((), cluster), auto_gangs=auto)
    return plan, time.perf_counter() - began


def _longest_first(plan: Plan) -> float:
    from orchestrator.packing import simulate

    gangs = sorted((trial.gang for trial in plan.to_run), key=lambda gang: -(gang.seconds or 0.0))
    return simulate(gangs, plan.cluster.slots).finish


def _command(seeds: tuple[int, ...], gpus: int, more: tuple[str, ...]) -> float:
    with tempfile.TemporaryDirectory(prefix="hrgrid-figures-") as storage:
        words = ["--storage", storage, "--seeds", ",".join(map(str, seeds)), *more]
        command = [sys.executable, "-m", "jobs.cli", "plan", "--cluster", f"gpus={gpus},memory=80,rate=3000", *words]
        began = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
