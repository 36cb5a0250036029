"""`hrgrid ui`: the MLflow UI on the store that the launches of a storage recorded in."""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
from pathlib import Path

from jobs._command import main_of
from jobs._mlserver import Server, ServerPlan, stoppable
from jobs._options import add_name, add_storage, positive, settings
from jobs._relay import HOST
from orchestrator.errors import TrackingError, UsageError

HELP = "Open the MLflow UI on the right store. It listens on 127.0.0.1 alone; Ctrl-C ends it."

DEFAULT_PORT = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which store, which port."""
    add_storage(parser)
    add_name(parser)
    parser.add_argument(
        "--port", type=positive, metavar="N", help=f"port (default: {DEFAULT_PORT} or the next free one)"
    )


def run(args: argparse.Namespace) -> int:
    """Start the server, say where it is, and wait for Ctrl-C."""
    places = settings(args)
    if places.tracking.startswith("http"):
        print(f"The runs are on a server already: {places.tracking}")
        return 0
    database = Path(places.tracking.removeprefix("sqlite:///"))
    if places.tracking.startswith("sqlite:") and not database.is_file():
        raise UsageError(f"nothing is recorded at {database} yet; run hrgrid launch or hrgrid demo, or give --storage")
    port = _free_port(args.port)
    with tempfile.TemporaryDirectory(prefix="hrgrid-ui-") as folder:
        server = Server(ServerPlan(backend=places.tracking, port=port, log=Path(folder, "server.log")))
        try:
            with stoppable(), server:
                print(f"MLflow UI: {server.uri}  (Ctrl-C ends it)", flush=True)
                server.until_it_ends()
        except KeyboardInterrupt:
            return 0
        raise TrackingError(f"the MLflow UI ended by itself: {server.reason()}")


def _free_port(wanted: int | None) -> int:
    for port in [wanted] if wanted else range(DEFAULT_PORT, DEFAULT_PORT + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    where = f"port {wanted} is taken" if wanted else f"ports {DEFAULT_PORT} to {DEFAULT_PORT + 99} are all taken"
    raise UsageError(f"{where}; choose another with --port")


if __name__ == "__main__":
    sys.exit(main_of("ui", HELP, add_arguments, run))
