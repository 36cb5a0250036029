"""Training augmentation and normalisation, pixel for pixel as the published pipeline.

Every random function takes its draws from a `Draws` and consumes them in the order of the reference pipeline, so that
a scripted sequence reproduces the reference's output exactly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # what checks data before a launch imports this module, and does not need torch
    import torch

__all__ = [
    "IGNORE",
    "MEAN",
    "STD",
    "Augmentation",
    "Draws",
    "keep_ratio_size",
    "normalise",
    "photometric_distortion",
    "random_crop",
    "reduce_zero_label",
    "resize_crop",
    "resize_image",
    "resize_label",
    "train_transform",
]

Image = NDArray[np.uint8]

Box = tuple[int, int, int, int]
"""Top, bottom, left and right of a part of an image; bottom and right are outside."""

MEAN = (123.675, 116.28, 103.53)
"""Channel means in RGB order, 0..255: those of the ImageNet weights that the table starts from."""

STD = (58.395, 57.12, 57.375)
"""Channel standard deviations in RGB order, 0..255."""

IGNORE = 255
"""Training id of pixels that count nowhere."""

_CROP_TRIES = 10


class Draws(Protocol):
    """A source of random numbers."""

    def random(self) -> float:
        """Return a float in [0, 1)."""

    def integers(self, low: int, high: int) -> int:
        """Return an integer in [low, high)."""

    def uniform(self, low: float, high: float) -> float:
        """Return a float in [low, high)."""


class Augmentation(Protocol):
    """The fields of a recipe that the training pipeline reads."""

    @property
    def dataset(self) -> str:
        """Name of the data set."""

    @property
    def crop(self) -> tuple[int, int]:
        """Crop height and width in pixels."""

    @property
    def train_scale(self) -> tuple[int, int]:
        """Bounds of the resized image before the ratio, as published; the order does not matter."""

    @property
    def ratio_range(self) -> tuple[float, float]:
        """Lowest and highest ratio applied to `train_scale`."""

    @property
    def cat_max_ratio(self) -> float:
        """Largest share that one class may have of a crop."""

    @property
    def flip_prob(self) -> float:
        """Probability of a horizontal flip."""

    @property
    def photometric(self) -> bool:
        """Whether colours are distorted."""

    @property
    def conventions(self) -> Literal["0.x", "1.x"]:
        """Which release of the reference to follow where they differ."""


def keep_ratio_size(h: int, w: int, scale: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of an h x w image resized into `scale`, keeping its shape.

    The long side is bounded by the larger number of `scale`, the short side by the smaller; sizes are rounded half up.
    """
    factor = min(max(scale) / max(h, w), min(scale) / min(h, w))
    return int(h * factor + 0.5), int(w * factor + 0.5)


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """Resize an HxWx3 uint8 image to `size` (height, width), bilinear without antialiasing."""
    if image.shape[:2] == size:
        return image
    return _uint8(cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))


def resize_label(label: Image, size: tuple[int, int]) -> Image:
    """Resize an HxW label map to `size` (height, width); pixel i takes source pixel floor(i * in / out)."""
    if label.shape == size:
        return label
    return _uint8(cv2.resize(label, (size[1], size[0]), interpolation=cv2.INTER_NEAREST))


def reduce_zero_label(label: Image) -> Image:
    """Return `label` with 0 turned into 255 (ignored), 255 kept, and every other value lowered by one."""
    table = np.arange(256, dtype=np.int16) - 1
    table[0] = table[255] = IGNORE
    return _uint8(table.astype(np.uint8)[label])


def random_crop(
    label: Image, size: tuple[int, int], crop: tuple[int, int], cat_max_ratio: float, rng: Draws
) -> tuple[Box, Image]:
    """Draw a crop of `label` resized to `size` (height, width): the box and the label map in it.

    The box is as large as `crop`, smaller where the resized label is. One in which one class has `cat_max_ratio` or
    more of the pixels that are not ignored, or in which there is only one class, is drawn again, at most ten times;
    the last is taken as it is.
    """
    box = _draw_box(size, crop, rng)
    part = _label_crop(label, size, box)
    if cat_max_ratio >= 1.0:
        return box, part
    for _ in range(_CROP_TRIES):
        counts = _class_counts(part)
        if np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < cat_max_ratio:
            break
        box = _draw_box(size, crop, rng)
        part = _label_crop(label, size, box)
    return box, part


