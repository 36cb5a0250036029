"""What produced a result: commit, versions, host. Captured once, when a launch begins."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from orchestrator.workload import Json

__all__ = ["capture"]

PACKAGES = ("ray", "mlflow", "torch", "numpy", "opencv-python-headless", "pyarrow", "boto3")
"""Packages whose version may explain a difference between two results."""


def capture(cwd: Path | None = None) -> dict[str, Json]:
    """Return commit, versions, host and Python as JSON-able facts; what cannot be found out is None.

    HRGRID_GIT_COMMIT stands in for git where the code arrives without it, as in a job's working directory.
    """
    folder = cwd or Path.cwd()
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain") if commit else None
    return {
        "git_commit": commit or os.environ.get("HRGRID_GIT_COMMIT"),
        "git_dirty": None if status is None else bool(status),
        "hrgrid": _version("hrgrid"),
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": _packages(),
    }


def _packages() -> Mapping[str, str]:
    versions = {name: _version(name) for name in PACKAGES}
    return {name: version for name, version in versions.items() if version is not None}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
