"""Options that several commands share, so that they are called the same and mean the same everywhere."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase

from orchestrator.errors import UsageError
from orchestrator.grid import parse_overrides
from orchestrator.settings import DEFAULT_BENCHMARK, DEFAULT_FOLDER, Settings, absolute_uri, make_settings

__all__ = [
    "add_address",
    "add_changes",
    "add_dashboard",
    "add_device",
    "add_filters",
    "add_gangs",
    "add_json",
    "add_launch",
    "add_models",
    "add_name",
    "add_places",
    "add_reference",
    "add_search",
    "add_storage",
    "add_yes",
    "device",
    "facets",
    "overrides_for",
    "positive",
    "seeds",
    "settings",
]


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Which cells: names or shell patterns, and the facets dataset, width and schedule."""
    group = parser.add_argument_group("which cells (without any: all)")
    group.add_argument("names", nargs="*", metavar="NAME", help="recipe name or shell pattern, such as 'fcn_hr18_*'")
    group.add_argument("--dataset", action="append", default=[], metavar="D", help="may be repeated, as the next two")
    group.add_argument("--width", action="append", default=[], metavar="W", help="w18-small, w18 or w48")
    group.add_argument("--schedule", action="append", default=[], metavar="S", help="20k, 40k, 80k or 160k")


def facets(args: argparse.Namespace) -> dict[str, list[str]]:
    """The facet filters of parsed arguments; facets without a filter are left out."""
    chosen = {"dataset": args.dataset, "width": args.width, "schedule": args.schedule}
    return {name: list(values) for name, values in chosen.items() if values}


def add_changes(parser: argparse.ArgumentParser) -> None:
    """What differs from the published recipes."""
    group = parser.add_argument_group("what differs from the recipes")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[PATTERN:]KEY=VALUE",
        dest="overrides",
        help="change a setting, for all cells or those of a shell pattern; 'x0.1' multiplies; may be repeated",
    )
    group.add_argument("--seeds", type=seeds, default=(0,), metavar="N[,N...]", help="one trial per seed (default 0)")


def add_storage(parser: argparse.ArgumentParser) -> None:
    """Where results and the MLflow store are."""
    group = parser.add_argument_group("where")
    group.add_argument(
        "--storage",
        metavar="URI",
        help=f"results: a folder or s3://bucket/prefix (default: $HRGRID_STORAGE or {DEFAULT_FOLDER})",
    )
    group.add_argument(
        "--tracking",
        metavar="URI",
        help="MLflow server or database (default: $HRGRID_TRACKING, $MLFLOW_TRACKING_URI, or SQLite in the storage)",
    )


def add_places(parser: argparse.ArgumentParser) -> None:
    """Where the data is, and where results go."""
    add_storage(parser)
    parser.add_argument(
        "--data",
        default=os.environ.get("HRGRID_DATA"),
        type=absolute_uri,
        metavar="URI",
        help="a prepared data set, or a folder of them by name (default: $HRGRID_DATA)",
    )


def add_name(parser: argparse.ArgumentParser, *, default: str = f"$HRGRID_BENCHMARK or {DEFAULT_BENCHMARK}") -> None:
    """Which benchmark: the name of its ledger, report and MLflow experiment."""
    parser.add_argument("--name", metavar="BENCHMARK", help=f"name of the benchmark (default: {default})")


def settings(args: argparse.Namespace) -> Settings:
    """The places that parsed arguments and the environment name; raises UsageError."""
    return make_settings(storage=args.storage, tracking=args.tracking, benchmark=args.name)


def add_gangs(parser: argparse.ArgumentParser) -> None:
    """How many workers train a cell, and on which cluster."""
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--workers",
        action="append",
        default=[],
        metavar="[PATTERN=]N",
        help="workers per cell, for all cells or those of a shell pattern; may be repeated; must divide the batch "
        "size (default: as the recipe says, as far as the cluster allows); MIN-MAX: any divisor within, as many as "
        "find a place",
    )
    group.add_argument(
        "--resize-seconds",
        type=positive,
        default=60,
        metavar="N",
        help="of a gang of MIN-MAX workers: how long some are missing before it goes on with fewer, and how long "
        "there is room for more before it goes on with them (default 60)",
    )
    group.add_argument(
        "--gangs",
        choices=("published", "auto"),
        default="published",
        help="workers of cells without a --workers rule: as published (default), or so that the grid ends early",
    )
    group.add_argument(
        "--share-gpus",
        nargs="?",
        type=_sharers,
        const=0,
        metavar="N",
        help="let cells of one worker share a GPU where their memory fits: 2 per GPU where measurements say that it "
        "has room, or N whatever was measured (at the end of a command, or before another option)",
    )
    group.add_argument("--price", type=_price, metavar="PER_HOUR", help="price of a GPU-hour, for the plan's total")
    group.add_argument("--cpus-per-worker", type=positive, metavar="N", help="CPU cores of one worker")
    group.add_argument(
        "--cluster",
        metavar="SHAPE",
        help="plan for this in place of what is there now: 'gpus=8,memory=80,kind=H100', 'cpus=16,workers=4'; "
        "rate=N: 1e9 multiply-accumulates per second and worker, for what was never measured",
    )
    add_address(parser)


