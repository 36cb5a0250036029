"""Both kinds of storage behave the same, also when they cannot be used."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from orchestrator.errors import StorageError, UsageError
from orchestrator.storage import Storage


def test_reads_what_was_written(storage: Storage) -> None:
    storage.write_bytes("a/b.bin", b"\x00one")
    storage.write_bytes("a/b.bin", b"\x00two")
    storage.write_json("a/c.json", {"x": [1, None]})
    assert storage.read_bytes("a/b.bin") == b"\x00two"
    assert storage.child("a").read_json("c.json") == {"x": [1, None]}
    assert storage.list("a") == ["b.bin", "c.json"]
    assert storage.list() == ["a"]


def test_what_is_not_there(storage: Storage) -> None:
    assert storage.find_bytes("no") is None
    assert storage.find_json("no/way.json") is None
    assert not storage.exists("no")
    assert storage.list("no") == []
    storage.delete("no")
    with pytest.raises(StorageError, match="no is not there"):
        storage.read_bytes("no")
    with pytest.raises(StorageError, match="no is not there or empty"):
        storage.download("no", Path("unused"))


def test_a_folder_is_no_file_and_names_are_not_prefixes(storage: Storage) -> None:
    storage.write_bytes("a/b", b"1")
    storage.write_bytes("ab", b"2")
    assert not storage.exists("a")
    assert storage.list("a") == ["b"]
    storage.delete("a")
    assert storage.list() == ["ab"]


def test_folders_go_up_and_come_back(storage: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    (source / "one").write_bytes(b"1" * 100_000)
    (source / "deep" / "two").write_bytes(b"")
    storage.upload(source, "x/y")
    storage.download("x", target)
    assert (target / "y" / "one").read_bytes() == b"1" * 100_000
    assert (target / "y" / "deep" / "two").read_bytes() == b""


def test_one_of_many_creates(storage: Storage) -> None:
    start = threading.Barrier(8)

    def attempt(number: int) -> bool:
        start.wait()
        return storage.create_exclusive("lease", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert sum(won) == 1
    assert storage.read_bytes("lease") == str(won.index(True)).encode()
    assert storage.list() == ["lease"]


def test_one_of_many_replaces_what_they_read(storage: Storage) -> None:
    storage.write_bytes("x", b"old")
    seen = storage.find_stored("x")
    assert seen is not None
    assert seen.content == b"old"
    assert 0 <= seen.age < 60
    start = threading.Barrier(8)

    def attempt(number: int) -> bool:
        start.wait()
        return storage.replace("x", str(number).encode(), seen.version)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(8)))
    assert sum(won) == 1
    assert storage.read_bytes("x") == str(won.index(True)).encode()
    assert not storage.replace("x", b"late", seen.version)
    assert not storage.replace("gone", b"new", seen.version)
    assert storage.find_stored("gone") is None
    assert storage.list() == ["x"]


def test_an_answer_that_was_lost_is_no_defeat(storage: Storage) -> None:
    """The service wrote, its answer did not arrive, the client asked again and was told that somebody had written."""
    assert storage.create_exclusive("x", b"mine")
    assert storage.create_exclusive("x", b"mine")
    seen = storage.find_stored("x")
    assert seen is not None
    assert storage.replace("x", b"changed", seen.version)
    assert storage.replace("x", b"changed", seen.version)
    assert not storage.replace("x", b"other", seen.version)


def test_what_killed_writers_left_is_swept_when_it_is_old(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("a/b/kept", b"1")
    old, new = tmp_path / "a" / "b" / ".tmp-old", tmp_path / "a" / ".tmp-new"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1.0, 1.0))
    assert storage.sweep("a") == 1
    assert not old.exists()
    assert new.exists()
    assert storage.list("a") == ["b"]
    assert storage.list("a/b") == ["kept"]
    assert storage.sweep("nowhere") == 0


def test_uploads_that_never_ended_are_swept_from_s3(s3_storage: Storage) -> None:
    bucket, _, prefix = s3_storage.uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/trials/k/model")
    assert s3_storage.sweep("trials/k", age=1e12) == 0
    assert s3_storage.sweep("trials/other") == 0
    assert s3_storage.sweep("trials/k") == 1  # moto says of every upload that it was begun years ago
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_a_full_disk_is_told_and_keeps_what_was_written(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("x", b"old")
    child = os.fork()
    if child == 0:
        # A limit on the size of files is as near as a test may come to a full disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            storage.write_bytes("x", b"new" * 1000)
        except StorageError as error:
            (tmp_path / "said").write_text(str(error))
        os._exit(0)
    os.waitpid(child, 0)
    said = (tmp_path / "said").read_text()
    assert said.startswith(f"cannot write {tmp_path}/x: File too large; free some space (what was written before is ")
    assert storage.read_bytes("x") == b"old"
    assert storage.list() == ["said", "x"]


def test_a_service_that_is_away_is_named(s3_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9.*; is the service up, and AWS_ENDPOINT_URL right\?"):
        s3_storage.read_bytes("x")


def test_check_leaves_nothing(storage: Storage) -> None:
    storage.check()
    assert storage.list() == []


def test_broken_json_is_named(storage: Storage) -> None:
    storage.write_bytes("x.json", b"{")
    with pytest.raises(StorageError, match=r"x\.json is no JSON .*; delete or restore"):
        storage.find_json("x.json")


def test_paths_cannot_leave_the_storage(storage: Storage) -> None:
    for path in ("../x", "a/../../x", "/etc/x"):
        with pytest.raises(StorageError, match="relative"):
            storage.write_bytes(path, b"")


def test_a_pickle_works_elsewhere_and_holds_no_secret(storage: Storage) -> None:
    storage.write_bytes("x", b"1")
    pickled = pickle.dumps(storage)
    assert b"testing" not in pickled
    assert pickle.loads(pickled).read_bytes("x") == b"1"


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("x", b"old")
    with pytest.raises(TypeError):
        storage.write_bytes("x", "no bytes")  # type: ignore[arg-type]
    assert storage.read_bytes("x") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*/file/below/.*: Not a directory"):
        Storage(str(tmp_path / "file" / "below")).check()


@pytest.mark.usefixtures("s3_environment")
def test_a_missing_bucket_is_named() -> None:
    with pytest.raises(StorageError, match="the bucket 'nobody-made-this' does not exist; create it first"):
        Storage("s3://nobody-made-this/x").check()


def test_missing_credentials_are_explained(s3_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID"):
        s3_storage.check()


def test_the_uri_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage("here").uri == str(tmp_path / "here")
    assert Storage("s3://bucket/p/").uri == "s3://bucket/p"
    with pytest.raises(UsageError, match="neither a local path nor s3"):
        Storage("gs://bucket")
