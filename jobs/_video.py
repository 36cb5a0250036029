"""Frames out of video files and into them, with the decoder and encoder that OpenCV brings along."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # else its decoder writes about broken files itself

import cv2
import numpy as np
from numpy.typing import NDArray

from hrnet.errors import DataError

__all__ = ["VIDEO_SUFFIXES", "Clip", "VideoFile", "frames", "open_clip"]

Image = NDArray[np.uint8]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
_USUAL_RATE = 25.0
"""Frames per second of a file that does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A video file that can be read."""

    file: Path
    """Where it is."""

    count: int
    """Frames in it, as it says itself; some containers estimate it. At least 1."""

    rate: float
    """Frames per second."""

    def taken(self, every: int) -> int:
        """How many frames are taken when one of `every` is."""
        return math.ceil(self.count / every)


def open_clip(file: Path) -> Clip:
    """Look into a video file; raises DataError if nothing can be read there."""
    capture = _capture(file)
    try:
        if not capture.grab():
            raise DataError(f"{file} is no video that can be read")
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()
    return Clip(file=file, count=max(1, count), rate=rate if 0 < rate < 1000 else _USUAL_RATE)


def frames(clip: Clip, every: int) -> Iterator[tuple[int, Image]]:
    """Yield the number, from 0, and the pixels (H,W,3), blue first, of each `every`th frame.

    Raises DataError when the frames end well before the file says; those that can be read were yielded then.
    """
    capture = _capture(clip.file)
    number = 0
    try:
        while capture.grab():
            if number % every == 0:
                there, pixels = capture.retrieve()
                if not there:
                    break
                yield number, np.asarray(pixels, dtype=np.uint8)
            number += 1
    finally:
        capture.release()
    # What a container says of itself may be off by a frame or two, of long ones by more.
    if number < clip.count - max(2, clip.count // 100):
        raise DataError(f"{clip.file} is damaged: it can be read up to frame {number} of {clip.count}")


class VideoFile:
    """An MP4 file under construction (MPEG-4 part 2); it has its name when it is complete, and is gone otherwise."""

    def __init__(self, file: Path, rate: float) -> None:
        """`rate`: frames per second. The first frame gives the size."""
        self.file = file
        self._rate = rate
        self._partial = file.with_name(f".{file.stem}.partial{file.suffix}")
        self._writer: cv2.VideoWriter | None = None

    def add(self, picture: Image) -> None:
        """Add a frame, (H,W,3) blue first; raises DataError if it cannot be written."""
        height, width = picture.shape[:2]
        if height % 2 or width % 2:  # the encoder would cut an odd row or column off
            picture = np.asarray(
                cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE), dtype=np.uint8
            )
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._partial), code, self._rate, picture.shape[1::-1])
        if not self._writer.isOpened():
            raise DataError(f"cannot write {self.file}: is the folder writable and the disk not full?")
        self._writer.write(picture)

    def finish(self) -> None:
        """Give the file its name."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self._partial.replace(self.file)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        self._partial.unlink(missing_ok=True)


def _capture(file: Path) -> cv2.VideoCapture:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(str(file.absolute()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise DataError(f"{file} is no video that can be read")
    return capture
