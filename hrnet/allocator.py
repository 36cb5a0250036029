"""Memory of the CPU that is kept between steps instead of being given back to the system and asked for anew."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_blocks"]

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 1 << 25
"""Half of a heap's greatest size: glibc refuses a threshold above it."""


def keep_blocks() -> None:
    """Let the C library keep freed blocks of up to 32 MiB for the next step; does nothing where it is not glibc.

    By default large blocks are mapped from the system and unmapped when freed, so a training or an evaluation touches
    fresh pages, which the system must clear, all the time. The process then holds what it has needed most until it
    ends. What the environment sets (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`) is left as it is.
    """
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        return
    if not glibc or not glibc.startswith("glibc"):
        return
    mallopt = ctypes.CDLL(None).mallopt
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        mallopt(_TRIM_THRESHOLD, -1)  # never