def _draw_box(size: tuple[int, int], crop: tuple[int, int], rng: Draws) -> Box:
    top = rng.integers(0, max(size[0] - crop[0], 0) + 1)
    left = rng.integers(0, max(size[1] - crop[1], 0) + 1)
    return top, min(top + crop[0], size[0]), left, min(left + crop[1], size[1])


def _label_crop(label: Image, size: tuple[int, int], box: Box) -> Image:
    """Return what `resize_label(label, size)` has in `box`."""
    top, bottom, left, right = box
    if label.shape == size:
        return label[top:bottom, left:right]
    rows = _nearest(top, bottom, label.shape[0], size[0])
    # Whole rows first, which are copied at once; then columns.
    return _uint8(label[rows].take(_nearest(left, right, label.shape[1], size[1]), axis=1))


def _nearest(start: int, stop: int, source: int, target: int) -> NDArray[np.intp]:
    """Source pixels of the target pixels `start` .. `stop` - 1, with OpenCV's arithmetic (the factor's reciprocal)."""
    places = np.arange(start, stop) * (1.0 / (target / source))
    pixels: NDArray[np.intp] = np.minimum(places, source - 1).astype(np.intp)
    return pixels


def _class_counts(label: Image) -> NDArray[np.int64]:
    # OpenCV counts in float32: without error up to 2**24 pixels, which is more than any crop has.
    return cv2.calcHist([label], [0], None, [256], [0, 256])[:IGNORE].astype(np.int64)


def resize_crop(image: Image, size: tuple[int, int], box: Box) -> Image:
    """Return what `resize_image(image, size)` has in `box`, bit for bit, computing nothing right of it or below.

    With factors instead of a size OpenCV gives a part of an image the positions and weights that it gives the whole,
    as long as both begin at the same pixel. What is left of the box or above it has to be computed for that.
    """
    top, bottom, left, right = box
    if image.shape[:2] == size:
        return image[top:bottom, left:right]
    factors = size[0] / image.shape[0], size[1] / image.shape[1]
    rows, columns = (math.ceil(end / factor) + 2 for end, factor in zip((bottom, right), factors, strict=True))
    part = image[:rows, :columns]
    resized = _uint8(cv2.resize(part, None, fx=factors[1], fy=factors[0], interpolation=cv2.INTER_LINEAR))
    if resized.shape == part.shape:
        # Here OpenCV copies, whatever the factors.
        resized = resize_image(image, size)
    return resized[top:bottom, left:right]


def photometric_distortion(image: Image, rng: Draws) -> Image:
    """Distort brightness, contrast, saturation and hue of a BGR uint8 image, each with probability 1/2.

    Each step is a function of one byte, so it is a table look-up, and what follows one another without a change of
    the colour space is one; values are truncated, not rounded, after each step.
    """
    first = _linear_table(1.0, rng.uniform(-32.0, 32.0)) if rng.integers(0, 2) else _SAME
    contrast_first = rng.integers(0, 2) == 1
    if contrast_first:
        first = _joined(first, _draw_contrast(rng))
    # OpenCV's 8-bit hue runs from 0 to 179.
    saturation = _linear_table(rng.uniform(0.5, 1.5), 0.0) if rng.integers(0, 2) else None
    hue = ((np.arange(256) + rng.integers(-18, 18)) % 180).astype(np.uint8) if rng.integers(0, 2) else None
    last = _SAME if contrast_first else _draw_contrast(rng)
    if saturation is None and hue is None:
        return _look_up(image, _joined(first, last))
    image = _look_up(image, first)
    if saturation is not None:
        image = _change_hsv(image, 1, saturation)
    if hue is not None:
        # From HSV to HSV by way of BGR bytes is not the identity, so both need a round trip of their own.
        image = _change_hsv(image, 0, hue)
    return _look_up(image, last)


