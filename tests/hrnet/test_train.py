"""The loop: exact resume, independence of loader processes and of the number of workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from hrnet.catalogue import Recipe
from hrnet.data.shards import open_dataset
from hrnet.errors import TrainingError, WeightsError
from hrnet.events import Event
from hrnet.training.loop import train
from hrnet.training.state import STATE_FILE


def losses(events: list[Event]) -> list[float]:
    return [event.metrics["train/loss"] for event in events if event.kind == "progress"]


def run(recipe: Recipe, data: Path, keep: Path, *, resume: Path | None = None, processes: int = 0) -> list[Event]:
    """Train to the end; the state of every checkpoint is kept in `keep`/<step>."""
    events = []
    for event in train(recipe, open_dataset(str(data)), seed=5, resume=resume, loader_processes=processes):
        if event.save is not None:
            event.save(keep / str(event.step))
        events.append(event)
    return events


@pytest.fixture(scope="module")
def unbroken(
    tiny_recipe: Recipe, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Event], Path]:
    keep = tmp_path_factory.mktemp("unbroken")
    return run(tiny_recipe, tiny_data, keep), keep


def test_events_come_in_order(unbroken: tuple[list[Event], Path]) -> None:
    events, _ = unbroken
    assert [event.step for event in events if event.kind == "progress"] == list(range(1, 21))
    assert [event.step for event in events if event.kind == "checkpoint"] == [7, 14, 20]
    assert [event.step for event in events if event.kind == "validated"] == [20]
    assert sorted({event.step for event in events if event.kind == "step"}) == list(range(1, 21))
    telling = [event for event in events if event.kind != "step"]
    assert [event.kind for event in telling[-4:]] == ["progress", "validated", "checkpoint", "finished"]
    assert telling[-2].best


def test_an_answer_saves_or_stops(tiny_recipe: Recipe, tiny_data: Path) -> None:
    loop = train(tiny_recipe, open_dataset(str(tiny_data)), seed=5)
    assert (next(loop).kind, next(loop).kind, loop.send("save").kind) == ("started", "step", "progress")
    checkpoint = next(loop)
    assert (checkpoint.kind, checkpoint.step, checkpoint.wish) == ("checkpoint", 1, "save")
    assert [loop.send("stop").kind for _ in range(2)] == ["step", "progress"]
    checkpoint = next(loop)
    assert (checkpoint.kind, checkpoint.step, checkpoint.wish) == ("checkpoint", 2, "stop")
    assert list(loop) == []


def test_the_network_learns(unbroken: tuple[list[Event], Path]) -> None:
    sequence = losses(unbroken[0])
    assert sum(sequence[-5:]) < 0.85 * sum(sequence[:5])


def test_interrupted_at_step_7_and_resumed_gives_the_same_losses_and_weights(
    unbroken: tuple[list[Event], Path], tiny_recipe: Recipe, tiny_data: Path, tmp_path: Path
) -> None:
    events, keep = unbroken
    first = []
    loop = train(tiny_recipe, open_dataset(str(tiny_data)), seed=5)
    for event in loop:
        first.append(event)
        if event.save is not None:
            event.save(tmp_path / "seven")
            break
    loop.close()
    second = run(tiny_recipe, tiny_data, tmp_path, resume=tmp_path / "seven")
    assert losses(first) + losses(second) == losses(events)
    assert len(losses(first)) == 7
    whole, resumed = (torch.load(folder / "20" / STATE_FILE, weights_only=True) for folder in (keep, tmp_path))
    for key, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, resumed["state_dict"][key]), key


def test_loader_processes_change_nothing(
    unbroken: tuple[list[Event], Path], tiny_recipe: Recipe, tiny_data: Path, tmp_path: Path
) -> None:
    assert losses(run(tiny_recipe, tiny_data, tmp_path, processes=3)) == losses(unbroken[0])


def test_a_state_of_another_recipe_is_refused(
    unbroken: tuple[list[Event], Path], tiny_recipe: Recipe, tiny_data: Path, tmp_path: Path
) -> None:
    changed = tiny_recipe.with_overrides({"lr": "0.02"})
    with pytest.raises(WeightsError, match="another experiment"):
        run(changed, tiny_data, tmp_path, resume=unbroken[1] / "7")


def test_a_damaged_state_is_named(
    unbroken: tuple[list[Event], Path], tiny_recipe: Recipe, tiny_data: Path, tmp_path: Path
) -> None:
    content = (unbroken[1] / "7" / STATE_FILE).read_bytes()
    (tmp_path / STATE_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=STATE_FILE):
        run(tiny_recipe, tiny_data, tmp_path, resume=tmp_path)


def test_a_loss_that_is_not_finite_stops(tiny_recipe: Recipe, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss is"):
        # Every step makes the weights about a hundred times larger, on any processor.
        run(tiny_recipe.with_overrides({"lr": "100", "weight_decay": "1"}), tiny_data, tmp_path)


def _worker(rank: int, world: int, recipe: Recipe, data: str, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    events = list(train(recipe, open_dataset(data), seed=5))
    Path(folder, f"{rank}.json").write_text(json.dumps([losses(events), [dict(e.metrics) for e in events[-3:-2]]]))
    distributed.destroy_process_group()


def test_two_workers_are_the_same_experiment(
    unbroken: tuple[list[Event], Path], tiny_recipe: Recipe, tiny_data: Path, tmp_path: Path
) -> None:
    short = tiny_recipe.with_overrides({"max_iters": "3", "val_interval": "3", "lr": "0.001"})
    alone = run(short, tiny_data, tmp_path)
    multiprocessing.spawn(_worker, args=(2, short, str(tiny_data), str(tmp_path)), nprocs=2)
    zero, one = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert zero[0] == one[0]
    assert zero[0] == pytest.approx(losses(alone), rel=2e-3)
    assert zero[0][0] == pytest.approx(losses(alone)[0], rel=1e-5)


def test_workers_that_do_not_divide_the_batch_are_refused(tiny_recipe: Recipe, tiny_data: Path) -> None:
    from hrnet.training.loop import _check_divides

    with pytest.raises(TrainingError, match=r"3 workers do not divide the batch of 4; use one of \[1, 2, 4\]"):
        _check_divides(tiny_recipe, 3)
