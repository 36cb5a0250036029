"""Download a file once, safely: resumed where it broke off, checked against its hash, complete or absent."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from hrnet.errors import WeightsError

__all__ = ["cache_folder", "check_sha256", "fetch", "is_url", "name_hash", "reachable"]

_CHUNK = 1 << 20
_TRIES = 5
_TIMEOUT_SECONDS = 30.0
_PROBE_SECONDS = 10.0


def is_url(source: str) -> bool:
    """Whether a source is fetched over http or https rather than read from disk."""
    return urlsplit(source).scheme in ("http", "https")


def name_hash(uri: str) -> str | None:
    """Return the eight digits of SHA-256 that a published file's name ends with (`...-b5a04e21.pth`), if it does."""
    found = re.search(r"-([0-9a-f]{8})\.pth$", urlsplit(uri).path)
    return found[1] if found else None


def cache_folder() -> Path:
    """Return where fetched weights stay: `$HRGRID_CACHE`, else `hrgrid` in the user's cache folder."""
    if own := os.environ.get("HRGRID_CACHE"):
        return Path(own) / "weights"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hrgrid" / "weights"


def check_sha256(path: Path, prefix: str) -> None:
    """Raise `WeightsError` if the file's SHA-256 does not begin with `prefix`."""
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}; check the path")
    actual = _sha256(path)
    if not actual.startswith(prefix.lower()):
        raise WeightsError(f"{path} has the SHA-256 {actual[:16]}..., expected {prefix}...; fetch it again")


def fetch(uri: str, cache_dir: str | Path, sha256_prefix: str | None = None) -> Path:
    """Return the local copy of an http(s) file, downloaded into `cache_dir` unless it is there already.

    A broken connection is continued where it broke off, up to five times within a call; with a hash to check the
    result against, the next call continues too. Processes that fetch the same file wait for the first one. A file that
    does not match its hash is deleted. Raises `WeightsError`.
    """
    if not is_url(uri):
        raise WeightsError(f"cannot fetch {uri!r}: only http and https are known; give a path or such a URL")
    folder = Path(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    target = _target(uri, folder)
    if _is_good(target, sha256_prefix):
        return target
    partial = target.with_name(target.name + ".part")
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        # Whoever held the lock before may have finished the file meanwhile.
        if not _is_good(target, sha256_prefix):
            if sha256_prefix is None:
                file.truncate(0)
            _download(uri, file)
            _accept(uri, partial, target, sha256_prefix)
    return target


def reachable(source: str) -> None:
    """Raise `WeightsError` unless a path exists, or a URL is in the cache folder or answered by its server."""
    if not is_url(source):
        if not Path(source).is_file():
            raise WeightsError(f"there is no weights file {source}; check the path")
        return
    if _target(source, cache_folder()).is_file():
        return
    try:
        urllib.request.urlopen(urllib.request.Request(source, method="HEAD"), timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise WeightsError(f"cannot fetch {source}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(f"cannot fetch {source}: {reason}; check the network, or give a file's path") from None


def _target(uri: str, folder: Path) -> Path:
    name = unquote(urlsplit(uri).path).rsplit("/", 1)[-1]
    if name in ("", ".", ".."):
        raise WeightsError(f"cannot fetch {uri!r}: it names no file")
    return folder / name


def _is_good(target: Path, prefix: str | None) -> bool:
    return target.is_file() and (prefix is None or _sha256(target).startswith(prefix.lower()))


def _accept(uri: str, partial: Path, target: Path, prefix: str | None) -> None:
    if prefix is not None and not (actual := _sha256(partial)).startswith(prefix.lower()):
        partial.unlink()
        raise WeightsError(f"{uri} has the SHA-256 {actual[:16]}..., expected {prefix}...; it was not kept")
    os.replace(partial, target)


def _download(uri: str, file: BinaryIO) -> None:
    for attempt in range(_TRIES):
        try:
            _transfer(uri, file)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                raise WeightsError(f"cannot fetch {uri}: the server answers {error.code} {error.reason}") from None
            reason: object = f"the server answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            reason = error.reason
        except (OSError, http.client.HTTPException) as error:
            reason = error
        if attempt + 1 < _TRIES:
            time.sleep(0.2 * 2**attempt)
    raise WeightsError(f"cannot fetch {uri}: {reason}; check the network, or fetch it by hand and give its path")


def _transfer(uri: str, file: BinaryIO) -> None:
    """Append the rest of the file; start over if the server cannot continue."""
    have = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(uri, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # What is here is the whole file, or longer than it; the hash decides, and a complete one passes.
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        error.close()
        if total == str(have):
            return
        file.truncate(0)
        answer = urllib.request.urlopen(uri, timeout=_TIMEOUT_SECONDS)
    with answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            file.truncate(0)
        expected = answer.headers.get("Content-Length")
        received = 0
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            received += len(chunk)
        file.flush()
    if expected is not None and received < int(expected):
        raise http.client.IncompleteRead(b"", int(expected) - received)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
