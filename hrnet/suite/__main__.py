"""`python -m hrnet.suite`: the suite where neither Ray nor MLflow nor a network is."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from hrnet.catalogue import WIDTHS
from hrnet.errors import HrnetError
from hrnet.suite.bench import PRECISIONS
from hrnet.suite.peer import DEFAULT_PEER
from hrnet.suite.run import PARTS, Options, default_threads, part_names, run_suite
from hrnet.suite.table import PROFILE_COLUMNS, cells, notes, output_file, plain, profile_cells, read_earlier


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return _run(args)
    except HrnetError as error:
        print(f"hrnet.suite: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hrnet.suite", description=__doc__)
    parser.add_argument(
        "--parts", default=",".join(PARTS), metavar="A,B", help=f"of {', '.join(PARTS)} (default: all)"
    )
    parser.add_argument("--width", action="append", choices=WIDTHS, help="may be repeated (default: all)")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="may be repeated (default: all)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each side (default 5)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of each side (default: all cores)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where (default: a GPU if there is one)")
    parser.add_argument("--peer", type=Path, default=DEFAULT_PEER, metavar="PATH", help="interpreter of the peer")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all works")
    parser.add_argument(
        "--profile", action="store_true", help="also say where the time of these goes: train, inference, data"
    )
    parser.add_argument("--against", type=Path, metavar="JSON", help="what an earlier run wrote: print the trend")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write everything into a file")
    return parser


def _run(args: argparse.Namespace) -> int:
    options = Options(
        parts=part_names(args.parts, PARTS),
        device=torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu")),
        threads=args.threads or default_threads(),
        rounds=args.rounds,
        widths=tuple(args.width or WIDTHS),
        precisions=tuple(args.precision or ()),
        peer=args.peer,
        quick=args.quick,
        profile=args.profile,
    )
    earlier, output = read_earlier(args.against), output_file(args.output)
    work = run_suite(options)
    while True:
        try:
            step = next(work)
        except StopIteration as stop:
            result = stop.value
            break
        print(f"{step.done + 1} of {step.total}: {step.doing}", file=sys.stderr, flush=True)
    if output is not None:
        output.write_text(json.dumps(result.to_dict(), indent=1) + "\n")
    print("\n".join(plain(*cells(result.rows, earlier))))
    print("\n".join(["", *notes(result.conditions, result.rows)]))
    for found in result.profiles:
        title, rows = profile_cells(found)
        print("\n".join(["", title, *plain(PROFILE_COLUMNS, rows)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
