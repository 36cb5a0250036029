"""A small grid of real HRNet cells, submitted from the operator's machine, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from jobs._drill_evidence import Evidence, Mark, gather
from orchestrator.ledger import Ledger
from orchestrator.settings import Settings
from orchestrator.storage import Storage
from tests.integration.hosts.site import Site
from tests.integration.hosts.watch import marks_of

__all__ = ["CELLS", "DATASETS", "ITERATIONS", "Grid"]

CELLS: Final = ("fcn_hr18s_4xb2-40k_cityscapes-512x1024", "fcn_hr18s_4xb4-20k_voc12aug-512x512")
DATASETS: Final = ("cityscapes", "voc12aug")
ITERATIONS: Final = 50
INTERVAL: Final = 10
"""Iterations between two checkpoints."""
_CHANGES: Final = (
    f"val_interval={INTERVAL}",
    f"checkpoint_interval={INTERVAL}",
    "log_interval=1",
    "crop=64x64",
    "batch_size=4",
    "train_scale=128x128",
    "test_scale=128x128",
    "tta_ratios=1.0",
    "speed_images=4",
    "pretrained=none",
)


class Grid:
    """One submitted launch with a storage and an experiment of its own, followed by `hrgrid logs -f`."""

    def __init__(self, site: Site, name: str, cells: Sequence[str] = CELLS, iterations: int = ITERATIONS) -> None:
        """`name`: of the job, the benchmark and the prefix in the bucket."""
        self.site, self.name, self.cells = site, name, cells
        self.places = Settings(storage=f"{site.bucket}/{name}", tracking=site.tracking, artifacts=None, benchmark=name)
        self.storage = Storage(self.places.storage)
        self.ledger = Ledger(self.storage)
        self.output: Path = site.operator.folder / f"{name}.log"
        changes = [word for change in (f"max_iters={iterations}", *_CHANGES) for word in ("--set", change)]
        self._where = ["--storage", self.places.storage, "--tracking", self.places.tracking, "--name", name]
        self._launch = [
            "launch", *cells, *changes, "--workers", "2", "--cpus-per-worker", "1", "--data", f"{site.bucket}/data",
            *self._where, "--yes",
        ]  # fmt: skip
        self._follower: subprocess.Popen[Any] | None = None

    def submit(self) -> None:
        """Send it, and follow its log."""
        sent = self.site.run("submit", "--job", self.name, *self._launch)
        if sent.returncode:
            raise RuntimeError(f"hrgrid submit ended with {sent.returncode}: {sent.stderr.strip()}")
        command = self.site.command("logs", self.name, "-f")
        with self.output.open("wb") as output:
            self._follower = subprocess.Popen(
                command, env=dict(self.site.environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def ended(self) -> int | None:
        """The exit code of `hrgrid logs -f`, which is the job's; None while it runs."""
        return None if self._follower is None else self._follower.poll()

    def last_words(self) -> str:
        """The end of what the job has printed."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-30:])

    def trials(self) -> dict[str, str]:
        """Key of each trial to its cell."""
        return {entry.key: entry.cell for entry in self.ledger.benchmark(self.name)}

    def marks(self, key: str) -> list[Mark]:
        """Every training event of a trial so far."""
        return marks_of(self.site, self.storage, key)

    def step(self, key: str) -> int:
        """The last step of a trial that was trained."""
        return next((mark.step for mark in reversed(self.marks(key)) if mark.kind == "progress"), 0)

    def first_worker(self, key: str) -> str:
        """Name of the machine that worker 0 of a trial started on last."""
        log = (self.storage.find_bytes(f"trials/{key}/logs/rank0.log") or b"").decode()
        return log.rpartition(" starts on ")[2].partition("\n")[0]

    def stop(self) -> str:
        """Stop the job; what the command says."""
        done = self.site.run("stop", self.name, "--timeout", "300", timeout=400)
        return (done.stdout + done.stderr).strip().splitlines()[-1]

    def status(self) -> list[dict[str, Any]]:
        """The cells as `hrgrid status` tells them."""
        done = self.site.run("status", *self._where, "--json")
        (benchmark,) = json.loads(done.stdout)["benchmarks"]
        cells: list[dict[str, Any]] = benchmark["cells"]
        return cells

    def evidence(self, key: str) -> Evidence:
        """What tracking and storage hold of a trial; this process shares the operator's network, but not its names."""
        return gather(dataclasses.replace(self.places, tracking=self.site.tracking_by_address), key)
