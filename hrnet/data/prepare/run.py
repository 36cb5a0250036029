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

from hrnet.data.cards import Card
from hrnet.data.finding import told
from hrnet.data.gate import manifest_findings, name_findings
from hrnet.data.location import is_local, join, read, upload
from hrnet.data.prepare.found import Found, Job
from hrnet.data.prepare.recognise import recognise
from hrnet.data.prepare.sources import get_it
from hrnet.data.prepare.tree import open_tree
from hrnet.data.shards import MANIFEST, open_dataset
from hrnet.data.writer import Encoded, encode, partial_counts, write_dataset
from hrnet.errors import DataError

__all__ = ["Prepared", "Progress", "prepare"]

Progress = Callable[[int, int, str], None]
"""Called with (source images done, source images in all, what was done last)."""

_SOURCE = "source.json"
_CONVERTER = 2
"""Raised when the same source files would be stored differently, so that nothing old is taken for up to date."""


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
    below: bool = False,
    partial: bool = False,
    force: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Turn a download into a prepared data set.

    Args:
        source: the download: a folder with the official archives, the unpacked files, or both; or one archive.
        destination: folder (or s3://bucket/prefix) that becomes the prepared data set.
        dataset: name of a published data set; recognised from the files if not given.
        card: card of a custom data set, or its file; looked for in `source` if not given.
        below: the data set becomes the folder of its name below `destination`.
        partial: prepare what is there, although the data set is known to have more or fewer images.
        force: replace what is at the destination, whatever it is made of, and write what the integrity gate refuses.
        workers: threads that read and check; default the number of CPUs.
        progress: called after each source image.

    Raises:
        DataError: the source is no data set, it is incomplete, a file is missing, empty, truncated or damaged, image
            and label differ in size, a label value is no class, the integrity gate (hrnet/data/gate.py) refuses, the
            destination holds something else, or the disk refuses.
    """
    where = str(destination)
    scratch = Path(where if below else Path(where).absolute().parent) if is_local(where) else None
    with open_tree(Path(source), scratch) as tree:
        found = recognise(tree, dataset=dataset, card=card)
        if below:
            where = join(where, found.card.name)
        _check_names(found, tree.source, partial=partial, force=force)
        signature = _signature(found)
        if not force:
            _check_destination(where)
            if _is_up_to_date(where, signature):
                return _summary(where, found, (), skipped=True)
        threads = workers or os.cpu_count() or 1
        done = count(1)
        total = sum(len(jobs) for jobs in found.splits.values())
        names: dict[str, list[str]] = {split: [] for split in found.splits}
        splits = {
            split: _named(_convert_all(jobs, found.card, threads, split, done, total, progress), names[split])
            for split, jobs in found.splits.items()
        }
        extra = {_SOURCE: json.dumps({"signature": signature}).encode()}
        notes = _write(tree.source, where, found.card, splits, names, extra, force)
    return _summary(where, found, notes, skipped=False)


def _check_names(found: Found, source: Path, *, partial: bool, force: bool) -> None:
    """Refuse, before a file is read, what numbers and names already say is wrong or incomplete."""
    images = {split: len(jobs) for split, jobs in found.splits.items()} if found.images is None else found.images
    # Where a job gives several tiles, their names are known once they are cut.
    names = {split: [job.name for job in jobs] for split, jobs in found.splits.items()} if found.images is None else {}
    findings = name_findings(found.card, images, names)
    if not force and (fatal := [finding for finding in findings if finding.fatal]):
        raise DataError(f"{source} is wrong: {told(fatal)}")
    if partial:
        return
    unknown = found.splits.keys() - images.keys()
    missing = {split: each for split, each in partial_counts(found.card, images).items() if split not in unknown}
    counted = [f"{each['images']} of {each['complete']} {split} images" for split, each in missing.items()]
    if not counted and not found.incomplete:
        return
    counts = " and ".join([*counted, *found.incomplete])
    told_too = (*found.notes, *(told([finding]) for finding in findings), get_it(found.card.name))
    more = "".join(f"; {note}" for note in told_too if note)
    raise DataError(
        f"{source} holds {counts} of {found.card.title}{more}; or give --partial to prepare what "
        f"is there (its results are then marked not comparable)"
    )


def _convert(job: Job, card: Card) -> list[Encoded]:
    return [
        encode(each.name, each.image, each.label, card.num_classes, raw=each.raw) for each in job.convert(job, card)
    ]


def _convert_all(
    jobs: Sequence[Job],
    card: Card,
    threads: int,
    split: str,
    done: Iterator[int],
    total: int,
    progress: Progress | None,
) -> Iterator[Encoded]:
    """Yield the encoded samples in order; a few jobs are always under way (decoding and hashing release the lock)."""
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[tuple[Job, Future[list[Encoded]]]] = deque()
        waiting = iter(jobs)
        try:
            while True:
                while len(ahead) < 2 * threads and (job := next(waiting, None)) is not None:
                    ahead.append((job, pool.submit(_convert, job, card)))
                if not ahead:
                    return
                job, future = ahead.popleft()
                yield from future.result()
                if progress is not None:
                    progress(next(done), total, f"{split} {job.name}")
        finally:
            pool.shutdown(cancel_futures=True)


def _named(samples: Iterator[Encoded], names: list[str]) -> Iterator[Encoded]:
    """Pass samples on and keep their names, for the gate."""
    for sample in samples:
        names.append(sample.name)
        yield sample


def _signature(found: Found) -> str:
    """Hash of what the files look like from outside: cheap, and different whenever a file was written again."""
    total = hashlib.sha256(json.dumps([_CONVERTER, found.card.to_dict()]).encode())
    for split, jobs in found.splits.items():
        total.update(split.encode())
        for job in jobs:
            total.update(f"\n{job.name}".encode())
            for file in job.inputs:
                total.update(f"\n{file.path}\n{file.stamp}".encode())
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
    source: Path,
    where: str,
    card: Card,
    splits: Mapping[str, Iterator[Encoded]],
    names: Mapping[str, Sequence[str]],
    extra: Mapping[str, bytes],
    force: bool,
) -> Sequence[str]:
    """Write the samples and publish them, unless the integrity gate refuses; returns what it has to say."""
    notes: list[str] = []

    def approve(manifest: Mapping[str, Any]) -> None:
        findings = manifest_findings(card, manifest, names)
        notes.extend(told([finding]) for finding in findings if finding.kind not in ("count", "absent"))
        if force:
            return
        if fatal := [finding for finding in findings if finding.fatal]:
            raise DataError(f"{source} is wrong, so nothing was written to {where}: {told(fatal)}")
        there = open_dataset(where) if read(where, MANIFEST) is not None else None
        if there is not None and there.fingerprint != manifest["fingerprint"]:
            prints = f"fingerprint {there.fingerprint[:12]}, new {manifest['fingerprint'][:12]}"
            raise DataError(
                f"{where} already holds {there.card.title} with other content ({prints}); "
                f"choose another destination, or force it"
            )

    if is_local(where):
        write_dataset(Path(where).absolute(), card, splits, extra=extra, before_publishing=approve)
        return notes
    with tempfile.TemporaryDirectory(prefix="hrgrid-") as scratch:
        built = Path(scratch) / "data"
        write_dataset(built, card, splits, extra=extra, before_publishing=approve)
        upload(built, where, last=MANIFEST)
    return notes


def _summary(where: str, found: Found, notes: Sequence[str], *, skipped: bool) -> Prepared:
    dataset = open_dataset(where)
    return Prepared(
        uri=where,
        card=dataset.card,
        fingerprint=dataset.fingerprint,
        images={split: part["images"] for split, part in dataset.manifest["splits"].items()},
        skipped=skipped,
        notes=(*found.notes, *found.incomplete, *dataset.partial, *notes),
    )
