"""What a Ray head with a token answers to who does not have it: every HTTP route, every gRPC method, every client."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.integration.security.head import Head

__all__ = ["HARMLESS", "Answer", "ask", "clients", "credentials", "grpc_methods", "http_routes", "routes", "tally"]

REFUSED: Final = ("401", "403", "UNAUTHENTICATED")

HARMLESS: Final = frozenset(
    {
        "GET /",  # the page that asks for the token
        "GET /favicon.ico",
        "GET /api/authentication_mode",  # says that a token is needed
        "GET /api/healthz",  # these three: "success" or an error, for who watches the cluster's health
        "GET /api/gcs_healthz",
        "GET /api/local_raylet_healthz",
    }
)
"""What Ray answers to everybody, and why that tells nothing."""

_ROUTE: Final = re.compile(r"@routes\.(get|post|put|delete|patch)\(\s*[\"']([^\"']+)[\"']")
_STATIC: Final = ("/static/js/main.js", "/logs/", "/logs/gcs_server.out", "/log_proxy?url=http://127.0.0.1/", "/proxy")
_UNDESCRIBED: Final = ("/ray.rpc.ObjectManagerService/Push", "/ray.rpc.ObjectManagerService/Pull")
"""Methods of the raylet of which Ray ships no description in Python."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What was said to one request, under each of the credentials."""

    what: str
    statuses: Mapping[str, str]
    """Kind of credentials to HTTP status or name of gRPC's."""

    @property
    def refused(self) -> bool:
        """Whether nobody without the token learnt or changed anything."""
        return all(status in REFUSED for name, status in self.statuses.items() if name != "token")


def credentials(token: str) -> dict[str, dict[str, str]]:
    """Kind of wrong credentials to HTTP headers; the last is the right one."""
    return {
        "none": {},
        "empty": {"Authorization": "Bearer "},
        "wrong": {"Authorization": "Bearer " + "0" * len(token)},
        "shorter": {"Authorization": f"Bearer {token[:-1]}"},
        "basic": {"Authorization": f"Basic {token}"},
        "cookie": {"Cookie": "ray-authentication-token=" + "0" * len(token)},
        "proxied": {"X-Ray-Authorization": "Bearer " + "0" * len(token)},
        "token": {"Authorization": f"Bearer {token}"},
    }


def routes() -> list[tuple[str, str]]:
    """Every HTTP route (method, path) that the installed dashboard and its agent know, and some of their files."""
    import ray.dashboard

    found = {("get", path) for path in _STATIC}
    for file in Path(ray.dashboard.__path__[0]).rglob("*.py"):
        found |= {(method, path) for method, path in _ROUTE.findall(file.read_text())}
    return sorted((method.upper(), re.sub(r"\{\w+\}", "1", path)) for method, path in found)


def http_routes(base: str, token: str) -> Iterator[Answer]:
    """Ask for every route under every credentials; with the token only what is read, and what is short."""
    for method, path in routes():
        statuses = {}
        for name, headers in credentials(token).items():
            if name == "token" and (method != "GET" or "profile" in path or "delay" in path):
                continue
            statuses[name] = ask(method, f"{base}{path}", headers)
        yield Answer(what=f"{method} {path}", statuses=statuses)


def ask(method: str, url: str, headers: Mapping[str, str]) -> str:
    """HTTP status of one request, or the name of the error."""
    request = urllib.request.Request(
        url, method=method, headers=dict(headers), data=b"{}" if method in ("POST", "PUT") else None
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return str(error.code)
    except OSError as error:
        return type(error).__name__


def grpc_methods(address: str, token: str) -> Iterator[Answer]:
    """Call every method of every service that Ray defines at one address, with an empty request; none if no gRPC."""
    import grpc
    import ray.core.generated as generated

    channel: Any = grpc.insecure_channel(address)
    try:
        try:
            grpc.channel_ready_future(channel).result(timeout=5)
        except grpc.FutureTimeoutError:
            return
        for name in _UNDESCRIBED:
            yield Answer(what=name, statuses=dict(_grpc_statuses(channel, name, token)))
        for module in pkgutil.iter_modules(generated.__path__):
            if not module.name.endswith("_pb2"):
                continue
            described = importlib.import_module(f"ray.core.generated.{module.name}").DESCRIPTOR
            for service in described.services_by_name.values():
                for method in service.methods:
                    name = f"/{service.full_name}/{method.name}"
                    yield Answer(what=name, statuses=dict(_grpc_statuses(channel, name, token, method)))
    finally:
        channel.close()


def _grpc_statuses(channel: Any, name: str, token: str, method: Any = None) -> Iterator[tuple[str, str]]:
    import grpc

    asks, answers = (False, False) if method is None else (method.client_streaming, method.server_streaming)
    for kind, headers in credentials(token).items():
        if kind == "token":
            continue
        metadata = [(key.lower(), value) for key, value in headers.items()]
        call = {
            (False, False): channel.unary_unary, (False, True): channel.unary_stream,
            (True, False): channel.stream_unary, (True, True): channel.stream_stream,
        }[asks, answers]  # fmt: skip
        asked = iter([b""]) if asks else b""
        try:
            answer = call(name)(asked, timeout=5, metadata=metadata)
            if answers:
                list(answer)
            yield kind, "OK"
        except grpc.RpcError as error:
            yield kind, error.code().name


_PROGRAMS: Final[Mapping[str, str]] = {
    "ray.init(GCS)": "import ray; ray.init(address={gcs!r}, logging_level='ERROR'); print('IN', len(ray.nodes()))",
    "ray.init(ray://)": "import ray; ray.init(address={client!r}); print('IN', len(ray.nodes()))",
    "GcsClient.internal_kv_keys": "from ray._raylet import GcsClient; "
    "print('IN', len(GcsClient(address={gcs!r}).internal_kv_keys(b'', None, timeout=20)))",
    "JobSubmissionClient.submit_job": "from ray.job_submission import JobSubmissionClient; "
    "print('IN', JobSubmissionClient({dashboard!r}).submit_job(entrypoint='true'))",
    "ray.util.state.list_nodes": "from ray.util.state import list_nodes; "
    "print('IN', len(list_nodes(address={dashboard!r})))",
}


def clients(head: Head) -> Iterator[Answer]:
    """Ray's own clients in processes of their own, which read their token from the environment."""
    kinds = {
        "none": {"RAY_AUTH_MODE": "disabled"},
        "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        "token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token},
    }
    for what, program in _PROGRAMS.items():
        text = program.format(gcs=head.gcs, client=head.client, dashboard=head.dashboard)
        statuses = {}
        for kind, variables in kinds.items():
            environment = {name: value for name, value in head.environment.items() if not name.startswith("RAY_AUTH")}
            try:
                done = subprocess.run(
                    [sys.executable, "-c", text], env={**environment, **variables, "RAY_CLIENT_MAX_RETRIES": "1"},
                    capture_output=True, text=True, timeout=150, check=False, stdin=subprocess.DEVNULL,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                statuses[kind] = "no answer"
                continue
            statuses[kind] = "in" if "IN " in done.stdout else _refusal(done.stderr)
        yield Answer(what=what, statuses=statuses)


def _refusal(text: str) -> str:
    if re.search(r"UNAUTHENTICATED|Unauthenticated|AuthenticationError|Authentication (required|failed)", text):
        return "UNAUTHENTICATED"
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:80] if lines else "no words"


def tally(answers: list[Answer]) -> Counter[str]:
    """How often each status was given to who had no right token."""
    return Counter(status for each in answers for kind, status in each.statuses.items() if kind != "token")
