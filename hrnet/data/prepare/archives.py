"""The official archives without unpacking them: lists of zip and tar members that are read by random access.

A zip or plain tar archive is never unpacked: a member is found again by its offset, by any thread or process. A
compressed tar has no random access; `unpack` writes it out once.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hrnet.errors import DataError

__all__ = ["ARCHIVES", "COMPRESSED_TARS", "Member", "TarMember", "ZipMember", "is_hidden", "members", "unpack"]

COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
ARCHIVES = (".zip", ".tar", *COMPRESSED_TARS)
"""Ends of the file names that are taken for archives, in any case."""

_BLOCK = 1 << 20
_LOCAL_HEADER = 30
_ENCRYPTED = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ZipMember:
    """Where one file lies in a zip archive."""

    archive: Path
    """The archive."""

    offset: int
    """Position of the member's local header."""

    packed: int
    """Compressed size."""

    size: int
    """Size of the file."""

    crc: int
    """CRC-32 of the file."""

    method: int
    """Compression method of the zip format."""

    encrypted: bool
    """A password was set on it."""

    def read(self) -> bytes:
        """Return the file's content, checked against its CRC; raises DataError or OSError."""
        if self.encrypted:
            raise DataError("is encrypted; unpack the archive with its password first")
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            header = file.read(_LOCAL_HEADER)
            names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            file.seek(names, 1)
            packed = file.read(self.packed)
        if self.method == zipfile.ZIP_STORED:
            data = packed
        elif self.method == zipfile.ZIP_DEFLATED:
            data = _inflate(packed, self.size)
        else:
            raise DataError(f"is compressed by the zip method {self.method}, which is not read; unpack the archive")
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise DataError("is damaged (its CRC is another); download the archive again")
        return data


@dataclass(frozen=True, kw_only=True, slots=True)
class TarMember:
    """Where one file lies in an uncompressed tar archive."""

    archive: Path
    """The archive."""

    offset: int
    """Position of the content."""

    size: int
    """Size of the file."""

    def read(self) -> bytes:
        """Return the file's content; raises DataError or OSError."""
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise DataError("is cut off; download the archive again")
        return data


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file of an archive."""

    path: str
    """Path that it would be unpacked to."""

    mark: str
    """Differs whenever another file is stored there."""

    content: ZipMember | TarMember
    """How to read it."""


def members(archive: Path) -> Iterator[Member]:
    """List the files of a .zip or .tar archive, without hidden ones.

    Raises DataError for an archive that is damaged, cut off, or has a member that would lie outside its folder.
    """
    listed = _zip_members(archive) if archive.name.lower().endswith(".zip") else _tar_members(archive)
    return (member for member in listed if not is_hidden(member.path))


def unpack(archive: Path, target: Path) -> Iterator[str]:
    """Write the files of a compressed tar below `target`, yielding the path of each; raises DataError and OSError."""
    try:
        with tarfile.open(archive, "r|*") as tar:
            for info in tar:
                path = _safe(info.name, archive)
                if not info.isreg() or is_hidden(path):
                    continue
                source = tar.extractfile(info)
                assert source is not None
                file = target / path
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("wb") as out:
                    while block := source.read(_BLOCK):
                        out.write(block)
                yield path
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise _damaged(archive, error) from None


def is_hidden(path: str) -> bool:
    """Whether a file or one of its folders is hidden, or left by a Mac."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _zip_members(archive: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(archive) as file:
            infos = file.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise _damaged(archive, error) from None
    except OSError as error:
        raise DataError(f"cannot read {archive}: {error.strerror or error}") from error
    for info in infos:
        path = _safe(info.filename, archive)
        if info.is_dir():
            continue
        content = ZipMember(
            archive=archive,
            offset=info.header_offset,
            packed=info.compress_size,
            size=info.file_size,
            crc=info.CRC,
            method=info.compress_type,
            encrypted=bool(info.flag_bits & _ENCRYPTED),
        )
        yield Member(path=path, mark=f"{info.CRC:08x}", content=content)


def _tar_members(archive: Path) -> Iterator[Member]:
    offsets: dict[str, TarMember] = {}
    try:
        with tarfile.open(archive, "r:") as file:
            for info in file:
                path = _safe(info.name, archive)
                if info.isreg():
                    offsets[path] = TarMember(archive=archive, offset=info.offset_data, size=info.size)
                elif info.islnk() and (linked := offsets.get(_safe(info.linkname, archive))) is not None:
                    offsets[path] = linked
    except tarfile.TarError as error:
        raise _damaged(archive, error) from None
    except OSError as error:
        raise DataError(f"cannot read {archive}: {error.strerror or error}") from error
    for path, content in offsets.items():
        yield Member(path=path, mark=str(content.offset), content=content)


def _safe(name: str, archive: Path) -> str:
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", path):
        raise DataError(f"{archive} holds {name!r}, which would lie outside its folder; it is no official archive")
    return "/".join(parts)


def _inflate(packed: bytes, size: int) -> bytes:
    try:
        # The size is that of the archive's list: a member that unfolds to more is not read to its end.
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    except zlib.error as error:
        raise DataError(f"is damaged ({error}); download the archive again") from None


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(f"{archive} is cut off, damaged or no archive ({error}); download it again")
