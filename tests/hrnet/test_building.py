"""Preparing is killed, interrupted, run twice at a time: the data set is whole or absent, and no work is lost."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

import hrnet.data.prepare.run as prepare_module
from hrnet.data.building import exclusive
from hrnet.data.cards import Card
from hrnet.data.prepare.convert import Threads
from hrnet.data.prepare.run import Prepared, prepare
from hrnet.data.shards import list_datasets, open_dataset
from hrnet.errors import DataError

CARD = Card(
    name="two",
    title="Two",
    inherits="cityscapes",
    classes=("a", "b"),
    palette=((0, 0, 0), (255, 255, 255)),
    image_suffix=".png",
)
SHARD_BYTES = 3000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 4)):
        for kind, shape in (("images", (16, 20, 3)), ("annotations", (16, 20))):
            folder = tmp_path / "source" / kind / split
            folder.mkdir(parents=True)
            for index in range(count):
                top = 256 if kind == "images" else 2
                cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, top, shape).astype(np.uint8))
    return tmp_path / "source"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "SHARD_BYTES", SHARD_BYTES)


KILLED = """
import os, signal, sys
import hrnet.data.prepare.run as module

def kill(done, total, what):
    if done == 12:
        os.kill(os.getpid(), signal.SIGKILL)

module.SHARD_BYTES = int(sys.argv[3])
module.prepare(sys.argv[1], sys.argv[2], card=sys.argv[4], progress=kill)
"""


def interrupt_during(source: Path, destination: str | Path, after: int) -> None:
    def interrupt(done: int, _total: int, _what: str) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, destination, card=CARD, progress=interrupt)


def steps_of(source: Path, destination: str | Path, **options: bool) -> tuple[Prepared, list[tuple[int, int, str]]]:
    steps: list[tuple[int, int, str]] = []
    return prepare(source, destination, card=CARD, progress=lambda *step: steps.append(step), **options), steps


def test_a_killed_run_goes_on_where_its_last_closed_shard_ends(source: Path, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps(CARD.to_dict()))
    unbroken = prepare(source, tmp_path / "unbroken", card=tmp_path / "card.json")
    words = (source, tmp_path / "out", str(SHARD_BYTES), tmp_path / "card.json")
    assert subprocess.run([sys.executable, "-c", KILLED, *words], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert (tmp_path / ".out.preparing").is_dir()
    steps: list[tuple[int, int, str]] = []
    done = prepare(source, tmp_path / "out", card=tmp_path / "card.json", progress=lambda *step: steps.append(step))
    assert done.fingerprint == unbroken.fingerprint
    assert 9 < steps[0][0] <= 13
    assert [step[0] for step in steps] == list(range(steps[0][0], 14))
    for file in ("manifest.json", *(path.name for path in (tmp_path / "unbroken").glob("*.parquet"))):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "unbroken" / file).read_bytes(), file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "out", "source", "unbroken"]


class Portions(Threads):
    """Threads that take several images in a call, as a cluster's machines do."""

    def __init__(self, at_once: int, load: int) -> None:
        super().__init__(at_once)
        self.load = load


@pytest.mark.parametrize(("at_once", "load"), [(1, 0), (8, 0), (2, 3000), (3, 1 << 30)])
def test_whoever_converts_the_data_set_is_the_same(source: Path, tmp_path: Path, at_once: int, load: int) -> None:
    prepare(source, tmp_path / "plain", card=CARD, workers=1)
    interrupt_during(source, tmp_path / "out", 6)
    with Portions(at_once, load) as workers:
        steps: list[int] = []
        prepare(source, tmp_path / "out", card=CARD, elsewhere=workers, progress=lambda done, *_: steps.append(done))
    assert steps[0] > 1
    assert steps[-1] == 13
    # The signature is of the same files, so even that is the same.
    for file in (tmp_path / "plain").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_source_in_s3_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"s3://b/raw is no path of this machine: .*`aws s3 sync s3://b/raw DIR`"):
        prepare("s3://b/raw", tmp_path / "out", card=CARD)


def test_a_damaged_or_outdated_rest_is_not_taken_up(source: Path, tmp_path: Path) -> None:
    interrupt_during(source, tmp_path / "out", 9)
    shards = sorted((tmp_path / ".out.preparing").glob("train-*.parquet"))
    assert len(shards) > 2
    shards[1].write_bytes(shards[1].read_bytes()[:-1] + b"x")
    with (tmp_path / ".out.preparing" / "journal.jsonl").open("a") as journal:
        journal.write('{"split": "tra')
    first = len(open_names(shards[0]))
    done, steps = steps_of(source, tmp_path / "out")
    assert steps[0][0] == first + 1
    interrupt_during(source, tmp_path / "other", 9)
    image = source / "images/train/0.png"
    os.utime(image, ns=(1, 1))
    again, steps = steps_of(source, tmp_path / "other")
    assert (steps[0][0], again.fingerprint) == (1, done.fingerprint)


def open_names(shard: Path) -> list[str]:
    import pyarrow.parquet as pq

    return [str(name) for name in pq.read_table(shard, columns=["name"])["name"].to_pylist()]


