"""One of three workers: python sharding_worker.py RANK FOLDER DATA. Writes the confusion counts to FOLDER/RANK.pt.

The workers evaluate as gangs of one, two and three, one after the other; in a gang of two the third is idle.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, distributed

from hrnet.catalogue import Recipe, recipe
from hrnet.data.shards import open_dataset
from hrnet.evaluation.run import drain, evaluate_split
from hrnet.model.segmentor import HRNetSegmentor, build_model
from hrnet.training.gang import Gang
from tests.hrnet import fill

WORLDS = (1, 2, 3)
BASE = recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024").with_overrides({"test_scale": "96x48", "tta_ratios": "0.75"})
MODES: dict[str, tuple[Recipe, bool]] = {
    "whole": (BASE, False),
    "slide": (BASE.with_overrides({"slide_crop": "48x64", "slide_stride": "48x48", "test_mode": "slide"}), False),
    "ms_flip": (BASE, True),
}


def model() -> HRNetSegmentor:
    """A network whose class maps show several classes."""
    filled = build_model(BASE.width, BASE.num_classes, seed=0)
    fill.fill(filled)
    fill.spread(filled, fill.inputs("spread", (1, 3, 48, 96), torch.float32))
    return filled


def counts(data: str) -> dict[str, Tensor]:
    """The confusion counts and the scores of single images in every mode, by the gang that there is."""
    network, split = model(), open_dataset(data).split("val")
    found = {}
    for mode, (own, ms_flip) in MODES.items():
        alone = torch.full((len(split),), -1.0, dtype=torch.float64)
        evaluation = evaluate_split(network, split, own, Gang.current(), ms_flip=ms_flip, per_image=alone)
        found[mode], found[f"{mode} per image"] = drain(evaluation).state(), alone
    return found


def main(rank: int, folder: Path, data: str) -> None:
    torch.set_num_threads(1)
    results = {}
    for world in WORLDS:
        if rank < world:
            meet = f"file://{folder}/meet-{world}"
            distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=world)
            results[world] = counts(data)
            distributed.destroy_process_group()
    torch.save(results, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
