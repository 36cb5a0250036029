"""The one face of this package that a platform needs: cells, resolution, estimates, preflight, training, evaluation.

Everything here speaks in names, recipes and plain values; `jobs` turns them into the platform's own types.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hrnet.catalogue import Recipe, Width, recipes, recipes_for
from hrnet.data.cards import Card
from hrnet.errors import DataError, HrnetError
from hrnet.events import Event
from hrnet.pretrained import canonical, pinned
from hrnet.published import BACKBONES, METHOD, published

if TYPE_CHECKING:
    from torch import nn

    from hrnet.data.shards import Split
    from hrnet.training.gang import Gang

__all__ = ["BACKWARD", "COLUMNS", "NUMERICS_VERSION", "RESULTS", "canonical", "catalogue", "custom_cards",
           "evaluate_checkpoint", "forward_gigamacs", "gigamacs", "memory_gb", "not_comparable", "pinned", "problems",
           "published_device", "published_links", "published_metrics", "splits", "table_columns", "table_section",
           "train_recipe"]  # fmt: skip

NUMERICS_VERSION = "1"
"""Raised by hand whenever a change makes an unchanged recipe give other numbers; part of every trial's key.

tests/hrnet/test_trace.py holds a stored loss sequence and fails when such a change forgets to."""

# Multiply-accumulates (1e9) of one 512x1024 image through the network with 19 classes, forward only; and its training
# memory in 1e9 bytes beside its logits: half the published Mem of Cityscapes (1.7, 2.9 and 6.2 GB of 2^30 bytes at 2
# images per GPU) less 19 logits and their gradients per pixel.
_GMACS = {"w18-small": 19.5, "w18": 37.3, "w48": 187.9}
_GIGABYTES = {"w18-small": 0.833, "w18": 1.477, "w48": 3.249}
BACKWARD = 3.0
"""A training step costs the forward pass once and the backward pass about twice."""

RESULTS = {
    "per-class IoU": "eval/per_class.table.json", "confusion matrix": "eval/confusion.png",
    "overlays": "eval/overlays", "best": "eval/best", "worst": "eval/worst",
}  # fmt: skip
"""What to look at first of an evaluation, and its path among the artifacts of `evaluate_checkpoint`."""

COLUMNS = {"name": "string", "image": "binary", "label": "binary", "height": "long", "width": "long"}
"""What a row of a shard holds; image and label are encoded files."""

_SPEED_SECONDS = {"cpu": 20.0, "cuda": 120.0}
"""Type of device to the time after which a trial times no further image."""


def catalogue(cards: Sequence[Card]) -> tuple[Recipe, ...]:
    """The 45 published recipes, then those of the custom data sets given."""
    return (*recipes(), *(recipe for card in cards for recipe in recipes_for(card)))


def custom_cards(data: str | None) -> tuple[Card, ...]:
    """Cards of the custom data sets (not one of the nine published) prepared at a location."""
    if data is None:
        return ()
    from hrnet.data.cards import cards
    from hrnet.data.shards import list_datasets

    known = cards()
    return tuple(dataset.card for dataset in list_datasets(data) if dataset.card.name not in known)


def not_comparable(recipe: Recipe, base: Recipe, data: str | None) -> tuple[str, ...]:
    """Why a resolved recipe's result must not stand beside the published one; empty when it may."""
    reasons = list(recipe.differences(base))
    if data is not None:
        from hrnet.data.shards import open_dataset

        reasons += open_dataset(data).incomparable
    return tuple(reasons)


def forward_gigamacs(width: Width, size: tuple[int, int]) -> float:
    """Arithmetic of the network on one image of (height, width), in 1e9 multiply-accumulates."""
    return _GMACS[width] * size[0] * size[1] / (512 * 1024)


def gigamacs(recipe: Recipe) -> float:
    """Arithmetic of one training iteration over the whole batch, in 1e9 multiply-accumulates."""
    return forward_gigamacs(recipe.width, recipe.crop) * recipe.batch_size * BACKWARD


def memory_gb(recipe: Recipe, workers: int) -> float:
    """Estimated peak training memory of one of `workers` workers, in 1e9 bytes."""
    pixels = recipe.crop[0] * recipe.crop[1] / (512 * 1024)
    logits = recipe.num_classes * recipe.crop[0] * recipe.crop[1] * 4 * 2 / 1e9
    return (_GIGABYTES[recipe.width] * pixels + logits) * recipe.batch_size / workers


