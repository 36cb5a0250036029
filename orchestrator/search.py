"""Searches: settings drawn before anything is planned, so that every sample is a trial of its own, seen in the plan.

A domain is written as in Ray Tune, `lr=loguniform(1e-3,1e-1)`, and read by a small parser: nothing is evaluated. A
draw is a function of the seed, the setting and the number of the sample alone. So a relaunch draws the same samples,
whose trials are known by their keys, and more samples are the same ones and further ones.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.errors import UsageError
from orchestrator.grid import Override, Trial, expand, near_miss
from orchestrator.shape import count as counted
from orchestrator.workload import Cell, Workload

__all__ = ["STOPPED_EARLY", "Domain", "Halving", "Sample", "Standing", "make_samples", "parse_domain", "parse_domains",
           "sample_trials", "standings"]  # fmt: skip

Sample = Mapping[str, str]
"""Setting to its value, as `--set` takes it."""

STOPPED_EARLY: Final = "stopped early by the search"
"""How the reason of such an end begins; a search that is launched again leaves these samples alone."""

_DIGITS: Final = 6
"""Significant digits of a drawn number, so that the settings that are printed are exactly those that were trained."""

_FORM = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*([A-Za-z_]\w*)\s*\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """What one setting is drawn from."""

    key: str
    kind: str
    """uniform, loguniform, quniform, randint, choice or grid."""

    values: tuple[str, ...]
    """The arguments as they were written."""

    def draw(self, source: random.Random) -> str:
        """Draw one value; of a grid any."""
        if self.kind in ("choice", "grid"):
            return source.choice(self.values)
        numbers = [float(value) for value in self.values]
        if self.kind == "randint":
            return str(source.randrange(int(numbers[0]), int(numbers[1])))
        if self.kind == "loguniform":
            value = math.exp(source.uniform(math.log(numbers[0]), math.log(numbers[1])))
        else:
            value = source.uniform(numbers[0], numbers[1])
        if self.kind == "quniform":
            value = round(value / numbers[2]) * numbers[2]
        return repr(float(f"{value:.{_DIGITS}g}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Halving:
    """When a sample is stopped early: asynchronous successive halving (ASHA, Li et al. 2020), as Ray Tune has it."""

    metric: str
    """What samples are compared by, of those that a validation gives."""

    mode: str
    """`max` or `min`."""

    grace: int
    """Steps that every sample gets."""

    reduction: float
    """Of those that reach a rung the best 1/reduction goes on; rungs are at grace * reduction^k steps."""

    total: int
    """Steps of the whole schedule."""

    def __post_init__(self) -> None:
        if not 1 <= self.grace <= self.total:
            raise UsageError(
                f"a search that gives every sample {self.grace} steps of {self.total} cannot be; give --search-grace "
                f"1 to {self.total}"
            )
        if not self.reduction > 1 or not math.isfinite(self.reduction):
            raise UsageError(f"--search-reduction {self.reduction:g} keeps all samples; give more than 1, such as 3")

    @property
    def rungs(self) -> tuple[int, ...]:
        """Steps at which samples are compared, ascending."""
        steps = [float(self.grace)]
        while steps[-1] * self.reduction <= self.total:
            steps.append(steps[-1] * self.reduction)
        return tuple(round(step) for step in steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """Where one sample of a search stands."""

    sample: Sample
    key: str
    state: str
    step: int | None
    value: float | None
    """The metric's last value; of a finished sample the final one."""


def parse_domains(texts: Sequence[str]) -> list[Domain]:
    """Parse several domains; raises UsageError for one that cannot be, and for a setting that has two."""
    domains = [parse_domain(text) for text in texts]
    for domain in domains:
        if sum(other.key == domain.key for other in domains) > 1:
            raise UsageError(f"the search has two domains for {domain.key!r}; give one")
    return domains


