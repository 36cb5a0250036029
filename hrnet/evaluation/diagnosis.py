"""Whether the published weights score on prepared data as published, and if not, what the confusion matrix tells.

Published weights are a measuring device: on right data they give the table's number. Where they do not, the way in
which labels and predictions disagree mostly says which step of the preparation went wrong. Pure functions of counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCE", "Comparison", "Verdict", "diagnose", "judge"]

TOLERANCE = 0.1
"""Points of mIoU that a right evaluation of published weights may be off: decoders and rounding, nothing else."""

_FREQUENT = 0.001
"""Share of all labelled pixels from which on a class must be found by working weights."""
_LOST = 0.05
"""Below this IoU a frequent class counts as not found."""
_MOST = 0.6
"""Share of the frequent classes that must be moved in the same way to call it systematic."""
_CHANCE = 0.1
"""Below this agreement beyond chance (Cohen's kappa) predictions have nothing to do with the labels."""
_SHOWN = 5

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One score beside the published one, both in percent."""

    column: str
    """Column of the table, such as `mIoU`."""
    here: float
    """Measured on this data; NaN if nothing was counted."""
    published: float
    """The table's value."""

    @property
    def gap(self) -> float:
        """Measured minus published, rounded like the table."""
        return round(round(self.here, 2) - self.published, 2)

    @property
    def agrees(self) -> bool:
        """Whether they are within the tolerance."""
        return abs(self.gap) <= TOLERANCE

    def __str__(self) -> str:
        return f"{self.column} {self.here:.2f} here, {self.published:.2f} published ({self.gap:+.2f})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the comparison says."""

    right: bool
    """The data give the published scores."""
    sentence: str
    """The answer in one sentence."""
    causes: tuple[str, ...] = ()
    """What deviates and what most likely causes it, the likeliest first; empty where the data are right."""


def judge(
    comparisons: Sequence[Comparison],
    counts: Ints,
    classes: Sequence[str],
    *,
    incomparable: Sequence[str] = (),
    strangers: int = 0,
    named: Sequence[str] = (),
) -> Verdict:
    """Say whether the scores are the published ones, and else why they are not.

    Args:
        comparisons: scores beside the published ones.
        counts: (classes, classes) pixels; rows are labels, columns predictions.
        classes: names.
        incomparable: why these scores could not be the published ones even with right data.
        strangers: pixels whose label is no class and not "ignored".
        named: names of the classes as the weights file has them, if it has.
    """
    scores = "; ".join(map(str, comparisons))
    agree = bool(comparisons) and all(each.agrees for each in comparisons)
    if incomparable:
        causes = () if agree else diagnose(counts, classes, strangers=strangers, named=named)
        sentence = f"nothing can be said of your data: {'; '.join(incomparable)} ({scores})"
        return Verdict(right=False, sentence=sentence, causes=causes)
    if agree:
        return Verdict(right=True, sentence=f"your data are right: {scores}")
    causes = diagnose(counts, classes, strangers=strangers, named=named)
    return Verdict(right=False, sentence=f"your data, or these weights, are not the published ones: {scores}",
                   causes=causes)  # fmt: skip


def diagnose(
    counts: Ints, classes: Sequence[str], *, strangers: int = 0, named: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return sentences on what deviates and the likely cause, the likeliest first; see `judge` for the arguments."""
    total = int(counts.sum())
    if total == 0:
        return ("no pixel was compared: every label is ignored (255), or there are no images",)
    found: list[str] = []
    if strangers:
        found.append(
            f"{strangers / (total + strangers):.1%} of the pixels have a label that is no class of this recipe "
            f"(0 to {len(classes) - 1}): the labels were not mapped (Cityscapes ids instead of trainIds, colours?)"
        )
    unlike = [c for c, (a, b) in enumerate(zip(named, classes, strict=False)) if _bare(a) != _bare(b)]
    if unlike:
        c = unlike[0]
        found.append(f"the weights are of other classes: they name class {c} {named[c]!r}, the data {classes[c]!r}")
    moved = _shift(counts) or _permutation(counts, classes)
    found += [moved] if moved else []
    if not moved:
        found += _swaps(counts, classes)
        found += _background(counts, classes)
        if _kappa(counts) < _CHANCE:
            found.append(
                "predictions agree with the labels hardly more than by chance: weights of another data set, labels "
                "of other images, or pixels that are not what the network expects (blue and red exchanged, another "
                "normalisation)"
            )
    found += _lost(counts, classes)
    found += _absent(counts, classes)
    return tuple(found) or (_near(counts, classes),)


def _bare(name: str) -> str:
    """A class name without what spellings differ in."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _frequent(counts: Ints) -> list[int]:
    labelled = counts.sum(axis=1)
    return [int(c) for c in np.flatnonzero(labelled >= _FREQUENT * labelled.sum()) if labelled[c] > 0]


def _targets(counts: Ints) -> dict[int, int]:
    """Frequent class to what most of its pixels are predicted as, where more than half of them are."""
    rows = {c: counts[c] for c in _frequent(counts)}
    return {c: int(row.argmax()) for c, row in rows.items() if 2 * row.max() > row.sum()}


def _shift(counts: Ints) -> str | None:
    frequent, targets = _frequent(counts), _targets(counts)
    for step, cause in (
        (1, "class 0 was taken as ignored although this data set counts it (reduce_zero_label where there is none), "
            "or it was taken away twice"),
        (-1, "label 0 of the files means ignored here and was kept as a class (reduce_zero_label was not applied)"),
    ):  # fmt: skip
        hits = sum(targets.get(c) == c + step for c in frequent)
        # The class at the end has nowhere to go.
        possible = sum(0 <= c + step < len(counts) for c in frequent)
        if possible >= 2 and hits >= _MOST * possible:
            return (
                f"labels are shifted by one: {hits} of {possible} frequent classes are predicted as the class "
                f"{'after' if step > 0 else 'before'} theirs: {cause}; prepare the data set again"
            )
    return None


def _permutation(counts: Ints, classes: Sequence[str]) -> str | None:
    frequent, targets = _frequent(counts), _targets(counts)
    wrong = {c: target for c, target in targets.items() if target != c}
    if len(wrong) < 3 or len(wrong) < _MOST * len(frequent) or len(set(wrong.values())) < _MOST * len(wrong):
        return None
    shown = ", ".join(f"{classes[c]} is found as {classes[t]}" for c, t in list(wrong.items())[:_SHOWN])
    return (
        f"classes are numbered otherwise: {shown}: labels, or weights, use another order of classes "
        "(another colour table, ids before mapping)"
    )


def _swaps(counts: Ints, classes: Sequence[str]) -> list[str]:
    targets = _targets(counts)
    pairs = [(a, b) for a, b in targets.items() if a < b and targets.get(b) == a]
    return [
        f"{classes[a]} and {classes[b]} are exchanged: each is predicted as the other; look at their labels or colours"
        for a, b in pairs
    ]


def _background(counts: Ints, classes: Sequence[str]) -> list[str]:
    """Classes that cover much and are predicted as many others: pixels that should have been ignored."""
    labelled, found = counts.sum(axis=1), []
    for c in _frequent(counts):
        row = counts[c]
        scattered = row.max() < 0.5 * row.sum()
        if (
            labelled[c] >= 0.05 * labelled.sum()
            and row[c] < 0.2 * row.sum()
            and scattered
            and np.count_nonzero(row) > 2
        ):
            found.append(
                f"{classes[c]} covers {labelled[c] / labelled.sum():.1%} of the labels but is predicted as many other "
                "classes: pixels that should be ignored (255) were labelled with it"
            )
    return found


def _lost(counts: Ints, classes: Sequence[str]) -> list[str]:
    labelled, predicted, right = counts.sum(axis=1), counts.sum(axis=0), np.diagonal(counts)
    lost = [c for c in _frequent(counts) if right[c] < _LOST * (labelled[c] + predicted[c] - right[c])]
    told = []
    for c in sorted(lost, key=lambda c: -labelled[c])[:_SHOWN]:
        other = int(np.argmax(np.where(np.arange(len(counts)) == c, -1, counts[c])))
        told.append(
            f"{classes[c]} ({labelled[c] / labelled.sum():.1%} of the labels) is hardly found: "
            f"{counts[c, other] / labelled[c]:.0%} of it is predicted as {classes[other]}"
        )
    if len(lost) > _SHOWN:
        told.append(f"{len(lost) - _SHOWN} more frequent classes are hardly found")
    return told


def _absent(counts: Ints, classes: Sequence[str]) -> list[str]:
    labelled, predicted = counts.sum(axis=1), counts.sum(axis=0)
    absent = [c for c in range(len(counts)) if not labelled[c]]
    if not absent:
        return []
    names = ", ".join(classes[c] for c in absent[:_SHOWN]) + (", ..." if len(absent) > _SHOWN else "")
    seen = sum(int(predicted[c]) for c in absent) / counts.sum()
    return [
        f"no label has {names} ({len(absent)} of {len(classes)} classes), yet {seen:.1%} of the pixels are predicted "
        "so: files are missing, or these classes were lost in the conversion"
    ]


def _kappa(counts: Ints) -> float:
    """Cohen's kappa: 1 for full agreement, 0 for that of independent labels and predictions."""
    shares = counts / counts.sum()
    chance = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return (float(np.trace(shares)) - chance) / (1 - chance) if chance < 1 else 1.0


def _near(counts: Ints, classes: Sequence[str]) -> str:
    labelled, predicted, right = counts.sum(axis=1), counts.sum(axis=0), np.diagonal(counts)
    union = labelled + predicted - right
    iou = {c: right[c] / union[c] for c in range(len(counts)) if union[c]}
    worst = sorted(iou, key=lambda c: iou[c])[:3]
    shown = ", ".join(f"{classes[c]} {100 * iou[c]:.1f}" for c in worst)
    return (
        f"no class is lost or exchanged (lowest IoU: {shown}): the images differ from the published ones (compressed "
        "or resized again, blue and red exchanged), some images are others, or the weights are of another row"
    )
