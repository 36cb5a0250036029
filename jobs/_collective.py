"""One sum over several processes with PyTorch, as the workers of a gang make it: the doctor tries it on a cluster."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

__all__ = ["all_reduce"]

_NUMBERS = 1 << 20
"""Float32 numbers per sum: 4 MB, a bucket of gradients."""


def all_reduce(rank: int, members: int, address: str, port: int, gpu: bool, seconds: float) -> dict[str, Any]:
    """Add a vector of ones over all members; returns the sum that stands everywhere in the result, the milliseconds
    of the second addition (the first connects) and the backend. Raises what torch.distributed raises."""
    import torch
    from torch import distributed

    backend, device = ("nccl", torch.device("cuda", 0)) if gpu else ("gloo", torch.device("cpu"))
    distributed.init_process_group(
        backend,
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=members,
        timeout=timedelta(seconds=seconds),
    )
    try:
        for _ in range(2):
            ones = torch.ones(_NUMBERS, device=device)
            began = time.perf_counter()
            distributed.all_reduce(ones)
            lowest, highest = float(ones.min()), float(ones.max())
            took = 1e3 * (time.perf_counter() - began)
    finally:
        distributed.destroy_process_group()
    return {"sum": lowest if lowest == highest else -1.0, "milliseconds": took, "backend": backend}
