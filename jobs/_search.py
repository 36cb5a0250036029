"""`--search`: from the options to the samples' trials, and from the ledger to their table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from jobs._show import number, print_table
from jobs._wiring import HrnetWorkload
from orchestrator.errors import UsageError
from orchestrator.grid import Override, Trial, near_miss
from orchestrator.ledger import Ledger
from orchestrator.search import Halving, Standing, make_samples, parse_domains, sample_trials, standings
from orchestrator.workload import Cell

__all__ = ["halving", "print_samples", "searched"]

VALIDATED = ("val/mIoU", "val/mAcc", "val/aAcc")
"""What every validation in a training gives, and samples can be compared by."""


def searched(
    args: argparse.Namespace,
    workload: HrnetWorkload,
    cells: Sequence[Cell],
    overrides: Sequence[Override],
    note: Callable[[str], None],
) -> list[Trial]:
    """The trials of the samples that were asked for; raises UsageError."""
    samples = make_samples(parse_domains(args.search), args.samples, args.search_seed)
    return sample_trials(workload, cells, overrides, samples, args.seeds, args.data, note=note)


def halving(args: argparse.Namespace, trials: Sequence[Trial]) -> Halving | None:
    """When samples are stopped early; None without a search. Raises UsageError for options that cannot be."""
    if not args.search:
        given = {
            "--samples": args.samples,
            "--search-grace": args.search_grace,
            "--resume-stopped": args.resume_stopped,
        }
        option = next((name for name, value in given.items() if value), None)
        if option is not None:
            raise UsageError(f"{option} is for a search; say what to draw: --search 'lr=loguniform(1e-3,1e-1)'")
        return None
    if args.search_metric not in VALIDATED:
        hint = near_miss(args.search_metric, VALIDATED)
        raise UsageError(f"--search-metric {args.search_metric!r} is nothing that a validation gives{hint}")
    # A searched schedule has samples of several lengths: the rungs are those of the longest.
    total = max(trial.estimate.iterations for trial in trials)
    grace = args.search_grace or min(total, max(trial.estimate.interval for trial in trials) or total)
    return Halving(
        metric=args.search_metric, mode=args.search_mode, grace=grace, reduction=args.search_reduction, total=total
    )


def print_samples(ledger: Ledger, trials: Sequence[Trial], rules: Halving) -> None:
    """Print the samples, the best first, and the settings of the best one as they are given to a launch."""
    records = ledger.trials(trial.key for trial in trials)
    found = standings(
        [
            Standing(
                sample=trial.spec.sample,
                key=trial.key,
                state=records[trial.key].state,
                step=(records[trial.key].progress or {}).get("step"),
                value=records[trial.key].metrics.get(rules.metric),
            )
            for trial in trials
        ],
        rules.mode,
    )
    names = list(found[0].sample)
    columns = ("", *names, rules.metric, "state", "step", "key")
    rows = [
        (str(place), *(each.sample[name] for name in names), number(each.value, 3), each.state, _step(each), each.key)
        for place, each in enumerate(found, 1)
    ]
    print_table(columns, rows, right={"", *names, rules.metric, "step"})
    best = found[0]
    if best.state == "finished" and best.value is not None:
        print(f"best: {' '.join(f'--set {name}={value}' for name, value in best.sample.items())}")
    else:
        print("best: none, as no sample is finished")


def _step(standing: Standing) -> str:
    return "-" if standing.step is None else str(standing.step)
