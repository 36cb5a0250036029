"""Shares of the pixels that each class should have, and whether labels fit far better when moved by one class.

shares.json holds, for the data sets where it is public, each class's share of the labelled pixels:

- cityscapes: train, from the class weights w = 1 / ln(1.1 + p) published with ERFNet, solved for p.
- ade20k: the column `Ratio` of objectInfo150.txt, which comes with the data set.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card, cards
from hrnet.data.finding import Finding, many

__all__ = ["expected_shares", "moved_by_a_class"]

_FLOOR = 1e-5
"""Rarer classes count as this rare, or one stray pixel would weigh as much as a class."""

_ENOUGH = 20
"""Images below which shares are chance: a finding is then only a note."""

_FAR = float(np.log(2.0))
_BETTER = 0.5
"""Labels count as moved if, pixel for pixel, shares are off by more than a factor of two as they are, and by less than
half of that (in logarithms) when moved. Right labels are nearer: CamVid's val, 101 images of other drives, is off from
its train by exp(0.35), Dubai's by exp(0.06); when moved by a class, by exp(1.9) and more."""

_LOPSIDED = 0.5
"""A class with this share of train decides the comparison alone: in somebody's own data set, whose val may well show
other things, a finding is then only a note."""

_FAR_COMPLETE = 0.1
"""The same for a complete split with published shares, where nothing is left to chance. ADE20K's classes are sorted by
frequency, so that labels moved by one are off by exp(0.17) only."""


@functools.cache
def _published() -> dict[str, list[float]]:
    text = Path(__file__).with_name("shares.json").read_text(encoding="utf-8")
    values: dict[str, list[float]] = json.loads(text)
    return values


def expected_shares(card: Card) -> dict[str, float] | None:
    """Return class name to published share of the labelled pixels (together 1), or None where none is known."""
    known = _published().get(card.name)
    if known is None or len(known) != card.num_classes:
        return None
    return dict(zip(card.classes, (share / sum(known) for share in known), strict=True))


def moved_by_a_class(card: Card, splits: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Compare each split's shares with the published ones, or val with train, under moves of -1, 0 and +1 classes.

    `splits` are those of the manifest.
    """
    if card.num_classes < 3:
        return
    published = expected_shares(card)
    for name, part in splits.items():
        images = part["images"]
        if published is not None:
            reference, source = list(published.values()), "the published ones"
        elif name == "val" and "train" in splits:
            reference, source = _shares(splits["train"]["class_pixels"]), "those of train"
            images = min(images, splits["train"]["images"])
        else:
            continue
        observed = _shares(part["class_pixels"])
        if not sum(observed) or not sum(reference):
            continue
        here, move, there = _best_move(np.array(observed), np.array(reference))
        far = _FAR_COMPLETE if published is not None and images == card.images[name] else _FAR
        if here > far and there < _BETTER * here:
            message = (
                f"the classes' shares are {np.exp(here):.1f} times off {source} as they are, but only "
                f"{np.exp(there):.1f} times with every label {'lowered' if move > 0 else 'raised'} by one: "
                f"{_cause(card, move)}"
            )
            lopsided = card.name not in cards() and max(reference) >= _LOPSIDED
            if images < _ENOUGH:
                message += f" (seen on {many(images, 'image')} only, so perhaps by chance)"
            elif lopsided:
                message += f" (or {name} shows other things: one class has {max(reference):.0%} of train)"
            yield Finding(kind="shift", where=name, message=message, fatal=images >= _ENOUGH and not lopsided)


def _shares(pixels: Sequence[int]) -> list[float]:
    total = sum(pixels)
    return [count / total if total else 0.0 for count in pixels]


def _best_move(observed: NDArray[np.float64], reference: NDArray[np.float64]) -> tuple[float, int, float]:
    """Return the distance as they are, the better of the moves +1 and -1, and the distance with it."""
    distances = {move: _distance(observed, reference, move) for move in (0, 1, -1)}
    best = min((1, -1), key=lambda move: distances[move])
    return distances[0], best, distances[best]


def _distance(observed: NDArray[np.float64], reference: NDArray[np.float64], move: int) -> float:
    """Mean |ln(observed / expected)| over the expected pixels, if a label v stands for the class v - move."""
    count = len(observed)
    labels = slice(max(0, move), count + min(0, move))
    classes = slice(max(0, -move), count + min(0, -move))
    # A class that a move has pushed out is missing from both.
    seen, want = (part / max(float(part.sum()), _FLOOR) for part in (observed[labels], reference[classes]))
    ratios = np.abs(np.log(np.maximum(seen, _FLOOR) / np.maximum(want, _FLOOR)))
    return float((ratios * want).sum())


def _cause(card: Card, move: int) -> str:
    if move > 0:
        return "the values are one too high, as when reduce_zero_label is needed but not set"
    if card.reduce_zero_label:
        return "the values are one too low, as when labels that were reduced already are reduced again"
    return "the values are one too low, as when reduce_zero_label was applied to labels that begin with class 0"
