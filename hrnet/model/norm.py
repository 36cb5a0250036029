"""Batch normalisation over all workers of a gang, so that any number of workers is the same experiment."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

__all__ = ["GangBatchNorm2d", "synchronise_batch_norm"]

M = TypeVar("M", bound=nn.Module)
Group = distributed.ProcessGroup


def synchronise_batch_norm(model: M, process_group: Group | None = None) -> M:
    """Make every `BatchNorm2d` of a model take its statistics over the gang, in place; returns the model.

    Parameters, buffers and their names stay. On CUDA this is torch's SyncBatchNorm, which has no CPU version; on the
    CPU it is `GangBatchNorm2d`. Without a process group, or in one of a single worker, nothing changes.
    """
    if not distributed.is_initialized() or distributed.get_world_size(process_group) == 1:
        return model
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model, process_group)  # type: ignore[no-untyped-call]
        return model
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, GangBatchNorm2d(child, process_group))
    return model


class GangBatchNorm2d(nn.BatchNorm2d):
    """A `BatchNorm2d` that shares the parameters and buffers of another and normalises over the gang in training.

    Outputs, input gradients and running statistics equal those of one device with the whole batch, whatever each
    worker's share. Gradients of weight and bias are those of the worker's share, to be summed or averaged over the
    gang like any other parameter's.
    """

    def __init__(self, source: nn.BatchNorm2d, process_group: Group | None = None) -> None:
        # The parameters come from `source`; those made here are dropped at once and need no storage.
        super().__init__(source.num_features, source.eps, source.momentum, device="meta")
        self._parameters.update(source._parameters)
        self._buffers.update(source._buffers)
        self.process_group = process_group
        self.train(source.training)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N,C,H,W) over N, H, W and the gang in training, by the running statistics otherwise."""
        if not self.training:
            return super().forward(input)
        statistics = input.detach().to(self.weight.dtype)
        # The same sums as torch.var_mean over (N, H, W), which is slow in channels-last layout.
        mean, var = torch.batch_norm_update_stats(statistics, None, None, 0.0)
        count, mean, var = _over_gang(statistics.numel() // statistics.shape[1], mean, var, self.process_group)
        self._follow(mean, var * (count / max(count - 1, 1)))
        out: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, mean, var, count, self.eps, self.process_group
        )
        return out

    def _follow(self, mean: Tensor, unbiased_var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_var, self.momentum)
        self.num_batches_tracked.add_(1)


def _over_gang(count: int, mean: Tensor, var: Tensor, group: Group | None) -> tuple[float, Tensor, Tensor]:
    """Combine every worker's count, mean and biased variance by the parallel rule, which loses no digits."""
    own = torch.cat([mean.new_tensor([count]), mean, var])
    shares = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(shares, own, group=group)
    counts, means, variances = torch.split(torch.stack(shares), [1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    var = (counts * (variances + (means - mean).square())).sum(0) / total
    return float(total), mean, var


class _Normalise(torch.autograd.Function):
    """Normalise by given statistics; the gradient knows that these depend on every worker's input."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: float,
        eps: float,
        group: Group | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.count, ctx.eps, ctx.group = count, eps, group
        return functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous(memory_format=layout), x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([grad_weight, grad_bias])
        distributed.all_reduce(sums, group=ctx.group)
        # Above is the gradient with constant statistics, scale * grad; theirs takes away, over the whole gang,
        # scale * (mean(grad) + normalised x * mean(grad * normalised x)).
        invstd = (var + ctx.eps).rsqrt()
        slope = weight * invstd * invstd * sums[0] / ctx.count
        offset = slope * mean - weight * invstd * sums[1] / ctx.count
        # A normalisation with mean 0 and variance 1 is the fastest way to offset - slope * x per channel.
        grad_x += functional.batch_norm(x, torch.zeros_like(mean), torch.ones_like(var), -slope, offset, eps=0.0)
        return grad_x, grad_weight, grad_bias, None, None, None, None, None
