"""Ray for one launch: a cluster that is there already, or a local one that ends with the launch."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from orchestrator.addresses import public
from orchestrator.errors import ClusterError, reason_of

__all__ = [
    "HEAD",
    "HEAD_PART",
    "LOCAL",
    "SLOTS",
    "connect",
    "has_token",
    "prepare_environment",
    "withhold_credentials",
]

SLOTS: Final = "hrgrid_slots"
"""The budget resource: one per worker that can run at once, declared on the head. A trial's driver asks for as many as
its gang has workers, so that no driver starts without its gang and none is placed on a machine that may vanish."""

HEAD: Final = "node:__internal_head__"
"""The resource by which Ray marks the head, 1 of it. A driver takes a part of it where there is no budget resource."""
HEAD_PART: Final = 0.0001

LOCAL: Final = "HRGRID_LOCAL_RAY"
"""Environment variable that tells the processes of a local Ray that it is one: without dashboard and state API."""

CREDENTIALS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
"""Environment variables that stay where they are."""

OBJECT_STORE_BYTES: Final = 200_000_000
PROBE_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)
_QUIET: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # A worker's report waits for the next health check, and so does the answer to a death.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}


def prepare_environment(*, local: bool) -> None:
    """Set what Ray reads from the environment when it is imported or started; what is set already stays.

    A local Ray gets a token of its own in the environment, so that nothing is written to the home folder, and its
    workers exchange gradients over the loopback interface.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if not local:
        return
    os.environ[LOCAL] = "1"
    _make_importable()
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Drivers, workers and what keeps a gang in step all import it; a process that waits for its work can do so before.
    os.environ.setdefault("RAY_preload_python_modules", "ray.train.v2._internal.execution.checkpoint.sync_actor")
    # gloo would listen on the address that the host's name resolves to, NCCL on the first one of the network.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback_interface())
    os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={_loopback_interface()}")
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is None and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = mode = "token"
    if mode in (None, "token") and not has_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _make_importable() -> None:
    """Let every Python process that starts from here on find this package; an installed one is found anyway."""
    root, known = str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")
    if not root.endswith("-packages") and root not in known.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, known)))


def connect(*, address: str | None, slots: int, cpus: int, gpus: int = 0) -> bool:
    """Initialise Ray; return True if this call started a local one, which then is the caller's to shut down.

    `address` or RAY_ADDRESS names a cluster; without either a local Ray with `slots`, `cpus` and `gpus` is started.
    Raises ClusterError in one sentence.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    local = address == "local"
    prepare_environment(local=local)
    import ray

    if ray.is_initialized():
        return False
    if not local:
        _probe(address)
    _silence()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if local:
        options |= {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "resources": {SLOTS: slots},
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        if local:
            _start(options)
        else:
            ray.init(address=address, **options)
    except Exception as error:
        reason = reason_of(error)
        where = "a local Ray" if local else f"the Ray cluster {address}"
        raise ClusterError(f"{where} cannot be reached or started ({reason})") from error
    return local


def _probe(address: str) -> None:
    """Raise ClusterError within seconds where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        return  # auto, or an address of Ray's client
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"the Ray cluster {address} does not answer ({reason_of(error)}); give the address that its head was "
            "started with, such as 10.0.0.1:6379"
        ) from None


def _start(options: dict[str, Any]) -> None:
    import ray

    with _on_loopback():
        try:
            ray.init(address="local", **options)
        except Exception:
            # Ray gives its own processes 30 seconds, which a busy machine may need for the first time alone.
            ray.shutdown()
            ray.init(address="local", **options)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that is started meanwhile live at 127.0.0.1, where all its servers then listen and nowhere else.

    On Linux Ray replaces that address by the one of the network, whoever asks for it, because a cluster may be meant;
    on macOS and Windows, where it makes no clusters, it does not. RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 says the same,
    but only to a Ray that has not been imported yet.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _loopback_interface() -> str:
    """Name of the loopback interface: "lo" on Linux, "lo0" on macOS."""
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), "lo")


def _silence() -> None:
    """Send what Ray's own processes tell the driver to logging; Ray prints it whatever `log_to_driver` says.

    Ray also keeps the command line of a driver, for everybody who may see the cluster: without its secrets.
    """
    from ray._private import utils, worker

    def to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
        for line in data.get("lines", ()):
            _log.info("%s: %s", data.get("pid"), line)

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = to_log
    if hasattr(utils, "get_entrypoint_name"):
        utils.get_entrypoint_name = lambda: public(shlex.join(sys.orig_argv))


def withhold_credentials() -> None:
    """Keep Ray Tune from handing AWS credentials of this process to the drivers of trials; for before a Tuner is made.

    They would stand in a runtime environment, which is on command lines, in Ray's logs and on the dashboard. Processes
    of a local Ray inherit them; the nodes of a cluster have their own. A local Ray's inherit everything else, too, and
    a driver without a runtime environment gets one of the processes that Ray has started ahead.
    """
    from ray.tune.execution import class_cache

    if os.environ.get(LOCAL):
        os.environ.update(class_cache.DEFAULT_ENV_VARS)
        class_cache.DEFAULT_ENV_VARS.clear()
        class_cache.ENV_VARS_TO_PROPAGATE.clear()
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(CREDENTIALS)


def has_token() -> bool:
    """Tell whether this machine holds a token for Ray clusters, in the environment or in Ray's own file."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()
