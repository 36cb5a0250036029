"""A worker of several: python gang_worker.py RANK WORKERS FOLDER DATA. Trains in gangs of various sizes in turn.

Each run leaves the metrics of its progress events in FOLDER/NAME/RANK.json and the state of every checkpoint in
FOLDER/NAME/STEP. In a smaller gang the other workers are idle.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed

from hrnet.catalogue import Recipe, recipe
from hrnet.data.shards import open_dataset
from hrnet.training.loop import train
from tests.hrnet.conftest import TINY

STEPS = 2
"""Both are one logging interval, and an epoch is two or more, so that step 1 is in the middle of both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One training of a gang."""

    name: str
    world: int
    batch: int
    save_at: int | None = None
    """Step at which rank 0 asks for a checkpoint; it goes on after that."""
    stop_at: int | None = None
    """Step at which the last rank asks for the end."""
    resume: str | None = None
    """Run whose checkpoint of step 1 it goes on from."""

    @property
    def recipe(self) -> Recipe:
        """Two steps of small crops with one validation image, at a rate at which rounding stays small."""
        short = {"max_iters": str(STEPS), "val_interval": str(STEPS), "checkpoint_interval": str(STEPS),
                 "log_interval": "2", "crop": "32x32", "lr": "0.001", "val_limit": "1",
                 "batch_size": str(self.batch)}  # fmt: skip
        return recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024").with_overrides({**TINY, **short})


RUNS = {
    3: (
        Run(name="3 saved", world=3, batch=3, save_at=1),
        Run(name="3 resumed", world=3, batch=3, resume="3 saved"),
        Run(name="3 stopped", world=3, batch=3, stop_at=1),
        Run(name="3 to 1", world=1, batch=3, resume="3 stopped"),
    ),
    4: (
        Run(name="4 unbroken", world=4, batch=4),
        Run(name="4 saved", world=4, batch=4, save_at=1),
        Run(name="4 resumed", world=4, batch=4, resume="4 saved"),
        Run(name="2 saved", world=2, batch=4, save_at=1),
        Run(name="2 resumed", world=2, batch=4, resume="2 saved"),
        Run(name="1 saved", world=1, batch=4, save_at=1),
        Run(name="2 to 1", world=1, batch=4, resume="2 saved"),
        Run(name="1 to 2", world=2, batch=4, resume="1 saved"),
        Run(name="2 to 4", world=4, batch=4, resume="2 saved"),
    ),
}
"""Number of processes to what they run, one after the other."""


def follow(run: Run, rank: int, folder: Path, data: str) -> list[dict[str, object]]:
    """Train as `run` says; returns what the events told, without signs of life."""
    resume = None if run.resume is None else folder / run.resume / "1"
    loop = train(run.recipe, open_dataset(data), seed=5, resume=resume)
    told: list[dict[str, object]] = []
    answer: str | None = None
    while True:
        try:
            event = loop.send(answer)
        except StopIteration:
            return told
        answer = None
        if event.kind == "step":
            answer = "save" if rank == 0 and event.step == run.save_at else answer
            answer = "stop" if rank == run.world - 1 and event.step == run.stop_at else answer
            continue
        if event.save is not None and rank == 0:
            event.save(folder / run.name / str(event.step))
        told.append({"kind": event.kind, "step": event.step, "wish": event.wish, "metrics": dict(event.metrics)})


def main(rank: int, workers: int, folder: Path, data: str) -> None:
    torch.set_num_threads(1)
    for run in RUNS[workers]:
        if rank >= run.world:
            continue
        meet = f"file://{folder}/meet {run.name}".replace(" ", "-")
        distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=run.world)
        (folder / run.name).mkdir(exist_ok=True)
        told = follow(run, rank, folder, data)
        (folder / run.name / f"{rank}.json").write_text(json.dumps(told))
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
