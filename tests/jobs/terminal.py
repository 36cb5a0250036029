"""A Python process on a terminal of a given size, and what it showed there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

__all__ = ["on_terminal"]

ROOT = Path(__file__).resolve().parents[2]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(words: Sequence[str], *, columns: int, height: int, raw: bool = False, **environment: str) -> str:
    """Run `python WORDS` with stdout and stderr on a terminal; return what came, without colours unless `raw`.

    Raises AssertionError with that text when the exit code is not 0.
    """
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))
    dropped = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CI")
    known = {name: value for name, value in os.environ.items() if name not in dropped}
    settings = {**known, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **environment}
    shown = b""
    with subprocess.Popen([sys.executable, *words], stdin=inner, stdout=inner, stderr=inner, env=settings) as process:
        os.close(inner)
        try:
            while chunk := os.read(outer, 65536):
                shown += chunk
        except OSError:
            pass  # the terminal is gone with the process
    os.close(outer)
    text = shown.decode().replace("\r\n", "\n")
    assert process.returncode == 0, text
    return text if raw else ESCAPES.sub("", text)
