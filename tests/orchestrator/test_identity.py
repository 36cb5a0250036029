"""A key depends on everything that changes numbers and on nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from orchestrator.identity import canonical_json, trial_key
from orchestrator.workload import Cell, Spec

SPEC = Spec(
    cell=Cell(name="a", facets={"task": "add"}),
    settings={"lr": 0.01, "crop": (512, 1024), "nested": {"b": 1, "a": None}},
    seed=0,
    data="/somewhere",
    data_fingerprint="f",
    code_version="1",
)


@pytest.mark.parametrize(
    "change",
    [
        {"cell": Cell(name="b")},
        {"settings": {**SPEC.settings, "lr": 0.02}},
        {"settings": {**SPEC.settings, "crop": (1024, 512)}},
        {"seed": 1},
        {"data_fingerprint": "g"},
        {"code_version": "2"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_numbers_changes_the_key(change: dict[str, object]) -> None:
    assert trial_key(replace(SPEC, **change)) != trial_key(SPEC)  # type: ignore[arg-type]


def test_where_the_data_is_does_not_matter() -> None:
    other = replace(SPEC, data="s3://elsewhere", not_comparable=("x",), cell=Cell(name="a"))
    assert trial_key(other) == trial_key(SPEC)


def test_how_it_is_run_and_watched_does_not_matter() -> None:
    free = replace(SPEC, settings={**SPEC.settings, "log_interval": 50}, free=("log_interval",))
    assert trial_key(replace(free, settings={**SPEC.settings, "log_interval": 10})) == trial_key(free)
    assert trial_key(replace(free, settings={**free.settings, "lr": 0.02})) != trial_key(free)


def test_a_round_trip_through_json_keeps_the_key() -> None:
    document = json.loads(json.dumps(asdict(SPEC)))
    assert trial_key(replace(SPEC, settings=dict(reversed(document["settings"].items())))) == trial_key(SPEC)


def test_the_key_is_the_same_in_every_process() -> None:
    """The literal pins the scheme: a change of it would orphan every stored result."""
    assert trial_key(SPEC) == "985db6d8e8ea701d"


def test_values_without_one_text_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": float("nan")})