_SAME: Image = np.arange(256, dtype=np.uint8)


def _draw_contrast(rng: Draws) -> Image:
    return _linear_table(rng.uniform(0.5, 1.5), 0.0) if rng.integers(0, 2) else _SAME


def _joined(first: Image, second: Image) -> Image:
    return first if second is _SAME else second[first]


def _linear_table(alpha: float, beta: float) -> Image:
    values = np.arange(256, dtype=np.float32) * float(alpha) + float(beta)
    return _uint8(np.clip(values, 0, 255).astype(np.uint8))


def _look_up(image: Image, table: Image) -> Image:
    if table is _SAME:
        return image
    # As if it had one channel, for which OpenCV's loop is twice as fast.
    return _uint8(cv2.LUT(image.reshape(len(image), -1), table)).reshape(image.shape)


def _change_hsv(image: Image, channel: int, table: Image) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
    return _uint8(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))


def train_transform(image: Image, label: Image, recipe: Augmentation, rng: Draws) -> tuple[Image, Image]:
    """Augment one sample: resize, crop, flip, distort colours.

    `image` is HxWx3 uint8 BGR, `label` HxW uint8 training ids with 255 ignored. The result has the recipe's crop size,
    or less where the resized image is smaller (the batch pads it); with conventions 1.x a voc12aug sample is padded
    here, before normalisation, as that release does.
    """
    low, high = recipe.ratio_range
    ratio = rng.random() * (high - low) + low
    scale = (int(recipe.train_scale[0] * ratio), int(recipe.train_scale[1] * ratio))
    size = keep_ratio_size(image.shape[0], image.shape[1], scale)
    box, label = random_crop(label, size, recipe.crop, recipe.cat_max_ratio, rng)
    image = resize_crop(image, size, box)
    if rng.random() < recipe.flip_prob:
        image, label = _uint8(cv2.flip(image, 1)), _uint8(cv2.flip(label, 1))
    if recipe.photometric:
        image = photometric_distortion(image, rng)
    if recipe.conventions == "1.x" and recipe.dataset == "voc12aug":
        image, label = _pad(image, recipe.crop, 0), _pad(label, recipe.crop, IGNORE)
    return image, label


def _pad(array: Image, size: tuple[int, int], value: int) -> Image:
    padded = np.full((*size, *array.shape[2:]), value, dtype=np.uint8)
    padded[: array.shape[0], : array.shape[1]] = array
    return padded


def normalise(images: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Turn a batch into the network's input.

    `images` is (N,H,W,3) uint8 BGR, `sizes` (N,2) the valid height and width of each. Returns (N,3,H,W) float32 RGB,
    (x - MEAN) / STD, exactly 0.0 outside the valid part, in channels-last memory.
    """
    import torch

    height, width = images.shape[1:3]
    mean = torch.tensor(MEAN, dtype=torch.float32, device=images.device)
    std = torch.tensor(STD, dtype=torch.float32, device=images.device)
    values = images.flip(-1).to(torch.float32).sub_(mean).div_(std)
    if math.prod(sizes.shape) and not _all_full(sizes, height, width):
        sizes = sizes.to(images.device)
        rows = torch.arange(height, device=images.device)[None, :] < sizes[:, :1]
        columns = torch.arange(width, device=images.device)[None, :] < sizes[:, 1:]
        values.masked_fill_(~(rows[:, :, None] & columns[:, None, :])[..., None], 0.0)
    return values.permute(0, 3, 1, 2)


def _all_full(sizes: torch.Tensor, height: int, width: int) -> bool:
    # Looking into a tensor on an accelerator would stall its queue; masking is cheaper there.
    return sizes.device.type == "cpu" and bool((sizes == sizes.new_tensor([height, width])).all())


def _uint8(array: Any) -> Image:
    return np.asarray(array, dtype=np.uint8)
