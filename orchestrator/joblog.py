"""The output of a Ray job, to its end, over broken connections: no line lost, none twice.

Ray offers the whole log over HTTP, and over a websocket the log as it grows, which always begins at its beginning. So
a job is followed through the websocket, what was shown already is skipped after a reconnect, and at the end the whole
log says what may have been missed: a websocket that has ended in order does not prove that everything came.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from orchestrator.errors import ClusterError, UsageError

__all__ = ["PATIENCE_SECONDS", "Reader"]

PATIENCE_SECONDS: Final = 300.0
"""How long a cluster that has gone silent is tried to reach again."""
PAUSE_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 20.0
"""After so long without output it is asked whether the job, and the connection, still live."""


class Reader:
    """Writes a job's log, and knows how much of it was written."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], AbstractContextManager[tuple[Any, str]]],
        write: Callable[[str], object],
        tell: Callable[[str], object],
    ) -> None:
        """`connect`: gives Ray's job client, and raises ClusterError for whatever goes wrong with it. `tell`: takes
        sentences about the connection."""
        self._name = name
        self._connect = connect
        self._write = write
        self._tell = tell
        self._shown = 0
        self._met = False

    def read(self, ended: Callable[[Any, str], bool], *, patience: float = PATIENCE_SECONDS) -> None:
        """Write the log until `ended(client, address)` is true, asked before the log is read for the last time.

        Raises ClusterError when the cluster is not there at first, or not again within `patience` seconds; UsageError
        of `ended` when there is no such job, ClusterError when there is none any more.
        """
        silent_since: float | None = None
        while True:
            try:
                with self._connect() as (client, where):
                    last = ended(client, where)
                    self._met, silent_since = True, None
                    if last:
                        self._show(str(client.get_job_logs(self._name)), 0)
                        return
                    asyncio.run(self._stream(client))
            except UsageError as error:
                if not self._met:
                    raise
                raise ClusterError(f"{error} (it was there: the head of the cluster has begun anew)") from None
            except ClusterError as error:
                if not self._met:
                    raise
                if silent_since is None:
                    silent_since = time.monotonic()
                    self._tell(f"{error}; trying again for {patience / 60:.0f} minutes, the job goes on meanwhile")
                elif time.monotonic() - silent_since > patience:
                    raise
            time.sleep(PAUSE_SECONDS)

    def _show(self, text: str, begin: int) -> None:
        """Write a piece of the log that begins at the character `begin`, without what was written of it already."""
        new = text[max(0, self._shown - begin) :]
        if new:
            self._write(new)
            self._shown = begin + len(text)

    async def _stream(self, client: Any) -> None:
        """Show the log as it grows, until Ray ends the stream or the job turns out to have ended."""
        stream, position = client.tail_job_logs(self._name), 0
        coming = asyncio.ensure_future(anext(stream, None))
        try:
            while True:
                done, _ = await asyncio.wait({coming}, timeout=LOOK_SECONDS)
                if not done:
                    status = await asyncio.to_thread(client.get_job_status, self._name)
                    if status.is_terminal():
                        return
                    continue
                piece = coming.result()
                if piece is None:
                    return
                self._show(piece, position)
                position += len(piece)
                coming = asyncio.ensure_future(anext(stream, None))
        finally:
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await coming
            await stream.aclose()
