"""The pictures of the report as plain geometry, for the templates to write as SVG.

One group per section of the table: the score over the schedule, over the speed and over the memory, published and own.
One per cell: its learning curves. Units are those of the picture's view box.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.report import text
from orchestrator.report.rows import MEMORY, SCORE, SPEED, Row
from orchestrator.report.scales import Scale, Tick
from orchestrator.report.verdict import finite
from orchestrator.shown import Curve

__all__ = ["Group", "Line", "Mark", "Panel", "groups", "learning", "series"]

_LEFT, _TOP, _BOTTOM, _HEIGHT = 32, 22, 142, 172
_WIDTH, _WIDE = 226, 310
"""Of a picture among two others, and of a learning curve."""
_AIR = 8
"""To the right of an axis."""
_RIGHT = _WIDTH - _AIR
_DODGE = 13.0
"""Between the series of one place of the schedule."""
_DRAWN = 128
"""Points of a curve that are drawn at most."""
LOSS = "train/loss"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One score."""

    x: float
    y: float
    cell: str
    series: int
    own: bool
    """Reproduced; else published."""
    pale: bool
    """Not to be compared with the published ones."""
    told: str
    """What is said of it, in lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A curve."""

    points: str
    """As an SVG polyline has them."""
    series: int = 0
    thin: bool = False
    """One of several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One picture with its axes."""

    title: str
    below: str
    """What the horizontal axis is."""
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    marks: Sequence[Mark] = ()
    lines: Sequence[Line] = ()
    level: tuple[float, str] | None = None
    """A horizontal line for a published score: place and label."""
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    bottom: int = _BOTTOM

    @property
    def right(self) -> int:
        """Where the horizontal axis ends."""
        return self.width - _AIR


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The pictures of one section."""

    section: str
    panels: Sequence[Panel]


def series(rows: Iterable[Row]) -> list[str]:
    """Return what is told apart by shape and colour: the widths, smallest first as the table has them."""
    return list(dict.fromkeys(row.facets["width"] for row in rows if "width" in row.facets))


def groups(sections: dict[str, list[Row]], names: Sequence[str]) -> list[Group]:
    """Return the pictures of every section with a score; `names` are those of the series."""
    return [
        Group(section=section, panels=panels) for section, rows in sections.items() if (panels := _panels(rows, names))
    ]


def learning(row: Row) -> list[Panel]:
    """Return the learning curves of a cell: the score with the published one as a level, and the loss."""
    return [
        panel
        for name, title in ((SCORE, "mIoU of the validations"), (LOSS, "training loss"))
        if (panel := _learning(row, name, title)) is not None
    ]


def _panels(rows: Sequence[Row], names: Sequence[str]) -> list[Panel]:
    scores = [score for row in rows for score in (finite(row.published.get(SCORE)), _own(row)) if score is not None]
    if not scores:
        return []
    y = Scale.around(scores, _BOTTOM, _TOP)
    of = partial(_index, names=names)
    made = [_over_schedule(rows, y, of, len(names))]
    made.append(_trade_off(rows, y, of, "mIoU over speed", "images per second", _speed, SPEED, log=True))
    made.append(_trade_off(rows, y, of, "mIoU over training memory", "GB of one GPU", _memory, MEMORY, log=False))
    return [panel for panel in made if panel is not None]


def _over_schedule(rows: Sequence[Row], y: Scale, of: Callable[[Row], int], several: int) -> Panel | None:
    known = sorted({row.facets["schedule"] for row in rows if "schedule" in row.facets}, key=_iterations)
    if not known:
        return None
    step = (_RIGHT - _LEFT) / len(known)
    middle = {schedule: _LEFT + (place + 0.5) * step for place, schedule in enumerate(known)}
    dodge = min(_DODGE, step / (several + 1))

    def x(row: Row) -> float | None:
        at = middle.get(row.facets.get("schedule", ""))
        return None if at is None else round(at + dodge * (of(row) - (several - 1) / 2), 1)

    lines = []
    for index in range(several):
        points = [
            f"{x(row)},{y.place(score)}"
            for row in rows
            if of(row) == index and x(row) is not None and (score := finite(row.published.get(SCORE))) is not None
        ]
        lines += [Line(points=" ".join(points), series=index)] if len(points) > 1 else []
    ticks = [(round(at, 1), name) for name, at in middle.items()]
    return Panel(title="mIoU over schedule", below="iterations", x_ticks=ticks, y_ticks=y.ticks(5),
                 marks=_marks(rows, y, of, x, x), lines=lines)  # fmt: skip


def _trade_off(
    rows: Sequence[Row],
    y: Scale,
    of: Callable[[Row], int],
    title: str,
    below: str,
    own: Callable[[Row], float | None],
    metric: str,
    *,
    log: bool,
) -> Panel | None:
    """`own` and the published `metric` are what the horizontal axis shows."""
    published = partial(_published, rows, metric=metric)
    costs = [cost for row in rows for cost in (own(row), published(row)) if cost is not None and cost > 0]
    if not costs:
        return None
    scale = Scale.around(costs, _LEFT, _RIGHT, log=log, zero=not log)

    def at(cost: Callable[[Row], float | None]) -> Callable[[Row], float | None]:
        return lambda row: scale.place(found) if (found := cost(row)) is not None and found > 0 else None

    return Panel(title=title, below=below, x_ticks=scale.ticks(6), y_ticks=y.ticks(5),
                 marks=_marks(rows, y, of, at(published), at(own)))  # fmt: skip


def _marks(
    rows: Sequence[Row],
    y: Scale,
    of: Callable[[Row], int],
    published_at: Callable[[Row], float | None],
    own_at: Callable[[Row], float | None],
) -> list[Mark]:
    """Published marks first, so that own ones lie on them."""
    made = []
    for own, place, score_of in ((False, published_at, _theirs), (True, own_at, _own)):
        for row in rows:
            x, score = place(row), score_of(row)
            if x is not None and score is not None:
                pale = own and (not row.counted or bool(row.not_comparable))
                made.append(Mark(x=x, y=y.place(score), cell=row.cell, series=of(row), own=own, pale=pale,
                                 told=_told(row)))  # fmt: skip
    return made


def _told(row: Row) -> str:
    lines = [row.cell, f"published  {_facts(_theirs(row), row.published.get(SPEED), row.published.get(MEMORY))}"]
    own = _own(row)
    if own is not None:
        lines += [f"here  {_facts(own, row.speed, row.memory)}", row.verdict]
    return "\n".join(lines)


def _facts(score: float | None, speed: float | None, memory: float | None) -> str:
    told = ((score, "mIoU"), (speed, "images/s"), (memory, "GB"))
    return ", ".join(f"{text.number(value)} {unit}" for value, unit in told if finite(value) is not None) or "-"


def _learning(row: Row, name: str, title: str) -> Panel | None:
    shown = {trial.key: trial for trial in row.trials if name in trial.exhibit.curves}
    curves = [_thinned(trial.exhibit.curves[name]) for trial in shown.values()]
    curves = [curve for curve in curves if len(curve) > 1]
    if not curves:
        return None
    level = _theirs(row) if name == SCORE else None
    values = [value for curve in curves for _, value in curve]
    log = name == LOSS and min(values) > 0 and max(values) > 3 * min(values)
    y = Scale.around([*values, *([] if level is None else [level])], _BOTTOM, _TOP, log=log)
    total = max([curve[-1][0] for curve in curves] + [trial.total or 0 for trial in shown.values()])
    x = Scale(low=0.0, high=float(total), start=_LEFT, end=_WIDE - _AIR - 4)
    lines = [
        Line(points=" ".join(f"{x.place(step):g},{y.place(value):g}" for step, value in curve), thin=len(curves) > 1)
        for curve in curves
    ]
    marked = None if level is None else (y.place(level), f"published {text.number(level)}")
    return Panel(title=title, below="iterations", x_ticks=x.ticks(6), y_ticks=y.ticks(5), lines=lines, level=marked,
                 width=_WIDE)  # fmt: skip


def _thinned(curve: Curve) -> list[tuple[int, float]]:
    """At most _DRAWN points, the last one among them."""
    every = math.ceil(len(curve) / _DRAWN)
    return list(curve[::-1][::every][::-1])


def _theirs(row: Row) -> float | None:
    return finite(row.published.get(SCORE))


def _speed(row: Row) -> float | None:
    return row.speed


def _memory(row: Row) -> float | None:
    return row.memory


def _own(row: Row) -> float | None:
    return None if row.score is None else row.score.mean


def _published(rows: Sequence[Row], row: Row, *, metric: str) -> float | None:
    """The row's own, or that of another schedule of the same model: those were not measured separately."""
    value = finite(row.published.get(metric))
    if value is not None or not row.published or "width" not in row.facets:
        return value
    alike = (other for other in rows if other.facets.get("width") == row.facets["width"])
    return next((found for other in alike if (found := finite(other.published.get(metric))) is not None), None)


def _index(row: Row, names: Sequence[str]) -> int:
    return names.index(row.facets["width"]) if "width" in row.facets else 0


def _iterations(schedule: str) -> float:
    found = re.match(r"[\d.]+", schedule)
    return float(found.group()) if found else math.inf