def published_metrics(name: str) -> dict[str, float] | None:
    """The published numbers of a recipe under the metric names of its own evaluation, or None."""
    row = published(name)
    if row is None:
        return None
    metrics = {
        "val/mIoU": row.miou,
        "val/mIoU_ms_flip": row.miou_ms_flip,
        "speed/train_mem_gb": row.mem_gb,
        "speed/fps": row.fps,
    }
    return {key: value for key, value in metrics.items() if value is not None}


_CONFIG = "https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/configs/hrnet/{name}.py"


def published_device(name: str) -> str:
    """The GPU that the published table names for a recipe; empty where it has no row."""
    row = published(name)
    return "" if row is None else row.device


def published_links(name: str) -> dict[str, str]:
    """Where the published configuration, weights and log of a recipe are; empty for a custom data set's."""
    row = published(name)
    links = {"checkpoint": row.checkpoint, "log": row.log} if row is not None else {}
    known = any(recipe.name == name for recipe in recipes())
    return {"config": _CONFIG.format(name=name), **links} if known else {}


def table_section(dataset: str) -> str:
    """The heading of a data set in the published table; the name itself of a custom one."""
    from hrnet.data.cards import cards

    known = cards().get(dataset)
    return dataset if known is None else known.title


def table_columns(width: str, schedule: str, crop: tuple[int, int] | None) -> dict[str, str]:
    """What the published table says of a recipe under its own headings; without a crop, what is known without it."""
    columns = {
        "Method": METHOD,
        "Backbone": BACKBONES.get(width, width),
        "Crop Size": "" if crop is None else f"{crop[0]}x{crop[1]}",
        "Lr schd": schedule.replace("k", "000"),
    }
    return {heading: text for heading, text in columns.items() if text}


def problems(recipe: Recipe, data: str) -> list[tuple[str, str]]:
    """What would make a training fail, found without training: (where, sentence) pairs."""
    from hrnet.data.check import check

    found: list[tuple[str, str]] = []
    try:
        report = check(data, quick=True)
        found += [(finding.where, finding.message) for finding in report.findings if finding.fatal]
        if report.card.num_classes != recipe.num_classes:
            classes = f"{report.card.num_classes} classes, but {recipe.name} is for {recipe.num_classes}"
            found.append((data, f"the data set has {classes}: prepare it again"))
    except DataError as error:
        found.append((data, str(error)))
    if recipe.pretrained is not None:
        from hrnet.fetch import reachable

        try:
            reachable(recipe.pretrained, recipe.pretrained_sha256)
        except HrnetError as error:
            found.append(("pretrained", f"{error}; or train from scratch with --set pretrained=none"))
    return found


def splits(data: str) -> list[tuple[str, str, dict[str, object]]]:
    """Name, split and counts of each part of a prepared data set."""
    from hrnet.data.shards import open_dataset

    dataset = open_dataset(data)
    card, found = dataset.card, []
    for split in dataset.splits:
        counts = dataset.manifest["splits"][split]
        labelled = max(1, sum(counts["class_pixels"]))
        shares = {
            name: round(100 * pixels / labelled, 3)
            for name, pixels in zip(card.classes, counts["class_pixels"], strict=True)
        }
        ignored = round(100 * counts["ignored_pixels"] / (labelled + counts["ignored_pixels"]), 3)
        known = {"images": counts["images"], "classes": card.num_classes, "ignored pixels, percent": ignored}
        found.append((f"{card.name} {split}", split, {**known, "class pixels, percent": shares}))
    return found


def train_recipe(
    recipe: Recipe, data: str, *, seed: int, resume: Path | None, cpus: int
) -> Generator[Event, str | None, None]:
    """Train on this worker with `cpus` CPUs: threads and loader processes are shared out among them.

    Takes wishes as `hrnet.train` does.
    """
    import torch

    from hrnet.data.shards import open_dataset
    from hrnet.training.loop import train

    # A GPU computes and the CPUs load; a CPU does both, and one process more than cores slows every step.
    processes = max(1, cpus - 2) if torch.cuda.is_available() else 0
    torch.set_num_threads(max(1, cpus - processes))
    dataset = open_dataset(data)
    for name in dataset.splits:
        # Remote ones now: a validation in the middle that waits for a download looks like a hang.
        dataset.split(name).fetch()
    yield from train(recipe, dataset, seed=seed, resume=resume, loader_processes=processes)


