"""Where data is: a local path, or s3://bucket/prefix through pyarrow's file systems."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from hrnet.errors import DataAwayError, DataError

__all__ = ["cached", "contents", "folders", "is_local", "join", "read", "sha256_file", "staging", "upload"]

_BLOCK = 1 << 22


def is_local(uri: str) -> bool:
    """Whether `uri` is a path of this machine."""
    return "://" not in uri


def join(uri: str, name: str) -> str:
    """Return the location of `name` below `uri`."""
    return os.path.join(uri, name) if is_local(uri) else f"{uri.rstrip('/')}/{name}"


def read(uri: str, name: str) -> bytes | None:
    """Return a small file's content, or None if it is not there; raises DataError if it cannot be read."""
    try:
        if is_local(uri):
            file = Path(uri) / name
            return file.read_bytes() if file.is_file() else None
        filesystem, path = _filesystem(uri)
        if filesystem.get_file_info(f"{path}/{name}").type != pafs.FileType.File:
            return None
        with filesystem.open_input_stream(f"{path}/{name}") as stream:
            content: bytes = stream.read()
        return content
    except OSError as error:
        raise _unread(uri, f"cannot read {join(uri, name)}: {error}") from error


def folders(uri: str) -> list[str]:
    """Return the locations of the folders right below `uri`, by name, without hidden ones; none if it is no place."""
    try:
        if is_local(uri):
            below = Path(uri).iterdir() if Path(uri).is_dir() else ()
            # A hidden one may be a data set under construction, or one that was just replaced.
            return sorted(str(path) for path in below if path.is_dir() and not path.name.startswith("."))
        filesystem, path = _filesystem(uri)
        entries = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    except OSError as error:
        raise _unread(uri, f"cannot list {uri}: {error}") from error
    return sorted(join(uri, entry.base_name) for entry in entries if entry.type == pafs.FileType.Directory)


def contents(uri: str) -> list[str]:
    """Return the names of what lies right below `uri`, without hidden ones; in a remote location only of files.

    None if there is no such place. Raises DataError if it cannot be listed.
    """
    try:
        if is_local(uri):
            names = [path.name for path in Path(uri).iterdir()] if Path(uri).is_dir() else []
        else:
            filesystem, path = _filesystem(uri)
            entries = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
            names = [entry.base_name for entry in entries if entry.is_file]
    except OSError as error:
        raise _unread(uri, f"cannot list {uri}: {error}") from error
    return sorted(name for name in names if not name.startswith("."))


def cached(uri: str, name: str, sha256: str, key: str) -> Path:
    """Return a local, verified copy of the remote file `name` below `uri`.

    Copies are kept under $HRGRID_CACHE (default ~/.cache/hrgrid), apart by `key`. One process of a machine downloads,
    the others wait for it. Raises DataError if the file cannot be had or does not have the hash.
    """
    path = _cache() / "data" / key[:16] / name
    try:
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _download(uri, name, sha256, path)
    except OSError as error:
        raise _unread(uri, f"cannot bring {join(uri, name)} to {path}: {error}") from error
    return path


def upload(folder: Path, uri: str, *, last: str, progress: Callable[[int, int, str], None]) -> None:
    """Make a remote location hold the files of a local folder, and no others right below it.

    The file named `last` is removed first and written at the end, so that it is there only while all others are the
    ones it speaks of. `progress` is called after each file. Raises DataError if the location cannot be written.
    """
    filesystem, path = _filesystem(uri)
    files = sorted(folder.iterdir(), key=lambda item: (item.name == last, item.name))
    try:
        filesystem.create_dir(path, recursive=True)
        there = {entry.base_name for entry in filesystem.get_file_info(pafs.FileSelector(path)) if entry.is_file}
        for name in sorted(there - {file.name for file in files} | there & {last}, key=lambda name: name != last):
            filesystem.delete_file(f"{path}/{name}")
        for number, file in enumerate(files):
            with file.open("rb") as source, filesystem.open_output_stream(f"{path}/{file.name}") as target:
                while block := source.read(_BLOCK):
                    target.write(block)
            progress(number + 1, len(files), f"uploaded {file.name}")
    except OSError as error:
        raise DataError(f"cannot write the data set to {uri}: {error}") from error


def staging(uri: str) -> Path:
    """Return the folder of this machine's cache in which what is to be uploaded to a location is made."""
    return _cache() / "preparing" / hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    """Return the hex digest of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unread(uri: str, message: str) -> DataError:
    """The error for a location that could not be read: a remote one may answer at another time."""
    return DataError(message) if is_local(uri) else DataAwayError(message)


def _cache() -> Path:
    return Path(os.environ.get("HRGRID_CACHE") or Path.home() / ".cache" / "hrgrid")


def _filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{uri} is no location of data: {error}") from error
    return filesystem, path.rstrip("/")


def _download(uri: str, name: str, sha256: str, path: Path) -> None:
    filesystem, folder = _filesystem(uri)
    part = path.with_suffix(".part")
    with filesystem.open_input_stream(f"{folder}/{name}") as source, part.open("wb") as target:
        while block := source.read(_BLOCK):
            target.write(block)
    if sha256_file(part) != sha256:
        part.unlink()
        raise DataError(f"{join(uri, name)} does not have the hash of its manifest; upload the data set again")
    part.replace(path)
