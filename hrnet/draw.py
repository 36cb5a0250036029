"""Pictures for people, with OpenCV alone: label maps in colour, overlays, comparisons, contact sheets, matrices.

Images are HxWx3 uint8 BGR as OpenCV reads them, palettes are RGB as cards hold them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Labelled",
    "colour_label",
    "compact_comparison",
    "comparison",
    "confusion_picture",
    "contact_sheet",
    "error_map",
    "for_report",
    "overlay",
    "side_by_side",
    "to_png",
]

Image = NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]

_IGNORE = 255
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _PAPER, _GAP = (40, 40, 40), 255, 8
_PANEL = 512
"""Widest panel of a comparison or contact sheet, in pixels."""


class Labelled(Protocol):
    """What a contact sheet shows of a sample."""

    @property
    def name(self) -> str:
        """Caption."""

    @property
    def image(self) -> Image:
        """HxWx3 uint8 BGR."""

    @property
    def label(self) -> Image:
        """HxW uint8 training ids."""


def colour_label(label: Image, palette: Palette) -> Image:
    """Return a label map (HxW uint8) in its classes' colours; anything that is no class is black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = np.array(palette, dtype=np.uint8)[:, ::-1]
    return np.asarray(table[label], dtype=np.uint8)


def overlay(image: Image, label: Image, palette: Palette, alpha: float = 0.55) -> Image:
    """Return the image with its label map's colours over it; ignored pixels show the image alone."""
    mixed = cv2.addWeighted(image, 1 - alpha, colour_label(label, palette), alpha, 0)
    return np.where((label < len(palette))[..., None], mixed, image).astype(np.uint8)


def error_map(label: Image, predicted: Image) -> Image:
    """Return a picture of what is right (grey), wrong (red) and ignored (black)."""
    picture = np.zeros((*label.shape, 3), dtype=np.uint8)
    counted = label != _IGNORE
    picture[counted & (label == predicted)] = (150, 150, 150)
    picture[counted & (label != predicted)] = (40, 40, 220)
    return picture


def side_by_side(panels: Sequence[tuple[str, Image]], *, width: int = _PANEL) -> Image:
    """Return captioned panels in one row, each shrunk to `width` pixels at most, padded to the tallest."""
    drawn = [_captioned(caption, _fitted(picture, width)) for caption, picture in panels]
    height = max(panel.shape[0] for panel in drawn)
    padded = [_padded(panel, height, panel.shape[1] + _GAP) for panel in drawn]
    return np.hstack(padded)[:, :-_GAP]


def comparison(image: Image, label: Image, predicted: Image, palette: Palette) -> bytes:
    """Return a PNG of image, label, prediction and errors side by side."""
    return to_png(side_by_side(_compared(image, label, predicted, palette)))


def compact_comparison(
    image: Image, label: Image, predicted: Image | None, palette: Palette, *, width: int = 320
) -> bytes:
    """Return a PNG of image and label over prediction and errors, panels of at most `width` pixels: one of many.

    Where nothing is predicted yet their places are empty.
    """
    if predicted is None:
        empty = np.full_like(image, 225)
        shown = [("image", image), ("label", colour_label(label, palette))]
        panels = [*shown, ("no prediction yet", empty), ("", empty)]
    else:
        panels = _compared(image, label, predicted, palette)
    rows = [side_by_side(panels[:2], width=width), side_by_side(panels[2:], width=width)]
    return to_png(np.vstack(rows))


def _compared(image: Image, label: Image, predicted: Image, palette: Palette) -> list[tuple[str, Image]]:
    right = label[label != _IGNORE] == predicted[label != _IGNORE]
    share = f"errors ({100 * float(right.mean()):.1f} % right)" if right.size else "errors (all ignored)"
    return [
        ("image", image),
        ("label", colour_label(label, palette)),
        ("prediction", overlay(image, predicted, palette)),
        (share, error_map(label, predicted)),
    ]


def contact_sheet(
    samples: Iterable[Labelled], classes: Sequence[str], palette: Palette, *, columns: int = 2, width: int = 384
) -> bytes:
    """Return a PNG of samples as image | overlay pairs, `columns` pairs to a row, with a legend of their classes."""
    pairs, present = [], np.zeros(256, dtype=bool)
    for sample in samples:
        panels = [(sample.name, sample.image), ("", overlay(sample.image, sample.label, palette))]
        pairs.append(side_by_side(panels, width=width))
        present[np.unique(sample.label)] = True
    if not pairs:
        return to_png(_text("no samples"))
    broadest = max(pair.shape[1] for pair in pairs) + 2 * _GAP
    rows = []
    for start in range(0, len(pairs), columns):
        row = pairs[start : start + columns]
        tallest = max(pair.shape[0] for pair in row) + _GAP
        rows.append(np.hstack([_padded(pair, tallest, broadest) for pair in row]))
    sheet_width = max(row.shape[1] for row in rows)
    shown = [index for index in range(len(classes)) if present[index]]
    rows.append(_legend([classes[index] for index in shown], [palette[index] for index in shown], sheet_width))
    return to_png(np.vstack([_padded(row, row.shape[0], sheet_width) for row in rows]))


