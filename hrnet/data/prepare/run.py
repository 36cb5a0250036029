"""Preparing a data set: recognise the download, check every file, write shards and manifest."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from hrnet.data.building import build, exclusive
from hrnet.data.cards import Card
from hrnet.data.finding import listed, told
from hrnet.data.gate import manifest_findings, name_findings
from hrnet.data.location import contents, is_local, join, read, staging, upload
from hrnet.data.prepare.convert import Threads, Workers, convert_all
from hrnet.data.prepare.found import Found, Job
from hrnet.data.prepare.recognise import recognise
from hrnet.data.prepare.sources import get_it
from hrnet.data.prepare.tree import open_tree
from hrnet.data.shards import MANIFEST, open_dataset
from hrnet.data.writer import SHARD_BYTES, disk_errors, partial_counts, publish, write_splits
from hrnet.errors import DataError

__all__ = ["Prepared", "Progress", "prepare"]

Progress = Callable[[int, int, str], None]
"""Called with (source images done, source images in all, what was done last)."""

_SOURCE = "source.json"
_OURS = re.compile(rf"{re.escape(MANIFEST)}|{re.escape(_SOURCE)}|(?:train|val)-\d+\.parquet")
"""Files of a prepared data set."""
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
    elsewhere: Workers | None = None,
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
        force: replace the prepared data set at the destination, whatever it is made of, and write what the integrity
            gate refuses. What is no part of a prepared data set is never replaced.
        workers: threads that read and check; default the number of CPUs.
        elsewhere: who reads and checks in place of threads. They must see the source where this machine does. What is
            prepared is the same, byte for byte.
        progress: called after each source image.

    Raises:
        DataError: the source is no data set, it is incomplete, a file is missing, empty, truncated or damaged, image
            and label differ in size, a label value is no class, the integrity gate (hrnet/data/gate.py) refuses, the
            destination holds something else, or the disk refuses.
    """
    if not is_local(str(source)):
        raise DataError(
            f"{source} is no path of this machine: a download is read from a folder or a mounted file system; copy it "
            f"(`aws s3 sync {source} DIR`), prepare DIR, and only what is prepared may go to S3"
        )
    where = str(destination)
    scratch = Path(where if below else Path(where).absolute().parent) if is_local(where) else staging(where)
    with open_tree(Path(source), scratch) as tree:
        found = recognise(tree, dataset=dataset, card=card)
        if below:
            where = join(where, found.card.name)
        _check_names(found, tree.source, partial=partial, force=force)
        task = _Task(
            source=tree.source,
            where=where,
            found=found,
            signature=_signature(found),
            partial=partial,
            force=force,
            workers=workers or os.cpu_count() or 1,
            # A compressed tar was unpacked where this machine alone may see it.
            elsewhere=None if tree.unpacked else elsewhere,
            progress=progress or _say_nothing,
        )
        if not force and _is_up_to_date(where, task.signature):
            return _summary(where, found, (), skipped=True)
        _check_destination(where, force=force)
        notes = _write(task, Path(where).absolute()) if is_local(where) else _write_remote(task)
    return _summary(where, found, notes, skipped=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """What is to be prepared, and how."""

    source: Path
    where: str
    found: Found
    signature: str
    partial: bool
    force: bool
    workers: int
    elsewhere: Workers | None
    progress: Progress


def _check_names(found: Found, source: Path, *, partial: bool, force: bool) -> None:
    """Refuse, before a file is read, what numbers and names already say is wrong or incomplete."""
    if not any(found.splits.values()):
        notes = "; ".join(found.notes)
        raise DataError(
            f"{source} holds no image of {found.card.title} with its label, not even for --partial: {notes}"
        )
    for name in (job.name for jobs in found.splits.values() for job in jobs):
        if not _is_text(name):
            raise DataError(f"{source} holds an image whose name is no UTF-8, {name!r}; rename it")
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
    if missing or found.incomplete:
        raise DataError(f"{source} {_incomplete(found, missing, *(told([finding]) for finding in findings))}")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _incomplete(found: Found, missing: Mapping[str, Mapping[str, int]], *more: str) -> str:
    counted = [f"{each['images']} of {each['complete']} {split} images" for split, each in missing.items()]
    counts = f"{' and '.join([*counted, *found.incomplete])} of {found.card.title}"
    reasons = "; ".join(said for said in (counts, *found.notes, *more, get_it(found.card.name)) if said)
    return f"holds {reasons}; or give --partial to prepare what is there (its results are then marked not comparable)"


def _signature(found: Found) -> str:
    """Hash of what the files look like from outside: cheap, and different whenever a file was written again."""
    total = hashlib.sha256(_how(found).encode())
    for split, jobs in found.splits.items():
        total.update(split.encode())
        for job in jobs:
            total.update(_stamp(job).encode(errors="surrogateescape"))
    return total.hexdigest()


def _how(found: Found) -> str:
    """What decides how source files are stored."""
    return json.dumps([_CONVERTER, found.card.to_dict()])


def _stamp(job: Job) -> str:
    """Text that changes whenever a file of a job is written again."""
    return "".join((f"\n{job.name}", *(f"\n{file.path}\n{file.stamp}" for file in job.inputs)))


def _check_destination(where: str, *, force: bool) -> None:
    """Refuse a destination with anything that replacing it would lose: the download itself may lie there."""
    names = contents(where)
    foreign = [name for name in names if not _OURS.fullmatch(name)]
    prepared = MANIFEST in names
    if foreign and prepared:
        raise DataError(
            f"{where} holds {listed(foreign, 2)} beside the prepared data set, which would be lost; move it away or "
            f"choose another destination"
        )
    is_file = is_local(where) and Path(where).is_file()
    # An interrupted upload leaves shards without a manifest.
    if foreign or is_file or (names and not prepared and not force and is_local(where)):
        holds = f" (it holds {listed(names, 2)})" if names else ""
        raise DataError(f"{where} exists and is no prepared data set{holds}; choose a new folder as the destination")


def _is_up_to_date(where: str, signature: str) -> bool:
    content = read(where, _SOURCE)
    if content is None or read(where, MANIFEST) is None or json.loads(content).get("signature") != signature:
        return False
    shards = [shard for part in open_dataset(where).manifest["splits"].values() for shard in part["shards"]]
    files = [(Path(where) / shard["file"], shard["bytes"]) for shard in shards]
    return not is_local(where) or all(file.is_file() and file.stat().st_size == size for file, size in files)


def _write(task: _Task, destination: Path) -> Sequence[str]:
    """Write a data set to disk and publish it, unless the integrity gate refuses; returns what it has to say."""
    found = task.found
    total = sum(len(jobs) for jobs in found.splits.values())
    sources = {split: [_stamp(job) for job in jobs] for split, jobs in found.splits.items()}
    building_it = build(destination, _how(found), SHARD_BYTES, sources)
    # Within the building, so that it can say what stays when the disk is full; outside, for its own folder.
    with disk_errors(destination), building_it as building, disk_errors(destination):
        done = count(1 + sum(building.start(split)[0] for split in found.splits))

        def tell(split: str, job: Job) -> None:
            task.progress(next(done), total, f"{split} {job.name}")

        with nullcontext(task.elsewhere) if task.elsewhere is not None else Threads(task.workers) as workers:
            splits = {
                split: convert_all(jobs, found.card, workers, building.start(split), functools.partial(tell, split))
                for split, jobs in found.splits.items()
            }
            manifest = {**write_splits(building, found.card, splits), "incomparable": list(found.incomparable)}
        names = {split: [name for each in building.closed(split) for name in each.names] for split in found.splits}
        refused, notes = _approve(task, destination, manifest, names)
        if refused:
            manifest["refused"] = refused
        extra = {_SOURCE: json.dumps({"signature": task.signature}).encode()}
        publish(building, destination, manifest, extra)
    return notes


def _write_remote(task: _Task) -> Sequence[str]:
    """Write a data set beside this machine's cache and upload it; what an interrupted upload left is used again."""
    folder = staging(task.where)
    staged = folder / "data"
    with disk_errors(staged), exclusive(folder):
        notes: Sequence[str] = ()
        if not _is_up_to_date(str(staged), task.signature):
            notes = _write(task, staged)
        _keep_what_is_there(task, task.where, open_dataset(staged).fingerprint)
        upload(staged, task.where, last=MANIFEST, progress=task.progress)
        shutil.rmtree(folder, ignore_errors=True)
    return notes


def _approve(
    task: _Task, destination: Path, manifest: Mapping[str, Any], names: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[str]]:
    """Refuse what must not be published; return what is published only by force, and all that the gate says."""
    findings = manifest_findings(task.found.card, manifest, names)
    fatal = [finding for finding in findings if finding.fatal]
    if fatal and not task.force:
        raise DataError(f"{task.source} is wrong, so nothing was written to {task.where}: {told(fatal)}")
    if manifest["partial"] and not task.partial:
        said = _incomplete(task.found, manifest["partial"])
        raise DataError(f"{task.source} {said}; nothing was written to {task.where}")
    _keep_what_is_there(task, str(destination), manifest["fingerprint"])
    notes = [told([finding]) for finding in findings if finding.kind not in ("count", "absent")]
    return [told([finding]) for finding in fatal], notes


def _keep_what_is_there(task: _Task, where: str, fingerprint: str) -> None:
    there = open_dataset(where) if not task.force and read(where, MANIFEST) is not None else None
    if there is not None and there.fingerprint != fingerprint:
        prints = f"fingerprint {there.fingerprint[:12]}, new {fingerprint[:12]}"
        raise DataError(
            f"{where} already holds {there.card.title} with other content ({prints}); "
            f"choose another destination, or force it"
        )


def _say_nothing(_done: int, _total: int, _what: str) -> None:
    pass


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