def test_an_interrupt_keeps_closed_shards(source: Path, tmp_path: Path) -> None:
    interrupt_during(source, tmp_path / "out", 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.preparing", "source"]
    assert steps_of(source, tmp_path / "out")[1][0][0] > 1


def test_after_a_broken_file_is_mended_what_came_before_it_is_not_done_again(source: Path, tmp_path: Path) -> None:
    unbroken = prepare(source, tmp_path / "unbroken", card=CARD)
    whole = {number: (source / f"images/train/{number}.png").read_bytes() for number in (0, 8)}
    (source / "images/train/8.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"8\.png is truncated.* what was finished stays in \S+/\.out\.preparing for "):
        prepare(source, tmp_path / "out", card=CARD)
    assert not (tmp_path / "out").exists()
    (source / "images/train/8.png").write_bytes(whole[8])
    done, steps = steps_of(source, tmp_path / "out")
    assert 5 < steps[0][0] <= 9
    assert done.fingerprint == unbroken.fingerprint
    for file in (tmp_path / "unbroken").glob("*.parquet"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name
    # Before the first shard is worth keeping, an error leaves nothing; a mended first image makes all anew.
    (source / "images/train/0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0\.png is truncated, damaged or no image \S.*copy it again$"):
        prepare(source, tmp_path / "again", card=CARD)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source", "unbroken"]


def test_a_kill_between_the_two_renames_loses_nothing(source: Path, tmp_path: Path) -> None:
    before = prepare(source, tmp_path / "out", card=CARD)
    (tmp_path / "out").rename(tmp_path / ".out.old")
    assert list_datasets(tmp_path) == []
    (source / "images/val/3.png").unlink()
    with pytest.raises(DataError, match="already holds Two with other content"):
        prepare(source, tmp_path / "out", card=CARD)
    assert open_dataset(tmp_path / "out").fingerprint == before.fingerprint
    assert not (tmp_path / ".out.old").exists()


@pytest.mark.parametrize("change", ["more", "fewer", "few", "renamed"])
def test_only_what_the_sources_still_give_is_taken_up(source: Path, tmp_path: Path, change: str) -> None:
    interrupt_during(source, tmp_path / "out", 9)
    for kind in ("images", "annotations"):
        folder = source / kind / "train"
        if change == "more":
            (folder / "99.png").write_bytes((folder / "0.png").read_bytes())
        elif change in ("fewer", "few"):
            for number in range(8 if change == "fewer" else 3, 9):
                (folder / f"{number}.png").unlink()
        else:
            (folder / "0.png").rename(folder / "00.png")
    fresh = prepare(source, tmp_path / "fresh", card=CARD)
    done, steps = steps_of(source, tmp_path / "out")
    assert done.fingerprint == fresh.fingerprint
    assert (steps[0][0] == 1) == (change == "renamed")
    listed = {shard["file"] for part in open_dataset(done.uri).manifest["splits"].values() for shard in part["shards"]}
    assert {path.name for path in (tmp_path / "out").glob("*.parquet")} == listed


def test_two_at_once_are_refused(source: Path, tmp_path: Path) -> None:
    with exclusive(tmp_path / "out"), pytest.raises(DataError, match=r"another process prepares .*out right now"):
        prepare(source, tmp_path / "out", card=CARD)
    # A file that a killed process left is no lock.
    (tmp_path / ".out.lock").touch()
    assert prepare(source, tmp_path / "out", card=CARD).images == {"train": 9, "val": 4}
    assert not (tmp_path / ".out.lock").exists()


def test_a_lock_on_a_removed_file_keeps_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / ".out.lock"
    with path.open("w") as stale:
        fcntl.flock(stale, fcntl.LOCK_EX)
        path.unlink()
        with exclusive(tmp_path / "out"):
            assert path.exists()
        assert not path.exists()


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
    import boto3

    boto3.client("s3").create_bucket(Bucket="built")
    yield "built"
    server.stop()


def keys(bucket: str) -> list[str]:
    import boto3

    found = boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])
    return sorted(item["Key"] for item in found if not item["Key"].endswith("/"))


def test_to_s3_with_an_interrupt_and_a_replacement(source: Path, tmp_path: Path, bucket: str) -> None:
    unbroken = prepare(source, tmp_path / "unbroken", card=CARD)
    where = f"s3://{bucket}/sets"
    interrupt_during(source, f"{where}/two", 11)
    assert keys(bucket) == []
    done, steps = steps_of(source, f"{where}/two")
    assert done.fingerprint == unbroken.fingerprint
    assert steps[0][0] > 1
    assert steps[-1][2] == "uploaded manifest.json"
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert steps_of(source, f"{where}/two")[0].skipped
    before = keys(bucket)
    import boto3

    # The download may lie where its prepared data set would go.
    boto3.client("s3").put_object(Bucket=bucket, Key="raw/two/images.zip", Body=b"x")
    with pytest.raises(DataError, match=r"raw/two exists and is no prepared data set \(it holds images\.zip\)"):
        prepare(source, f"s3://{bucket}/raw", card=CARD, below=True, force=True)
    assert keys(bucket) == sorted([*before, "raw/two/images.zip"])
    boto3.client("s3").delete_object(Bucket=bucket, Key="raw/two/images.zip")
    for path in source.rglob("train/*.png"):
        if path.stem > "2":
            path.unlink()
    with pytest.raises(DataError, match="already holds Two with other content"):
        prepare(source, f"{where}/two", card=CARD)
    assert keys(bucket) == before
    fewer = prepare(source, where, card=CARD, below=True, force=True)
    assert fewer.images == {"train": 3, "val": 4}
    assert "sets/two/train-00001.parquet" in before
    names = {shard["file"] for part in open_dataset(fewer.uri).manifest["splits"].values() for shard in part["shards"]}
    assert keys(bucket) == sorted(f"sets/two/{name}" for name in (*names, "manifest.json", "source.json"))
