"""Writing prepared data sets: samples in, Parquet shards and a manifest out, nothing half written left behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.location import sha256_file
from hrnet.data.shards import FORMAT, MANIFEST
from hrnet.errors import DataError

__all__ = ["Encoded", "ShardWriter", "encode", "fingerprint", "partial_counts", "sample_digest", "write_dataset"]

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


def encode(
    name: str, image: bytes, label: NDArray[np.uint8], num_classes: int, *, raw: NDArray[np.int64] | None = None
) -> Encoded:
    """Encode a sample; `label` is HxW uint8 with values 0..num_classes-1 or 255, `raw` as in Encoded."""
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
    """Writes the shards of one split into a folder; a context manager."""

    def __init__(self, folder: Path, split: str, num_classes: int, *, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._split = split
        self._limit = shard_bytes
        self._writer: pq.ParquetWriter | None = None
        self._held = 0
        self._shards: list[dict[str, Any]] = []
        self._pixels = np.zeros(num_classes + 1, dtype=np.int64)
        self._raw = np.zeros(256, dtype=np.int64)
        self.digests: list[str] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()
        elif self._writer is not None:
            self._writer.close()

    def add(self, sample: Encoded) -> None:
        """Append a sample as a row group of its own."""
        size = len(sample.image) + len(sample.label)
        if self._writer is not None and self._held + size > self._limit:
            self._close()
        if self._writer is None:
            self._open()
        assert self._writer is not None
        row = {key: [getattr(sample, key)] for key in _COLUMNS}
        self._writer.write_table(pa.table(row, schema=_SCHEMA))
        self._held += size
        self._shards[-1]["images"] += 1
        self._pixels += np.array(sample.pixels, dtype=np.int64)
        if sample.raw:
            self._raw += np.array(sample.raw, dtype=np.int64)
        self.digests.append(sample.digest)

    def summary(self) -> dict[str, Any]:
        """Return the split's part of the manifest, once closed."""
        return {
            "images": len(self.digests),
            "shards": self._shards,
            "class_pixels": self._pixels[:-1].tolist(),
            "ignored_pixels": int(self._pixels[-1]),
            "raw_values": {str(value): int(count) for value, count in enumerate(self._raw) if count},
        }

    def _open(self) -> None:
        file = f"{self._split}-{len(self._shards):05d}.parquet"
        self._shards.append({"file": file, "images": 0})
        self._held = 0
        # Images are compressed already, and statistics would copy whole images into the footer.
        self._writer = pq.ParquetWriter(
            self._folder / file, _SCHEMA, compression="none", use_dictionary=False, write_statistics=False
        )

    def _close(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        path = self._folder / self._shards[-1]["file"]
        self._shards[-1] |= {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


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

    Everything is written beside `destination` and renamed at the end, so an interrupted call leaves no data set, and
    the next one starts cleanly. `extra` files are written too; `before_publishing` sees the manifest and may raise.
    Raises DataError when the disk refuses (full, read-only).
    """
    building = destination.parent / f".{destination.name}.preparing"
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for name, content in (extra or {}).items():
            (building / name).write_bytes(content)
        manifest = _write(building, card, splits, shard_bytes)
        if before_publishing is not None:
            before_publishing(manifest)
        _replace(building, destination)
    except OSError as error:
        raise DataError(f"cannot write the data set {destination}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return manifest


def _write(folder: Path, card: Card, splits: Mapping[str, Iterable[Encoded]], shard_bytes: int) -> dict[str, Any]:
    summaries, digests = {}, {}
    for split, samples in splits.items():
        with ShardWriter(folder, split, card.num_classes, shard_bytes=shard_bytes) as writer:
            for sample in samples:
                writer.add(sample)
        summaries[split], digests[split] = writer.summary(), writer.digests
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint(card, digests),
        "card": card.to_dict(),
        "splits": summaries,
        "partial": partial_counts(card, {split: summary["images"] for split, summary in summaries.items()}),
    }
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _replace(built: Path, destination: Path) -> None:
    old = destination.parent / f".{destination.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if destination.exists():
        destination.rename(old)
    built.rename(destination)
    shutil.rmtree(old, ignore_errors=True)
