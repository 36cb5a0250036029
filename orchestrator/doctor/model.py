"""What a doctor's check is made of: facts that nodes tell, a judgement, and the findings that a person reads.

A check asks (real conditions, seconds, may fail anywhere) and judges (pure, milliseconds). Probes run on nodes that
may lack this very package, and their functions travel by value: they import what they need when they run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from orchestrator.workload import Json

__all__ = [
    "Answer",
    "Check",
    "Finding",
    "Level",
    "Machine",
    "Members",
    "Nodes",
    "Probe",
    "everywhere",
    "findings",
    "sentence",
]

Level = Literal["ok", "warning", "failed"]

Probe = Callable[[], Mapping[str, Json]]
"""Runs on a node and returns JSON-able facts; whatever it raises becomes the answer's error."""

_NAMED: Final = 3
"""More nodes than these are counted in a sentence, not all named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A node, as the cluster describes it."""

    name: str
    """What a person calls it: its host name or, where that names several nodes, its address."""

    address: str = "127.0.0.1"
    """Where other nodes reach it."""

    head: bool = True
    """It runs the cluster's own servers, and with them the drivers of trials."""

    resources: Mapping[str, float] = field(default_factory=dict)
    """Ray's resources to their amounts: what the node promises."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Ray's labels of the node, such as ray.io/market-type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one node told when it was asked."""

    node: Machine
    """Who answers."""

    facts: Mapping[str, Json] = field(default_factory=dict)
    """What it found."""

    error: str = ""
    """Why there are no facts, the predicate of a sentence about the node; empty when there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the doctor."""

    check: str
    """Which check it is of."""

    level: Level
    """How bad it is."""

    said: str
    """What was found, with the values seen."""

    fix: str = ""
    """What to do; empty when nothing is to be done."""

    nodes: tuple[str, ...] = ()
    """The nodes it is about; empty: all, or none in particular."""

    def __str__(self) -> str:
        return f"{sentence(self)}{f'; {self.fix}' if self.fix else ''}"


class Members(Protocol):
    """Processes that are placed as the workers of a gang are."""

    @property
    def machines(self) -> Sequence[Machine]:
        """Where each of them is, by rank; empty when there was no place for them."""

    @property
    def wanted(self) -> int:
        """How many there should be."""

    @property
    def gpu(self) -> bool:
        """Each has a GPU of its own."""

    def call(self, works: Sequence[Probe], seconds: float) -> list[Mapping[str, Json]]:
        """Let each do its work, all at once; returns `facts` or `error` of each."""

    def close(self) -> None:
        """End them."""


class Nodes(Protocol):
    """The machines under examination: this one alone, or those of a Ray cluster."""

    @property
    def machines(self) -> Sequence[Machine]:
        """All of them, the head first."""

    def ask(self, probe: Probe, seconds: float) -> list[Answer]:
        """Run a probe on every machine at once; who has not answered in time is answered for, with an error."""

    def gang(self, seconds: float) -> Members:
        """Place one member per GPU, or where there is none one per node (two on a single machine)."""

    def close(self) -> None:
        """End what runs on them for the doctor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One question to the machines, and how its answers are judged."""

    name: str
    """One word or two."""

    ask: Callable[[Nodes, float], Sequence[Answer]]
    """Given the machines and the seconds that it may take."""

    judge: Callable[[Sequence[Answer]], Sequence[Finding]]
    """Given the answers that hold facts, at least one."""

    of: str = ""
    """The location that it is about, for who does not answer."""

    seconds: float = 30.0
    """After this time whoever has not answered has failed."""

    clean: Callable[[], None] | None = None
    """Takes back what asking has left somewhere; called once the machines are left alone."""


def everywhere(probe: Probe) -> Callable[[Nodes, float], Sequence[Answer]]:
    """Ask every machine the same."""

    def ask(nodes: Nodes, seconds: float) -> Sequence[Answer]:
        return nodes.ask(probe, seconds)

    return ask


def findings(check: str, problems: Iterable[tuple[str, Level, str, str]], ok: str) -> list[Finding]:
    """One finding per kind of problem, which are (node, level, sentence, fix); the finding `ok` where there is none.

    Nodes with the same problem share a line; an empty node is none in particular.
    """
    same: dict[tuple[Level, str, str], list[str]] = {}
    for node, level, said, fix in problems:
        same.setdefault((level, said, fix), []).append(node)
    if not same:
        return [Finding(check=check, level="ok", said=ok)]
    return [
        Finding(check=check, level=level, said=said, fix=fix, nodes=tuple(dict.fromkeys(filter(None, nodes))))
        for (level, said, fix), nodes in same.items()
    ]


def sentence(finding: Finding) -> str:
    """What was found, after the names of the nodes that it is about."""
    if not finding.nodes:
        return finding.said
    names = ", ".join(finding.nodes[:_NAMED])
    if len(finding.nodes) > _NAMED:
        names = f"{len(finding.nodes)} nodes ({names}, ...)"
    return f"{names}: {finding.said}"
