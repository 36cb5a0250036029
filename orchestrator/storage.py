"""Files under one location, a local folder or an S3 prefix, behind the same dozen operations.

The only module that talks to a storage service. A `Storage` holds nothing but its URI: credentials and endpoint come
from the standard AWS environment of whichever process uses it, so that no pickle ever carries a secret.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from orchestrator.errors import StorageError
from orchestrator.localdisk import LocalDisk, Stored
from orchestrator.settings import absolute_uri
from orchestrator.workload import Json

if TYPE_CHECKING:
    from botocore.client import BaseClient

__all__ = ["Storage", "Stored"]

CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 20.0
ATTEMPTS: Final = 3
"""A request to S3 that nobody answers is given up after a minute at most. Who has more patience tries again."""

LEFTOVER_SECONDS: Final = 86400.0
"""What a writer began and did not touch for a day is not going to be ended."""


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
        return self.parsed(path, self.read_bytes(path))

    def find_json(self, path: str) -> Json | None:
        """Return a JSON file's value, or None when it is not there; raises StorageError when it is no JSON."""
        content = self.find_bytes(path)
        return None if content is None else self.parsed(path, content)

    def parsed(self, path: str, content: bytes) -> Json:
        """Return the JSON value of a file's content; raises StorageError that names the file when it is none."""
        try:
            return json.loads(content)
        except ValueError as error:
            raise StorageError(f"{self.uri}/{path} is no JSON ({error}); delete or restore the file") from error

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
        """Write a file only if none is there; of several who try at once exactly one gets True.

        No two who try may have the same content: who finds the own one there has written it in a request before,
        whose answer was lost.
        """
        with self._explained("write", path):
            return self._backend.create(path, content) or self._backend.read(path) == content

    def find_stored(self, path: str) -> Stored | None:
        """Return a file's content with its version and its age by the storage's clock, or None."""
        with self._explained("read", path):
            return self._backend.stored(path)

    def replace(self, path: str, content: bytes, version: str) -> bool:
        """Write a file only if it has the version that was read; of several who try at once exactly one gets True.

        No two who try may have the same content, as for `create_exclusive`.
        """
        with self._explained("write", path):
            return self._backend.replace(path, content, version) or self._backend.read(path) == content

    def clock(self, path: str = "") -> float:
        """Return the storage's time as seconds since the epoch; on a disk `path` is a folder that exists."""
        with self._explained("read", path):
            return self._backend.clock(path)

    def sweep(self, path: str, age: float = LEFTOVER_SECONDS) -> int:
        """Delete what killed writers left half written below a folder, older than `age` seconds; return how many."""
        with self._explained("sweep", path):
            return self._backend.sweep(path, age)

    def check(self) -> None:
        """Write, read and delete a marker; raises StorageError that names the location and the reason.

        The marker is also written again under conditions that do not hold: a service that ignores them would let two
        launches train the same cell.
        """
        folder, content = f".hrgrid-check-{uuid.uuid4().hex[:12]}", b"hrgrid"
        marker = f"{folder}/marker"  # in a folder of its own, so that not even a lock file stays
        self.create_exclusive(marker, content)
        again = self.create_exclusive(marker, b"again") or self.replace(marker, b"other", '"of-nothing"')
        found = self.read_bytes(marker)
        self.delete(folder)
        if again:
            raise StorageError(
                f"the storage {self.uri} ignores the conditions If-None-Match and If-Match of a write, without which "
                "two launches could train the same cell; take another storage, or a newer release of its server"
            )
        if found != content:
            raise StorageError(f"the storage {self.uri} does not give back what was written to it; take another one")

    @property
    def _backend(self) -> _Backend:
        return LocalDisk(Path(self.uri)) if self.is_local else _S3(self.uri)

    @contextmanager
    def _explained(self, verb: str, path: str) -> Iterator[None]:
        where = f"{self.uri}/{path}" if path else self.uri
        if ".." in path.split("/") or path.startswith("/"):
            raise StorageError(f"cannot {verb} {where}: a path in a storage is relative and has no '..'")
        try:
            yield
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "")
            raise StorageError(f"cannot {verb} {where}: {error.strerror or error}{advice}") from error
        except Exception as error:
            reason = _s3_reason(error, where)
            if reason is None:
                raise
            raise StorageError(f"cannot {verb} {where}: {reason}") from error


