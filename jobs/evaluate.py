"""`hrgrid evaluate`: the scores of any checkpoint on a prepared data set's validation split, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping

from hrnet.errors import DataError
from jobs._command import main_of
from jobs._options import add_json, add_name, add_places, positive
from jobs._show import number, print_table
from jobs._weights import catalogue_recipe, found, load_model

HELP = "Score a checkpoint (a weights file, a checkpoint folder, or a trial) on a data set's validation split."

SCORES = ("mIoU", "mAcc", "aAcc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Recipe, weights, data and how to evaluate."""
    parser.add_argument("recipe", metavar="NAME", help="recipe that says how images are scaled and cut")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE|RUN",
        help="a .pth file, a checkpoint folder, or the key, recipe name or MLflow run id of a trial in the storage",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument(
        "--ms-flip", action="store_true", help="multi-scale and flip too (about fifteen times the work)"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    add_places(parser)
    add_name(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    if args.data is None:
        raise DataError("evaluate needs the prepared data set: give --data URI or set HRGRID_DATA")
    limit = [f"val_limit={args.limit}"] if args.limit else []
    recipe = catalogue_recipe(args.recipe, args.data, [*args.overrides, *limit])
    from hrnet.data.shards import locate, open_dataset
    from hrnet.evaluation.run import evaluate
    from hrnet.workload import published_metrics

    dataset = open_dataset(locate(args.data, recipe.dataset))
    with found(args.weights, args) as path:
        model = load_model(path, recipe)
    scores = evaluate(model, dataset, recipe)
    metrics = {f"val/{name}": float(getattr(scores, name)) for name in SCORES}
    if args.ms_flip:
        flipped = evaluate(model, dataset, recipe, ms_flip=True)
        metrics |= {f"val/{name}_ms_flip": float(getattr(flipped, name)) for name in SCORES}
    iou = dict(zip(dataset.card.classes, map(float, 100 * scores.iou), strict=True))
    published = published_metrics(recipe.name) or {}
    if args.json:
        facts = {"recipe": recipe.name, "weights": args.weights, "metrics": metrics, "published": published}
        print(json.dumps({**facts, "iou": {name: _finite(value) for name, value in iou.items()}}, indent=1))
    else:
        _print(metrics, iou, published)
    return 0


def _print(metrics: Mapping[str, float], iou: Mapping[str, float], published: Mapping[str, float]) -> None:
    print_table(("class", "IoU"), [(name, number(value)) for name, value in iou.items()], right={"IoU"})
    print()
    rows = [(name, number(value), number(published.get(name))) for name, value in metrics.items()]
    print_table(("metric", "here", "published"), rows, right={"here", "published"})


def _finite(value: float) -> float | None:
    """JSON has no NaN: a class that occurs nowhere has no IoU."""
    return value if value == value else None


if __name__ == "__main__":
    sys.exit(main_of("evaluate", HELP, add_arguments, run))
