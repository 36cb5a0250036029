"""Where a drill plays: its folder, its drawn data, its MLflow server, and how each place is taken away."""

from __future__ import annotations

import os
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from jobs._drill_cell import Rehearsal
from jobs._drill_faults import LocalFolder, Outage
from jobs._mlserver import Server
from jobs._relay import HOST, Relay
from orchestrator.errors import UsageError
from orchestrator.settings import Settings, absolute_uri

__all__ = ["OwnServer", "Stage", "endpoint_relay", "open_stage"]

BENCHMARK: Final = "drill"
ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")

_TRAIN, _VAL = 16, 4
"""Images drawn of each split."""


class OwnServer:
    """A tracking server that is taken away by killing it."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def down(self) -> None:
        """Send SIGKILL to all of it."""
        self._server.kill()

    def up(self) -> None:
        """Start it again on the same port, and wait until it answers."""
        self._server.start()


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Where the two runs of a drill play."""

    folder: Path
    """Of this drill on this machine: logs and results."""
    storage: str
    """Location below which each run has a storage of its own."""
    tracking: str
    """Address of the MLflow server."""
    near: str
    """The address under which the second run knows it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the second run's processes get beside this one's: the address of the storage, if it has one."""
    take_tracking: Outage
    take_storage: Outage

    def rehearsal(self, name: str, iterations: int) -> Rehearsal:
        """The cell of a run, `unbroken...` or `broken`, ready to start."""
        broken = name == "broken"
        return Rehearsal(
            Settings(
                storage=f"{self.storage}/{name}",
                tracking=self.tracking,
                artifacts=None,
                benchmark=f"{BENCHMARK}-{self.folder.name}-{name}",
            ),
            data=str(self.folder.parent / "data"),
            iterations=iterations,
            log=self.folder / f"{name}.log",
            tracking=self.near if broken else None,
            environment=self.environment if broken else {},
        )


@contextmanager
def open_stage(folder: str, storage: str | None, tracking: str | None) -> Iterator[Stage]:
    """Make the folder and the data, start what the drill needs; at the end everything is put back and ended.

    Raises:
        UsageError: tracking or storage is of a kind that cannot be taken away for a while, or the folder cannot be
            made.
    """
    if tracking is not None and not tracking.startswith("http://"):
        raise UsageError(f"--tracking {tracking}: only an http:// server can be taken away for a while; leave it out")
    base = Path(absolute_uri(folder))
    place = absolute_uri(storage or folder)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    with ExitStack() as opened:
        environment: dict[str, str] = {}
        take_storage: Outage
        if place.startswith("s3://"):
            take_storage = relay = opened.enter_context(endpoint_relay())
            environment = dict.fromkeys(ENDPOINTS, f"http://{HOST}:{relay.port}")
        else:
            take_storage = LocalFolder(Path(f"{place}/{stamp}/broken"))
            opened.callback(take_storage.up)
        try:
            (base / stamp).mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"--folder {folder}: nothing can be written there ({error.strerror})") from error
        _draw(base / "data")
        take_tracking: Outage
        if tracking is None:
            server = opened.enter_context(Server.within(base / stamp / "mlflow"))
            take_tracking, tracking, near = OwnServer(server), server.uri, server.uri
        else:
            take_tracking = relay = opened.enter_context(_relay(tracking, "--tracking"))
            near = f"http://{HOST}:{relay.port}"
        yield Stage(
            folder=base / stamp,
            storage=f"{place}/{stamp}",
            tracking=tracking,
            near=near,
            environment=environment,
            take_tracking=take_tracking,
            take_storage=take_storage,
        )


def endpoint_relay() -> Relay:
    """A relay in front of the S3 API that the environment names; UsageError if it names none that can be relayed."""
    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
    if not endpoint:
        raise UsageError(f"to take an S3 storage away, {ENDPOINTS[1]} must name the API (http://host:port)")
    return _relay(endpoint, ENDPOINTS[1])


def _relay(address: str, what: str) -> Relay:
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "http" or parts.hostname is None:
        raise UsageError(f"{what} is {address}: only http://host:port can be taken away for a while")
    return Relay(parts.hostname, parts.port or 80)


def _draw(data: Path) -> None:
    from jobs._smoke import draw_missing

    draw_missing(str(data), ["cityscapes"], train=_TRAIN, val=_VAL)
