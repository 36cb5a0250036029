"""Fixtures shared by all tests: where the reference numbers and the real images are."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

# One thread per process: with as many spinning threads as cores, a test run beside anything else hardly moves.
os.environ["OMP_NUM_THREADS"] = "1"

if "HRGRID_CACHE" not in os.environ:
    # What commands under test remember of files is nothing for the cache of the person who runs the tests.
    os.environ["HRGRID_CACHE"] = tempfile.mkdtemp(prefix="hrgrid-test-cache-")
    atexit.register(shutil.rmtree, os.environ["HRGRID_CACHE"], ignore_errors=True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run started in the background of a script ignores Ctrl-C, and so would the commands under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _existing(path: Path, what: str) -> Path:
    if not path.is_dir():
        pytest.skip(f"{what} not found beside the checkout (shared/{path.relative_to(SHARED)})")
    return path


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """The numbers produced by the reference implementation."""
    return _existing(SHARED / "reference" / "parity", "reference numbers")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images, for research use only; never copied into the repository."""
    return _existing(SHARED / "data", "real images")
