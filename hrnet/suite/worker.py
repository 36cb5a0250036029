"""A worker of several that train together: python -m hrnet.suite.worker RANK WORKERS STORE DATA CROP STEPS.

One thread each, over gloo; rank 0 prints seconds per image of every logging interval after the first.
"""

from __future__ import annotations

import sys

import torch
from torch import distributed

from hrnet.catalogue import recipe
from hrnet.data.shards import open_dataset
from hrnet.training.loop import train

_BATCH = 2
_INTERVAL = 2
"""Iterations over which one rate is measured."""


def main(rank: int, world: int, store: str, data: str, crop: str, steps: int) -> None:
    """Train for some steps as a user's training does, and leave before the first validation."""
    torch.set_num_threads(1)
    if world > 1:
        distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    never = str(1000 * steps)
    own = recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024").with_overrides(
        {"pretrained": "none", "crop": crop, "train_scale": "512x512", "batch_size": str(_BATCH), "max_iters": never,
         "val_interval": never, "checkpoint_interval": never, "log_interval": str(_INTERVAL)}
    )  # fmt: skip
    for event in train(own, open_dataset(data)):
        if event.kind == "progress" and event.step > _INTERVAL and rank == 0:
            print(1 / event.metrics["train/images_per_s"], flush=True)
        if event.kind == "progress" and event.step >= steps:
            break
    if world > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    _rank, _world, _store, _data, _crop, _steps = sys.argv[1:]
    main(int(_rank), int(_world), _store, _data, _crop, int(_steps))
