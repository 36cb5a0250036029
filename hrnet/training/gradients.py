"""Gradients averaged over a gang, so that a training that resumes goes on bit for bit."""

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from hrnet.training.gang import Gang

__all__ = ["averaged"]


def averaged(model: nn.Module, gang: Gang) -> nn.Module:
    """Wrap a model so that `backward` leaves the mean of the gang's gradients; every worker must call this.

    torch packs gradients into buckets and packs them anew after the first iteration, and gloo adds the shares of more
    than two workers in an order that depends on the place within a bucket. The first iteration after a restart would
    then be rounded otherwise than without the restart, so on CPUs the shares are added in the order of the ranks,
    wherever they lie. Of two shares there is only one sum. GPUs, whose kernels repeat no bits anyway, use NCCL's sums.
    """
    parallel = DistributedDataParallel(model, broadcast_buffers=False)
    if gang.world > 2 and gang.device.type == "cpu":
        parallel.register_comm_hook(gang.world, _mean_by_rank)
    return parallel


# torch compares these annotations with its own types, so they must not be postponed to strings.
def _mean_by_rank(
    world: int,
    bucket: distributed.GradBucket,  # type: ignore[name-defined]  # torch's stubs lack this name
) -> torch.futures.Future[Tensor]:
    own = bucket.buffer()
    shares = [torch.empty_like(own) for _ in range(world)]
    gathering = distributed.all_gather(shares, own, async_op=True)
    assert gathering is not None

    def mean(_: object) -> Tensor:
        total = shares[0]
        for share in shares[1:]:
            total.add_(share)
        return total.div_(world)

    future: torch.futures.Future[Tensor] = gathering.get_future().then(mean)
    return future
