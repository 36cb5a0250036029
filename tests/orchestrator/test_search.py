"""Domains, draws, rungs and the table of a search."""

from __future__ import annotations

import math

import pytest

from orchestrator.errors import UsageError
from orchestrator.search import Halving, Standing, make_samples, parse_domain, parse_domains, standings


def draws(text: str, count: int = 300, seed: int = 0) -> list[str]:
    domain = parse_domain(text)
    return [sample[domain.key] for sample in make_samples([domain], count, seed)]


def test_numbers_lie_in_their_domain() -> None:
    values = [float(value) for value in draws("lr=loguniform(1e-3,1e-1)")]
    assert all(1e-3 <= value <= 1e-1 for value in values)
    below = sum(value < 1e-2 for value in values) / len(values)
    assert 0.4 < below < 0.6, "half of the draws belong to each decade"
    values = [float(value) for value in draws("momentum = uniform( 0.8 , 0.99 )")]
    assert all(0.8 <= value <= 0.99 for value in values)
    assert sum(values) / len(values) == pytest.approx(0.895, abs=0.02)
    assert {float(value) for value in draws("a=quniform(0,1,0.25)")} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert set(draws("n=randint(1,4)")) == {"1", "2", "3"}
    assert set(draws("n=randint(-2,0)")) == {"-2", "-1"}
    assert set(draws("crop=choice(512x1024, '769x769')")) == {"512x1024", "769x769"}


def test_a_drawn_number_is_the_one_that_is_printed() -> None:
    for value in draws("lr=loguniform(1e-6,1e-1)"):
        assert repr(float(value)) == value
        assert len(value.split("e")[0].replace(".", "").strip("0")) <= 6


def test_draws_are_of_seed_setting_and_number_alone() -> None:
    lr, decay = parse_domain("lr=loguniform(1e-3,1e-1)"), parse_domain("weight_decay=uniform(0,1)")
    eight = make_samples([lr], 8, 0)
    assert make_samples([lr], 8, 0) == eight
    assert make_samples([lr], 12, 0)[:8] == eight, "more samples are the same ones and further ones"
    assert [sample["lr"] for sample in make_samples([lr, decay], 8, 0)] == [sample["lr"] for sample in eight]
    assert not {sample["lr"] for sample in make_samples([lr], 8, 1)} & {sample["lr"] for sample in eight}


def test_a_grid_is_the_full_product_and_is_combined_with_every_draw() -> None:
    grids = parse_domains(["a=grid(1,2,3)", "b=grid(x,y)"])
    assert [dict(sample) for sample in make_samples(grids, None, 0)][:2] == [
        {"a": "1", "b": "x"},
        {"a": "1", "b": "y"},
    ]
    assert len(make_samples(grids, None, 0)) == 6
    mixed = make_samples(parse_domains(["lr=uniform(0,1)", "b=grid(x,y)"]), 3, 0)
    assert [sample["b"] for sample in mixed] == ["x", "y"] * 3
    assert len({sample["lr"] for sample in mixed}) == 3
    assert list(mixed[0]) == ["lr", "b"]


def test_no_sample_is_drawn_twice() -> None:
    assert sorted(draws("a=choice(1,2)", count=50)) == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr", "is not KEY=DOMAIN(...)"),
        ("lr=0.1", "is not KEY=DOMAIN(...)"),
        ("lr=loguniform(1,2", "is not KEY=DOMAIN(...)"),
        ("lr=lambda: 0(1)", "is not KEY=DOMAIN(...)"),
        ("lr=loguniforn(1,2)", "unknown domain 'loguniforn'; did you mean 'loguniform'?"),
        ("lr=__import__(os)", "unknown domain '__import__'"),
        ("lr=loguniform(0,1)", "0 has no logarithm"),
        ("lr=uniform(1)", "it takes 2 numbers and has 1"),
        ("lr=uniform(2,1)", "2 is not below 1"),
        ("lr=uniform(a,1)", "'a' is no number"),
        ("lr=uniform(0,inf)", "'inf' is no finite number"),
        ("lr=uniform(0,)", "an empty value"),
        ("n=randint(0,1.5)", "'1.5' is no whole number"),
        ("a=quniform(0,1,0)", "the step 0 is not above 0"),
        ("a=choice()", "it has no value"),
        ("a=grid(1,1)", "'1' stands there twice"),
    ],
)
def test_a_bad_domain_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_domain(text)
    assert said in str(error.value)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_a_search_needs_is_said() -> None:
    with pytest.raises(UsageError, match="two domains for 'lr'"):
        parse_domains(["lr=uniform(0,1)", "lr=grid(1,2)"])
    with pytest.raises(UsageError, match="how many samples of lr to draw"):
        make_samples([parse_domain("lr=uniform(0,1)")], None, 0)
    with pytest.raises(UsageError, match="leave --samples out"):
        make_samples([parse_domain("lr=grid(1,2)")], 3, 0)


def test_rungs() -> None:
    def halving(grace: int, reduction: float) -> Halving:
        return Halving(metric="val/mIoU", mode="max", grace=grace, reduction=reduction, total=40_000)

    assert halving(4000, 3).rungs == (4000, 12_000, 36_000)
    assert halving(40_000, 3).rungs == (40_000,)
    with pytest.raises(UsageError, match="--search-grace 1 to 40000"):
        halving(40_001, 3)
    with pytest.raises(UsageError, match="--search-reduction 1 keeps all"):
        halving(4000, 1)


def test_finished_samples_come_first_and_those_without_a_score_last() -> None:
    found = [
        Standing(sample={}, key=key, state=state, step=1, value=value)
        for key, state, value in (
            ("a", "stopped", 90.0), ("b", "finished", 50.0), ("c", "failed", None), ("d", "finished", 60.0),
            ("e", "failed", math.nan), ("f", "stopped", 95.0),
        )
    ]  # fmt: skip
    assert [standing.key for standing in standings(found, "max")] == ["d", "b", "f", "a", "c", "e"]
    assert [standing.key for standing in standings(found, "min")] == ["b", "d", "a", "f", "c", "e"]
