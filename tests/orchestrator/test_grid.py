"""Filters, overrides and seeds, and what is said when they cannot be."""

from __future__ import annotations

import pytest

from orchestrator.errors import UsageError
from orchestrator.grid import Override, expand, parse_overrides, select
from tests.orchestrator.fake import FakeWorkload

WORKLOAD = FakeWorkload()
CELLS = WORKLOAD.cells()


def names(*args: object, **filters: list[str]) -> list[str]:
    return [cell.name for cell in select(CELLS, filters, *args)]  # type: ignore[arg-type]


def test_filters_cross_and_keep_the_order() -> None:
    assert len(names()) == 8
    assert names(task=["sort", "add"], shape=["thin"], plan=[]) == [
        "thin-add-short", "thin-add-long", "thin-sort-short", "thin-sort-long",
    ]  # fmt: skip
    assert names(["*-add-*"], shape=["th?n"]) == ["thin-add-short", "thin-add-long"]
    assert names(["thick-sort-long"]) == ["thick-sort-long"]


@pytest.mark.parametrize(
    ("wanted", "filters", "words"),
    [
        ((), {"task": ["sorrt"]}, "no cell's task is 'sorrt'; did you mean 'sort'"),
        ((), {"task": ["x"]}, "no cell's task is 'x'; known: add, sort"),
        ((), {"tsak": ["add"]}, "no cell has a tsak; did you mean 'task'"),
        (["thin-ad-short"], {}, "no cell's name is 'thin-ad-short'; did you mean 'thin-add-short'"),
        (["zzz*"], {}, r"no cell's name matches 'zzz\*'; known: "),
        (["*-add-*"], {"task": ["sort"]}, r"no cell has task sort and name \*-add-\*; loosen one"),
    ],
)
def test_filters_that_cannot_be(wanted: list[str], filters: dict[str, list[str]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        select(CELLS, filters, wanted)


def test_overrides_parse() -> None:
    assert parse_overrides(["rate=0.1", "thin-*: batch = 8", "fail_while=a=b:c"]) == [
        Override(None, "rate", "0.1"),
        Override("thin-*", "batch", "8"),
        Override(None, "fail_while", "a=b:c"),
    ]


@pytest.mark.parametrize("text", ["rate", "=1", "a b=1", ":rate=1", "thin-*:=1", ""])
def test_malformed_overrides(text: str) -> None:
    with pytest.raises(UsageError, match="is neither KEY=VALUE nor PATTERN:KEY=VALUE"):
        parse_overrides([text])


def test_overrides_reach_the_cells_they_are_for_and_the_last_wins() -> None:
    trials = expand(WORKLOAD, CELLS[:2], parse_overrides(["rate=0.1", "thick-*:rate=0.2", "thick-*:steps=4"]))
    assert [(t.spec.cell.name, t.spec.settings["rate"], t.estimate.iterations) for t in trials] == [
        ("thin-add-short", 0.1, 8),
        ("thick-add-short", 0.2, 4),
    ]


def test_an_override_that_the_workload_refuses() -> None:
    with pytest.raises(UsageError, match="thin-add-short: unknown setting 'ratee'; known: batch"):
        expand(WORKLOAD, CELLS, parse_overrides(["ratee=1"]))
    with pytest.raises(UsageError, match=r"the override of 'rate' is for 'thinn-\*', which no cell has"):
        expand(WORKLOAD, CELLS, parse_overrides(["thinn-*:rate=1"]))


def test_seeds_and_doubles() -> None:
    notes: list[str] = []
    trials = expand(WORKLOAD, CELLS[:2], seeds=(0, 1, 1), data="d", note=notes.append)
    assert [(t.name, t.spec.seed) for t in trials] == [
        ("thin-add-short", 0), ("thin-add-short seed 1", 1), ("thick-add-short", 0), ("thick-add-short seed 1", 1),
    ]  # fmt: skip
    assert len({trial.key for trial in trials}) == 4
    assert len(notes) == 2
    assert "kept once" in notes[0]
    assert trials[0].key != expand(WORKLOAD, CELLS[:1], data="other")[0].key
