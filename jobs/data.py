"""`hrgrid data synth|sources|prepare|check|preview`: from images on disk to a prepared data set that one has seen."""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrnet.errors import DataError
from jobs._command import MISUSED, add_step, main_of
from jobs._options import add_json, positive
from jobs._progress import progress
from jobs._show import plural, print_table
from orchestrator.errors import UsageError
from orchestrator.settings import absolute_uri

if TYPE_CHECKING:
    from hrnet.data.check import Report
    from hrnet.data.prepare.run import Prepared
    from orchestrator.tasks import Tasks

HELP = "Make synthetic data, prepare a data set, check it, draw it."

ALL = "all"
"""Stands for every published data set."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand for each step."""
    steps = parser.add_subparsers(dest="step", required=True, metavar="synth|sources|prepare|check|preview")
    add = functools.partial(add_step, steps, "data")
    _add_synth(add("synth", "Draw a small, learnable copy of a data set in its native layout.", synth))
    getting = add("sources", "Say which official files to get where, and under which terms.", sources)
    getting.add_argument("dataset", nargs="?", metavar="D", help="published data set (default: all nine)")
    add_json(getting)
    _add_prepare(add("prepare", "Turn a download into checked shards with a manifest.", prepare))
    for name, text, action in (
        ("check", "Verify a prepared data set: hashes, every image and label, values.", check),
        ("preview", "Draw samples of a prepared data set with their labels and a legend.", preview),
    ):
        step = add(name, text, action)
        step.add_argument("data", type=absolute_uri, metavar="URI", help="a prepared data set")
        add_json(step)
        if name == "check":
            step.add_argument("--quick", action="store_true", help="hashes and sizes alone, no decoding")
        else:
            step.add_argument(
                "--to", type=_folder, default=Path(), metavar="DIR", help="where to write (default: here)"
            )
            step.add_argument("--split", choices=("train", "val"), default="train")
            step.add_argument("--count", type=positive, default=8, metavar="N", help="samples (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Run the step."""
    step: Callable[[argparse.Namespace], int] = args.action
    return step(args)


def synth(args: argparse.Namespace) -> int:
    """Draw a synthetic data set, or with `all` each of them into a folder of its name."""
    from hrnet.data.synthetic import DATASETS, synthesise

    every = args.dataset == ALL
    if every and args.size is not None:
        raise UsageError(
            f"--size {args.size[0]}x{args.size[1]}: each data set has a size of its own; name one of them"
        )
    facts = []
    for name in DATASETS if every else (args.dataset,):
        most = DATASETS[name].most if every else {}
        counts = {split: min(getattr(args, split), most.get(split, sys.maxsize)) for split in ("train", "val")}
        where = args.to / name if every else args.to
        synthesise(name, where, **counts, size=args.size, seed=args.seed, archives=args.archives)
        facts.append({"dataset": name, "path": str(where), **counts})
        if not args.json:
            drawn = f"{counts['train']} training and {counts['val']} validation images drawn"
            print(f"{name}: {drawn} in {where}", flush=True)
    if args.json:
        print(json.dumps(facts if every else facts[0], indent=1))
    else:
        source, name = (args.to / "NAME", "NAME") if every else (args.to, args.dataset)
        print(f"next: hrgrid data prepare {shlex.quote(str(source))} --dataset {name} --to DIR --partial")
    return 0


def sources(args: argparse.Namespace) -> int:
    """Print where published data sets are to be had."""
    from hrnet.data.cards import card, cards
    from hrnet.data.prepare.sources import SOURCES

    names = [card(args.dataset).name] if args.dataset else list(cards())
    if args.json:
        print(json.dumps({name: asdict(SOURCES[name]) for name in names}, indent=1))
        return 0
    for name in names:
        known, source = card(name), SOURCES[name]
        print(f"{name}: {known.title}, {known.train_images} training and {known.val_images} validation images")
        print(f"  files   {', '.join(source.files)}")
        print(f"  from    {', '.join(source.sites)}")
        print(f"  access  {source.access}")
        print(f"  terms   {source.terms}")
        print(f"  note    {source.hint}")
    print("next: hrgrid data prepare DIR --dataset D --to URI, where DIR holds the files as they were downloaded")
    return 0


def prepare(args: argparse.Namespace) -> int:
    """Prepare a data set; it becomes the folder of its name below `--to`."""
    from hrnet.data.prepare.run import prepare as convert

    with _elsewhere(args) as workers, progress(args.json, "preparing") as report:
        # Elsewhere the working folder is another one.
        source = args.source if workers is None else os.path.abspath(args.source)
        done = convert(
            source, args.to, dataset=args.dataset, card=args.card, below=True, partial=args.partial,
            force=args.force, elsewhere=workers, progress=report,
        )  # fmt: skip
    if args.json:
        print(json.dumps(_prepared_facts(done), indent=1))
        return 0
    images = ", ".join(f"{count} {split}" for split, count in done.images.items())
    how = "is there already, made of the same files" if done.skipped else "prepared"
    print(f"{done.card.title} {how}: {images} images in {done.uri} (fingerprint {done.fingerprint[:12]})")
    for note in done.notes:
        print(f"note: {note}")
    uri, data = shlex.quote(done.uri), shlex.quote(args.to)
    print(f"next: hrgrid data check {uri}   hrgrid plan --dataset {done.card.name} --data {data}")
    return 0


@contextmanager
def _elsewhere(args: argparse.Namespace) -> Iterator[Tasks | None]:
    """The cluster that was named, all of whose machines see the source; None for this machine's threads."""
    address = args.address or os.environ.get("RAY_ADDRESS")
    if address is None or not os.path.exists(args.source):
        # Without a source there is nothing to start a cluster's processes for.
        yield None
        return
    from orchestrator.tasks import tasks

    source = os.path.abspath(args.source)
    with tasks(address) as workers:
        if blind := workers.blind(source):
            raise UsageError(
                f"{source} is not there, or not readable, on {', '.join(blind)}: put the download into a folder that "
                "all machines of the cluster share, or prepare without --address and RAY_ADDRESS"
            )
        yield workers


def check(args: argparse.Namespace) -> int:
    """Verify a prepared data set; exit code 2 if something is wrong."""
    from hrnet.data.check import check as verify

    with progress(args.json, "checking") as report_step:
        report = verify(args.data, quick=args.quick, progress=report_step)
    if args.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        _print_check(report)
        if report.ok:
            print(f"next: hrgrid data preview {shlex.quote(args.data)}")
    return 0 if report.ok else MISUSED


def preview(args: argparse.Namespace) -> int:
    """Draw samples, evenly spaced over a split."""
    from hrnet.data.shards import open_dataset
    from hrnet.draw import contact_sheet

    dataset = open_dataset(args.data)
    split = dataset.split(args.split)
    count = min(args.count, len(split))
    samples = (split[index * len(split) // count] for index in range(count))
    picture = contact_sheet(samples, dataset.card.classes, dataset.card.palette)
    target = args.to / f"{dataset.card.name}_{args.split}.png"
    try:
        args.to.mkdir(parents=True, exist_ok=True)
        target.write_bytes(picture)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error
    if args.json:
        print(json.dumps({"picture": str(target), "samples": count}))
    else:
        print(f"{plural(count, 'sample')} of {args.split} drawn in {target}")
    return 0


def _print_check(report: Report) -> None:
    names = list(report.splits)
    shares = {name: split.class_shares for name, split in report.splits.items()}
    expected = next((split.expected_shares for split in report.splits.values()), None)
    columns = [*names, *(["published"] if expected else [])]
    rows = [
        (
            each,
            *(f"{shares[name].get(each, 0.0):.3%}" for name in names),
            *([f"{expected[each]:.3%}"] if expected else []),
        )
        for each in report.card.classes
    ]
    ignored = [f"{split.ignored_share:.3%}" for split in report.splits.values()]
    rows.append(("ignored", *ignored, *(["-"] if expected else [])))
    counts = [_count(split.images, split.complete) for split in report.splits.values()]
    rows.append(("images", *counts, *(["-"] if expected else [])))
    print_table(("class", *columns), rows, right=set(columns))
    print()
    for finding in report.findings:
        print(f"{'error' if finding.fatal else 'note'}: {finding.where}: {finding.message}")
    images = ", ".join(f"{split.images} {name}" for name, split in report.splits.items())
    errors = sum(finding.fatal for finding in report.findings)
    seen = "manifest and hashes are right" if report.quick else "every sample was read and is right"
    part = "; not the complete data set, so results are not comparable" if report.partial and not errors else ""
    told = plural(errors, "error") if errors else seen
    print(f"{report.card.title}, {images} images in {report.uri}: {told}{part}")


def _count(images: int, complete: int | None) -> str:
    return str(images) if complete in (None, images) else f"{images} of {complete}"


def _add_synth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset",
        nargs="?",
        default="cityscapes",
        metavar="DATASET",
        help=f"one of the nine published ones (default %(default)s), or {ALL}",
    )
    parser.add_argument("--to", required=True, type=_folder, metavar="DIR", help="folder to write into")
    parser.add_argument("--train", type=positive, default=8, metavar="N", help="training images (default %(default)s)")
    parser.add_argument("--val", type=positive, default=4, metavar="N", help="validation images (default %(default)s)")
    parser.add_argument("--size", type=_size, metavar="HxW", help="in pixels (default: what suits the data set)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--archives", action="store_true", help="pack them as the official download is packed")
    add_json(parser)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "SOURCE may hold the official archives as they were downloaded (zip and tar are read in place), the unpacked "
        "files, or a folder already converted for mmsegmentation. `hrgrid data sources` says where to get them."
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="the download: a folder with archives or unpacked files, or one archive",
    )
    parser.add_argument("--to", required=True, type=absolute_uri, metavar="URI", help="folder of prepared data sets")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--dataset", metavar="D", help="published data set (default: recognised from the layout)")
    which.add_argument("--card", type=Path, metavar="FILE", help="card of your own data set (default: in SOURCE)")
    parser.add_argument("--partial", action="store_true", help="prepare what is there of an incomplete data set")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace the prepared data set that is there, and write what the gate refuses",
    )
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="convert on the CPUs of this Ray cluster, all of whose machines see SOURCE (default: $RAY_ADDRESS, else "
        "this machine's threads)",
    )
    add_json(parser)


def _folder(text: str) -> Path:
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no folder of this machine, which is what is written here")
    return Path(text)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size in pixels such as 128x256")
    return int(match[1]), int(match[2])


def _prepared_facts(done: Prepared) -> dict[str, Any]:
    return {
        "name": done.card.name,
        "uri": done.uri,
        "fingerprint": done.fingerprint,
        "images": dict(done.images),
        "skipped": done.skipped,
        "notes": list(done.notes),
    }


if __name__ == "__main__":
    sys.exit(main_of("data", HELP, add_arguments, run))