def evaluate_checkpoint(recipe: Recipe, data: str, checkpoint: Path, *, cpus: int) -> Iterator[Event]:
    """Evaluate a checkpoint folder; a validation that the checkpoint already holds is not computed again.

    The last event (kind validated) carries the single-scale scores, with `recipe.ms_flip` also those of multi-scale
    and flip, the training memory if it was on GPUs, and on rank 0, with `recipe.speed_images`, images per second and
    the artifacts under `eval/`.
    """
    import torch

    from hrnet import speed
    from hrnet.data.shards import open_dataset
    from hrnet.evaluation.confusion import ConfusionMatrix
    from hrnet.evaluation.run import evaluate_split, score_artifacts, score_metrics, val_images
    from hrnet.memory import evaluation_remedies, memory_explained
    from hrnet.model.segmentor import build_model
    from hrnet.training.gang import Gang
    from hrnet.training.state import read_recipe, recipe_hash

    torch.set_num_threads(max(1, cpus))
    gang = Gang.current()
    dataset = open_dataset(data)
    split = dataset.split("val")
    stored, progress, weights = read_recipe(checkpoint)
    model = build_model(recipe.width, recipe.num_classes)
    model.load_state_dict(weights)
    with memory_explained(gang.device, f"{recipe.name}: the evaluation", evaluation_remedies(recipe)):
        model.to(gang.device).eval()
        same = recipe_hash(stored) == recipe_hash(recipe)
        if progress.confusion is not None and progress.validated == progress.step and same:
            matrix = ConfusionMatrix(recipe.num_classes)
            matrix.load_state(progress.confusion)
            per_image = progress.per_image
        else:
            per_image = torch.zeros(val_images(split, recipe), dtype=torch.float64)
            matrix = yield from evaluate_split(model, split, recipe, gang, per_image=per_image)
    metrics = score_metrics(matrix.scores())
    if recipe.ms_flip:
        views = f"{recipe.name}: the multi-scale evaluation"
        with memory_explained(gang.device, views, evaluation_remedies(recipe, ms_flip=True)):
            flipped = yield from evaluate_split(model, split, recipe, gang, ms_flip=True)
        metrics["val/mIoU_ms_flip"] = flipped.scores().mIoU
    if progress.memory:
        metrics["speed/train_mem_gb"] = progress.memory / speed.BYTES_PER_GB
    artifacts: dict[str, bytes] = {}
    if gang.rank == 0:
        with memory_explained(gang.device, f"{recipe.name}: the pictures and speed", evaluation_remedies(recipe)):
            artifacts |= score_artifacts(model, split, recipe, dataset.card, matrix, gang.device, per_image)
            fps, figures = _speed(model, split, recipe, gang, metrics.get("speed/train_mem_gb"))
        metrics, artifacts = metrics | fps, artifacts | figures
    yield Event(kind="validated", step=progress.step, total=recipe.max_iters, metrics=metrics, artifacts=artifacts)


def _speed(
    model: nn.Module, split: Split, recipe: Recipe, gang: Gang, train_mem_gb: float | None
) -> tuple[dict[str, float], dict[str, bytes]]:
    """Time the trained model on validation images; returns the metric, and the figures with their conditions."""
    from hrnet import speed
    from hrnet.evaluation.run import drain

    measured: speed.Speed | None = None
    if recipe.speed_images:
        measured = drain(
            speed.measure_speed(
                model, speed.images_of(split, recipe), recipe, gang.device,
                wanted=recipe.speed_images, budget=_SPEED_SECONDS[gang.device.type],
            )
        )  # fmt: skip
    figures = speed.figures(
        recipe, speed.conditions(recipe, gang.device), measured, train_mem_gb,
        images="the validation images", weights="trained",
        memory={"batch": recipe.batch_size // gang.world, "crop": list(recipe.crop), "workers": gang.world},
    )  # fmt: skip
    metrics = {} if measured is None else {"speed/fps": measured.fps}
    if measured is None and train_mem_gb is None:
        return metrics, {}
    return metrics, {"eval/speed.json": json.dumps(figures, indent=1).encode()}
