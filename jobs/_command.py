"""What every command shares: its parser, and the way from an error to an exit code.

Exit codes: 0 done, 1 not every cell is finished or something unexpected happened (with its traceback), 2 the user can
mend it (one sentence, no traceback), 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from hrnet.errors import HrnetError
from orchestrator.errors import OrchestratorError, UsageError

__all__ = ["FAILED", "INTERRUPTED", "MISUSED", "CommandParser", "add_step", "complain", "execute", "main_of"]

FAILED = 1
"""Exit code: not every cell is finished, or what was looked at is wrong."""

MISUSED = 2
"""Exit code: an input that the user can mend."""

INTERRUPTED = 130
"""Exit code: stopped by Ctrl-C (128 + SIGINT)."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one sentence with the near miss, and whose options are never cut."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise `UsageError` in place of printing the usage and leaving."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            message = f"{self.prog} knows no option {unknown.split()[0]!r}{self._near_option(unknown.split()[0])}"
        else:
            message = f"{self.prog}: {message}"
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _near_option(self, word: str) -> str:
        near = difflib.get_close_matches(word.split("=")[0], _options_of(self), n=1)
        return f"; did you mean {near[0]}?" if near else ""


def _options_of(parser: argparse.ArgumentParser) -> list[str]:
    known = [option for action in parser._actions for option in action.option_strings]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            known += [option for below in action.choices.values() for option in _options_of(below)]
    return known


def add_step(
    steps: argparse._SubParsersAction[argparse.ArgumentParser],
    command: str,
    name: str,
    text: str,
    action: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Add the subcommand `name` to a command; its action becomes `action` of the parsed arguments."""
    parser = steps.add_parser(name, prog=f"hrgrid {command} {name}", description=text, help=text)
    parser.set_defaults(action=action)
    return parser


def complain(message: str) -> None:
    """Print one `hrgrid: error: ...` line on stderr."""
    print(f"hrgrid: error: {message}", file=sys.stderr)


def execute(action: Callable[[], int]) -> int:
    """Run a command and turn what a user can mend into one sentence and exit code 2."""
    try:
        return action()
    except (HrnetError, OrchestratorError) as error:
        complain(str(error))
        return MISUSED
    except KeyboardInterrupt:
        print("hrgrid: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has left; writing the rest at exit would only complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def main_of(
    name: str,
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse a command's arguments and run it; returns the exit code."""

    def action() -> int:
        parser = CommandParser(f"hrgrid {name}", description)
        add_arguments(parser)
        return run(parser.parse_args(argv))

    return execute(action)
