"""One MLflow run per trial key: found before it is made, with legal names, a true status and small artifacts.

Importing MLflow takes about two seconds, so it happens inside functions; only this file, `recorder.py` and
`inputs.py` do it.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

from orchestrator.errors import TrackingError, reason_of
from orchestrator.exhibits import exhibit_tags, is_exhibit
from orchestrator.runstore import TAG_LIMIT, VALUE_LIMIT, absolute_uri, alone, legal_name, local_folder, probe, shown
from orchestrator.views import experiment_tags

__all__ = [
    "ATTEMPTS_TAG",
    "DUPLICATE_TAG",
    "KEY_TAG",
    "KIND_TAG",
    "REASON_TAG",
    "Status",
    "TrackedRun",
    "Tracker",
    "denial",
    "open_client",
    "refused",
]

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

KEY_TAG: Final = "hrgrid.key"
KIND_TAG: Final = "hrgrid.kind"
DUPLICATE_TAG: Final = "hrgrid.duplicate_of"
"""On a run that two launches made for one trial: the run that is the trial's."""
REASON_TAG: Final = "hrgrid.killed_because"
"""Why a run was ended as KILLED by somebody else than its trial."""
_PASSING: Final = (REASON_TAG, "hrgrid.error")
"""Tags of how an earlier attempt ended, which say nothing of a run that goes on."""
SETTLE_SECONDS: Final = 1.0
"""A launch that makes a run of the same trial at the same moment has made it after this time. The lease keeps two
launches from it; this is for the moment in which one takes it over from another that still lives."""
ATTEMPTS_TAG: Final = "hrgrid.attempts"
OUTAGES: Final = (401, 403, 408, 409, 429)
"""HTTP statuses below 500 that trying again, or a person, can mend; with any other the request itself is at fault."""
METRICS_PER_BATCH: Final = 1000
PARAMS_PER_BATCH: Final = 100
"""Limit of MLflow's `log_batch` for params and for tags."""
_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
for _name, _value in _ENVIRONMENT.items():  # MLflow reads these when it is imported
    os.environ.setdefault(_name, _value)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """What the store knows of one run."""

    run_id: str
    name: str
    key: str
    kind: str
    status: str
    start_ms: int
    """Start of the run, milliseconds since the epoch."""
    metrics: Mapping[str, float]
    """Metric name to its latest value."""
    tags: Mapping[str, str]
    url: str | None
    """Where a browser shows the run; None when no server is in front of the store."""


def open_client(uri: str) -> Any:
    """Return an `MlflowClient` that sends no telemetry and gives up on a silent server within about a minute."""
    from mlflow import MlflowClient

    for chatty in ("alembic", "mlflow"):  # MLflow sets its own level when it is imported
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with alone(uri):
        return MlflowClient(tracking_uri=uri)


