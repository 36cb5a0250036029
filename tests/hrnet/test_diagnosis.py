"""Every way in which data go wrong has its sentence; right data have none."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hrnet.evaluation.diagnosis import Comparison, diagnose, judge

CLASSES = ("road", "sidewalk", "building", "wall", "sky", "person", "car", "bicycle")
N = len(CLASSES)


def working(seed: int = 0) -> NDArray[np.int64]:
    """Counts of weights that work: nine of ten pixels right, the rest anywhere; classes of unequal size."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 300, (N, N))
    counts[np.diag_indices(N)] = rng.integers(20_000, 200_000, N)
    return counts.astype(np.int64)


def relabelled(counts: NDArray[np.int64], new: list[int]) -> NDArray[np.int64]:
    """Counts after label c has become new[c]; a label that becomes -1 is ignored."""
    made = np.zeros_like(counts)
    for old, to in enumerate(new):
        if to >= 0:
            made[to] += counts[old]
    return made


def only(column: str = "mIoU", here: float = 41.2, published: float = 78.65) -> list[Comparison]:
    return [Comparison(column=column, here=here, published=published)]


@pytest.mark.parametrize(
    ("here", "right"), [(78.65, True), (78.749, True), (78.55, True), (78.76, False), (78.5, False)]
)
def test_the_tolerance_is_a_tenth_of_a_point(here: float, right: bool) -> None:
    verdict = judge(only(here=here), working(), CLASSES)
    assert verdict.right == right
    assert bool(verdict.causes) != right
    assert verdict.sentence.startswith(
        "your data are right: mIoU" if right else "your data, or these weights, are not"
    )


def test_the_sentence_names_both_columns() -> None:
    both = [*only(here=78.65), *only("mIoU ms+flip", 80.30, 80.35)]
    assert judge(both, working(), CLASSES).sentence == (
        "your data are right: mIoU 78.65 here, 78.65 published (+0.00); "
        "mIoU ms+flip 80.30 here, 80.35 published (-0.05)"
    )
    both = [*only(here=78.65), *only("mIoU ms+flip", 79, 80.35)]
    assert not judge(both, working(), CLASSES).right
    assert not judge(only(here=float("nan")), working(), CLASSES).right


def test_what_cannot_be_compared_is_not_called_right() -> None:
    verdict = judge(only(here=78.65), working(), CLASSES, incomparable=["10 of 500 val images of Cityscapes"])
    assert not verdict.right
    assert verdict.sentence.startswith("nothing can be said of your data: 10 of 500 val images of Cityscapes (mIoU 78")
    assert verdict.causes == ()
    shifted = judge(only(), relabelled(working(), [*range(1, N), -1]), CLASSES, incomparable=["val_limit 3"])
    assert "shifted by one" in shifted.causes[0]


def test_labels_shifted_up_were_not_reduced() -> None:
    (first, *_) = diagnose(relabelled(working(), [*range(1, N), -1]), CLASSES)
    assert first.startswith("labels are shifted by one: 7 of 7 frequent classes are predicted as the class before")
    assert "reduce_zero_label was not applied" in first


def test_labels_shifted_down_were_reduced_in_vain() -> None:
    (first, *_) = diagnose(relabelled(working(), [-1, *range(N - 1)]), CLASSES)
    assert first.startswith("labels are shifted by one: 7 of 7 frequent classes are predicted as the class after")
    assert "class 0 was taken as ignored" in first


def test_exchanged_classes_are_named() -> None:
    (first, *_) = diagnose(relabelled(working(), [0, 1, 2, 3, 4, 6, 5, 7]), CLASSES)
    assert first == "person and car are exchanged: each is predicted as the other; look at their labels or colours"


def test_another_order_of_classes() -> None:
    (first, *_) = diagnose(relabelled(working(), [3, 5, 0, 7, 2, 1, 4, 6]), CLASSES)
    assert first.startswith("classes are numbered otherwise: road is found as building, sidewalk is found as person")


def test_predictions_that_have_nothing_to_do_with_the_labels() -> None:
    rng = np.random.default_rng(0)
    counts = np.outer(rng.integers(500, 1000, N), rng.integers(500, 1000, N)).astype(np.int64)
    assert any("hardly more than by chance" in sentence for sentence in diagnose(counts, CLASSES))
    constant = np.zeros((N, N), np.int64)
    constant[:, 4] = 1000
    assert any("hardly more than by chance" in sentence for sentence in diagnose(constant, CLASSES))


def test_ignored_pixels_that_were_kept_as_a_class() -> None:
    counts = working()
    counts[0] = counts.sum() // 40
    counts[0, 0] = 0
    (first, *_) = diagnose(counts, CLASSES)
    assert first.startswith("road covers 1")
    assert "pixels that should be ignored (255) were labelled with it" in first


def test_a_lost_class_and_an_absent_one() -> None:
    counts = working()
    counts[2] = counts[2, ::-1]
    counts[2, 2] = 10
    counts[3] = 0
    said = diagnose(counts, CLASSES)
    assert any(s.startswith("building (") and "is hardly found" in s and "predicted as person" in s for s in said)
    assert any(s.startswith("no label has wall (1 of 8 classes)") for s in said)


def test_labels_that_are_no_class_come_first() -> None:
    said = diagnose(working(), CLASSES, strangers=10**6)
    assert "have a label that is no class of this recipe (0 to 7)" in said[0]


def test_nothing_to_compare() -> None:
    assert "every label is ignored" in diagnose(np.zeros((N, N), np.int64), CLASSES)[0]


def test_a_small_deviation_names_the_worst_classes() -> None:
    (only_cause,) = diagnose(working(), CLASSES)
    assert only_cause.startswith("no class is lost or exchanged (lowest IoU:")


def test_weights_of_other_classes() -> None:
    named = ["Road", "side_walk", "building", "tree", "sky", "person", "car", "bicycle"]
    assert diagnose(working(), CLASSES, named=named) == (
        "the weights are of other classes: they name class 3 'tree', the data 'wall'",
    )
    assert "are of other classes" not in str(diagnose(working(), CLASSES, named=["ROAD", "side walk", "building "]))
