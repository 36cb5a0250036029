"""What is shown of a grid while it runs: a table of cells on a terminal, one line per news elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from jobs._show import console, duration, number, plural

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table

    from orchestrator.watching import TrialProgress

__all__ = ["Board", "Line", "line_of"]

NEWS_SECONDS = 30.0
"""Without a terminal: seconds between two lines about a cell that only went on."""

SURE = 0.005
"""Share of the work that must be done before the end of all of it is foretold."""

WIDE = 116
"""Columns from which a terminal has room for loss and rate beside the name of a recipe."""

_STYLES = {"finished": "green", "failed": "red", "blocked": "red", "stopped": "yellow", "waiting": "dim"}

_URGENCY = ("running", "failed", "blocked", "interrupted", "stopped", "waiting", "skipped", "finished")
"""Which cells a terminal that is too low for all of them shows first."""

_COLUMNS = ("cell", "state", "step", "loss", "mIoU", "img/s", "finish")

_WIDE_COLUMNS = ("loss", "img/s")
"""Only where the terminal is WIDE."""

_COUNTED = ("finished", "running", "waiting", "skipped", "stopped", "interrupted", "blocked", "failed")
"""Order in which they are counted."""

_OPEN = ("running", "waiting")
"""States of cells that have work left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One cell as it is shown."""

    name: str
    state: str
    step: str = "-"
    loss: str = "-"
    score: str = "-"
    rate: str = "-"
    """Images per second."""
    finish: str = "-"
    """Time of day."""
    warning: str = ""
    kind: str = "waiting"
    """Its state without the phase."""


def line_of(name: str, progress: TrialProgress, finish: str) -> Line:
    """What to show of a trial; `finish` is the time of its expected end."""
    state = progress.phase or progress.state
    if progress.phase == "evaluating" and progress.to_evaluate:
        state = f"evaluating {progress.evaluated}/{progress.to_evaluate}"
    return Line(
        name=name,
        state=state,
        step=f"{progress.step}/{progress.total}" if progress.total else "-",
        loss=number(progress.metrics.get("train/loss"), 4),
        score=number(progress.metrics.get("val/mIoU")),
        rate=number(progress.metrics.get("train/images_per_s"), 1) if progress.phase == "training" else "-",
        finish=finish,
        warning=progress.warning,
        kind=progress.state,
    )


class Board:
    """Shows the progress of trials as it comes in; a context manager."""

    def __init__(
        self,
        names: Mapping[str, str],
        *,
        work: Mapping[str, float] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`names`: key of each trial to what it is called, in the order to show. `work`: key to the trial's size in
        any unit; without that of all trials the end of those that wait is not foretold."""
        self._names = dict(names)
        self._work = dict(work) if set(work) >= set(names) else {}
        self._clock = clock
        self._start = clock()
        self._done_at_first: float | None = None
        self._began: dict[str, tuple[float, int]] = {}
        self._last: dict[str, tuple[float, int]] = {}
        self._told: dict[str, tuple[Line, float]] = {}
        self._counted: Counter[str] | None = None
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(self._picture({}, ""), console=console(), refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def rename(self, names: Mapping[str, str]) -> None:
        """Show other trials from now on; without the size of all of them no end of all is foretold."""
        self._names = dict(names)
        self._work = self._work if set(self._work) >= set(names) else {}

    def update(self, progress: Sequence[TrialProgress]) -> None:
        """Show what has changed."""
        finishes = {each.key: self._finish(each) for each in progress}
        lines = {each.key: line_of(self._names[each.key], each, self._when(finishes[each.key])) for each in progress}
        summary = self._summary(progress, list(finishes.values()))
        if self._live is not None:
            self._live.update(self._picture(lines, summary))
        else:
            self._print(lines, summary)

    def _print(self, lines: Mapping[str, Line], summary: str) -> None:
        stamp = time.strftime("%H:%M:%S", time.localtime(self._clock()))
        for key, line in lines.items():
            if self._is_news(key, line):
                self._told[key] = (line, self._clock())
                facts = [f"{word} {value}" for word, value in _facts(line).items() if value != "-"]
                print(f"{stamp} {line.name}: {', '.join([line.state, *facts])}", flush=True)
                if line.warning:
                    print(f"{stamp} {line.name}: far below its reference: {line.warning}", flush=True)
        ended = Counter(line.kind for line in lines.values() if line.kind not in _OPEN)
        if self._counted is not None and ended != self._counted and len(lines) > 1:
            print(f"{stamp} {summary}", flush=True)
        self._counted = ended

    def _is_news(self, key: str, line: Line) -> bool:
        before, when = self._told.get(key, (None, 0.0))
        if before is None:
            return line.state not in ("waiting", "skipped")
        if (before.state.split()[0], before.score, before.warning) != (
            line.state.split()[0], line.score, line.warning,
        ):  # fmt: skip
            return True
        return before != line and self._clock() - when >= NEWS_SECONDS

    def _finish(self, progress: TrialProgress) -> float | None:
        """Expected end of a training: its pace since it was first seen at work, carried on."""
        if progress.phase != "training" or not 0 < progress.step < progress.total:
            return None
        now = self._clock()
        began, first = self._began.setdefault(progress.key, (now, progress.step))
        if progress.step <= first:
            return None
        last = self._last.get(progress.key)
        if last is None or last[1] != progress.step:
            self._last[progress.key] = last = (now, progress.step)
        seconds_per_step = (last[0] - began) / (last[1] - first)
        return last[0] + seconds_per_step * (progress.total - progress.step)

    def _end(self, progress: Sequence[TrialProgress], finishes: Sequence[float | None]) -> float | None:
        """Expected end of all trainings: that of the last one that runs, or where some wait the pace of all work."""
        known = [finish for finish in finishes if finish is not None]
        if not any(each.state == "waiting" for each in progress):
            at_work = [each for each in progress if each.phase in ("starting", "training")]
            return max(known) if known and len(known) == len(at_work) else None
        if not self._work:
            return None
        whole = sum(self._work[each.key] for each in progress)
        done = sum(self._work[each.key] * _share(each) for each in progress)
        if self._done_at_first is None:
            self._done_at_first = done
        new = done - self._done_at_first
        if new < SURE * whole:
            return None
        now = self._clock()
        return max([now + (whole - done) * (now - self._start) / new, *known])

    def _when(self, epoch: float | None) -> str:
        """Time of day, with the date when it is another day's; `-` for None."""
        if epoch is None:
            return "-"
        there, here = time.localtime(epoch), time.localtime(self._clock())
        return time.strftime("%H:%M:%S" if there[:3] == here[:3] else "%a %d %b %H:%M", there)

    def _summary(self, progress: Sequence[TrialProgress], finishes: Sequence[float | None]) -> str:
        """How many are where, for how long already, and until when."""
        counts = Counter(each.state for each in progress)
        states = ", ".join(f"{counts[state]} {state}" for state in _COUNTED if counts[state])
        text = f"{plural(len(progress), 'cell')}: {states}; {duration(self._clock() - self._start)} so far"
        end = self._end(progress, finishes)
        if end is None or not any(counts[state] for state in _OPEN):
            return text
        left = max(0.0, end - self._clock())
        return f"{text}, trainings end about {self._when(end)} (in {duration(left)})"

    def _picture(self, lines: Mapping[str, Line], summary: str) -> Group:
        """The table, as many cells as the terminal is high, and a line on all of them."""
        from rich.console import Group
        from rich.text import Text

        warnings = [f"{line.name}: {line.warning}" for line in lines.values() if line.warning]
        all_lines = [lines.get(key) or Line(name=name, state="waiting") for key, name in self._names.items()]
        # Headings, what is left out, a summary that a narrow terminal folds, and the cursor's line.
        shown = _fitting(all_lines, max(3, console().height - 5 - len(warnings)))
        left_out = Counter(line.kind for line in all_lines) - Counter(line.kind for line in shown)
        notes = [Text(text, style="yellow") for text in warnings]
        if left_out:
            told = ", ".join(f"{count} {state}" for state, count in left_out.items())
            notes.append(Text(f"not shown: {told}", style="dim"))
        return Group(self._table(shown), *notes, Text(summary, style="bold"))

    def _table(self, lines: Sequence[Line]) -> Table:
        from rich.table import Table
        from rich.text import Text

        wide = console().width >= WIDE
        columns = [name for name in _COLUMNS if wide or name not in _WIDE_COLUMNS]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            left = column in ("cell", "state")
            # Where all is too narrow the name is cut, never a number.
            table.add_column(column, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
        others = sum(max(len(column), *(len(_cells(line)[column]) for line in lines)) + 2 for column in columns[1:])
        table.columns[0].max_width = max(12, console().width - others)
        for line in lines:
            cells = _cells(line)
            state = Text(cells["state"], style=_STYLES.get(line.kind, ""))
            table.add_row(Text(line.name), state, *(cells[column] for column in columns[2:]))
        return table


def _cells(line: Line) -> dict[str, str]:
    """What stands under each column."""
    state = f"{line.state} (below its reference)" if line.warning else line.state
    values = (line.name, state, line.step, line.loss, line.score, line.rate, line.finish)
    return dict(zip(_COLUMNS, values, strict=True))


def _fitting(lines: Sequence[Line], room: int) -> list[Line]:
    """As many lines as there is room for, the most urgent ones, in their order."""
    urgent = sorted(range(len(lines)), key=lambda place: (_URGENCY.index(lines[place].kind), place))
    return [lines[place] for place in sorted(urgent[:room])]


def _share(progress: TrialProgress) -> float:
    """Share of a trial's training that is done; of one that has ended all, as nothing of it is left to do."""
    if progress.state not in _OPEN:
        return 1.0
    return progress.step / progress.total if progress.total else 0.0


def _facts(line: Line) -> dict[str, str]:
    rate = line.rate if line.rate == "-" else f"{line.rate}/s"
    return {"step": line.step, "loss": line.loss, "mIoU": line.score, "images": rate, "finish": line.finish}
