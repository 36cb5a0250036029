"""Packing drawn files into the archives that the published data sets are downloaded as."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from hrnet.data.synthetic.files import Files

__all__ = ["Archive", "packed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """One archive of an official download."""

    name: str
    """Path of the archive; its suffix (.zip, .tar, .tgz) says how it is packed."""
    holds: str
    """Shell pattern of the layout's files that are in it; a star stands for folders too."""
    below: str = ""
    """Folder of the layout below which the names inside begin."""


def packed(files: Files, archives: Sequence[Archive]) -> Files:
    """Return the archives with their content; files that belong in none stay as they are.

    Times and owners inside are fixed, so that the same files give the same archives.
    """
    found: dict[Path, bytes] = {}
    rest = dict(files)
    for archive in archives:
        inside = [path for path in files if fnmatchcase(path.as_posix(), archive.holds)]
        names = {path.relative_to(archive.below).as_posix(): files[path] for path in inside}
        found[Path(archive.name)] = _zip(names) if archive.name.endswith(".zip") else _tar(names, archive.name)
        rest = {path: content for path, content in rest.items() if path not in inside}
    return {**found, **rest}


def _zip(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in names.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _tar(names: dict[str, bytes], archive_name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    plain = buffer.getvalue()
    return gzip.compress(plain, mtime=0) if archive_name.endswith(".tgz") else plain
