"""Prepared data sets: Parquet shards and a manifest, in a local folder or in S3.

A prepared data set is a folder:

    manifest.json       written last; without it the folder is no data set
    train-00000.parquet, ..., val-00000.parquet, ...

A shard has the columns name, image (the bytes of the source file), label (8-bit grey PNG of training ids, 255 =
ignored), height and width; each sample is a row group of its own, so that reading one reads nothing else. Labels are
stored with every rule of the card applied: 0..n-1 or 255.
"""

from __future__ import annotations

import bisect
import itertools
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hrnet.data.cache import Copies, Progress, RemoteFile
from hrnet.data.cards import Card
from hrnet.data.location import folders, is_local, join, read
from hrnet.errors import DataError, suggestion

__all__ = [
    "FORMAT",
    "MANIFEST",
    "PreparedDataset",
    "Sample",
    "Shard",
    "Split",
    "list_datasets",
    "locate",
    "open_dataset",
]

FORMAT = "hrgrid-shards/1"
MANIFEST = "manifest.json"

SplitName = Literal["train", "val"]
Image = NDArray[np.uint8]

_OPEN_SHARDS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image with its label map."""

    name: str
    """Path of the source image below its split, without the suffix."""

    image: Image
    """HxWx3 uint8, BGR."""

    label: Image
    """HxW uint8 training ids, 255 = ignored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One file of a split, as the manifest describes it."""

    file: str
    """Name below the data set's folder."""

    images: int
    """Number of samples."""

    bytes: int
    """Size of the file."""

    sha256: str
    """Hex digest of the file."""


class Split:
    """The samples of one split, by index. Picklable; files are opened when first read, in each process anew."""

    def __init__(self, uri: str, fingerprint: str, name: str, shards: Sequence[Shard], num_classes: int) -> None:
        self.uri = uri
        self.fingerprint = fingerprint
        self.name = name
        self.shards = tuple(shards)
        self._num_classes = num_classes
        self._starts = [0, *itertools.accumulate(shard.images for shard in self.shards)]
        self._forget_files()

    def _forget_files(self) -> None:
        self._files: dict[int, pq.ParquetFile] = {}
        self._names: tuple[str, ...] | None = None
        self._copies: Copies | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for key in ("_files", "_names", "_copies", "_lock"):
            del state[key]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_files()

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all samples, in order."""
        if self._names is None:
            names: list[str] = []
            for number in range(len(self.shards)):
                names += [str(name) for name in self._read(number, columns=["name"])["name"].to_pylist()]
            self._names = tuple(names)
        return self._names

    def sizes(self) -> NDArray[np.int64]:
        """Return the height and width of every sample, (samples, 2), as the shards state them."""
        columns = ["height", "width"]
        tables = [self._read(number, columns=columns) for number in range(len(self.shards))]
        return np.concatenate([[table[column].to_numpy() for column in columns] for table in tables], axis=1).T

    def __getitem__(self, index: int) -> Sample:
        """Read and decode one sample; raises DataError that names file and sample if it is broken."""
        row = self.raw(index)
        where = f"{self.name} sample {row['name']!r} (number {index} of {self.uri})"
        image = _decode(row["image"], cv2.IMREAD_COLOR)
        label = _decode(row["label"], cv2.IMREAD_UNCHANGED)
        if image is None or label is None:
            broken = "image" if image is None else "label"
            raise DataError(f"the {broken} of {where} cannot be decoded; prepare the data set again")
        if label.ndim != 2 or image.shape[:2] != label.shape:
            raise DataError(f"{where} has an image of {_size(image)} but a label of {_size(label)}")
        return Sample(name=row["name"], image=image, label=label)

    def raw(self, index: int) -> dict[str, Any]:
        """Read one sample as it is stored: name, image and label bytes, height, width."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} samples, there is no number {index}")
        number = bisect.bisect_right(self._starts, index) - 1
        row: dict[str, Any] = self._read(number, row_group=index - self._starts[number]).to_pylist()[0]
        return row

    def fetch(self, *, anew: bool = False, progress: Progress | None = None) -> None:
        """Bring all shards into this machine's cache and check their hashes; a no-op if they are local.

        With `anew` copies that are there are read again. `progress` is called after each shard. Raises DataError.
        """
        if not is_local(self.uri):
            self._held().get_all([_remote(shard) for shard in self.shards], anew=anew, progress=progress)

    def _read(self, number: int, row_group: int | None = None, columns: list[str] | None = None) -> pa.Table:
        """Read a sample, or a column of all."""
        try:
            with self._lock:
                file = self._open(number)
                if row_group is None:
                    return file.read(columns=columns, use_threads=False)
                return file.read_row_group(row_group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(number, error) from error

    def _unreadable(self, number: int, error: Exception) -> DataError:
        file = self.shards[number].file
        return DataError(f"cannot read {join(self.uri, file)}: {error}; check it with `hrgrid data check`")

    def _open(self, number: int) -> pq.ParquetFile:
        file = self._files.pop(number, None)
        if file is None:
            file = self._open_anew(number)
            while len(self._files) >= _OPEN_SHARDS:
                self._files.pop(next(iter(self._files))).close()
        self._files[number] = file
        return file

    def _open_anew(self, number: int) -> pq.ParquetFile:
        path, shard = self._path(number), self.shards[number]
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"the shard {path} is missing; prepare the data set again") from error
        if size != shard.bytes:
            raise DataError(f"the shard {path} has {size} bytes instead of {shard.bytes}; prepare the data set again")
        return pq.ParquetFile(path, pre_buffer=False)

    def _path(self, number: int) -> Path:
        if is_local(self.uri):
            return Path(self.uri) / self.shards[number].file
        return self._held().get(_remote(self.shards[number]))

    def _held(self) -> Copies:
        if self._copies is None:
            self._copies = Copies(self.uri, self.fingerprint)
        return self._copies


