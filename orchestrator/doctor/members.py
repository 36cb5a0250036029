"""Processes placed as a gang's workers are, for a check that needs several of them at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

from orchestrator.doctor.model import Machine, Probe
from orchestrator.workload import Json

__all__ = ["LocalMembers", "PlacedMembers", "told"]

_END_SECONDS: Final = 5.0


def told(probe: Probe) -> Mapping[str, Json]:
    """The `facts` of a probe, or the `error` for which there are none."""
    try:
        return {"facts": dict(probe())}
    except BaseException as error:  # a probe that leaves the process would take the others on its node with it
        lines = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__}


class LocalMembers:
    """Child processes of this one."""

    def __init__(self, machine: Machine, wanted: int, *, gpu: bool) -> None:
        self.machines: Sequence[Machine] = (machine,) * wanted
        self.wanted = wanted
        self.gpu = gpu
        context = multiprocessing.get_context("spawn")
        self._lines: list[Connection] = []
        self._processes = []
        for rank in range(wanted):
            near, far = context.Pipe()
            process = context.Process(target=_serve, args=(far, rank if gpu else None), daemon=True)
            process.start()
            far.close()
            self._lines.append(near)
            self._processes.append(process)

    def call(self, works: Sequence[Probe], seconds: float) -> list[Mapping[str, Json]]:
        """Let each do its work."""
        end, heard = time.monotonic() + seconds, []
        with contextlib.suppress(OSError):
            for line, work in zip(self._lines, works, strict=True):
                line.send(work)
        for line in self._lines:
            try:
                there = line.poll(max(0.0, end - time.monotonic()))
                heard.append(line.recv() if there else {"error": f"no answer in {seconds:.0f} s"})
            except (EOFError, OSError):
                heard.append({"error": "its process died"})
        return heard

    def close(self) -> None:
        """End the processes."""
        for line in self._lines:
            line.close()
        for process in self._processes:
            process.kill()
            process.join(_END_SECONDS)


def _serve(line: Connection, gpu: int | None) -> None:
    import os
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    with contextlib.suppress(EOFError, OSError):
        while True:
            line.send(told(line.recv()))


class PlacedMembers:
    """Actors in a placement group of their own: one per GPU packed, else one per node that has CPUs."""

    def __init__(self, nodes: Mapping[str, Machine], seconds: float) -> None:
        """`nodes`: machines by Ray's id; `seconds`: how long to wait for the place."""
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._ray: Any = ray
        gpus = int(sum(node.resources.get("GPU", 0.0) for node in nodes.values()))
        cpus = [node.resources["CPU"] for node in nodes.values() if node.resources.get("CPU", 0.0) >= 1]
        self.gpu = gpus > 0
        self.wanted = gpus or (len(cpus) if len(cpus) != 1 else min(2, int(cpus[0]))) or 1
        self.machines: Sequence[Machine] = ()
        self._actors: list[Any] = []
        bundle = {"GPU": 1.0} if gpus else {"CPU": 1.0}
        spread = not gpus and len(cpus) > 1
        self._place: Any = placement_group([bundle] * self.wanted, "STRICT_SPREAD" if spread else "PACK")
        if not self._place.wait(seconds):
            return
        actor, amounts = self._ray.remote(_Member), {"num_gpus": 1} if gpus else {"num_cpus": 1}
        for number in range(self.wanted):
            strategy = PlacementGroupSchedulingStrategy(self._place, placement_group_bundle_index=number)
            self._actors.append(actor.options(scheduling_strategy=strategy, **amounts).remote())
        ids = self._ray.get([member.node.remote() for member in self._actors], timeout=seconds)
        self.machines = tuple(nodes[each] for each in ids)

    def call(self, works: Sequence[Probe], seconds: float) -> list[Mapping[str, Json]]:
        """Let each do its work."""
        asked = [actor.call.remote(work) for actor, work in zip(self._actors, works, strict=True)]
        self._ray.wait(asked, num_returns=len(asked), timeout=seconds, fetch_local=False)
        heard: list[Mapping[str, Json]] = []
        for ref in asked:
            try:
                heard.append(self._ray.get(ref, timeout=0.1))
            except self._ray.exceptions.GetTimeoutError:
                heard.append({"error": f"no answer in {seconds:.0f} s"})
            except Exception as error:
                heard.append({"error": f"its process died ({type(error).__name__})"})
        return heard

    def close(self) -> None:
        """End the actors and give the place back."""
        from ray.util.placement_group import remove_placement_group

        for actor in self._actors:
            self._ray.kill(actor)
        remove_placement_group(self._place)


class _Member:
    def node(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def call(self, work: Probe) -> Mapping[str, Json]:
        return told(work)
