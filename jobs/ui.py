"""`hrgrid ui`: the MLflow UI on the store that the launches of a storage recorded in, open on a benchmark."""

from __future__ import annotations

import argparse
import dataclasses
import os
import socket
import sys
import tempfile
import webbrowser
from pathlib import Path

from jobs._command import main_of
from jobs._mlserver import Server, ServerPlan, stoppable
from jobs._options import add_name, add_storage, positive, settings
from jobs._relay import HOST
from orchestrator.errors import TrackingError, UsageError
from orchestrator.grid import near_miss
from orchestrator.ledger import Ledger
from orchestrator.settings import Settings
from orchestrator.storage import Storage

HELP = "Open the MLflow UI on a benchmark. It listens on 127.0.0.1 alone; Ctrl-C ends it."

DEFAULT_PORT = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which store, which port."""
    add_storage(parser)
    add_name(parser, default="the only one of the storage, or the list of all")
    parser.add_argument(
        "--port", type=positive, metavar="N", help=f"port (default: {DEFAULT_PORT} or the next free one)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address and open no browser")


def run(args: argparse.Namespace) -> int:
    """Start the server, say where it is, open a browser there, and wait for Ctrl-C."""
    places, chosen = _benchmark(settings(args), args.name)
    if places.tracking.startswith("http"):
        print(f"The runs are on a server already: {_page(places, places.tracking, chosen=chosen)}")
        return 0
    database = Path(places.tracking.removeprefix("sqlite:///"))
    if places.tracking.startswith("sqlite:") and not database.is_file():
        raise UsageError(f"nothing is recorded at {database} yet; run hrgrid launch or hrgrid demo, or give --storage")
    port = _free_port(args.port)
    with tempfile.TemporaryDirectory(prefix="hrgrid-ui-") as folder:
        server = Server(ServerPlan(backend=places.tracking, port=port, log=Path(folder, "server.log")))
        try:
            with stoppable():
                server.launch()
                try:
                    # The views are written while the server starts, which takes longer.
                    page = _page(places, server.uri, chosen=chosen)
                    server.wait()
                    print(f"MLflow UI: {page}  (Ctrl-C ends it)", flush=True)
                    if not args.no_browser and sys.stdout.isatty() and _has_screen():
                        webbrowser.open(page)
                    server.until_it_ends()
                finally:
                    server.stop()
        except KeyboardInterrupt:
            return 0
        raise TrackingError(f"the MLflow UI ended by itself: {server.reason()}")


def _benchmark(places: Settings, asked: str | None) -> tuple[Settings, bool]:
    """Return the settings with the benchmark to open, and whether there is one to choose; raises UsageError."""
    known = Ledger(Storage(places.storage)).benchmarks()
    if asked is None and len(known) == 1:
        return dataclasses.replace(places, benchmark=known[0]), True
    if asked is not None and known and asked not in known:
        raise UsageError(f"no benchmark in {places.storage} is called {asked!r}{near_miss(asked, known)}")
    return places, places.benchmark in known


def _page(places: Settings, pages: str, *, chosen: bool) -> str:
    """Return where to look; a store that nothing may be written to is shown without the views of this version."""
    from orchestrator.pages import address, open_experiment
    from orchestrator.views import experiment_address, experiments_address

    if not chosen:
        return experiments_address(pages)
    try:
        return experiment_address(pages, open_experiment(places))
    except TrackingError as error:
        print(f"hrgrid: note: MLflow has no new views of {places.benchmark}: {error}", file=sys.stderr)
        return address(places, pages) or experiments_address(pages)


def _has_screen() -> bool:
    """Tell whether a browser has a window to open in; without one Python would start one inside the terminal."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


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
