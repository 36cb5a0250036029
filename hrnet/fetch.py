"""Weights from wherever they are named: a path, an http(s) URL or an S3 URI.

Remote files are downloaded once, safely: resumed where they broke off, checked against their hash, complete or absent.
`$HRGRID_WEIGHTS_MIRROR` names a server to ask in place of OpenMMLab's, for clusters without a way out.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from hrnet.errors import WeightsError
from hrnet.fields import name_hash, public

if TYPE_CHECKING:
    import pyarrow.fs as pafs

__all__ = [
    "cache_folder",
    "check_sha256",
    "fetch",
    "is_remote",
    "local_copy",
    "mirrored",
    "name_hash",
    "reachable",
    "sha256_of",
]

MIRROR = "HRGRID_WEIGHTS_MIRROR"
"""Environment variable: what stands in place of `PUBLISHER` in every URL."""
PUBLISHER = "https://download.openmmlab.com"

_CHUNK = 1 << 20
_TRIES = 5
_TIMEOUT_SECONDS = 30.0
_PROBE_SECONDS = 10.0


def is_remote(source: str) -> bool:
    """Whether a source is fetched (http, https or s3) rather than read from disk."""
    return source.lower().startswith(("http://", "https://", "s3://"))


def mirrored(uri: str) -> str:
    """Return where a URI is really asked for: OpenMMLab's below `$HRGRID_WEIGHTS_MIRROR` (URL, S3 URI or folder)."""
    mirror = os.environ.get(MIRROR)
    if mirror and uri.startswith(f"{PUBLISHER}/"):
        return mirror.rstrip("/") + uri.removeprefix(PUBLISHER)
    return uri


def cache_folder() -> Path:
    """Return where fetched weights stay: `$HRGRID_CACHE`, else `hrgrid` in the user's cache folder."""
    if own := os.environ.get("HRGRID_CACHE"):
        return Path(own) / "weights"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hrgrid" / "weights"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a local file in hexadecimal; raises WeightsError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise WeightsError(f"there is no weights file {path}; check the path") from None
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from None


def check_sha256(path: Path, prefix: str) -> None:
    """Raise `WeightsError` if the file's SHA-256 does not begin with `prefix`."""
    actual = sha256_of(path)
    if not actual.startswith(prefix.lower()):
        raise WeightsError(f"{path} has the SHA-256 {actual[:16]}..., expected {prefix}...; fetch it again")


def local_copy(source: str, sha256_prefix: str | None = None) -> Path:
    """Return a path that holds a source's content, fetched into the cache folder where it is remote.

    The hash that is given, or that the name of a remote file ends with, is verified. Raises `WeightsError`.
    """
    prefix = sha256_prefix or (name_hash(source) if is_remote(source) else None)
    source = mirrored(source)
    if is_remote(source):
        return fetch(source, cache_folder(), prefix)
    if prefix is not None:
        check_sha256(Path(source), prefix)
    return Path(source)


def fetch(uri: str, cache_dir: str | Path, sha256_prefix: str | None = None) -> Path:
    """Return the local copy of a remote file, downloaded into `cache_dir` unless the file of that hash is there.

    A broken connection is continued where it broke off, up to five times within a call; with a hash to check the
    result against, the next call continues too. Processes that fetch the same file wait for the first one. A file that
    does not match its hash is deleted. Without a hash nothing says that a file is still what it was: it is downloaded
    anew by every call, and kept apart by where it comes from. Raises `WeightsError`.
    """
    if not is_remote(uri):
        raise WeightsError(f"cannot fetch {uri!r}: only http, https and s3 are known; give a path or such a URL")
    target = _target(uri, Path(cache_dir), sha256_prefix)
    with _kept_in(cache_dir):
        target.parent.mkdir(parents=True, exist_ok=True)
        if _is_good(target, sha256_prefix):
            return target
        partial = target.with_name(target.name + ".part")
        with _locked(partial) as file:
            # Whoever held the lock before may have finished the file meanwhile.
            if not _is_good(target, sha256_prefix):
                if sha256_prefix is None:
                    file.truncate(0)
                _download(uri, file)
                _accept(uri, partial, target, sha256_prefix)
    return target


@contextmanager
def _locked(partial: Path) -> Iterator[BinaryIO]:
    """Open a file to append to it, for this process alone."""
    while True:
        with partial.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held the lock before may have renamed or deleted what was opened here.
            if partial.exists() and os.path.samestat(os.fstat(file.fileno()), partial.stat()):
                yield file
                return


