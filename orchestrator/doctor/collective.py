"""The check of sums over a gang: processes placed as a gang's workers are reach each other, then add up numbers.

What adds up is handed in (it needs PyTorch). First every member tries to reach every other by TCP: a firewall between
two nodes is then named as that, in seconds, where a collective would only hang.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from orchestrator.doctor.model import Answer, Check, Finding, Level, Machine, Nodes, findings
from orchestrator.errors import reason_of
from orchestrator.workload import Json

__all__ = ["AllReduce", "collective_check", "judge_collective"]

AllReduce = Callable[[int, int, str, int, bool, float], Mapping[str, Json]]
"""Given rank, members, address and port of rank 0, whether on GPUs, seconds: adds 1 over all members, and returns
`sum`, `milliseconds` of one addition and `backend`; raises what goes wrong. Must be picklable."""

SECONDS: Final = 120.0
"""For the place of the gang, its processes and PyTorch's import (several seconds each on a busy machine)."""
REACH_SECONDS: Final = 3.0
REDUCE_SECONDS: Final = 40.0
PLACE_SECONDS: Final = 30.0


def collective_check(reduce: AllReduce) -> Check:
    """The whole check."""
    return Check(name="collective", ask=partial(_ask, reduce=reduce), judge=judge_collective, seconds=SECONDS)


def judge_collective(answers: Sequence[Answer]) -> list[Finding]:
    """Who cannot reach whom; else whose host name leads astray; else what the members said."""
    problems: list[tuple[str, Level, str, str]] = []
    members = [(answer.node.name, answer.facts) for answer in answers]
    if any(facts.get("busy") for _, facts in members):
        said = f"not tried: no place for a gang of {members[0][1]['members']} in {PLACE_SECONDS:.0f} s"
        return findings("collective", [("", "warning", said, "try again when no training uses the cluster")], "")
    names = {facts["address"]: name for name, facts in members}
    for name, facts in members:
        for address, reason in facts["unreached"].items():
            there = names.get(address, address)
            said = f"cannot reach {there} at {address} from its interface {facts['interface']} ({reason})"
            fix = "open all TCP ports between the nodes (security group, firewall), for the private addresses"
            problems.append((name, "failed", said, fix))
    if not problems:
        for name, facts in members:
            if facts["error"]:
                by = f"interface {facts['chosen'] or facts['interface']}, address {facts['address']}"
                problems.append((name, "failed", f"the gang could not add up ({by}): {facts['error']}", _fix(facts)))
            elif facts["sum"] != facts["members"]:
                said = f"a sum of ones over {facts['members']} members is {facts['sum']}"
                problems.append((name, "failed", said, "update the driver and its collective library"))
    if problems:
        return findings("collective", problems, "")
    first = members[0][1]
    slowest = max(facts["milliseconds"] for _, facts in members)
    where = "1 node" if len(names) == 1 else f"{len(names)} nodes"
    said = f"{first['members']} members on {where} add up by {first['backend']} in {slowest:.1f} ms"
    return [Finding(check="collective", level="ok", said=said)]


def _fix(facts: Mapping[str, Json]) -> str:
    if facts["chosen"]:
        return f"GLOO_SOCKET_IFNAME={facts['chosen']} must name an interface that the other nodes reach"
    return "name the interface that the nodes share: GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME before Ray starts"


def _ask(nodes: Nodes, seconds: float, *, reduce: AllReduce) -> Sequence[Answer]:
    members = nodes.gang(min(PLACE_SECONDS, seconds))
    try:
        if not members.machines:
            return [Answer(node=nodes.machines[0], facts={"busy": True, "members": members.wanted})]
        places = members.call([partial(_place, node.address) for node in members.machines], PLACE_SECONDS)
        known = [told["facts"] for told in places if "facts" in told]
        if len(known) < len(places):
            return [_joined(node, told) for node, told in zip(members.machines, places, strict=True)]
        addresses = {place["address"]: place["port"] for place in known}
        reached = members.call([partial(_reach, addresses)] * len(places), 3 * REACH_SECONDS)
        sums: list[Mapping[str, Json]] = [{"facts": {"error": ""}}] * len(places)
        if not any(told.get("facts", {}).get("unreached") for told in reached):
            given = (len(places), known[0]["address"], known[0]["store"], members.gpu, len(addresses) > 1)
            works = [partial(_reduced, reduce, rank, place["interface"], *given) for rank, place in enumerate(known)]
            sums = members.call(works, REDUCE_SECONDS + 10.0)
        return [_joined(node, *told) for node, *told in zip(members.machines, places, reached, sums, strict=True)]
    finally:
        members.close()


def _joined(node: Machine, *told: Mapping[str, Json]) -> Answer:
    facts: dict[str, Json] = {}
    for each in told:
        if "error" in each:
            return Answer(node=node, error=f"a member of the gang could not be asked ({each['error']})")
        facts |= each["facts"]
    return Answer(node=node, facts=facts)


def _place(address: str) -> dict[str, Json]:
    """The interface of this member's address, a port that answers for a while, a free one for the gang's store."""
    import os

    import psutil

    found = [name for name, given in psutil.net_if_addrs().items() if any(a.address == address for a in given)]
    listener = socket.create_server((address, 0))
    # The thread holds the listener, and the process ends with the check.
    threading.Thread(target=_accept, args=(listener,), name="hrgrid-reach", daemon=True).start()
    with socket.create_server((address, 0)) as free:
        store = free.getsockname()[1]
    return {
        "address": address, "interface": found[0] if found else "unknown", "port": listener.getsockname()[1],
        "store": store, "chosen": os.environ.get("GLOO_SOCKET_IFNAME", ""),
    }  # fmt: skip


def _accept(listener: socket.socket) -> None:
    with listener, contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def _reach(addresses: Mapping[str, int]) -> dict[str, Json]:
    """Which of the members' addresses refuse a connection or do not answer, and why."""
    unreached: dict[str, str] = {}

    def attempt(address: str, port: int) -> None:
        try:
            socket.create_connection((address, port), timeout=REACH_SECONDS).close()
        except OSError as error:
            unreached[address] = reason_of(error)

    threads = [threading.Thread(target=attempt, args=pair, daemon=True) for pair in addresses.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(REACH_SECONDS + 1.0)
    return {"unreached": unreached}


def _reduced(
    reduce: AllReduce, rank: int, interface: str, members: int, address: str, store: int, gpu: bool, spread: bool
) -> dict[str, Json]:
    """Add up with the others, over the interface that a gang's workers take."""
    import os

    if spread and interface != "unknown":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
    try:
        return {"error": "", "members": members, **reduce(rank, members, address, store, gpu, REDUCE_SECONDS)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {reason_of(error)}", "members": members}
