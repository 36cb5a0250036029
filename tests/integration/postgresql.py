"""A PostgreSQL of one's own for tests: Debian's programs over a temporary folder, on a free port of loopback."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs._relay import HOST, free_port

USER = "mlflow"


def programs() -> Path:
    """The folder of PostgreSQL's programs; RuntimeError where they are missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise RuntimeError("there is no PostgreSQL in /usr/lib/postgresql; install Debian's package postgresql")
    return found[-1].parent


@contextmanager
def postgresql() -> Iterator[str]:
    """Yield the address of a new database that its user owns; its password holds what an address has to escape."""
    folder = Path(tempfile.mkdtemp(prefix="hrgrid-postgresql-", dir="/tmp"))
    password, port = f"{secrets.token_hex(8)}@%/:", free_port()
    (folder / "password").write_text(password)
    # PostgreSQL refuses to run as root.
    account = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    own = {} if os.geteuid() else {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": []}
    for path in (folder, folder / "password"):
        shutil.chown(path, account)

    def call(program: str, *words: str) -> None:
        done = subprocess.run([programs() / program, *words], cwd=folder, capture_output=True, text=True, **own)
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stdout}{done.stderr}")

    data = str(folder / "data")
    try:
        call(
            "initdb", "--pgdata", data, "--username", USER, "--pwfile", str(folder / "password"), "--no-sync",
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C",
        )  # fmt: skip
        settings = f"-p {port} -c listen_addresses={HOST} -c unix_socket_directories={folder}"
        log = str(folder / "log")
        call("pg_ctl", "--pgdata", data, "--wait", "--timeout", "300", "--log", log, "-o", settings, "start")
        try:
            yield f"postgresql://{USER}:{urllib.parse.quote(password, safe='')}@{HOST}:{port}/postgres"
        finally:
            call("pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
