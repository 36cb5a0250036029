"""What others can see of a running launch: command lines of its processes, and all that Ray's GCS keeps."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.integration.security.ports import listening

__all__ = ["spying"]


@contextlib.contextmanager
def spying(pid: int, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Write down, as long as the `with` lasts, the command lines of all children of a process and what its GCS keeps.

    The process's own line, which a person typed, is not taken; its children's, that of every Ray process, are.
    `environment` holds the token of the GCS.
    """
    over, lines = threading.Event(), set[str]()

    def look() -> None:
        for count in range(1_000_000):
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        lines.add(" ".join(child.cmdline()))
                if count % 40 == 20:
                    for port in listening(pid):
                        if port.process == "Ray GCS":
                            _dump(f"127.0.0.1:{port.port}", folder / f"gcs-{count}", environment)
            if over.wait(0.5):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "command-lines.txt").write_text("\n".join(sorted(lines)))


def _dump(address: str, folder: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "tests.integration.security.spy", address, str(folder)]
    subprocess.run(command, env=environment, check=False, timeout=120, stderr=subprocess.DEVNULL)


def _main(address: str, folder: Path) -> None:
    """Write everything that a GCS keeps into files: all keys of its store, jobs, nodes, actors."""
    from ray._private import ray_constants
    from ray._raylet import GcsClient

    folder.mkdir(parents=True)
    client = GcsClient(address=address)
    named = {value for name, value in vars(ray_constants).items() if name.startswith("KV_NAMESPACE")}
    for space in {None, b"fun", b"runtime_env", b"cluster", b"train_state", *named}:
        for number, key in enumerate(client.internal_kv_keys(b"", space, timeout=30)):
            value = client.internal_kv_get(key, space, timeout=30) or b""
            (folder / f"{(space or b'none').decode()}-{number}").write_bytes(key + b"\n" + value)
    jobs = client.get_all_job_info(timeout=30)
    (folder / "jobs").write_text(str(jobs))
    (folder / "nodes").write_text(str(client.get_all_node_info(timeout=30)))


if __name__ == "__main__":
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    _main(sys.argv[1], Path(sys.argv[2]))
