"""Writing prepared data sets: samples in, Parquet shards and a manifest out, nothing half written left behind."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hrnet.data.building import Building, Closed, build
from hrnet.data.cards import Card
from hrnet.data.location import sha256_file
from hrnet.data.shards import FORMAT, MANIFEST
from hrnet.errors import DataError

__all__ = [
    "SHARD_BYTES",
    "Encoded",
    "ShardWriter",
    "disk_errors",
    "encode",
    "fingerprint",
    "partial_counts",
    "publish",
    "sample_digest",
    "write_dataset",
    "write_splits",
]

SHARD_BYTES = 128 * 2**20
"""A shard is closed when it holds this much."""

_COLUMNS: dict[str, pa.DataType] = {
    "name": pa.string(),
    "image": pa.binary(),
    "label": pa.binary(),
    "height": pa.int32(),
    "width": pa.int32(),
}
_SCHEMA = pa.schema(_COLUMNS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """A checked sample, ready to be stored."""

    name: str
    """Name of the sample, unique in its split."""

    image: bytes
    """The source file's bytes."""

    label: bytes
    """8-bit grey PNG of training ids."""

    height: int
    """Height in pixels."""

    width: int
    """Width in pixels."""

    pixels: tuple[int, ...]
    """Number of pixels of each class, then of the ignored ones."""

    digest: str
    """Hash of name, image bytes and label values."""

    raw: tuple[int, ...] = ()
    """Number of pixels of each of the 256 values of the label file, if known."""

    job: int = 0
    """Number, in its split, of the source image that it comes from."""


def encode(
    name: str,
    image: bytes,
    label: NDArray[np.uint8],
    num_classes: int,
    *,
    raw: NDArray[np.int64] | None = None,
    job: int = 0,
) -> Encoded:
    """Encode a sample; `label` is HxW uint8 with values 0..num_classes-1 or 255, `raw` and `job` as in Encoded."""
    done, png = cv2.imencode(".png", label)
    if not done:
        raise DataError(f"the label of {name!r} cannot be encoded as PNG")
    counts = np.bincount(label.ravel(), minlength=256)
    return Encoded(
        name=name,
        image=image,
        label=png.tobytes(),
        height=label.shape[0],
        width=label.shape[1],
        pixels=(*(int(count) for count in counts[:num_classes]), int(counts[255])),
        digest=sample_digest(name, image, label),
        raw=() if raw is None else tuple(raw.tolist()),
        job=job,
    )


def sample_digest(name: str, image: bytes, label: NDArray[np.uint8]) -> str:
    """Return a hash of a sample's content that no encoder, library version or clock changes."""
    total = hashlib.sha256(f"{name}\n{label.shape[0]}x{label.shape[1]}\n".encode())
    total.update(hashlib.sha256(image).digest())
    total.update(hashlib.sha256(np.ascontiguousarray(label).data).digest())
    return total.hexdigest()


def fingerprint(card: Card, digests: Mapping[str, Iterable[str]]) -> str:
    """Return the hash of a data set's content from the sample digests of each split, in their order."""
    total = hashlib.sha256(json.dumps([FORMAT, list(card.classes)]).encode())
    for split in sorted(digests):
        total.update(f"\n{split}\n".encode())
        for digest in digests[split]:
            total.update(digest.encode())
    return total.hexdigest()


