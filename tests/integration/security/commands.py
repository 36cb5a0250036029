"""What the commands that start something listen on, watched from outside while they run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tests.integration import children
from tests.integration.security.ports import Port, watch

__all__ = ["watched"]

CELL: Final = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
SECONDS: Final = 600.0


def watched(folder: Path) -> Iterator[tuple[str, set[Port]]]:
    """Run each command as a person does, and yield it with the ports that it and its children had open."""
    launch = ["launch", CELL, "--smoke", "--workers", "2", "--cpus-per-worker", "1", "--yes"]
    yield "launch", _ports(folder, launch, lambda found: False)
    yield "ui", _ports(folder, ["ui", "--name", "smoke"], _has("uvicorn"))
    yield "serve", _ports(folder, ["serve", "--folder", str(folder / "served")], _has("uvicorn"))
    for command in ("demo", "drill"):
        yield command, _ports(folder, [command], _has("ray::RayTrainWorker"))


def _ports(folder: Path, command: list[str], until: Callable[[set[Port]], bool]) -> set[Port]:
    """Ports of a command until it ends, or has got so far and been looked at for some seconds more."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *command],
        cwd=folder, env=children.environment(folder / "home"), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        found = watch(process.pid, seconds=SECONDS, until=until)
        return found | watch(process.pid, seconds=10)
    finally:
        children.end(process)
        process.wait()


def _has(process: str) -> Callable[[set[Port]], bool]:
    return lambda found: any(process in port.process for port in found)
