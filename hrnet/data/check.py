"""Checking a prepared data set: files against their hashes, every sample, the labels, the counts, duplicates."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrnet.data.cards import Card
from hrnet.data.location import is_local, join, sha256_file
from hrnet.data.shards import MANIFEST, PreparedDataset, Sample, Split, open_dataset
from hrnet.data.transforms import IGNORE
from hrnet.data.writer import fingerprint, sample_digest
from hrnet.errors import DataError

__all__ = ["Finding", "Report", "SplitReport", "check"]

_SHOWN = 10
"""Findings of one kind that are listed one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that a person should know about a data set."""

    where: str
    """File, or split and sample."""

    message: str
    """One sentence."""

    fatal: bool
    """The data set must not be used like this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """Numbers of one split, from the manifest."""

    images: int
    """Number of samples."""

    complete: int | None
    """Number of samples of the complete data set, if known."""

    class_shares: Mapping[str, float]
    """Class name to its share of the pixels that are not ignored."""

    ignored_share: float
    """Share of ignored pixels among all."""

    absent: Sequence[str]
    """Classes without a pixel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a check found."""

    uri: str
    """Where the data set is."""

    card: Card
    """Its card."""

    fingerprint: str
    """Hash of its content, from the manifest."""

    quick: bool
    """Only manifest and file hashes were looked at."""

    splits: Mapping[str, SplitReport]
    """Numbers of each split."""

    findings: Sequence[Finding]
    """Fatal ones first."""

    @property
    def ok(self) -> bool:
        """Whether nothing fatal was found."""
        return not any(finding.fatal for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        return {
            "uri": self.uri,
            "dataset": self.card.name,
            "fingerprint": self.fingerprint,
            "quick": self.quick,
            "ok": self.ok,
            "splits": {name: _fields(split) for name, split in self.splits.items()},
            "findings": [_fields(finding) for finding in self.findings],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What reading one sample gave."""

    name: str
    digest: str
    image_hash: str
    pixels: np.ndarray[Any, np.dtype[np.int64]]
    problem: str | None


def check(
    uri: str | Path,
    *,
    quick: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Check a prepared data set.

    With `quick`, only the manifest and the files' sizes and hashes (a file unchanged since the last check in this
    process is not hashed again); otherwise every sample is decoded too, the labels' values, the class counts and the
    content's fingerprint are compared with the manifest, and images that occur twice are listed. `progress` is called
    with (samples done, samples in all, what was done last). Raises DataError if there is no data set at `uri`.
    """
    dataset = open_dataset(uri)
    findings = list(_check_files(dataset))
    if not quick and not findings:
        findings += _check_samples(dataset, workers or os.cpu_count() or 1, progress)
    splits = {name: _split_report(dataset, name) for name in dataset.splits}
    findings += [Finding(where=dataset.uri, message=sentence, fatal=False) for sentence in dataset.partial]
    findings += _absent(splits)
    return Report(
        uri=dataset.uri,
        card=dataset.card,
        fingerprint=dataset.fingerprint,
        quick=quick,
        splits=splits,
        findings=sorted(findings, key=lambda finding: not finding.fatal),
    )


def _check_files(dataset: PreparedDataset) -> Iterator[Finding]:
    for name in dataset.splits:
        split = dataset.split(name)
        if not is_local(dataset.uri):
            yield from _check_remote(split)
            continue
        for shard in split.shards:
            path = Path(dataset.uri) / shard.file
            try:
                status = path.stat()
                if status.st_size != shard.bytes:
                    message = f"has {status.st_size} bytes instead of {shard.bytes}"
                elif _hash_of(str(path), status.st_size, status.st_mtime_ns) != shard.sha256:
                    message = "does not have the hash of the manifest"
                else:
                    continue
            except OSError as error:
                message = f"cannot be read ({error.strerror or error})"
            yield Finding(where=str(path), message=f"{message}; prepare the data set again", fatal=True)


def _check_remote(split: Split) -> Iterator[Finding]:
    try:
        split.fetch()
    except DataError as error:
        yield Finding(where=split.uri, message=str(error), fatal=True)


@functools.lru_cache(maxsize=4096)
def _hash_of(path: str, size: int, modified: int) -> str:
    return sha256_file(Path(path))


def _check_samples(
    dataset: PreparedDataset, workers: int, progress: Callable[[int, int, str], None] | None
) -> Iterator[Finding]:
    total = sum(len(dataset.split(name)) for name in dataset.splits)
    images: dict[str, list[tuple[str, str]]] = defaultdict(list)
    digests: dict[str, list[str]] = {}
    done = 0
    for name in dataset.splits:
        split, classes = dataset.split(name), dataset.card.num_classes
        digests[name], pixels = [], np.zeros(classes + 1, dtype=np.int64)
        with ThreadPoolExecutor(workers) as pool:
            for seen in pool.map(functools.partial(_look_at, split, classes), range(len(split))):
                if seen.problem is not None:
                    yield Finding(where=f"{name} {seen.name}", message=seen.problem, fatal=True)
                digests[name].append(seen.digest)
                images[seen.image_hash].append((name, seen.name))
                pixels += seen.pixels
                done += 1
                if progress is not None:
                    progress(done, total, f"{name} {seen.name}")
        yield from _check_pixels(dataset, name, pixels)
    if fingerprint(dataset.card, digests) != dataset.fingerprint:
        message = "the samples do not have the fingerprint of the manifest; prepare the data set again"
        yield Finding(where=join(dataset.uri, MANIFEST), message=message, fatal=True)
    yield from _duplicates([places for places in images.values() if len(places) > 1])


def _look_at(split: Split, classes: int, index: int) -> _Seen:
    nothing = np.zeros(classes + 1, dtype=np.int64)
    try:
        row, sample = split.raw(index), split[index]
    except DataError as error:
        return _Seen(name=f"number {index}", digest="", image_hash=str(index), pixels=nothing, problem=str(error))
    counts = np.bincount(sample.label.ravel(), minlength=256)
    return _Seen(
        name=sample.name,
        digest=sample_digest(sample.name, row["image"], sample.label),
        image_hash=hashlib.sha256(row["image"]).hexdigest(),
        pixels=np.append(counts[:classes], counts[IGNORE]),
        problem=_label_problem(sample, counts, classes),
    )


def _label_problem(sample: Sample, counts: np.ndarray[Any, np.dtype[np.int64]], classes: int) -> str | None:
    outside = np.flatnonzero(counts[classes:IGNORE])
    if outside.size:
        return f"the label holds the value {classes + outside[0]}, outside the {classes} classes"
    return None


def _check_pixels(
    dataset: PreparedDataset, name: str, pixels: np.ndarray[Any, np.dtype[np.int64]]
) -> Iterator[Finding]:
    part = dataset.manifest["splits"][name]
    if pixels.tolist() != [*part["class_pixels"], part["ignored_pixels"]]:
        message = f"the class counts of {name} are not those of the manifest; prepare the data set again"
        yield Finding(where=join(dataset.uri, MANIFEST), message=message, fatal=True)


def _duplicates(groups: Sequence[Sequence[tuple[str, str]]]) -> Iterator[Finding]:
    # The same image in train and val makes the score of val worthless, so those come first.
    ordered = sorted(groups, key=lambda places: len({split for split, _ in places}), reverse=True)
    for places in ordered[:_SHOWN]:
        shared = len({split for split, _ in places}) > 1
        where = ", ".join(f"{split} {name}" for split, name in places[:4])
        message = "the same image is in several splits" if shared else "the same image occurs more than once"
        yield Finding(where=where, message=f"{message} ({len(places)} times)", fatal=False)
    if len(ordered) > _SHOWN:
        message = f"{len(ordered) - _SHOWN} more images occur more than once"
        yield Finding(where="all splits", message=message, fatal=False)


def _split_report(dataset: PreparedDataset, name: str) -> SplitReport:
    part, classes = dataset.manifest["splits"][name], dataset.card.classes
    counted = sum(part["class_pixels"])
    shares = [pixels / counted if counted else 0.0 for pixels in part["class_pixels"]]
    return SplitReport(
        images=part["images"],
        complete=dataset.card.images.get(name),
        class_shares=dict(zip(classes, shares, strict=True)),
        ignored_share=part["ignored_pixels"] / max(1, counted + part["ignored_pixels"]),
        absent=[label for label, pixels in zip(classes, part["class_pixels"], strict=True) if pixels == 0],
    )


def _absent(splits: Mapping[str, SplitReport]) -> Iterator[Finding]:
    for name, split in splits.items():
        if split.absent:
            shown = ", ".join(label.strip() for label in split.absent[:_SHOWN])
            more = f" and {len(split.absent) - _SHOWN} more" if len(split.absent) > _SHOWN else ""
            message = f"{len(split.absent)} classes have no pixel: {shown}{more}"
            yield Finding(where=name, message=message, fatal=False)


def _fields(value: SplitReport | Finding) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}
