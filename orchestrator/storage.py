"""Files under one location, a local folder or an S3 prefix, behind the same dozen operations.

The only module that talks to a storage service. A `Storage` holds nothing but its URI: credentials and endpoint come
from the standard AWS environment of whichever process uses it, so that no pickle ever carries a secret.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.errors import StorageError
from orchestrator.settings import absolute_uri
from orchestrator.workload import Json

if TYPE_CHECKING:
    from botocore.client import BaseClient

__all__ = ["Storage"]


@dataclass(frozen=True, slots=True)
class Storage:
    """A local folder or an `s3://bucket/prefix`. Paths given to methods are relative, with `/`."""

    uri: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", absolute_uri(self.uri))

    @property
    def is_local(self) -> bool:
        """True for a folder of this machine."""
        return "://" not in self.uri

    def child(self, path: str) -> Storage:
        """Return the storage of a folder below."""
        return Storage(f"{self.uri}/{path}")

    def read_bytes(self, path: str) -> bytes:
        """Return a file's content; raises StorageError when it is not there."""
        content = self.find_bytes(path)
        if content is None:
            raise StorageError(f"{self.uri}/{path} is not there")
        return content

    def find_bytes(self, path: str) -> bytes | None:
        """Return a file's content, or None when it is not there."""
        with self._explained("read", path):
            return self._backend.read(path)

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a file so that a reader sees the old content or the new, never a part."""
        with self._explained("write", path):
            self._backend.write(path, content)

    def read_json(self, path: str) -> Json:
        """Return a JSON file's value; raises StorageError when it is not there or no JSON."""
        return self._parsed(path, self.read_bytes(path))

    def find_json(self, path: str) -> Json | None:
        """Return a JSON file's value, or None when it is not there; raises StorageError when it is no JSON."""
        content = self.find_bytes(path)
        return None if content is None else self._parsed(path, content)

    def write_json(self, path: str, value: Json) -> None:
        """Write a value as indented JSON, atomically."""
        self.write_bytes(path, (json.dumps(value, indent=1) + "\n").encode())

    def exists(self, path: str) -> bool:
        """Tell whether a file (not a folder) is there."""
        with self._explained("read", path):
            return self._backend.exists(path)

    def list(self, path: str = "") -> list[str]:
        """Return the sorted names of files and folders directly below a folder; empty when there is none."""
        with self._explained("list", path):
            return sorted(self._backend.names(path))

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with everything below; nothing there is no error."""
        with self._explained("delete", path):
            self._backend.delete(path)

    def upload(self, local_dir: Path, path: str) -> None:
        """Copy every file below a local folder to a folder of this storage."""
        for file in sorted(p for p in local_dir.rglob("*") if p.is_file()):
            target = "/".join([path, *file.relative_to(local_dir).parts])
            with self._explained("write", target):
                self._backend.put_file(file, target)

    def download(self, path: str, local_dir: Path) -> None:
        """Bring every file below a folder of this storage to a local folder; raises StorageError when there is none.

        The files are for reading: on the disk of a local storage they are the same files under another name.
        """
        with self._explained("read", path):
            below = list(self._backend.walk(path))
            for name in below:
                target = local_dir.joinpath(*name.split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                self._backend.get_file(f"{path}/{name}", target)
        if not below:
            raise StorageError(f"{self.uri}/{path} is not there or empty")

    def create_exclusive(self, path: str, content: bytes) -> bool:
        """Write a file only if none is there; of several who try at once exactly one gets True."""
        with self._explained("write", path):
            return self._backend.create(path, content)

    def check(self) -> None:
        """Write, read and delete a marker; raises StorageError that names the location and the reason."""
        marker, content = f".hrgrid-check-{uuid.uuid4().hex[:12]}", b"hrgrid"
        self.write_bytes(marker, content)
        if self.read_bytes(marker) != content:
            raise StorageError(f"the storage {self.uri} does not give back what was written to it; take another one")
        self.delete(marker)

    @property
    def _backend(self) -> _Backend:
        return _Local(Path(self.uri)) if self.is_local else _S3(self.uri)

    def _parsed(self, path: str, content: bytes) -> Json:
        try:
            return json.loads(content)
        except ValueError as error:
            raise StorageError(f"{self.uri}/{path} is no JSON ({error}); delete or restore the file") from error

    @contextmanager
    def _explained(self, verb: str, path: str) -> Iterator[None]:
        where = f"{self.uri}/{path}" if path else self.uri
        if ".." in path.split("/") or path.startswith("/"):
            raise StorageError(f"cannot {verb} {where}: a path in a storage is relative and has no '..'")
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot {verb} {where}: {error.strerror or error}") from error
        except Exception as error:
            reason = _s3_reason(error, where)
            if reason is None:
                raise
            raise StorageError(f"cannot {verb} {where}: {reason}") from error


class _Backend(Protocol):
    def read(self, path: str) -> bytes | None: ...
    def write(self, path: str, content: bytes) -> None: ...
    def exists(self, path: str) -> bool: ...
    def names(self, path: str) -> set[str]: ...
    def walk(self, path: str) -> Iterator[str]: ...
    def delete(self, path: str) -> None: ...
    def put_file(self, file: Path, path: str) -> None: ...
    def get_file(self, path: str, file: Path) -> None: ...
    def create(self, path: str, content: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Local:
    root: Path

    def read(self, path: str) -> bytes | None:
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path: str, content: bytes) -> None:
        with self._replacing(path) as temporary:
            _write_synced(temporary, content)

    def exists(self, path: str) -> bool:
        return (self.root / path).is_file()

    def names(self, path: str) -> set[str]:
        try:
            return {name for name in os.listdir(self.root / path) if not name.startswith(".tmp-")}
        except FileNotFoundError:
            return set()

    def walk(self, path: str) -> Iterator[str]:
        folder = self.root / path
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.name.startswith(".tmp-"):
                yield file.relative_to(folder).as_posix()

    def delete(self, path: str) -> None:
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def put_file(self, file: Path, path: str) -> None:
        with self._replacing(path) as temporary, file.open("rb") as source, temporary.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 22)
            sink.flush()
            os.fsync(sink.fileno())

    def get_file(self, path: str, file: Path) -> None:
        # Checkpoints have hundreds of megabytes and nobody writes into one: a second name costs neither time nor disk.
        file.unlink(missing_ok=True)
        try:
            os.link(self.root / path, file)
        except OSError:
            shutil.copyfile(self.root / path, file)

    def create(self, path: str, content: bytes) -> bool:
        # A hard link is made only if the name is free, and the name never shows a half-written file.
        target = self._ready(path)
        temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            _write_synced(temporary, content)
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _ready(self, path: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @contextmanager
    def _replacing(self, path: str) -> Iterator[Path]:
        target = self._ready(path)
        temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _write_synced(file: Path, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@dataclass(frozen=True, slots=True)
class _S3:
    uri: str

    @property
    def bucket(self) -> str:
        return self.uri.removeprefix("s3://").split("/", 1)[0]

    def key(self, path: str) -> str:
        prefix = self.uri.removeprefix("s3://")[len(self.bucket) :]
        return f"{prefix}/{path}".strip("/")

    def read(self, path: str) -> bytes | None:
        try:
            content: bytes = _client().get_object(Bucket=self.bucket, Key=self.key(path))["Body"].read()
            return content
        except Exception as error:
            if _code(error) == "NoSuchKey":
                return None
            raise

    def write(self, path: str, content: bytes) -> None:
        _client().put_object(Bucket=self.bucket, Key=self.key(path), Body=content)

    def exists(self, path: str) -> bool:
        try:
            _client().head_object(Bucket=self.bucket, Key=self.key(path))
            return True
        except Exception as error:
            if _code(error) == "404":
                return False
            raise

    def names(self, path: str) -> set[str]:
        prefix, found = self._folder(path), set()
        for page in self._pages(prefix, Delimiter="/"):
            found |= {item["Key"][len(prefix) :] for item in page.get("Contents", ())}
            found |= {item["Prefix"][len(prefix) : -1] for item in page.get("CommonPrefixes", ())}
        return found - {""}

    def walk(self, path: str) -> Iterator[str]:
        prefix = self._folder(path)
        for page in self._pages(prefix):
            for item in page.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield item["Key"][len(prefix) :]

    def delete(self, path: str) -> None:
        keys = [self.key(path), *(f"{self.key(path)}/{name}" for name in self.walk(path))]
        for start in range(0, len(keys), 1000):  # S3 deletes at most 1000 keys per request
            objects = [{"Key": key} for key in keys[start : start + 1000]]
            _client().delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})

    def put_file(self, file: Path, path: str) -> None:
        _client().upload_file(str(file), self.bucket, self.key(path))

    def get_file(self, path: str, file: Path) -> None:
        _client().download_file(self.bucket, self.key(path), str(file))

    def create(self, path: str, content: bytes) -> bool:
        try:
            _client().put_object(Bucket=self.bucket, Key=self.key(path), Body=content, IfNoneMatch="*")
            return True
        except Exception as error:
            # The first: somebody has it; the second: somebody is just getting it.
            if _code(error) in ("PreconditionFailed", "ConditionalRequestConflict"):
                return False
            raise

    def _folder(self, path: str) -> str:
        key = self.key(path)
        return f"{key}/" if key else ""

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix, **options)
        yield from pages


def _client() -> Any:
    """Return this process's client; a fork, another endpoint or other credentials get their own."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_PROFILE")
    return _made_client(os.getpid(), tuple(os.environ.get(name, "") for name in names))


@lru_cache(maxsize=4)
def _made_client(process: int, environment: tuple[str, ...]) -> BaseClient:
    # Importing boto3 takes a quarter of a second, which commands on local storage do not pay.
    import boto3
    from botocore.config import Config

    config = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=60)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    client: BaseClient = boto3.session.Session(region_name=region).client("s3", config=config)
    return client


def _code(error: Exception) -> str | None:
    """Return the service's code of an error, such as NoSuchKey, or None for an error of another kind."""
    from botocore.exceptions import ClientError

    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else None


def _s3_reason(error: Exception, where: str) -> str | None:
    """Return what went wrong in a request to S3 as words, or None if the error is of another kind."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    text = str(error)
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        if code in ("ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"):
            _made_client.cache_clear()  # the next attempt reads the credentials again
        text = f"{code}: {error.response['Error'].get('Message', '')}"
        if code == "NoSuchBucket":
            text = f"the bucket {where.removeprefix('s3://').split('/')[0]!r} does not exist; create it first"
    elif not isinstance(error, (BotoCoreError, Boto3Error)):
        return None
    elif "credentials" in text.lower():
        text = f"{text}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
    return text
