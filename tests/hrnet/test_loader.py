from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch

from hrnet.data.cards import Card
from hrnet.data.loader import Batch, collate, train_batches
from hrnet.data.sampler import index_at, rng_at
from hrnet.data.shards import Split, open_dataset
from hrnet.data.transforms import train_transform
from hrnet.data.writer import Encoded, encode, write_dataset
from hrnet.errors import DataError, LoaderError, TrainingError


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    dataset: str = "stripes"
    crop: tuple[int, int] = (24, 32)
    train_scale: tuple[int, int] = (48, 32)
    ratio_range: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip_prob: float = 0.5
    photometric: bool = True
    conventions: Literal["0.x", "1.x"] = "0.x"
    batch_size: int = 4


CARD = Card(name="stripes", title="Stripes", classes=("a", "b", "c"), palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def stripes(count: int) -> list[Encoded]:
    rng = np.random.default_rng(4)
    made = []
    for index in range(count):
        height, width = int(rng.integers(20, 40)), int(rng.integers(30, 60))
        label = (np.arange(width)[None, :] // 7 % 3 + np.zeros((height, 1))).astype(np.uint8)
        image = np.clip(label[..., None] * 80.0 + rng.normal(30, 15, (height, width, 3)), 0, 255).astype(np.uint8)
        made.append(encode(f"{index}", cv2.imencode(".png", image)[1].tobytes(), label, 3))
    return made


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("loader") / "stripes"
    write_dataset(folder, CARD, {"train": stripes(7)}, shard_bytes=20_000)
    return open_dataset(folder).split("train")


def load(
    split: Split,
    recipe: Settings,
    *,
    start: int = 0,
    stop: int = 5,
    rank: int = 0,
    world: int = 1,
    processes: int = 0,
    seed: int = 11,
) -> list[Batch]:
    batches = train_batches(
        split, recipe, seed=seed, start=start, stop=stop, rank=rank, world=world, processes=processes
    )
    return list(batches)


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for key in ("images", "labels", "sizes"):
            assert torch.equal(getattr(one, key), getattr(other, key)), key


@pytest.fixture(scope="module")
def reference(split: Split) -> list[Batch]:
    return load(split, Settings())


def test_batches_are_the_stream_cut_in_pieces(split: Split, reference: list[Batch]) -> None:
    recipe = Settings()
    for iteration, batch in enumerate(reference):
        crops = []
        for position in range(4 * iteration, 4 * iteration + 4):
            sample = split[index_at(11, position, len(split))]
            crops.append(train_transform(sample.image, sample.label, recipe, rng_at(11, position)))
        assert_equal([batch], [collate(crops, recipe.crop)])


def test_shapes_types_and_padding(reference: list[Batch]) -> None:
    padded = 0
    for batch in reference:
        assert (batch.images.shape, batch.images.dtype) == ((4, 24, 32, 3), torch.uint8)
        assert (batch.labels.shape, batch.labels.dtype) == ((4, 24, 32), torch.uint8)
        assert (batch.sizes.shape, batch.sizes.dtype) == ((4, 2), torch.int64)
        for image, label, (height, width) in zip(batch.images, batch.labels, batch.sizes.tolist(), strict=True):
            padded += height < 24 or width < 32
            assert bool((label[:height, :width] < 3).all())
            for outside in (slice(height, None), slice(None)), (slice(None), slice(width, None)):
                assert bool((image[outside] == 0).all())
                assert bool((label[outside] == 255).all())
    assert padded > 0


@pytest.mark.parametrize("processes", [1, 3])
def test_processes_change_nothing(split: Split, reference: list[Batch], processes: int) -> None:
    assert_equal(load(split, Settings(), processes=processes), reference)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("processes", [0, 2])
def test_workers_share_the_same_batches(split: Split, reference: list[Batch], world: int, processes: int) -> None:
    ranks = [load(split, Settings(), rank=rank, world=world, processes=processes) for rank in range(world)]
    joined = [
        Batch(**{key: torch.cat([getattr(part, key) for part in parts]) for key in ("images", "labels", "sizes")})
        for parts in zip(*ranks, strict=True)
    ]
    assert_equal(joined, reference)


@pytest.mark.parametrize("start", [1, 4, 5])
@pytest.mark.parametrize("processes", [0, 2])
def test_any_start_goes_on_where_it_was(split: Split, reference: list[Batch], start: int, processes: int) -> None:
    assert_equal(load(split, Settings(), start=start, processes=processes), reference[start:])


def test_another_seed_gives_other_batches(split: Split, reference: list[Batch]) -> None:
    other = load(split, Settings(), seed=12)
    assert not any(torch.equal(one.images, two.images) for one, two in zip(other, reference, strict=True))


def test_closing_ends_the_processes(split: Split) -> None:
    batches = train_batches(split, Settings(), seed=0, start=0, stop=10**9, rank=0, world=1, processes=2)
    next(batches)
    running = multiprocessing.active_children()
    assert len(running) == 2
    batches.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_workers_must_divide_the_batch(split: Split) -> None:
    with pytest.raises(TrainingError, match="3 workers do not divide the batch of 4 images"):
        load(split, Settings(), world=3)


@pytest.mark.parametrize("processes", [0, 2])
def test_broken_sample_is_named_in_one_sentence(tmp_path: Path, processes: int) -> None:
    broken = encode("holiday", b"broken", np.zeros((20, 30), np.uint8), 3)
    write_dataset(tmp_path / "broken", CARD, {"train": [*stripes(3), broken]})
    split = open_dataset(tmp_path / "broken").split("train")
    with pytest.raises(DataError) as caught:
        load(split, Settings(), processes=processes)
    assert str(caught.value) == (
        f"the image of train sample 'holiday' (number 3 of {tmp_path}/broken) cannot be decoded; "
        "prepare the data set again"
    )
    assert multiprocessing.active_children() == []


def _kill_and_go_on(batches: Iterator[Batch]) -> None:
    next(batches)
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    for _ in range(100):
        next(batches)


def test_a_killed_process_is_a_training_error(split: Split) -> None:
    batches = train_batches(split, Settings(), seed=0, start=0, stop=10**9, rank=0, world=1, processes=1)
    with pytest.raises((LoaderError, RuntimeError), match=r"a loading process died|killed by signal"):
        _kill_and_go_on(batches)


def test_recipe_fields_reach_the_transform(split: Split) -> None:
    plain = replace(Settings(), flip_prob=0.0, photometric=False, ratio_range=(1.0, 1.0), crop=(100, 100))
    batch = load(split, plain, stop=1)[0]
    sample = split[index_at(11, 0, len(split))]
    scale = min(48 / max(sample.label.shape), 32 / min(sample.label.shape))
    assert batch.sizes[0].tolist() == [int(side * scale + 0.5) for side in sample.label.shape]
