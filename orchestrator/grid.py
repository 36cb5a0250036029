"""Which trials a command means: cells chosen by filters, completed with overrides, once per seed."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from orchestrator.errors import UsageError
from orchestrator.identity import trial_key
from orchestrator.workload import Cell, Estimate, Spec, Workload

__all__ = ["Override", "Trial", "expand", "near_miss", "parse_overrides", "select"]

_WILD = frozenset("*?[")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One spec to run, with its identity and what it needs."""

    spec: Spec
    key: str
    estimate: Estimate

    @property
    def name(self) -> str:
        """The name that people see."""
        return self.spec.title


@dataclass(frozen=True, slots=True)
class Override:
    """A setting that differs from the recipe, for all cells or for those whose name matches a shell pattern."""

    pattern: str | None
    key: str
    value: str


def parse_overrides(texts: Iterable[str]) -> list[Override]:
    """Parse `key=value` and `PATTERN:key=value`; raises UsageError for anything else."""
    overrides = []
    for text in texts:
        left, equals, value = text.partition("=")
        pattern, colon, key = left.rpartition(":")
        if not equals or not key.strip().isidentifier() or (colon and not pattern.strip()):
            raise UsageError(f"the override {text!r} is neither KEY=VALUE nor PATTERN:KEY=VALUE, such as 'lr=0.005'")
        overrides.append(Override(pattern.strip() or None, key.strip(), value.strip()))
    return overrides


def select(cells: Sequence[Cell], facets: Mapping[str, Sequence[str]], names: Sequence[str] = ()) -> list[Cell]:
    """Return the cells that pass every filter, in their order; an empty filter lets all pass.

    Names and facet values may be shell patterns; a cell passes a filter when it matches one of its values. Raises
    UsageError, with the nearest known one, for a facet, value or name that no cell has, and when nothing is left.
    """
    filters: dict[str, Sequence[str]] = {facet: values for facet, values in facets.items() if values}
    for facet, values in filters.items():
        known = {cell.facets[facet] for cell in cells if facet in cell.facets}
        if not known:
            raise UsageError(f"no cell has a {facet}{near_miss(facet, {f for c in cells for f in c.facets})}")
        _check_each(values, known, facet)
    _check_each(names, [cell.name for cell in cells], "name")
    chosen = [
        cell
        for cell in cells
        if all(_matches(cell.facets.get(facet, ""), values) for facet, values in filters.items())
        and (not names or _matches(cell.name, names))
    ]
    if not chosen:
        asked = [f"{facet} {' or '.join(values)}" for facet, values in filters.items()]
        asked += [f"name {' or '.join(names)}"] if names else []
        raise UsageError(f"no cell has {' and '.join(asked) or 'been given'}; loosen one of the filters")
    return chosen


def expand(
    workload: Workload,
    cells: Sequence[Cell],
    overrides: Sequence[Override] = (),
    seeds: Sequence[int] = (0,),
    data: str | None = None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> list[Trial]:
    """Return one trial per cell and seed, the last of several matching overrides of a key winning.

    Of trials with the same key the first is kept and `note` is told. Raises UsageError with the workload's sentence
    for an override, seed or data set that cannot be, and for a pattern that matches no chosen cell.
    """
    for override in overrides:
        if override.pattern and not any(fnmatchcase(cell.name, override.pattern) for cell in cells):
            hint = near_miss(override.pattern, [cell.name for cell in cells])
            raise UsageError(f"the override of {override.key!r} is for {override.pattern!r}, which no cell has{hint}")
    trials: dict[str, Trial] = {}
    for cell in cells:
        changes = {o.key: o.value for o in overrides if not o.pattern or fnmatchcase(cell.name, o.pattern)}
        # Of a spec only `seed` depends on the seed; a data set is not opened once more for each.
        first = [_resolve(workload, cell, changes, seed, data) for seed in seeds[:1]]
        for seed in seeds:
            trial = _reseeded(first[0], seed)
            if trial.key in trials:
                note(f"{trial.name} is the same trial as {trials[trial.key].name} (key {trial.key}) and is kept once")
            trials.setdefault(trial.key, trial)
    return list(trials.values())


def near_miss(value: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'w18'?"` for a near miss of a known name, else the known names."""
    names = sorted(set(known))
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"


def _resolve(workload: Workload, cell: Cell, changes: Mapping[str, str], seed: int, data: str | None) -> Trial:
    try:
        spec = workload.resolve(cell, changes, seed=seed, data=data)
        return Trial(spec=spec, key=trial_key(spec), estimate=workload.estimate(spec))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def _reseeded(trial: Trial, seed: int) -> Trial:
    if trial.spec.seed == seed:
        return trial
    spec = dataclasses.replace(trial.spec, seed=seed)
    return Trial(spec=spec, key=trial_key(spec), estimate=trial.estimate)


def _check_each(values: Iterable[str], known: Iterable[str], what: str) -> None:
    candidates = list(known)
    for value in values:
        if not any(fnmatchcase(candidate, value) for candidate in candidates):
            verb = "matches" if _WILD & set(value) else "is"
            raise UsageError(f"no cell's {what} {verb} {value!r}{near_miss(value, candidates)}")


def _matches(value: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)
