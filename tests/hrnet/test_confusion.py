from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hrnet.evaluation.confusion import ConfusionMatrix

CASES = [
    "a_19cls_ignore",
    "b_missing_classes",
    "c_out_of_range_labels",
    "d_150cls",
    "e_all_ignored_plus_normal",
    "f_perfect",
]


@pytest.mark.parametrize("case", CASES)
def test_areas_and_scores_equal_the_reference(case: str, parity_dir: Path) -> None:
    numbers = json.loads((parity_dir / "iou.json").read_text())[case]
    arrays = np.load(parity_dir / "iou.npz")
    matrix = ConfusionMatrix(numbers["num_classes"])
    for i in range(numbers["num_images"]):
        matrix.update(arrays[f"{case}/pred{i}"], arrays[f"{case}/label{i}"])
    for ours, name in zip(matrix.areas(), ("intersect", "pred", "label"), strict=True):
        np.testing.assert_array_equal(ours, arrays[f"{case}/area_{name}"])
    scores = matrix.scores()
    # The reference divides float32 areas.
    np.testing.assert_allclose(scores.iou, arrays[f"{case}/IoU"], rtol=1e-6)
    np.testing.assert_allclose(scores.acc, arrays[f"{case}/Acc"], rtol=1e-6)
    assert scores.mIoU == pytest.approx(numbers["mIoU_unrounded"], rel=1e-6)
    assert scores.mAcc == pytest.approx(numbers["mAcc_unrounded"], rel=1e-6)
    assert scores.aAcc == pytest.approx(100 * numbers["aAcc_unrounded"], rel=1e-6)
    assert round(scores.mIoU, 2) == pytest.approx(numbers["summary"]["mIoU"], rel=1e-6)


def maps(seed: int, shape: tuple[int, ...] = (30, 41)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 9, shape).astype(np.uint8)
    label[rng.random(shape) < 0.2] = 255
    return rng.integers(0, 7, shape).astype(np.uint8), label


def test_counts_equal_a_count_by_hand() -> None:
    pred, label = maps(0)
    matrix = ConfusionMatrix(7)
    matrix.update(pred, label)
    expected = [[int(((label == i) & (pred == j)).sum()) for j in range(7)] for i in range(7)]
    assert matrix.counts().tolist() == expected
    assert matrix.areas()[1].sum() == (label != 255).sum()


def test_types_and_batches_do_not_matter() -> None:
    pred, label = maps(1, (2, 16, 12))
    expected = ConfusionMatrix(7)
    expected.update(pred, label)
    for convert in (lambda a: a.astype(np.int64), torch.from_numpy, lambda a: torch.from_numpy(a.astype(np.int64))):
        ours = ConfusionMatrix(7)
        ours.update(convert(pred), convert(label))
        assert torch.equal(ours.state(), expected.state())
    slices = ConfusionMatrix(7)
    for one, other in zip(pred.transpose(0, 2, 1), label.transpose(0, 2, 1), strict=True):
        slices.update(one, other)
    assert torch.equal(slices.state(), expected.state())


def test_values_beyond_a_byte_are_no_class() -> None:
    matrix = ConfusionMatrix(254)
    matrix.update(np.array([0, 1, 253]), np.array([256, -1, 253]))
    intersection, predicted, labelled = matrix.areas()
    assert (intersection.sum(), predicted.sum(), labelled.sum()) == (1, 3, 1)


def test_counts_stay_exact_beyond_float32() -> None:
    matrix = ConfusionMatrix(2)
    zeros = np.zeros((4096, 4097), np.uint8)
    for _ in range(2):
        matrix.update(zeros, zeros)
    assert matrix.counts()[0, 0] == 2 * zeros.size > 1 << 24


def test_merge_and_state_equal_one_count() -> None:
    whole, first, second = ConfusionMatrix(7), ConfusionMatrix(7), ConfusionMatrix(7)
    for part, seed in ((first, 2), (second, 3)):
        part.update(*maps(seed))
        whole.update(*maps(seed))
    summed = ConfusionMatrix(7)
    summed.load_state(first.state() + second.state())
    assert torch.equal(summed.state(), whole.state())
    first.merge(second)
    assert first.scores().mIoU == whole.scores().mIoU
    with pytest.raises(ValueError, match="6 classes into 7"):
        whole.merge(ConfusionMatrix(6))
    with pytest.raises(ValueError, match="do not fit 6 classes"):
        ConfusionMatrix(6).load_state(whole.state())


def test_nothing_counted_has_no_score() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    scores = matrix.scores()
    assert all(math.isnan(value) for value in (scores.mIoU, scores.mAcc, scores.aAcc, *scores.iou))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        ConfusionMatrix(3).update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
