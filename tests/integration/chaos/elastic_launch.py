"""`tests.integration.launch` with a workload whose workers share every batch, and tell every step."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Generator
from pathlib import Path

from orchestrator.workload import Spec
from tests.integration import launch
from tests.orchestrator.fake import WISHES, FakeEvent, FakeWorkload


class SharingWorkload(FakeWorkload):
    """After every step it tells the mean of the batch's samples, each of which one worker has drawn."""

    def train(self, spec: Spec, resume: Path | None, *, cpus: int) -> Generator[FakeEvent, str | None, None]:
        training, answer = super().train(spec, resume, cpus=cpus), None
        mean: dict[str, float] = {}
        while True:
            try:
                event = training.send(answer)
            except StopIteration:
                return
            if event.kind == "progress":
                event = dataclasses.replace(event, metrics={**event.metrics, **mean})
            answer = yield event
            if event.kind == "step":
                mean = {"train/mean": _mean(spec, event.step)}
            if event.kind == "step" and event.step % spec.settings["interval"] and event.step < event.total:
                later = yield FakeEvent(kind="progress", step=event.step, total=event.total, metrics=mean)
                answer = max(answer, later, key=lambda wish: WISHES.index(wish or ""))


def _mean(spec: Spec, step: int) -> float:
    """The mean over the batch, summed by all workers of the gang; by this process alone where there is none."""
    batch, rank, workers = spec.settings["batch"], 0, 1
    distributed = None
    if "torch" in sys.modules:
        import torch

        distributed = torch.distributed if torch.distributed.is_initialized() else None
    if distributed is not None:
        rank, workers = distributed.get_rank(), distributed.get_world_size()
    drawn = sum(_sample(spec.seed, step, number) for number in range(rank, batch, workers))
    if distributed is not None:
        total = torch.tensor(drawn, dtype=torch.float32)
        distributed.all_reduce(total)
        drawn = float(total)
    return drawn / batch


def _sample(seed: int, step: int, number: int) -> float:
    digest = hashlib.sha256(f"{seed}:{step}:{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little") / 2**32


if __name__ == "__main__":
    sys.exit(launch.main(SharingWorkload()))
