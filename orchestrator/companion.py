"""The reference beside a run: drawn in its tracking run, and judged after every validation. In rank 0's desk.

A reference lies in the trial's folder (`trials/<key>/reference.json`), so that a resumed training finds it. What the
run itself has recorded so far is read from its tracking run; without the store it starts anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from orchestrator.errors import StorageError
from orchestrator.reference import LOSS, PREFIX, SCORE, Curve, Reference, judge
from orchestrator.storage import Storage

__all__ = ["SHA256_TAG", "SOURCE_TAG", "WARNING_TAG", "Companion", "Run", "keep_reference", "open_companion"]

WARNING_TAG: Final = "hrgrid.warning"
SOURCE_TAG: Final = "hrgrid.reference"
SHA256_TAG: Final = "hrgrid.reference_sha256"

_JUDGED: Final = (SCORE, LOSS)

_log = logging.getLogger(__name__)


class Run(Protocol):
    """What is asked of the tracking store: the tags and the own points of one run."""

    def tags(self, run_id: str) -> Mapping[str, str]:
        """All tags of a run."""

    def history(self, run_id: str, name: str) -> Curve:
        """All points of a metric of a run, in ascending order of the step."""


class Companion:
    """Follows one run; `tell` is called with the tags to set whenever the warning comes, changes or goes."""

    def __init__(
        self,
        reference: Reference,
        *,
        record: Callable[[Mapping[str, float], int], None],
        tell: Callable[[Mapping[str, str]], None],
        own: Mapping[str, Curve] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """`record` takes points of the reference's curves for the tracking run; `own` and `tags` are what that run
        holds already."""
        self._reference, self._record, self._tell = reference, record, tell
        self._own = {name: dict((own or {}).get(name, ())) for name in _JUDGED}
        known = tags or {}
        self._warning = known.get(WARNING_TAG, "")
        self._another = known.get(SHA256_TAG, reference.sha256) != reference.sha256
        self._drawn = False

    @property
    def warning(self) -> str:
        """The sentence that is shown now; empty while nothing is wrong."""
        return self._warning

    def see(self, metrics: Mapping[str, float], step: int, total: int) -> None:
        """Take the run's own metrics of a step; the first call draws the reference."""
        if not self._drawn:
            self._drawn = True
            self._draw(total)
        for name, points in self._own.items():
            if name in metrics:
                points[step] = float(metrics[name])
        if SCORE not in metrics and LOSS not in metrics:
            return
        # Steps that a resumed run executes again replace what was there; what lay ahead of it is not its own any more.
        own = {name: tuple(sorted(p for p in points.items() if p[0] <= step)) for name, points in self._own.items()}
        warning = judge(own, total, self._reference)
        if warning and self._warning and _subject(warning) == _subject(self._warning) and SCORE not in metrics:
            return  # the loss is judged at every log line; the sentence changes with a validation
        if warning != self._warning:
            self._warning = warning
            self._tell({WARNING_TAG: warning})

    def _draw(self, total: int) -> None:
        """Record the reference's curves; points that the run holds already are left out by the recorder."""
        if self._another:
            _log.warning("the run shows another reference already; %s is compared, not drawn", self._reference.source)
            return
        self._tell({SOURCE_TAG: self._reference.source, SHA256_TAG: self._reference.sha256})
        by_step: dict[int, dict[str, float]] = {}
        for name, curve in self._reference.drawn(total).items():
            for step, value in curve:
                by_step.setdefault(step, {})[f"{PREFIX}{name}"] = value
        for step, values in sorted(by_step.items()):
            self._record(values, step)


def keep_reference(storage: Storage, key: str, reference: Reference) -> None:
    """Lay a reference beside a trial, in place of one that is there."""
    storage.write_json(_place(key), reference.to_json())


def open_companion(
    storage: Storage,
    key: str,
    *,
    run: Run,
    run_id: str,
    record: Callable[[Mapping[str, float], int], None],
    tell: Callable[[Mapping[str, str]], None],
) -> Companion | None:
    """The companion of a trial that has a reference, else None; one that cannot be read costs a warning."""
    try:
        document = storage.find_json(_place(key))
        if document is None:
            return None
        reference = Reference.from_json(document)
    except (StorageError, KeyError, TypeError, ValueError) as error:
        _log.warning("the reference of trial %s cannot be read and is left out: %s", key, error)
        return None
    own: dict[str, Curve] = {}
    tags: Mapping[str, str] = {}
    try:
        tags = run.tags(run_id)
        own = {name: run.history(run_id, name) for name in _JUDGED}
    except Exception as error:  # whatever a store that is away raises; it costs no training
        _log.warning("run %s: its own curves cannot be read, the comparison starts anew: %s", run_id, error)
    return Companion(reference, record=record, tell=tell, own=own, tags=tags)


def _place(key: str) -> str:
    return f"trials/{key}/reference.json"


def _subject(warning: str) -> str:
    return warning.partition(" ")[0]
