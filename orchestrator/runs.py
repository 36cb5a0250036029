"""The tracking run of one trial: how it is opened, and what it is told at the end."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from orchestrator.plan import PlannedTrial
from orchestrator.report import Trial
from orchestrator.runstore import flatten
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.tracking import Status, Tracker
from orchestrator.triallog import log_names
from orchestrator.workload import Json, Workload

__all__ = ["EndState", "Ending", "close_run", "ending_of", "open_run"]

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


def open_run(tracker: Tracker, planned: PlannedTrial, settings: Settings, provenance: Mapping[str, Json]) -> str:
    """Return the id of the trial's run, RUNNING, with its tags, params and recipe; found before it is made."""
    spec = planned.spec
    params = {**flatten(spec.settings), "seed": str(spec.seed)}
    run_id = tracker.start_run(planned.key, spec.title, tags=_tags(planned, settings, provenance), params=params)
    if tracker.read_artifact(run_id, "config/recipe.yaml") is None:
        import yaml

        document = {"cell": spec.cell.name, "seed": spec.seed, "settings": _plain(spec.settings)}
        tracker.log_artifact(run_id, yaml.safe_dump(document, sort_keys=False), "config/recipe.yaml")
    return run_id


def ending_of(
    workload: Workload, planned: PlannedTrial, state: EndState, metrics: Mapping[str, float], error: str | None
) -> Ending:
    """Return what the run of a trial that ended in `state` is told."""
    tags = {"hrgrid.verdict": _verdict(workload, planned, state, metrics)}
    if error:
        tags["hrgrid.error"] = error.splitlines()[0]
    return Ending(
        status=_STATUS[state],
        step=planned.estimate.iterations,
        metrics={**metrics, **_published(workload, planned, state, metrics)},
        tags=tags,
    )


def close_run(tracker: Tracker, run_id: str, key: str, ending: Ending, storage: Storage) -> None:
    """End a trial's run with its true status, metrics, tags and the logs of all attempts."""
    for name in log_names(storage, key):
        content = storage.find_bytes(f"trials/{key}/logs/{name}")
        tracker.log_artifact(run_id, content or b"", f"logs/{name}")
    tracker.finish(run_id, ending.status, metrics=ending.metrics, step=ending.step, tags=ending.tags)


def _tags(planned: PlannedTrial, settings: Settings, provenance: Mapping[str, Json]) -> dict[str, str]:
    spec, commit = planned.spec, str(provenance.get("git_commit") or "")
    return {
        **spec.cell.facets,
        "hrgrid.benchmark": settings.benchmark,
        "hrgrid.code_version": spec.code_version,
        "hrgrid.data": spec.data,
        "hrgrid.data_fingerprint": spec.data_fingerprint,
        "hrgrid.git_commit": commit,
        "hrgrid.host": str(provenance.get("host") or socket.gethostname()),
        "hrgrid.not_comparable": "; ".join(spec.not_comparable),
        "hrgrid.sample": " ".join(f"{name}={value}" for name, value in spec.sample.items()),
        "hrgrid.seed": str(spec.seed),
        "hrgrid.verdict": "running",
        "hrgrid.workers": str(planned.workers),
        "mlflow.source.git.commit": commit,
        "mlflow.source.name": "hrgrid",
    }


def _verdict(workload: Workload, planned: PlannedTrial, state: EndState, metrics: Mapping[str, float]) -> str:
    """The verdict that the report gives."""
    spec = planned.spec
    trial = Trial(
        cell=spec.cell.name,
        key=planned.key,
        state=state,
        metrics=metrics,
        not_comparable=spec.not_comparable,
    )
    return trial.verdict(workload.published(spec.cell) or {})


def _published(
    workload: Workload, planned: PlannedTrial, state: EndState, metrics: Mapping[str, float]
) -> dict[str, float]:
    """Published numbers under `published/`, and how far the first of them that was measured too is away."""
    known = workload.published(planned.spec.cell) if state == "finished" else None
    if not known:
        return {}
    found = {f"published/{name.split('/')[-1]}": float(value) for name, value in known.items()}
    measured = next((name for name in known if name in metrics), None)
    if measured is not None:
        found["published/gap"] = metrics[measured] - known[measured]
    return found


def _plain(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
