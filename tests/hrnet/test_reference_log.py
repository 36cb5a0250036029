"""OpenMMLab's training logs: both formats, and what in them misleads."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hrnet.errors import DataError, HrnetError
from hrnet.published import published
from hrnet.reference_log import parse_reference_log, read_reference_log


def train(step: int, loss: float, **more: Any) -> dict[str, Any]:
    line = {"mode": "train", "epoch": 1, "iter": step, "lr": 0.01, "memory": 1687, "data_time": 0.01}
    return line | {"decode.loss_ce": loss, "decode.acc_seg": 10 * loss, "loss": loss, "time": 0.2} | more


def val(step: int, miou: float, **more: Any) -> dict[str, Any]:
    return {"mode": "val", "epoch": 1, "iter": step, "lr": 0.009, "mIoU": miou, "mAcc": miou + 0.1, "aAcc": 0.9} | more


def text(lines: Iterable[dict[str, Any]]) -> bytes:
    header = {"env_info": "sys.platform: linux", "seed": None, "exp_name": "fcn.py"}
    return "".join(json.dumps(line) + "\n" for line in (header, *lines)).encode()


def parse(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return dict(parse_reference_log(text(lines), "log"))


def test_mmcv_lines_become_our_metrics_in_percent() -> None:
    curves = parse([train(50, 2.5), train(100, 1.5, lr={"model": 0.1}), val(100, 0.25)])
    assert curves == {
        "train/loss": ((50, 2.5), (100, 1.5)),
        "train/acc": ((50, 25.0), (100, 15.0)),
        "train/lr": ((50, 0.01),),
        "val/mIoU": ((100, 25.0),),
        "val/mAcc": ((100, 35.0),),
        "val/aAcc": ((100, 90.0),),
    }


def test_mmengine_scalars_are_percent_already() -> None:
    lines = [
        {"lr": 0.01, "loss": 2.0, "decode.loss_ce": 2.0, "decode.acc_seg": 40.0, "iter": 50, "memory": 9, "step": 50},
        {"aAcc": 61.5, "mIoU": 0.75, "mAcc": 2.5, "data_time": 0.01, "time": 0.1, "step": 50},
        {"lr": 0.009, "loss": 1.0, "decode.acc_seg": 50.0, "iter": 100, "step": 100},
        {"aAcc": 81.5, "mIoU": 30.0, "mAcc": 40.0, "step": 100},
    ]
    curves = parse(lines)
    assert curves["train/loss"] == ((50, 2.0), (100, 1.0))
    assert curves["val/mIoU"] == ((50, 0.75), (100, 30.0))
    assert curves["val/aAcc"] == ((50, 61.5), (100, 81.5))


def test_a_validation_numbered_by_its_images_belongs_to_the_last_training_line() -> None:
    """mmcv 1.1.4 and later write the length of the validation loader as `iter`."""
    steps = (4000, 8000, 12000)
    late = [line for step in steps for line in (train(step, 1.0), val(125, step / 1e5))]
    assert parse(late)["val/mIoU"] == tuple((step, pytest.approx(step / 1e3)) for step in steps)
    early = [line for step in steps for line in (train(step - 20, 1.0), val(step, step / 1e5))]
    assert [step for step, _ in parse(early)["val/mIoU"]] == list(steps)
    assert [step for step, _ in parse([train(4000, 1.0), val(125, 0.3)])["val/mIoU"]] == [4000]


def test_of_a_training_that_was_taken_up_again_the_later_lines_hold() -> None:
    first = [train(50, 3.0), train(100, 2.0), val(100, 0.2), train(150, 1.9)]
    again = [train(100, 2.2), val(100, 0.21), train(150, 1.8), train(200, 1.0), val(200, 0.4)]
    header = [{"env_info": "another machine", "seed": 0}]
    curves = parse([*first, *header, *again])
    assert curves["train/loss"] == ((50, 3.0), (100, 2.2), (150, 1.8), (200, 1.0))
    assert curves["val/mIoU"] == ((100, 21.0), (200, 40.0))


def test_iterations_within_epochs_are_counted_on() -> None:
    lines = []
    for epoch in (1, 2, 3):
        lines += [train(step, 1 / (100 * epoch + step), epoch=epoch) for step in (50, 100)]
        lines.append(val(32, epoch / 10, epoch=epoch))
    curves = parse(lines)
    assert [step for step, _ in curves["train/loss"]] == [50, 100, 150, 200, 250, 300]
    assert [step for step, _ in curves["val/mIoU"]] == [100, 200, 300]


def test_a_loop_over_the_data_that_counts_iterations_is_not_taken_for_epochs() -> None:
    lines = [train(step, 1.0, epoch=1 + step // 100) for step in (50, 100, 150, 200)]
    assert [step for step, _ in parse(lines)["train/loss"]] == [50, 100, 150, 200]


def test_nan_a_cut_line_and_a_compressed_file() -> None:
    content = text([train(50, float("nan")), train(100, 1.5), val(100, 0.5)]) + b'{"mode": "train", "epoch": 1, "it'
    assert b"NaN" in content
    curves = parse_reference_log(content, "log")
    assert curves["train/loss"] == ((100, 1.5),)
    assert parse_reference_log(gzip.compress(content), "log") == curves
    with pytest.raises(DataError, match="log is a damaged gzip file"):
        parse_reference_log(gzip.compress(content)[:60], "log")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no line of JSON"),
        (b"2020-06-01 01:42:16 - mmseg - INFO - Iter [50/40000]\n", "not the .log beside it"),
        (b'{"a": 1}\n[1, 2]\n{"loss": "x"}\n', "none of its 2 lines of JSON has a loss or an mIoU"),
        (b"\x00\xff" * 99, "no training log of OpenMMLab"),
    ],
)
def test_another_file_is_one_sentence(content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        parse_reference_log(content, "some/file")
    assert str(error.value).startswith("some/file is no training log")
    assert "\n" not in str(error.value)


def test_reading_from_disk_names_the_file_and_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "a.log.json"
    file.write_bytes(text([train(50, 1.0)]))
    log = read_reference_log(str(file))
    assert (log.source, log.sha256) == (str(file), hashlib.sha256(file.read_bytes()).hexdigest())
    assert log.curves["train/loss"] == ((50, 1.0),)
    with pytest.raises(DataError, match=r"there is no reference log .*absent\.json; check the path"):
        read_reference_log(str(tmp_path / "absent.json"))
    with pytest.raises(DataError, match="cannot read the reference log"):
        read_reference_log(str(tmp_path))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address that serves it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_published_log_comes_from_its_address(
    mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, address = mirror
    row = published("fcn_hr18s_4xb2-40k_cityscapes-512x1024")
    assert row is not None
    file = folder / row.log.removeprefix("https://download.openmmlab.com/")
    file.parent.mkdir(parents=True)
    file.write_bytes(text([train(50, 1.0), val(50, 0.5)]))
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HRGRID_WEIGHTS_MIRROR", address)
    log = read_reference_log(row.log)
    assert log.source == row.log
    assert log.curves["val/mIoU"] == ((50, 50.0),)
    file.unlink()
    with pytest.raises(HrnetError, match=r"cannot fetch http://127\.0\.0\.1:\d+/\S+\.log\.json: .*404") as error:
        read_reference_log(row.log)
    assert "\n" not in str(error.value)
