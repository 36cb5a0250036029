"""Copies of remote data sets on this machine: one download whatever happens, verified, bounded, shared."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import cv2
import numpy as np
import pytest

from hrnet.data.cache import Copies
from hrnet.data.cards import Card
from hrnet.data.check import check
from hrnet.data.shards import Split, open_dataset
from hrnet.data.stamps import remember
from hrnet.data.writer import Encoded, encode, write_dataset
from hrnet.errors import DataAwayError, DataError
from tests.orchestrator.s3 import AtomicS3

CARD = Card(name="two", title="Two", classes=("a", "b"), palette=((0, 0, 0), (255, 255, 255)))

READ = """
import sys
import hrnet.data.location as location
from hrnet.data.shards import open_dataset

location._BLOCK = int(sys.argv[2])
split = open_dataset(sys.argv[1]).split("train")
print("ready", flush=True)
sys.stdin.readline()
split.fetch()
print(sum(int(split[index].image.sum()) for index in range(len(split))), flush=True)
"""


class Bucket:
    """An S3 API, what was asked of it, and what it is to do first."""

    def __init__(self) -> None:
        self.gets: list[tuple[str, str]] = []
        self.credentials: set[str] = set()
        self.first: Callable[[Any], tuple[str, bytes] | None] = lambda _: None
        self.server = AtomicS3(before=self._before)

    def _before(self, environ: Any) -> tuple[str, bytes] | None:
        if environ["REQUEST_METHOD"] == "GET" and environ["PATH_INFO"].endswith(".parquet"):
            self.gets.append((Path(environ["PATH_INFO"]).name, environ.get("HTTP_RANGE", "")))
        self.credentials.add(environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition(",")[0])
        return self.first(environ)


def samples(count: int, seed: int) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        image = cv2.imencode(".png", rng.integers(0, 256, (20, 24, 3)).astype(np.uint8))[1].tobytes()
        made.append(encode(f"s{index}", image, rng.integers(0, 2, (20, 24)).astype(np.uint8), 2))
    return made


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    bucket = Bucket()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": bucket.server.endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "HRGRID_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    client().create_bucket(Bucket="data")
    yield bucket
    bucket.server.stop()


def client() -> Any:
    return boto3.client("s3", region_name="us-east-1")


def put(folder: Path, name: str, seed: int = 0) -> str:
    """A data set of 7 images in 4 shards of about 4 kB, in the bucket."""
    write_dataset(folder / name, CARD, {"train": samples(7, seed)}, shard_bytes=4000)
    for file in (folder / name).iterdir():
        client().upload_file(str(file), "data", f"{name}/{file.name}")
    return f"s3://data/{name}"


def train(uri: str) -> Split:
    return open_dataset(uri).split("train")


def copies(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.parquet"))


def start(uri: str, block: int = 1 << 24) -> subprocess.Popen[str]:
    words = (sys.executable, "-c", READ, uri, str(block))
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_of_four_processes_one_downloads_each_shard(tmp_path: Path, bucket: Bucket) -> None:
    uri = put(tmp_path, "one")
    processes = [start(uri) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        go(process)
    local = open_dataset(tmp_path / "one").split("train")
    sums = {process.communicate()[0] for process in processes}
    assert sums == {f"{sum(int(local[index].image.sum()) for index in range(7))}\n"}
    assert sorted(name for name, _ in bucket.gets) == sorted(shard.file for shard in local.shards)
    assert len(local.shards) == len(copies(tmp_path)) == 4
    bucket.gets.clear()
    train(uri).fetch()
    assert bucket.gets == []


def test_what_a_killed_process_began_is_ended_by_the_next_one(tmp_path: Path, bucket: Bucket) -> None:
    uri, block = put(tmp_path, "one"), 1000
    many, release = threading.Event(), threading.Event()

    def stop_at_the_third(_: Any) -> None:
        if max(Counter(name for name, _ in bucket.gets).values(), default=0) >= 3:
            many.set()
            release.wait(60)

    bucket.first = stop_at_the_third
    process = start(uri, block)
    go(process)
    assert many.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    release.set()
    bucket.first = lambda _: None
    parts = {path.name: path.stat().st_size for path in (tmp_path / "cache").rglob("*.part")}
    assert max(parts.values()) == 2 * block
    bucket.gets.clear()
    train(uri).fetch()
    local = open_dataset(tmp_path / "one").split("train")
    assert {path.read_bytes() for path in copies(tmp_path)} == {
        (tmp_path / "one" / shard.file).read_bytes() for shard in local.shards
    }
    begun = [span for _, span in bucket.gets if span.startswith(f"bytes={2 * block}-")]
    assert begun
    assert len(bucket.gets) == 4
    assert list((tmp_path / "cache").rglob("*.part")) == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_a_damaged_copy_is_brought_again(tmp_path: Path, bucket: Bucket, damage: str) -> None:
    uri = put(tmp_path, "one")
    train(uri).fetch()
    path = copies(tmp_path)[1]
    whole = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if damage == "truncated" else bytes([whole[0] ^ 1]) + whole[1:])
    bucket.gets.clear()
    train(uri).fetch()
    assert path.read_bytes() == whole
    assert len(bucket.gets) == 1


def test_a_full_check_finds_and_mends_what_changed_without_a_trace(tmp_path: Path, bucket: Bucket) -> None:
    uri = put(tmp_path, "one")
    train(uri).fetch()
    path = copies(tmp_path)[1]
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    # As if no clock of the file had moved, which is how a disk loses a bit.
    remember(path, train(uri).shards[1].sha256)
    bucket.gets.clear()
    train(uri).fetch()
    assert bucket.gets == []
    assert check(uri).ok
    assert path.read_bytes() == whole
    assert len(bucket.gets) == 1


def test_a_quick_check_brings_nothing_and_sees_sizes_and_what_was_forced(tmp_path: Path, bucket: Bucket) -> None:
    uri = put(tmp_path, "one")
    assert check(uri, quick=True).ok
    assert bucket.gets == []
    client().put_object(Bucket="data", Key="one/train-00001.parquet", Body=b"short")
    client().delete_object(Bucket="data", Key="one/train-00002.parquet")
    told = [f"{finding.where} {finding.message}" for finding in check(uri, quick=True).findings]
    assert told[0].startswith("s3://data/one/train-00001.parquet has 5 bytes instead of ")
    assert told[1].startswith("s3://data/one/train-00002.parquet is missing; ")
    with pytest.raises(DataError, match=r"train-00001\.parquet has 5 bytes instead of \d+; upload"):
        train(uri).fetch()
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_bytes()) | {"refused": ["val is train"]}
    client().put_object(Bucket="data", Key="one/manifest.json", Body=json.dumps(manifest).encode())
    other = put(tmp_path, "other")
    client().put_object(Bucket="data", Key="other/manifest.json", Body=json.dumps(manifest).encode())
    assert [finding.message for finding in check(other, quick=True).findings if finding.fatal] == ["val is train"]


def test_the_data_set_read_last_before_all_others_makes_room(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [put(tmp_path, f"n{seed}", seed) for seed in range(3)]
    size = sum(shard.bytes for shard in train(uris[0]).shards)
    monkeypatch.setenv("HRGRID_CACHE_GB", str(2.5 * size / 1e9))
    for uri in uris[:2]:
        train(uri).fetch()
    first, second, third = (tmp_path / "cache" / "data" / open_dataset(uri).fingerprint[:16] for uri in uris)
    os.utime(second / ".used", (1, 1))
    train(uris[2]).fetch()
    assert (first.is_dir(), second.is_dir(), third.is_dir()) == (True, False, True)
    # What a process reads stays, however long ago it began.
    reading = train(uris[0]), train(uris[2])
    for split in reading:
        split.fetch()
    os.utime(first / ".used", (1, 1))
    with pytest.raises(
        DataAwayError, match=r"s3://data/n1 needs .* in use; raise \$HRGRID_CACHE_GB, or name a larger"
    ):
        train(uris[1]).fetch()
    assert (first.is_dir(), third.is_dir()) == (True, True)
    del reading, split
    train(uris[1]).fetch()
    assert second.is_dir()
    monkeypatch.setenv("HRGRID_CACHE_GB", str(0.5 * size / 1e9))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataError, match="which may hold") as caught:
        train(uris[0]).fetch()
    assert not isinstance(caught.value, DataAwayError)
    monkeypatch.setenv("HRGRID_CACHE_GB", "lots")
    with pytest.raises(DataError, match=r"\$HRGRID_CACHE_GB is 'lots', which is no number of gigabytes"):
        train(uris[0]).fetch()


def test_a_cache_that_is_no_folder_is_said(tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = put(tmp_path, "one")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/proc/nowhere")):
        monkeypatch.setenv("HRGRID_CACHE", str(place))
        with pytest.raises(
            DataError, match=f"the cache {place} cannot be used for .*name a folder that you may write"
        ):
            train(uri).fetch()


def _fetch_with_little_room(uri: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        train(uri).fetch()
    except DataError as error:
        sys.exit(0 if "File too large; free some space" in str(error) else str(error))
    sys.exit("no error")


def _as_nobody(uri: str, room: str) -> None:
    os.setgid(65534)
    os.setuid(65534)
    os.environ["HRGRID_CACHE_GB"] = room
    train(uri).fetch()
    sys.exit(int(train(uri)[0].image.shape != (20, 24, 3)))


def run_beside(target: Callable[..., None], *words: str) -> int | None:
    process = multiprocessing.get_context("spawn").Process(target=target, args=words)
    process.start()
    process.join()
    return process.exitcode


def test_a_full_disk_is_said(tmp_path: Path, bucket: Bucket) -> None:
    assert run_beside(_fetch_with_little_room, put(tmp_path, "one")) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_users_share_a_cache_whose_folder_lets_them(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [put(tmp_path, f"n{seed}", seed) for seed in range(3)]
    size = sum(shard.bytes for shard in train(uris[0]).shards)
    with tempfile.TemporaryDirectory() as shared:
        os.chmod(shared, 0o755)
        monkeypatch.setenv("HRGRID_CACHE", shared)
        train(uris[0]).fetch()
        # Mine, which others may only read.
        assert run_beside(_as_nobody, uris[0], "1") == 0
        assert run_beside(_as_nobody, uris[1], "1") == 1
    with tempfile.TemporaryDirectory() as shared:
        os.chmod(shared, 0o777)
        monkeypatch.setenv("HRGRID_CACHE", shared)
        train(uris[0]).fetch()
        assert run_beside(_as_nobody, uris[1], "1") == 0
        # Another user's data set makes room, too.
        assert run_beside(_as_nobody, uris[2], str(2.5 * size / 1e9)) == 0
        folders = [path for path in (Path(shared) / "data").iterdir() if path.is_dir()]
        assert len(folders) == 2
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o777 for path in folders)


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:  # of the listing itself
        return ""


def test_copies_are_held_only_while_somebody_reads(tmp_path: Path, bucket: Bucket) -> None:
    def open_files() -> list[str]:
        links = (Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return [target for link in links if (target := _target(link)).startswith(str(tmp_path))]

    held = Copies(put(tmp_path, "one"), "f" * 64)
    assert len(open_files()) == 1
    del held
    assert open_files() == []


@pytest.mark.parametrize("where", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "both"])
def test_the_environment_says_where_and_who(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    uri = put(tmp_path, "one")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3" if where == "both" else where, bucket.server.endpoint)
    if where == "both":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id=other\naws_secret_access_key=x\n"
        "[mine]\naws_access_key_id=mine\naws_secret_access_key=x\naws_session_token=passing\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    tokens = set()

    def look(environ: Any) -> None:
        tokens.add(environ.get("HTTP_X_AMZ_SECURITY_TOKEN"))

    bucket.first = look
    bucket.credentials.clear()
    train(uri).fetch()
    assert {"/".join(each.split("/")[::2][:2]) for each in bucket.credentials} == {"mine/eu-central-1"}
    assert tokens == {"passing"}


EXPIRED = b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"


def test_expired_credentials_are_replaced_by_those_that_are_there_now(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, file = put(tmp_path, "one"), tmp_path / "credentials"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    file.write_text("[default]\naws_access_key_id=old\naws_secret_access_key=x\n")

    def refuse(environ: Any) -> tuple[str, bytes] | None:
        if "Credential=old/" not in environ.get("HTTP_AUTHORIZATION", ""):
            return None
        return "400 Bad Request", b"" if environ["REQUEST_METHOD"] == "HEAD" else EXPIRED

    bucket.first = refuse
    with pytest.raises(DataAwayError, match=r"cannot read .*are the credentials of the AWS environment there, valid"):
        open_dataset(uri)

    def refuse_and_renew(environ: Any) -> tuple[str, bytes] | None:
        answer = refuse(environ)
        if answer is not None:
            file.write_text("[default]\naws_access_key_id=new\naws_secret_access_key=x\n")
        return answer

    bucket.first = refuse_and_renew
    split = train(uri)
    file.write_text("[default]\naws_access_key_id=old\naws_secret_access_key=x\n")
    split.fetch()
    assert split[0].name == "s0"
