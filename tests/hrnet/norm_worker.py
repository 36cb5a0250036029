"""One worker of a gang of two: python norm_worker.py RANK FOLDER. Writes what it computed to FOLDER/RANK.pt."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from hrnet.model.norm import synchronise_batch_norm
from hrnet.model.segmentor import build_model
from hrnet.training.loss import segmentation_loss


def chain() -> nn.Module:
    """Two normalisations in a row, so that a gradient passes through one into the other."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Tanh()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.2)
    return model


def batch(images: int = 3) -> tuple[Tensor, Tensor]:
    """Inputs far from zero mean, and the gradient that comes back to the outputs."""
    generator = torch.Generator().manual_seed(1)
    x = 5 + torch.randn(images, 3, 4, 5, generator=generator, dtype=torch.float64)
    return x, torch.randn(images, 4, 4, 5, generator=generator, dtype=torch.float64)


def segmentation() -> tuple[nn.Module, Tensor, Tensor]:
    """A whole network in float64 and a batch of two images of which one is half ignored."""
    generator = torch.Generator().manual_seed(2)
    model = build_model("w18-small", 3, seed=7).double()
    labels = torch.randint(0, 3, (2, 64, 64), generator=generator)
    labels[1, :32] = 255
    return model, torch.randn(2, 3, 64, 64, generator=generator, dtype=torch.float64), labels


def run_chain(model: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    y = model(x)
    y.backward(grad)
    gradients = {f"grad.{name}": p.grad for name, p in model.named_parameters()}
    return {"y": y.detach(), "grad_x": x.grad, **gradients, **model.state_dict()}


def run_network(model: nn.Module, forward: nn.Module, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    loss = segmentation_loss(forward(x), labels)[0]
    loss.backward()
    gradients = {f"grad.{name}": p.grad for name, p in model.named_parameters()}
    return {"loss": loss.detach(), **gradients, **dict(model.named_buffers())}


def main(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x, grad = batch()
    share = slice(0, 2) if rank == 0 else slice(2, 3)
    model = synchronise_batch_norm(chain())
    results = {"chain": run_chain(model, x[share], grad[share])}
    results["eval"] = {"y": model.eval()(x[share]).detach()}
    single = synchronise_batch_norm(chain().float())
    layout = x[share].float().to(memory_format=torch.channels_last)
    results["float32"] = run_chain(single, layout, grad[share].float())
    network, images, labels = segmentation()
    synchronise_batch_norm(network)
    parallel = nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)
    own = slice(rank, rank + 1)
    results["network"] = run_network(network, parallel, images[own], labels[own])
    torch.save(results, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
