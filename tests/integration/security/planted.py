"""Launches with secrets planted wherever a person has some, and a search of everything that they leave behind."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import logging
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import quote

import boto3

from hrnet.fetch import sha256_of
from hrnet.model.segmentor import build_model
from hrnet.weights import save_weights
from jobs._mlserver import Server
from tests.integration import children
from tests.integration.security.commands import CELL
from tests.integration.security.head import Head, head
from tests.integration.security.scan import Report, scan
from tests.integration.security.spy import spying
from tests.orchestrator.s3 import AtomicS3

__all__ = ["environment", "run", "values"]

BUCKET: Final = "planted"
SECONDS: Final = 900.0
_PAGES: Final = (
    "api/jobs/", "api/v0/jobs", "api/v0/tasks?detail=1", "api/v0/actors?detail=1", "api/v0/workers?detail=1",
    "api/v0/runtime_envs?detail=1", "api/v0/nodes?detail=1", "api/v0/placement_groups", "nodes?view=summary",
    "logical/actors", "events", "api/train/v2/runs/v1", "api/v0/cluster_events", "api/v0/cluster_metadata",
)  # fmt: skip
"""Pages of the dashboard that tell of jobs."""


def values() -> dict[str, str]:
    """What is planted: kind of secret to a new random value, with characters that a URL spells otherwise."""
    kinds = (
        "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "tracking password",
        "weights signature", "proxy password", "PostgreSQL password",
    )  # fmt: skip
    return {kind: f"{secrets.token_hex(8)}/+{secrets.token_hex(8)}" for kind in kinds} | {
        "RAY_AUTH_TOKEN": secrets.token_hex(32)
    }


def environment(planted: Mapping[str, str]) -> dict[str, str]:
    """The environment of a person with all these secrets."""
    own = ("127.0.0.1", "localhost", _address())
    proxy = f"http://ann:{quote(planted['proxy password'], safe='')}@192.0.2.77:3128"
    database = f"postgresql+psycopg2://ann:{quote(planted['PostgreSQL password'], safe='')}@192.0.2.77/runs"
    return {
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": planted["AWS_SECRET_ACCESS_KEY"],
        "AWS_SESSION_TOKEN": planted["AWS_SESSION_TOKEN"], "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true", "MLFLOW_TRACKING_USERNAME": "ann",
        "MLFLOW_TRACKING_PASSWORD": planted["MLFLOW_TRACKING_PASSWORD"], "MLFLOW_BACKEND_STORE_URI": database,
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": planted["RAY_AUTH_TOKEN"], "HTTP_PROXY": proxy,
        "HTTPS_PROXY": proxy, "NO_PROXY": ",".join(own), "no_proxy": ",".join(own),
    }  # fmt: skip


def _address() -> str:
    import ray.util

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def run(folder: Path) -> Report:
    """Launch on a local Ray and as a job, with good, failing and hanging cells; search what is left."""
    planted = values()
    variables = environment(planted)
    weights = folder / "weights"
    weights.mkdir()
    save_weights(build_model("w18-small", 19, seed=1), weights / "own.pth")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    storage, report = AtomicS3(), Report()
    variables["AWS_ENDPOINT_URL"] = storage.endpoint
    client: Any = boto3.client(
        "s3", endpoint_url=storage.endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    client.create_bucket(Bucket=BUCKET)
    try:
        with Server.within(folder / "mlflow") as server, _served(weights) as site:
            login = f"ann:{quote(planted['tracking password'], safe='')}@"
            tracking = server.uri.replace("://", f"://{login}")
            signed = f"{site}/own.pth?X-Amz-Signature={quote(planted['weights signature'], safe='')}"
            places = ["--storage", f"s3://{BUCKET}/results", "--workers", "1", "--cpus-per-worker", "1", "--yes"]
            words = ["jobs.cli", "launch", CELL, "--smoke", *places, "--tracking", tracking]
            words += ["--set", f"pretrained={signed}", "--set", f"pretrained_sha256={sha256_of(weights / 'own.pth')}"]
            _local(folder / "local", words, variables, 0)
            cells = ["thin-add-short", "thin-add-long", "thick-sort-long", "--workers", "thick-sort-long=2"]
            words = ["tests.integration.launch", f"s3://{BUCKET}/fake", *cells, "--tracking", tracking]
            (folder / "fake" / "data").mkdir(parents=True)
            words += ["--hang-seconds", "15", "--data", f"{folder}/fake/data"]
            _local(folder / "fake", words, variables, 0)
            _as_a_job(folder, ["launch", CELL, "--smoke", *places, "--tracking", server.uri], variables)
        _download(client, folder / "storage")
    finally:
        storage.stop()
    for name in ("storage", "mlflow"):
        report.places.append(scan(name, folder / name, planted))
    for name in ("local", "fake", "head", "job"):
        for part in sorted(path for path in (folder / name).iterdir() if path.is_dir()):
            report.places.append(scan(f"{name}/{part.name}", part, planted))
    return report


def _local(folder: Path, words: list[str], variables: Mapping[str, str], code: int) -> None:
    """Run a launch on a local Ray, whose sessions and temporary files go into the folder, and watch it."""
    # Ray makes sockets below its folder, whose path must be short.
    temporary = tempfile.mkdtemp(prefix="hr", dir="/tmp")
    folder.mkdir(exist_ok=True)
    settings = children.environment(folder / "home", **variables, RAY_TMPDIR=temporary, TMPDIR=temporary)
    try:
        _watched([sys.executable, "-m", *words], folder, settings, code)
    finally:
        shutil.move(temporary, folder / "temporary")


def _watched(command: list[str], folder: Path, settings: dict[str, str], code: int) -> None:
    said = folder / "said"
    said.mkdir(parents=True, exist_ok=True)
    with (said / "out").open("wb") as out, (said / "err").open("wb") as err:
        process = subprocess.Popen(
            command, cwd=folder, env=settings, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        try:
            with spying(process.pid, folder / "seen", settings):
                ended = process.wait(SECONDS)
        finally:
            children.end(process)
    assert ended == code, (said / "out").read_text()[-3000:] + (said / "err").read_text()[-3000:]


def _as_a_job(folder: Path, words: list[str], variables: Mapping[str, str]) -> None:
    """The same as a submitted job on a head whose nodes hold the secrets."""
    (folder / "head").mkdir()
    nodes = {name: value for name, value in variables.items() if not name.startswith("RAY_AUTH")}
    with head(folder / "head", token=variables["RAY_AUTH_TOKEN"], **nodes) as running:
        submit = [sys.executable, "-m", "jobs.cli", "submit", "--python", sys.executable, "--follow", *words]
        settings = {**running.environment, "PYTHONPATH": str(children.ROOT)}
        with spying(running.pid, folder / "head" / "seen", settings):
            _watched(submit, folder / "job", settings, 0)
        (folder / "head" / "said").mkdir()
        for number, page in enumerate(_PAGES):
            (folder / "head" / "said" / f"page-{number}").write_bytes(_page(running, page))
        (folder / "head" / "session").mkdir()
        subprocess.run(
            ["cp", "-rL", f"{running.temporary}/session_latest/logs", folder / "head" / "session"], check=False
        )


def _page(running: Head, page: str) -> bytes:
    request = urllib.request.Request(
        f"{running.dashboard}/{page}", headers={"Authorization": f"Bearer {running.token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        return error.read()


def _download(client: Any, folder: Path) -> None:
    """Everything in the bucket, as numbered files, since a key may be the beginning of another; the keys, too."""
    folder.mkdir()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    (folder / "keys").write_text("\n".join(keys))
    for number, key in enumerate(keys):
        answer = client.get_object(Bucket=BUCKET, Key=key)
        content = answer["Body"].read()
        (folder / f"{number}-{PurePosixPath(key).name}").write_bytes(content)
        (folder / f"{number}-metadata").write_text(json.dumps(answer["Metadata"]))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Address of a web server that has the files of a folder."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
