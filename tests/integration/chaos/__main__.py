"""`make chaos`: the long programs one after the other, each with its figures as text and JSON under test-results/."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.integration.chaos import showing

_HERE: Final = ("kills", "random_kills", "twice", "packing", "damage", "cost", "server_away", "relaunch", "elastic")
PROGRAMS: Final = {name: f"tests.integration.chaos.{name}" for name in _HERE} | {"hosts": "tests.integration.hosts"}
FOLDER: Final = Path("test-results") / "chaos"


def main(names: list[str]) -> int:
    """Run the programs named, or all; the number of those that failed is told, and makes the exit code."""
    unknown = set(names) - set(PROGRAMS)
    if unknown:
        print(f"no such program: {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    told = []
    for name in names or PROGRAMS:
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        code = _run(name)
        told.append((name, code, f"{time.monotonic() - began:.0f} s"))
    print(f"\n== figures are in {FOLDER}")
    for name, code, seconds in told:
        print(f"{name:14} {'passed' if code == 0 else f'FAILED ({code})':14} {seconds}")
    return 1 if any(code for _, code, _ in told) else 0


def _run(name: str) -> int:
    """Run a program, showing and keeping what it prints; one without figures in JSON has its lines there."""
    figures, began = FOLDER.resolve() / f"{name}.json", time.monotonic()
    figures.unlink(missing_ok=True)
    command = [sys.executable, "-u", "-m", PROGRAMS[name]]
    lines = []
    with (FOLDER / f"{name}.txt").open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            env={**os.environ, showing.FIGURES: str(figures)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            lines.append(line.rstrip())
        code = process.wait()
    if not figures.exists():
        seconds = round(time.monotonic() - began, 1)
        figures.write_text(json.dumps({"exit_code": code, "seconds": seconds, "lines": lines}, indent=1) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
