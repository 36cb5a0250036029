"""Servers on loopback that are wrong in one way each, and a prepared data set: conditions for the doctor's tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3
import cv2
import numpy as np
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from hrnet.data.cards import Card
from hrnet.data.writer import Encoded, encode, write_dataset
from tests.integration import children
from tests.orchestrator.mlflow_store import free_port

CARD = Card(name="two", title="Two", classes=("a", "b"), palette=((0, 0, 0), (255, 255, 255)))
CLOCK_SECONDS = 1200.0
PASSWORD = "correct-horse-battery"


class WrongS3:
    """moto's S3 with one bucket: "" as it should be, `clock` off by 20 minutes, deaf to `conditions`, or `denied`."""

    def __init__(self, kind: str) -> None:
        app: Any = DomainDispatcherApplication(create_backend_app)
        guard = threading.Lock()

        def wrong(environ: Any, start_response: Any) -> Iterable[bytes]:
            if kind == "conditions":
                for name in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"):
                    environ.pop(name, None)
            if kind == "denied" and environ["REQUEST_METHOD"] == "PUT" and environ["PATH_INFO"].count("/") > 1:
                start_response("403 Forbidden", [("Content-Type", "application/xml")])
                return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
            with guard:
                answer: Iterable[bytes] = app(environ, start_response)
                return answer

        class Handler(MotoRequestHandler):  # type: ignore[misc, unused-ignore]
            def date_time_string(self, timestamp: float | None = None) -> str:
                off = CLOCK_SECONDS if kind == "clock" else 0.0
                return formatdate((time.time() if timestamp is None else timestamp) + off, usegmt=True)

            def log(self, *arguments: Any) -> None:
                pass

        self._server = make_server("127.0.0.1", 0, wrong, threaded=True, request_handler=Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="wrong-s3", daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._client = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id="testing",
            aws_secret_access_key="testing", config=Config(retries={"total_max_attempts": 2}),
        )  # fmt: skip
        self._client.create_bucket(Bucket="bucket")

    def stored(self) -> list[str]:
        """What is in its bucket."""
        return [item["Key"] for item in self._client.list_objects_v2(Bucket="bucket").get("Contents", ())]

    def __enter__(self) -> WrongS3:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Silent:
    """Takes connections and never says a word."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Silent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()


@contextmanager
def mlflow_server(folder: Path, *, auth: bool = False) -> Iterator[str]:
    """`hrgrid serve` on loopback; yields its address by number."""
    folder.mkdir()
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "serve",
        "--folder",
        str(folder),
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(children.ROOT), "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    with (folder / "output.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *(["--auth"] if auth else [])], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 240.0
        while True:
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=5):
                    break
            except OSError:
                if server.poll() is not None or time.monotonic() > end:
                    raise RuntimeError((folder / "output.log").read_text()[-2000:]) from None
                time.sleep(0.5)
        yield uri
    finally:
        children.end(server)
        server.wait(20)


def prepared(folder: Path) -> Path:
    """A prepared data set of a few small images."""
    rng = np.random.default_rng(0)
    both: dict[str, list[Encoded]] = {"train": [], "val": []}
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            image = cv2.imencode(".png", rng.integers(0, 256, (16, 24, 3)).astype(np.uint8))[1].tobytes()
            label = rng.integers(0, 2, (16, 24)).astype(np.uint8)
            both[split].append(encode(f"{split}{number}", image, label, 2))
    write_dataset(folder, CARD, both)
    return folder
