"""Checking a prepared data set: files against their hashes, the integrity gate, every sample, duplicates, offsets."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrnet.data.alignment import SAMPLED, Map, edge_map, offset_finding
from hrnet.data.cards import Card
from hrnet.data.finding import SHOWN, Finding
from hrnet.data.gate import is_published, manifest_findings
from hrnet.data.location import is_local, join, sizes
from hrnet.data.shards import MANIFEST, PreparedDataset, Split, open_dataset
from hrnet.data.shares import expected_shares
from hrnet.data.stamps import hash_of
from hrnet.data.transforms import IGNORE
from hrnet.data.writer import fingerprint, sample_digest
from hrnet.errors import DataAwayError, DataError

__all__ = ["Finding", "Report", "SplitReport", "check"]

_LEAK = 0.01
"""Share of val that is in train, too, from which on a published data set is wrong. The published archives may hold a
twin or two among thousands; a folder copied into the other split is all of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """Numbers of one split, from the manifest."""

    images: int
    """Number of samples."""

    complete: int | None
    """Number of samples of the complete data set, if known."""

    class_shares: Mapping[str, float]
    """Class name to its share of the pixels that are not ignored."""

    expected_shares: Mapping[str, float] | None
    """Class name to its published share, where that is known."""

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
    """Only manifest, sample names and file hashes were looked at."""

    partial: Sequence[str]
    """One sentence for each split that is not complete."""

    incomparable: Sequence[str]
    """Why results on such data are not comparable, these sentences included."""

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
            "comparable": not self.incomparable,
            "partial": list(self.partial),
            "incomparable": list(self.incomparable),
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
    edges: Map | None = None


