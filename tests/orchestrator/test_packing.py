"""The simulated schedule: never over the slots, never idle without need, near the bound for the published grid."""

from __future__ import annotations

import random

import pytest

from orchestrator.packing import Schedule, lower_bound, simulate


def busiest(schedule: Schedule, durations: list[float], gangs: list[int]) -> int:
    return max(
        sum(g for s, d, g in zip(schedule.starts, durations, gangs, strict=True) if s <= at < s + d)
        for at in schedule.starts
    )


def test_by_hand() -> None:
    # Slots 4: the 10 and the 6 (two slots each) start; at 6 the 4 follows; the gang of four waits for 10.
    schedule = simulate([6.0, 10.0, 4.0, 3.0], [2, 2, 2, 4], 4)
    assert schedule.starts == (0.0, 0.0, 6.0, 10.0)
    assert schedule.finish == 13.0
    assert lower_bound([6.0, 10.0, 4.0, 3.0], [2, 2, 2, 4], 4) == 13.0


def test_nothing_to_do() -> None:
    assert simulate([], [], 4) == Schedule(starts=(), finish=0.0)
    assert lower_bound([], [], 4) == 0.0


def test_random_grids_respect_slots_and_bounds() -> None:
    draw = random.Random(0)
    for _ in range(200):
        count, slots = draw.randint(1, 20), draw.randint(1, 16)
        durations = [draw.choice([1.0, 2.0, 5.0, draw.uniform(0.1, 9)]) for _ in range(count)]
        gangs = [draw.randint(1, slots) for _ in range(count)]
        schedule = simulate(durations, gangs, slots)
        assert busiest(schedule, durations, gangs) <= slots
        assert lower_bound(durations, gangs, slots) <= schedule.finish + 1e-9
        assert schedule.finish <= sum(durations) + 1e-9


@pytest.mark.parametrize("slots", [8, 16, 32, 64, 128, 256, 512, 1024])
def test_a_grid_like_the_published_one_is_near_the_bound(slots: int) -> None:
    # Nine data sets, three widths whose cost per step is about 1 : 2.6 : 13, schedules of 20k to 160k steps.
    schedules = [(40, 80, 160)] + [(80, 160)] + [(20, 40)] + [(40, 80)] * 2 + [(80,)] * 4 + [(40,)]
    durations = [cost * steps for steps_of in schedules for steps in steps_of for cost in (1.0, 2.6, 13.0)]
    gangs = [4] * len(durations)
    assert simulate(durations, gangs, slots).finish <= 1.05 * lower_bound(durations, gangs, slots)


def test_a_gang_that_never_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="a gang of 1 to 4 slots"):
        simulate([1.0], [5], 4)
