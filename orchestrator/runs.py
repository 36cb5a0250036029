"""The tracking run of one trial: how it is opened, what it is told at the end, and what reaches it late.

A server that is away when a trial starts is waited for (OPEN_SECONDS); one that is away at its end is not: what it
should have been told stands in the trial's result, and `orchestrator.reconcile` tells it later.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from orchestrator.checkpoints import CheckpointStore
from orchestrator.describe import trial_note
from orchestrator.errors import TrackingError, reason_of
from orchestrator.inputs import log_inputs
from orchestrator.ledger import State
from orchestrator.notes import write_note
from orchestrator.plan import PlannedTrial
from orchestrator.points import left_behind, spool_folder
from orchestrator.registry import note_verdict, register
from orchestrator.report import Trial
from orchestrator.runstore import flatten, probe, shown
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.tracking import Status, Tracker, denial, refused
from orchestrator.triallog import log_names
from orchestrator.undelivered import Undelivered
from orchestrator.workload import Json, Workload

__all__ = ["EndState", "Ending", "close_run", "deliver", "ending_of", "open_run", "wait_for_run"]

OPEN_SECONDS: Final = 900.0
"""A trial waits so long for a tracking store that is away when it starts; then it fails."""
OPEN_PAUSE: Final = 15.0
"""Longest pause between two attempts, which a lease must survive."""
DELIVER_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)

EndState = Literal["finished", "failed", "stopped"]

_STATUS: Final[Mapping[EndState, Status]] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """What a tracking run is told when its trial has ended."""

    status: Status
    """MLflow's status of the run."""

    step: int
    """Step that the metrics belong to."""

    metrics: Mapping[str, float]
    """Final metrics, and the published ones under `published/`."""

    tags: Mapping[str, str]
    """The verdict, and the error if there is one."""

    note: str = ""
    """The run's description; empty in results of launches that wrote none."""

    @classmethod
    def of(cls, result: Mapping[str, Json]) -> Ending:
        """Return the ending that a trial's result document carries, or what can be told of one without."""
        if "ending" in result:
            return cls(**result["ending"])
        error = str(result.get("error") or "").splitlines()
        return cls(
            status=_STATUS[result["state"]], step=0, metrics={}, tags={"hrgrid.error": error[0]} if error else {}
        )

    def document(self) -> dict[str, Json]:
        """Return it as JSON, for the result document."""
        return dataclasses.asdict(self)


def open_run(
    tracker: Tracker,
    workload: Workload,
    planned: PlannedTrial,
    settings: Settings,
    provenance: Mapping[str, Json],
    patch: str = "",
    *,
    contested: bool = True,
) -> str:
    """Return the id of the trial's run, RUNNING, with all that is known from the start; found before it is made.

    That is tags, params, description, recipe, origin, data and published numbers, as lines from the first step to the
    last.

    `patch`: how the code differs from the commit that `provenance` names. `contested`: another launch may be making
    the same run now, see `Tracker.start_run`.
    """
    spec = planned.spec
    params = {**flatten(spec.settings), "seed": str(spec.seed)}
    tags = _tags(planned, settings, provenance)
    run_id = tracker.start_run(planned.key, spec.title, tags=tags, params=params, contested=contested)
    if tracker.read_artifact(run_id, "config/recipe.yaml") is None:
        import yaml

        document = {"cell": spec.cell.name, "seed": spec.seed, "settings": _plain(spec.settings)}
        tracker.log_artifact(run_id, yaml.safe_dump(document, sort_keys=False), "config/recipe.yaml")
    _log_origin(tracker, run_id, planned, provenance, patch)
    write_note(tracker, run_id, _note(workload, planned, settings, provenance, _trial(planned, "running")))
    for step in (0, planned.estimate.iterations):
        tracker.log_metrics(run_id, _published(workload, planned), step)
    try:
        inputs = workload.inputs(spec)
    except Exception as error:  # whatever the data's location raises; the workers will say so, too
        _log.warning("trial %s: its data cannot be described: %s", planned.key, reason_of(error))
        return run_id
    log_inputs(tracker, run_id, spec, inputs)
    return run_id