class Tracker:
    """The runs of one MLflow experiment. Picklable: holds no connection until it is used."""

    def __init__(self, uri: str, experiment: str, *, artifacts: str | None = None) -> None:
        """`uri`: SQLite path or URI, database URI, or server address. `artifacts`: where a store without a server
        keeps the experiment's artifacts (a server decides for itself); None: MLflow's default."""
        self.uri = absolute_uri(uri)
        self.experiment = experiment
        self.artifacts = artifacts
        self._client: Any = None
        self._experiment_id: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def check(self) -> None:
        """Raise TrackingError if the store cannot be used; creates the store and the experiment if they are new.

        An experiment of an earlier version gets the views of this one.
        """
        probe(self.uri)
        with _one_sentence(self.uri):
            self.tag_experiment(experiment_tags())

    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Set those tags of the experiment that it does not have yet, or with another value."""
        known = self.client.get_experiment(self.experiment_id).tags
        for name, value in tags.items():
            if known.get(name) != value:
                self.client.set_experiment_tag(self.experiment_id, name, value)

    @property
    def client(self) -> Any:
        """The `MlflowClient`, made when first asked for."""
        if self._client is None:
            if self.uri.startswith("sqlite:///"):
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self._client = open_client(self.uri)
        return self._client

    @property
    def experiment_id(self) -> str:
        """Id of the experiment, which is created when it is new."""
        if self._experiment_id is None:
            self._experiment_id = self._find_experiment()
        return self._experiment_id

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            location = None if self.uri.startswith("http") else self.artifacts
            try:
                return str(self.client.create_experiment(self.experiment, location, experiment_tags()))
            except MlflowException:
                found = self.client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"experiment {self.experiment!r} is deleted in {shown(self.uri)}; restore it there or choose another "
                "name"
            )
        return str(found.experiment_id)

    def find(self, key: str) -> TrackedRun | None:
        """The run of a trial key, or None; of several the oldest that is not marked as a duplicate."""
        found = [self._tracked(run) for run in self._of_key(key)]
        return next((run for run in found if DUPLICATE_TAG not in run.tags), None)

    def _of_key(self, key: str) -> list[Any]:
        query = f"tags.`{KEY_TAG}` = '{key}'"
        found = self.client.search_runs([self.experiment_id], query, order_by=["attributes.start_time ASC"])
        return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))

    def start_run(
        self,
        key: str,
        name: str,
        *,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        kind: str = "trial",
        contested: bool = True,
    ) -> str:
        """Return the id of the key's run, RUNNING: the one that exists, or a new one. Params are written once.

        Of several launches that make a key's run at the same moment all get the oldest; the others' are taken back.
        That takes a moment; not `contested`: nobody else can be making this run.
        """
        all_tags = {**(tags or {}), KEY_TAG: key, KIND_TAG: kind}
        found = self.find(key)
        if found is None:
            run = self.client.create_run(self.experiment_id, run_name=name, tags=_texts(all_tags))
            run_id = str(run.info.run_id)
            run_id = self._oldest(key, run_id) if contested else run_id
        else:
            run_id = found.run_id
            self._reopen(run_id)
            for tag in _PASSING:
                if tag in found.tags:
                    self.client.delete_tag(run_id, tag)
            self.set_tags(run_id, all_tags)
        self._log_new_params(run_id, params or {})
        return run_id

    def _oldest(self, key: str, mine: str) -> str:
        """Return the run that all who have just made one for a key agree on; take back `mine` if it is another."""
        time.sleep(SETTLE_SECONDS)
        first = self.find(key)
        if first is None or first.run_id == mine:
            return mine
        self.discard(mine, first.run_id)
        self.client.delete_run(mine)
        return first.run_id

    def discard(self, run_id: str, of: str) -> None:
        """Mark a run as a duplicate of another one and end it as KILLED."""
        self.set_tags(run_id, {DUPLICATE_TAG: of})
        self.client.set_terminated(run_id, status="KILLED")

    def _reopen(self, run_id: str) -> None:
        """Make a run RUNNING again. Only the store below the client can clear the time at which it had ended."""
        from mlflow.entities import RunStatus

        running = RunStatus.from_string("RUNNING")
        self.client._tracking_client.store.update_run_info(run_id, running, 0, None)

    def note_attempt(self, run_id: str, host: str, workers: int) -> None:
        """Count an attempt at a run's trial, and add its host and its number of workers to those of earlier ones."""
        tags = self.client.get_run(run_id).data.tags
        before = int(tags.get(ATTEMPTS_TAG, "0"))

        def added(tag: str, value: object) -> str:
            return f"{tags[tag]}, {value}" if before and tag in tags else str(value)

        hosts, gangs = f"{ATTEMPTS_TAG}.hosts", f"{ATTEMPTS_TAG}.workers"
        new = {ATTEMPTS_TAG: str(before + 1), hosts: added(hosts, host), gangs: added(gangs, workers)}
        new["hrgrid.workers"] = str(workers)
        self.set_tags(run_id, new)

    def _log_new_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = [Param(legal_name(name), str(value)[:VALUE_LIMIT]) for name, value in params.items()]
        new = [param for param in new if param.key not in known]
        for begin in range(0, len(new), PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=new[begin : begin + PARAMS_PER_BATCH])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, whatever its status."""
        from mlflow.entities import RunTag

        batch = [RunTag(name, value) for name, value in _texts(tags).items()]
        for begin in range(0, len(batch), PARAMS_PER_BATCH):
            self.client.log_batch(run_id, tags=batch[begin : begin + PARAMS_PER_BATCH])

    def tags(self, run_id: str) -> dict[str, str]:
        """All tags of a run."""
        return dict(self.client.get_run(run_id).data.tags)

    def history(self, run_id: str, name: str) -> tuple[tuple[int, float], ...]:
        """All points of a metric of a run as (step, value), in ascending order of the step."""
        points = self.client.get_metric_history(run_id, legal_name(name))
        return tuple(sorted({int(point.step): float(point.value) for point in points}.items()))

    def start_ms(self, run_id: str) -> int:
        """When the run was first started, milliseconds since the epoch."""
        return int(self.client.get_run(run_id).info.start_time)

    def finish(
        self,
        run_id: str,
        status: Status,
        *,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """End a run with its true status, after `log_metrics`."""
        self.log_metrics(run_id, metrics or {}, step)
        if tags:
            self.set_tags(run_id, tags)
        self.client.set_terminated(run_id, status=status)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Store those metrics of a step that the run does not hold at it, or after it, yet."""
        from mlflow.entities import Metric

        if not metrics:
            return
        run = self.client.get_run(run_id)
        stamp = int(run.info.start_time) + step
        stored = {metric.key: int(metric.step) for metric in run.data.to_proto().metrics}
        new = {legal_name(name): float(value) for name, value in metrics.items()}
        batch = [Metric(name, value, stamp, step) for name, value in new.items() if stored.get(name, -1) < step]
        for begin in range(0, len(batch), METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=batch[begin : begin + METRICS_PER_BATCH])

    def log_artifact(self, run_id: str, content: bytes | str | Path, path: str) -> None:
        """Store bytes, text, a file or a whole folder as the artifact `path` (`eval/confusion.png`) of a run.

        The files of a folder must not be written to afterwards: a store on the same disk shares them.
        """
        if isinstance(content, Path) and content.is_dir():
            if not self._linked(run_id, content, path):
                self.client.log_artifacts(run_id, str(content), path)
            return
        if is_exhibit(path) and (tags := exhibit_tags(path, self.tags(run_id))):
            self.set_tags(run_id, tags)
        target = PurePosixPath(path)
        folder = None if str(target.parent) == "." else str(target.parent)
        if isinstance(content, Path) and content.name == target.name:
            self.client.log_artifact(run_id, str(content), folder)
            return
        data = content.encode() if isinstance(content, str) else content
        with tempfile.TemporaryDirectory(prefix="hrgrid-") as temporary:
            file = Path(temporary) / target.name
            file.write_bytes(data.read_bytes() if isinstance(data, Path) else data)
            self.client.log_artifact(run_id, str(file), folder)

    def _linked(self, run_id: str, folder: Path, path: str) -> bool:
        """Give a folder's files a second name in an artifact store on the same disk, where MLflow would copy them.

        Returns False if there is no such store; checkpoints of hundreds of megabytes would lie there three times.
        """
        root = local_folder(self.client.get_run(run_id).info.artifact_uri)
        if root is None:
            return False
        names = {file: root / path / file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
        try:
            for file, target in names.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                os.link(file, target)
        except OSError:  # another disk, or one that knows no links; MLflow must not copy a file onto itself
            for target in names.values():
                target.unlink(missing_ok=True)
            return False
        return True

    def read_artifact(self, run_id: str, path: str) -> bytes | None:
        """Content of an artifact file, or None when the run has none of that name."""
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory(prefix="hrgrid-") as temporary:
            try:
                return Path(self.client.download_artifacts(run_id, path, temporary)).read_bytes()
            except (MlflowException, OSError):
                return None

    def artifact_names(self, run_id: str, folder: str = "") -> list[str]:
        """Paths of all artifact files of a run below a folder, sorted."""
        names: list[str] = []
        for entry in self.client.list_artifacts(run_id, folder or None):
            names += self.artifact_names(run_id, entry.path) if entry.is_dir else [entry.path]
        return sorted(names)

    def runs(self, kind: str | None = "trial") -> list[TrackedRun]:
        """All runs of the experiment of one kind (None: of every kind), oldest first."""
        query = f"tags.`{KIND_TAG}` = '{kind}'" if kind else ""
        found: list[TrackedRun] = []
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], query, order_by=["attributes.start_time ASC"], page_token=token
            )
            found += [self._tracked(run) for run in page]
            token = page.token
            if not token:
                return found

    def log_summary(self, benchmark: str, files: Mapping[str, bytes], metrics: Mapping[str, float]) -> str:
        """Write the benchmark's one summary run (the leaderboard as artifacts, counts as metrics); return its id."""
        run_id = self.start_run(f"summary-{benchmark}", f"summary of {benchmark}", kind="summary")
        for path, content in files.items():
            self.log_artifact(run_id, content, path)
        from mlflow.entities import Metric

        # Counts of a benchmark go up and down: the newest are those to show, and all have the step 0.
        now = int(time.time() * 1e3)
        self.client.log_batch(run_id, metrics=[Metric(legal_name(n), float(v), now, 0) for n, v in metrics.items()])
        self.finish(run_id, "FINISHED")
        return run_id

    def run_url(self, run_id: str) -> str | None:
        """Where a browser shows the run; None when no server is in front of the store."""
        if not self.uri.startswith("http"):
            return None
        return f"{self.uri}/#/experiments/{self.experiment_id}/runs/{run_id}"

    def _tracked(self, run: Any) -> TrackedRun:
        return TrackedRun(
            run_id=run.info.run_id,
            name=run.info.run_name or "",
            key=run.data.tags.get(KEY_TAG, ""),
            kind=run.data.tags.get(KIND_TAG, ""),
            status=run.info.status,
            start_ms=int(run.info.start_time),
            metrics=dict(run.data.metrics),
            tags=dict(run.data.tags),
            url=self.run_url(run.info.run_id),
        )