@contextmanager
def _kept_in(folder: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"cannot keep fetched weights in {folder}: {error.strerror or error}; name another folder in $HRGRID_CACHE"
        ) from None


def reachable(source: str, sha256_prefix: str | None = None) -> None:
    """Raise `WeightsError` unless a path exists, or a remote file is in the cache folder or answered for."""
    prefix = sha256_prefix or name_hash(source)
    source = mirrored(source)
    if not is_remote(source):
        if not Path(source).is_file():
            raise WeightsError(f"there is no weights file {source}; check the path")
        return
    if _target(source, cache_folder(), prefix).is_file() and prefix is not None:
        return
    if source.startswith("s3://"):
        with _explained(source):
            _s3_size(*_s3(source))
        return
    try:
        urllib.request.urlopen(urllib.request.Request(source, method="HEAD"), timeout=_PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise WeightsError(f"cannot fetch {public(source)}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        told = f"cannot fetch {public(source)}: {reason}"
        raise WeightsError(f"{told}; check the network, or give a file's path") from None


def _target(uri: str, folder: Path, prefix: str | None) -> Path:
    try:
        if uri.startswith("http") and "@" in urlsplit(uri).netloc:
            told = f"cannot fetch {public(uri)}: user and password in an address are not taken"
            raise WeightsError(f"{told}; give a signed address, or fetch it by hand and give its path")
        name = unquote(urlsplit(uri).path).rsplit("/", 1)[-1]
    except ValueError as error:
        raise WeightsError(f"cannot fetch {public(uri)!r}: it is no URL ({error})") from None
    if name in ("", ".", "..") or not name.isprintable():
        raise WeightsError(f"cannot fetch {public(uri)!r}: it names no file")
    if prefix is None:
        # Nothing says that files of one name are one file.
        folder = folder / hashlib.sha256(uri.encode()).hexdigest()[:16]
    return folder / name


def _is_good(target: Path, prefix: str | None) -> bool:
    return prefix is not None and target.is_file() and sha256_of(target).startswith(prefix.lower())


def _accept(uri: str, partial: Path, target: Path, prefix: str | None) -> None:
    if prefix is not None and not (actual := sha256_of(partial)).startswith(prefix.lower()):
        partial.unlink()
        raise WeightsError(f"{public(uri)} has the SHA-256 {actual[:16]}..., expected {prefix}...; it was not kept")
    os.replace(partial, target)


def _download(uri: str, file: BinaryIO) -> None:
    if uri.startswith("s3://"):
        with _explained(uri):
            _transfer_s3(uri, file)
        return
    told = f"cannot fetch {public(uri)}"
    for attempt in range(_TRIES):
        try:
            _transfer(uri, file)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500:
                raise WeightsError(f"{told}: the server answers {error.code} {error.reason}") from None
            reason: object = f"the server answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            reason = error.reason
        except (OSError, http.client.HTTPException) as error:
            reason = error
        if attempt + 1 < _TRIES:
            time.sleep(0.2 * 2**attempt)
    raise WeightsError(f"{told}: {reason}; check the network, or fetch it by hand and give its path")


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


def _transfer_s3(uri: str, file: BinaryIO) -> None:
    """Append the rest of an object; start over if what is here is longer. pyarrow tries again by itself."""
    filesystem, path = _s3(uri)
    size = _s3_size(filesystem, path)
    if file.seek(0, os.SEEK_END) > size:
        file.truncate(0)
    with filesystem.open_input_file(path) as source:
        source.seek(file.seek(0, os.SEEK_END))
        while chunk := source.read(_CHUNK):
            file.write(chunk)
    file.flush()


def _s3(uri: str) -> tuple[pafs.FileSystem, str]:
    import pyarrow.fs as pafs

    filesystem, path = pafs.FileSystem.from_uri(uri)
    return filesystem, path


def _s3_size(filesystem: pafs.FileSystem, path: str) -> int:
    info = filesystem.get_file_info(path)
    if not info.is_file:
        raise FileNotFoundError("there is no such object")
    return int(info.size)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        told = f"cannot fetch {public(uri)}: {error}"
        raise WeightsError(f"{told}; check the name, the endpoint and the credentials") from None
