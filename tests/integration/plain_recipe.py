"""Orchestration beside the plain recipe of Ray's own guide: `python -m tests.integration.plain_recipe`.

The peer is what "Hyperparameter tuning with Ray Tune" of Ray Train's guide shows: a Tuner over a driver function that
runs a TorchTrainer per trial, with TuneReportCallback and MLflowLoggerCallback, everything at Ray's defaults. It and
`hrgrid launch` train, evaluate and checkpoint the same small HRNet cells with the same code on gangs of two, one trial
after the other, in turn, each in a process of its own with a Ray of its own.

What is compared: seconds from the launch to the first training step, from the end of a trial to the first step of the
next one, of the whole grid beside training, between two points of a curve, and of the same command given again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from jobs._family import victims
from tests.integration.chaos import showing
from tests.integration.children import end, environment

CELLS: Final = tuple(f"fcn_hr18s_4xb2-{schedule}_cityscapes-512x1024" for schedule in ("40k", "80k", "160k"))
WORKERS: Final = 2
STEPS: Final = 12
PLANS: Final = (10, 100, 1000)
"""Cells of a grid that is planned."""
NAME: Final = "orchestration"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What one launch of the grid took; all in seconds."""

    total: float
    first_steps: tuple[float, ...]
    """From the launch to the first training step of each trial, in their order."""
    to_first_step: float
    """Of the first trial."""
    between_trials: float
    """From the end of the evaluation of a trial to the first training step of the next: the median."""
    overhead: float
    """Of the whole launch per trial, beside training and evaluation."""
    cadence: float
    """Between two points of the curves while nothing but training goes on: the median."""


def changes(steps: int) -> dict[str, str]:
    """What makes a published cell small: few iterations on images of 128x256, logged at every step."""
    return {
        "max_iters": str(steps), "val_interval": str(steps // 2), "checkpoint_interval": str(steps // 2),
        "log_interval": "1", "crop": "64x128", "batch_size": "2", "train_scale": "256x128", "test_scale": "256x128",
        "ms_flip": "false", "speed_images": "0", "pretrained": "none",
    }  # fmt: skip


def plain(folder: Path, data: str, steps: int) -> None:
    """The recipe of the guide; runs in a process of its own."""
    import ray
    import ray.train
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    train: Any = ray.train

    def worker(config: dict[str, str]) -> None:
        train_plainly(Path(config["marks"]), config["cell"], data, steps)

    def driver(config: dict[str, str]) -> None:
        trainer: Any = TorchTrainer(
            worker,
            train_loop_config=config,
            scaling_config=train.ScalingConfig(num_workers=WORKERS),
            run_config=train.RunConfig(
                name=f"{config['cell']}-{time.time_ns()}",
                storage_path=str(folder / "storage"),
                callbacks=[TuneReportCallback()],
            ),
        )
        trainer.fit()

    # A driver takes a CPU, too; with the two of this gang alone it would wait for ever.
    ray.init(num_cpus=WORKERS + 2, include_dashboard=False)
    results = tune.Tuner(
        driver,
        param_space={"cell": tune.grid_search(list(CELLS)), "marks": str(folder / "marks")},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(
            name=f"{NAME}-{time.time_ns()}",
            storage_path=str(folder / "storage"),
            callbacks=[MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name=NAME)],
        ),
    ).fit()
    if results.errors:
        raise SystemExit(f"the plain recipe failed: {results.errors}")


def train_plainly(marks: Path, cell: str, data: str, steps: int) -> None:
    """The training function of the plain recipe: the same events as in a trial of ours, reported to Ray Train."""
    import tempfile

    import ray.train

    from jobs._wiring import HrnetWorkload

    train: Any = ray.train
    rank = train.get_context().get_world_rank()
    workload = HrnetWorkload(data=data)
    spec = workload.resolve(next(c for c in workload.cells() if c.name == cell), changes(steps), seed=0, data=data)
    marks.mkdir(parents=True, exist_ok=True)

    def mark(kind: str, step: int) -> None:
        if rank == 0:
            with (marks / f"{cell}.jsonl").open("a") as file:
                file.write(json.dumps({"time": time.time(), "kind": kind, "step": step}) + "\n")

    with tempfile.TemporaryDirectory() as scratch:
        newest = Path(scratch)
        for event in workload.train(spec, None, cpus=1):
            checkpoint = None
            if event.save is not None and rank == 0:
                newest = Path(scratch) / f"{event.step:06d}"
                newest.mkdir()
                event.save(newest)
                checkpoint = train.Checkpoint.from_directory(str(newest))
            if event.kind in ("progress", "validated", "checkpoint"):
                train.report({**event.metrics, "step": event.step}, checkpoint=checkpoint)
            mark(event.kind, event.step)
        if rank == 0:
            for event in workload.evaluate(spec, newest, cpus=1):
                mark("evaluated", event.step)
        train.report({"step": steps})


