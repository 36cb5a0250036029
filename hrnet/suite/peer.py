"""The peer in its own interpreter: a process that answers a JSON line with a JSON line; nothing of it is imported."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrnet.errors import HrnetError

__all__ = ["DEFAULT_PEER", "Peer", "PeerContestant", "PeerError", "Task"]

Task = Mapping[str, Any]
"""What the peer is to do: `op` names a function of peer_side.py, the rest are its arguments."""

DEFAULT_PEER = Path(__file__).resolve().parents[2] / ".peer" / "bin" / "python"
"""The interpreter that `make peer` installs mmsegmentation 1.2.2 for."""

_SIDE = Path(__file__).with_name("peer_side.py")
_TOLD = 1500
"""Characters of its own last words that a failure of the peer ends with."""


class PeerError(HrnetError):
    """The peer's interpreter does not start, lacks mmsegmentation, or failed at what it was asked."""


class Peer:
    """The running process; it computes only between a question and its answer."""

    def __init__(self, python: Path, folder: Path, *, threads: int, device: str) -> None:
        self._device = device
        self._log = folder / "peer.log"
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""}
        try:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    [str(python), "-W", "ignore", str(_SIDE)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
                )  # fmt: skip
        except OSError as error:
            raise PeerError(
                f"the peer's interpreter {python} does not start ({error}); install it with `make peer`"
            ) from error
        try:
            self.about: Mapping[str, Any] = self.ask({"do": "about"})
            """Versions of what it consists of."""
        except PeerError:
            self.close()
            raise

    def ask(self, request: Mapping[str, Any]) -> Any:
        """Return the answer to one request; raises PeerError with the peer's own last words if there is none."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"the peer ended at {request}: {self._log.read_text()[-_TOLD:].strip()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(f"the peer failed at {request}: {answer['error']}")
        return answer["answer"]

    @contextmanager
    def open(self, task: Task) -> Iterator[PeerContestant]:
        """Let it make something ready, and let it go at the end."""
        memory = self.ask({"do": "open", "task": {"device": self._device, **task}})
        try:
            yield PeerContestant(self, memory)
        finally:
            self.ask({"do": "close"})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


class PeerContestant:
    """What the peer has ready."""

    def __init__(self, peer: Peer, memory: float | None) -> None:
        self._peer = peer
        self.memory = memory
        """Peak memory on a GPU, in 1e9 bytes."""

    def turn(self, seconds: float) -> Sequence[float]:
        """Seconds per item of each repetition in about so many seconds."""
        times: list[float] = self._peer.ask({"do": "turn", "seconds": seconds})
        return times

    def output(self) -> NDArray[Any] | None:
        """What it computes, where there is something to compare."""
        with tempfile.TemporaryDirectory(prefix="hrgrid-suite-") as folder:
            path = Path(folder) / "output.npy"
            if not self._peer.ask({"do": "output", "path": str(path)}):
                return None
            content: NDArray[Any] = np.load(path)
            return content
