"""Preparing a data set: recognise the download, check every file, write shards and manifest."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from hrnet.data.cards import CARD_FILES, Card, card, cards, load_card
from hrnet.data.location import is_local, read, upload
from hrnet.data.prepare import cityscapes, folder
from hrnet.data.prepare.folder import Found, Pair
from hrnet.data.prepare.labels import apply_table, read_file, read_image_size, read_label
from hrnet.data.shards import MANIFEST, open_dataset
from hrnet.data.writer import Encoded, encode, write_dataset
from hrnet.errors import DataError

__all__ = ["Prepared", "Progress", "prepare", "recognise"]

Progress = Callable[[int, int, str], None]
"""Called with (samples done, samples in all, what was done last)."""

_SOURCE = "source.json"
_CONVERTER = 1
"""Raised when the same source files would be stored differently, so that nothing old is taken for up to date."""

_NO_CONVERTER = ("voc12aug", "pascal-context", "pascal-context-59")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What a call of `prepare` did."""

    uri: str
    """Where the prepared data set is."""

    card: Card
    """Its card."""

    fingerprint: str
    """Hash of its content."""

    images: Mapping[str, int]
    """Number of images of each split."""

    skipped: bool
    """It was there already, made from the same files."""

    notes: Sequence[str]
    """What a person should know: labels left aside, fewer images than the complete data set."""


