"""Decoded images on this machine: the split's own pixels, whoever wrote them, killed, out of room, after a reboot."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import hrnet.data.decoded
from hrnet.catalogue import Recipe
from hrnet.data.cache import Copies
from hrnet.data.cards import Card
from hrnet.data.decoded import Decoded
from hrnet.data.shards import Split, open_dataset
from hrnet.data.writer import Encoded, encode, write_dataset
from hrnet.errors import DataError
from hrnet.evaluation.run import drain, evaluate_split
from hrnet.model.segmentor import build_model
from hrnet.training.gang import Gang

CARD = Card(name="two", title="Two", classes=("a", "b"), palette=((0, 0, 0), (255, 255, 255)))
COUNT = 12


def samples(seed: int = 0, count: int = COUNT) -> list[Encoded]:
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        height, width = int(rng.integers(100, 200)), int(rng.integers(100, 300))
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        data = cv2.imencode(".jpg" if index % 2 else ".png", image)[1].tobytes()
        made.append(encode(f"s{index}", data, rng.integers(0, 2, (height, width)).astype(np.uint8), 2))
    return made


@pytest.fixture
def split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
    write_dataset(tmp_path / "two", CARD, {"train": samples()}, shard_bytes=200_000)
    split = open_dataset(tmp_path / "two").split("train")
    assert len(split.shards) > 2
    return split


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.scratch"))


def here(decoded: Decoded) -> list[int]:
    assert decoded._store is not None
    return [index for index in range(len(decoded)) if decoded._store.read(index) is not None]


def assert_equal(decoded: Decoded, split: Split) -> None:
    for index in range(len(split)):
        image, label = decoded[index]
        np.testing.assert_array_equal(image, split[index].image)
        np.testing.assert_array_equal(label, split[index].label)


def test_sizes_are_those_of_the_samples(split: Split) -> None:
    assert split.sizes().tolist() == [list(split[index].label.shape) for index in range(COUNT)]


def test_every_sample_is_decoded_once(tmp_path: Path, split: Split) -> None:
    decoded = Decoded(split)
    assert (len(decoded), here(decoded)) == (COUNT, [])
    assert_equal(decoded, split)
    assert here(decoded) == list(range(COUNT))
    again = Decoded(open_dataset(tmp_path / "two").split("train"))
    pixels = [split[index].image for index in range(COUNT)]
    for shard in (tmp_path / "two").glob("*.parquet"):
        shard.unlink()
    for index in range(COUNT):
        np.testing.assert_array_equal(again[index][0], pixels[index])
    assert len(files(tmp_path)) == 1


def test_whoever_changes_his_sample_changes_no_other(split: Split) -> None:
    decoded = Decoded(split)
    for _ in range(2):
        for array in decoded[3]:
            array[:] = 7
    assert_equal(decoded, split)


def test_it_travels_to_other_processes(split: Split) -> None:
    decoded = Decoded(split)
    decoded[5]
    assert here(pickle.loads(pickle.dumps(decoded))) == [5]
    assert pickle.loads(pickle.dumps(Decoded(split, keep=False)))._store is None


def _fill(uri: str, start: Barrier) -> None:
    split = open_dataset(uri).split("train")
    start.wait()
    assert_equal(Decoded(split), split)


def test_processes_fill_one_file(tmp_path: Path, split: Split) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [context.Process(target=_fill, args=(split.uri, start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(files(tmp_path)) == 1
    decoded = Decoded(split)
    assert here(decoded) == list(range(COUNT))
    assert_equal(decoded, split)


def _fill_slowly(uri: str, seconds: float) -> None:
    real = os.pwrite

    def half(number: int, data: memoryview, place: int) -> int:
        time.sleep(seconds)
        return real(number, data[: max(1, len(data) // 2)], place)

    os.pwrite = half  # type: ignore[assignment]
    split = open_dataset(uri).split("train")
    decoded = Decoded(split)
    for index in range(len(split)):
        decoded[index]


def test_a_killed_process_leaves_no_half_sample(split: Split) -> None:
    process = multiprocessing.get_context("fork").Process(target=_fill_slowly, args=(split.uri, 0.01))
    process.start()
    decoded = Decoded(split)
    while len(here(decoded)) < 2:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert 2 <= len(here(decoded)) < COUNT
    assert_equal(decoded, split)
    assert_equal(decoded, split)


def _fill_with_little_room(uri: str) -> None:
    split = open_dataset(uri).split("train")
    decoded = Decoded(split)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    assert_equal(decoded, split)
    assert_equal(decoded, split)
    sys.exit(0 if 0 < len(here(decoded)) < COUNT else "not some")


def test_a_full_disk_means_decoding(split: Split) -> None:
    process = multiprocessing.get_context("fork").Process(target=_fill_with_little_room, args=(split.uri,))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("limit", ["0", "0.0001"])
def test_the_setting_limits_it(tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv("HRGRID_DECODED_GB", limit)
    decoded = Decoded(split)
    assert decoded._store is None
    assert_equal(decoded, split)
    assert files(tmp_path) == []


def test_a_setting_that_is_no_number_is_said(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRGRID_DECODED_GB", "-1")
    with pytest.raises(DataError, match=r"\$HRGRID_DECODED_GB is '-1', which is no number of gigabytes"):
        Decoded(split)


def test_it_takes_half_of_the_cache_and_nobody_makes_room_for_it(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(tmp_path / "other", CARD, {"train": samples(1)})
    other = open_dataset(tmp_path / "other").split("train")
    first = Decoded(other)
    size = files(tmp_path)[0].stat().st_size
    del first
    needed = 4 * int(split.sizes().prod(axis=1).sum())
    monkeypatch.setenv("HRGRID_CACHE_GB", str(2 * (size + needed - 1) / 1e9))
    with caplog.at_level(logging.INFO):
        assert Decoded(split)._store is None
    assert "are more than the" in caplog.text
    assert len(files(tmp_path)) == 1
    # A download does remove what nobody uses, with all that belongs to it.
    monkeypatch.setenv("HRGRID_CACHE_GB", str(size / 1e9))
    copies = Copies("s3://nowhere/at-all", "f" * 64)
    copies._make_room(size, copies.folder / "x.part")
    assert files(tmp_path) == []


def test_holes_are_promised_but_not_written(tmp_path: Path, split: Split) -> None:
    decoded = Decoded(split)
    file = files(tmp_path)[0].stat()
    assert file.st_size > 4 * split.sizes().prod(axis=1).sum() > 512 * file.st_blocks
    decoded[0]
    assert 512 * files(tmp_path)[0].stat().st_blocks >= 4 * split.sizes()[0].prod()


def test_what_another_boot_left_is_not_used(tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = tmp_path / "boot"
    monkeypatch.setattr(hrnet.data.decoded, "_BOOT", boot)
    boot.write_text("first\n")
    before = Decoded(split)
    assert_equal(before, split)
    boot.write_text("second\n")
    after = Decoded(split)
    assert here(after) == []
    # That of a machine that shares the cache stays, as long as it is used there.
    assert [file.name.rsplit("-", 1)[1] for file in files(tmp_path)] == ["first.scratch", "second.scratch"]
    del before
    boot.write_text("third\n")
    Decoded(split)
    assert "first.scratch" not in [file.name.rsplit("-", 1)[1] for file in files(tmp_path)]
    assert_equal(after, split)


def test_another_version_of_opencv_decodes_for_itself(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Decoded(split)
    assert_equal(first, split)
    monkeypatch.setattr(cv2, "__version__", "0.0.0")
    assert here(Decoded(split)) == []
    assert len(files(tmp_path)) == 2


def test_a_cache_that_cannot_be_written_means_decoding(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "file"))
    decoded = Decoded(split)
    assert decoded._store is None
    assert_equal(decoded, split)


def test_an_evaluation_is_the_same_from_kept_images(
    tmp_path: Path, tiny_data: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    model = build_model(tiny_recipe.width, tiny_recipe.num_classes)
    counts = []
    for limit in ("0", "1", "1"):
        monkeypatch.setenv("HRGRID_DECODED_GB", limit)
        evaluation = evaluate_split(model, open_dataset(tiny_data).split("val"), tiny_recipe, Gang.current())
        counts.append(drain(evaluation).counts())
    assert len(here(Decoded(open_dataset(tiny_data).split("val")))) == 3
    assert counts[0].sum() > 0
    np.testing.assert_array_equal(counts[0], counts[1])
    np.testing.assert_array_equal(counts[0], counts[2])
