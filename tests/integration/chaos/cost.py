"""What tracking and checkpointing cost: the same training with both off and on, in turn, in one process.

A W18-Small network trains on one CPU. With both on, everything that rank 0 of a real trial does beside training is
done: recorder to an MLflow server in a process of its own, trial log, progress document, checkpoints to a storage on
disk. A published recipe logs every 50 iterations and checkpoints every 16,000 of 160,000; this run logs every LOG and
checkpoints every CHECKPOINT iterations, so both come far more often here. Beside the ratio of the whole loops, what
the training thread itself spends is measured per event, from which the share at the published rates follows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.integration.chaos.showing import add_output, show, workplace, write

STEPS: Final = 50
LOG: Final = 5
CHECKPOINT: Final = 25
PUBLISHED_LOG: Final = 50
PUBLISHED_CHECKPOINT: Final = 16_000
GOAL: Final = 0.02


class Desk:
    """What rank 0 does beside training, with the seconds that the training thread spends in it."""

    def __init__(self, folder: Path, tracking: str, key: str) -> None:
        from orchestrator.checkpoints import CheckpointStore
        from orchestrator.keeper import Keeper
        from orchestrator.ledger import Ledger
        from orchestrator.progress import ProgressWriter
        from orchestrator.recorder import Recorder
        from orchestrator.settings import Settings
        from orchestrator.storage import Storage
        from orchestrator.tracking import Tracker
        from orchestrator.triallog import TrialLog
        from orchestrator.worker import Assignment
        from orchestrator.workload import Cell, Spec

        storage = Storage(str(folder / "storage"))
        tracker = Tracker(tracking, "cost")
        run_id = tracker.start_run(key, key)
        start_ms = tracker.start_ms(run_id)
        cell = Cell(name=key)
        spec = Spec(cell=cell, settings={}, seed=0, data="", data_fingerprint="", code_version="")
        places = Settings(storage=storage.uri, tracking=tracking, artifacts=None, benchmark="cost")
        ledger = Ledger(storage)
        lease = ledger.claim(key, "cost")
        assert lease is not None
        job = Assignment(spec=spec, key=key, settings=places, run_id=run_id, start_ms=start_ms, workers=1, cpus=1,
                         owner="cost", lease=lease)  # fmt: skip
        self.log = TrialLog(storage, key, 0, ("orchestrator",))
        self.recorder = Recorder(tracking, run_id, start_ms)
        self.keeper = Keeper(CheckpointStore(storage, key), {})
        self.progress = ProgressWriter(ledger, job, self.log.ship)
        self.seconds: dict[str, list[float]] = {"progress": [], "checkpoint": []}

    def take(self, event: Any) -> None:
        began = time.perf_counter()
        self.log.event(event, "train")
        self.recorder.record(event.metrics, event.step)
        self.progress.update(step=event.step, total=event.total, metrics=dict(event.metrics))
        if event.save is not None:
            info = {"unsent": self.recorder.unsent()}
            self.keeper.take(event.save, event.step, dict(event.metrics), best=event.best, info=info)
        if event.kind in self.seconds:
            self.seconds[event.kind].append(time.perf_counter() - began)

    def close(self) -> None:
        self.keeper.finish()
        self.keeper.close()
        assert self.recorder.close(60)
        self.progress.close()
        self.log.close()


def main(argv: list[str] | None = None) -> int:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="how often each of the two is measured (default 3)")
    add_output(parser)
    args = parser.parse_args(argv)
    from tests.orchestrator.mlflow_store import Server

    with workplace(args.folder) as folder:
        (folder / "server").mkdir()
        server = Server(folder / "server")
        server.start()
        try:
            figures = _measure(folder, server.uri, args.pairs)
        finally:
            server.kill()
    _tell(figures)
    write(args.json, figures)
    return 0 if figures["share_at_published_rates"] <= GOAL else 1


def _measure(folder: Path, tracking: str, pairs: int) -> dict[str, Any]:
    import torch

    from hrnet.data.prepare.run import prepare
    from hrnet.data.synthetic import synthesise

    torch.set_num_threads(1)
    synthesise("cityscapes", folder / "native", train=8, val=2, size=(128, 256), seed=3)
    prepare(folder / "native", folder / "cityscapes", dataset="cityscapes", partial=True)
    data = str(folder / "cityscapes")
    _pass(data, None, steps=4)  # what is done once per process belongs to neither
    off: list[float] = []
    on: list[float] = []
    spent: dict[str, list[float]] = {"progress": [], "checkpoint": []}
    for pair in range(pairs):
        for tracked in (False, True) if pair % 2 == 0 else (True, False):
            desk = Desk(folder, tracking, f"pass-{pair}") if tracked else None
            (on if tracked else off).append(_pass(data, desk, steps=STEPS))
            if desk is not None:
                desk.close()
                for kind, seconds in desk.seconds.items():
                    spent[kind] += seconds
    step = statistics.median(off) / STEPS
    event, checkpoint = statistics.median(spent["progress"]), statistics.median(spent["checkpoint"])
    return {
        "steps": STEPS, "log_interval": LOG, "checkpoint_interval": CHECKPOINT, "load": os.getloadavg()[0],
        "off_seconds": off, "on_seconds": on, "ratio": statistics.median(on) / statistics.median(off),
        "step_seconds": step, "event_seconds": event, "checkpoint_seconds": checkpoint,
        "thread_share_here": (event / LOG + checkpoint / CHECKPOINT) / step,
        "share_at_published_rates": (event / PUBLISHED_LOG + checkpoint / PUBLISHED_CHECKPOINT) / step,
    }  # fmt: skip


def _pass(data: str, desk: Desk | None, *, steps: int) -> float:
    """Train; return the seconds from the first step's end to the last one's, without what starts and ends a run."""
    from hrnet.catalogue import recipe
    from hrnet.data.shards import open_dataset
    from hrnet.training.loop import train

    changes = {
        "pretrained": "none", "crop": "128x256", "train_scale": "256x128", "test_scale": "256x128", "batch_size": "2",
        "max_iters": str(steps + 1), "val_interval": str(steps + 1), "checkpoint_interval": str(CHECKPOINT),
        "ms_flip": "false", "speed_images": "0", "log_interval": str(LOG),
    }  # fmt: skip
    tiny = recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024").with_overrides(changes)
    began = 0.0
    loop = train(tiny, open_dataset(data), seed=5, loader_processes=0)
    for event in loop:
        if event.kind == "step" and event.step == 1:
            began = time.perf_counter()
        if event.kind == "step" and event.step == steps + 1:
            break
        if desk is not None and event.kind != "step":
            desk.take(event)
    took = time.perf_counter() - began
    loop.close()
    return took


def _tell(figures: dict[str, Any]) -> None:
    rows = [
        {
            "both": name,
            "seconds": round(statistics.median(passes), 2),
            "least": round(min(passes), 2),
            "most": round(max(passes), 2),
        }
        for name, passes in (("off", figures["off_seconds"]), ("on", figures["on_seconds"]))
    ]
    show(rows)
    print(
        f"\n{STEPS} steps of {figures['step_seconds']:.3f} s, logged every {LOG}, a checkpoint every {CHECKPOINT}; "
        f"load of the machine {figures['load']:.1f}\n"
        f"on / off, medians: {figures['ratio']:.4f}\n"
        f"in the training thread: {1e3 * figures['event_seconds']:.2f} ms per logged step, "
        f"{1e3 * figures['checkpoint_seconds']:.0f} ms per checkpoint: {figures['thread_share_here']:.2%} at the "
        f"rates here,\n{figures['share_at_published_rates']:.4%} at the published rates (log {PUBLISHED_LOG}, "
        f"checkpoint {PUBLISHED_CHECKPOINT}) with this step; goal {GOAL:.0%}"
    )


if __name__ == "__main__":
    sys.exit(main())
