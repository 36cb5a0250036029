"""The check of MLflow: whether a worker reaches it by the name that it will use, and may use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from orchestrator.doctor.model import Answer, Check, Finding, Level, everywhere, findings
from orchestrator.workload import Json

__all__ = ["judge_tracking", "tracking", "tracking_check"]

SECONDS: Final = 5.0
"""One request; a server that needs longer for one experiment is not going to take 64 trials' metrics."""
_SEARCH: Final = "/api/2.0/mlflow/experiments/search?max_results=1"
_NETWORK_DISKS: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "lustre", "ceph", "fuse.gcsfuse"})


def tracking(uri: str) -> dict[str, Json]:
    """Ask for one experiment with this node's credentials, or look at the database file; writes nothing."""
    if uri.startswith("sqlite:"):
        return _database_file(uri)
    if not uri.startswith("http"):
        return _database_server(uri)
    import base64
    import json
    import os
    import urllib.error
    import urllib.request
    from importlib import metadata

    request = urllib.request.Request(uri.rstrip("/") + _SEARCH)
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "PASSWORD"))
    if bearer := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {bearer}")
    elif user and password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    facts: dict[str, Json] = {"kind": "server", "credentials": bool(bearer or (user and password)), "problem": ""}
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            facts |= {"status": answer.status, "mlflow": "experiments" in json.loads(answer.read() or b"{}")}
        with urllib.request.urlopen(uri.rstrip("/") + "/version", timeout=SECONDS) as answer:
            facts |= {"server": answer.read(40).decode(), "client": metadata.version("mlflow")}
    except urllib.error.HTTPError as error:
        facts |= {"status": error.code, "said": error.read(300).decode(errors="replace")}
        error.close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        facts |= {"problem": _problem(reason), "said": str(reason)}
    except metadata.PackageNotFoundError:
        pass
    return facts


def _problem(reason: object) -> str:
    import socket
    import ssl

    known = {
        "name": socket.gaierror, "certificate": ssl.SSLError, "refused": ConnectionRefusedError,
        "silent": TimeoutError, "answer": ValueError,
    }  # fmt: skip
    return next((name for name, kind in known.items() if isinstance(reason, kind)), "network")


def _database_file(uri: str) -> dict[str, Json]:
    import os
    from pathlib import Path

    file = Path(uri.removeprefix("sqlite:///"))
    there = file if file.exists() else file.parent
    while not there.exists():
        there = there.parent
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = {str(folder) for folder in (there, *there.parents)}
    kinds = [(len(where), kind) for where, kind in mounts if where in above]
    read_only = bool(os.statvfs(there).f_flag & os.ST_RDONLY)
    return {
        "kind": "file", "file": str(file), "disk": max(kinds, default=(0, ""))[1],
        "writable": os.access(there, os.W_OK) and not read_only,
    }  # fmt: skip


def _database_server(uri: str) -> dict[str, Json]:
    import socket
    import urllib.parse

    address = urllib.parse.urlsplit(uri)
    facts: dict[str, Json] = {"kind": "database", "credentials": True, "problem": "", "status": 200, "mlflow": True}
    try:
        socket.create_connection((address.hostname or "", address.port or 5432), timeout=SECONDS).close()
    except OSError as error:
        facts |= {"problem": _problem(error), "said": str(error)}
    return facts


def judge_tracking(answers: Sequence[Answer], uri: str) -> list[Finding]:
    """A sentence of its own for each way in which a server cannot be used from a node."""
    from orchestrator.runstore import shown as public

    shown = public(uri)
    problems: list[tuple[str, Level, str, str]] = []
    for answer in answers:
        facts = answer.facts
        if facts["kind"] == "file":
            problems += [(answer.node.name, *told) for told in _of_file(facts, shown, len(answers))]
        else:
            problems += [(answer.node.name, *told) for told in _of_server(facts, shown)]
    reached = "1 node" if len(answers) == 1 else f"{len(answers)} nodes"
    return findings("mlflow", problems, f"{shown}: usable from {reached}")


def _of_file(facts: Mapping[str, Json], uri: str, nodes: int) -> list[tuple[Level, str, str]]:
    if nodes > 1:
        said = f"the MLflow store {uri} is a file of one machine, and the cluster has {nodes}"
        return [("failed", said, "start `hrgrid serve` on the head and give its address with --tracking")]
    if facts["disk"] in _NETWORK_DISKS:
        said = f"the MLflow store {uri} is on a network file system ({facts['disk']}), where SQLite's locks may fail"
        return [("failed", said, "keep it on a local disk behind `hrgrid serve`")]
    if not facts["writable"]:
        return [("failed", f"the MLflow store {uri} cannot be written", "make its folder writable for you")]
    return []


def _of_server(facts: Mapping[str, Json], uri: str) -> list[tuple[Level, str, str]]:
    host = uri.split("://")[1].split("/")[0]
    alone = host.split(":")[0] in ("localhost", "127.0.0.1")
    said = facts.get("said", "")
    by_problem: dict[str, tuple[str, str]] = {
        "name": (f"the name of the MLflow server {uri} is unknown there ({said})",
                 "give its private address, or a name that every node resolves"),
        "refused": (f"nobody listens at the MLflow server's address {uri}",
                    f"{host} is each node's own machine: give the address of the head" if alone
                    else "start it with `hrgrid serve --host` and an address that the nodes reach"),
        "silent": (f"the MLflow server {uri} does not answer in {SECONDS:.0f} s",
                   "open its port for the nodes in the firewall or security group"),
        "certificate": (f"the certificate of {uri} is not trusted there ({said})",
                        "install the authority's certificate and name it in REQUESTS_CA_BUNDLE and SSL_CERT_FILE"),
        "answer": (f"{uri} answers, but not as an MLflow server", "give the address of `hrgrid serve`"),
        "network": (f"the MLflow server {uri} cannot be reached ({said})", "look at the node's routes and proxies"),
    }  # fmt: skip
    if facts["problem"]:
        return [("failed", *by_problem[facts["problem"]])]
    status = facts["status"]
    if status == 401:
        what = "refuses the node's user name or password" if facts["credentials"] else "asks for a user and a password"
        fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the nodes' environment before Ray starts"
        return [("failed", f"the MLflow server {uri} {what} (401)", fix)]
    if status == 403 and "host header" in said.lower():
        told = f"the MLflow server refuses the name {host} (403, Invalid Host header)"
        return [("failed", told, f"start it with `hrgrid serve --allowed-hosts {host}`")]
    if status == 404:
        return [("failed", *by_problem["answer"])]
    if status == 403:
        return [("failed", f"the MLflow server {uri} forbids this user (403)", "give the user rights in MLflow")]
    if status != 200:
        return [("failed", f"the MLflow server {uri} answers {status}", "look at the server's log")]
    if not facts["mlflow"]:
        return [("failed", f"{uri} answers, but not as an MLflow server", "give the address of `hrgrid serve`")]
    server, client = facts.get("server", ""), facts.get("client", "")
    if server and client and server.split(".")[:2] != client.split(".")[:2]:
        return [("warning", f"the MLflow server is {server}, the node's client {client}", "run one version of both")]
    return []


def tracking_check(uri: str) -> Check:
    """The whole check."""
    from orchestrator.runstore import shown

    return Check(
        name="mlflow",
        of=shown(uri),
        ask=everywhere(partial(tracking, uri)),
        judge=partial(judge_tracking, uri=uri),
        seconds=30.0,
    )
