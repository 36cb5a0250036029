"""`hrgrid launch`: the plan, a question, the grid, the leaderboard."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs._command import FAILED, MISUSED, complain, main_of
from jobs._options import add_filters, add_launch, add_models, add_yes
from jobs._show import ask, plural
from orchestrator.errors import TrackingError

if TYPE_CHECKING:
    from jobs._planning import Draft
    from orchestrator.report import Report
    from orchestrator.trainer import TrialOutcome

_TOLD = 3
"""Failed cells of which the end of the log is printed."""

_LINES = 15
"""Lines of each."""

_SHORT_STOP = (
    "hrgrid: note: Ray gives this job 3 seconds when it is stopped, too few for checkpoints; hrgrid submit sets "
    "RAY_JOB_STOP_SIGNAL=SIGINT and RAY_JOB_STOP_WAIT_TIME_S=120 in the job's environment"
)

HELP = "Train and evaluate a grid of cells. Run again, it skips what is finished and continues what is not."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which cells, how, on what, where to."""
    add_filters(parser)
    add_launch(parser)
    add_models(parser)
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="try the cells on drawn data, small and a few iterations long; without filters all 45",
    )
    parser.add_argument(
        "--skip-blocked", action="store_true", help="run the other cells when some are blocked (else nothing starts)"
    )
    add_yes(parser)


def run(args: argparse.Namespace) -> int:
    """Plan, ask, run, report; exit code 0 only if every cell is finished, 2 if something keeps a cell from running."""
    from jobs._planning import cluster_shape, draft, obstacles, repaired, require_data
    from jobs._plantable import print_plan
    from jobs._reference import print_references

    if args.smoke:
        from jobs._smoke import arrange

        arrange(args)
    require_data(args)
    made = draft(args, cluster_shape(args), repair=True)
    print_plan(made.plan, args.price)
    print_references(made.references)
    print(flush=True)
    problems = obstacles(made.plan)
    for problem in problems:
        complain(problem)
    if problems and not args.skip_blocked:
        return MISUSED
    if made.plan.to_run:
        _check_places(made)
        if sys.stdin.isatty() and sys.stdout.isatty() and not args.yes and not ask("Start?"):
            print("nothing was started")
            return FAILED
    outcomes = _carry_out_all(args, made)
    # The tracking server may have been away when a cell ended, and be back now.
    repaired(made.settings, [trial.key for trial in made.plan.to_run])
    code = _conclude(made, outcomes)
    if args.smoke:
        from jobs._smoke import verdict

        return code if verdict(made) else FAILED
    return code


def _check_places(made: Draft) -> None:
    """Find out before anything starts whether results can be written and the tracking server answers.

    Whether runs can be written is found out while Ray starts, before any trial does: MLflow takes seconds to import.
    """
    from orchestrator.runstore import absolute_uri, probe
    from orchestrator.storage import Storage

    places = made.settings
    Storage(places.storage).check()
    probe(absolute_uri(places.tracking))


def _carry_out_all(args: argparse.Namespace, made: Draft) -> list[TrialOutcome]:
    """Carry out the plan, then what other launches have begun meanwhile or before and will not end."""
    from jobs._others import abandoned, only
    from jobs._planning import cluster_shape, draft

    outcomes = {outcome.key: outcome for outcome in _carry_out(args, made)}
    while keys := abandoned(made.settings, outcomes.values()):
        rest = only(draft(args, cluster_shape(args), repair=True), keys)
        if not rest.plan.to_run:
            break
        print(f"\n{plural(len(rest.plan.to_run), 'cell')} left by another launch that is gone: taken over", flush=True)
        outcomes |= {outcome.key: outcome for outcome in _carry_out(args, rest)}
    return list(outcomes.values())


def _carry_out(args: argparse.Namespace, made: Draft) -> Sequence[TrialOutcome]:
    from jobs._live import Board
    from jobs._plantable import trial_name
    from orchestrator import provenance
    from orchestrator.companion import keep_reference
    from orchestrator.scheduler import run_plan
    from orchestrator.storage import Storage
    from orchestrator.trainer import RunOptions

    if os.environ.get("RAY_JOB_STOP_SIGNAL") == "SIGINT":
        # A head that was started in the background of a script ignores SIGINT, and its jobs inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    elif "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and "RAY_JOB_STOP_WAIT_TIME_S" not in os.environ:
        print(_SHORT_STOP, file=sys.stderr, flush=True)
    for key, reference in made.references.items():
        keep_reference(Storage(made.settings.storage), key, reference)
    options = RunOptions(
        provenance=provenance.capture(),
        patch=provenance.source().patch,
        address=args.address,
        halving=made.halving,
        resize_seconds=args.resize_seconds,
        models=args.models,
    )
    try:
        trials = made.plan.trials
        names = {trial.key: trial_name(trial) for trial in trials}
        work = {trial.key: trial.estimate.work * trial.estimate.iterations for trial in trials}
        with Board(names, work=work) as board:
            return run_plan(made.workload, made.plan, made.settings, board.update, options, _say)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues where this one ended", flush=True)
        raise


