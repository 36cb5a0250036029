"""Runs checks side by side, each within its time, and turns whatever happens into findings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from orchestrator.doctor.model import Answer, Check, Finding, Level, Nodes, findings
from orchestrator.errors import reason_of

__all__ = ["examine", "in_time"]

_MARGIN_SECONDS: Final = 5.0
"""A check that waits for others within its time tells of them itself; this much later it is given up."""

_CLEAN_SECONDS: Final = 10.0

_RAN: Final = "could not be carried out"


def examine(
    checks: Sequence[Check], nodes: Nodes, *, done: Callable[[Check, Sequence[Finding]], object] | None = None
) -> list[Finding]:
    """Carry out all checks at once and return their findings in the order of the checks; never raises but Ctrl-C.

    `done` is called, in this thread and that order, with each check that has ended and its findings. At the end, also
    of an interrupted examination, the machines are left alone and what the checks have left elsewhere is deleted.
    """
    running = [(check, in_time(partial(_carried_out, check, nodes))) for check in checks]
    began = time.monotonic()
    found: list[Finding] = []
    try:
        for check, result in running:
            told = result(began + check.seconds + _MARGIN_SECONDS - time.monotonic(), _late(check))
            found += told
            if done is not None:
                done(check, told)
        return found
    finally:
        nodes.close()
        for check, result in running:
            if check.clean is not None:
                result(_CLEAN_SECONDS, None)  # who is still writing writes no more when it has ended
                in_time(check.clean)(_CLEAN_SECONDS, None)


def in_time(work: Callable[[], Any]) -> Callable[[float, Any], Any]:
    """Start work in a thread that does not keep the process alive; return what waits for its value.

    That takes the seconds to wait at most and what stands for the value of work that has not ended or has raised.
    """
    values: list[Any] = []
    ended = threading.Event()

    def run() -> None:
        try:
            values.append(work())
        except Exception:
            values.clear()
        finally:
            ended.set()

    threading.Thread(target=run, name="hrgrid-doctor", daemon=True).start()

    def wait(seconds: float, otherwise: Any) -> Any:
        ended.wait(max(0.0, seconds))
        return values[0] if values else otherwise

    return wait


def _carried_out(check: Check, nodes: Nodes) -> list[Finding]:
    """Ask and judge; whoever has no facts, and whatever is raised, is a failure with a sentence."""
    try:
        answers = check.ask(nodes, check.seconds)
        mute = [answer for answer in answers if answer.error]
        judged = [answer for answer in answers if not answer.error]
        silent = _silent(check, mute) if mute else []
        told = check.judge(judged) if judged else []
        return [*silent, *(finding for finding in told if not silent or finding.level != "ok")]
    except Exception as error:
        said = f"the check {_RAN} ({type(error).__name__}: {reason_of(error)})"
        return [Finding(check=check.name, level="failed", said=said, fix="this is a defect of hrgrid: report it")]


def _silent(check: Check, mute: Sequence[Answer]) -> list[Finding]:
    about = f"{check.of}: " if check.of else ""
    problems: list[tuple[str, Level, str, str]] = [
        (answer.node.name, "failed", about + answer.error, _advice(answer.error)) for answer in mute
    ]
    return findings(check.name, problems, "")


def _late(check: Check) -> list[Finding]:
    said = f"{check.of or 'the check'} did not answer in {check.seconds:.0f} s"
    fix = "look whether the service or the nodes it asks hang, then try again"
    return [Finding(check=check.name, level="failed", said=said, fix=fix)]


def _advice(error: str) -> str:
    if "ModuleNotFoundError" in error:
        return "install hrgrid on the node, or run the doctor as a job: hrgrid submit doctor"
    return "look at the node: hrgrid's own log there, its load, or what the reason says; then try again"
