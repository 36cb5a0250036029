"""Spare processes for the workers of gangs: started, and filled with imports, before a gang needs them.

A new process takes seconds to import Ray, torch and MLflow. So the driver of a trial orders its gang's processes while
it is busy with its own start, and others once the gang has been at work for a while: those are for the gang that
follows, be it of the next trial or of this one after a worker has died. Ray gives a new worker whatever idle process
has the same runtime environment; a spare that is missing, late or dead costs time and nothing else.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.raystart import LOCAL

__all__ = ["SPARES", "Spares", "import_ahead", "worker_environment"]

AHEAD: Final = "HRGRID_IMPORT_AHEAD"
"""Environment variable of the workers of a gang: the modules to import before there is anything to do."""

PLATFORM: Final = ("orchestrator.gang", "orchestrator.recorder", "mlflow", "mlflow.store.tracking.sqlalchemy_store")
"""What every worker imports of the platform."""

AT_WORK_SECONDS: Final = 10.0
"""How long a gang has been at work before spares for the next one are ordered: their start takes its cores, and a
short training would be over by then."""

KEPT_SECONDS: Final = 3600
"""How long Ray keeps a spare that nobody takes."""

SPARE_GB: Final = 0.6
"""Main memory of a spare, most of it the code of libraries (0.45 was seen), with some reserve."""

_HOOK: Final = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Where a process of Ray finds the function that it is to call before anything else."""

_log = logging.getLogger(__name__)


def worker_environment(modules: Sequence[str]) -> dict[str, str]:
    """Environment variables by which a worker's process imports the platform's modules and these as soon as it is.

    None on a cluster, where Ray ends a process that does not find this module yet.
    """
    if not os.environ.get(LOCAL):
        return {}
    return {_HOOK: f"{__name__}.{import_ahead.__name__}", AHEAD: ",".join((*PLATFORM, *modules))}


def import_ahead() -> None:
    """Import what the environment names; Ray calls this in every new process of a gang."""
    for name in filter(None, os.environ.get(AHEAD, "").split(",")):
        try:
            importlib.import_module(name)
        except Exception as error:  # whoever needs it will say so
            _log.info("%s was not imported ahead: %s: %s", name, type(error).__name__, error)


class Spares:
    """The spares that this process has ordered, on its own machine. Only where Ray is local: a cluster's nodes start
    what they are told to, and a gang's machines are known only when it has its place."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.ready = 0
        """Ordered, and not taken by a gang yet."""
        self._timer: threading.Timer | None = None

    def order(self, number: int, modules: Sequence[str]) -> None:
        """Have so many spares that import these modules ahead; those that nobody took yet count."""
        if not os.environ.get(LOCAL):
            return
        with self._guard:
            missing = number - self.ready
            if missing <= 0 or not _has_room(missing):
                return
            try:
                _prestart(missing, modules)
                self.ready += missing
            except Exception as error:
                _log.info("no spares: %s: %s", type(error).__name__, error)

    def order_later(self, number: int, modules: Sequence[str]) -> None:
        """Order spares when the gang that takes the present ones now has been at work for a while."""
        with self._guard:
            self.ready = max(0, self.ready - number)
        self.cancel()
        self._timer = threading.Timer(AT_WORK_SECONDS, self.order, (number, modules))
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Order nothing later: the gang has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


SPARES: Final = Spares()
"""Those of this process, which drives one trial after the other."""


def _prestart(number: int, modules: Sequence[str]) -> None:
    """Ask Ray's server of this machine for processes with the runtime environment that workers will have.

    And for one without any, as the driver is, for the actor by which Ray Train keeps the workers in step.
    """
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc, runtime_environment_pb2
    from ray.runtime_env import RuntimeEnv
    from ray.train.v2._internal.constants import get_env_vars_to_propagate

    api: Any = ray
    context = api.get_runtime_context()
    node = next(node for node in api.nodes() if node["NodeID"] == context.get_node_id())
    worker: Any = {"env_vars": {**get_env_vars_to_propagate(), **worker_environment(modules)}}
    messages: Any = node_manager_pb2
    environments: Any = runtime_environment_pb2
    with init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}") as channel:
        stub: Any = node_manager_pb2_grpc.NodeManagerServiceStub(channel)  # type: ignore[no-untyped-call]
        for count, environment in ((number, RuntimeEnv(**worker)), (1, RuntimeEnv())):
            request = messages.PrestartWorkersRequest(
                job_id=bytes.fromhex(context.get_job_id()),
                num_workers=count,
                keep_alive_duration_secs=KEPT_SECONDS,
                # By this text Ray knows environments apart.
                runtime_env_info=environments.RuntimeEnvInfo(serialized_runtime_env=environment.serialize()),
            )
            stub.PrestartWorkers(request, timeout=10.0)


def _has_room(number: int) -> bool:
    """Tell whether spares would leave a quarter of the machine's memory available."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    gigabytes = {name: int(rest.split()[0]) * 1024 / 1e9 for name, _, rest in (line.partition(":") for line in lines)}
    return gigabytes["MemAvailable"] - number * SPARE_GB > gigabytes["MemTotal"] / 4
