"""Run the commands of README, quickstart and tutorial as they are written there: `python -m tests.docs.run [PAGE...]`.

In a fresh checkout, page by page, in one shell: what a block exports holds for those after it. Prints a line per
command with its seconds; the output of each is in test-results/docs. Takes about a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.docs.blocks import PAGES, ROOT, Block, blocks, shape
from tests.docs.exceptions import ENDS_OTHERWISE
from tests.docs.stage import Stage
from tests.integration import children

RESULTS = ROOT / "test-results" / "docs"

FOREGROUND = re.compile(r"(make ui|hrgrid ui|hrgrid serve)\b")
"""Commands that go on until Ctrl-C, and print an address that answers."""

LIMIT = 1800.0
"""Seconds that a command may take."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What became of one command."""

    page: str
    command: str
    code: int
    seconds: float
    output: str
    wrong: str
    """Why this is not what the page promises; empty when it is."""


class Shell:
    """One shell's life: every command is a process of its own that takes over the environment of the one before."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._exported = stage.folder / "exported.sh"
        self._exported.write_text("")

    def start(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command with its output in a file."""
        # What the stage has started since is not known to the shell yet.
        known = "".join(f"export {name}={shlex.quote(v)}\n" for name, v in self._stage.new_variables().items())
        keep = f"code=$?; export -p > {shlex.quote(str(self._exported))}; exit $code"
        script = f". {shlex.quote(str(self._exported))}\n{known}{command}\n{keep}"
        with log.open("wb") as file:
            return subprocess.Popen(
                ["bash", "-c", script], cwd=self._stage.checkout, env=self._stage.environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def run(self, command: str, log: Path) -> int:
        """Run a command to its end."""
        process = self.start(command, log)
        try:
            return process.wait(LIMIT)
        finally:
            children.end(process)

    def visit(self, command: str, log: Path) -> tuple[int, str]:
        """Start a command that stays, ask the address it prints, and end it with Ctrl-C; its code, what is wrong."""
        process = self.start(command, log)
        try:
            children.wait_for(
                lambda: _address(log) is not None or process.poll() is not None, 120, f"{command} starts"
            )
            address = _address(log)
            if address is None:
                return process.wait(), "it ended and printed no address"
            with urllib.request.urlopen(address, timeout=60) as answer:
                wrong = "" if answer.status == 200 else f"{address} answers {answer.status}"
            os.killpg(process.pid, signal.SIGINT)
            return process.wait(60), wrong
        finally:
            children.end(process)


def _address(log: Path) -> str | None:
    found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
    return None if found is None else found[0]


def run_page(page: str, stage: Stage, shell: Shell, *, without: str, until: str, results: Path) -> list[Ran]:
    """Run the commands of a page, and look for the outputs that it shows in what was printed so far."""
    ran: list[Ran] = []
    for block in blocks(page):
        if until and any(command.startswith(until) for command in block.commands):
            break
        if block.file is not None:
            (stage.checkout / block.file).write_text(block.text)
        elif block.language == "sh":
            for command in block.commands:
                if without and re.match(without, command):
                    continue
                stage.prepare_for(command)
                number = f"{len(ran):02d}-{re.sub(r'[^a-z0-9]+', '-', command.lower())[:40].strip('-')}"
                ran.append(_ran(block, command, shell, results / f"{Path(page).stem}-{number}.txt"))
                print(_line(ran[-1]), flush=True)
        elif block.language == "text" and not without:
            ran.append(_promised(block, "\n".join(each.output for each in ran)))
            print(_line(ran[-1]), flush=True)
    return ran


def _ran(block: Block, command: str, shell: Shell, log: Path) -> Ran:
    began = time.monotonic()
    wrong = ""
    if FOREGROUND.match(command):
        code, wrong = shell.visit(command, log)
        # make tells of Ctrl-C by an exit code of its own, or dies of the signal once more.
        expected = (code if code in (0, 2, 130, -signal.SIGINT) and command.startswith("make") else 0, "")
    else:
        code = shell.run(command, log)
        plain = " ".join(command.split())
        expected = next((end for begin, end in ENDS_OTHERWISE.items() if plain.startswith(begin)), (0, ""))
    output = log.read_text()
    if code != expected[0]:
        wrong = f"exit code {code} instead of {expected[0]}"
    elif expected[1] not in output:
        wrong = f"it does not say {expected[1]!r}"
    return Ran(
        page=block.page, command=command, code=code, seconds=time.monotonic() - began, output=output, wrong=wrong
    )


def _promised(block: Block, output: str) -> Ran:
    """Whether every line of a block of output was printed before, whatever its numbers."""
    printed = set(shape(output))
    missing = [line for line in shape(block.text) if line not in printed]
    wrong = f"nothing printed {missing[0]!r}" if missing else ""
    return Ran(page=block.page, command=f"(output at line {block.line})", code=0, seconds=0.0, output="", wrong=wrong)


def _line(ran: Ran) -> str:
    state = f"WRONG: {ran.wrong}" if ran.wrong else "ok"
    return f"{ran.seconds:7.1f} s  {ran.code:3d}  {ran.page:20}  {' '.join(ran.command.split())}: {state}"


def run_pages(pages: list[str], *, without: str = "", until: str = "", results: Path = RESULTS) -> list[Ran]:
    """Run the commands of some pages in a checkout of their own.

    Not those that match the pattern `without`, and of a page only the blocks before the one with a command that begins
    with `until`. What each command printed is a file in `results`.
    """
    results.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {"without": without, "until": until, "results": results}
    with tempfile.TemporaryDirectory(prefix="hrgrid-docs-", ignore_cleanup_errors=True) as folder:
        stage = Stage(Path(folder))
        try:
            shell = Shell(stage)
            return [ran for page in pages for ran in run_page(page, stage, shell, **how)]
        finally:
            stage.end()


def main() -> int:
    """Run what the arguments name, else every page; exit code 1 if something was not as the page says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", default=list(PAGES), metavar="PAGE")
    parser.add_argument("--without", default="", metavar="PATTERN", help="leave out commands that begin so")
    args = parser.parse_args()
    ran = run_pages(args.pages, without=args.without)
    wrong = [each for each in ran if each.wrong]
    print(f"{len(ran)} commands and outputs in {sum(each.seconds for each in ran):.0f} s, {len(wrong)} not as written")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
