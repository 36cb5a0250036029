"""mmsegmentation 1.2.2's side of the suite; runs under its own interpreter and imports nothing of hrgrid.

Requests and answers are JSON lines on standard input and output; whatever its libraries print goes to standard error.
One thing is ready at a time: `open` makes it so, `turn` measures it, `close` lets it go. Everything is done as the
shipped configuration does it, through the functions that its own tools call.
"""

# mypy: ignore-errors
# The peer's packages are in its own environment and nowhere else.

from __future__ import annotations

import copy
import gc
import itertools
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

warnings.simplefilter("ignore")

import mmcv  # noqa: E402
import mmengine  # noqa: E402
import mmseg  # noqa: E402
from mmengine import Config  # noqa: E402
from mmengine.dataset import Compose  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.runner import load_checkpoint, save_checkpoint  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.evaluation import IoUMetric  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs" / "hrnet"

Task = dict[str, Any]


class Ready:
    """What is measured: a step that returns its number of items, and what it computes."""

    def __init__(
        self,
        step: Callable[[], int],
        output: Callable[[], np.ndarray] | None = None,
        device: str = "cpu",
    ) -> None:
        self.step = step
        self.output = output
        self.device = device

    def wait(self) -> None:
        """Return when a GPU has done what it was given."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def turn(self, seconds: float) -> list[float]:
        """One call that is not counted, then for about so long, at least once; seconds per item of each call."""
        self.step()
        self.wait()
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while not taken or time.perf_counter() < end:
            began = time.perf_counter()
            items = self.step()
            self.wait()
            taken.append((time.perf_counter() - began) / items)
        return taken


def _config(task: Task) -> Config:
    config = Config.fromfile(CONFIGS / f"{task['recipe']}.py")
    config.model.backbone.pop("init_cfg", None)
    config.model.pretrained = None
    if "size" in task:
        config.model.data_preprocessor.size = tuple(task["size"])
    return config


def _model(task: Task) -> tuple[torch.nn.Module, Config]:
    config = _config(task)
    model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(config.model)))
    if "weights" in task:
        load_checkpoint(model, task["weights"], map_location="cpu", strict=True)
    return model.to(task["device"]), config


def train(task: Task) -> Ready:
    """Training steps on one batch as its loop takes them: preprocessing, losses, backward, optimizer."""
    model, config = _model(task)
    model.train()
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    arrays = np.load(task["arrays"])
    images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).contiguous()
    samples = [_sample(label) for label in arrays["labels"].astype(np.int64)]

    def step() -> int:
        with _autocast(task):
            model.train_step({"inputs": list(images), "data_samples": samples}, optimizer)
        return 1

    return Ready(step, device=task["device"])


def _autocast(task: Task) -> Any:
    if task.get("precision", "fp32") == "fp32":
        return nullcontext()
    return torch.autocast(task["device"], torch.bfloat16)


def _sample(label: np.ndarray) -> SegDataSample:
    sample = SegDataSample(metainfo={"img_shape": label.shape, "ori_shape": label.shape})
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(label)[None])
    return sample


def inference(task: Task) -> Ready:
    """Network, resize to full size and arg-max of a normalised image."""
    model, _ = _model(task)
    model.eval()
    x = torch.from_numpy(np.load(task["arrays"])["x"]).to(task["device"])
    meta = [{"img_shape": tuple(x.shape[2:]), "ori_shape": tuple(x.shape[2:])}]

    @torch.no_grad()
    def classes() -> torch.Tensor:
        return model.encode_decode(x, meta).argmax(1)

    def step() -> int:
        classes()
        return 1

    return Ready(step, lambda: classes()[0].to(torch.uint8).cpu().numpy(), task["device"])


def data(task: Task) -> Ready:
    """Samples of files through the training pipeline of the configuration."""
    config = _config(task)
    pipeline = Compose(config.train_pipeline)
    dataset = config.train_dataloader.dataset
    np.random.seed(0)
    zero = any(step.get("reduce_zero_label", False) for step in config.train_pipeline) or dataset.get(
        "reduce_zero_label", False
    )
    files = itertools.cycle(task["files"])

    def step() -> int:
        for _ in range(task["items"]):
            image, label = next(files)
            # What a data set of 1.2.2 gives its pipeline for a sample.
            pipeline({"img_path": image, "seg_map_path": label, "label_map": None, "reduce_zero_label": zero,
                      "seg_fields": []})  # fmt: skip
        return int(task["items"])

    return Ready(step)


def metric(task: Task) -> Ready:
    """Its metric's part of one validation image."""
    arrays = np.load(task["arrays"])
    judge = IoUMetric(iou_metrics=["mIoU"], ignore_index=255)
    judge.dataset_meta = {"classes": [str(number) for number in range(task["classes"])]}
    pred, label = (torch.from_numpy(arrays[name]).long()[None] for name in ("pred", "label"))

    def step() -> int:
        judge.results.clear()
        judge.process({}, [{"pred_sem_seg": {"data": pred}, "gt_sem_seg": {"data": label}}])
        return 1

    def output() -> np.ndarray:
        step()
        return np.stack([np.asarray(area, dtype=np.int64) for area in judge.results[0]])

    return Ready(step, output)


def checkpoint(task: Task) -> Ready:
    """A checkpoint file of model and optimizer, as its runner writes it."""
    model, config = _model(task)
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.optimizer.step()

    def step() -> int:
        content = {
            "meta": {"iter": 1},
            "state_dict": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        save_checkpoint(content, task["path"])
        return 1

    return Ready(step)


OPS = {op.__name__: op for op in (train, inference, data, metric, checkpoint)}


class Server:
    """Answers requests by name."""

    def __init__(self) -> None:
        self.ready: Ready | None = None

    def about(self, _: Task) -> dict[str, str]:
        """Versions of what the peer consists of."""
        return {
            "mmsegmentation": mmseg.__version__,
            "mmengine": mmengine.__version__,
            "mmcv": mmcv.__version__,
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        }

    def open(self, request: Task) -> float | None:
        """Make something ready; returns the most memory that two steps took on a GPU, in 1e9 bytes."""
        task = request["task"]
        torch.set_num_threads(task["threads"])
        if task["device"] == "cpu":
            self.ready = OPS[task["op"]](task)
            return None
        before = torch.cuda.memory_allocated()
        self.ready = OPS[task["op"]](task)
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            self.ready.step()
        self.ready.wait()
        return (torch.cuda.max_memory_allocated() - before) / 1e9

    def turn(self, request: Task) -> list[float]:
        """Measure what is ready."""
        assert self.ready is not None
        return self.ready.turn(request["seconds"])

    def output(self, request: Task) -> bool:
        """Write what is computed into a file; says whether there is something."""
        assert self.ready is not None
        if self.ready.output is None:
            return False
        np.save(request["path"], self.ready.output())
        return True

    def close(self, _: Task) -> None:
        """Let go what is ready."""
        self.ready = None
        gc.collect()


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    MMLogger.get_instance("mmengine", log_level="ERROR")
    logging.disable(logging.WARNING)
    init_default_scope("mmseg")
    cv2.setNumThreads(0)
    server = Server()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": getattr(server, request["do"])(request)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
