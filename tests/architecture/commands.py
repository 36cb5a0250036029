"""Commands in documents, held against what the program understands."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from jobs._command import CommandParser
from jobs.cli import COMMANDS
from jobs.submit import SUBMITTABLE


def check_words(words: Sequence[str]) -> None:
    """Fail unless `words` (the command's name, then its arguments) would be understood; runs nothing."""
    name, arguments = words[0], list(words[1:])
    assert name in COMMANDS, f"there is no command {name!r}"
    module = importlib.import_module(COMMANDS[name][0])
    parser = CommandParser(f"hrgrid {name}", module.HELP)
    module.add_arguments(parser)
    try:
        parsed = parser.parse_args(arguments)
    except Exception as error:
        raise AssertionError(f"hrgrid {' '.join(words)}: {error}") from error
    rest = getattr(parsed, "command", None)
    if name == "submit" and rest:
        assert rest[0] in SUBMITTABLE, f"hrgrid submit takes no {rest[0]!r}"
        check_words(rest)
