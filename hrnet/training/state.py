"""Everything that a training is at one moment, in one file, and back.

The file is also a checkpoint in OpenMMLab's form (`state_dict` and `meta`), so other tools read its weights as they
are. It holds tensors and plain values only and is always read with `weights_only=True`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrnet.catalogue import FREE_FIELDS, Recipe
from hrnet.errors import WeightsError
from hrnet.fields import public
from hrnet.training.gang import Gang

__all__ = ["STATE_FILE", "Progress", "load_state", "read_recipe", "recipe_hash", "save_state", "weights_hash"]

STATE_FILE = "state.pt"
"""Name of the state file in a checkpoint folder."""

_FORMAT = 2
_READABLE = (1, 2)
"""In format 1 the sums of all workers were those of rank 0, and counted iterations of workers instead of images."""


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

    per_image: Tensor | None = None
    """Own mIoU of every image in the last validation, (images,) float64 in percent; NaN without a labelled pixel."""

    memory: int = 0
    """Most bytes that training took on a GPU, over all steps and workers; 0 where it ran on CPUs."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    """Sums of this worker since the last logging: loss times images, correct pixels, valid pixels, images. In a file
    there is one such row for each worker, (world, 4), so that the same gang goes on adding in the same order."""


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of every field that changes numbers; a state of another hash is never continued."""
    # Weights that are known by their hash may lie elsewhere at the next attempt.
    free = FREE_FIELDS | ({"pretrained"} if recipe.pretrained_sha256 is not None else set())
    fields = {key: value for key, value in recipe.to_dict().items() if key not in free}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _shown(recipe: Recipe) -> Recipe:
    """The recipe without the signature that the address of its weights may carry."""
    return recipe if recipe.pretrained is None else replace(recipe, pretrained=public(recipe.pretrained))


def save_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, recipe: Recipe, seed: int
) -> None:
    """Write `state.pt` into a folder; the file appears whole or not at all.

    `progress` must hold the sums of all workers. On the CPU the same training writes the same bytes, with two
    exceptions: torch's global generator, from which training draws nothing, is saved as the program left it, and the
    file says where pretrained weights were read from.
    """
    content = {
        "meta": {
            "format": _FORMAT,
            "recipe": json.dumps(_shown(recipe).to_dict()),
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
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, seed: int, gang: Gang
) -> Progress:
    """Put a saved state back into a model and its optimizer; returns the progress of this worker of the gang.

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
    progress = Progress(**content["progress"])
    if meta["format"] == 1 and progress.sums[3] > 0:
        scale = recipe.batch_size * (progress.step % recipe.log_interval) / float(progress.sums[3])
        progress.sums[0::3] *= scale
    progress.sums = _own_sums(progress.sums, gang)
    return progress


def _own_sums(saved: Tensor, gang: Gang) -> Tensor:
    """This worker's own row if as many workers saved; otherwise rank 0 has them all, and the total is the same."""
    rows = saved.reshape(-1, 4)
    if len(rows) == gang.world:
        return rows[gang.rank].clone()
    return rows.sum(0) if gang.rank == 0 else torch.zeros_like(rows[0])


def read_recipe(folder: Path) -> tuple[Recipe, Progress, dict[str, Tensor]]:
    """The recipe, progress and weights of a saved state, for evaluation and prediction.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    content = _read(folder)
    recipe = Recipe.from_dict(json.loads(content["meta"]["recipe"]))
    return recipe, Progress(**content["progress"]), content["state_dict"]


def weights_hash(folder: Path) -> str:
    """SHA-256 of the weights and running statistics of a saved state, in hexadecimal.

    It covers name, type, shape and bytes of each tensor, in the order of the model, and nothing else: trainings with
    equal hashes ended with the same network to the last bit. Raises WeightsError as `read_recipe` does.
    """
    digest = hashlib.sha256()
    for name, tensor in _read(folder)["state_dict"].items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(folder: Path) -> dict[str, Any]:
    path = folder / STATE_FILE
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not {"meta", "state_dict", "optimizer", "progress", "rng"} <= content.keys():
            raise KeyError("not a training state")
        version = content["meta"].get("format")
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist: give a checkpoint folder written by a training") from None
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} cannot be read as a training state ({reason}): use an earlier checkpoint"
        ) from error
    if version not in _READABLE:
        raise WeightsError(f"{path} has the format {version!r}, this version of hrgrid reads {_READABLE}: update it")
    return dict(content)
