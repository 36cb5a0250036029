"""What produced a result: code, versions, hosts. Captured where the code is, and once, when a launch begins."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final

from orchestrator.checkout import Checkout
from orchestrator.errors import UsageError
from orchestrator.workload import Json

__all__ = ["CARRIED", "PATCH_FILE", "Source", "capture", "source"]

CARRIED: Final = "HRGRID_PROVENANCE"
"""Environment variable of a job: JSON facts about the code, from where it was sent."""

PATCH_FILE: Final = "hrgrid-diff.patch"
"""Name of the difference to the commit in what a job is given: too long for the environment, which all may read."""

PACKAGES: Final = ("ray", "mlflow", "torch", "numpy", "opencv-python-headless", "pyarrow", "boto3")
"""Packages whose version may explain a difference between two results."""

_ROOT: Final = Path(__file__).resolve().parents[1]
_NAMES: Final = 50
"""Untracked files that are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The code of a launch."""

    facts: Mapping[str, Json] = field(default_factory=dict)
    """Commit, branch, whether the code differs from it and by what; JSON-able."""

    patch: str = ""
    """The difference of the tracked code to the commit."""


def capture(root: Path = _ROOT) -> dict[str, Json]:
    """Return the code's facts and those of this machine (versions, host) as JSON; what cannot be found out is None."""
    return {
        **source(root).facts,
        "hrgrid": _version("hrgrid"),
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": _packages(),
    }


def source(root: Path = _ROOT) -> Source:
    """Return what is known of the code in a folder: what its sender has said in a job, else what git says.

    HRGRID_GIT_COMMIT stands in for git where the code arrives without it and nobody has said anything.
    """
    carried = os.environ.get(CARRIED)
    if carried:
        path = root / PATCH_FILE
        patch = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return Source(facts=_facts(carried), patch=patch)
    code = Checkout(root)
    commit, patch, untracked = code.commit, code.patch(), code.untracked()
    facts: dict[str, Json] = {
        "git_commit": commit or os.environ.get("HRGRID_GIT_COMMIT"),
        "git_branch": code.branch,
        "git_dirty": bool(patch or untracked) if commit else None,
        "git_diff_sha256": hashlib.sha256(patch.encode()).hexdigest() if patch else None,
        "git_untracked": untracked[:_NAMES] or None,
        "lock_sha256": code.lock,
    }
    return Source(facts=facts, patch=patch)


def _facts(carried: str) -> dict[str, Json]:
    with contextlib.suppress(ValueError):
        facts = json.loads(carried)
        if isinstance(facts, dict):
            return facts
    raise UsageError(f"{CARRIED} holds no JSON object but {carried[:40]!r}; hrgrid submit sets it, nobody else should")


def _packages() -> Mapping[str, str]:
    versions = {name: _version(name) for name in PACKAGES}
    return {name: version for name, version in versions.items() if version is not None}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
