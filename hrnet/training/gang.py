"""The workers that train one model together: who I am, how many we are, and sums over all of us."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, distributed

__all__ = ["Gang"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gang:
    """This process's place among the workers; one worker where torch.distributed is not set up."""

    rank: int
    """0-based position of this worker; rank 0 writes files."""

    world: int
    """Number of workers."""

    device: torch.device
    """Where this worker computes."""

    @classmethod
    def current(cls) -> Gang:
        """The gang of the default process group, on the current CUDA device if there is one, else on the CPU."""
        device = (
            torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        )
        if distributed.is_available() and distributed.is_initialized():
            return cls(rank=distributed.get_rank(), world=distributed.get_world_size(), device=device)
        return cls(rank=0, world=1, device=device)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the workers, in place, and return it."""
        if self.world > 1:
            distributed.all_reduce(tensor)
        return tensor

    def gathered(self, tensor: Tensor) -> Tensor:
        """Stack the tensors of all workers, which have the same shape, by rank: (world, ...), on every worker."""
        if self.world == 1:
            return tensor[None].clone()
        shares = [torch.empty_like(tensor) for _ in range(self.world)]
        distributed.all_gather(shares, tensor)
        return torch.stack(shares)

    def largest(self, value: int) -> int:
        """The largest of a whole number over the workers."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.int64, device=self.device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return int(shared)
