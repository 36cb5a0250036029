"""A made-up ledger of the whole table: every verdict occurs, and whatever a report draws, if wanted."""

from __future__ import annotations

import math
import time
from pathlib import Path

import cv2
import numpy as np

from hrnet import draw
from hrnet.catalogue import Recipe, recipes
from hrnet.data.cards import card
from hrnet.published import published
from orchestrator.ledger import Entry, Ledger
from orchestrator.shown import Curves
from orchestrator.storage import Storage
from orchestrator.workload import Cell, Spec

GPU, CPU = "NVIDIA H200", "CPU, AMD EPYC"
SCORE, MS_FLIP, MEMORY, SPEED = "val/mIoU", "val/mIoU_ms_flip", "speed/train_mem_gb", "speed/fps"
SLOWER = {"w18-small": 1.0, "w18": 1.9, "w48": 2.6}
LARGER = {"w18-small": 1.0, "w18": 1.7, "w48": 3.6}
FULL = 45 - 2  # the last two cells are never launched
SMOKE = ("val_limit 2 instead of none", "pretrained none instead of a file")


def write_ledger(folder: Path) -> None:
    """A benchmark in which every verdict occurs: one cell with three seeds, one data set as in a smoke run."""
    ledger = Ledger(Storage(str(folder)))
    for place, recipe in enumerate(recipes()[:FULL]):
        for seed in (0, 1, 2) if place == 1 else (0,):
            key = f"{place:03d}{seed}"
            _write_trial(ledger, recipe, key, place, seed)
            entry = Entry(cell=recipe.name, key=key, facets=_facets(recipe), seed=seed)
            ledger.add_benchmark("made-up", [entry])


def _write_trial(ledger: Ledger, recipe: Recipe, key: str, place: int, seed: int) -> None:
    smoke = recipe.dataset == "ade20k"
    reasons = (f"max_iters 4 instead of {recipe.max_iters}", *SMOKE) if smoke else ()
    cell = Cell(name=recipe.name, facets=_facets(recipe))
    spec = Spec(cell=cell, settings={}, seed=seed, data="", data_fingerprint="", code_version="1",
                not_comparable=reasons)  # fmt: skip
    ledger.write_spec(key, spec)
    row = published(recipe.name)
    base = 40.0 if row is None else row.miou
    away = {2: -0.9, 3: 0.8, 4: 0.5, 5: -0.5}.get(place, 0.1) + 0.4 * (seed - 1) * (seed > 0)
    metrics = {SCORE: base + away, MS_FLIP: base + away + 1.5, SPEED: 2.5 if smoke else 88.125 / SLOWER[recipe.width]}
    metrics |= {} if smoke else {MEMORY: 1.25 * LARGER[recipe.width]}
    progress = {"step": 30, "total": 120, "metrics": metrics, "run_id": f"run{key}", "device": CPU if smoke else GPU}
    state = {6: "failed", 8: "stopped"}.get(place, "finished")
    if place != 7:
        progress["updated"] = time.time() - 500
    ledger.write_progress(key, progress)
    if place != 7:
        error = "ValueError: the loss is <nan> at step 30; lower lr\nTraceback ..." if state == "failed" else None
        ledger.write_result(key, {"state": state, "metrics": metrics, "run_id": f"run{key}", "error": error})


def _facets(recipe: Recipe) -> dict[str, str]:
    return {"dataset": recipe.dataset, "width": recipe.width, "schedule": recipe.schedule}


def write_exhibits(folder: Path, *, pictured: int = FULL + 2) -> None:
    """Curves as of the published schedules, classes and images; eight pictures of `pictured` trials at most."""
    storage = Storage(str(folder))
    ledger = Ledger(storage)
    comparisons = [draw.for_report(_comparison(number)) for number in range(8)]
    known = {recipe.name: recipe for recipe in recipes()}
    for place, entry in enumerate(ledger.benchmark("made-up")):
        recipe, record = known[entry.cell], ledger.trial(entry.key)
        rng, score = np.random.default_rng(place), record.metrics[SCORE]
        steps = recipe.max_iters if record.state == "finished" else recipe.max_iters // 4
        storage.write_bytes(f"trials/{entry.key}/shown/curves.json", _curves(recipe, steps, score, rng))
        if record.state != "finished":
            continue
        names = card(recipe.dataset).classes
        spread = rng.normal(0, 14, len(names))
        values = np.clip(score + spread - spread.mean(), 1, 99)
        classes = [
            {"name": name, "iou": round(float(v), 4), "acc": 90.0} for name, v in zip(names, values, strict=True)
        ]
        # As the pictures are named below: the fixed ones are ordinary, then two good ones and two bad ones.
        away = (-3, 2, 0, 4, 12, 9, -17, -21)
        images = [{"name": f"scene_{n}", "mIoU": round(score + by, 4)} for n, by in enumerate(away)]
        storage.write_json(f"trials/{entry.key}/shown/per_class_iou.json", {"classes": classes})
        storage.write_json(f"trials/{entry.key}/shown/images.json", images)
        for number, picture in enumerate(comparisons if place < pictured else ()):
            prefix = "" if number < 4 else "best_" if number < 6 else "worst_"
            ledger.write_picture(entry.key, f"{prefix}{number:05d}_scene_{number}.jpg", picture)


def _curves(recipe: Recipe, steps: int, score: float, rng: np.random.Generator) -> bytes:
    curves = Curves(Storage("unused"), "k")
    for step in range(50, steps + 1, 50):
        part = step / recipe.max_iters
        curves.see({"train/loss": float(2.2 * math.exp(-6 * part) + 0.25 + rng.normal(0, 0.08))}, step)
        if step % recipe.val_interval == 0:
            reached = score * (1 - 0.5 * math.exp(-5 * part)) - rng.uniform(0, 2) * (1 - part)
            curves.see({"val/mIoU": float(reached)}, step)
    return curves.snapshot()


def _comparison(number: int) -> bytes:
    """A small scene of discs and its prediction with errors at the edges."""
    rng = np.random.default_rng(number)
    label = np.zeros((256, 384), np.uint8)
    for index in range(1, 7):
        centre = (int(rng.integers(0, 384)), int(rng.integers(0, 256)))
        cv2.circle(label, centre, int(rng.integers(30, 80)), index, -1)
    palette = [(90, 110, 130), (200, 90, 70), (80, 160, 90), (70, 110, 200), (210, 180, 70), (150, 90, 170),
               (90, 190, 190)]  # fmt: skip
    image = cv2.GaussianBlur(draw.colour_label(label, palette), (0, 0), 3)
    image = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    return draw.comparison(image, label, np.roll(label, 2 + number, axis=1), palette)