def run(
    folder: Path, *, rounds: int = 3, steps: int = STEPS, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure in a folder, where everything is kept; `tell` is given a line when something begins.

    Returns a JSON document: the machine and its load, the figures of every launch, the medians side by side with their
    ratio, the seconds of the same command given again and whether it started a Ray, and the seconds of plans.
    """
    from jobs._smoke import draw_missing

    data = f"{folder}/data"
    draw_missing(data, ["cityscapes"], train=8, val=2)
    seen: dict[str, list[Figures]] = {"plain": [], "ours": []}
    again: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    for number in range(rounds):
        for who in ("plain", "ours") if number % 2 == 0 else ("ours", "plain"):
            place = folder / f"{who}-{number}"
            command = _plain_command(place, data, steps) if who == "plain" else _our_command(place, data, steps)
            for times in (1, 2):
                tell(f"round {number + 1} of {rounds}: {who}, launch {times}")
                began, seconds, with_ray = _timed(command, place, times)
                if times == 1:
                    seen[who].append(_figures(_marks(who, place), began, seconds, steps))
                else:
                    again[who].append({"seconds": seconds, "ray_started": with_ray})
    tell("plans")
    return {
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "load": os.getloadavg()[0],
        "cells": len(CELLS),
        "workers": WORKERS,
        "steps": steps,
        "launches": {who: [asdict(one) for one in figures] for who, figures in seen.items()},
        "relaunches": again,
        "rows": _rows(seen, again),
        "plan_seconds": {str(cells): _planned(folder / f"plan-{cells}", cells) for cells in PLANS},
    }


def _plain_command(place: Path, data: str, steps: int) -> list[str]:
    return [sys.executable, "-m", __spec__.name, "--plain", str(place), "--data", data, "--steps", str(steps)]


def _our_command(place: Path, data: str, steps: int) -> list[str]:
    settings = [word for name, value in changes(steps).items() for word in ("--set", f"{name}={value}")]
    return [
        sys.executable, "-m", "jobs.cli", "launch", *CELLS, *settings, "--workers", str(WORKERS), "--cpus-per-worker",
        "1", "--data", data, "--storage", f"{place}/storage", "--tracking", f"sqlite:///{place}/mlflow.db",
        "--name", NAME, "--yes",
    ]  # fmt: skip


def _timed(command: Sequence[str], place: Path, times: int) -> tuple[float, float, bool]:
    """Run a launch; return the moment when it began, its seconds, and whether it started a Ray."""
    place.mkdir(exist_ok=True)
    file, with_ray = place / f"launch-{times}.log", False
    with file.open("w") as log:
        began, clock = time.time(), time.monotonic()
        process = subprocess.Popen(
            command, cwd=place, env=environment(place / "home"), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            while process.poll() is None:
                with_ray = with_ray or bool(victims(process.pid, "gcs"))
                time.sleep(0.1 if with_ray else 0.05)
        finally:
            if process.returncode is None:  # who measures was interrupted
                end(process)
    seconds = time.monotonic() - clock
    if process.returncode:
        raise SystemExit(f"a launch ended with exit code {process.returncode}; its output is in {file}")
    return began, seconds, with_ray


def _marks(who: str, place: Path) -> list[list[tuple[float, str, int]]]:
    """When what happened in each trial, as (epoch seconds, kind, step); the trials in their order."""
    files = place.glob("marks/*.jsonl" if who == "plain" else "storage/trials/*/logs/rank0.jsonl")
    trials = []
    for file in files:
        entries = [json.loads(line) for line in file.read_text().splitlines()]
        trials.append(
            [
                (entry["time"], "evaluated" if entry.get("phase") == "evaluate" else entry["kind"], entry["step"])
                for entry in entries
                if "step" in entry
            ]
        )
    return sorted(trials)


def _figures(trials: Sequence[list[tuple[float, str, int]]], began: float, seconds: float, steps: int) -> Figures:
    first = [next(when for when, kind, _ in trial if kind in ("step", "progress")) for trial in trials]
    last = [trial[-1][0] for trial in trials]
    points = [[(when, step) for when, kind, step in trial if kind == "progress"] for trial in trials]
    # Where a validation or a checkpoint lies between two points, it is not the cadence that is seen.
    gaps = [b[0] - a[0] for trial in points for a, b in pairwise(trial) if a[1] % (steps // 2)]
    return Figures(
        total=seconds,
        first_steps=tuple(when - began for when in first),
        to_first_step=first[0] - began,
        between_trials=statistics.median(after - before for before, after in zip(last, first[1:], strict=False)),
        overhead=(seconds - sum(end - begin for begin, end in zip(first, last, strict=True))) / len(trials),
        cadence=statistics.median(gaps),
    )


def _rows(
    seen: Mapping[str, Sequence[Figures]], again: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    told = {
        "launch to first step": "to_first_step",
        "end of a trial to next first step": "between_trials",
        "overhead per trial": "overhead",
        "between two points": "cadence",
        "whole grid": "total",
    }
    rows = [
        _row(name, [getattr(one, field) for one in seen["plain"]], [getattr(one, field) for one in seen["ours"]])
        for name, field in told.items()
    ]
    plain, ours = ([launch["seconds"] for launch in again[who]] for who in ("plain", "ours"))
    return [*rows, _row("the same command again", plain, ours)]


def _row(name: str, plain: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    middle, mine = statistics.median(plain), statistics.median(ours)
    return {
        "seconds": name,
        "plain recipe": round(middle, 2),
        "from-to": f"{min(plain):.2f}-{max(plain):.2f}",
        "hrgrid": round(mine, 2),
        "from-to ": f"{min(ours):.2f}-{max(ours):.2f}",
        "ratio": round(middle / mine, 2),
    }


def _planned(storage: Path, cells: int) -> float:
    """Seconds until so many trials of published cells are completed, looked up in an empty ledger and planned."""
    from jobs._wiring import HrnetWorkload
    from orchestrator.grid import expand
    from orchestrator.ledger import Ledger
    from orchestrator.plan import ClusterShape, make_plan
    from orchestrator.storage import Storage

    workload = HrnetWorkload()
    known = workload.cells()
    began = time.perf_counter()
    trials = expand(workload, known, {}, tuple(range(-(-cells // len(known)))), None)[:cells]
    records = Ledger(Storage(str(storage))).trials(trial.key for trial in trials)
    plan = make_plan(trials, records, ClusterShape(slots=64, kind="GPU", cpus=512, gpus=64))
    assert len(plan.to_run) == cells
    return time.perf_counter() - began


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print, or be the plain recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each of the two is launched (default 3)")
    parser.add_argument("--steps", type=int, default=STEPS, help="iterations of a trial")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    showing.add_output(parser)
    args = parser.parse_args(argv)
    if args.plain:
        plain(args.plain, args.data, args.steps)
        return 0
    with showing.workplace(args.folder) as folder:
        figures = run(folder, rounds=args.rounds, steps=args.steps, tell=lambda line: print(line, flush=True))
    print(
        f"\n{figures['cells']} cells of {figures['steps']} iterations on gangs of {figures['workers']}, one after the "
        f"other; {figures['machine']['cores']} cores, load {figures['load']:.1f} at the end; medians"
    )
    showing.show(figures["rows"])
    plans = ", ".join(f"{cells} cells {seconds:.3f} s" for cells, seconds in figures["plan_seconds"].items())
    print(f"plan of {plans}")
    print(f"again, ours started a Ray: {any(launch['ray_started'] for launch in figures['relaunches']['ours'])}")
    showing.write(args.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