def prepare(
    source: str | Path,
    destination: str | Path,
    *,
    dataset: str | None = None,
    card: Card | str | Path | None = None,
    force: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Turn an unpacked download into a prepared data set.

    Args:
        source: folder of the download: the official Cityscapes or ADE20K layout, or images/<split> with
            annotations/<split>.
        destination: folder (or s3://bucket/prefix) that becomes the prepared data set.
        dataset: name of a published data set; recognised from the layout if not given.
        card: card of a custom data set, or its file; looked for in `source` if not given.
        force: replace what is at the destination, whatever it is made of.
        workers: threads that read and check; default the number of CPUs.
        progress: called after each sample.

    Raises:
        DataError: the folder is no data set, a file is missing, empty, truncated or damaged, image and label differ in
            size, a label value is no class, the destination holds something else, or the disk refuses.
    """
    where = str(destination)
    found = recognise(Path(source), dataset=dataset, card=card)
    signature = _signature(found)
    if not force:
        _check_destination(where)
        if _is_up_to_date(where, signature):
            return _summary(where, found, skipped=True)
    threads = workers or os.cpu_count() or 1
    done = count(1)
    total = sum(len(pairs) for pairs in found.splits.values())
    splits = {
        split: _convert_all(pairs, found.card, threads, split, done, total, progress)
        for split, pairs in found.splits.items()
    }
    extra = {_SOURCE: json.dumps({"signature": signature}).encode()}
    _write(where, found.card, splits, extra, force)
    return _summary(where, found, skipped=False)


def recognise(source: Path, *, dataset: str | None = None, card: Card | str | Path | None = None) -> Found:
    """Find out which data set a folder holds, and its files; raises DataError that says what was looked for."""
    if not source.is_dir():
        raise DataError(f"there is no folder {source}; unpack the download first")
    if dataset is not None and card is not None:
        raise DataError(f"both the published data set {dataset!r} and a custom card were given; give one")
    if dataset is not None:
        return _published(source, dataset)
    if card is not None:
        return folder.find(source, card if isinstance(card, Card) else load_card(card))
    if any((source / name).is_file() for name in CARD_FILES):
        return folder.find(source, load_card(source))
    if cityscapes.is_cityscapes(source):
        return _published(source, "cityscapes")
    if (_ade_root(source) / "images" / "training").is_dir() or (_ade_root(source) / "images" / "validation").is_dir():
        return _published(source, "ade20k")
    looked = f"a card ({', '.join(CARD_FILES)}), {cityscapes.IMAGES}/ with {cityscapes.LABELS}/ (cityscapes)"
    raise DataError(
        f"{source} is no data set that is known: looked for {looked} and images/training|validation (ade20k); "
        f"name the data set or give a card"
    )


def _published(source: Path, dataset: str) -> Found:
    known = card(dataset)
    if dataset == "cityscapes":
        return cityscapes.find(source, known)
    if dataset in _NO_CONVERTER:
        able = ", ".join(sorted(set(cards()) - set(_NO_CONVERTER)))
        raise DataError(f"there is no converter for {dataset} yet; there is for {able}")
    return folder.find(_ade_root(source) if dataset == "ade20k" else source, known)


def _ade_root(source: Path) -> Path:
    inner = source / "ADEChallengeData2016"
    return inner if inner.is_dir() else source


def _convert(pair: Pair, card: Card) -> Encoded:
    data = read_file(pair.image, "image")
    size = read_image_size(data, pair.image)
    raw = read_label(read_file(pair.label, "label"), pair.label)
    if raw.shape != size:
        raise DataError(
            f"image {pair.image} is {size[1]}x{size[0]} but its label {pair.label} is {raw.shape[1]}x{raw.shape[0]}"
        )
    return encode(pair.name, data, apply_table(raw, pair.table, card.num_classes, pair.label), card.num_classes)


def _convert_all(
    pairs: Sequence[Pair],
    card: Card,
    threads: int,
    split: str,
    done: Iterator[int],
    total: int,
    progress: Progress | None,
) -> Iterator[Encoded]:
    """Yield the encoded samples in order; a few are always under way (decoding and hashing release the lock)."""
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Encoded]] = deque()
        waiting = iter(pairs)
        try:
            while True:
                while len(ahead) < 2 * threads and (pair := next(waiting, None)) is not None:
                    ahead.append(pool.submit(_convert, pair, card))
                if not ahead:
                    return
                sample = ahead.popleft().result()
                yield sample
                if progress is not None:
                    progress(next(done), total, f"{split} {sample.name}")
        finally:
            pool.shutdown(cancel_futures=True)


def _signature(found: Found) -> str:
    """Hash of what the files look like from outside: cheap, and different whenever a file was written again."""
    total = hashlib.sha256(json.dumps([_CONVERTER, found.card.to_dict()]).encode())
    for split, pairs in found.splits.items():
        total.update(split.encode())
        for path in (path for pair in pairs for path in (pair.image, pair.label)):
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"cannot read {path}: {error.strerror or error}") from error
            total.update(f"\n{path}\n{status.st_size}\n{status.st_mtime_ns}".encode())
    return total.hexdigest()


def _check_destination(where: str) -> None:
    if not is_local(where) or not Path(where).exists() or read(where, MANIFEST) is not None:
        return
    if not Path(where).is_dir() or any(Path(where).iterdir()):
        raise DataError(f"{where} exists and is no prepared data set; choose a new folder as the destination")


def _is_up_to_date(where: str, signature: str) -> bool:
    content = read(where, _SOURCE)
    if content is None or read(where, MANIFEST) is None or json.loads(content).get("signature") != signature:
        return False
    shards = [shard for part in open_dataset(where).manifest["splits"].values() for shard in part["shards"]]
    files = [(Path(where) / shard["file"], shard["bytes"]) for shard in shards]
    return not is_local(where) or all(file.is_file() and file.stat().st_size == size for file, size in files)


def _write(
    where: str, card: Card, splits: Mapping[str, Iterator[Encoded]], extra: Mapping[str, bytes], force: bool
) -> None:
    def keep_what_is_there(manifest: Mapping[str, Any]) -> None:
        if force or read(where, MANIFEST) is None:
            return
        there = open_dataset(where)
        if there.fingerprint != manifest["fingerprint"]:
            prints = f"fingerprint {there.fingerprint[:12]}, new {manifest['fingerprint'][:12]}"
            raise DataError(
                f"{where} already holds {there.card.title} with other content ({prints}); "
                f"choose another destination, or force it"
            )

    if is_local(where):
        write_dataset(Path(where).absolute(), card, splits, extra=extra, before_publishing=keep_what_is_there)
        return
    with tempfile.TemporaryDirectory(prefix="hrgrid-") as scratch:
        built = Path(scratch) / "data"
        write_dataset(built, card, splits, extra=extra, before_publishing=keep_what_is_there)
        upload(built, where, last=MANIFEST)


def _summary(where: str, found: Found, *, skipped: bool) -> Prepared:
    dataset = open_dataset(where)
    return Prepared(
        uri=where,
        card=dataset.card,
        fingerprint=dataset.fingerprint,
        images={split: part["images"] for split, part in dataset.manifest["splits"].items()},
        skipped=skipped,
        notes=(*found.notes, *dataset.partial),
    )
