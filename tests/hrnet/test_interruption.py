"""Stopped after any step and resumed, a training ends with the same bits; and what a state holds."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from hrnet.catalogue import Recipe
from hrnet.data.shards import open_dataset
from hrnet.errors import DivergedError, MemoryShortage, WeightsError
from hrnet.events import Event
from hrnet.memory import memory_explained, training_remedies
from hrnet.training.loop import train
from hrnet.training.state import STATE_FILE, weights_hash

STEPS = 4
EXACT = ("train/loss", "train/acc", "train/lr", "val/mIoU", "val/mAcc", "val/aAcc", "val/mIoU_best")
"""Metrics that are no rates."""


@pytest.fixture(scope="module")
def brief(tiny_recipe: Recipe) -> Recipe:
    """Four steps: logging after 3 and 4, validation after 2 and 4, an epoch of four."""
    return tiny_recipe.with_overrides(
        {"max_iters": str(STEPS), "log_interval": "3", "val_interval": "2", "checkpoint_interval": "4",
         "batch_size": "2", "crop": "32x32", "val_limit": "1"}
    )  # fmt: skip


def follow(
    recipe: Recipe, data: Path, keep: Path, *, resume: Path | None = None, stop_at: int | None = None,
    save: bool = False,
) -> list[Event]:  # fmt: skip
    """Train, with an end asked for after a step, or a checkpoint after every; states go to `keep`/<step>."""
    loop, answer, events = train(recipe, open_dataset(data), seed=5, resume=resume), None, []
    while True:
        try:
            event = loop.send(answer)
        except StopIteration:
            return events
        answer = None
        if event.kind == "step":
            answer = "stop" if event.step == stop_at else "save" if save else None
            continue
        if event.save is not None:
            event.save(keep / str(event.step))
        events.append(event)


def exact(events: list[Event]) -> list[tuple[str, int, dict[str, float]]]:
    """Everything that an interruption must not change, without checkpoints, which it adds."""
    return [
        (event.kind, event.step, {name: value for name, value in event.metrics.items() if name in EXACT})
        for event in events
        if event.kind != "checkpoint"
    ]


def assert_same_state(one: Path, other: Path) -> None:
    """The bytes of the files are the same: weights, momentum, statistics, scores, sums, generator."""
    assert weights_hash(one) == weights_hash(other)
    assert (one / STATE_FILE).read_bytes() == (other / STATE_FILE).read_bytes()


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_stopped_after_any_step_it_ends_with_the_same_bits(
    brief: Recipe, tiny_data: Path, tmp_path: Path, precision: str
) -> None:
    recipe = brief.with_overrides({"precision": precision})
    whole = follow(recipe, tiny_data, tmp_path / "whole")
    follow(recipe, tiny_data, tmp_path / "saved", save=True)
    assert_same_state(tmp_path / "saved" / str(STEPS), tmp_path / "whole" / str(STEPS))
    for step in range(1, STEPS + 1):
        keep = tmp_path / f"stopped at {step}"
        first = follow(recipe, tiny_data, keep, stop_at=step)
        assert (first[-1].kind, first[-1].step, first[-1].wish) == ("checkpoint", step, "stop")
        rest = follow(recipe, tiny_data, keep, resume=keep / str(step))
        assert exact(first) + exact(rest) == exact(whole), f"stopped after step {step}"
        assert_same_state(keep / str(STEPS), tmp_path / "whole" / str(STEPS))


def test_resumed_at_its_end_it_only_says_so(brief: Recipe, tiny_data: Path, tmp_path: Path) -> None:
    short = brief.with_overrides({"max_iters": "1", "val_interval": "1"})
    whole = follow(short, tiny_data, tmp_path)
    rest = follow(short, tiny_data, tmp_path, resume=tmp_path / "1")
    assert exact(rest) == exact(whole)[-1:]
    assert [event.kind for event in rest] == ["finished"]


def test_a_state_of_format_1_is_gone_on_with(brief: Recipe, tiny_data: Path, tmp_path: Path) -> None:
    whole = follow(brief, tiny_data, tmp_path / "whole")
    follow(brief, tiny_data, tmp_path, stop_at=1)
    content: dict[str, Any] = torch.load(tmp_path / "1" / STATE_FILE, weights_only=True)
    content["meta"]["format"] = 1
    # It held one row, in which an iteration of a worker counted 1 whatever its images.
    content["progress"]["sums"] = content["progress"]["sums"][0] / torch.tensor([2.0, 1.0, 1.0, 2.0])
    torch.save(content, tmp_path / "1" / STATE_FILE)
    rest = follow(brief, tiny_data, tmp_path, resume=tmp_path / "1")
    assert exact(rest) == exact(whole)[1:]
    content["meta"]["format"] = 3
    torch.save(content, tmp_path / "1" / STATE_FILE)
    with pytest.raises(WeightsError, match=r"has the format 3, this version of hrgrid reads \(1, 2\)"):
        weights_hash(tmp_path / "1")


def test_the_hash_is_of_the_weights_alone(brief: Recipe, tiny_data: Path, tmp_path: Path) -> None:
    follow(brief, tiny_data, tmp_path, stop_at=1)
    folder = tmp_path / "1"
    known = weights_hash(folder)
    content: dict[str, Any] = torch.load(folder / STATE_FILE, weights_only=True)
    content["progress"]["best"] = 50.0
    torch.save(content, folder / STATE_FILE)
    assert weights_hash(folder) == known
    weight = content["state_dict"]["decode_head.conv_seg.bias"]
    weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    torch.save(content, folder / STATE_FILE)
    assert weights_hash(folder) != known


def test_divergence_leaves_its_evidence(tiny_recipe: Recipe, tiny_data: Path, tmp_path: Path) -> None:
    # Every step makes the weights about a hundred times larger, on any processor.
    recipe = tiny_recipe.with_overrides({"lr": "100", "weight_decay": "1", "log_interval": "20", "crop": "32x32"})
    with pytest.raises(DivergedError, match="the loss is") as caught:
        follow(recipe, tiny_data, tmp_path, save=True)
    evidence = json.loads(json.dumps(caught.value.evidence, allow_nan=False))
    rows = evidence["iterations"]
    first = evidence["iteration"]
    assert [row["iteration"] for row in rows] == list(range(1, first + 1)), "a diverged state is not saved either"
    assert [isinstance(row["loss"], float) for row in rows] == [True] * (first - 1) + [False]
    assert f"at iteration {first}: lower lr" in str(caught.value)
    assert rows[1]["positions"] == [4, 7]
    assert len(set(rows[0]["samples"] + rows[1]["samples"])) == 8, "an epoch has every sample once"
    assert not (tmp_path / str(first)).exists()
    assert (caught.value.failure, MemoryShortage.failure) == ("diverged", "out-of-memory")


def test_a_lack_of_memory_is_one_sentence(tiny_recipe: Recipe, tiny_data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides({"crop": "16384x16384"})
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    # The four images of a batch alone have 3.2 GB.
    resource.setrlimit(resource.RLIMIT_AS, (own + (2 << 30), limits[1]))
    try:
        with pytest.raises(MemoryShortage) as caught:
            follow(recipe, tiny_data, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    sentence = str(caught.value)
    assert "iteration 1 on 4 images of 16384x16384 per worker ran out of memory: this machine has" in sentence
    assert "--set precision=bf16" in sentence


def test_the_remedies_name_the_divisors(tiny_recipe: Recipe) -> None:
    assert training_remedies(tiny_recipe, 2)[0] == "more workers (--workers 4)"
    assert training_remedies(tiny_recipe, 4)[0].startswith("--set precision=bf16")
    assert training_remedies(tiny_recipe.with_overrides({"precision": "bf16"}), 4) == ["a device with more memory"]


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_explained(torch.device("cpu"), "a test", []):
        raise RuntimeError("shapes do not match")
    no_remedy = memory_explained(torch.device("cpu"), "a test", [])
    with pytest.raises(MemoryShortage, match=r"a test ran out of memory.*take a device with more memory"), no_remedy:
        torch.empty(1 << 56, dtype=torch.uint8)