def parse_domain(text: str) -> Domain:
    """Parse `lr=loguniform(1e-3,1e-1)`; raises UsageError with one sentence for anything that cannot be.

    `uniform(a,b)`, `loguniform(a,b)` and `quniform(a,b,step)` draw a number from a to b, `randint(a,b)` a whole one
    below b, `choice(...)` one of its values; of `grid(...)` every value is taken.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise UsageError(f"the search {text!r} is not KEY=DOMAIN(...), such as 'lr=loguniform(1e-3,1e-1)'")
    key, kind, inside = form.groups()
    if kind not in _CHECKS:
        raise UsageError(f"the search {text!r} has an unknown domain {kind!r}{near_miss(kind, _CHECKS)}")
    values = tuple(value.strip().strip("'\"") for value in inside.split(",")) if inside.strip() else ()
    complaint = "an empty value" if "" in values else _CHECKS[kind](values)
    if complaint:
        raise UsageError(f"the search {text!r} cannot be drawn from: {complaint}")
    return Domain(key=key, kind=kind, values=values)


def make_samples(domains: Sequence[Domain], count: int | None, seed: int) -> list[Sample]:
    """Draw the samples, without doubles: `count` for every point of the grids among the domains.

    Without anything but grids `count` must be None, otherwise it must be given; raises UsageError.
    """
    grids = [domain for domain in domains if domain.kind == "grid"]
    drawn = [domain for domain in domains if domain.kind != "grid"]
    if drawn and count is None:
        raise UsageError(f"say how many samples of {drawn[0].key} to draw: --samples 8")
    if not drawn and count is not None:
        raise UsageError(
            "a search over grids alone runs all their points; leave --samples out, or draw with choice(...)"
        )
    samples: list[Sample] = []
    for number in range(count or 1):
        chosen = {domain.key: domain.draw(_source(seed, domain.key, number)) for domain in drawn}
        for point in itertools.product(*(domain.values for domain in grids)):
            values = {**chosen, **dict(zip((domain.key for domain in grids), point, strict=True))}
            samples.append({domain.key: values[domain.key] for domain in domains})
    return list({tuple(sample.items()): sample for sample in samples}.values())


def sample_trials(
    workload: Workload,
    cells: Sequence[Cell],
    overrides: Sequence[Override],
    samples: Sequence[Sample],
    seeds: Sequence[int] = (0,),
    data: str | None = None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> list[Trial]:
    """Return one trial per sample of the one cell, none of them comparable; raises UsageError.

    What was chosen as the best of several is no reproduction, even where its settings are the published ones.
    """
    if len(cells) != 1 or len(seeds) != 1:
        raise UsageError(
            f"a search compares samples of one cell and seed, not of {counted(len(cells), 'cell')} and "
            f"{counted(len(seeds), 'seed')}; name one cell, and try the best settings with other seeds afterwards"
        )
    fixed = next((override.key for override in overrides if override.key in samples[0]), None)
    if fixed is not None:
        raise UsageError(f"{fixed!r} is both searched and set; leave out one of them")
    trials: dict[str, Trial] = {}
    for sample in samples:
        drawn = [Override(None, key, value) for key, value in sample.items()]
        (trial,) = expand(workload, cells, [*overrides, *drawn], seeds, data)
        reasons = (*trial.spec.not_comparable, "its settings are a sample of a search")
        trial = replace(trial, spec=replace(trial.spec, sample=dict(sample), not_comparable=reasons))
        if trial.key in trials:
            note(f"{trial.name} is the same trial as {trials[trial.key].name} and is kept once")
        trials.setdefault(trial.key, trial)
    return list(trials.values())


def standings(found: Sequence[Standing], mode: str) -> list[Standing]:
    """Order samples: those that went through to the end first, each group by the metric, those without it last."""
    sign = -1.0 if mode == "max" else 1.0

    def place(standing: Standing) -> tuple[int, float]:
        value = standing.value
        if value is None or not math.isfinite(value):
            return 2, 0.0
        return int(standing.state != "finished"), sign * value

    return sorted(found, key=place)


def _source(seed: int, key: str, number: int) -> random.Random:
    digest = hashlib.sha256(f"{seed}:{key}:{number}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def _numbers(values: Sequence[str], count: int) -> list[float] | str:
    """The arguments as numbers, or what is wrong with them."""
    if len(values) != count:
        return f"it takes {count} numbers and has {len(values)}"
    numbers = []
    for value in values:
        try:
            number = float(value)
        except ValueError:
            return f"{value!r} is no number"
        if not math.isfinite(number):
            return f"{value!r} is no finite number"
        numbers.append(number)
    if numbers[0] >= numbers[1]:
        return f"{values[0]} is not below {values[1]}"
    return numbers


def _check_uniform(values: Sequence[str]) -> str:
    numbers = _numbers(values, 2)
    return numbers if isinstance(numbers, str) else ""


def _check_loguniform(values: Sequence[str]) -> str:
    numbers = _numbers(values, 2)
    if isinstance(numbers, str):
        return numbers
    return "" if numbers[0] > 0 else f"{values[0]} has no logarithm; begin above 0"


def _check_quniform(values: Sequence[str]) -> str:
    numbers = _numbers(values, 3)
    if isinstance(numbers, str):
        return numbers
    return "" if numbers[2] > 0 else f"the step {values[2]} is not above 0"


def _check_randint(values: Sequence[str]) -> str:
    numbers = _numbers(values, 2)
    if isinstance(numbers, str):
        return numbers
    odd = [value for value in values if not re.fullmatch(r"[+-]?\d+", value)]
    return f"{odd[0]!r} is no whole number" if odd else ""


def _check_values(values: Sequence[str]) -> str:
    if not values:
        return "it has no value"
    double = next((value for value in values if values.count(value) > 1), None)
    return "" if double is None else f"{double!r} stands there twice"


_CHECKS: Final[Mapping[str, Callable[[Sequence[str]], str]]] = {
    "uniform": _check_uniform,
    "loguniform": _check_loguniform,
    "quniform": _check_quniform,
    "randint": _check_randint,
    "choice": _check_values,
    "grid": _check_values,
}
