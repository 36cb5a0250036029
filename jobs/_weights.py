"""From what a person names (a file, a folder, a trial) to a recipe and a model with weights."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hrnet.catalogue import Recipe
from hrnet.errors import RecipeError, WeightsError, suggestion
from hrnet.published import Published, published
from hrnet.workload import catalogue, custom_cards
from jobs._options import overrides_for, settings
from orchestrator.checkpoints import CheckpointStore
from orchestrator.errors import UsageError
from orchestrator.grid import near_miss
from orchestrator.ledger import Entry, Ledger
from orchestrator.storage import Storage

if TYPE_CHECKING:
    from hrnet.data.cards import Card
    from hrnet.model.segmentor import HRNetSegmentor
    from hrnet.weights import LoadReport

__all__ = ["PUBLISHED", "catalogue_recipe", "found", "load_model", "published_row", "stored_card", "stored_recipe"]

PUBLISHED = "published"
"""The word for the table's own checkpoint of a recipe."""

MODEL = "models:/"
"""What the name of a registered model begins with."""

_STATE = "state.pt"
"""The file that makes a folder a checkpoint folder."""


def catalogue_recipe(name: str, data: str | None, overrides: Sequence[str]) -> Recipe:
    """The recipe of a name, published or of a custom data set prepared at `data`, with overrides; RecipeError."""
    known = {recipe.name: recipe for recipe in catalogue(custom_cards(data))}
    if name not in known:
        raise RecipeError(f"no recipe is called {name!r}{suggestion(name, known)}")
    return known[name].with_overrides(overrides_for(name, overrides))


@contextmanager
def found(name: str, args: argparse.Namespace, recipe: Recipe | None = None) -> Iterator[Path]:
    """The weights file or checkpoint folder that a name means: the table's checkpoint of a recipe, a file or folder,
    a URL or S3 URI (fetched into the cache), or, downloaded for a while, a registered model (`models:/NAME@best`) or
    the last checkpoint of a trial, which the report scores.

    Raises:
        UsageError: it is nothing of these.
        WeightsError: it cannot be fetched.
    """
    from hrnet.fetch import is_remote, local_copy

    if name == PUBLISHED and recipe is not None:
        row = published_row(recipe)
        yield local_copy(row.checkpoint, row.sha256_prefix)
        return
    if is_remote(name):
        yield local_copy(name)
        return
    path = Path(name)
    if path.exists():
        yield path.parent if path.name == _STATE else path
        return
    places = settings(args)
    if name.startswith(MODEL):
        from orchestrator.registry import download

        with tempfile.TemporaryDirectory(prefix="hrgrid-") as folder:
            yield download(places.tracking, name, Path(folder))
        return
    storage = Storage(places.storage)
    entry = _trial(name, Ledger(storage), places.benchmark)
    store = CheckpointStore(storage, entry.key)
    with tempfile.TemporaryDirectory(prefix="hrgrid-") as folder:
        checkpoint = store.latest(Path(folder))
        if checkpoint is None:
            raise UsageError(
                f"the trial {entry.key} of {entry.cell} has no checkpoint yet; hrgrid status says how far"
            )
        yield checkpoint.path


def stored_recipe(path: Path) -> Recipe | None:
    """The recipe that a checkpoint folder or model was trained with; None for a weights file, which does not say."""
    if not path.is_dir():
        return None
    from hrnet.serving import is_served, read_served_recipe

    if is_served(path):
        return read_served_recipe(path)
    from hrnet.training.state import read_recipe

    return read_recipe(path)[0]


def load_model(path: Path, recipe: Recipe) -> tuple[HRNetSegmentor, LoadReport]:
    """Build a recipe's model with the weights of a file or checkpoint folder; raises WeightsError."""
    from hrnet.model.segmentor import build_model
    from hrnet.weights import load_weights

    model = build_model(recipe.width, recipe.num_classes)
    report = load_weights(model, str(_weights_in(path) if path.is_dir() else path))
    missing = [name for name in report.missing if not name.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(
            f"{path} holds no complete segmentation network: {len(missing)} tensors are missing, the first is "
            f"{missing[0]}; give a trained checkpoint"
        )
    return model.eval(), report


def stored_card(path: Path) -> Card | None:
    """The card of the data set that a model was trained on; None for anything else, which does not say."""
    if not path.is_dir():
        return None
    from hrnet.serving import is_served, read_card

    return read_card(path) if is_served(path) else None


def _weights_in(folder: Path) -> Path:
    from hrnet.serving import WEIGHTS_FILE, is_served

    return folder / (WEIGHTS_FILE if is_served(folder) else _STATE)


def published_row(recipe: Recipe) -> Published:
    """The table's row of a recipe; raises UsageError if it has none, and with it no published checkpoint."""
    row = published(recipe.name)
    if row is None:
        raise UsageError(
            f"{recipe.name} has no row in the published table, and with it no published checkpoint (eight Pascal "
            "Context recipes and those of custom data sets have none); give --weights FILE to score your own"
        )
    return row


def _trial(name: str, ledger: Ledger, benchmark: str) -> Entry:
    names = [benchmark, *(other for other in ledger.benchmarks() if other != benchmark)]
    entries = {entry.key: entry for each in names for entry in ledger.benchmark(each)}
    matching = [entry for entry in entries.values() if name in (entry.key, entry.cell)]
    if not matching and len(name) == 32:
        records = ledger.trials(entries)
        matching = [entry for entry in entries.values() if records[entry.key].run_id == name]
    if len(matching) > 1:
        keys = ", ".join(f"{entry.key} (seed {entry.seed})" for entry in matching)
        raise UsageError(f"{name!r} has {len(matching)} trials; give the key of one: {keys}")
    if not matching:
        known = [entry.cell for entry in entries.values()]
        hint = near_miss(name, known) if known else ", which holds no trial"
        raise UsageError(f"{name!r} is no file, no folder and no trial of {ledger.storage.uri}{hint}")
    return matching[0]
