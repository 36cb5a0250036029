"""Everything that a training is at one moment, in one file, and back.

The file is also a checkpoint in OpenMMLab's form (`state_dict` and `meta`), so other tools read its weights as they
are. It holds tensors and plain values only and is always read with `weights_only=True`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrnet.catalogue import FREE_FIELDS, Recipe
from hrnet.errors import WeightsError

__all__ = ["STATE_FILE", "Progress", "load_state", "read_recipe", "recipe_hash", "save_state"]

STATE_FILE = "state.pt"
"""Name of the state file in a checkpoint folder."""


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a training is, apart from weights and optimizer."""

    step: int = 0
    """Iterations completed; the next batch starts at sample position step * batch_size."""

    best: float = -1.0
    """Highest validation mIoU so far (percent); negative before the first validation."""

    validated: int = -1
    """Iteration of the last validation; negative before the first."""

    confusion: Tensor | None = None
    """Confusion counts of the last validation, as `ConfusionMatrix.state` gives them."""

    memory: int = 0
    """Most bytes that training took on a GPU, over all steps and workers; 0 where it ran on CPUs."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    """Sums of this worker since the last logging: loss, correct pixels, valid pixels, iterations."""


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of every field that changes numbers; a state of another hash is never continued."""
    # Weights that are known by their hash may lie elsewhere at the next attempt.
    free = FREE_FIELDS | ({"pretrained"} if recipe.pretrained_sha256 is not None else set())
    fields = {key: value for key, value in recipe.to_dict().items() if key not in free}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, recipe: Recipe, seed: int
) -> None:
    """Write `state.pt` into a folder; the file appears whole or not at all."""
    content = {
        "meta": {
            "format": 1,
            "recipe": json.dumps(recipe.to_dict()),
            "recipe_hash": recipe_hash(recipe),
            "seed": seed,
            "iter": progress.step,
            "position": progress.step * recipe.batch_size,
        },
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": dataclasses.asdict(progress),
        "rng": torch.get_rng_state(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{STATE_FILE}.partial"
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / STATE_FILE)


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, seed: int
) -> Progress:
    """Put a saved state back into a model and its optimizer.

    Raises:
        WeightsError: the file is missing or damaged, or belongs to another recipe or seed.
    """
    content = _read(folder)
    meta = content["meta"]
    if meta["recipe_hash"] != recipe_hash(recipe) or meta["seed"] != seed:
        raise WeightsError(
            f"{folder / STATE_FILE} was written by another experiment (recipe hash {meta['recipe_hash'][:12]}, seed "
            f"{meta['seed']}; now {recipe_hash(recipe)[:12]}, seed {seed}): start anew or give the same settings"
        )
    model.load_state_dict(content["state_dict"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["rng"])
    return Progress(**content["progress"])


def read_recipe(folder: Path) -> tuple[Recipe, Progress, dict[str, Tensor]]:
    """The recipe, progress and weights of a saved state, for evaluation and prediction.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    content = _read(folder)
    recipe = Recipe.from_dict(json.loads(content["meta"]["recipe"]))
    return recipe, Progress(**content["progress"]), content["state_dict"]


def _read(folder: Path) -> dict[str, Any]:
    path = folder / STATE_FILE
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not {"meta", "state_dict", "optimizer", "progress", "rng"} <= content.keys():
            raise KeyError("not a training state")
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist: give a checkpoint folder written by a training") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} cannot be read as a training state ({reason}): use an earlier checkpoint"
        ) from error
    return dict(content)
