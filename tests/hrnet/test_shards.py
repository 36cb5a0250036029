from __future__ import annotations

import json
import multiprocessing
import pickle
import resource
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from hrnet.data.cards import Card
from hrnet.data.prepare.run import prepare
from hrnet.data.shards import MANIFEST, list_datasets, locate, open_dataset
from hrnet.data.writer import Encoded, encode, write_dataset
from hrnet.errors import DataAwayError, DataError

CARD = Card(name="two", title="Two", classes=("a", "b"), palette=((0, 0, 0), (255, 255, 255)), train_images=9)


def samples(count: int, seed: int = 0) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        image = rng.integers(0, 256, (6 + index, 8, 3)).astype(np.uint8)
        label = rng.choice(np.array([0, 1, 255], np.uint8), (6 + index, 8))
        made.append(encode(f"s{index}", cv2.imencode(".png", image)[1].tobytes(), label, 2))
    return made


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "two", CARD, {"train": samples(7), "val": samples(2, 1)}, shard_bytes=700)
    return tmp_path / "two"


def test_what_is_written_is_read(written: Path) -> None:
    dataset = open_dataset(written)
    train = dataset.split("train")
    assert dataset.card == CARD
    assert dataset.splits == ("train", "val")
    assert len(train.shards) > 2
    assert (len(train), len(dataset.split("val"))) == (7, 2)
    assert train.names == tuple(f"s{index}" for index in range(7))
    for index, made in enumerate(samples(7)):
        sample = train[index]
        assert (sample.name, sample.image.shape) == (made.name, (6 + index, 8, 3))
        assert train.raw(index)["image"] == made.image
        np.testing.assert_array_equal(
            sample.label, cv2.imdecode(np.frombuffer(made.label, np.uint8), cv2.IMREAD_UNCHANGED)
        )
    with pytest.raises(IndexError):
        train[7]


def test_one_sample_is_one_row_group(written: Path) -> None:
    for file in written.glob("*.parquet"):
        metadata = pq.ParquetFile(file).metadata
        assert metadata.num_row_groups == metadata.num_rows


def test_manifest_counts(written: Path) -> None:
    manifest = json.loads((written / MANIFEST).read_text())
    labels = [sample.label for sample in map(open_dataset(written).split("train").__getitem__, range(7))]
    train = manifest["splits"]["train"]
    assert train["class_pixels"] == [sum(int((label == value).sum()) for label in labels) for value in (0, 1)]
    assert train["ignored_pixels"] == sum(int((label == 255).sum()) for label in labels)
    assert manifest["partial"] == {"train": {"images": 7, "complete": 9}}
    assert open_dataset(written).partial == ("7 of 9 train images of Two",)


def test_fingerprint_is_of_the_content(written: Path, tmp_path: Path) -> None:
    same = write_dataset(tmp_path / "same", CARD, {"train": samples(7), "val": samples(2, 1)})
    assert same["fingerprint"] == open_dataset(written).fingerprint
    swapped = write_dataset(tmp_path / "swapped", CARD, {"train": samples(7)[::-1], "val": samples(2, 1)})
    other = write_dataset(tmp_path / "other", CARD, {"train": samples(7, 2), "val": samples(2, 1)})
    assert len({same["fingerprint"], swapped["fingerprint"], other["fingerprint"]}) == 3


def test_split_travels_to_other_processes(written: Path) -> None:
    train = open_dataset(written).split("train")
    first = train[3]
    travelled = pickle.loads(pickle.dumps(train))
    np.testing.assert_array_equal(travelled[3].image, first.image)
    assert len(pickle.dumps(train)) < 5000


