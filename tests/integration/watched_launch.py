"""`tests.integration.launch` whose trainings tell their speed, as those of HRNet do."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Generator
from pathlib import Path

from orchestrator.workload import Spec
from tests.integration import launch
from tests.orchestrator.fake import FakeEvent

SPEED = {"train/images_per_s": 12.5, "train/data_wait": 0.25}


class WatchedWorkload(launch.TroubledWorkload):
    """Adds the same speed to every progress."""

    packages = ("tests",)

    def train(self, spec: Spec, resume: Path | None, *, cpus: int) -> Generator[FakeEvent, str | None, None]:
        training, answer = super().train(spec, resume, cpus=cpus), None
        while True:
            try:
                event = training.send(answer)
            except StopIteration:
                return
            if event.kind == "progress":
                event = dataclasses.replace(event, metrics={**event.metrics, **SPEED})
            answer = yield event


if __name__ == "__main__":
    sys.exit(launch.main(WatchedWorkload()))
