"""Hashes of files that did not change since they were last computed, on this machine, by whichever process.

A hash is kept in a small file below $HRGRID_CACHE (default ~/.cache/hrgrid), together with the file's size, inode and
times of its last changes; it holds as long as all of those are the same. So a launch of 45 cells on 20 GB of shards
reads them once, not 45 times, and the next launch not at all. `hrgrid data check` always computes anew.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path

from hrnet.data.location import cache_folder, sha256_file

__all__ = ["hash_of", "remember"]


def hash_of(path: Path, *, anew: bool = False) -> str:
    """Return the sha256 of a local file, remembered unless `anew`; raises OSError if it cannot be read."""
    seen = _seen(path)
    if anew:
        digest = sha256_file(path)
        _keep(_stamp(path), seen, digest)
        # This process may remember another one.
        _remembered.cache_clear()
        return digest
    return _remembered(path.absolute(), seen)


def remember(path: Path, digest: str) -> None:
    """Note the sha256 of a local file that was computed while it was written; raises OSError if it is not there."""
    _keep(_stamp(path), _seen(path), digest)


def _seen(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


@functools.lru_cache(maxsize=4096)
def _remembered(path: Path, seen: tuple[int, ...]) -> str:
    stamp = _stamp(path)
    try:
        kept = json.loads(stamp.read_bytes())
        if kept["seen"] == list(seen):
            return str(kept["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = sha256_file(path)
    _keep(stamp, seen, digest)
    return digest


def _stamp(path: Path) -> Path:
    return cache_folder() / "hashes" / f"{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]}.json"


def _keep(stamp: Path, seen: tuple[int, ...], digest: str) -> None:
    part = stamp.with_suffix(f".{os.getpid()}")
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"seen": seen, "sha256": digest}))
        part.replace(stamp)
    except OSError:
        # Without a cache that can be written every process computes for itself.
        with contextlib.suppress(OSError):
            part.unlink()