def _log_origin(
    tracker: Tracker, run_id: str, planned: PlannedTrial, provenance: Mapping[str, Json], patch: str
) -> None:
    """Keep what code, versions, hosts and data the run comes of; of each launch with other ones in its own folder.

    The first is `provenance/`, the next `provenance/2/`.
    """
    spec = planned.spec
    data = {"data": spec.data, "data_fingerprint": spec.data_fingerprint, "code_version": spec.code_version}
    content = json.dumps({**provenance, **data, "key": planned.key}, indent=1, sort_keys=True)
    folder, number = "provenance", 1
    while (known := tracker.read_artifact(run_id, f"{folder}/provenance.json")) is not None:
        if known == content.encode():
            return
        number += 1
        folder = f"provenance/{number}"
    if patch:
        tracker.log_artifact(run_id, patch, f"{folder}/diff.patch")
    tracker.log_artifact(run_id, content, f"{folder}/provenance.json")


def ending_of(
    workload: Workload,
    planned: PlannedTrial,
    settings: Settings,
    provenance: Mapping[str, Json],
    state: EndState,
    metrics: Mapping[str, float],
    error: str | None = None,
    advice: str | None = None,
) -> Ending:
    """Return what the run of a trial that ended in `state` is told; `error` and `advice` are of one that failed."""
    trial = _trial(planned, state, metrics, error)
    published = workload.published(planned.spec.cell) or {}
    tags: dict[str, str] = {"hrgrid.verdict": trial.verdict(published)}
    if error:
        tags["hrgrid.error"] = error.splitlines()[0]
    gap = trial.gap(published)
    gaps = {} if gap is None else {"published/gap": gap}
    return Ending(
        status=_STATUS[state],
        step=planned.estimate.iterations,
        # Of a training that did not end the last curve points are no scores, and their step is another.
        metrics={**metrics, **_published(workload, planned), **gaps} if state == "finished" else {},
        tags=tags,
        note=_note(workload, planned, settings, provenance, trial, advice),
    )


def wait_for_run(
    tracker: Tracker,
    workload: Workload,
    planned: PlannedTrial,
    settings: Settings,
    provenance: Mapping[str, Json],
    waiting: Callable[[], object],
    *,
    patch: str = "",
    contested: bool = True,
    seconds: float = OPEN_SECONDS,
) -> tuple[str, int]:
    """Do as `open_run`, again and again while the store is away; `waiting` is called before each further attempt.

    Returns the run's id and its start, milliseconds since the epoch. Raises TrackingError when the store is still away
    after `seconds`, and at once when it refuses, be it this process's account.
    """
    until, pause = time.monotonic() + seconds, 1.0
    while True:
        try:
            probe(tracker.uri)
        except TrackingError as error:
            problem = str(error)
        else:
            try:
                run_id = open_run(tracker, workload, planned, settings, provenance, patch, contested=contested)
                return run_id, tracker.start_ms(run_id)
            except TrackingError:
                raise
            except Exception as error:
                denied = denial(tracker.uri, error)
                problem = f"the tracking store {shown(tracker.uri)} fails ({reason_of(error)})"
                if denied is not None or refused(error):
                    raise denied or TrackingError(problem) from error
        if time.monotonic() >= until:
            raise TrackingError(f"{problem}; it was waited for {seconds / 60:.0f} minutes")
        _log.warning("trial %s waits: %s", planned.key, problem)
        waiting()
        time.sleep(pause)
        pause = min(2 * pause, OPEN_PAUSE)


def close_run(tracker: Tracker, run_id: str, key: str, ending: Ending, storage: Storage) -> None:
    """End a trial's run with its true status, metrics, tags, the logs of all attempts and whatever waits for it."""
    probe(tracker.uri)
    for name in log_names(storage, key):
        content = storage.find_bytes(f"trials/{key}/logs/{name}")
        tracker.log_artifact(run_id, content or b"", f"logs/{name}")
    for name in storage.list(f"trials/{key}/evidence"):
        tracker.log_artifact(run_id, storage.read_bytes(f"trials/{key}/evidence/{name}"), f"evidence/{name}")
    deliver(tracker, run_id, key, storage)
    if "hrgrid.verdict" in ending.tags:
        note_verdict(tracker, run_id, ending.tags["hrgrid.verdict"])
    if ending.note:
        write_note(tracker, run_id, ending.note)
    tracker.finish(run_id, ending.status, metrics=ending.metrics, step=ending.step, tags=ending.tags)


