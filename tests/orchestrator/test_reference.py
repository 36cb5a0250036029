"""When a run counts as far below its reference, and when it must not."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable

import pytest

from orchestrator.reference import DRAWN_POINTS, Curve, Reference, judge, tolerance

TOTAL = 40_000
VALIDATIONS = range(4000, TOTAL + 1, 4000)
LOGGED = range(50, TOTAL + 1, 50)


def score(step: float) -> float:
    """A plausible score: 30 at a tenth of the schedule, 77 at its end."""
    return 79.0 * (1 - math.exp(-5 * step / TOTAL)) - 1.5


def loss(step: float) -> float:
    return 2.5 * math.exp(-8 * step / TOTAL) + 0.25


def curve(of: Callable[[float], float], steps: range = VALIDATIONS) -> Curve:
    return tuple((step, of(step)) for step in steps)


REFERENCE = Reference(
    source="log", sha256="00", total=TOTAL, curves={"val/mIoU": curve(score), "train/loss": curve(loss, LOGGED)}
)


def told(own: Curve, total: int = TOTAL, reference: Reference = REFERENCE) -> str:
    return judge({"val/mIoU": own}, total, reference)


def test_the_tolerance_shrinks_along_the_schedule() -> None:
    values = [tolerance(fraction) for fraction in (0.0, 0.25, 0.5, 1.0)]
    assert values == sorted(values, reverse=True)
    assert (values[0], values[-1]) == (15.0, 3.0)


def test_runs_that_differ_by_seed_noise_are_never_flagged() -> None:
    for seed in range(200):
        draw = random.Random(seed)
        end = draw.gauss(0.0, 1.0)
        own = tuple((s, score(s) + end + draw.gauss(0.0, 4.0 * (1 - s / TOTAL) + 0.3)) for s in VALIDATIONS)
        noisy = tuple((s, loss(s) * draw.uniform(0.6, 1.6)) for s in LOGGED)
        for number in range(1, len(own) + 1):
            seen = {"val/mIoU": own[:number], "train/loss": tuple(p for p in noisy if p[0] <= own[number - 1][0])}
            assert judge(seen, TOTAL, REFERENCE) == "", (seed, number)


def test_a_run_far_below_is_flagged_when_it_stays_there_and_not_before() -> None:
    low = tuple((step, score(step) - 20.0) for step in VALIDATIONS)
    own = (*curve(score)[:3], low[3])
    assert told(own) == ""
    assert told((*curve(score)[:3], *low[3:5])) == (
        f"val/mIoU {score(20000) - 20:.1f} at iteration 20000 is 20 points below the reference's {score(20000):.1f}"
    )


def test_a_very_large_gap_needs_no_second_validation_but_the_warm_up_is_left_alone() -> None:
    assert told(((8000, 2.0),)).startswith("val/mIoU 2.0 at iteration 8000 is ")
    early = Reference(source="", sha256="", total=TOTAL, curves={"val/mIoU": ((1000, 60.0), (TOTAL, 70.0))})
    assert told(((1000, 1.0),), reference=early) == ""
    assert told(((2400, 1.0),), reference=early) != ""


def test_the_flag_goes_when_the_run_recovers() -> None:
    own = (*((step, score(step) - 25.0) for step in VALIDATIONS[:5]), (24000, score(24000) - 1.0))
    assert told(own[:5])
    assert told(own) == ""


def test_a_better_run_is_never_flagged() -> None:
    assert told(curve(lambda step: score(step) + 15)) == ""


def test_another_length_of_schedule_is_compared_at_the_same_fraction() -> None:
    short = tuple((step // 2, value) for step, value in curve(score))
    assert told(short, TOTAL // 2) == ""
    low = tuple((step, value - 12) for step, value in short[-2:])
    assert "at iteration 20000 is 12 points below" in told(low, TOTAL // 2)


def test_between_validations_of_the_reference_its_curve_is_interpolated() -> None:
    assert told(((22000, score(22000) - 20), (26000, score(26000) - 20))).startswith("val/mIoU")
    assert told(((22000, score(22000) - 1), (26000, score(26000) - 1))) == ""
    # Before its first validation there is nothing to compare with.
    assert told(((2100, 0.0), (3000, 0.0))) == ""


def test_a_training_loss_is_compared_as_a_mean_that_holds() -> None:
    def judged(factor: Callable[[int], float], until: int) -> str:
        own = tuple((step, loss(step) * factor(step)) for step in LOGGED if step <= until)
        return judge({"train/loss": own}, TOTAL, REFERENCE)

    assert judged(lambda step: 1.8, 20000) == ""
    sentence = judged(lambda step: 3.0, 20000)
    assert sentence.startswith("train/loss ")
    assert "over the iterations 18000 to 20000 is 3.0 times the reference's" in sentence
    # One wild value, or one bad window alone, is none.
    assert judged(lambda step: 30.0 if step == 20000 else 1.0, 20000) == ""
    assert judged(lambda step: 3.0 if step > 18000 else 1.0, 20000) == ""
    assert judged(lambda step: 3.0, 3000) == ""


def test_what_one_of_both_does_not_have_is_not_judged() -> None:
    assert judge({}, TOTAL, REFERENCE) == ""
    assert judge({"val/mIoU": ((20000, 0.0),)}, TOTAL, Reference(source="", sha256="", total=9, curves={})) == ""


@pytest.mark.parametrize("total", [TOTAL, 20_000])
def test_what_is_drawn_keeps_steps_and_is_thinned(total: int) -> None:
    drawn = REFERENCE.drawn(total)
    assert drawn["val/mIoU"] == tuple(point for point in curve(score) if point[0] <= total)
    shown = drawn["train/loss"]
    assert len(shown) == DRAWN_POINTS == len(set(shown))
    assert (shown[0], shown[-1]) == ((50, loss(50)), (total, loss(total)))
    assert set(shown) <= set(REFERENCE.curves["train/loss"])


def test_curves_that_begin_after_the_schedule_are_not_drawn() -> None:
    assert REFERENCE.drawn(100) == {"train/loss": curve(loss, range(50, 101, 50))}


def test_a_reference_survives_a_json_file() -> None:
    assert Reference.from_json(json.loads(json.dumps(REFERENCE.to_json()))) == REFERENCE
