"""A TCP relay on loopback that can be taken away and put back: how a service looks to others when it is gone."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType

__all__ = ["HOST", "Relay", "free_port"]

HOST = "127.0.0.1"

_PIECE = 1 << 16


def free_port() -> int:
    """Return a port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Relay:
    """Passes connections to `port` of loopback on to a service; a context manager, up from the start.

    While it is down connections are refused and those that were open are cut: a service whose data may be in its
    memory alone is away without being ended.
    """

    def __init__(self, host: str, port: int) -> None:
        """`host` and `port`: where the service listens."""
        self._target = (host, port)
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.up()

    def __enter__(self) -> Relay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Listen, on the same port as before; raises OSError if somebody has taken it meanwhile."""
        if self._listener is not None:
            return
        listener = socket.create_server((HOST, self.port), backlog=128)
        self.port = int(listener.getsockname()[1])
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="hrgrid-relay", daemon=True).start()

    def down(self) -> None:
        """Refuse new connections and cut the open ones."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        # Closing alone would leave the thread that waits in accept, and with it the port, as they are.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        with self._guard:
            cut, self._open = self._open, set()
        for connection in cut:
            _cut(connection)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=10.0)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._guard:
                up = self._listener is listener
                if up:
                    self._open |= {near, far}
            if not up:
                _cut(near)
                _cut(far)
                return
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), name="hrgrid-relay", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Copy one direction until its end, then tell the other side; the second of a pair to end closes both."""
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._guard:
            self._open.discard(source)
            last = sink not in self._open
        if last:
            source.close()
            sink.close()


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        connection.close()
