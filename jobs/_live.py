"""What a launch shows while it runs: a table of cells on a terminal, one line per news elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from jobs._plantable import trial_name
from jobs._show import console, number
from orchestrator.plan import PlannedTrial

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from orchestrator.scheduler import TrialProgress

__all__ = ["Board", "Line", "line_of"]

NEWS_SECONDS = 30.0
"""Without a terminal: seconds between two lines about a cell that only went on."""

_STYLES = {"finished": "green", "failed": "red", "blocked": "red", "stopped": "yellow", "waiting": "dim"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One cell as it is shown."""

    name: str
    state: str
    step: str
    loss: str
    score: str
    finish: str
    warning: str = ""


def line_of(name: str, progress: TrialProgress, finish: float | None) -> Line:
    """What to show of a trial; `finish` is its expected end in epoch seconds."""
    return Line(
        name=name,
        state=progress.phase or progress.state,
        step=f"{progress.step}/{progress.total}" if progress.total else "-",
        loss=number(progress.metrics.get("train/loss"), 4),
        score=number(progress.metrics.get("val/mIoU")),
        finish="-" if finish is None else time.strftime("%H:%M:%S", time.localtime(finish)),
        warning=progress.warning,
    )


class Board:
    """Shows the progress of trials as it comes in; a context manager."""

    def __init__(self, trials: Sequence[PlannedTrial], *, clock: Callable[[], float] = time.time) -> None:
        self._names = {trial.key: trial_name(trial) for trial in trials}
        self._clock = clock
        self._began: dict[str, tuple[float, int]] = {}
        self._last: dict[str, tuple[float, int]] = {}
        self._told: dict[str, tuple[Line, float]] = {}
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(self._table({}), console=console(), refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, progress: Sequence[TrialProgress]) -> None:
        """Show what has changed."""
        lines = {each.key: line_of(self._names[each.key], each, self._finish(each)) for each in progress}
        if self._live is not None:
            self._live.update(self._table(lines))
            return
        for key, line in lines.items():
            if self._is_news(key, line):
                self._told[key] = (line, self._clock())
                stamp = time.strftime("%H:%M:%S", time.localtime(self._clock()))
                facts = [f"{word} {value}" for word, value in _facts(line).items() if value != "-"]
                print(f"{stamp} {line.name}: {', '.join([line.state, *facts])}", flush=True)
                if line.warning:
                    print(f"{stamp} {line.name}: far below its reference: {line.warning}", flush=True)

    def _is_news(self, key: str, line: Line) -> bool:
        before, when = self._told.get(key, (None, 0.0))
        if before is None:
            return line.state not in ("waiting", "skipped")
        if (before.state, before.score, before.warning) != (line.state, line.score, line.warning):
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

    def _table(self, lines: Mapping[str, Line]) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("cell", "state", "step", "loss", "mIoU", "finish"):
            table.add_column(column, justify="left" if column in ("cell", "state") else "right", no_wrap=True)
        for key, name in self._names.items():
            line = lines.get(key) or Line(name=name, state="waiting", step="-", loss="-", score="-", finish="-")
            state = Text(line.state, style=_STYLES.get(line.state, ""))
            if line.warning:
                state.append(" (below its reference)", style="yellow")
            table.add_row(Text(line.name), state, line.step, line.loss, line.score, line.finish)
        warnings = [f"{line.name}: {line.warning}" for line in lines.values() if line.warning]
        if warnings:
            table.caption = Text("\n".join(warnings), style="yellow")
            table.caption_justify = "left"
        return table


def _facts(line: Line) -> dict[str, str]:
    return {"step": line.step, "loss": line.loss, "mIoU": line.score, "finish": line.finish}
