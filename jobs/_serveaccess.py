"""Who may use a tracking server: the address it listens on, the names it answers to, and its accounts."""

from __future__ import annotations

import base64
import ipaddress
import os
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psutil

from jobs._relay import HOST
from jobs._serveplaces import database_file, need, query
from orchestrator.errors import UsageError

__all__ = [
    "ADMIN_PASSWORD",
    "PRIVATE",
    "accounts",
    "admin",
    "admin_password",
    "allowed_hosts",
    "check_login",
    "check_port",
    "listen_on",
    "private_addresses",
]

PRIVATE: Final = "private"
"""In place of an address: the one of this machine that its own network knows."""
ADMIN_PASSWORD: Final = "MLFLOW_AUTH_ADMIN_PASSWORD"
"""MLflow's own name of it."""
SHORTEST_PASSWORD: Final = 12
"""Characters; MLflow refuses shorter ones."""
_KNOWN_PASSWORD: Final = "password1234"
"""Which MLflow came with once (GHSA-gq3w-7jj3-x7gr)."""
CACHE_SECONDS: Final = 60
"""How long a server remembers that a password was right. Without it every request computes PBKDF2 anew."""


def listen_on(host: str, *, auth: bool) -> str:
    """Return the address for `--host`: itself, or this machine's private one.

    Raises:
        UsageError: there is no private one or there are several; or the address is reached from outside and there are
            no accounts.
    """
    private = private_addresses()
    if host == PRIVATE:
        if len(private) != 1:
            found = f"has several private addresses ({', '.join(private)})" if private else "has no private address"
            raise UsageError(f"--host {PRIVATE}: this machine {found}; name the one to listen on")
        return private[0]
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise UsageError(f"--host {host!r} is no address; give one of this machine, or {PRIVATE!r}") from None
    if not auth and (address.is_unspecified or not address.is_private):
        better = f"--host {private[0]}" if len(private) == 1 else "a private address"
        raise UsageError(
            f"--host {host} lets whoever reaches this machine read, change and delete all runs; give {better}, or "
            "--auth, which asks for a password"
        )
    return str(address)


def private_addresses() -> list[str]:
    """Return the IPv4 addresses of this machine that are not routed on the internet, loopback left out."""
    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    parsed = [ipaddress.ip_address(address) for address in found]
    return [str(a) for a in parsed if a.is_private and not a.is_loopback and not a.is_link_local]


def check_port(host: str, port: int) -> None:
    """Raise UsageError if nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"nothing can listen on port {port} of {host}: {error.strerror}; choose another --port"
            ) from None


def allowed_hosts(host: str, extra: Sequence[str]) -> tuple[str, ...]:
    """Return the values of the header `Host` that are answered: names of this machine, with and without a port.

    MLflow's own list holds patterns such as `10.*`, which a name like 10.example.com matches as well; these are exact.
    """
    names = ["localhost", HOST]
    address = ipaddress.ip_address(host)
    if not address.is_loopback:
        own = socket.gethostname()
        names += [own, socket.getfqdn(own), *(private_addresses() if address.is_unspecified else [host])]
    names += extra
    return tuple(dict.fromkeys(form for name in names for form in _forms(name)))


def _forms(name: str) -> tuple[str, ...]:
    """A name without and with a port; where there are patterns, MLflow takes `[` as the begin of a set."""
    if "*" in name or (name.rpartition(":")[2].isdecimal() and name.count(":") == 1):
        return (name,)
    if ":" in name:
        return (f"[{name}]", f"[[]{name}]:*")
    return (name, f"{name}:*")


def admin() -> str:
    """Return the name of the first account."""
    return os.environ.get("MLFLOW_AUTH_ADMIN_USERNAME") or "admin"


def admin_password(file: str | None) -> str | None:
    """Return the password of the first account from a file or the environment; None if neither has one.

    Raises:
        UsageError: the file cannot be read, or the password is too short or publicly known.
    """
    if file is not None:
        try:
            password, source = Path(file).read_text().strip(), file
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--admin-password-file {file} cannot be read: {error}") from None
    else:
        password, source = os.environ.get(ADMIN_PASSWORD, ""), ADMIN_PASSWORD
        if not password:
            return None
    if len(password) < SHORTEST_PASSWORD:
        raise UsageError(f"the password in {source} has {len(password)} characters; {SHORTEST_PASSWORD} are the least")
    if password == _KNOWN_PASSWORD:
        raise UsageError(f"the password in {source} is the one that MLflow once came with, which everybody knows")
    return password


@contextmanager
def accounts(backend: str, password: str | None) -> Iterator[Mapping[str, str]]:
    """Yield the environment of a server that asks for passwords.

    Accounts are kept in the same PostgreSQL database as the runs, or in a SQLite file beside theirs that nobody else
    may read.

    Raises:
        UsageError: there is no account yet and no password for the first, or a module is missing.
    """
    need("flask_wtf", "--auth")
    runs = database_file(backend)
    if runs is None:
        uri = backend
        (new,) = query(backend, "SELECT to_regclass('alembic_version_auth') IS NULL")
    else:
        file = runs.with_name("accounts.db")
        uri, new = f"sqlite:///{file}", not file.is_file()
    if new and password is None:
        raise UsageError(
            f"--auth makes the account {admin()!r} at its first start: put a password of {SHORTEST_PASSWORD} "
            f"characters or more into a file and name it with --admin-password-file, or set {ADMIN_PASSWORD}"
        )
    if runs is not None:
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
        file.chmod(0o600)
    with TemporaryDirectory(prefix="hrgrid-serve-") as folder:  # made so that no other user may look into it
        config = Path(folder, "basic_auth.ini")
        settings = {
            "default_permission": "READ",
            "database_uri": uri.replace("%", "%%"),
            "admin_username": admin(),
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
            "auth_cache_ttl_seconds": CACHE_SECONDS,
        }
        config.write_text("[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        environment = {
            "MLFLOW_AUTH_CONFIG_PATH": str(config),
            # All workers need the same; it secures one form, so that it need not outlive them.
            "MLFLOW_FLASK_SERVER_SECRET_KEY": os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY")
            or secrets.token_hex(32),
        }
        yield environment | ({} if password is None else {ADMIN_PASSWORD: password})


def check_login(uri: str, password: str) -> None:
    """Raise UsageError if the server does not take the password of the first account: it has had another since."""
    token = base64.b64encode(f"{admin()}:{password}".encode()).decode()
    request = urllib.request.Request(
        f"{uri}/api/2.0/mlflow/users/current", headers={"Authorization": f"Basic {token}"}
    )
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        if error.code != 401:
            raise
        raise UsageError(
            f"the account {admin()!r} is there already and has another password than the one given, which was for the "
            "first start alone; leave it out, or change it there first (docs/tracking.md)"
        ) from None
