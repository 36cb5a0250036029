"""Where results, runs and artifacts go: one value, made once per command from flags and environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.addresses import public, split_password
from orchestrator.errors import UsageError

__all__ = ["DEFAULT_BENCHMARK", "Settings", "absolute_uri", "make_settings"]

DEFAULT_BENCHMARK = "hrnet"
DEFAULT_FOLDER = "hrgrid-results"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Locations and names that every command shares. Holds no secret: credentials stay in the environment."""

    storage: str
    """Absolute location of ledger and checkpoints: a local path or `s3://bucket/prefix`."""

    tracking: str
    """MLflow tracking URI: `sqlite:///...` or `http(s)://...`."""

    artifacts: str | None
    """Where MLflow artifacts go when this side makes the experiment; None: the tracking server decides."""

    benchmark: str
    """Name of the benchmark: the MLflow experiment and the ledger's list of cells."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.benchmark):
            raise UsageError(
                f"the benchmark name {self.benchmark!r} is not usable; take 1 to 100 letters, digits, '.', '_' or '-' "
                "beginning with a letter or digit"
            )
        if self.tracking.startswith("file:") or "://" not in self.tracking:
            raise UsageError(
                f"the tracking location {self.tracking!r} is a file store, which MLflow has retired; "
                "give sqlite:////absolute/path/mlflow.db or the http address of a server"
            )
        if split_password(self.tracking)[2] is not None:
            raise UsageError(
                f"the tracking location {public(self.tracking)} holds a password, which everybody would read who sees "
                "a trial; put it into PGPASSWORD or ~/.pgpass, or let hrgrid serve stand before the database"
            )


def make_settings(
    *,
    storage: str | None = None,
    tracking: str | None = None,
    benchmark: str | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """Fill what is not given from HRGRID_STORAGE, HRGRID_TRACKING, MLFLOW_TRACKING_URI and HRGRID_BENCHMARK.

    `folder` (default: the current one) is what relative paths are relative to. User and password in a server's address
    move to MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of this process. Raises UsageError.
    """
    env = os.environ if environment is None else environment
    location = absolute_uri(storage or env.get("HRGRID_STORAGE") or DEFAULT_FOLDER, folder)
    store = tracking or env.get("HRGRID_TRACKING") or env.get("MLFLOW_TRACKING_URI")
    if store is not None and store.startswith(("http://", "https://")):
        store = _with_login_aside(store)
    remote = "://" in location
    if store is None and remote:
        raise UsageError(
            f"the storage {location!r} is remote and no tracking location is given; start `hrgrid serve` and set "
            "HRGRID_TRACKING=http://host:port (or pass --tracking)"
        )
    local_tracking = store is None or store.startswith("sqlite:")
    return Settings(
        storage=location,
        tracking=store or f"sqlite:///{location}/mlflow.db",
        artifacts=f"{location}/mlartifacts" if local_tracking else None,
        benchmark=benchmark or env.get("HRGRID_BENCHMARK") or DEFAULT_BENCHMARK,
    )


def _with_login_aside(server: str) -> str:
    """The address alone; MLflow's clients, here and in what this process starts, find the rest in the environment."""
    server, user, password = split_password(server)
    for name, value in (("USERNAME", user), ("PASSWORD", password)):
        if value is not None:
            os.environ[f"MLFLOW_TRACKING_{name}"] = value
    return server


def absolute_uri(location: str, folder: Path | None = None) -> str:
    """Return a local path made absolute (`~` expanded) or an `s3://` URI without trailing slash; UsageError else."""
    if location.startswith("s3://"):
        if split_password(location)[1] is not None:
            raise UsageError(
                f"the location {public(location)} holds credentials, which everybody would read who sees a trial; put "
                "them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return location.rstrip("/")
    if location.startswith("file://"):
        location = location[len("file://") :]
    if "://" in location:
        raise UsageError(f"the location {location!r} is neither a local path nor s3://bucket/prefix")
    return os.path.normpath((folder or Path.cwd()) / Path(location).expanduser())
