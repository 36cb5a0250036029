"""`hrgrid launch --smoke`: the cells on drawn data, each recipe at an eighth of its size, a few iterations long.

Only data and changes are made here; planning, running and resuming are those of every launch.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs._options import facets, settings
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from jobs._planning import Draft

__all__ = ["CHANGES", "FOLDER", "NAME", "arrange", "draw_missing", "verdict"]

NAME = "smoke"
FOLDER = "smoke-data"
"""Below the storage: the prepared data, one folder per data set, which later launches use again."""

# What makes each recipe special stays: its proportions, slide windows, zero label, classes, batch norm over the gang.
CHANGES = (
    "max_iters=3",
    "val_interval=3",
    "checkpoint_interval=3",
    "log_interval=1",
    "batch_size=2",
    "crop=x0.125",
    "train_scale=x0.125",
    "test_scale=x0.125",
    "speed_images=4",
    "tta_ratios=0.75,1.0",
    "pretrained=none",
)
SLIDING = ("*_pascal-context-*:slide_crop=x0.125", "*_pascal-context-*:slide_stride=x0.125")
"""Further changes where a cell is tested in windows."""

_TRAIN, _VAL = 2, 2
"""Images drawn of each split; those of Potsdam, Vaihingen and iSAID are cut into tiles."""


def arrange(args: argparse.Namespace) -> None:
    """Draw and prepare what the chosen cells need, and complete a launch's arguments with it.

    Raises UsageError if `--data` names another place, DataError if the data cannot be written.
    """
    from jobs._wiring import HrnetWorkload
    from orchestrator.grid import select
    from orchestrator.settings import absolute_uri

    usual = os.environ.get("HRGRID_DATA")
    if args.data not in (None, usual and absolute_uri(usual)):
        raise UsageError(f"--smoke draws its own data, but --data names {args.data}; leave one of them out")
    args.name = args.name or NAME
    places = settings(args)
    cells = select(HrnetWorkload().cells(), facets(args), args.names)
    datasets = tuple(dict.fromkeys(cell.facets["dataset"] for cell in cells))
    args.data = f"{places.storage}/{FOLDER}"
    draw_missing(args.data, datasets)
    sliding = SLIDING if any(name.startswith("pascal-context") for name in datasets) else ()
    args.overrides = [*CHANGES, *sliding, *args.overrides]
    args.workers = args.workers or ["1"]


def draw_missing(uri: str, datasets: Sequence[str], *, train: int = _TRAIN, val: int = _VAL) -> None:
    """Draw and prepare the data sets that are not at `uri` yet, each in a folder (or prefix) of its name."""
    from hrnet.data.shards import list_datasets

    there = {dataset.card.name for dataset in list_datasets(uri)}
    missing = [name for name in datasets if name not in there]
    if not missing:
        return  # what prepares data imports torch, which a launch with nothing to do must not pay
    from hrnet.data.prepare.run import prepare
    from hrnet.data.synthetic import synthesise

    for name in missing:
        with tempfile.TemporaryDirectory(prefix="hrgrid-smoke-") as scratch:
            native = synthesise(name, Path(scratch) / name, train=train, val=val)
            done = prepare(native, f"{uri}/{name}", dataset=name, partial=True)
        images = ", ".join(f"{count} {split}" for split, count in done.images.items())
        print(f"{name}: {images} images drawn and prepared in {uri}/{name}", flush=True)


def verdict(made: Draft) -> bool:
    """Print how many cells are finished with both scores; True if all are."""
    from orchestrator.ledger import Ledger
    from orchestrator.storage import Storage

    ledger = Ledger(Storage(made.settings.storage))
    results = [ledger.result(trial.key) or {} for trial in made.trials]
    whole = sum(
        result.get("state") == "finished" and {"val/mIoU", "val/mIoU_ms_flip"} <= set(result["metrics"])
        for result in results
    )
    print(f"\nsmoke: {whole} of {len(results)} cells FINISHED with single-scale and ms+flip mIoU")
    return bool(whole == len(results))
