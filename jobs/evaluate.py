"""`hrgrid evaluate`: the scores of any checkpoint on a prepared data set's validation split, on this machine.

With the published checkpoint it is a check of the data: on right data it scores as published.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hrnet.catalogue import Recipe
from hrnet.errors import DataError
from jobs._command import FAILED, main_of
from jobs._options import add_device, add_json, add_name, add_places, device, positive
from jobs._show import number, print_table
from jobs._weights import PUBLISHED, catalogue_recipe, found, load_model, published_row

if TYPE_CHECKING:
    from hrnet.data.shards import PreparedDataset
    from hrnet.evaluation.confusion import ConfusionMatrix
    from hrnet.evaluation.diagnosis import Verdict
    from hrnet.events import Event
    from hrnet.model.segmentor import HRNetSegmentor

HELP = "Score weights on a data set's validation split; with --weights published, check the data against the table."

SCORES = ("mIoU", "mAcc", "aAcc")

EVALUATION_FIELDS = frozenset(
    {"test_scale", "test_mode", "slide_crop", "slide_stride", "tta_ratios", "tta_flip", "conventions", "precision",
     "val_limit"}
)  # fmt: skip
"""Fields of a recipe that change the scores of given weights."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Recipe, weights, data and how to evaluate."""
    parser.add_argument("recipe", metavar="NAME", help="recipe that says how images are scaled and cut")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="W",
        help="'published' (the table's own checkpoint of this recipe, fetched once), a file, URL or S3 URI, a "
        "checkpoint folder, or the key, recipe name or MLflow run id of a trial in the storage. Weights that were not "
        "trained here are compared with the table: exit code 1 and a diagnosis where the scores are not the published",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument(
        "--ms-flip", action="store_true", help="multi-scale and flip too (about fifteen times the work)"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images")
    add_device(parser)
    add_places(parser)
    add_name(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and compare weights that come from elsewhere with the table."""
    if args.data is None:
        raise DataError("evaluate needs the prepared data set: give --data URI or set HRGRID_DATA")
    limit = [f"val_limit={args.limit}"] if args.limit else []
    recipe = catalogue_recipe(args.recipe, args.data, [*args.overrides, *limit])
    from hrnet.data.shards import locate, open_dataset
    from hrnet.workload import published_metrics

    # What can be wrong at once is said before hundreds of megabytes of weights are fetched.
    if args.weights == PUBLISHED:
        published_row(recipe)
    where, dataset = device(args), open_dataset(locate(args.data, recipe.dataset))
    with found(args.weights, args, recipe) as path:
        model, loaded = load_model(path, recipe)
    if not args.json:
        print(loaded.summary(), end="\n\n", flush=True)
    matrices = _evaluate(model, dataset, recipe, where, ms_flip=args.ms_flip)
    scores = {suffix: matrix.scores() for suffix, matrix in matrices.items()}
    metrics = {f"val/{n}{suffix}": float(getattr(s, n)) for suffix, s in scores.items() for n in SCORES}
    iou = dict(zip(dataset.card.classes, map(float, 100 * scores[""].iou), strict=True))
    published = published_metrics(recipe.name) or {}
    foreign = args.weights == PUBLISHED or not loaded.trained_here
    verdict = None
    if foreign and published:
        verdict = _verdict(args, recipe, dataset, matrices[""], metrics, loaded.classes)
    if args.json:
        facts = {"recipe": recipe.name, "weights": args.weights, "published": published}
        facts |= {"metrics": {name: _finite(value) for name, value in metrics.items()}}
        facts |= {"iou": {name: _finite(value) for name, value in iou.items()}, "verdict": _facts(verdict)}
        print(json.dumps({**facts, "loaded": loaded.summary().splitlines()}, indent=1))
    else:
        _print(metrics, iou, published, verdict)
        if args.weights == PUBLISHED and verdict is not None and verdict.right:
            print(f"next: hrgrid plan --dataset {recipe.dataset} --data {shlex.quote(args.data)}")
    return 0 if verdict is None or verdict.right else FAILED


def _evaluate(
    model: HRNetSegmentor, dataset: PreparedDataset, recipe: Recipe, where: str, *, ms_flip: bool
) -> dict[str, ConfusionMatrix]:
    """Confusion matrices by the suffix of their metrics' names."""
    import torch

    from hrnet.evaluation.run import evaluate_split
    from hrnet.memory import evaluation_remedies, memory_explained
    from hrnet.training.gang import Gang
    from jobs._watch import watched

    gang, split = Gang(rank=0, world=1, device=torch.device(where)), dataset.split("val")

    def place(event: Event) -> tuple[int, int]:
        return event.step, event.total

    with memory_explained(gang.device, f"{recipe.name}: the evaluation", evaluation_remedies(recipe)):
        model.to(where)
        matrices = {"": watched(evaluate_split(model, split, recipe, gang), "evaluating", place)}
    if ms_flip:
        remedies = ["no --ms-flip", *evaluation_remedies(recipe)]
        with memory_explained(gang.device, f"{recipe.name}: the multi-scale evaluation", remedies):
            flipped = evaluate_split(model, split, recipe, gang, ms_flip=True)
            matrices["_ms_flip"] = watched(flipped, "multi-scale and flip", place)
    return matrices


def _verdict(
    args: argparse.Namespace,
    recipe: Recipe,
    dataset: PreparedDataset,
    matrix: ConfusionMatrix,
    metrics: Mapping[str, float],
    named: Sequence[str],
) -> Verdict:
    from hrnet.evaluation.diagnosis import Comparison, judge
    from hrnet.workload import published_metrics

    known = published_metrics(recipe.name) or {}
    names = {"val/mIoU": "mIoU", "val/mIoU_ms_flip": "mIoU ms+flip"}
    comparisons = [
        Comparison(column=column, here=metrics[name], published=known[name])
        for name, column in names.items()
        if name in metrics and name in known
    ]
    changed = recipe.differences(catalogue_recipe(recipe.name, args.data, ()))
    reasons = [phrase for phrase in changed if phrase.split()[0] in EVALUATION_FIELDS]
    reasons += [reason for reason in dataset.incomparable if " train images" not in reason]
    strangers = int(matrix.state()[-1].sum())
    return judge(
        comparisons, matrix.counts(), dataset.card.classes, incomparable=reasons, strangers=strangers, named=named
    )


def _print(
    metrics: Mapping[str, float], iou: Mapping[str, float], published: Mapping[str, float], verdict: Verdict | None
) -> None:
    print_table(("class", "IoU"), [(name, number(value)) for name, value in iou.items()], right={"IoU"})
    print()
    rows = [(name, number(value), number(published.get(name))) for name, value in metrics.items()]
    print_table(("metric", "here", "published"), rows, right={"here", "published"})
    if verdict is not None:
        print(f"\n{verdict.sentence}")
        for cause in verdict.causes:
            print(f"- {cause}")
    elif not published:
        print("\nthe table has no value for this recipe: there is nothing to compare with")


def _facts(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {"right": verdict.right, "sentence": verdict.sentence, "causes": list(verdict.causes)}


def _finite(value: float) -> float | None:
    """JSON has no NaN: a class that occurs nowhere has no IoU."""
    return value if value == value else None


if __name__ == "__main__":
    sys.exit(main_of("evaluate", HELP, add_arguments, run))
