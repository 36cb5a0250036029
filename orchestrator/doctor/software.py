"""Checks of what runs on the nodes: the same versions, and a token without which nobody runs anything."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from orchestrator.doctor.model import Answer, Finding, Level, Nodes, findings
from orchestrator.workload import Json

__all__ = ["ask_token", "judge_token", "judge_versions", "token", "versions"]

_SAME: Final = ("ray", "torch", "mlflow", "numpy", "opencv-python-headless")
"""Packages that must not differ: others would speak another protocol or give other numbers."""


def versions() -> dict[str, Json]:
    """Python, the packages that matter, and a hash of hrgrid's own source as it would be imported here."""
    import hashlib
    import importlib.util
    import platform
    from importlib import metadata
    from pathlib import Path

    packages: dict[str, str | None] = {}
    for name in ("ray", "torch", "mlflow", "numpy", "opencv-python-headless", "pyarrow", "boto3"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    total = hashlib.sha256()
    source: str | None = None
    for name in ("hrnet", "orchestrator", "jobs"):
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            break
        folder = Path(next(iter(spec.submodule_search_locations)))
        for file in sorted(folder.rglob("*.py")):
            total.update(f"{name}/{file.relative_to(folder)}\0".encode() + file.read_bytes())
    else:
        source = total.hexdigest()[:12]
    return {"python": platform.python_version(), "packages": packages, "hrgrid": source}


def judge_versions(answers: Sequence[Answer], here: Mapping[str, Json]) -> list[Finding]:
    """`here`: the same facts of the process that asks, which all nodes must agree with."""
    lacking = [name for name in _SAME if here["packages"].get(name) is None]
    problems: list[tuple[str, Level, str, str]] = [
        ("", "failed", f"{name} is not installed here", "install requirements.lock") for name in lacking
    ]
    for answer in answers:
        facts, node = answer.facts, answer.node.name
        if facts["hrgrid"] is None:
            fix = "install it there, or run the doctor and the launch as jobs, which bring it along: hrgrid submit"
            problems.append((node, "failed", "hrgrid cannot be imported", fix))
        elif facts["hrgrid"] != here["hrgrid"]:
            said = f"hrgrid's source is {facts['hrgrid']}, here it is {here['hrgrid']}"
            problems.append((node, "failed", said, "install the same commit on all nodes, or submit as a job"))
        if facts["python"] != here["python"]:
            said = f"Python is {facts['python']}, here it is {here['python']}"
            problems.append((node, "failed", said, "take one image for all nodes"))
        for name, version in facts["packages"].items():
            expected = here["packages"].get(name)
            if version != expected:
                level: Level = "failed" if name in _SAME else "warning"
                said = f"{name} is {version or 'missing'}, here it is {expected or 'missing'}"
                problems.append((node, level, said, "install requirements.lock on all nodes"))
    told = f"Python {here['python']}, " + ", ".join(f"{n} {here['packages'].get(n)}" for n in _SAME[:3])
    return findings("versions", problems, f"{told}, hrgrid {here['hrgrid']}, the same on {_nodes(len(answers))}")


def token() -> dict[str, Json]:
    """How Ray authenticates in this process, and who may read the file with the token."""
    import os
    from pathlib import Path

    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        status = file.stat()
        permissions, empty = stat.S_IMODE(status.st_mode), status.st_size == 0
    except OSError:
        permissions, empty = None, True
    return {
        "mode": (os.environ.get("RAY_AUTH_MODE") or "").lower(),
        "in_environment": bool(os.environ.get("RAY_AUTH_TOKEN")),
        "file": str(file),
        "permissions": permissions,
        "empty": empty,
    }


def ask_token(nodes: Nodes, seconds: float, *, dashboard: str | None) -> Sequence[Answer]:
    """Ask every node, and the dashboard (host:port) itself, without a token: `dashboard`, an HTTP status or None."""
    import urllib.error
    import urllib.request

    status = None
    if dashboard:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{dashboard}/api/jobs/", timeout=seconds / 2) as answer:
                status = answer.status
        except urllib.error.HTTPError as error:
            status = error.code
            error.close()
        except OSError:  # a dashboard on another machine's loopback, as it should be
            status = None
    answers = nodes.ask(token, seconds / 2)
    return [replace(answer, facts={**answer.facts, "dashboard": status}) for answer in answers]


def judge_token(answers: Sequence[Answer], *, cluster: bool) -> list[Finding]:
    """Without a cluster only a token that others may read is a problem: a local Ray gets one of its own."""
    problems: list[tuple[str, Level, str, str]] = []
    for answer in answers:
        facts, node = answer.facts, answer.node.name
        permissions = facts["permissions"]
        if cluster and facts["mode"] != "token":
            said = f"RAY_AUTH_MODE is {facts['mode'] or 'not set'}: whoever reaches Ray's ports runs code there"
            problems.append((node, "failed", said, "set RAY_AUTH_MODE=token on every node and start Ray again"))
        elif cluster and not facts["in_environment"] and facts["empty"]:
            what = "is empty" if permissions is not None else "is not there"
            said = f"RAY_AUTH_TOKEN is not set and the token file {facts['file']} {what}"
            problems.append((node, "failed", said, "copy the cluster's token there (ray get-auth-token prints it)"))
        if permissions is not None and permissions & stat.S_IRWXO and not facts["in_environment"]:
            said = f"everybody on the machine may use the token file {facts['file']} (mode {permissions:o})"
            problems.append((node, "failed", said, f"chmod 600 {facts['file']}"))
    open_status = answers[0].facts["dashboard"]
    if open_status == 200:
        said = "Ray's dashboard answers a request without a token"
        problems.append(("", "failed", said, "start the head with RAY_AUTH_MODE=token"))
    if not cluster:
        return findings("token", problems, "a Ray that is started here gets a token of its own")
    refuses = f", and the dashboard refuses requests without one ({open_status})" if open_status else ""
    return findings("token", problems, f"{_nodes(len(answers))} with RAY_AUTH_MODE=token and a token{refuses}")


def _nodes(number: int) -> str:
    return "1 node" if number == 1 else f"{number} nodes"