class PreparedDataset:
    """A prepared data set: card, manifest, splits."""

    def __init__(self, uri: str, manifest: Mapping[str, Any]) -> None:
        self.uri = uri
        self.manifest = manifest
        self.fingerprint: str = manifest["fingerprint"]
        self.card = Card.from_dict(manifest["card"], where=join(uri, MANIFEST))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that it has."""
        return tuple(self.manifest["splits"])

    @property
    def partial(self) -> tuple[str, ...]:
        """One sentence for each split whose number of images differs from the complete data set's."""
        return tuple(
            f"{counts['images']} of {counts['complete']} {split} images of {self.card.title}"
            for split, counts in self.manifest["partial"].items()
        )

    @property
    def incomparable(self) -> tuple[str, ...]:
        """Why results on it are not comparable with the published ones: what it lacks, and labels that are others."""
        return (*self.partial, *self.manifest.get("incomparable", ()))

    @property
    def refused(self) -> tuple[str, ...]:
        """What was seen wrong when it was prepared, and written all the same because somebody forced it."""
        return tuple(self.manifest.get("refused", ()))

    def split(self, name: str) -> Split:
        """Return a split; raises DataError if there is none of that name."""
        if name not in self.manifest["splits"]:
            raise DataError(f"{self.uri} has no {name} images; it holds {', '.join(self.splits)}")
        shards = [Shard(**shard) for shard in self.manifest["splits"][name]["shards"]]
        return Split(self.uri, self.fingerprint, name, shards, self.card.num_classes)


def open_dataset(uri: str | Path) -> PreparedDataset:
    """Open a prepared data set at a local path or s3://bucket/prefix.

    Raises DataError if there is none, or if its manifest is broken or of another format.
    """
    where = str(uri)
    content = read(where, MANIFEST)
    if content is None:
        raise DataError(f"{where} is no prepared data set (it has no {MANIFEST}); make one with `hrgrid data prepare`")
    try:
        manifest = json.loads(content)
        if manifest["format"] != FORMAT:
            raise DataError(f"{where} has the format {manifest['format']!r}, not {FORMAT!r}; prepare it again")
        return PreparedDataset(where, manifest)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{join(where, MANIFEST)} is broken ({error}); prepare the data set again") from error


def locate(data: str | Path, dataset: str) -> str:
    """Return where the data set named `dataset` is: `data` itself, or a folder of that name below it.

    Raises DataError if neither is a prepared data set of that name.
    """
    where = str(data)
    content = read(where, MANIFEST)
    if content is not None:
        found = open_dataset(where).card.name
        if found != dataset:
            raise DataError(f"{where} holds the data set {found!r}, not {dataset!r}")
        return where
    below = join(where, dataset)
    if read(below, MANIFEST) is None:
        names = [prepared.card.name for prepared in list_datasets(where)]
        hint = suggestion(dataset, names) if names else "; prepare it with `hrgrid data prepare`"
        raise DataError(f"{where} holds no prepared data set {dataset!r}{hint}")
    return below


def list_datasets(data: str | Path) -> list[PreparedDataset]:
    """Return the prepared data sets at a location: itself, or those in the folders right below it, by name."""
    where = str(data)
    if read(where, MANIFEST) is not None:
        return [open_dataset(where)]
    return [open_dataset(folder) for folder in folders(where) if read(folder, MANIFEST) is not None]


def _remote(shard: Shard) -> RemoteFile:
    return RemoteFile(name=shard.file, bytes=shard.bytes, sha256=shard.sha256)


def _decode(data: bytes, mode: int) -> Image | None:
    if not data:
        return None
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    return None if decoded is None else np.asarray(decoded, dtype=np.uint8)


def _size(image: Image) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
