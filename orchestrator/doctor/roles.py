"""Checks of the head: the gang budget that it declares, and that nobody takes it away."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.doctor.model import Answer, Finding, Level, Machine, Nodes, findings
from orchestrator.workload import Json

__all__ = ["ask_head", "ask_roles", "judge_head", "judge_slots", "market"]


def ask_roles(nodes: Nodes, seconds: float) -> Sequence[Answer]:
    """What the cluster says of itself: resources and labels stand in each machine's description."""
    return [Answer(node=machine) for machine in nodes.machines]


def judge_slots(answers: Sequence[Answer], biggest: int) -> list[Finding]:
    """`biggest`: workers of the largest gang that the chosen recipes were published with."""
    from orchestrator.raystart import SLOTS

    machines = [answer.node for answer in answers]
    head = sum(machine.resources.get(SLOTS, 0.0) for machine in machines if machine.head)
    gpus = int(sum(machine.resources.get("GPU", 0.0) for machine in machines))
    cpus = int(sum(machine.resources.get("CPU", 0.0) for machine in machines))
    enough = gpus or cpus or 1
    fix = f"""start the head with --resources='{{"{SLOTS}": {enough}}}', the number of workers that run at once"""
    problems: list[tuple[str, Level, str, str]] = []
    for machine in machines:
        if not machine.head and machine.resources.get(SLOTS):
            said = f"{SLOTS} is declared on a node that is not the head: drivers of trials would run there"
            problems.append((machine.name, "failed", said, "declare it on the head alone"))
    if not head:
        problems.append(("", "failed", f"the head declares no {SLOTS}: no trial would ever start", fix))
    elif head < biggest:
        said = f"the head declares {head:g} {SLOTS}, less than the largest gang of {biggest}: it would be made smaller"
        few = "add nodes, or leave it at that: a smaller gang takes longer and computes the same"
        problems.append(("", "warning", said, few if enough < biggest else fix))
    elif head < gpus:
        said = f"the head declares {head:g} {SLOTS} for {gpus} GPUs: the others stay idle"
        problems.append(("", "warning", said, fix))
    return findings("gang budget", problems, f"{head:g} {SLOTS} on the head, the largest gang has {biggest}")


def market() -> dict[str, Json]:
    """Whether the cloud may take this machine away, by its own metadata service; None where there is none."""
    import os
    import urllib.error
    import urllib.request

    # The second is Google's; its name in place of the address would have to be resolved first.
    aws = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
    google = f"http://{os.environ.get('GCE_METADATA_HOST') or '169.254.169.254'}"

    def ask(url: str, headers: dict[str, str], method: str = "GET") -> str | None:
        # A proxy would answer for another machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(urllib.request.Request(url, headers=headers, method=method), timeout=1.0) as answer:
                return str(answer.read(200).decode())
        except (OSError, ValueError):
            return None

    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true":
        token = ask(f"{aws}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
        headers = {"X-aws-ec2-metadata-token": token} if token else {}
        kind = ask(f"{aws}/latest/meta-data/instance-life-cycle", headers)
        if kind is not None:
            return {"preemptible": kind != "on-demand", "kind": kind}
    taken = ask(f"{google}/computeMetadata/v1/instance/scheduling/preemptible", {"Metadata-Flavor": "Google"})
    return {"preemptible": None if taken is None else taken.strip() == "TRUE", "kind": "preemptible"}


def ask_head(nodes: Nodes, seconds: float) -> Sequence[Answer]:
    """Ask every node, and keep those that drivers of trials run on."""
    return [answer for answer in nodes.ask(market, seconds) if _drives(answer.node)]


def judge_head(answers: Sequence[Answer]) -> list[Finding]:
    """A spot node that is taken away would take the drivers of all trials with it."""
    problems: list[tuple[str, Level, str, str]] = []
    for answer in answers:
        label = answer.node.labels.get("ray.io/market-type", "")
        if answer.facts["preemptible"] or label in ("spot", "preemptible"):
            kind = answer.facts["kind"] if answer.facts["preemptible"] else label
            said = f"trials' drivers run on a node that may be taken away ({kind})"
            problems.append((answer.node.name, "failed", said, "take an on-demand machine as the head"))
    known = any(answer.facts["preemptible"] is not None for answer in answers)
    said = "an on-demand machine" if known else "no cloud says that it could be taken away"
    return findings("drivers' node", problems, said)


def _drives(machine: Machine) -> bool:
    from orchestrator.raystart import SLOTS

    return machine.head or bool(machine.resources.get(SLOTS))
