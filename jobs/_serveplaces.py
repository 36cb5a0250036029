"""Where a tracking server keeps runs and artifacts, looked at before it starts: MLflow tries long and says little.

No password of a database is ever printed, nor taken from a command line, which every user of the machine can read.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import psutil

from orchestrator.errors import StorageError, TrackingError, UsageError, reason_of
from orchestrator.runstore import absolute_uri, shown
from orchestrator.settings import absolute_uri as location
from orchestrator.storage import Storage

__all__ = ["BACKEND", "backend_of", "check_artifacts", "claim", "database_file", "file_system", "need", "query"]

BACKEND: Final = "HRGRID_BACKEND"
"""Environment variable of the database, which may hold its password."""

_CONNECT_SECONDS: Final = 10
_SHARED: Final = ("nfs", "cifs", "smb", "9p", "ceph", "gluster", "lustre", "gpfs", "beegfs", "afs", "fuse.")
"""File systems, by how their names begin, on which locks of SQLite do not hold or may not (FUSE: sshfs, s3fs...)."""


def backend_of(given: str | None, folder: Path) -> str:
    """Return the database: `given`, or of the environment, or SQLite in the folder.

    Raises:
        UsageError: it is of another kind, its password is on the command line, or SQLite is on a shared file system.
        TrackingError: it is MLflow's file store, or does not let MLflow work.
    """
    if given is not None and "***" in shown(given):
        raise UsageError(
            f"--backend {shown(given)}: everybody on this machine can read a password there; put the address into "
            f"{BACKEND}, or leave the password to PGPASSWORD or ~/.pgpass"
        )
    backend = absolute_uri(given or os.environ.get(BACKEND) or f"sqlite:///{folder}/mlflow.db")
    file = database_file(backend)
    if file is not None:
        kind = file_system(file, [(mount.mountpoint, mount.fstype) for mount in psutil.disk_partitions(all=True)])
        if kind.startswith(_SHARED):
            raise UsageError(
                f"{file} is on a shared file system ({kind}), where SQLite's locks do not hold; give a path on a disk "
                "of this machine, or --backend postgresql://..."
            )
    elif backend.startswith("postgresql+psycopg2://"):
        _check_postgres(backend)
    else:
        raise UsageError(f"--backend {shown(backend)}: runs are kept in sqlite:///... or postgresql://...")
    return backend


def database_file(backend: str) -> Path | None:
    """Return the file of a SQLite database; None for another one."""
    return Path(backend.removeprefix("sqlite:///")) if backend.startswith("sqlite:///") else None


def file_system(file: Path, mounts: list[tuple[str, str]]) -> str:
    """Return the kind of file system that a file is on, or will be; `mounts` are pairs of (mount point, kind)."""
    path = os.path.realpath(file)
    above = [(point, kind) for point, kind in mounts if os.path.commonpath([path, point]) == point]
    # Of several mounts at the same point the last covers the others.
    return max(reversed(above), key=lambda mount: len(mount[0]), default=("", ""))[1]


def need(module: str, what: str) -> None:
    """Raise UsageError if a Python module of the extra `server` is not installed."""
    if find_spec(module) is None:
        raise UsageError(f"{what} needs the module {module}, which is not installed: pip install 'hrgrid[server]'")


def _check_postgres(backend: str) -> None:
    need("psycopg2", "PostgreSQL")
    # From PostgreSQL 15 on, only the owner of a database makes tables in its schema `public`.
    may, there = query(
        backend, "SELECT has_schema_privilege(current_schema(), 'CREATE'), to_regclass('alembic_version') IS NOT NULL"
    )
    if not may and not there:
        raise TrackingError(
            f"the database {shown(backend)} does not let its user make tables; let him own it: "
            "ALTER DATABASE name OWNER TO user"
        )


def query(backend: str, sql: str) -> tuple[Any, ...]:
    """Return the one row that a PostgreSQL database answers with; raises TrackingError, without a password in it."""
    driver = importlib.import_module("psycopg2")
    try:
        connection = driver.connect(backend.replace("+psycopg2", "", 1), connect_timeout=_CONNECT_SECONDS)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                row: tuple[Any, ...] = cursor.fetchone()
                return row
        finally:
            connection.close()
    except driver.Error as error:
        # Of an address that it cannot read libpq repeats parts, which may be those of a password.
        told = str(error).startswith("connection to server") or error.pgcode is not None
        reason = reason_of(error) if told else "its address is not valid, or names no host that is known"
        raise TrackingError(f"the database {shown(backend)} cannot be used: {reason}") from None


def check_artifacts(given: str | None, folder: Path) -> str:
    """Return where artifacts go, `given` or a folder in `folder`; StorageError if nothing can be written there."""
    artifacts = location(given or str(folder / "artifacts"))
    storage, name = Storage(artifacts), f".hrgrid-{uuid.uuid4().hex}"
    try:
        storage.write_bytes(name, b"written to see whether it can be")
        storage.delete(name)
    except StorageError as error:
        raise StorageError(f"artifacts cannot be kept in {artifacts}: {error}") from error
    return artifacts


@contextmanager
def claim(database: Path | None) -> Iterator[tuple[int, ...]]:
    """Hold a SQLite database for one server; yields the open files that the server is to hold, too.

    Raises:
        UsageError: another server of this machine has it.
    """
    if database is None:
        yield ()
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.serving").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise UsageError(
                f"another hrgrid serve (process {stream.read().strip() or '?'}) works on {database}; end that one, or "
                "give another --folder"
            ) from None
        stream.truncate(0)
        print(os.getpid(), file=stream, flush=True)
        yield (stream.fileno(),)
