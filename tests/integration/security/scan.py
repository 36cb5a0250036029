"""Looking for secrets in files, also inside archives, databases and columnar files, also in other spellings."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

__all__ = ["Place", "Report", "scan"]


@dataclass(kw_only=True, slots=True)
class Place:
    """A folder that was looked through."""

    name: str
    files: int = 0
    bytes: int = 0
    """Of everything that was looked at, unpacked contents too."""
    found: list[str] = field(default_factory=list)
    """Secret and file, for what was found."""


@dataclass(kw_only=True, slots=True)
class Report:
    """All places of a scan."""

    places: list[Place] = field(default_factory=list)

    @property
    def found(self) -> list[str]:
        """All that was found."""
        return [entry for place in self.places for entry in place.found]

    def rows(self) -> list[tuple[str, ...]]:
        """Lines of a table."""
        return [(p.name, str(p.files), str(p.bytes), "; ".join(p.found) or "none") for p in self.places]


def scan(name: str, folder: Path, secrets: Mapping[str, str]) -> Place:
    """Look for secrets (what each is to its value) in every file below a folder."""
    needles = {what: tuple(_spellings(value)) for what, value in secrets.items()}
    place = Place(name=name)
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        place.files += 1
        seen = set()
        for where, content in _contents(str(path.relative_to(folder)), path.read_bytes()):
            place.bytes += len(content)
            seen |= {f"{what} in {where}" for what, forms in needles.items() if any(form in content for form in forms)}
        place.found += sorted(seen)
    return place


def _spellings(value: str) -> Iterator[bytes]:
    """As it is, in a URL, in JSON, and in base64 at each of the three places where it can begin."""
    raw = value.encode()
    yield from {raw, quote(value, safe="").encode(), quote(value).encode(), quote_plus(value).encode()}
    yield json.dumps(value)[1:-1].encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            coded = encode(bytes(before) + raw).rstrip(b"=")
            # The first and the last digits also hold bits of the neighbours.
            yield coded[-(-before * 8 // 6) : -1 if (before + len(raw)) % 3 else None]


def _contents(where: str, content: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, then what is packed in them."""
    yield where, content
    if depth == 3:
        return
    if content.startswith(b"\x1f\x8b"):
        with contextlib.suppress(OSError, EOFError):
            yield from _contents(f"{where}|gz", gzip.decompress(content), depth + 1)
    elif content.startswith(b"PK\x03\x04"):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from _contents(f"{where}|{name}", archive.read(name), depth + 1)
    elif content.startswith(b"\x78"):
        with contextlib.suppress(zlib.error):
            yield f"{where}|zlib", zlib.decompress(content)
    elif content.startswith(b"SQLite format 3\x00"):
        with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(content)
            yield f"{where}|sql", "\n".join(database.iterdump()).encode()
    elif content.startswith(b"PAR1"):
        import pyarrow.parquet as pq

        file = pq.ParquetFile(io.BytesIO(content))
        yield f"{where}|metadata", repr(file.schema_arrow.metadata).encode()
        for column in file.schema_arrow.names:
            chunks = file.read([column]).column(0).chunks
            yield f"{where}|{column}", b"".join(bytes(b) for chunk in chunks for b in chunk.buffers() if b is not None)