def deliver(tracker: Tracker, run_id: str, key: str, storage: Storage) -> None:
    """Bring to a run what workers kept in storage or left on this host because the store was away; TrackingError."""
    waiting = Undelivered(storage, key)
    if left_behind(spool_folder(), run_id) or waiting.exists():
        from orchestrator.recorder import Recorder

        recorder = Recorder(tracker.uri, run_id, tracker.start_ms(run_id), undelivered=waiting, flush_seconds=0.0)
        if not recorder.close(DELIVER_SECONDS):
            raise TrackingError(f"the tracking store {tracker.uri} does not take the points of run {run_id}")
    for path in waiting.artifacts():
        tracker.log_artifact(run_id, waiting.artifact(path), path)
        waiting.drop_artifact(path)
    for name in waiting.checkpoints():
        store = CheckpointStore(storage, key)
        with tempfile.TemporaryDirectory(prefix="hrgrid-deliver-") as folder:
            found = store.best(Path(folder)) if name == "best" else store.latest(Path(folder))
            if found is not None:
                tracker.log_artifact(run_id, found.path, f"checkpoints/{name}")
        waiting.drop_checkpoint(name)
    with tempfile.TemporaryDirectory(prefix="hrgrid-deliver-") as folder:
        if waiting.model(Path(folder) / "model"):
            register(tracker, run_id, Path(folder) / "model")
            write_note(tracker, run_id)  # which names the model now
            waiting.drop_model()


def _tags(planned: PlannedTrial, settings: Settings, provenance: Mapping[str, Json]) -> dict[str, str]:
    spec, commit = planned.spec, str(provenance.get("git_commit") or "")
    branch, dirty = str(provenance.get("git_branch") or ""), provenance.get("git_dirty")
    host = str(provenance.get("host") or socket.gethostname())
    return {
        **spec.cell.facets,
        "hrgrid.benchmark": settings.benchmark,
        "hrgrid.code_version": spec.code_version,
        "hrgrid.data": spec.data,
        "hrgrid.data_fingerprint": spec.data_fingerprint,
        "hrgrid.git_commit": commit,
        "hrgrid.git_dirty": "" if dirty is None else str(bool(dirty)).lower(),
        "hrgrid.host": host,
        "hrgrid.not_comparable": "; ".join(spec.not_comparable),
        "hrgrid.sample": " ".join(f"{name}={value}" for name, value in spec.sample.items()),
        "hrgrid.seed": str(spec.seed),
        "hrgrid.submit_host": str(provenance.get("submit_host") or host),
        "hrgrid.verdict": "running",
        "hrgrid.workers": str(planned.workers),
        "mlflow.source.git.branch": branch,
        "mlflow.source.git.commit": commit,
        "mlflow.source.name": "hrgrid",
    }


def _trial(
    planned: PlannedTrial, state: State, metrics: Mapping[str, float] | None = None, error: str | None = None
) -> Trial:
    """A trial as the report judges it."""
    spec = planned.spec
    return Trial(
        cell=spec.cell.name,
        key=planned.key,
        seed=spec.seed,
        state=state,
        metrics=metrics or {},
        not_comparable=spec.not_comparable,
        error=error,
        sample=spec.sample,
    )


def _note(
    workload: Workload,
    planned: PlannedTrial,
    settings: Settings,
    provenance: Mapping[str, Json],
    trial: Trial,
    advice: str | None = None,
) -> str:
    cell = planned.spec.cell
    published, facts = workload.published(cell) or {}, workload.facts(cell)
    return trial_note(planned, settings, provenance, trial, published, facts, advice)


def _published(workload: Workload, planned: PlannedTrial) -> dict[str, float]:
    """Published numbers under `published/`."""
    known = workload.published(planned.spec.cell) or {}
    return {f"published/{name.split('/')[-1]}": float(value) for name, value in known.items()}


def _plain(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