_FULL = "; free some space (what was written before is intact), or give another --storage"
_CLOSED = "; give another --storage, or make this one writable for you"
_ADVICE: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _CLOSED),
}
"""Error number of the system to what a person can do."""


class _Backend(Protocol):
    def read(self, path: str) -> bytes | None: ...
    def stored(self, path: str) -> Stored | None: ...
    def write(self, path: str, content: bytes) -> None: ...
    def exists(self, path: str) -> bool: ...
    def names(self, path: str) -> set[str]: ...
    def walk(self, path: str) -> Iterator[str]: ...
    def delete(self, path: str) -> None: ...
    def put_file(self, file: Path, path: str) -> None: ...
    def get_file(self, path: str, file: Path) -> None: ...
    def create(self, path: str, content: bytes) -> bool: ...
    def replace(self, path: str, content: bytes, version: str) -> bool: ...
    def clock(self, path: str) -> float: ...
    def sweep(self, path: str, age: float) -> int: ...


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
        found = self.stored(path)
        return None if found is None else found.content

    def stored(self, path: str) -> Stored | None:
        try:
            answer = _client().get_object(Bucket=self.bucket, Key=self.key(path))
            content = answer["Body"].read()
        except Exception as error:
            if _code(error) == "NoSuchKey":
                return None
            raise
        # Both times are of the service, in whole seconds.
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        age = max(0.0, (now - answer["LastModified"]).total_seconds())
        return Stored(content=content, version=answer["ETag"], age=age)

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
        return self._put_if(path, content, IfNoneMatch="*")

    def replace(self, path: str, content: bytes, version: str) -> bool:
        return self._put_if(path, content, IfMatch=version)

    def clock(self, path: str) -> float:
        answer = _client().list_objects_v2(Bucket=self.bucket, Prefix=self._folder(path), MaxKeys=1)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()

    def sweep(self, path: str, age: float) -> int:
        # The parts of an upload that was never ended are seen by nobody and paid for every month.
        pages, swept = _client().get_paginator("list_multipart_uploads"), 0
        for page in pages.paginate(Bucket=self.bucket, Prefix=self._folder(path)):
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            for upload in page.get("Uploads", ()):
                if (now - upload["Initiated"]).total_seconds() > age:
                    _client().abort_multipart_upload(
                        Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    swept += 1
        return swept

    def _put_if(self, path: str, content: bytes, **condition: str) -> bool:
        try:
            _client().put_object(Bucket=self.bucket, Key=self.key(path), Body=content, **condition)
            return True
        except Exception as error:
            # Somebody has written it; somebody is just writing it; there is nothing to replace.
            if _code(error) in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
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

    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=32,
        tcp_keepalive=True,
    )
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
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

    text = str(error)
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        if code in ("ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"):
            _made_client.cache_clear()  # the next attempt reads the credentials again
        text = f"{code}: {error.response['Error'].get('Message', '')}"
        if code == "NoSuchBucket":
            text = f"the bucket {where.removeprefix('s3://').split('/')[0]!r} does not exist; create it first"
        elif code in ("AccessDenied", "403"):
            text = f"{text.rstrip(': .')}; the credentials in use may not do this"
    elif not isinstance(error, (BotoCoreError, Boto3Error)):
        return None
    elif isinstance(error, (HTTPClientError, ConnectionError)):
        text = f"{text.rstrip('.')}; is the service up, and AWS_ENDPOINT_URL right?"
    elif "credentials" in text.lower():
        text = f"{text}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
    return text
