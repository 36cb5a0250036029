"""A plan on the terminal and as JSON values: what happens with each cell, for how long, for how much."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jobs._gantt import gantt
from jobs._show import duration, plural, print_table
from orchestrator.plan import Action, Plan, PlannedTrial
from orchestrator.settings import Settings

__all__ = ["plan_facts", "print_plan", "trial_name"]

_REASONS = 3
"""Reasons shown in a plan; --json has all."""

_WORDS: Mapping[Action, str] = {"run": "to run", "resume": "to resume", "skip": "to skip", "blocked": "blocked"}


def trial_name(trial: PlannedTrial) -> str:
    """The name that people see: the cell's, with the seed when it is not 0 and what a search drew."""
    return trial.spec.title


def print_plan(plan: Plan, price: float | None = None) -> None:
    """Print what will be done with every trial, for how long, and what it costs at a price per GPU-hour."""
    hours = "GPU-h" if plan.cluster.kind == "GPU" else "worker-h"
    columns = ("#", "cell", "action", "gang", "GB", "cores", "iterations", hours, "by", "start", "end", "why")
    rows = [_row(number, trial) for number, trial in enumerate(plan.trials, 1)]
    print_table(columns, rows, right={"#", "gang", "GB", "cores", "iterations", hours, "start", "end"})
    if plan.to_run:
        print(f"gang: workers at once; GB, cores: of each worker; {hours}: of all; by: where the hours are from")
    counts = [f"{plan.count(action)} {word}" for action, word in _WORDS.items() if plan.count(action)]
    print(f"\n{plural(len(plan.trials), 'cell')}: {', '.join(counts)}; cluster: {plan.cluster}")
    _print_not_comparable(plan)
    _print_sharing(plan)
    if plan.to_run:
        _print_times(plan, price)


def plan_facts(plan: Plan, settings: Settings, price: float | None = None) -> dict[str, Any]:
    """The plan as JSON values."""
    finish, bound = plan.finish_seconds, plan.bound_seconds
    return {
        "benchmark": settings.benchmark,
        "storage": settings.storage,
        "tracking": settings.tracking,
        "cluster": str(plan.cluster),
        "counts": {action: plan.count(action) for action in _WORDS},
        "finish_seconds": finish,
        "finish_at": None if finish is None else _clock(finish),
        "bound_seconds": bound,
        "finish_over_bound": finish / bound if finish is not None and bound else None,
        "slot_hours": plan.slot_hours,
        "price_per_slot_hour": price,
        "cost": _cost(plan.slot_hours, price),
        "gantt": gantt(plan),
        "cells": [_cell_facts(trial, price) for trial in plan.trials],
    }


def _row(number: int, trial: PlannedTrial) -> Sequence[str]:
    name = trial_name(trial) + (" *" if trial.spec.not_comparable else "")
    if not trial.runs:
        return str(number), name, trial.action, *["-"] * 8, trial.reason
    left = trial.estimate.iterations - (trial.resume_step or 0)
    hours = "-" if trial.seconds is None else f"{_slot_hours(trial):.1f}"
    needs = (_gang(trial), f"{trial.memory_gb:.1f}", str(trial.cpus_per_worker), str(left), hours)
    source = "-" if trial.estimate_source == "unknown" else trial.estimate_source
    times = (duration(trial.start), duration(trial.end))
    return str(number), name, trial.action, *needs, source, *times, trial.reason


def _gang(trial: PlannedTrial) -> str:
    if trial.share > 1:
        return f"1/{trial.share}"
    return f"{trial.fewer[0]}-{trial.workers}" if trial.fewer else str(trial.workers)


def _print_times(plan: Plan, price: float | None) -> None:
    finish, bound, hours = plan.finish_seconds, plan.bound_seconds, plan.slot_hours
    if finish is None or bound is None or hours is None:
        known = len(plan.to_run) - plan.unknown
        some = f"; known for {known} of {len(plan.to_run)}" if known else ""
        print(f"expected: unknown until a cell has run on such a device and its speed is measured{some}")
        return
    unit = "GPU-hours" if plan.cluster.kind == "GPU" else "worker-hours"
    ratio = f", {finish / bound:.3f} times the lower bound of {duration(bound)}" if bound else ""
    print(f"expected: {duration(finish)}, until {_clock(finish)}{ratio}; {hours:.1f} {unit}")
    if price is not None:
        print(f"price: {_cost(hours, price):.2f} at {price:g} per {unit.removesuffix('s')}")
    for detail, number in Counter(trial.estimate_detail for trial in plan.to_run).most_common(_REASONS):
        print(f"estimates of {plural(number, 'cell')}: {detail}")
    print()
    for line in gantt(plan):
        print(line)


def _print_not_comparable(plan: Plan) -> None:
    """Say before anything starts what will not stand beside the published numbers, as it is too late afterwards."""
    marked = [trial for trial in plan.trials if trial.spec.not_comparable]
    reasons = list(dict.fromkeys(reason for trial in marked for reason in trial.spec.not_comparable))
    if reasons:
        more = f" and {plural(len(reasons) - _REASONS, 'more reason')}" if len(reasons) > _REASONS else ""
        print(f"* not comparable with the published results: {plural(len(marked), 'cell')}", end="")
        print(f" ({'; '.join(reasons[:_REASONS])}{more})")


def _print_sharing(plan: Plan) -> None:
    sharers = [trial for trial in plan.to_run if trial.share > 1]
    alone = Counter(trial.alone for trial in plan.to_run if trial.alone)
    if sharers:
        share = sharers[0].share
        print(f"{plural(len(sharers), 'cell')} share GPUs, {share} on each (1/{share} above)")
    for reason, number in alone.most_common(_REASONS):
        print(f"{plural(number, 'cell')} alone on {'its' if number == 1 else 'their'} GPUs: {reason}")


def _cell_facts(trial: PlannedTrial, price: float | None) -> dict[str, Any]:
    return {
        "cell": trial.spec.cell.name,
        "seed": trial.spec.seed,
        "key": trial.key,
        **trial.spec.cell.facets,
        "action": trial.action,
        "reason": trial.reason,
        "workers": trial.workers,
        "sizes": list(trial.sizes),
        "cpus_per_worker": trial.cpus_per_worker,
        "gpus_per_worker": trial.gpus_per_worker,
        "share": trial.share,
        "alone": trial.alone,
        "iterations": trial.estimate.iterations,
        "resume_step": trial.resume_step,
        "memory_gb": trial.memory_gb,
        "seconds": trial.seconds,
        "estimate_source": trial.estimate_source,
        "estimate_detail": trial.estimate_detail,
        "slot_hours": None if trial.seconds is None else _slot_hours(trial),
        "cost": None if trial.seconds is None else _cost(_slot_hours(trial), price),
        "start": trial.start,
        "end": trial.end,
        "not_comparable": list(trial.spec.not_comparable),
    }


def _slot_hours(trial: PlannedTrial) -> float:
    return (trial.seconds or 0.0) * trial.workers / trial.share / 3600


def _cost(hours: float | None, price: float | None) -> float | None:
    return None if hours is None or price is None else hours * price


def _clock(seconds: float) -> str:
    """The moment in so many seconds, by the clock on the wall here."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + seconds))
