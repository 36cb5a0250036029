"""The shape of a cluster: how many workers run at once, on what, with how much memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import UsageError

__all__ = ["ClusterShape", "count", "parse_cluster"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterShape:
    """What gangs are cut from."""

    slots: int
    """Workers that can run at once: GPUs, or for kind CPU as many as the cluster shall run."""

    kind: Literal["CPU", "GPU"] = "CPU"
    """What a worker computes on."""

    cpus: int = 1
    """CPU cores of all nodes."""

    gpus: int = 0
    """GPUs of all nodes."""

    gpu_memory_gb: float | None = None
    """Memory of the smallest GPU in units of 1e9 bytes; None: unknown, and then not checked."""

    device: str | None = None
    """Name of the GPU or CPU, or a part of it such as `H100`; None: unknown."""

    rate: float | None = None
    """Speed of one worker in 1e9 multiply-accumulates per second, for cells that nothing was measured for."""

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise UsageError(
                f"a cluster of {self.slots} workers cannot train; add a node, or give at least one worker"
            )

    def __str__(self) -> str:
        if self.kind == "CPU":
            return f"{count(self.slots, 'worker')} on {count(self.cpus, 'CPU core')}"
        memory = "" if self.gpu_memory_gb is None else f" of {self.gpu_memory_gb:g} GB"
        return f"{count(self.gpus, 'GPU')}{memory} and {count(self.cpus, 'CPU core')}"


def parse_cluster(text: str) -> ClusterShape:
    """Parse a shape such as `cpus=4`, `gpus=8,memory=80` or `gpus=8,memory=80,cpus=96,kind=H100`; raises UsageError.

    `memory` is that of one GPU in GB; `workers` may say how many workers share the CPUs (default: one per core);
    `kind` is the GPU's name or a part of it, which chooses the measurements that estimates come from; `rate` is the
    speed of one worker in 1e9 multiply-accumulates per second, for what was never measured.
    """
    values: dict[str, float] = {}
    device = None
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name in values or (name == "kind" and device is not None):
            raise UsageError(f"the cluster {text!r} names {name!r} twice")
        if name == "kind" and value:
            device = value
        elif re.fullmatch(_FORMS.get(name, ""), value) and value:
            values[name] = float(value)
        else:
            raise UsageError(f"the cluster {text!r} is not like 'cpus=4' or 'gpus=8,memory=80,cpus=96' (at {part!r})")
    gpus, cpus, rate = int(values.get("gpus", 0)), int(values.get("cpus", 0)), values.get("rate")
    idle = "workers" if gpus else "memory"
    if idle in values and (gpus or cpus):
        reason = "a GPU has one worker" if gpus else "it is that of a GPU, and there is none"
        raise UsageError(f"the cluster {text!r} has no use for {idle!r}: {reason}; leave it out")
    if 0.0 in (rate, values.get("memory")):
        raise UsageError(f"the cluster {text!r} has a rate or a memory of 0; leave out what is not known")
    if gpus:
        memory, cpus = values.get("memory"), cpus or 4 * gpus
        return ClusterShape(
            slots=gpus, kind="GPU", cpus=cpus, gpus=gpus, gpu_memory_gb=memory, device=device, rate=rate
        )
    slots = int(values.get("workers", cpus))
    if not slots:
        raise UsageError(f"the cluster {text!r} has no GPU and no CPU; say for example 'cpus=4' or 'gpus=8'")
    return ClusterShape(slots=slots, cpus=cpus or slots, device=device, rate=rate)


_FORMS = {
    **dict.fromkeys(("cpus", "gpus", "workers"), r"\d+"),
    **dict.fromkeys(("memory", "rate"), r"\d+\.?\d*"),
}


def count(number: int, what: str) -> str:
    """Return `1 GPU`, `2 GPUs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
