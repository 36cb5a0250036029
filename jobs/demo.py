"""`hrgrid demo`: the whole way on a laptop, with the user's own commands: draw, prepare, launch, report."""

from __future__ import annotations

import argparse
import shlex
import sys
import time

from jobs._command import main_of
from jobs._options import add_storage
from jobs._show import duration

HELP = "Draw a small Cityscapes, prepare it, train six cells on it and report. Needs no data, server or GPU."

NAME = "demo"

# 3 widths x 2 schedules at about a thousandth of their length, on images of 128x256: minutes on two cores. So short a
# training learns more from a higher learning rate and from colours as they are drawn.
CHANGES = (
    "max_iters=x0.001",
    "*_hr48_*:max_iters=x0.0007",
    "val_interval=20",
    "checkpoint_interval=20",
    "log_interval=2",
    "lr=0.05",
    "photometric=false",
    "crop=64x128",
    "batch_size=4",
    "train_scale=256x128",
    "test_scale=256x128",
    "tta_ratios=0.75,1.0",
    "speed_images=10",
    "pretrained=none",
)
SHARED_CELL = "fcn_hr18s_4xb2-40k_*"
"""The cell that is trained by two workers together."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to."""
    add_storage(parser)
    parser.add_argument("--folder", default="demo", metavar="DIR", help="where the images go (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the commands one after the other."""
    from jobs.cli import main

    began = time.monotonic()
    places = [f"--{name}={value}" for name in ("storage", "tracking") if (value := getattr(args, name))]
    for words in steps(args.folder, places):
        print(f"\n$ hrgrid {shlex.join(words)}\n", flush=True)
        code = main(words)
        if code:
            return code
    opening = shlex.join(["hrgrid", "ui", *places]) if places else "make ui"
    print(f"\nThat took {duration(time.monotonic() - began)}. Open the MLflow UI with: {opening}")
    return 0


def steps(folder: str, places: list[str]) -> list[list[str]]:
    """The commands of the demo."""
    changes = [word for change in CHANGES for word in ("--set", change)]
    return [
        ["data", "synth", "cityscapes", "--to", f"{folder}/cityscapes", "--train", "16", "--val", "4"],
        ["data", "prepare", f"{folder}/cityscapes", "--to", f"{folder}/prepared", "--partial"],
        [
            "launch", "--dataset", "cityscapes", "--schedule", "40k", "--schedule", "80k", *changes,
            "--workers", "1", "--workers", f"{SHARED_CELL}=2", "--cpus-per-worker", "1",
            "--data", f"{folder}/prepared", "--name", NAME, "--yes", *places,
        ],
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main_of("demo", HELP, add_arguments, run))
