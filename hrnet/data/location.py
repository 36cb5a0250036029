"""Where data is: a local path, or s3://bucket/prefix through pyarrow's file systems.

Endpoint, region and credentials are those of the standard AWS environment. They are looked up for every request anew,
and once more when a request is refused: credentials that expire while a training runs are replaced without it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from hrnet.errors import DataAwayError, DataError

__all__ = ["cache_folder", "contents", "download", "folders", "is_local", "join", "read", "sha256_file", "sizes",
           "staging", "upload"]  # fmt: skip

_BLOCK = 1 << 24
"""Bytes of one request for a part of a remote file."""

_AT_ONCE = 4
"""Files uploaded at a time."""

_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|ExpiredToken|HTTP status 40[013]"
)
"""How an answer begins that other credentials may change (expired ones are a 400 without a word in answer to HEAD)."""

T = TypeVar("T")


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
        return _asked(uri, functools.partial(_content, name))
    except OSError as error:
        raise _unread(uri, f"cannot read {join(uri, name)}", error) from error


def folders(uri: str) -> list[str]:
    """Return the locations of the folders right below `uri`, by name, without hidden ones; none if it is no place."""
    try:
        if is_local(uri):
            below = Path(uri).iterdir() if Path(uri).is_dir() else ()
            # A hidden one may be a data set under construction, or one that was just replaced.
            return sorted(str(path) for path in below if path.is_dir() and not path.name.startswith("."))
        entries = _asked(uri, _entries)
    except OSError as error:
        raise _unread(uri, f"cannot list {uri}", error) from error
    return sorted(join(uri, entry.base_name) for entry in entries if entry.type == pafs.FileType.Directory)


def contents(uri: str) -> list[str]:
    """Return the names of what lies right below `uri`, without hidden ones; in a remote location only of files.

    None if there is no such place. Raises DataError if it cannot be listed.
    """
    try:
        if is_local(uri):
            names = [path.name for path in Path(uri).iterdir()] if Path(uri).is_dir() else []
        else:
            names = list(_sizes(_asked(uri, _entries)))
    except OSError as error:
        raise _unread(uri, f"cannot list {uri}", error) from error
    return sorted(name for name in names if not name.startswith("."))


def sizes(uri: str) -> dict[str, int]:
    """Return the size in bytes of each file right below a remote location; raises DataError if it cannot be listed."""
    try:
        return _sizes(_asked(uri, _entries))
    except OSError as error:
        raise _unread(uri, f"cannot list {uri}", error) from error


def download(uri: str, name: str, file: Path, size: int, told: Callable[[int], None]) -> None:
    """Append to a local file what it lacks of the remote file `name` of `size` bytes, and bring it to disk.

    `told` is called with the number of bytes of each block, and may raise. Raises DataError if the remote file has
    another size or is not there, DataAwayError if it cannot be had, OSError if the local one cannot be written.
    """
    where = join(uri, name)
    with file.open("ab") as target:
        if target.tell() > size:
            target.truncate(0)

        def append(filesystem: pafs.FileSystem, path: str) -> None:
            with filesystem.open_input_file(f"{path}/{name}") as source:
                if source.size() != size:
                    raise DataError(f"{where} has {source.size()} bytes instead of {size}; upload the data set again")
                while (here := target.seek(0, os.SEEK_END)) < size:
                    source.seek(here)
                    block = source.read(min(_BLOCK, size - here))
                    try:
                        target.write(block)
                        target.flush()
                    except OSError as error:
                        raise _LocalError(error) from error
                    told(len(block))

        try:
            _asked(uri, append)
        except FileNotFoundError as error:
            raise DataError(f"{where} is missing; upload the data set again") from error
        except OSError as error:
            raise _unread(uri, f"cannot read {where}", error) from error
        except _LocalError as error:
            raise error.error from None
        os.fsync(target.fileno())


class _LocalError(Exception):
    """An error of this machine's disk, apart from those of the remote location."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


def upload(folder: Path, uri: str, *, last: str, progress: Callable[[int, int, str], None]) -> None:
    """Make a remote location hold the files of a local folder, and no others right below it.

    The file named `last` is removed first and written at the end, so that it is there only while all others are the
    ones it speaks of. `progress` is called after each file. Raises DataError if the location cannot be written.
    """
    files = sorted(folder.iterdir())

    def clear(filesystem: pafs.FileSystem, path: str) -> None:
        filesystem.create_dir(path, recursive=True)
        there = set(_sizes(filesystem.get_file_info(pafs.FileSelector(path))))
        for name in sorted(there - {file.name for file in files} | there & {last}, key=lambda name: name != last):
            filesystem.delete_file(f"{path}/{name}")

    try:
        _asked(uri, clear)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            futures = {pool.submit(_send, file, uri): file for file in files if file.name != last}
            try:
                for number, future in enumerate(as_completed(futures), 1):
                    future.result()
                    progress(number, len(files), f"uploaded {futures[future].name}")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        _send(folder / last, uri)
        progress(len(files), len(files), f"uploaded {last}")
    except OSError as error:
        raise DataError(f"cannot write the data set to {uri}: {_reason(error)}") from error


def _send(file: Path, uri: str) -> None:
    def send(filesystem: pafs.FileSystem, path: str) -> None:
        with file.open("rb") as source, filesystem.open_output_stream(f"{path}/{file.name}") as target:
            while block := source.read(_BLOCK):
                target.write(block)

    _asked(uri, send)


def cache_folder() -> Path:
    """Return this machine's folder for what can be had again: $HRGRID_CACHE, else ~/.cache/hrgrid."""
    return Path(os.environ.get("HRGRID_CACHE") or Path.home() / ".cache" / "hrgrid")


def staging(uri: str) -> Path:
    """Return the folder of this machine's cache in which what is to be uploaded to a location is made."""
    return cache_folder() / "preparing" / hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    """Return the hex digest of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unread(uri: str, what: str, error: OSError) -> DataError:
    """The error for a location that could not be read: a remote one may answer at another time."""
    return DataError(f"{what}: {error}") if is_local(uri) else DataAwayError(f"{what}: {_reason(error)}")


def _reason(error: OSError) -> str:
    """What a service or a disk says, and what a person can do about it."""
    text = str(error).rstrip(". ")
    if _REFUSED.search(text):
        return f"{text}; are the credentials of the AWS environment there, valid and allowed to do this?"
    if "NETWORK_CONNECTION" in text:
        return f"{text}; is the service up, and AWS_ENDPOINT_URL right?"
    return text


def _asked(uri: str, action: Callable[[pafs.FileSystem, str], T]) -> T:
    """Do something at a remote location; once more, with the credentials as they are then, if it is refused."""
    try:
        return action(*_filesystem(uri))
    except OSError as error:
        if not _REFUSED.search(str(error)):
            raise
    return action(*_filesystem(uri))


def _content(name: str, filesystem: pafs.FileSystem, path: str) -> bytes | None:
    if filesystem.get_file_info(f"{path}/{name}").type != pafs.FileType.File:
        return None
    with filesystem.open_input_stream(f"{path}/{name}") as stream:
        content: bytes = stream.read()
    return content


def _entries(filesystem: pafs.FileSystem, path: str) -> list[pafs.FileInfo]:
    found: list[pafs.FileInfo] = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    return found


def _sizes(entries: list[pafs.FileInfo]) -> dict[str, int]:
    return {entry.base_name: int(entry.size) for entry in entries if entry.is_file}


def _filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{uri} is no location of data: {error}") from error
    return filesystem, path.rstrip("/")
