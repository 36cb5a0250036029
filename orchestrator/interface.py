"""Which network interface the collectives of a gang on several machines go over.

gloo takes the address that the machine's own name stands for, which /etc/hosts often says is loopback, and NCCL takes
the first interface that is not, which may be that of a container's bridge: the gang then never comes together. The
address by which Ray knows a node is one that the other nodes reach, so its interface is the one to use.
"""

from __future__ import annotations

import logging
import os
from typing import Final

__all__ = ["choose_interface", "interface_of"]

_VARIABLES: Final = {"GLOO_SOCKET_IFNAME": "{}", "NCCL_SOCKET_IFNAME": "={}"}
"""Environment variable to the form of a name in it; NCCL takes a bare name for the beginning of one."""

_log = logging.getLogger(__name__)


def choose_interface() -> None:
    """Name the interface of this node's Ray address to gloo and NCCL, unless the environment names one already.

    Called on a worker before its gang's process group is made. A gang on one node needs no network, and is left alone.
    """
    import ray.train
    from ray.util import get_node_ip_address

    context = ray.train.get_context()
    if context.get_local_world_size() == context.get_world_size():
        return
    address = str(get_node_ip_address())  # type: ignore[no-untyped-call]
    name = interface_of(address)
    if name is None:
        _log.warning("no network interface of this machine has its Ray address %s; gloo and NCCL choose one", address)
        return
    for variable, form in _VARIABLES.items():
        os.environ.setdefault(variable, form.format(name))


def interface_of(address: str) -> str | None:
    """Return the name of this machine's interface that has an IP address, or None."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        # An IPv6 address of one link carries its interface behind a percent sign.
        if any(found.address.partition("%")[0] == address for found in addresses):
            return str(name)
    return None
