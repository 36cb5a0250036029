"""The classes of failure: for each whether a gang is started again, and what a person is told to do.

Pure: what Ray raises is brought to these classes in `orchestrator.judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["CLASSES", "FailureClass", "Policy", "advise", "classify", "first_line"]

Policy = Literal["never", "unless repeated", "while it progresses", "always"]
"""When a gang is started again: never; unless the same happens once more without a newer checkpoint in between; until
it has happened too often in a row without one; always."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureClass:
    """One kind of failure, and what follows from it."""

    policy: Policy
    """Whether the gang is started again."""

    advice: str
    """What the user can do, as a part of a sentence."""


CLASSES: Final[Mapping[str, FailureClass]] = {
    "out-of-memory": FailureClass(
        policy="never",
        advice="it was not tried again, as the same would happen: give the cell more workers (each then holds fewer "
        "samples of the batch) or more memory",
    ),
    "diverged": FailureClass(
        policy="never",
        advice="its checkpoints and evidence/diverged.json (the last losses and samples) are kept: look at them, then "
        "change the recipe or the data",
    ),
    "data": FailureClass(policy="never", advice="mend or replace what the message names in the data set"),
    "mistake": FailureClass(policy="never", advice="change what the message names"),
    "worker-lost": FailureClass(
        policy="while it progresses",
        advice="look for what ends its processes (the machine's kernel log, its memory, its other users)",
    ),
    "node-lost": FailureClass(
        policy="while it progresses", advice="look for what ends its machines, or launch on others"
    ),
    "preempted": FailureClass(policy="always", advice="nothing is to be done but to have a machine again"),
    "hang": FailureClass(
        policy="while it progresses",
        advice="logs/stacks-rank*.txt show where every thread of every worker stood",
    ),
    "storage": FailureClass(
        policy="while it progresses", advice="make the storage of results, or of data, reachable and writable again"
    ),
    "tracking": FailureClass(policy="never", advice="make the MLflow server or store reachable again"),
    "infeasible": FailureClass(
        policy="never", advice="add or repair machines, or ask for a smaller gang with --workers"
    ),
    "stopped": FailureClass(policy="never", advice="it was stopped on request"),
    "lease-lost": FailureClass(policy="never", advice="another launch trains it now"),
    "bug": FailureClass(
        policy="unless repeated", advice="the traceback is in its logs; report it if it is not your own code"
    ),
}  # fmt: skip
"""Name of a class, as `result.json` has it, to what it means."""


def classify(error: BaseException) -> str:
    """Return the class of an exception that a worker or a driver raised.

    A workload names it in the attribute `failure`; of others a ValueError is a user's mistake, told in a sentence.
    """
    named = getattr(error, "failure", None)
    if isinstance(named, str) and named in CLASSES:
        return named
    if isinstance(error, MemoryError):
        return "out-of-memory"
    return "mistake" if isinstance(error, ValueError) else "bug"


def advise(failure: str, step: int | None) -> str:
    """Return one sentence: what to do about a failure of a class, and where the same command then goes on.

    `step` is that of the newest checkpoint, None without any.
    """
    then = (
        "begins anew, as it has no checkpoint yet" if step is None else f"goes on from the checkpoint of step {step}"
    )
    return f"{CLASSES[failure].advice}; the same command {then}"


def first_line(error: BaseException) -> str:
    """Return an exception in one line; the sentence alone of one that is a sentence for people already."""
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
