"""`hrgrid drill`: what can fail is made to fail, to a small cell of drawn data, and the results must be the same."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs._command import FAILED, complain, main_of
from jobs._options import add_json, positive
from jobs._progress import Report, progress
from jobs._show import duration, number, print_table

if TYPE_CHECKING:
    from jobs._drill_cell import Rehearsal
    from jobs._drill_evidence import Mark
    from jobs._drill_faults import Cost
    from jobs._drill_stage import Stage

HELP = "Kill and take away what can fail, under a small cell, and prove that the results are the same. Minutes."

ITERATIONS: Final = 110
"""Long enough for all faults on two cores; a faster machine gets more, so that it still trains at the last fault."""
OUTAGE_SECONDS: Final = 15
KILLS: Final = 3
_RESTART_SECONDS: Final = 15.0
"""What an MLflow server takes to start, by which its outage is longer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it plays, and for how long things are away."""
    parser.add_argument(
        "--folder", type=_folder, default="drill", metavar="DIR", help="data, logs, results (default %(default)s)"
    )
    parser.add_argument("--storage", metavar="URI", help="a folder or s3://bucket/prefix to try (default: in DIR)")
    parser.add_argument("--tracking", metavar="URI", help="an http MLflow server to try (default: one of its own)")
    parser.add_argument(
        "--seconds",
        type=positive,
        default=OUTAGE_SECONDS,
        metavar="N",
        help="how long tracking and storage are away (default %(default)s)",
    )
    add_json(parser)


def _folder(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; name a folder for data, logs and results")
    return text


def run(args: argparse.Namespace) -> int:
    """Run the cell unbroken, then broken, and compare; exit code 1 if anything differs or a run does not end."""
    from jobs._drill_cell import DrillError
    from jobs._drill_stage import open_stage

    # A drill that is ended must end its children too, and put the storage back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # What is printed on the way is no part of the JSON.
    aside = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
    with aside, open_stage(args.folder, args.storage, args.tracking) as stage:
        print(f"logs and results of this drill: {stage.folder}", flush=True)
        try:
            facts = _rehearse(stage, args.seconds)
        except DrillError as error:
            complain(f"nothing is proven: {error}")
            return FAILED
    if args.json:
        print(json.dumps(facts, indent=1))
    else:
        _print(facts)
    return 0 if facts["proven"] else FAILED


def _rehearse(stage: Stage, seconds: float) -> dict[str, Any]:
    """Run the cell twice, and return what was found as JSON values, which are also written to a file."""
    from jobs._drill_evidence import differences, gather
    from jobs._drill_faults import break_down, costs

    began = time.monotonic()
    with contextlib.closing(_unbroken(stage, seconds)) as unbroken:
        usual, reference = unbroken.marks(), gather(unbroken.places, unbroken.key)
    with (
        contextlib.closing(stage.rehearsal("broken", unbroken.iterations)) as broken,
        progress(False, "broken") as bar,
    ):
        news = _news(bar, broken.iterations)
        faults = break_down(broken, stage.take_tracking, stage.take_storage, seconds, news)
        marks, evidence = broken.marks(), gather(broken.places, broken.key)
    told = differences(evidence, reference)
    facts = {
        "proven": not told,
        "differences": told,
        "iterations": unbroken.iterations,
        "weights": {"unbroken": reference.weights, "broken": evidence.weights},
        "faults": [_fault_facts(cost) for cost in costs(faults, marks, usual)],
        "seconds": round(time.monotonic() - began, 1),
        "folder": str(stage.folder),
        "storage": stage.storage,
        "tracking": stage.tracking,
    }
    (stage.folder / "drill.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def _unbroken(stage: Stage, seconds: float) -> Rehearsal:
    """Run the cell without any fault; once more, and longer, if the machine is too fast for the faults to fit in."""
    iterations = ITERATIONS
    while True:
        rehearsal = stage.rehearsal(f"unbroken-{iterations}", iterations)
        _see_through(rehearsal)
        needed = _needed(rehearsal.marks(), seconds)
        if needed <= iterations:
            return rehearsal
        rehearsal.close()
        print(f"this machine is fast: once more, with {needed} iterations in place of {iterations}", flush=True)
        iterations = needed


def _see_through(rehearsal: Rehearsal) -> None:
    """Run a cell to its end; raises DrillError if that is no good one."""
    try:
        with progress(False, "unbroken") as bar:
            news = _news(bar, rehearsal.iterations)
            rehearsal.start()
            code = rehearsal.wait_for_end(lambda step: news(step, ""))
        if code:
            raise rehearsal.complaint(f"the unbroken run ended with exit code {code}")
    except BaseException:
        rehearsal.close()
        raise


def _needed(marks: Sequence[Mark], seconds: float) -> int:
    """Iterations that leave room for all faults at the pace of a training, with a fifth to spare above the usual."""
    from jobs._drill_cell import INTERVAL

    times = [mark.time for mark in marks if mark.kind == "progress"]
    pace = (times[-1] - times[0]) / max(1, len(times) - 1)
    needed = (KILLS + 3) * INTERVAL + (2 * seconds + _RESTART_SECONDS) / max(pace, 1e-3)
    return ITERATIONS if needed <= 1.2 * ITERATIONS else math.ceil(1.2 * needed / INTERVAL) * INTERVAL


def _news(report: Report | None, total: int) -> Callable[[int, str], None]:
    def tell(step: int, what: str) -> None:
        if report is not None and step:  # the pace is that of training, not of starting
            report(step, total, what)

    return tell


def _fault_facts(cost: Cost) -> dict[str, Any]:
    fault = cost.fault
    return {
        "fault": fault.name,
        "step": fault.step,
        "time": fault.time,
        "seconds_lost": None if math.isnan(cost.seconds) else round(cost.seconds, 1),
        "steps_redone": cost.steps,
        "seen": fault.seen,
    }


def _print(facts: dict[str, Any]) -> None:
    columns = ("fault", "at", "step", "seconds lost", "steps redone", "what was seen")
    rows = [
        (
            fault["fault"],
            time.strftime("%H:%M:%S", time.localtime(fault["time"])),
            f"{fault['step']}/{facts['iterations']}",
            number(fault["seconds_lost"], 1),
            str(fault["steps_redone"]),
            fault["seen"],
        )
        for fault in facts["faults"]
    ]
    print()
    print_table(columns, rows, right={"step", "seconds lost", "steps redone"})
    print()
    if facts["proven"]:
        weights = facts["weights"]["broken"][:16]
        print(f"PROVEN: loss sequence, scores and final weights (sha256 {weights}...) equal those of the unbroken run")
    else:
        print("NOT PROVEN: the broken run differs from the unbroken one:")
        for difference in facts["differences"]:
            print(f"  {difference}")
    print(f"that took {duration(facts['seconds'])}; logs and results: {Path(facts['folder'])}")


if __name__ == "__main__":
    sys.exit(main_of("drill", HELP, add_arguments, run))