def refused(error: Exception) -> bool:
    """Tell whether the store refuses the request itself; everything else is an outage, also a locked database."""
    status = getattr(error, "get_http_status_code", None)
    return status is not None and 400 <= status() < 500 and status() not in OUTAGES and "locked" not in str(error)


def denial(uri: str, error: Exception) -> TrackingError | None:
    """Return in one sentence that the server does not serve this process or its user, or None if `error` is another.

    Nothing but a person mends it. A training that runs meanwhile goes on, and its metrics wait.
    """
    code = getattr(error, "get_http_status_code", None)
    status = None if code is None else code()
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if status == 401:
        what = f"does not take the password of user {user!r}" if user else "asks for a user and a password"
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of an account there"
    elif status == 403 and "Host header" in str(error):
        what = "does not know itself by this name"
        remedy = "start it with --allowed-hosts naming the host and port of this address"
    elif status == 403:
        what = f"does not allow user {user!r} to do this" if user else "does not allow this"
        remedy = "an administrator of that server can allow it (EDIT on the experiment)"
    else:
        return None
    return TrackingError(f"tracking server {shown(uri)} {what}; {remedy}")


def _texts(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: str(value)[:TAG_LIMIT] for name, value in tags.items()}


@contextmanager
def _one_sentence(uri: str) -> Iterator[None]:
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        denied = denial(uri, error)
        if denied is not None:
            raise denied from error
        reason = reason_of(error)
        raise TrackingError(
            f"tracking store {shown(uri)} cannot be used ({reason}); give another tracking URI"
        ) from error
