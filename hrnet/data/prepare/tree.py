"""A download as one tree of files, whether it is unpacked or still in its archives."""

from __future__ import annotations

import bisect
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType

from hrnet.data.prepare.archives import (
    ARCHIVES,
    COMPRESSED_TARS,
    TarMember,
    ZipMember,
    is_hidden,
    members,
    unpack,
)
from hrnet.errors import DataError

__all__ = ["File", "Tree", "open_tree"]

_UNPACKED = "complete"
"""File in a scratch folder that says that everything is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One file of a download; picklable, and read by any thread or process."""

    path: str
    """Posix path below the source; members of archives as if unpacked in their archive's folder."""

    size: int
    """In bytes."""

    stamp: str
    """Changes whenever the file is written again."""

    where: str
    """Path for messages; a member of an archive is `archive.zip!member`."""

    content: Path | ZipMember | TarMember = field(repr=False)
    """How to read it."""

    def read(self) -> bytes:
        """Return the content; raises DataError if the file is missing, unreadable, damaged or empty."""
        try:
            data = self.content.read_bytes() if isinstance(self.content, Path) else self.content.read()
        except FileNotFoundError:
            raise DataError(f"{self.where} does not exist") from None
        except OSError as error:
            raise DataError(f"cannot read {self.where}: {error.strerror or error}") from error
        except DataError as error:
            raise DataError(f"{self.where} {error}") from None
        if not data:
            raise DataError(f"{self.where} is empty (0 bytes); copy it again")
        return data


class Tree:
    """Read-only view of a download, or of a folder of it. A context manager that removes what was unpacked for it."""

    def __init__(self, source: Path, files: Mapping[str, File], folders: set[str]) -> None:
        self.source = source
        self.unpacked = False
        """Some of it lies unpacked in a scratch folder."""
        self._files = files
        self._paths = sorted(files)
        self._folders = {""} | folders | {parent for path in files for parent in _parents(path)}
        self._prefix = ""
        self._scratch = ExitStack()

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scratch.close()

    def get(self, path: str) -> File | None:
        """Return the file at a path, or None."""
        return self._files.get(self._prefix + path)

    def under(self, folder: str = "", suffix: str = "") -> list[File]:
        """Return all files below a folder whose names end in `suffix`, sorted by path; hidden ones are left out."""
        start = self._within(folder)
        first = bisect.bisect_left(self._paths, start)
        # "0" follows "/": the first path that is not below the folder.
        last = bisect.bisect_left(self._paths, f"{start[:-1]}0") if start else len(self._paths)
        return [self._files[path] for path in self._paths[first:last] if path.endswith(suffix)]

    def folders(self, folder: str = "") -> list[str]:
        """Return the names of the folders right below a folder, sorted."""
        start = self._within(folder)
        below = (path[len(start) :] for path in self._folders if path.startswith(start))
        return sorted(name for name in below if name and "/" not in name)

    def has(self, folder: str) -> bool:
        """Whether there is a folder at a path; it may be empty."""
        return self._within(folder)[:-1] in self._folders

    def rooted(self, folder: str) -> Tree:
        """Return the view of a folder."""
        tree = Tree.__new__(Tree)
        tree.__dict__.update(self.__dict__)
        tree._prefix = self._within(folder)
        return tree

    def locate(self, *paths: str) -> Tree | None:
        """Return the view of the topmost folder that holds all of these folders or files, itself included; or None."""
        return next(self.locate_all(*paths), None)

    def locate_all(self, *paths: str) -> Iterator[Tree]:
        """Yield the view of each folder that holds all of these folders or files, topmost first, itself included."""
        own = self._prefix[:-1]
        inside = [path for path in self._folders if path == own or path.startswith(self._prefix)]
        for path in sorted(inside, key=lambda path: (path.count("/") if path else -1, path)):
            tree = self.rooted(path[len(self._prefix) :])
            if all(tree.has(wanted) or tree.get(wanted) is not None for wanted in paths):
                yield tree

    def relative(self, file: File, folder: str = "") -> str:
        """Return the path of a file below a folder of this view."""
        return file.path.removeprefix(self._within(folder))

    def place(self, path: str = "") -> str:
        """Return where a path of this view lies, for messages."""
        return str(self.source / f"{self._prefix}{path}")

    def _within(self, folder: str) -> str:
        path = f"{self._prefix}{folder}".strip("/")
        return f"{path}/" if path else ""


