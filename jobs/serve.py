"""`hrgrid serve`: the MLflow tracking server of a team or a cluster."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from jobs._command import main_of
from jobs._mlserver import Server, ServerPlan, stoppable
from jobs._options import add_json, positive
from jobs._progress import PLAIN_SECONDS
from jobs._relay import HOST
from jobs._serveaccess import (
    ADMIN_PASSWORD,
    PRIVATE,
    accounts,
    admin,
    admin_password,
    allowed_hosts,
    check_login,
    check_port,
    listen_on,
)
from jobs._serveplaces import BACKEND, backend_of, check_artifacts, claim, database_file
from orchestrator.errors import TrackingError, UsageError
from orchestrator.runstore import shown
from orchestrator.settings import absolute_uri

HELP = "Start the MLflow tracking server that all machines record to. It stays in the foreground; Ctrl-C ends it."

DEFAULT_FOLDER = "hrgrid-server"
DEFAULT_PORT = 5000
DEFAULT_WORKERS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where runs and artifacts are kept, who may reach them."""
    kept = parser.add_argument_group("what is kept where")
    kept.add_argument(
        "--folder", default=DEFAULT_FOLDER, metavar="DIR",
        help="database, artifacts and log of the server, as far as nothing else says where (default %(default)s)",
    )  # fmt: skip
    kept.add_argument(
        "--backend", metavar="URI",
        help=f"sqlite:///file or postgresql://user@host/database (default: ${BACKEND}, which may hold a password, or "
        "SQLite in the folder)",
    )  # fmt: skip
    kept.add_argument("--artifacts", metavar="URI", help="a folder or s3://bucket/prefix (default: in the folder)")
    kept.add_argument("--log", metavar="FILE", help="output of the server is added there (default: in the folder)")
    reach = parser.add_argument_group("who reaches it")
    reach.add_argument(
        "--host", default=HOST, metavar="ADDRESS",
        help=f"address to listen on, {PRIVATE!r} for this machine's private one (default %(default)s: it alone)",
    )  # fmt: skip
    reach.add_argument("--port", type=positive, default=DEFAULT_PORT, metavar="N", help="default %(default)s")
    reach.add_argument(
        "--allowed-hosts", type=_names, default=(), metavar="NAME[,NAME...]",
        help="further names by which clients call this machine: of a load balancer, in the DNS",
    )  # fmt: skip
    reach.add_argument("--auth", action="store_true", help="ask for user and password (MLflow's basic-auth app)")
    reach.add_argument(
        "--admin-password-file", metavar="FILE",
        help=f"password of the first account, needed at the first start with --auth (or: ${ADMIN_PASSWORD})",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=positive, default=DEFAULT_WORKERS, metavar="N",
        help="processes that answer, about 260 MB each (default %(default)s)",
    )  # fmt: skip
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Look at everything, start the server, say how to reach it, and wait for Ctrl-C."""
    if args.admin_password_file and not args.auth:
        raise UsageError("--admin-password-file is for a server with --auth")
    try:
        with stoppable():
            _serve(args)
    except KeyboardInterrupt:
        return 0


def _serve(args: argparse.Namespace) -> NoReturn:
    folder = Path(absolute_uri(args.folder))
    host = listen_on(args.host, auth=args.auth)
    check_port(host, args.port)
    password = admin_password(args.admin_password_file) if args.auth else None
    backend = backend_of(args.backend, folder)
    artifacts = check_artifacts(args.artifacts, folder)
    names = allowed_hosts(host, args.allowed_hosts)
    with ExitStack() as opened:
        held = opened.enter_context(claim(database_file(backend)))
        environment = opened.enter_context(accounts(backend, password)) if args.auth else {}
        plan = ServerPlan(
            backend=backend,
            artifacts=artifacts,
            log=Path(args.log).absolute() if args.log else folder / "server.log",
            host=host,
            port=args.port,
            workers=args.workers,
            app="basic-auth" if args.auth else None,
            environment={"MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(names), **environment},
            descriptors=held,
        )
        server = Server(plan)
        opened.callback(server.stop)
        with _patience(plan.log) as waiting:
            server.start(waiting)
        if password is not None:
            check_login(server.uri, password)
        _tell(plan, names, as_json=args.json)
        server.until_it_ends()
        raise TrackingError(f"the MLflow server ended by itself ({server.reason()}); its log is {plan.log}")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or any("/" in name for name in names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names such as mlflow.example.org,head:5000")
    if "*" in names:
        raise argparse.ArgumentTypeError(
            "'*' answers to every name, which lets any web page use the server; name them"
        )
    return names


@contextmanager
def _patience(log: Path) -> Iterator[Callable[[], object]]:
    """Yield what is to be called while the server starts, which takes ten seconds, with a new database twenty."""
    began = time.monotonic()
    text = f"MLflow starts (its log: {log})"
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(text):
            yield lambda: None
        return
    said = began

    def report() -> None:
        nonlocal said
        if time.monotonic() - said >= PLAIN_SECONDS:
            said = time.monotonic()
            print(f"{text}: {said - began:.0f} s", file=sys.stderr, flush=True)

    yield report


def _tell(plan: ServerPlan, names: tuple[str, ...], *, as_json: bool) -> None:
    """Print where it is and what clients set."""
    kept = {"backend": shown(plan.backend), "artifacts": plan.artifacts, "log": str(plan.log)}
    if as_json:
        facts = {
            "tracking": plan.uri,
            **kept,
            "auth": plan.app is not None,
            "allowed_hosts": names,
            "pid": os.getpid(),
        }
        print(json.dumps(facts), flush=True)
        return
    lines = [f"MLflow server: {plan.uri}  (Ctrl-C ends it)", *(f"  {name:<11}{value}" for name, value in kept.items())]
    address = ipaddress.ip_address(plan.host)
    if address.is_unspecified:
        lines.append("It listens on every address of this machine; other machines call it by a name or address of it.")
    if plan.app is not None and not address.is_loopback:
        lines.append("Passwords travel unencrypted: put TLS in front of it before it leaves a network that you trust.")
    lines += ["Where commands run:", f"  export HRGRID_TRACKING={plan.uri}"]
    if plan.app is not None:
        lines += [f"  export MLFLOW_TRACKING_USERNAME={admin()}", "  export MLFLOW_TRACKING_PASSWORD=...  (not shown)"]
    if address.is_loopback:
        lines.append("It answers this machine alone; for others give --host private, or tunnel: ssh -L ...")
    lines.append("Next: hrgrid launch ..., or open the address in a browser.")
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    sys.exit(main_of("serve", HELP, add_arguments, run))
