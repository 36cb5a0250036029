"""On a CUDA device: the network gives the CPU's numbers, trains, resumes, and takes its batch norm from the gang."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed

from hrnet.catalogue import WIDTHS, Recipe, Width, recipe
from hrnet.data.prepare.run import prepare
from hrnet.data.shards import open_dataset
from hrnet.data.synthetic import synthesise
from hrnet.events import Event
from hrnet.model.norm import synchronise_batch_norm
from hrnet.model.segmentor import build_model
from hrnet.training.loop import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # another release of torch than the locked one may warn of other things
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    synthesise("cityscapes", folder / "native", train=8, val=3, size=(128, 256), seed=3)
    prepare(folder / "native", folder / "cityscapes", dataset="cityscapes", partial=True)
    return folder / "cityscapes"


@pytest.fixture(scope="module")
def small() -> Recipe:
    changes = {
        "pretrained": "none", "crop": "64x128", "train_scale": "256x128", "test_scale": "256x128", "max_iters": "8",
        "val_interval": "8", "checkpoint_interval": "4", "log_interval": "1", "lr": "0.001", "ms_flip": "false",
    }  # fmt: skip
    return recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024").with_overrides(changes)


def losses(events: list[Event]) -> list[float]:
    return [event.metrics["train/loss"] for event in events if event.kind == "progress"]


@pytest.mark.parametrize("width", WIDTHS)
def test_logits_equal_those_of_the_cpu(width: Width) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = build_model(width, 19, seed=1).eval()
    x = torch.randn(2, 3, 97, 131, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = model(x)
        found = model.cuda()(x.cuda()).cpu()
    assert (found - expected).abs().max() < 1e-4 * expected.std()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_resumes(small: Recipe, data: Path, tmp_path: Path, precision: str) -> None:
    chosen = small.with_overrides({"precision": precision})
    whole = []
    for event in train(chosen, open_dataset(data), seed=1, loader_processes=2):
        whole.append(event)
        if event.save is not None and event.step == 4:
            event.save(tmp_path)
    rest = list(train(chosen, open_dataset(data), seed=1, resume=tmp_path))
    assert len(losses(whole)) == 8
    assert losses(rest) == pytest.approx(losses(whole)[4:], rel=0.02)


def test_the_gang_norm_is_torchs_own(tmp_path: Path) -> None:
    distributed.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        model = synchronise_batch_norm(build_model("w18-small", 19, seed=1).cuda())
        assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules()) == 145
        assert model(torch.randn(2, 3, 64, 64, device="cuda")).shape == (2, 19, 16, 16)
    finally:
        distributed.destroy_process_group()
