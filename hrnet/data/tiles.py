"""The grids of tiles that Potsdam, Vaihingen and iSAID are cut into: which tile is missing, and which whole picture.

Names and grids are those of the published data sets (REFERENCE.md section 8): Potsdam `2_10_0_512_512_1024` (picture,
x0, y0, x1, y1), Vaihingen `area1_0_512_512_1024`, iSAID `P0000_0_896_512_1408` (picture, y0, y1, x0, x1). A window
that would stick out of its picture is shifted back to the border.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from hrnet.data.finding import Finding, listed, many

__all__ = ["PICTURES", "Tile", "missing", "parse", "picture"]

PICTURES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "potsdam": {
        "train": (
            "2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12", "6_10",
            "6_11", "6_12", "6_7", "6_8", "6_9", "7_10", "7_11", "7_12", "7_7", "7_8", "7_9",
        ),
        "val": (
            "5_15", "6_15", "6_13", "3_13", "4_14", "6_14", "5_14", "2_13", "4_15", "2_14", "5_13", "4_13", "3_14",
            "7_13",
        ),
    },
    "vaihingen": {
        "train": tuple(f"area{n}" for n in (1, 11, 13, 15, 17, 21, 23, 26, 28, 3, 30, 32, 34, 37, 5, 7)),
        "val": tuple(f"area{n}" for n in (6, 24, 35, 16, 14, 22, 10, 4, 2, 20, 8, 31, 33, 27, 38, 12, 29)),
    },
}  # fmt: skip
"""Pictures of each split (REFERENCE.md section 8)."""

_BOX = r"_(\d+)_(\d+)_(\d+)_(\d+)"
_NAMES = {
    "potsdam": re.compile(rf"(\d+_\d+){_BOX}"),
    "vaihingen": re.compile(rf"(area\d+){_BOX}"),
    "isaid": re.compile(rf"(P\d+){_BOX}"),
}
_STRIDE = {"potsdam": (512, 512), "vaihingen": (512, 512), "isaid": (896, 512)}
"""Size of a tile and distance from one to the next, in pixels."""


class Tile(NamedTuple):
    """A tile's place in its picture, in pixels; x1 and y1 lie outside."""

    picture: str
    x0: int
    y0: int
    x1: int
    y1: int


def parse(dataset: str, name: str) -> Tile | None:
    """Return the tile that a sample's name tells of; None if the data set has no tiles or the name is another."""
    pattern = _NAMES.get(dataset)
    match = pattern.fullmatch(name.rsplit("/", 1)[-1]) if pattern is not None else None
    if match is None:
        return None
    first, second, third, fourth = (int(text) for text in match.groups()[1:])
    if dataset == "isaid":
        return Tile(picture=match[1], x0=third, y0=first, x1=fourth, y1=second)
    return Tile(picture=match[1], x0=first, y0=second, x1=third, y1=fourth)


def picture(dataset: str, name: str) -> str | None:
    """Return the picture that a sample was cut from, or None if its name does not say."""
    tile = parse(dataset, name)
    return None if tile is None else tile.picture


def missing(dataset: str, names: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Name the tiles that the grids of the pictures lack, and the pictures that the published lists have.

    A grid is derived from its own tiles, so what is missing at the far border of a single picture shows only where
    pictures are equal in size (Potsdam: the largest seen counts for all).
    """
    for split, members in names.items():
        tiles = [tile for name in members if (tile := parse(dataset, name)) is not None]
        if not tiles:
            continue
        yield from _holes(dataset, split, tiles)
        official = PICTURES.get(dataset, {}).get(split, ())
        present = {tile.picture for tile in tiles}
        gone = [name for name in official if name not in present]
        if gone and len(gone) < len(official):
            message = f"no tile of {many(len(gone), 'picture')} of the published list is there: {listed(gone)}"
            yield Finding(kind="tile", where=split, message=message, fatal=False)


def _holes(dataset: str, split: str, tiles: Sequence[Tile]) -> Iterator[Finding]:
    pictures: dict[str, list[Tile]] = defaultdict(list)
    for tile in tiles:
        pictures[tile.picture].append(tile)
    sizes = {name: _size(members) for name, members in pictures.items()}
    if dataset == "potsdam":
        common, times = Counter(sizes.values()).most_common(1)[0]
        if times > len(sizes) / 2:
            sizes = {name: max(size, common) for name, size in sizes.items()}
    lost: list[tuple[str, str]] = []
    for name, members in pictures.items():
        for box in sorted(_grid(dataset, members, sizes[name]) - {tile[1:] for tile in members}):
            lost.append((name, _name(dataset, Tile(name, *box))))
    if lost:
        files = [f"{tile}.png" for _, tile in lost]
        message = (
            f"{many(len(files), 'tile')} of {many(len({name for name, _ in lost}), 'picture')} missing from the grid: "
            f"{listed(files)}; cut or copy the pictures again"
        )
        yield Finding(kind="tile", where=f"{split} {lost[0][1]}", message=message, fatal=False)


def _size(tiles: Sequence[Tile]) -> tuple[int, int]:
    return max(tile.x1 for tile in tiles), max(tile.y1 for tile in tiles)


def _grid(dataset: str, tiles: Sequence[Tile], size: tuple[int, int]) -> set[tuple[int, int, int, int]]:
    """All boxes of a picture: by the published rule where its tiles have the published size, else rows by columns."""
    clip, stride = _STRIDE[dataset]
    if any((tile.x1 - tile.x0, tile.y1 - tile.y0) != (clip, clip) for tile in tiles):
        columns = {(tile.x0, tile.x1) for tile in tiles}
        rows = {(tile.y0, tile.y1) for tile in tiles}
        return {(x0, y0, x1, y1) for x0, x1 in columns for y0, y1 in rows}
    lefts, tops = ({max(0, min(at, length - clip)) for at in range(0, length, stride)} for length in size)
    return {(x, y, x + clip, y + clip) for x in lefts for y in tops}


def _name(dataset: str, tile: Tile) -> str:
    if dataset == "isaid":
        return f"{tile.picture}_{tile.y0}_{tile.y1}_{tile.x0}_{tile.x1}"
    return f"{tile.picture}_{tile.x0}_{tile.y0}_{tile.x1}_{tile.y1}"
