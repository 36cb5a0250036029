"""Where the science and the platform meet: HRNet as the platform's workload."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from hrnet import workload as science
from hrnet.catalogue import FREE_FIELDS, Recipe
from hrnet.events import Event
from orchestrator.workload import Cell, Estimate, Facts, Input, Packaged, Problem, Spec

__all__ = ["HrnetWorkload"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HrnetWorkload:
    """The published recipes, and those of the custom data sets found at a location, as a workload of the platform."""

    packages: ClassVar[tuple[str, ...]] = ("jobs", "hrnet")
    """Whose log records belong into a trial's log."""

    ahead: ClassVar[tuple[str, ...]] = ("hrnet.training.loop", "hrnet.evaluation.run", "hrnet.draw", "hrnet.speed")
    """What a worker imports when it trains and evaluates: it may do so before."""

    data: str | None = None
    """A prepared data set or a folder of them; its custom data sets add cells to the grid."""

    _opened: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict, repr=False, compare=False)
    """Location of a data set to its fingerprint and to why it is not comparable: several cells run on each."""

    def cells(self) -> Sequence[Cell]:
        """All cells, in the order of the published table; custom data sets follow."""
        return [
            Cell(name=r.name, facets={"dataset": r.dataset, "width": r.width, "schedule": r.schedule})
            for r in _catalogue(self.data).values()
        ]

    def resolve(self, cell: Cell, overrides: Mapping[str, str], *, seed: int, data: str | None) -> Spec:
        """The cell's recipe with overrides, tied to the content of its data set and weights; an HrnetError."""
        base = _catalogue(self.data)[cell.name]
        recipe = science.pinned(base.with_overrides(overrides))
        known = science.canonical(recipe, base)
        elsewhere = recipe.pretrained if known.pretrained != recipe.pretrained else None
        location, fingerprint = "", ""
        incomparable: tuple[str, ...] = ()
        if data is not None:
            from hrnet.data.shards import locate

            location = locate(data, recipe.dataset)
            fingerprint, incomparable = self._dataset(location)
        return Spec(
            cell=cell,
            settings=known.to_dict(),
            seed=seed,
            data=location,
            data_fingerprint=fingerprint,
            code_version=science.NUMERICS_VERSION,
            free=tuple(sorted(FREE_FIELDS)),
            locations={} if elsewhere is None else {"pretrained": elsewhere},
            not_comparable=(*science.not_comparable(recipe, base, None), *incomparable),
        )

    def _dataset(self, location: str) -> tuple[str, tuple[str, ...]]:
        if location not in self._opened:
            from hrnet.data.shards import open_dataset

            dataset = open_dataset(location)
            self._opened[location] = (dataset.fingerprint, tuple(dataset.incomparable))
        return self._opened[location]

    def estimate(self, spec: Spec) -> Estimate:
        """Batch, iterations, arithmetic and memory of the recipe."""
        recipe = _recipe(spec)
        return Estimate(
            batch=recipe.batch_size,
            workers=recipe.workers,
            iterations=recipe.max_iters,
            work=science.gigamacs(recipe),
            memory_gb=science.memory_gb(recipe, recipe.workers),
            family=recipe.width,
            interval=recipe.val_interval,
        )

    def preflight(self, spec: Spec) -> Sequence[Problem]:
        """Damaged or missing data, weights that cannot be had."""
        found = science.problems(_recipe(spec), spec.data)
        return [Problem(where=where, message=message) for where, message in found]

    def train(self, spec: Spec, resume: Path | None, *, cpus: int) -> Generator[Event, str | None, None]:
        """Train on this worker; see `hrnet.train`."""
        recipe = _recipe(spec)
        return science.train_recipe(recipe, spec.data, seed=spec.seed, resume=resume, cpus=cpus)

    def evaluate(self, spec: Spec, checkpoint: Path, *, cpus: int) -> Iterator[Event]:
        """Evaluate a checkpoint folder on this worker."""
        return science.evaluate_checkpoint(_recipe(spec), spec.data, checkpoint, cpus=cpus)

    def package(self, spec: Spec, checkpoint: Path, folder: Path) -> Packaged:
        """Make a model of a checkpoint folder that serves without the data set; see `hrnet.serving`."""
        from jobs._packaging import package

        # Where its weights once came from may be somebody's own folder; the model does without.
        return package(Recipe.from_dict(spec.settings), spec.data, checkpoint, folder)

    def published(self, cell: Cell) -> Mapping[str, float] | None:
        """The published numbers of the cell's recipe."""
        return science.published_metrics(cell.name)

    def published_log(self, cell: Cell) -> str | None:
        """Address of the training log that the published table names for the cell, or None."""
        return science.published_links(cell.name).get("log")

    def inputs(self, spec: Spec) -> Sequence[Input]:
        """The splits of the prepared data set; a DataError."""
        return [
            Input(name=name, context=split, profile=profile, columns=science.COLUMNS)
            for name, split, profile in science.splits(spec.data)
        ]

    def facts(self, cell: Cell) -> Facts:
        """What the published table says of the cell's recipe beside its numbers."""
        recipe = _catalogue(self.data).get(cell.name)
        dataset, width, schedule = (cell.facets.get(facet, "") for facet in ("dataset", "width", "schedule"))
        return Facts(
            section=science.table_section(dataset),
            columns=science.table_columns(width, schedule, None if recipe is None else recipe.crop),
            device=science.published_device(cell.name),
            links=science.published_links(cell.name),
            results=science.RESULTS,
        )


def _recipe(spec: Spec) -> Recipe:
    return Recipe.from_dict({**spec.settings, **spec.locations})


@functools.cache
def _catalogue(data: str | None) -> dict[str, Recipe]:
    return {recipe.name: recipe for recipe in science.catalogue(science.custom_cards(data))}
