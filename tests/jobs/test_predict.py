"""`hrgrid predict` on images, folders and videos: what it writes and leaves alone, what it says of broken files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hrnet.catalogue import recipe
from hrnet.data.cards import card
from hrnet.draw import overlay
from hrnet.model.segmentor import build_model
from hrnet.serving import example_image, open_served, write_served
from jobs._video import frames, open_clip
from jobs.cli import main
from tests.hrnet.fill import fill
from tests.integration import children

HR18S = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
FRAMES = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, whose weights follow a rule and whose images are tested small."""
    folder = tmp_path_factory.mktemp("model") / "network"
    small = recipe(HR18S).with_overrides({"test_scale": "128x64", "tta_ratios": "1.0"})
    network = build_model("w18-small", 19)
    fill(network)
    write_served(folder, small, card("cityscapes"), network.state_dict())
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street that passes by, 128x64, 12 frames of 10 a second, each its own picture."""
    street = cv2.imdecode(np.frombuffer(example_image(card("cityscapes")), np.uint8), cv2.IMREAD_COLOR)
    assert street is not None
    file = tmp_path_factory.mktemp("clip") / "drive.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 64))
    for number in range(FRAMES):
        writer.write(np.ascontiguousarray(street[32:96, 8 * number : 8 * number + 128]))
    writer.release()
    return file


def predict(*words: str | Path) -> int:
    return main(["predict", *map(str, words), "--device", "cpu"])


def read(file: Path) -> NDArray[np.uint8]:
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, file
    return np.asarray(pixels, dtype=np.uint8)


def film(file: Path) -> list[NDArray[np.uint8]]:
    return [picture for _, picture in frames(open_clip(file), 1)]


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_a_video_becomes_an_overlay_video(
    model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, clip, "-o", tmp_path, "--frame-maps", "--json") == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts["video"], facts["frames"]) == (str(clip), FRAMES)
    assert names(tmp_path) == [*(f"drive_classes/{n:06d}.png" for n in range(FRAMES)), "drive_overlay.mp4"]
    capture = cv2.VideoCapture(facts["overlay"])
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    served, drawn = open_served(model, torch.device("cpu")), film(Path(facts["overlay"]))
    assert len(drawn) == FRAMES
    for number, (frame, picture) in enumerate(zip(film(clip), drawn, strict=True)):
        classes = read(tmp_path / "drive_classes" / f"{number:06d}.png")
        assert np.array_equal(classes, served.segment(frame))
        # The encoder loses detail, and so little that another frame's overlay is much farther away.
        wanted = overlay(frame, classes, served.card.palette)
        assert np.abs(wanted.astype(int) - picture).mean() < 12


def test_every_nth_frame_at_the_same_pace(model: Path, clip: Path, tmp_path: Path) -> None:
    assert predict(model, clip, "-o", tmp_path, "--every", "5", "--frame-maps") == 0
    assert names(tmp_path) == [*(f"drive_classes/{n:06d}.png" for n in (0, 5, 10)), "drive_overlay.mp4"]
    assert cv2.VideoCapture(str(tmp_path / "drive_overlay.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(2)


def test_a_folder_with_all_below_it_and_without_its_own_results(
    model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "given"
    (given / "sub" / ".cache").mkdir(parents=True)
    picture = np.full((51, 77, 3), 90, np.uint8)
    for name in ("odd.png", "sub/odd.jpg", "sub/.cache/odd.png", "old_overlay.png"):
        cv2.imwrite(str(given / name), picture)
    (given / "sub" / clip.name).write_bytes(clip.read_bytes())
    (given / "notes.txt").write_text("no picture")
    for _ in range(2):  # into the folder itself, twice
        assert predict(model, given, "-o", given) == 0
    assert "drive.avi: " in capsys.readouterr().out
    written = {name for name in names(given) if Path(name).stem.endswith(("_classes", "_overlay"))}
    assert written == {
        "odd_classes.png", "odd_overlay.png", "old_overlay.png", "sub/odd_classes.png", "sub/odd_overlay.png",
        "sub/drive_overlay.mp4",
    }  # fmt: skip
    assert read(given / "odd_classes.png").shape == (51, 77)


def test_two_inputs_of_one_name(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "same.png"), np.zeros((8, 8, 3), np.uint8))
    assert predict(model, tmp_path / "one", tmp_path / "two", "-o", tmp_path / "out") == 2
    assert "predict them apart" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_broken_videos(model: Path, clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One sentence each, also from the decoder; what can be read of a damaged one is kept."""
    out, content = tmp_path / "out", clip.read_bytes()
    for name in ("empty.mp4", "text.mp4", "text.xyz"):
        (tmp_path / name).write_bytes(b"" if name == "empty.mp4" else b"no video " * 400)
        assert predict(model, tmp_path / name, "-o", out) == 2
        (said,) = capfd.readouterr().err.splitlines()
        assert said.startswith("hrgrid: error: ")
        assert name in said
        assert not out.exists()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(content[: len(content) // 2])
    assert predict(model, cut, "-o", out) == 2
    (said,) = capfd.readouterr().err.splitlines()
    kept = film(out / "cut_overlay.mp4")
    assert 0 < len(kept) < FRAMES
    assert f"is damaged: it can be read up to frame {len(kept)} of {FRAMES}" in said
    assert str(out / "cut_overlay.mp4") in said


INTERRUPTED = """
import os, signal, sys, threading, time
from pathlib import Path
from jobs.cli import main
out = Path(sys.argv[2])
def interrupt():
    while not list(out.glob("drive_classes/000003.png")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
sys.exit(main(["predict", sys.argv[1], *sys.argv[3:], "-o", sys.argv[2], "--device", "cpu", "--frame-maps"]))
"""


def test_ctrl_c_leaves_what_is_done_and_no_half_file(model: Path, clip: Path, tmp_path: Path) -> None:
    image, out, long = tmp_path / "first.png", tmp_path / "out", tmp_path / "drive.avi"
    cv2.imwrite(str(image), np.zeros((64, 128, 3), np.uint8))
    writer = cv2.VideoWriter(str(long), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 64))
    for _ in range(500):
        writer.write(np.full((64, 128, 3), 90, np.uint8))
    writer.release()
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(model), str(out), str(image), str(long)],
        env=children.environment(tmp_path / "home"), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert "1 of 2 inputs done" in done.stderr
    assert "Traceback" not in done.stderr
    left = names(out)
    assert {"first_classes.png", "first_overlay.png", "drive_classes/000003.png"} <= set(left)
    assert not [name for name in left if "partial" in name or name.endswith(".mp4")]
    for name in left:
        assert read(out / name).shape[:2] == (64, 128)


def test_progress_in_a_pipe_tells_frames(
    model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs._progress.PLAIN_SECONDS", 0.0)
    assert predict(model, clip, "-o", tmp_path) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segmenting: ")]
    assert lines[0] == f"segmenting: 1 of {FRAMES} (drive.avi)"
    assert lines[-1].startswith(f"segmenting: {FRAMES} of {FRAMES}, ")
    assert "/s" in lines[-1]
