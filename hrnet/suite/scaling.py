"""The part that grows: a training on one worker and on two, and an evaluation of 100 and of 400 images."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from hrnet.catalogue import recipe
from hrnet.data.shards import PreparedDataset
from hrnet.errors import HrnetError
from hrnet.evaluation.run import drain, evaluate_split
from hrnet.model.segmentor import build_model
from hrnet.suite.bench import Bench
from hrnet.suite.contest import Contest, Contestant, Entry, Repeating
from hrnet.training.gang import Gang

__all__ = ["scaling"]

_WORKERS = (1, 2)
_IMAGES = (100, 400)
_STEPS = 6
_SIZE = (128, 256)
"""Height and width of a validation image: small ones, as their number is what matters."""


def scaling(bench: Bench) -> Iterator[Contest]:
    """Images per second of a training step's two images on gloo workers with a thread each; then of evaluations."""
    crop = "32x32" if bench.quick else "256x256"
    size = (64, 64) if bench.quick else (512, 512)
    data = bench.scenes("gang", "cityscapes", images=4, size=size).prepared
    yield Contest(
        part="scaling", case=f"training, w18-small {crop} batch 2", unit="per s",
        entries={
            f"{count} gloo worker{'s' if count > 1 else ''}": Entry(
                open=functools.partial(_open_gang, bench, data, crop, count)
            )
            for count in _WORKERS
        },
    )  # fmt: skip
    counts = (2, 4) if bench.quick else _IMAGES
    images = bench.scenes("many", "cityscapes", images=counts[-1], size=(32, 64) if bench.quick else _SIZE).prepared
    yield Contest(
        part="scaling", case="evaluation, w18-small", unit="per s",
        entries={
            f"{count} images": Entry(open=functools.partial(_open_evaluation, bench, images, count))
            for count in counts
        },
    )  # fmt: skip


class _Workers:
    """A training that is started anew for each turn."""

    memory = None

    def __init__(self, bench: Bench, data: PreparedDataset, crop: str, count: int) -> None:
        self._bench = bench
        self._words = [data.uri, crop, str(_STEPS)]
        self._count = count

    def turn(self, seconds: float) -> list[float]:
        """Seconds per image of the whole gang, interval by interval."""
        store = self._bench.folder / f"store-{uuid.uuid4().hex}"
        # On CPUs whatever the machine has.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
                       "PYTHONPATH": os.pathsep.join(sys.path)}  # fmt: skip
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "hrnet.suite.worker", str(rank), str(self._count), str(store), *self._words],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(self._count)
        ]  # fmt: skip
        said = [worker.communicate() for worker in workers]
        failed = [errors for worker, (_, errors) in zip(workers, said, strict=True) if worker.returncode]
        if failed:
            raise HrnetError(f"a gloo worker of the suite failed: {failed[0][-1500:].strip()}")
        return [float(line) for line in said[0][0].split()]

    def output(self) -> None:
        """There is nothing to compare."""


@contextmanager
def _open_gang(bench: Bench, data: PreparedDataset, crop: str, count: int) -> Iterator[Contestant]:
    yield _Workers(bench, data, crop, count)


@contextmanager
def _open_evaluation(bench: Bench, data: PreparedDataset, count: int) -> Iterator[Contestant]:
    own = recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024").with_overrides(
        {"val_limit": str(count), "test_scale": f"{_SIZE[1]}x{_SIZE[0]}"}
    )
    model = build_model(own.width, own.num_classes, seed=0).to(bench.device)
    gang = Gang(rank=0, world=1, device=bench.device)

    def step() -> int:
        drain(evaluate_split(model, data.split("val"), own, gang))
        return count

    yield Repeating(step)
