"""How the workers of a gang on one machine meet: through a file, not through a port that is open to the network."""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

__all__ = ["FileRendezvous"]


class _FileBackend(_TorchBackend):
    """Ray Train's own backend but for the place where the workers meet."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
        # New for every start: torch wants a file that is not there or empty.
        meeting = Path(backend_config.folder, f"rendezvous-{uuid.uuid4().hex}")
        worker_group.execute(_set_torch_distributed_env_vars)
        cluster: Any = ray
        cluster.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend,
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=f"file://{meeting}",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )


@dataclass
class FileRendezvous(TorchConfig):
    """torch's TCP store listens on every address and asks nobody for anything; its owner alone writes a file."""

    folder: str = dataclasses.field(kw_only=True)
    """A folder that all workers see, which outlives the gang."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Ray Train asks for it."""
        return _FileBackend
