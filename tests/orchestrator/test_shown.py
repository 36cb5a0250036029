"""What reports draw: curves stay small at any length, a resumed training goes on with them, damage costs none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.ledger import Ledger
from orchestrator.shown import KEPT_BYTES, POINTS, Curves, Exhibit, table_copies
from orchestrator.storage import Storage


def _kept(storage: Storage, curves: Curves) -> Exhibit:
    storage.write_bytes("trials/k/shown/curves.json", curves.snapshot())
    return Ledger(storage).exhibits(["k"])["k"]


def test_a_long_curve_is_thinned_to_means_and_a_score_to_facts(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    curves = Curves(storage, "k")
    for step in range(1, 3201):
        curves.see({"train/loss": float(step % 2), "train/lr": 0.1}, 50 * step)
        if step % 80 == 0:
            curves.see({"val/mIoU": step / 80 + 0.25}, 50 * step)
    found = _kept(storage, curves).curves
    assert set(found) == {"train/loss", "val/mIoU"}
    assert POINTS // 2 <= len(found["train/loss"]) < POINTS
    assert found["train/loss"][-1] == (160_000, 0.5)
    assert {value for _, value in found["train/loss"]} == {0.5}
    assert found["val/mIoU"] == tuple((4000 * n, n + 0.25) for n in range(1, 41))
    assert len(curves.snapshot()) < 8000


def test_what_a_resumed_training_does_again_replaces_what_was_there(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    first = Curves(storage, "k")
    for step in range(10, 60, 10):
        first.see({"train/loss": 1.0, "val/mIoU": float(step)}, step)
    _kept(storage, first)
    second = Curves(storage, "k")
    second.resume(30)
    assert not second.seen
    second.see({"train/loss": 2.0, "val/mIoU": 4.0}, 40)
    assert second.seen
    found = _kept(storage, second).curves
    assert found["train/loss"] == ((10, 1.0), (20, 1.0), (30, 1.0), (40, 2.0))
    assert found["val/mIoU"] == ((10, 10.0), (20, 20.0), (30, 30.0), (40, 4.0))
    fresh = Curves(storage, "k")
    fresh.resume(0)
    fresh.see({"train/loss": 3.0}, 10)
    assert _kept(storage, fresh).curves == {"train/loss": ((10, 3.0),)}


def test_a_loss_that_is_no_number_is_no_point(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    curves = Curves(storage, "k")
    curves.see({"train/loss": float("nan")}, 10)
    curves.see({"train/loss": 0.123456789}, 20)
    assert _kept(storage, curves).curves == {"train/loss": ((20, 0.12346),)}


def test_small_tables_of_an_evaluation_are_kept(tmp_path: Path) -> None:
    classes = {"mIoU": 50.0, "classes": [{"name": "road", "iou": 90.5, "acc": 95.0}, {"name": "sea", "iou": None}]}
    images = [{"name": "a", "mIoU": 12.5}, {"name": "b", "mIoU": None}]
    artifacts = {
        "eval/per_class_iou.json": json.dumps(classes).encode(),
        "eval/images.json": json.dumps(images).encode(),
        "eval/confusion.png": b"png",
    }
    storage = Storage(str(tmp_path))
    for name, content in table_copies(artifacts).items():
        storage.write_bytes(f"trials/k/shown/{name}", content)
    assert storage.list("trials/k/shown") == ["images.json", "per_class_iou.json"]
    found = Ledger(storage).exhibits(["k", "none"])
    assert found["k"] == Exhibit(classes={"road": 90.5, "sea": None}, images={"a": 12.5})
    assert found["none"] == Exhibit()
    assert not table_copies({"eval/images.json": b" " * (KEPT_BYTES + 1)})


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"train/loss": 5}', b'{"train/loss": {"points": [["a", 1]]}}'])
def test_damage_costs_no_training_and_no_report(tmp_path: Path, content: bytes) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes("trials/k/shown/curves.json", content)
    assert Ledger(storage).exhibits(["k"]) == {"k": Exhibit()}
    curves = Curves(storage, "k")
    curves.resume(10)
    curves.see({"train/loss": 1.0}, 20)
    assert _kept(storage, curves).curves == {"train/loss": ((20, 1.0),)}
