"""`hrgrid benchmark --suite`: the options, and the table on a terminal or in a pipe."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hrnet.catalogue import WIDTHS
from jobs._options import positive
from jobs._progress import progress
from jobs._show import print_table

__all__ = ["PARTS", "add_suite", "run_suite"]

PARTS = ("train", "inference", "data", "metric", "checkpoint", "scaling", "plan", "cli", "grid")
"""Names of all parts, so that the help needs not import them."""


def add_suite(parser: argparse.ArgumentParser) -> None:
    """What of the suite is measured, how, and where the figures go."""
    group = parser.add_argument_group("the suite")
    group.add_argument("--suite", action="store_true", help="measure what should be fast, in turns with the peer")
    group.add_argument("--parts", default=",".join(PARTS), metavar="A,B", help=f"of {', '.join(PARTS)} (default: all)")
    group.add_argument("--width", action="append", choices=WIDTHS, help="may be repeated (default: all three)")
    group.add_argument(
        "--precision", action="append", choices=("fp32", "tf32", "bf16"), help="may be repeated (default: all)"
    )
    group.add_argument("--rounds", type=positive, default=5, metavar="N", help="turns of each side (default 5)")
    group.add_argument("--threads", type=positive, metavar="N", help="threads of each side (default: all cores)")
    group.add_argument(
        "--peer",
        type=Path,
        metavar="PATH",
        help="Python that has mmsegmentation 1.2.2 (default: what `make peer` made)",
    )
    group.add_argument(
        "--quick", action="store_true", help="tiny sizes, to see that all works; the figures say nothing"
    )
    group.add_argument(
        "--profile", action="store_true", help="also say where the time of these goes: train, inference, data"
    )
    group.add_argument("--against", type=Path, metavar="FILE", help="figures of an earlier run: show the trend")
    group.add_argument("-o", "--output", type=Path, metavar="FILE", help="write all figures as JSON")


def run_suite(args: argparse.Namespace) -> int:
    """Measure and print."""
    import torch

    from hrnet.suite.peer import DEFAULT_PEER
    from hrnet.suite.run import PARTS as SCIENCE
    from hrnet.suite.run import Options, default_threads, part_names
    from hrnet.suite.run import run_suite as measure
    from hrnet.suite.table import PROFILE_COLUMNS, RIGHT, cells, notes, output_file, profile_cells, read_earlier
    from jobs._suiteparts import PLATFORM

    parts = {**SCIENCE, **PLATFORM}
    options = Options(
        parts=part_names(args.parts, parts),
        device=torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu")),
        threads=args.threads or default_threads(),
        rounds=args.rounds,
        widths=tuple(args.width or WIDTHS),
        precisions=tuple(args.precision or ()),
        peer=args.peer or DEFAULT_PEER,
        quick=args.quick,
        profile=args.profile,
    )
    earlier, output = read_earlier(args.against), output_file(args.output)
    work = measure(options, parts)
    with progress(False, "benchmark suite") as report:
        assert report is not None
        while True:
            try:
                step = next(work)
            except StopIteration as stop:
                result = stop.value
                break
            report(step.done, step.total, step.doing)
    content = json.dumps(result.to_dict(), indent=1)
    if output is not None:
        output.write_text(content + "\n")
    if args.json:
        print(content)
        return 0
    columns, rows = cells(result.rows, earlier)
    print_table(columns, rows, right=RIGHT)
    print("\n".join(["", *notes(result.conditions, result.rows)]))
    for found in result.profiles:
        title, rows = profile_cells(found)
        print(f"\n{title}")
        print_table(PROFILE_COLUMNS, rows, right=RIGHT)
    return 0