def open_tree(source: Path, scratch: Path | None = None) -> Tree:
    """List a download: a folder (unpacked files, archives, or both) or one archive.

    Where a file is there twice, the unpacked one is taken. A compressed tar is written out once into a hidden folder
    below `scratch` (default: the system's temporary folder), which the tree removes when it is closed; what a killed
    run unpacked is used again. Raises DataError if there is no such source, an archive is damaged or has a member
    outside its folder, or the disk refuses.
    """
    with ExitStack() as stack:
        if source.is_dir():
            files, folders, archives = _walk(source)
        elif source.is_file() and source.name.lower().endswith(ARCHIVES):
            files, folders, archives = {}, set(), [("", source)]
        else:
            raise DataError(f"there is no folder or archive {source}")
        for folder, archive in archives:
            listed = _members(archive, folder, scratch or Path(tempfile.gettempdir()), stack)
            for file in listed:
                files.setdefault(file.path, file)
        tree = Tree(source, files, folders)
        tree.unpacked = any(archive.name.lower().endswith(COMPRESSED_TARS) for _, archive in archives)
        tree._scratch = stack.pop_all()
    return tree


def _walk(source: Path) -> tuple[dict[str, File], set[str], list[tuple[str, Path]]]:
    files: dict[str, File] = {}
    folders: set[str] = set()
    archives: list[tuple[str, Path]] = []

    def visit(folder: str, above: frozenset[tuple[int, int]]) -> None:
        with os.scandir(source / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    here = _identity(entry.stat())
                    # Links are followed, since people link data sets into place, and one set of images into two of
                    # them; a circle of links is not.
                    if here not in above:
                        folders.add(path)
                        visit(path, above | {here})
                elif entry.is_file():
                    if entry.name.lower().endswith(ARCHIVES):
                        archives.append((folder, source / path))
                    else:
                        files[path] = _plain(path, source / path, entry.stat())

    try:
        visit("", frozenset({_identity(source.stat())}))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or source}: {error.strerror or error}") from error
    return files, folders, archives


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _plain(path: str, file: Path, status: os.stat_result) -> File:
    return File(path=path, size=status.st_size, stamp=_stamp(status), where=str(file), content=file)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def _members(archive: Path, folder: str, scratch: Path, stack: ExitStack) -> Iterator[File]:
    try:
        stamp = _stamp(archive.stat())
    except OSError as error:
        raise DataError(f"cannot read {archive}: {error.strerror or error}") from error
    if archive.name.lower().endswith(COMPRESSED_TARS):
        unpacked = _unpacked(archive, stamp, scratch, stack)
        for file in _walk(unpacked)[0].values():
            yield _member(archive, folder, file.path, file.size, stamp, file.content)
        return
    for member in members(archive):
        mark = f"{stamp}-{member.mark}"
        yield _member(archive, folder, member.path, member.content.size, mark, member.content)


def _member(
    archive: Path, folder: str, path: str, size: int, stamp: str, content: Path | ZipMember | TarMember
) -> File:
    return File(
        path=f"{folder}/{path}" if folder else path,
        size=size,
        stamp=stamp,
        where=f"{archive}!{path}",
        content=content,
    )


def _unpacked(archive: Path, stamp: str, scratch: Path, stack: ExitStack) -> Path:
    """Write out a compressed tar, or find it written out by a run that was killed; removed when the stack closes."""
    name = hashlib.sha256(f"{archive.resolve()}\n{stamp}".encode()).hexdigest()[:16]
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        for number in count():
            folder = scratch / f".{archive.name}.unpacked-{name}-{number}"
            folder.mkdir(exist_ok=True)
            lock = stack.enter_context((folder / ".lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            break
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if not (folder / _UNPACKED).is_file():
            for _ in unpack(archive, folder / "files"):
                pass
            (folder / _UNPACKED).touch()
    except OSError as error:
        raise DataError(f"cannot unpack {archive} into {scratch}: {error.strerror or error}") from error
    return folder / "files"


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
