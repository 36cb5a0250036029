"""A fresh checkout with an environment of its own, in which the commands of a page find what they name."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from tests.docs.blocks import ROOT
from tests.integration import children
from tests.orchestrator.mlflow_store import Server, free_port
from tests.orchestrator.s3 import AtomicS3

BUCKET = "bucket"


def install(checkout: Path) -> None:
    """Make a checkout's .venv with the packages of this interpreter, and its own code in place of any other."""
    home = checkout / ".venv"
    venv.create(home, symlinks=True)
    packages = next(home.glob("lib/python*/site-packages"))
    (packages / "shared.pth").write_text(f"{checkout}\n{sysconfig.get_path('purelib')}\n")
    script = home / "bin" / "hrgrid"
    script.write_text(f"#!{home}/bin/python\nimport sys\n\nfrom jobs.cli import main\n\nsys.exit(main())\n")
    script.chmod(0o755)
    (home / ".installed").touch()


class Stage:
    """A copy of the checkout as a newcomer has it after `make install`, and services that are started when needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout = folder / "hrgrid"
        self._copy()
        install(self.checkout)
        (folder / "no-weights").mkdir()
        self.environment = self._clean_environment()
        self._told = set(self.environment)
        self._head: subprocess.Popen[bytes] | None = None
        self._server: Server | None = None
        self._s3: AtomicS3 | None = None
        # Ray makes sockets below its folder, whose path must be short.
        self._temporary = tempfile.mkdtemp(prefix="hr", dir="/tmp")

    def _copy(self) -> None:
        """Copy what git has or would take, changes included."""
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                target = self.checkout / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)

    def _clean_environment(self) -> dict[str, str]:
        """The user's environment without settings of hrgrid, Ray, MLflow and AWS, and a home of its own."""
        prefixes = ("HRGRID_", "RAY_", "MLFLOW_", "AWS_", "PYTHON", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
        (self.folder / "home").mkdir()
        return {
            **kept,
            "HOME": str(self.folder / "home"),
            "OMP_NUM_THREADS": "1",
            "HRGRID_CACHE": str(self.folder / "cache"),
            "HRGRID_WEIGHTS_MIRROR": str(self.folder / "no-weights"),
        }

    def prepare_for(self, command: str) -> None:
        """Provide what the page takes for granted when this command is typed."""
        if "downloads/cityscapes" in command and not (self.checkout / "downloads").exists():
            self.draw_cityscapes()
        if command.startswith(("hrgrid submit", "hrgrid jobs", "hrgrid logs", "hrgrid stop")) and self._head is None:
            self.start_cluster()

    def new_variables(self) -> dict[str, str]:
        """Variables that came into the environment since this was last asked."""
        new = {name: value for name, value in self.environment.items() if name not in self._told}
        self._told |= set(new)
        return new

    def draw_cityscapes(self) -> None:
        """Put a download of Cityscapes beside the checkout's files: complete, but of images of 32x64 pixels."""
        size = ["--train", "2975", "--val", "500", "--size", "32x64"]
        self.command("data", "synth", "cityscapes", "--to", "downloads/cityscapes", *size)

    def start_cluster(self) -> None:
        """Start an S3 API, an MLflow server and a Ray head with a token, and name them in the environment."""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._s3 = AtomicS3()
        (self.folder / "server").mkdir()
        self._server = Server(self.folder / "server")
        self._server.start()
        dashboard = free_port()
        self.environment |= {
            "AWS_ENDPOINT_URL": self._s3.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "HRGRID_STORAGE": f"s3://{BUCKET}/results",
            "HRGRID_DATA": f"s3://{BUCKET}/prepared",
            "HRGRID_TRACKING": self._server.uri,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        }
        self._make_bucket()
        self.command("data", "prepare", "downloads/cityscapes", "--dataset", "cityscapes", "--to",
                     f"s3://{BUCKET}/prepared")  # fmt: skip
        self._start_head(dashboard)

    def _make_bucket(self) -> None:
        import boto3

        names = {"endpoint_url": "AWS_ENDPOINT_URL", "aws_access_key_id": "AWS_ACCESS_KEY_ID",
                 "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY", "region_name": "AWS_REGION"}  # fmt: skip
        boto3.client("s3", **{key: self.environment[name] for key, name in names.items()}).create_bucket(Bucket=BUCKET)

    def _start_head(self, dashboard: int) -> None:
        options = {
            "port": free_port(), "dashboard-port": dashboard, "dashboard-host": "127.0.0.1",
            "dashboard-agent-listen-port": free_port(), "dashboard-agent-grpc-port": free_port(),
            "ray-client-server-port": free_port(), "node-ip-address": "127.0.0.1", "num-cpus": 4,
            "resources": json.dumps({"hrgrid_slots": 4}), "temp-dir": self._temporary, "include-dashboard": "true",
            "object-store-memory": 100_000_000,
        }  # fmt: skip
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--{name}={value}" for name, value in options.items()]
        own = {**self.environment, "PATH": f"{self.checkout}/.venv/bin:{self.environment['PATH']}"}
        with (self.folder / "head.log").open("wb") as log:
            self._head = subprocess.Popen(
                command, cwd=self.folder, env=own, stdout=log, stderr=log, start_new_session=True
            )
        children.wait_for(lambda: self.command("jobs", check=False) == 0, 120, "the Ray head answers")

    def command(self, *words: str, check: bool = True) -> int:
        """Run `hrgrid` with these words in the checkout, out of sight; returns the exit code."""
        done = subprocess.run(
            [f"{self.checkout}/.venv/bin/hrgrid", *words],
            cwd=self.checkout, env=self.environment, check=False, capture_output=True, text=True,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"hrgrid {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.returncode

    def end(self) -> None:
        """End what was started."""
        if self._head is not None:
            children.end(self._head)
            self._head.wait(20)
        if self._server is not None:
            self._server.kill()
        if self._s3 is not None:
            self._s3.stop()
        shutil.rmtree(self._temporary, ignore_errors=True)