def partial_counts(card: Card, images: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return {split: {images, complete}} for the splits whose number of images is not the complete data set's."""
    return {
        split: {"images": images.get(split, 0), "complete": complete}
        for split, complete in card.images.items()
        if complete is not None and images.get(split, 0) != complete
    }


class ShardWriter:
    """Writes the shards of one split into a building, after those that it has already; a context manager."""

    def __init__(self, building: Building, split: str) -> None:
        self._building = building
        self._split = split
        self._writer: pq.ParquetWriter | None = None
        self._held: list[Encoded] = []
        self._bytes = 0
        self._last, self._taken = building.start(split)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close(self._last + 1, 0)
        elif self._writer is not None:
            self._writer.close()

    def add(self, sample: Encoded) -> None:
        """Append a sample as a row group of its own."""
        if sample.job != self._last:
            self._last, self._taken = sample.job, 0
        size = len(sample.image) + len(sample.label)
        if self._writer is not None and self._bytes + size > self._building.shard_bytes:
            self._close(self._last, self._taken)
        if self._writer is None:
            self._open()
        assert self._writer is not None
        row = {key: [getattr(sample, key)] for key in _COLUMNS}
        self._writer.write_table(pa.table(row, schema=_SCHEMA))
        self._bytes += size
        self._taken += 1
        # What is written is not kept in memory, only what the journal and the manifest say of it.
        self._held.append(replace(sample, image=b"", label=b""))

    def _open(self) -> None:
        self._held, self._bytes = [], 0
        # Images are compressed already, and statistics would copy whole images into the footer.
        self._writer = pq.ParquetWriter(
            self._path(), _SCHEMA, compression="none", use_dictionary=False, write_statistics=False
        )

    def _path(self) -> Path:
        return self._building.folder / f"{self._split}-{len(self._building.closed(self._split)):05d}.parquet"

    def _close(self, job: int, taken: int) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        path = self._path()
        size, digest = path.stat().st_size, sha256_file(path)
        raw = [sample.raw or (0,) * 256 for sample in self._held]
        self._building.add(
            Closed(
                split=self._split,
                shard={"file": path.name, "images": len(self._held), "bytes": size, "sha256": digest},
                names=tuple(sample.name for sample in self._held),
                digests=tuple(sample.digest for sample in self._held),
                pixels=_sum([sample.pixels for sample in self._held]),
                raw=_sum(raw),
                job=job,
                taken=taken,
            )
        )


def write_dataset(
    destination: Path,
    card: Card,
    splits: Mapping[str, Iterable[Encoded]],
    *,
    extra: Mapping[str, bytes] | None = None,
    before_publishing: Callable[[Mapping[str, Any]], None] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> dict[str, Any]:
    """Write a prepared data set into a local folder, which is replaced if it exists; returns the manifest.

    Everything is written beside `destination` and renamed at the end, so an interrupted call leaves no data set.
    `extra` files are written too; `before_publishing` sees the manifest and may raise. Raises DataError when the disk
    refuses (full, read-only), or another process writes to the same destination.
    """
    with disk_errors(destination), build(destination, "", shard_bytes) as building:
        manifest = write_splits(building, card, splits)
        if before_publishing is not None:
            before_publishing(manifest)
        publish(building, destination, manifest, extra or {})
    return manifest


def write_splits(building: Building, card: Card, splits: Mapping[str, Iterable[Encoded]]) -> dict[str, Any]:
    """Write the samples that are still to come of each split; returns the manifest of all."""
    for split, samples in splits.items():
        with ShardWriter(building, split) as writer:
            for sample in samples:
                writer.add(sample)
    closed = {split: building.closed(split) for split in splits}
    digests = {split: [digest for each in shards for digest in each.digests] for split, shards in closed.items()}
    return {
        "format": FORMAT,
        "fingerprint": fingerprint(card, digests),
        "card": card.to_dict(),
        "splits": {split: _summary(shards, card.num_classes) for split, shards in closed.items()},
        "partial": partial_counts(card, {split: len(each) for split, each in digests.items()}),
    }


def publish(building: Building, destination: Path, manifest: Mapping[str, Any], extra: Mapping[str, bytes]) -> None:
    """Write the manifest and the `extra` files, and rename the building to the destination."""
    files = {**extra, MANIFEST: json.dumps(manifest, indent=1).encode()}
    for name, content in files.items():
        with (building.folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    building.finish(destination)


@contextmanager
def disk_errors(destination: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a DataError that names the destination."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(f"cannot write the data set {destination}: {reason}") from error


def _summary(closed: Sequence[Closed], num_classes: int) -> dict[str, Any]:
    pixels = _sum([each.pixels for each in closed]) or (0,) * (num_classes + 1)
    return {
        "images": sum(len(each.digests) for each in closed),
        "shards": [dict(each.shard) for each in closed],
        "class_pixels": list(pixels[:-1]),
        "ignored_pixels": pixels[-1],
        "raw_values": {str(value): count for value, count in enumerate(_sum([each.raw for each in closed])) if count},
    }


def _sum(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(*rows, strict=True))