def _say(text: str) -> None:
    print(text, flush=True)


def _conclude(made: Draft, outcomes: Sequence[TrialOutcome]) -> int:
    """Write and print the report, and say what can be done next."""
    from jobs._browse import mlflow_line, ui_command
    from jobs._others import tell
    from jobs._reporting import keep_pictures, print_leaderboard, refresh_report
    from orchestrator.search import STOPPED_EARLY

    places = made.settings
    with _tracking_may_fail("the report has no new pictures"):
        keep_pictures(places)
    report, written = refresh_report(places, made.workload)
    if made.plan.to_run:
        with _tracking_may_fail("the leaderboard was not recorded in MLflow"):
            _summarise(made, report)
    print()
    print_leaderboard(report)
    if made.halving is not None:
        _print_samples(made)
    states = {trial.key: trial.state for row in report.rows for trial in row.trials}
    # A sample that a search has stopped early has ended as planned.
    unfinished = [
        outcome
        for outcome in outcomes
        if states.get(outcome.key) != "finished" and not (outcome.error or "").startswith(STOPPED_EARLY)
    ]
    failed = [outcome for outcome in unfinished if outcome.state == "failed"]
    tell(places, [outcome for outcome in unfinished if outcome.state == "skipped"])
    if failed:
        print(f"\n{plural(len(failed), 'cell')} failed; the same command tries again. Logs of each:")
        for outcome in failed:
            print(f"  {places.storage}/trials/{outcome.key}/logs  {outcome.cell}")
            if outcome.advice:
                print(f"    {outcome.failure}: {outcome.advice}")
        for outcome in failed[:_TOLD]:
            _print_end(outcome)
    print(f"\nreport: {written['html']}")
    print(f"trials, logs, checkpoints: {places.storage}/trials")
    if line := mlflow_line(places):
        print(line)
    print(f"next: {ui_command(places)}   hrgrid status --storage {places.storage}")
    return FAILED if unfinished else 0


def _print_end(outcome: TrialOutcome) -> None:
    """Print the last lines of the log of the worker that failed, as who follows a job may not read the storage."""
    _, *lines = (outcome.error or "").splitlines() or [""]
    if lines:
        print(f"\n{outcome.cell}: {lines[0]}")
        for line in lines[1:][-_LINES:]:
            print(f"  {line}")


def _print_samples(made: Draft) -> None:
    from jobs._search import print_samples
    from orchestrator.ledger import Ledger
    from orchestrator.storage import Storage

    assert made.halving is not None
    print()
    print_samples(Ledger(Storage(made.settings.storage)), made.trials, made.halving)


def _summarise(made: Draft, report: Report) -> None:
    """Keep the leaderboard in MLflow, too."""
    from jobs._reporting import FORMATS
    from orchestrator.describe import benchmark_note
    from orchestrator.notes import write_note
    from orchestrator.tracking import Tracker
    from orchestrator.views import NOTE_TAG, description

    places = made.settings
    files = {f"report.{form}": write(report).encode() for form, write in FORMATS.items()}
    counts = {f"cells/{verdict.replace(' ', '_')}": float(count) for verdict, count in report.counts.items()}
    tracker = Tracker(places.tracking, places.benchmark, artifacts=places.artifacts)
    tracker.check()
    run_id = tracker.log_summary(places.benchmark, files, counts)
    where = f"{places.storage}/reports/{places.benchmark}/report.html"
    verdicts = {str(verdict): count for verdict, count in report.counts.items()}
    text = description(places.benchmark, verdicts, experiment_id=tracker.experiment_id, report=where)
    tracker.tag_experiment({NOTE_TAG: text})
    write_note(tracker, run_id, benchmark_note(report, where))


@contextmanager
def _tracking_may_fail(loss: str) -> Iterator[None]:
    """A server that went away during the launch does not spoil it: its loss is told, and that is all."""
    try:
        yield
    except TrackingError as error:
        print(f"hrgrid: note: {loss}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main_of("launch", HELP, add_arguments, run))