def confusion_picture(matrix: ArrayLike, classes: Sequence[str]) -> bytes:
    """Return a PNG of a confusion matrix: counts, rows = label, columns = prediction, both in the order of `classes`.

    Each row is shown in percent of its label's pixels; rows of absent classes are empty.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    cell = max(13, min(46, 1200 // len(classes)))
    scale = 0.5 if cell >= 24 else 0.36
    grid = _heat(shares).repeat(cell, axis=0).repeat(cell, axis=1)
    if cell >= 30:
        _write_percentages(grid, shares, cell)
    names = [_text(name.strip() or str(index), scale) for index, name in enumerate(classes)]
    margin = max(name.shape[1] for name in names) + 2 * _GAP
    picture = np.full((margin + grid.shape[0] + _GAP, margin + grid.shape[1] + _GAP, 3), _PAPER, dtype=np.uint8)
    picture[margin : margin + grid.shape[0], margin : margin + grid.shape[1]] = grid
    for index, name in enumerate(names):
        centre = margin + index * cell + cell // 2
        _paste(picture, name, centre - name.shape[0] // 2, margin - _GAP - name.shape[1])
        upright = np.rot90(name)
        _paste(picture, upright, margin - _GAP - upright.shape[0], centre - upright.shape[1] // 2)
    _paste(picture, _text("label, predicted: % of label", 0.4), _GAP, _GAP)
    return to_png(picture)


def to_png(picture: Image) -> bytes:
    """Return a picture as PNG bytes."""
    _, data = cv2.imencode(".png", picture)
    return bytes(data.tobytes())


def for_report(png: bytes, width: int = 1000) -> bytes:
    """Return a picture as JPEG bytes no wider than `width` pixels, about a tenth of the size: a report embeds many.

    What cannot be decoded is returned as it is: a broken picture must not cost a report.
    """
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        return png
    if picture.shape[1] > width:
        height = max(1, round(picture.shape[0] * width / picture.shape[1]))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return bytes(data.tobytes())


def _heat(shares: NDArray[np.float64]) -> Image:
    # White to dark blue; the square root lifts small confusions into sight.
    depth = np.sqrt(shares)[..., None]
    return _uint8(255 - depth * np.array([255 - 120, 255 - 60, 255 - 20]))


def _write_percentages(grid: Image, shares: NDArray[np.float64], cell: int) -> None:
    for row, column in np.argwhere(shares >= 0.005):
        text = f"{100 * shares[row, column]:.0f}"
        (width, height), _ = cv2.getTextSize(text, _FONT, 0.4, 1)
        origin = (int(column * cell + (cell - width) // 2), int(row * cell + (cell + height) // 2))
        ink = (255, 255, 255) if shares[row, column] > 0.3 else _INK
        cv2.putText(grid, text, origin, _FONT, 0.4, ink, 1, cv2.LINE_AA)


def _legend(names: Sequence[str], colours: Palette, width: int) -> Image:
    entries = []
    for name, (red, green, blue) in zip(names, colours, strict=True):
        text = _text(name, 0.5)
        entry = np.full((text.shape[0] + 6, text.shape[1] + 26, 3), _PAPER, dtype=np.uint8)
        cv2.rectangle(entry, (2, 4), (18, entry.shape[0] - 5), (blue, green, red), -1)
        cv2.rectangle(entry, (2, 4), (18, entry.shape[0] - 5), _INK, 1)
        _paste(entry, text, 3, 24)
        entries.append(entry)
    if not entries:
        return np.full((1, width, 3), _PAPER, dtype=np.uint8)
    broad = max(entry.shape[1] for entry in entries) + _GAP
    high = entries[0].shape[0]
    across = max(1, width // broad)
    legend = np.full((math.ceil(len(entries) / across) * high + _GAP, max(width, broad), 3), _PAPER, dtype=np.uint8)
    for index, entry in enumerate(entries):
        _paste(legend, entry, (index // across) * high, (index % across) * broad)
    return legend


def _captioned(caption: str, picture: Image) -> Image:
    bar = np.full((22, picture.shape[1], 3), _PAPER, dtype=np.uint8)
    _paste(bar, _text(caption, 0.5), 1, 2)
    return np.vstack([bar, picture])


def _text(text: str, scale: float = 0.5) -> Image:
    """Return text, dark on white, just large enough. The font knows ASCII only."""
    shown = text.encode("ascii", "replace").decode()
    (width, height), baseline = cv2.getTextSize(shown, _FONT, scale, 1)
    picture = np.full((height + baseline + 4, max(width, 1) + 2, 3), _PAPER, dtype=np.uint8)
    cv2.putText(picture, shown, (1, height + 2), _FONT, scale, _INK, 1, cv2.LINE_AA)
    return picture


def _fitted(picture: Image, width: int) -> Image:
    if picture.shape[1] <= width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return _uint8(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))


def _padded(picture: Image, height: int, width: int) -> Image:
    padded = np.full((height, width, 3), _PAPER, dtype=np.uint8)
    _paste(padded, picture, 0, 0)
    return padded


def _paste(canvas: Image, picture: Image, top: int, left: int) -> None:
    """Copy a picture onto a canvas, cut off at the right and bottom edges."""
    target = canvas[max(top, 0) : top + picture.shape[0], max(left, 0) : left + picture.shape[1]]
    target[:] = picture[: target.shape[0], : target.shape[1]]


def _uint8(array: Any) -> Image:
    return np.asarray(array, dtype=np.uint8)
