"""Three tables: what listens where, what answers without the token, where a planted secret was looked for.

`python -m tests.integration.security [ports] [refusals] [secrets]` (default: all three).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from jobs._show import print_table
from tests.integration.security import commands, planted, refusals
from tests.integration.security.head import head
from tests.integration.security.ports import listening


def show_ports(folder: Path) -> bool:
    """What each command that starts something listens on, on this machine alone."""
    rows, good = [], True
    for command, found in commands.watched(folder):
        for process, address in sorted({(port.process, port.address) for port in found}):
            rows.append((command, process, address))
        good = good and bool(found) and not any(port.beyond_loopback for port in found)
    print_table(("command", "process", "listens on"), rows)
    print(f"beyond loopback: {'none' if good else 'SOME'}")
    return good


def show_refusals(folder: Path) -> bool:
    """What a head with a token answers to who does not have it."""
    with head(folder) as running:
        good = _print_answers("dashboard", list(refusals.http_routes(running.dashboard, running.token)))
        good &= _print_answers("agent", list(refusals.http_routes(running.agent, running.token)))
        rows = []
        for port in sorted(listening(running.pid)):
            host = port.address if "." in port.address and not port.address.startswith(("::", "0.")) else "127.0.0.1"
            answers = list(refusals.grpc_methods(f"{host}:{port.port}", running.token))
            if answers:
                told = ", ".join(f"{count} {status}" for status, count in refusals.tally(answers).most_common())
                good &= not any("OK" in answer.statuses.values() for answer in answers)
            else:
                told = "no gRPC; " + ", ".join(
                    f"GET {path}: {refusals.ask('GET', f'http://{host}:{port.port}{path}', {})}"
                    for path in ("/", "/metrics")
                )
            rows.append((port.process, f"{port.address}:{port.port}", told))
        print()
        print_table(("process", "address", "answers without the token"), rows)
        print()
        answers = list(refusals.clients(running))
        print_table(("client", "no token", "wrong token", "token"), [(a.what, *a.statuses.values()) for a in answers])
        return good and all(
            answer.statuses["token"] == "in" and "in" not in (answer.statuses["none"], answer.statuses["wrong"])
            for answer in answers
        )


def _print_answers(name: str, answers: list[refusals.Answer]) -> bool:
    kinds = tuple(refusals.credentials("x"))
    rows = [
        (answer.what, *(answer.statuses.get(kind, "") for kind in kinds), "" if answer.refused else "answers")
        for answer in answers
    ]
    print(f"\n{name}")
    print_table(("route", *kinds, ""), rows)
    # A page that does not exist tells nothing.
    open_routes = {a.what for a in answers if not a.refused and "200" in a.statuses.values()}
    return open_routes <= refusals.HARMLESS


def show_secrets(folder: Path) -> bool:
    """Where planted secrets were looked for, and which were found."""
    report = planted.run(folder)
    print_table(("place", "files", "bytes", "found"), report.rows(), right={"files", "bytes"})
    return not report.found


PARTS: Final[Mapping[str, Callable[[Path], bool]]] = {
    "ports": show_ports, "refusals": show_refusals, "secrets": show_secrets,
}  # fmt: skip


def main() -> int:
    """Run the parts that are named; exit code 1 if anything is open or found."""
    good = True
    for name in sys.argv[1:] or PARTS:
        began = time.monotonic()
        print(f"\n== {name} ==", flush=True)
        with tempfile.TemporaryDirectory(prefix="hrgrid-security-") as folder:
            good &= PARTS[name](Path(folder))
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