def test_no_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no prepared data set \(it has no manifest\.json\)"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "hrgrid-shards/1"}'])
def test_broken_manifest_is_named(written: Path, content: str) -> None:
    (written / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json is broken"):
        open_dataset(written)


def test_another_format_is_refused(written: Path) -> None:
    manifest = json.loads((written / MANIFEST).read_text()) | {"format": "hrgrid-shards/9"}
    (written / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="has the format 'hrgrid-shards/9'"):
        open_dataset(written)


def test_missing_truncated_and_damaged_shards_are_named(written: Path) -> None:
    file = written / "val-00000.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=rf"{file.name} has {len(whole) - 20} bytes instead of {len(whole)}"):
        open_dataset(written).split("val")[0]
    file.write_bytes(bytes(len(whole)))
    with pytest.raises(DataError, match=f"cannot read .*{file.name}"):
        open_dataset(written).split("val")[0]
    file.unlink()
    with pytest.raises(DataError, match=f"{file.name} is missing"):
        open_dataset(written).split("val")[0]


def test_sample_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    made = samples(2)
    broken = encode("bad", b"no image at all", np.zeros((4, 4), np.uint8), 2)
    write_dataset(tmp_path / "two", CARD, {"train": [*made, broken]})
    with pytest.raises(DataError, match=r"the image of train sample 'bad' \(number 2 of .*\) cannot be decoded"):
        open_dataset(tmp_path / "two").split("train")[2]


def test_interrupted_writing_keeps_what_was_there(written: Path) -> None:
    before = open_dataset(written).fingerprint

    def interrupted() -> object:
        yield samples(1)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(written, CARD, {"train": interrupted()})  # type: ignore[dict-item]
    assert open_dataset(written).fingerprint == before
    assert [path.name for path in written.parent.iterdir()] == ["two"]


def _write_with_little_room(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        write_dataset(folder / "full", CARD, {"train": samples(40)})
    except DataError as error:
        expected = (f"cannot write the data set {folder / 'full'}: ", "File too large")
        sys.exit(0 if all(part in str(error) for part in expected) else str(error))
    sys.exit("no error")


def test_a_disk_without_room_is_a_data_error(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_write_with_little_room, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert list(tmp_path.iterdir()) == []


def test_locate_finds_by_name(written: Path) -> None:
    assert locate(written, "two") == str(written)
    assert locate(written.parent, "two") == str(written)
    assert [dataset.card.name for dataset in list_datasets(written.parent)] == ["two"]
    assert [dataset.card.name for dataset in list_datasets(written)] == ["two"]
    with pytest.raises(DataError, match="holds the data set 'two', not 'cityscapes'"):
        locate(written, "cityscapes")
    with pytest.raises(DataError, match="holds no prepared data set 'twoo'; did you mean 'two'"):
        locate(written.parent, "twoo")
    with pytest.raises(DataError, match="prepare it with"):
        locate(written / "nowhere", "two")


def test_data_set_in_s3(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    for split, count in (("train", 3), ("val", 1)):
        for kind in ("images", "annotations"):
            (source / kind / split).mkdir(parents=True)
        for index, made in enumerate(samples(count)):
            (source / "images" / split / f"{index}.png").write_bytes(made.image)
            (source / "annotations" / split / f"{index}.png").write_bytes(made.label)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
        import boto3

        boto3.client("s3").create_bucket(Bucket="data")
        card = Card(**{**{key: getattr(CARD, key) for key in CARD.__slots__}, "image_suffix": ".png"})
        local = prepare(source, tmp_path / "local", card=card, partial=True)
        remote = prepare(source, "s3://data/sets/two", card=card, partial=True)
        assert remote.fingerprint == local.fingerprint
        assert prepare(source, "s3://data/sets/two", card=card, partial=True).skipped
        assert locate("s3://data/sets", "two") == "s3://data/sets/two"
        split = open_dataset("s3://data/sets/two").split("train")
        np.testing.assert_array_equal(split[2].image, open_dataset(tmp_path / "local").split("train")[2].image)
        assert len(list((tmp_path / "cache").rglob("*.parquet"))) == 1

        shutil.rmtree(tmp_path / "cache")
        size = split.shards[0].bytes
        boto3.client("s3").put_object(Bucket="data", Key="sets/two/train-00000.parquet", Body=bytes(size))
        with pytest.raises(DataError, match="does not have the hash of its manifest"):
            open_dataset("s3://data/sets/two").split("train").fetch()
    finally:
        server.stop()


def test_a_remote_location_that_does_not_answer_is_no_fault_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    nowhere = "s3://a:b@bucket/set?scheme=http&endpoint_override=127.0.0.1:1&region=us-east-1"
    with pytest.raises(DataAwayError, match="cannot read") as caught:
        open_dataset(nowhere)
    assert (caught.value.failure, DataError.failure) == ("storage", "data")
