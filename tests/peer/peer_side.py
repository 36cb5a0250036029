"""The peer's half of the comparison: runs in `.peer`, imports mmsegmentation and nothing of hrgrid.

`python peer_side.py FOLDER` reads FOLDER/tasks.json, a list of {"name", "op", ...} whose arrays are in NAME.npz, and
writes what mmsegmentation computes to NAME.peer.npz. Recipes are the configuration files that it ships.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

warnings.simplefilter("ignore")

import mmseg  # noqa: E402
from mmengine import Config  # noqa: E402
from mmengine.dataset import Compose, pseudo_collate  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.runner import Runner, load_checkpoint  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.apis import inference_model, init_model  # noqa: E402
from mmseg.evaluation import IoUMetric  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

CONFIGS = Path(mmseg.__file__).parent / ".mim" / "configs" / "hrnet"

Arrays = dict[str, np.ndarray]
Task = dict[str, Any]


def _config(task: Task) -> Config:
    config = Config.fromfile(CONFIGS / f"{task['recipe']}.py")
    if "scale" in task:
        for step in config.test_pipeline:
            if step["type"] == "Resize":
                step["scale"] = tuple(task["scale"])
    if "crop" in task:
        config.model.test_cfg.crop_size, config.model.test_cfg.stride = tuple(task["crop"]), tuple(task["stride"])
    return config


def _model(task: Task) -> torch.nn.Module:
    model = init_model(_config(task), None, "cpu")
    if "weights" in task:
        load_checkpoint(model, task["weights"], map_location="cpu", strict=True)
    return model.eval()


def logits(task: Task, arrays: Arrays) -> Arrays:
    """The head's output, and the same resized to the input."""
    model, x = _model(task), torch.from_numpy(arrays["x"])
    with torch.no_grad():
        full = model.encode_decode(x, [{"img_shape": tuple(x.shape[2:])}])
        return {"quarter": _head(model, x), "full": full.numpy()}


def _head(model: torch.nn.Module, x: torch.Tensor) -> np.ndarray:
    return model.decode_head(model.extract_feat(x)).numpy()


def windows(task: Task, arrays: Arrays) -> Arrays:
    """Logits of a tensor by the windows of the configuration."""
    model, x = _model(task), torch.from_numpy(arrays["x"])
    with torch.no_grad():
        return {"full": model.slide_inference(x, [{"ori_shape": x.shape[2:], "img_shape": x.shape[2:]}]).numpy()}


def predict(task: Task, arrays: Arrays) -> Arrays:
    """Logits at the original size and class map of an image, through the test pipeline."""
    result = inference_model(_model(task), arrays["image"])
    return {"full": result.seg_logits.data[None].numpy(), "classes": result.pred_sem_seg.data[0].numpy()}


def ms_flip(task: Task, arrays: Arrays) -> Arrays:
    """Class map of the multi-scale and flip evaluation; `scales` gives the bounds of every view, else the image's."""
    model = _model(task)
    ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    resizes = [{"type": "Resize", "scale_factor": ratio, "keep_ratio": True} for ratio in ratios]
    if "scales" in task:
        resizes = [{"type": "Resize", "scale": tuple(scale), "keep_ratio": True} for scale in task["scales"]]
    flips = [{"type": "RandomFlip", "prob": p, "direction": "horizontal"} for p in (0.0, 1.0)]
    views = [resizes, flips, [{"type": "PackSegInputs"}]]
    pipeline = Compose([{"type": "LoadImageFromNDArray"}, {"type": "TestTimeAug", "transforms": views}])
    tta = MODELS.build({"type": "SegTTAModel", "module": model}).eval()
    with torch.no_grad():
        (result,) = tta.test_step(pseudo_collate([pipeline({"img": arrays["image"]})]))
    return {"classes": result.pred_sem_seg.data.numpy()}


def train_and_save(task: Task, arrays: Arrays) -> Arrays:
    """Train one iteration from random weights with mmengine's Runner, whose checkpoint hook writes the file."""
    torch.manual_seed(task["seed"])
    config = _config(task)
    config.model.backbone.pop("init_cfg", None)
    config.model.pretrained = None
    config.model.data_preprocessor.size = (64, 64)
    model = revert_sync_batchnorm(MODELS.build(config.model))
    model.init_weights()
    sample = _sample(np.zeros((64, 64), np.int64) + np.arange(64) // 8)
    images = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    data = [{"inputs": images, "data_samples": sample}] * 2
    folder = Path(task["folder"])
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader={
            "dataset": data, "batch_size": 2, "sampler": {"type": "InfiniteSampler"}, "collate_fn": pseudo_collate,
        },
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": 1, "val_interval": 10},
        optim_wrapper=config.optim_wrapper,
        param_scheduler=config.param_scheduler,
        default_hooks={"checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 1}},
        default_scope="mmseg",
        experiment_name=task["name"],
        log_level="ERROR",
    )  # fmt: skip
    runner.train()
    content = torch.load(folder / "iter_1.pth", map_location="cpu", weights_only=False)
    with torch.no_grad():
        result = _head(model.eval(), torch.from_numpy(arrays["x"]))
    return {"quarter": result, "entries": np.array(sorted(content), dtype=str)}


def loss(task: Task, arrays: Arrays) -> Arrays:
    """Loss, accuracy and the norm of all gradients of a training step."""
    model = revert_sync_batchnorm(_model(task)).train()
    samples = [_sample(label) for label in arrays["labels"].astype(np.int64)]
    losses = model.loss(torch.from_numpy(arrays["x"]), samples)
    losses["decode.loss_ce"].backward()
    norms = [parameter.grad.double().norm() for parameter in model.parameters()]
    return {
        "loss": losses["decode.loss_ce"].detach().numpy(),
        "accuracy": losses["decode.acc_seg"].numpy(),
        "gradient": torch.stack(norms).norm().numpy(),
    }


def _sample(label: np.ndarray) -> SegDataSample:
    sample = SegDataSample(metainfo={"img_shape": label.shape, "ori_shape": label.shape})
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(label)[None])
    return sample


def metric(task: Task, arrays: Arrays) -> Arrays:
    """Per-class scores, and the rounded summary that is published."""
    count = task["classes"]
    names = [str(number) for number in range(count)]
    judge = IoUMetric(iou_metrics=["mIoU"], ignore_index=255)
    judge.dataset_meta = {"classes": names}
    pairs = [(torch.from_numpy(p), torch.from_numpy(g)) for p, g in zip(arrays["pred"], arrays["label"], strict=True)]
    for pred, label in pairs:
        judge.process({}, [{"pred_sem_seg": {"data": pred.long()[None]}, "gt_sem_seg": {"data": label.long()[None]}}])
    totals = [sum(areas) for areas in zip(*judge.results, strict=True)]
    scores = judge.total_area_to_metrics(*totals, ["mIoU"])
    summary = judge.compute_metrics(judge.results)
    return {
        "iou": np.asarray(scores["IoU"]),
        "acc": np.asarray(scores["Acc"]),
        "summary": np.array([summary[name] for name in ("mIoU", "mAcc", "aAcc")]),
    }


OPS = {op.__name__: op for op in (logits, windows, predict, ms_flip, train_and_save, loss, metric)}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    MMLogger.get_instance("mmengine", log_level="ERROR")
    logging.disable(logging.WARNING)
    init_default_scope("mmseg")
    for task in json.loads((folder / "tasks.json").read_text()):
        arrays = dict(np.load(folder / f"{task['name']}.npz"))
        np.savez(folder / f"{task['name']}.peer.npz", **OPS[task["op"]](task, arrays))
        print(task["name"], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
