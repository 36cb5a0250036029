"""The policy and the simulated schedule: never over the slots, nobody starves, near the bound for the real grid."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from jobs._wiring import HrnetWorkload
from orchestrator.dispatch import Dispatch, Gang
from orchestrator.packing import Schedule, best_order, lower_bound, simulate


def gangs(*pairs: tuple[int, float | None]) -> list[Gang]:
    return [Gang(size=size, seconds=seconds) for size, seconds in pairs]


def cases(count: int = 150, *, share: int = 1) -> Iterator[tuple[list[Gang], int]]:
    draw = random.Random(0)
    for _ in range(count):
        slots = draw.randint(1, 16)
        made = []
        for _ in range(draw.randint(1, 24)):
            seconds = draw.choice([1.0, 2.0, 5.0, draw.uniform(0.1, 9)])
            shares = share > 1 and draw.random() < 0.6
            made.append(
                Gang(size=1 if shares else draw.randint(1, slots), seconds=seconds, share=share if shares else 1)
            )
        yield made, slots


def busiest(schedule: Schedule, every: Sequence[Gang]) -> float:
    both = list(zip(schedule.starts, every, strict=True))
    return max(sum(g.slots for s, g in both if s <= at < s + (g.seconds or 0)) for at in schedule.starts)


def test_by_hand() -> None:
    # Four slots: 6 and 10 start. At 6 the gang of four is next and gets 10; the 4 would just fit before, the 5 not.
    schedule = simulate(gangs((2, 6.0), (2, 10.0), (4, 3.0), (2, 5.0), (2, 4.0)), 4)
    assert schedule.starts == (0.0, 0.0, 10.0, 13.0, 6.0)
    assert schedule.sequence == (0, 1, 4, 2, 3)
    assert schedule.finish == 18.0
    assert lower_bound(gangs((2, 6.0), (2, 10.0), (4, 3.0)), 4) == 11.0
    assert lower_bound(gangs((3, 6.0), (3, 5.0), (4, 3.0), (1, 2.0)), 5) == 14.0  # no two of three or four at once


def test_slots_beside_the_reservation_may_be_used_for_as_long_as_one_likes() -> None:
    # Six slots: the gang of four is promised 8 and leaves two; a long gang of two may have those, one of three not.
    schedule = simulate(gangs((3, 8.0), (4, 1.0), (3, 50.0), (2, 99.0)), 6)
    assert schedule.starts == (0.0, 8.0, 9.0, 0.0)


def test_nothing_to_do() -> None:
    assert simulate([], 4) == Schedule(starts=(), sequence=(), finish=0.0)
    assert lower_bound([], 4) == 0.0
    assert best_order([], 4) == []


@pytest.mark.parametrize("share", [1, 2, 3])
def test_random_grids_respect_slots_and_bounds_and_start_everyone_once(share: int) -> None:
    for every, slots in cases(share=share):
        schedule = simulate(every, slots)
        assert sorted(schedule.sequence) == list(range(len(every)))
        assert busiest(schedule, every) <= slots + 1e-9
        assert lower_bound(every, slots) <= schedule.finish + 1e-9
        assert schedule.finish <= sum(gang.seconds or 0 for gang in every) + 1e-9


@pytest.mark.parametrize("share", [1, 2, 3])
def test_the_simulation_is_the_policy_stepped_by_hand_and_nobody_is_overtaken_at_his_cost(share: int) -> None:
    for every, slots in cases(share=share):
        policy, now, starts = Dispatch(every, slots), 0.0, {}
        promised: dict[int, float] = {}
        while True:
            while (index := policy.start(now)) is not None:
                starts[index] = now
                assert now <= promised.get(index, now) + 1e-9
            if policy.waiting:
                head, when = policy.waiting[0], policy.reservation(now)
                assert when is not None
                assert when <= promised.setdefault(head, when) + 1e-9
            if not policy.running:
                break
            now = min(starts[i] + (every[i].seconds or 0) for i in policy.running)
            for index in [i for i in policy.running if starts[i] + (every[i].seconds or 0) == now]:
                policy.end(index)
        assert tuple(starts[i] for i in range(len(every))) == simulate(every, slots).starts


def test_without_expected_ends_patience_protects_a_large_gang() -> None:
    policy = Dispatch(gangs((1, None), (2, None), (1, None), (1, None)), 2, patience=60.0)
    assert [policy.start(0.0), policy.start(0.0), policy.start(0.0)] == [0, 2, None]
    policy.end(2)
    assert policy.reservation(50.0) is None
    assert policy.start(50.0) == 3
    policy.end(3)
    policy = Dispatch(gangs((1, None), (2, None), (1, None)), 2, patience=60.0)
    assert policy.start(0.0) == 0
    assert policy.start(0.0) == 2
    policy.end(2)
    assert policy.start(61.0) is None
    policy.end(0)
    assert policy.start(61.0) == 1


def test_an_overdue_gang_lets_nobody_slip_past() -> None:
    policy = Dispatch(gangs((1, 10.0), (2, 5.0), (1, 8.0)), 2)
    assert [policy.start(0.0), policy.start(0.0)] == [0, 2]
    policy.end(2)
    policy = Dispatch(gangs((1, 10.0), (2, 5.0), (1, 1.0)), 2)
    assert policy.start(9.5) == 0  # expected until 19.5
    assert policy.start(25.0) is None  # overdue: whoever came now would still run when it ends
    policy.end(0)
    assert policy.start(26.0) == 1


def test_sharers_fill_one_slot_before_they_open_another() -> None:
    half = [Gang(size=1, seconds=4.0, share=2)] * 3
    whole = [Gang(size=2, seconds=1.0)]
    assert simulate([*half, *whole], 4).starts == (0.0, 0.0, 0.0, 0.0)
    assert simulate([*half, *whole], 3).starts == (0.0, 0.0, 0.0, 4.0)
    assert lower_bound(half, 1) == 6.0
    assert Gang(size=1, share=3).slots * 3 <= 1.0


def test_order_is_never_worse_than_longest_first_and_always_the_same() -> None:
    for every, slots in cases(3):
        order = best_order(every, slots)
        longest = sorted(range(len(every)), key=lambda i: -(every[i].seconds or 0))
        assert sorted(order) == sorted(longest)
        ours = simulate([every[i] for i in order], slots).finish
        assert ours <= simulate([every[i] for i in longest], slots).finish + 1e-9
        assert order == best_order(every, slots)


@pytest.mark.parametrize("slots", [8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024])
def test_the_published_grid_is_near_the_bound(slots: int) -> None:
    workload = HrnetWorkload()
    needs = [workload.estimate(workload.resolve(cell, {}, seed=0, data=None)) for cell in workload.cells()]
    every = [Gang(size=need.workers, seconds=need.work * need.iterations / need.workers / 3000) for need in needs]
    ordered = [every[i] for i in best_order(every, slots)]
    assert len(every) == 45
    assert simulate(ordered, slots).finish <= 1.05 * lower_bound(every, slots)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 4 slots"):
        simulate(gangs((5, 1.0)), 4)
    with pytest.raises(ValueError, match="1 of 2 durations are unknown"):
        simulate(gangs((1, 1.0), (1, None)), 4)
    with pytest.raises(ValueError, match="share a slot"):
        Dispatch([Gang(size=2, share=2)], 4)
