"""A plan's schedule in text: which cells run where and when, or for many of them how busy the cluster is."""

from __future__ import annotations

from collections.abc import Sequence

from jobs._show import duration, plural
from orchestrator.plan import Plan, PlannedTrial

__all__ = ["gantt"]

WIDTH = 79
"""Columns of the time axis together with what stands before it."""

LANES = 24
"""Rows up to which every gang is drawn; beyond, time slices tell how busy the cluster is."""

CELLS = 100
"""Trials up to which every gang is drawn."""

SLICES = 16


def gantt(plan: Plan) -> list[str]:
    """Return the lines; none if the durations are not known or nothing runs. Numbers are those of the plan's table."""
    timed = [trial for trial in plan.to_run if trial.start is not None and trial.end is not None]
    if not plan.finish_seconds or len(timed) < len(plan.to_run):
        return []
    lanes = _lanes(timed, plan.cluster.slots) if len(timed) <= CELLS else []
    if lanes and len(lanes) <= LANES:
        return _drawn(lanes, timed, plan)
    return _slices(timed, plan)


def _lanes(timed: Sequence[PlannedTrial], slots: int) -> list[tuple[str, list[int]]]:
    """Slots with the same trials, by their numbers; every trial takes the first slots that are free at its start."""
    shares = max(trial.share for trial in timed)
    free_at = [0.0] * (slots * shares)
    held: list[list[int]] = [[] for _ in free_at]
    for index in sorted(range(len(timed)), key=lambda i: (timed[i].start or 0.0, i)):
        trial = timed[index]
        seats = trial.workers * (shares // trial.share)
        start = (trial.start or 0.0) * (1 + 1e-9) + 1e-6
        whole = [
            seat
            for slot in range(slots)
            for seat in _free(free_at, slot * shares, shares, 1 if trial.share > 1 else shares, start)
        ]
        for seat in whole[:seats]:
            free_at[seat] = trial.end or 0.0
            held[seat].append(index)
    lanes: list[tuple[list[int], list[int]]] = []
    for seat, those in enumerate(held):
        if those and lanes and lanes[-1][1] == those:
            lanes[-1][0].append(seat // shares)
        elif those:
            lanes.append(([seat // shares], those))
    return [(_range(seats), those) for seats, those in lanes]


def _free(free_at: Sequence[float], first: int, shares: int, wanted: int, start: float) -> list[int]:
    seats = [seat for seat in range(first, first + shares) if free_at[seat] <= start]
    return seats if len(seats) >= wanted else []


def _range(slots: Sequence[int]) -> str:
    return f"{slots[0] + 1}" if slots[0] == slots[-1] else f"{slots[0] + 1}-{slots[-1] + 1}"


def _drawn(lanes: Sequence[tuple[str, list[int]]], timed: Sequence[PlannedTrial], plan: Plan) -> list[str]:
    unit = "GPU" if plan.cluster.kind == "GPU" else "slot"
    left = max(len(unit), *(len(name) for name, _ in lanes))
    width = WIDTH - left - 2
    scale = width / (plan.finish_seconds or 1.0)
    lines = [f"{unit:>{left}}  {_axis(plan.finish_seconds or 0.0, width)}"]
    for name, those in lanes:
        row = [" "] * width
        for index in those:
            first, last = (round((moment or 0.0) * scale) for moment in (timed[index].start, timed[index].end))
            first = min(first, width - 1)
            bar = list("|" + "=" * (max(last, first + 1) - first - 1))
            label = str(index + 1)
            if len(bar) >= len(label) + 2:
                at = (len(bar) - len(label) + 1) // 2
                bar[at : at + len(label)] = label
            row[first : first + len(bar)] = bar
        lines.append(f"{name:>{left}}  {''.join(row)[:width]}".rstrip())
    return lines


def _slices(timed: Sequence[PlannedTrial], plan: Plan) -> list[str]:
    unit = "GPUs" if plan.cluster.kind == "GPU" else "slots"
    finish, slots = plan.finish_seconds or 0.0, plan.cluster.slots
    length = finish / SLICES
    lines = [f"{'from':>12}  {'busy ' + unit:<47}   cells"]
    for number in range(SLICES):
        begin, end = number * length, (number + 1) * length
        during = [t for t in timed if (t.start or 0.0) < end and (t.end or 0.0) > begin]
        busy = sum((min(end, t.end or 0.0) - max(begin, t.start or 0.0)) * t.workers / t.share for t in during)
        part = busy / (length * slots)
        bar = "#" * round(40 * part)
        lines.append(f"{duration(begin):>12}  {bar:<40} {100 * part:5.1f} %   {plural(len(during), 'cell')}")
    return lines


def _axis(finish: float, width: int) -> str:
    marks = [" "] * width
    for part in range(4):
        text = duration(finish * part / 4) if part else "0"
        at = width * part // 4
        marks[at : at + len(text)] = text
    end = duration(finish)
    marks[width - len(end) :] = end
    return "".join(marks)