def add_address(parser: argparse.ArgumentParser) -> None:
    """Which Ray cluster."""
    parser.add_argument("--address", metavar="ADDRESS", help="Ray cluster (default: $RAY_ADDRESS, else this machine)")


def add_dashboard(parser: argparse.ArgumentParser) -> None:
    """Which cluster to send jobs to."""
    parser.add_argument(
        "--address",
        metavar="URL",
        help="the cluster's dashboard (default: $RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where to compute."""
    parser.add_argument("--device", metavar="D", help="cpu, cuda or cuda:N (default: cuda where there is one)")


def device(args: argparse.Namespace) -> str:
    """The device that was asked for, or the best there is; raises UsageError if it is not there."""
    import torch

    best = "cuda" if torch.cuda.is_available() else "cpu"
    asked = args.device or best
    kind, _, index = asked.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(kind, 0)
    if not there or (index and not (index.isdecimal() and int(index) < there)):
        raise UsageError(f"there is no device {asked!r} here; leave --device out to use {best}")
    return str(asked)


def add_launch(parser: argparse.ArgumentParser) -> None:
    """What a launch takes beside the cells, and with it whatever plans or runs one."""
    add_changes(parser)
    add_places(parser)
    add_name(parser)
    add_gangs(parser)
    add_reference(parser)
    add_search(parser)


def add_models(parser: argparse.ArgumentParser) -> None:
    """Whether finished cells are registered as models."""
    parser.add_argument(
        "--no-models",
        action="store_false",
        dest="models",
        help="register no models in MLflow (default: the best checkpoint of every cell, 16 to 263 MB)",
    )


def add_search(parser: argparse.ArgumentParser) -> None:
    """Settings to search, which is no reproduction."""
    group = parser.add_argument_group("search (of one cell; its samples are not comparable with published numbers)")
    group.add_argument(
        "--search",
        action="append",
        default=[],
        metavar="KEY=DOMAIN",
        help="draw a setting from uniform(a,b), loguniform(a,b), quniform(a,b,step), randint(a,b) (below b) or "
        "choice(...), or take every value of grid(...): 'lr=loguniform(1e-3,1e-1)'; may be repeated",
    )
    group.add_argument("--samples", type=positive, metavar="N", help="samples to draw (for every point of the grids)")
    group.add_argument("--search-seed", type=int, default=0, metavar="N", help="seed of the draws (default 0)")
    group.add_argument(
        "--search-metric",
        default="val/mIoU",
        metavar="M",
        help="what samples are compared by: val/mIoU (default), val/mAcc or val/aAcc",
    )
    group.add_argument("--search-mode", choices=("max", "min"), default="max", help="which is better (default max)")
    group.add_argument(
        "--search-grace", type=positive, metavar="STEPS", help="what every sample gets (default: one validation)"
    )
    group.add_argument(
        "--search-reduction", type=float, default=3.0, metavar="N",
        help="after the grace period, and after every N times as many steps, the best 1/N go on (default 3)",
    )  # fmt: skip
    group.add_argument("--resume-stopped", action="store_true", help="go on with samples that were stopped early, too")


def add_reference(parser: argparse.ArgumentParser) -> None:
    """What is drawn beside the runs."""
    parser.add_argument(
        "--reference-log",
        action="append",
        default=[],
        metavar="[PATTERN:]LOG",
        dest="references",
        help="draw another training beside the runs in MLflow and say when one falls far below it: OpenMMLab's "
        ".log.json (file or address), 'published', or a cell or trial key of this storage; may be repeated",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Print facts as JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON")


_LARGEST_SEED = 2**63 - 1
"""Of a generator of PyTorch."""


def seeds(text: str) -> tuple[int, ...]:
    """Parse `0,1,2`; for argparse.

    Raises:
        argparse.ArgumentTypeError: an entry is no whole number from 0 to 2^63 - 1, or stands there twice.
    """
    entries = text.split(",")
    if not all(entry.strip().isdecimal() for entry in entries):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 0,1,2")
    numbers = tuple(int(entry) for entry in entries)
    if max(numbers) > _LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} has a seed above {_LARGEST_SEED}")
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return numbers


def positive(text: str) -> int:
    """Parse a whole number of 1 or more; for argparse.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return int(text)


def _sharers(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of trials per GPU; give 2 or more")
    return int(text)


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no price; give a number such as 2.5, without a currency")
    return price


def overrides_for(name: str, texts: Sequence[str]) -> dict[str, str]:
    """Parse `[PATTERN:]KEY=VALUE` texts and keep what applies to the recipe `name`; raises UsageError."""
    chosen = [o for o in parse_overrides(texts) if o.pattern is None or fnmatchcase(name, o.pattern)]
    return {override.key: override.value for override in chosen}


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Do not ask."""
    parser.add_argument("--yes", action="store_true", help="do not ask on a terminal whether the plan is right")
