"""Whether a Ray cluster lets this machine in: asked once, where Ray itself would try for half a minute, loudly."""

from __future__ import annotations

from typing import Any, Final

from orchestrator.doctor.model import Finding
from orchestrator.errors import ClusterError

__all__ = ["connected"]

SECONDS: Final = 10.0


def connected(address: str) -> list[Finding]:
    """Connect this process to a Ray cluster (host:port); returns why it cannot be, or nothing."""
    from orchestrator.raystart import connect

    if (refused := _refused(address)) is not None:
        fix = "set RAY_AUTH_MODE=token and the head's token here (RAY_AUTH_TOKEN, or its file ~/.ray/auth_token)"
        return [Finding(check="cluster", level="failed", said=f"the Ray cluster {address} {refused}", fix=fix)]
    try:
        connect(address=address, slots=0, cpus=0)
    except ClusterError as error:
        said, _, fix = str(error).rpartition("; ")
        said, fix = (said, fix) if said else (fix, "look whether the head is up, and at its log")
        return [Finding(check="cluster", level="failed", said=said, fix=fix)]
    return []


def _refused(address: str) -> str | None:
    """What the cluster's first server says to this machine's token; None where it takes it, or cannot be asked."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        return None
    from importlib import import_module

    grpc: Any = import_module("grpc")  # which is there with Ray, and has no types
    messages: Any = import_module("ray.core.generated.gcs_service_pb2")
    services: Any = import_module("ray.core.generated.gcs_service_pb2_grpc")
    token = _header()
    with grpc.insecure_channel(address) as channel:
        stub = services.NodeInfoGcsServiceStub(channel)
        try:
            stub.GetClusterId(messages.GetClusterIdRequest(), timeout=SECONDS, metadata=token)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return "does not take this machine's token" if token else "asks for a token, and there is none here"
    return None


def _header() -> tuple[tuple[str, str], ...]:
    """This machine's token as Ray sends it, from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or Ray's own file."""
    import os
    from pathlib import Path

    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        token = file.read_text().strip() if file.is_file() else ""
    return (("authorization", f"Bearer {token}"),) if token else ()
