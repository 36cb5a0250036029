"""All workers of a gang take the same checkpoint: the newest one that is sound wherever it is read."""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

from orchestrator.checkpoints import Checkpoint, CheckpointStore, DamagedError
from orchestrator.patience import PATIENCE, patiently
from orchestrator.scratch import Scratch, scratch_path

__all__ = ["Gang", "RayGang", "same_checkpoint"]

_Value = TypeVar("_Value")


class Gang(Protocol):
    """What a worker of a gang can do together with the others. All call the same methods in the same order."""

    @property
    def rank(self) -> int:
        """Number of this worker in the gang."""

    @property
    def local_rank(self) -> int:
        """Number of this worker on its node."""

    @property
    def node(self) -> int:
        """Number of this worker's node; several may be on one machine."""

    def barrier(self) -> None:
        """Wait until all workers are here."""

    def broadcast(self, text: str) -> str:
        """Return the text that rank 0 gave; below a thousand bytes."""


class RayGang:
    """The gang of Ray Train that this process belongs to."""

    def __init__(self) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank, self.local_rank = int(context.get_world_rank()), int(context.get_local_rank())
        self.node = int(context.get_node_rank())

    def barrier(self) -> None:
        """Wait until all workers are here."""
        from ray.train.collective import barrier

        barrier()

    def broadcast(self, text: str) -> str:
        """Return the text that rank 0 gave."""
        from ray.train.collective import broadcast_from_rank_zero

        return str(broadcast_from_rank_zero(text))


def same_checkpoint(
    store: CheckpointStore,
    folder: Path,
    gang: Gang,
    *,
    say: Callable[[str], None],
    patience: float = PATIENCE,
) -> Checkpoint | None:
    """Download the newest sound checkpoint of a trial into a folder, the same one on every worker; None if none is.

    Rank 0 chooses. One worker of each node downloads and verifies, the others of the node take its files. A copy that
    is damaged on any node makes all of them take the checkpoint before. Waits up to `patience` seconds for a storage
    that is away, then raises StorageError.
    """
    gang.barrier()  # rank 0 has ended its uploads; without this another rank could look before that
    while True:
        place = f"{gang.broadcast(uuid.uuid4().hex)}-{gang.node}"
        scratch = Scratch("node", place) if gang.local_rank == 0 else None
        try:
            name = _chosen(store, scratch_path("node", place), gang, say, patience)
            if name is None:
                return None
            if name:
                return _taken(store, name, scratch_path("node", place), folder, gang)
        finally:
            if scratch is not None:
                scratch.close()


def _chosen(store: CheckpointStore, node: Path, gang: Gang, say: Callable[[str], None], patience: float) -> str | None:
    """Bring rank 0's choice to every node; return its name, "" if it is damaged somewhere, None if there is none."""

    def wait_for(job: Callable[[], _Value]) -> _Value:
        return patiently(f"worker {gang.rank} of trial {store.key}", job, say=say, seconds=patience)

    found = wait_for(lambda: store.latest(node)) if gang.rank == 0 else None
    name = gang.broadcast("" if found is None else found.name)
    if not name:
        if gang.rank == 0 and wait_for(store.names):
            say(f"trial {store.key} starts from the beginning: none of its checkpoints can be used")
        return None
    if gang.local_rank == 0 and gang.rank != 0:
        wait_for(lambda: _fetch_or_mark(store, name, node, say))
    gang.barrier()  # every node has its copy, or has marked the checkpoint
    sound = gang.rank == 0 and not wait_for(lambda: store.is_marked(name))
    return gang.broadcast(name if sound else "")


def _fetch_or_mark(store: CheckpointStore, name: str, folder: Path, say: Callable[[str], None]) -> None:
    try:
        store.fetch(name, folder)
    except DamagedError as error:
        say(f"checkpoint {name} of trial {store.key} is damaged on {socket.gethostname()} ({error})")
        store.mark(name, f"{error}, as read on {socket.gethostname()}")


def _taken(store: CheckpointStore, name: str, node: Path, folder: Path, gang: Gang) -> Checkpoint:
    """Give this worker names of its own for the files of its node."""
    target = folder / name
    try:
        shutil.rmtree(target, ignore_errors=True)
        if node.is_dir():
            shutil.copytree(node / name, target, copy_function=_link)
            return store.opened(name, folder)
        return store.fetch(name, folder)  # a node whose workers do not share a temporary folder
    finally:
        gang.barrier()  # before the folder of the node goes


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
