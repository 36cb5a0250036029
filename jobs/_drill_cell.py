"""The small cell of a drill: its command as a child process, how far it is, and the processes that can be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import psutil

from jobs._drill_evidence import Mark, read_marks, worker_starts
from jobs._family import Victim, descendants, end, victims
from orchestrator.errors import OrchestratorError, StorageError
from orchestrator.ledger import Ledger
from orchestrator.settings import Settings
from orchestrator.storage import Storage

__all__ = ["CELL", "INTERVAL", "PATIENCE", "DrillError", "Rehearsal"]

CELL: Final = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
INTERVAL: Final = 10
"""Iterations between two checkpoints, which come with a validation."""
PATIENCE: Final = 600.0
"""Seconds without any news after which a drill is given up; recovering takes half a minute on an idle machine."""

_CHANGES: Final = (
    f"val_interval={INTERVAL}",
    f"checkpoint_interval={INTERVAL}",
    "log_interval=1",
    "crop=64x128",
    "batch_size=4",
    "train_scale=256x128",
    "test_scale=256x128",
    "tta_ratios=1.0",
    "speed_images=4",
    "pretrained=none",
)
_POLL_SECONDS: Final = 0.2


class DrillError(OrchestratorError):
    """The drill's cell did not get where it should have; says where, and where its log is."""


class Rehearsal:
    """One cell on two workers of one core each, launched by the user's own command as a child of this process."""

    def __init__(
        self,
        places: Settings,
        *,
        data: str,
        iterations: int,
        log: Path,
        tracking: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`places` is how this process reaches them; `tracking` and `environment` are what the launch is given
        instead and beside. `log`: file that gets what the launches print."""
        self.places = places
        self.iterations = iterations
        self.log = log
        changes = [word for change in (f"max_iters={iterations}", *_CHANGES) for word in ("--set", change)]
        self._command = [
            sys.executable, "-m", "jobs.cli", "launch", CELL, *changes, "--workers", "2", "--cpus-per-worker", "1",
            "--data", data, "--storage", places.storage, "--tracking", tracking or places.tracking,
            "--name", places.benchmark, "--yes",
        ]  # fmt: skip
        # What the workers keep on this host comes into a folder of the drill's own: it tells every step at once, also
        # while storage and tracking are away. The path must be short, as must that of Ray's sockets.
        self.temporary = Path(tempfile.mkdtemp(prefix="hrdrill-"))
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        ray = {"RAY_TMPDIR": os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()}
        self.environment = {**inherited, **ray, **(environment or {}), "TMPDIR": str(self.temporary)}
        self.ledger = Ledger(Storage(places.storage))
        self._key = ""
        self._marks: set[Mark] = set()
        self._launch: subprocess.Popen[bytes] | None = None
        self._family: dict[int, psutil.Process] = {}

    @property
    def pid(self) -> int:
        """The process of the last launch."""
        return -1 if self._launch is None else self._launch.pid

    @property
    def key(self) -> str:
        """The trial's key; empty until the launch has written it down."""
        if not self._key:
            self._key = next((entry.key for entry in self.ledger.benchmark(self.places.benchmark)), "")
        return self._key

    def give(self, *options: str) -> None:
        """Add options to the command."""
        self._command += options

    def start(self) -> None:
        """Run the launch command; again, it is the same command."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._launch = subprocess.Popen(
                self._command, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def kill_launch(self) -> None:
        """Send SIGKILL to the launch alone."""
        self.remember()
        if self._launch is not None:
            self._launch.kill()
            self._launch.wait()

    def ended(self) -> int | None:
        """The exit code of the last launch, or None while it runs."""
        return None if self._launch is None else self._launch.poll()

    def remember(self) -> None:
        """Note the processes of the launch, which lose their descent when it dies."""
        self._family |= {process.pid: process for process in descendants(self.pid)}

    def marks(self) -> list[Mark]:
        """Every event of rank 0's training so far, over all attempts, in order of time."""
        contents = self._logs(0)
        with contextlib.suppress(StorageError):  # it may be away, which is what a drill does to it
            contents.append(self.ledger.storage.find_bytes(f"trials/{self.key}/logs/rank0.jsonl") or b"")
        # What a killed worker left on this host is swept away when the trial ends.
        self._marks |= set(read_marks(contents))
        return sorted(self._marks)

    def worker(self, rank: int) -> Victim:
        """The worker of a rank that runs now, which its log names; raises DrillError when there is none."""
        notes = sorted(worker_starts(self._logs(rank)), reverse=True)
        running = {victim.process.pid: victim for victim in victims(self.pid, "worker")}
        for _, pid in notes:
            if pid in running:
                return running[pid]
        raise self.complaint(f"no worker {rank} runs")

    def victim(self, role: str) -> Victim:
        """The oldest process of a role; raises DrillError when there is none."""
        found = victims(self.pid, role)
        if not found:
            raise self.complaint(f"the launch has no {role}")
        return found[0]

    def complaint(self, what: str) -> DrillError:
        """An error that says what is wrong, the last line that the launch printed, and where the rest is."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return DrillError(f"{what} ({lines[-1].strip() if lines else 'it printed nothing'}); see {self.log}")

    def _logs(self, rank: int) -> list[bytes]:
        contents = []
        for file in self.temporary.glob(f"hrgrid-*/rank{rank}.jsonl"):
            with contextlib.suppress(FileNotFoundError):  # a worker that ends takes its log away
                contents.append(file.read_bytes())
        return contents

    def step(self) -> int:
        """The last step that was trained."""
        return next((mark.step for mark in reversed(self.marks()) if mark.kind == "progress"), 0)

    def wait(self, done: Callable[[], bool], what: str, report: Callable[[int], None] = lambda _: None) -> None:
        """Wait until `done`, telling the step; raises DrillError when the launch ends before, or nothing happens."""
        latest, said = -1, time.monotonic()
        while not done():
            self.remember()
            step = self.step()
            if step != latest:
                latest, said = step, time.monotonic()
                report(step)
            code = self.ended()
            if code is not None and not done():
                raise self.complaint(f"the launch ended with exit code {code} before {what}")
            if time.monotonic() - said > PATIENCE:
                raise self.complaint(f"nothing happened for {PATIENCE:.0f} s before {what}")
            time.sleep(_POLL_SECONDS)

    def wait_for_step(self, step: int, report: Callable[[int], None] = lambda _: None) -> None:
        """Wait until a step has been trained by the attempt that runs."""
        self.wait(lambda: self.step() >= step, f"step {step} was trained", report)

    def wait_for_end(self, report: Callable[[int], None] = lambda _: None) -> int:
        """Wait until the launch has ended; returns its exit code."""
        self.wait(lambda: self.ended() is not None, "its end", report)
        return int(self.ended() or 0)

    def close(self) -> None:
        """End what still runs, and delete what the workers kept on this host."""
        self.kill_launch()
        end(self._family.values())
        shutil.rmtree(self.temporary, ignore_errors=True)
