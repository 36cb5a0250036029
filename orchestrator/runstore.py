"""Which addresses MLflow keeps runs at, whether one answers, and which names and values may be written there."""

from __future__ import annotations

import fcntl
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from orchestrator.errors import TrackingError
from orchestrator.workload import Json

__all__ = [
    "TAG_LIMIT",
    "VALUE_LIMIT",
    "absolute_uri",
    "alone",
    "flatten",
    "is_missing",
    "legal_name",
    "local_folder",
    "probe",
    "shown",
]

VALUE_LIMIT: Final = 6000
"""Longest value of a param that MLflow stores."""
TAG_LIMIT: Final = 8000
"""Longest value of a tag that MLflow stores."""
PROBE_SECONDS: Final = 3.0
OPEN_SECONDS: Final = 60.0
_DATABASES: Final = ("sqlite", "postgresql", "mysql", "mssql")


def absolute_uri(uri: str) -> str:
    """Return the tracking URI in the form that every process understands.

    A plain path to a `.db` file becomes a SQLite URI and a relative SQLite path an absolute one. Raises TrackingError
    for MLflow's file store, which MLflow itself refuses, and for an unknown scheme.
    """
    scheme, separator, rest = uri.partition("://")
    if scheme in ("postgres", "postgresql"):
        # SQLAlchemy 2.1 takes psycopg for it, SQLAlchemy 2.0 psycopg2, which is what hrgrid[server] installs.
        return f"postgresql+psycopg2://{rest}"
    if not separator and uri.endswith(".db"):
        return f"sqlite:///{Path(uri).absolute()}"
    if scheme.startswith("sqlite") and rest.startswith("/"):
        return f"{scheme}:///{Path(rest[1:]).absolute()}"
    if scheme in ("http", "https"):
        return uri.rstrip("/")
    if separator and scheme.split("+")[0] in _DATABASES:
        return uri
    raise TrackingError(
        f"tracking URI {shown(uri)!r}: MLflow keeps no runs there; give sqlite:///path/to/mlflow.db or the http "
        "address of a server"
    )


def shown(uri: str) -> str:
    """Return a URI as it may be printed: without the password of its user or of its query."""
    uri = re.sub(r"://([^:/@]*):.*@", r"://\1:***@", uri.replace("+psycopg2:", ":", 1))
    return re.sub(r"(password=)[^&]*", r"\1***", uri)


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Hold a lock beside a SQLite store while it is opened, for at most a minute.

    MLflow makes the tables of a new store when it opens it, and of two processes that do so at once one fails.
    """
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not path.parent.is_dir():
        yield
        return
    deadline = time.monotonic() + OPEN_SECONDS
    with path.with_name(f"{path.name}.lock").open("ab") as stream:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        yield


def local_folder(artifact_uri: str) -> Path | None:
    """Return the folder of this machine that an artifact URI names, or None if it is elsewhere or behind a server."""
    address = urllib.parse.urlsplit(artifact_uri)
    if address.scheme not in ("", "file") or address.netloc:
        return None
    return Path(urllib.request.url2pathname(address.path))


def is_missing(uri: str) -> bool:
    """Tell whether a URI names a SQLite store whose file is not there yet."""
    return uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists()


def legal_name(name: str) -> str:
    """Return the nearest name that MLflow accepts for a metric or param (letters, digits and `_-. :/`)."""
    parts = (re.sub(r"[^A-Za-z0-9_\-. :]", "_", part) for part in name.split("/"))
    kept = [part for part in parts if part.strip(". ")]
    return "/".join(kept)[:250] or "unnamed"


def flatten(settings: Mapping[str, Json], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings into MLflow params: `{"a": {"b": [1, 2]}}` gives `{"a.b": "1,2"}`."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = legal_name(f"{prefix}{key}")
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and all(isinstance(item, int | float | str) for item in value):
            flat[name] = ",".join(str(item) for item in value)
        else:
            flat[name] = str(value)
    return {name: value[:VALUE_LIMIT] for name, value in flat.items()}


def probe(uri: str) -> None:
    """Raise TrackingError within a few seconds, in one sentence, when the tracking server does not answer."""
    if uri.startswith("http"):
        _probe_http(uri)
        return
    address = urllib.parse.urlsplit(uri)
    if address.hostname is None:
        return
    try:
        socket.create_connection((address.hostname, address.port or 5432), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise TrackingError(
            f"tracking store {address.hostname}:{address.port or 5432} does not answer ({error}); start the database "
            "or give another tracking URI"
        ) from None


def _probe_http(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=PROBE_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code == 404:  # a service that speaks MLflow's protocol but has no health page
            return
        hint = {
            401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
            403: "start it with --allowed-hosts naming the host and port of this address",
        }.get(error.code, "look at the server's log")
        raise TrackingError(f"tracking server {uri} answers {error.code} ({error.reason}); {hint}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TrackingError(
            f"tracking server {uri} does not answer ({reason}); start it with `hrgrid serve` or give another "
            "tracking URI"
        ) from None