def check(
    uri: str | Path,
    *,
    quick: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Check a prepared data set.

    With `quick`, what every launch does: the manifest, the samples' names and the files' sizes and hashes are looked
    at; a local file that did not change since it was last hashed on this machine is not hashed again. Of a remote
    data set only the manifest and the sizes are: a machine that trains on it hashes what it brings, and one that
    merely plans brings nothing. Otherwise all is hashed anew, remote files are brought, and every sample is decoded
    too: the labels' values and places, the class counts and the content's fingerprint are compared, and images that
    occur twice are listed. `progress` is called with (files brought or samples done, how many in all, what was done
    last). Raises DataError if there is no data set at `uri`.
    """
    dataset = open_dataset(uri)
    findings = list(_check_files(dataset, quick=quick, progress=progress))
    if not findings:
        named = is_local(dataset.uri) or not quick
        findings += _manifest_findings(dataset.uri, json.dumps(dataset.manifest), named=named)
        if not quick:
            findings += _check_samples(dataset, workers or os.cpu_count() or 1, progress)
    elif not quick:
        findings += _damaged_samples(dataset, findings)
    return Report(
        uri=dataset.uri,
        card=dataset.card,
        fingerprint=dataset.fingerprint,
        quick=quick,
        partial=dataset.partial,
        incomparable=dataset.incomparable,
        splits={name: _split_report(dataset, name) for name in dataset.splits},
        findings=sorted(findings, key=lambda finding: not finding.fatal),
    )


@functools.lru_cache(maxsize=64)
def _manifest_findings(uri: str, manifest: str, *, named: bool) -> tuple[Finding, ...]:
    # A launch asks for every cell, and the names of 45,000 tiles take a second to read.
    dataset = PreparedDataset(uri, json.loads(manifest))
    if not named:
        # The names were looked at when it was prepared.
        forced = [Finding(kind="manifest", where=uri, message=told, fatal=True) for told in dataset.refused]
        return (*forced, *manifest_findings(dataset.card, dataset.manifest, {}))
    try:
        names = {name: dataset.split(name).names for name in dataset.splits}
    except DataError as error:
        return (Finding(kind="file", where=uri, message=str(error), fatal=True),)
    return tuple(manifest_findings(dataset.card, dataset.manifest, names))


def _check_files(
    dataset: PreparedDataset, *, quick: bool, progress: Callable[[int, int, str], None] | None
) -> Iterator[Finding]:
    if not is_local(dataset.uri):
        yield from _check_sizes(dataset) if quick else _check_copies(dataset, progress)
        return
    for name in dataset.splits:
        split = dataset.split(name)
        for shard in split.shards:
            path = Path(dataset.uri) / shard.file
            try:
                size = path.stat().st_size
                if size != shard.bytes:
                    message = f"has {size} bytes instead of {shard.bytes}"
                elif hash_of(path, anew=not quick) != shard.sha256:
                    message = "does not have the hash of the manifest"
                else:
                    continue
            except OSError as error:
                message = f"cannot be read ({error.strerror or error})"
            yield Finding(kind="file", where=str(path), message=f"{message}; prepare the data set again", fatal=True)


def _check_sizes(dataset: PreparedDataset) -> Iterator[Finding]:
    there = sizes(dataset.uri)
    for name in dataset.splits:
        for shard in dataset.split(name).shards:
            if (size := there.get(shard.file)) != shard.bytes:
                seen = "is missing" if size is None else f"has {size} bytes instead of {shard.bytes}"
                where = join(dataset.uri, shard.file)
                yield Finding(kind="file", where=where, message=f"{seen}; upload the data set again", fatal=True)


def _check_copies(dataset: PreparedDataset, progress: Callable[[int, int, str], None] | None) -> Iterator[Finding]:
    for name in dataset.splits:
        try:
            dataset.split(name).fetch(anew=True, progress=progress)
        except DataAwayError:
            raise
        except DataError as error:
            yield Finding(kind="file", where=dataset.uri, message=str(error), fatal=True)


def _damaged_samples(dataset: PreparedDataset, damaged: Sequence[Finding]) -> Iterator[Finding]:
    """Name the samples of damaged shards that cannot be read any more."""
    files = {finding.where for finding in damaged}
    for name in dataset.splits:
        split, start = dataset.split(name), 0
        for shard in split.shards:
            numbers = range(start, start + shard.images)
            start += shard.images
            if join(dataset.uri, shard.file) not in files:
                continue
            problems = Counter(problem for number in numbers if (problem := _damage(split, number)) is not None)
            for problem, times in problems.items():
                # The same text for several samples is about the file, which has been named.
                if times == 1:
                    yield Finding(kind="sample", where=f"{shard.file} of {name}", message=problem, fatal=True)


def _damage(split: Split, index: int) -> str | None:
    from PIL import Image

    try:
        row = split.raw(index)
        sample = split[index]
    except (DataError, ValueError) as error:
        return str(error)
    for kind in ("image", "label"):
        # OpenCV decodes files with damage inside without a word; Pillow compares checksums.
        try:
            with Image.open(io.BytesIO(row[kind])) as picture:
                picture.load()
        except (OSError, SyntaxError, ValueError) as error:
            where = f"{split.name} sample {sample.name!r}"
            return f"the {kind} of {where} is damaged ({error}); prepare the data set again"
    return None


def _check_samples(
    dataset: PreparedDataset, workers: int, progress: Callable[[int, int, str], None] | None
) -> Iterator[Finding]:
    total = sum(len(dataset.split(name)) for name in dataset.splits)
    images: dict[str, list[tuple[str, str]]] = defaultdict(list)
    digests: dict[str, list[str]] = {}
    done = 0
    for name in dataset.splits:
        split = dataset.split(name)
        digests[name], pixels = [], np.zeros(dataset.card.num_classes + 1, dtype=np.int64)
        maps: list[Map] = []
        with ThreadPoolExecutor(workers) as pool:
            for seen in pool.map(functools.partial(_look_at, split, dataset.card), range(len(split))):
                if seen.problem is not None:
                    yield Finding(kind="sample", where=f"{name} {seen.name}", message=seen.problem, fatal=True)
                if seen.edges is not None:
                    maps.append(seen.edges)
                digests[name].append(seen.digest)
                images[seen.image_hash].append((name, seen.name))
                pixels += seen.pixels
                done += 1
                if progress is not None:
                    progress(done, total, f"{name} {seen.name}")
        yield from _check_pixels(dataset, name, pixels)
        offset = offset_finding(name, maps)
        if offset is not None:
            yield offset
    if fingerprint(dataset.card, digests) != dataset.fingerprint:
        message = "the samples do not have the fingerprint of the manifest; prepare the data set again"
        yield Finding(kind="manifest", where=join(dataset.uri, MANIFEST), message=message, fatal=True)
    yield from _duplicates(dataset, [places for places in images.values() if len(places) > 1])


def _look_at(split: Split, card: Card, index: int) -> _Seen:
    nothing = np.zeros(card.num_classes + 1, dtype=np.int64)
    try:
        row, sample = split.raw(index), split[index]
    except DataError as error:
        return _Seen(name=f"number {index}", digest="", image_hash=str(index), pixels=nothing, problem=str(error))
    counts = np.bincount(sample.label.ravel(), minlength=256)
    blank = bool((sample.image == sample.image[0, 0]).all())
    return _Seen(
        name=sample.name,
        digest=sample_digest(sample.name, row["image"], sample.label),
        # Tiles without a picture in them are all the same, and no twins.
        image_hash=f"{split.name} {index}" if blank else hashlib.sha256(row["image"]).hexdigest(),
        pixels=np.append(counts[: card.num_classes], counts[IGNORE]),
        problem=_label_problem(card, counts),
        edges=edge_map(sample.image, sample.label) if _is_sampled(index, len(split)) else None,
    )


def _is_sampled(index: int, count: int) -> bool:
    """Whether a sample is one of the evenly spaced ones whose label's place is looked at."""
    return index * SAMPLED // count != (index - 1) * SAMPLED // count


def _label_problem(card: Card, counts: np.ndarray[Any, np.dtype[np.int64]]) -> str | None:
    outside = np.flatnonzero(counts[card.num_classes : IGNORE])
    if outside.size:
        value = card.num_classes + int(outside[0])
        return f"the label holds the value {value}, outside the {card.num_classes} classes; prepare the data set again"
    return None


def _check_pixels(
    dataset: PreparedDataset, name: str, pixels: np.ndarray[Any, np.dtype[np.int64]]
) -> Iterator[Finding]:
    part = dataset.manifest["splits"][name]
    if pixels.tolist() != [*part["class_pixels"], part["ignored_pixels"]]:
        message = f"the class counts of {name} are not those of the manifest; prepare the data set again"
        yield Finding(kind="manifest", where=join(dataset.uri, MANIFEST), message=message, fatal=True)


def _duplicates(dataset: PreparedDataset, groups: Sequence[Sequence[tuple[str, str]]]) -> Iterator[Finding]:
    # The same image in train and val makes the score of val worthless, so those come first.
    leaks = [places for places in groups if len({split for split, _ in places}) > 1]
    twins = [places for places in groups if len({split for split, _ in places}) == 1]
    val = dataset.manifest["splits"].get("val", {"images": 0})["images"]
    fatal = is_published(dataset.card) and len(leaks) > _LEAK * val
    for places in (*leaks, *twins)[:SHOWN]:
        shared = places in leaks
        where = ", ".join(f"{split} {name}" for split, name in places[:4])
        message = "the same image is in several splits" if shared else "the same image occurs more than once"
        yield Finding(
            kind="leak" if shared else "duplicate",
            where=where,
            message=f"{message} ({len(places)} times)",
            fatal=fatal and shared,
        )
    if len(groups) > SHOWN:
        message = f"{len(groups) - SHOWN} more images occur more than once"
        yield Finding(kind="duplicate", where="all splits", message=message, fatal=False)


def _split_report(dataset: PreparedDataset, name: str) -> SplitReport:
    part, classes = dataset.manifest["splits"][name], dataset.card.classes
    counted = sum(part["class_pixels"])
    shares = [pixels / counted if counted else 0.0 for pixels in part["class_pixels"]]
    return SplitReport(
        images=part["images"],
        complete=dataset.card.images.get(name),
        class_shares=dict(zip(classes, shares, strict=True)),
        expected_shares=expected_shares(dataset.card),
        ignored_share=part["ignored_pixels"] / max(1, counted + part["ignored_pixels"]),
        absent=[label for label, pixels in zip(classes, part["class_pixels"], strict=True) if pixels == 0],
    )


def _fields(value: SplitReport | Finding) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}
