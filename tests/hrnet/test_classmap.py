"""Class maps without enlarged logits equal those of enlarged logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hrnet.evaluation.classmap import Votes, enlarged_class_map
from hrnet.model.backbone import resize

# What the network saw, the image, places per blob of one class: large blobs are computed at their borders alone.
SIZES = [
    ((256, 256), (256, 256), 16),
    ((97, 131), (97, 131), 12),
    ((97, 131), (90, 121), 12),
    ((97, 131), (141, 190), 12),
    ((64, 64), (64, 64), 1),
    ((64, 96), (50, 75), 1),
]


def field(classes: int, seen: tuple[int, int], blob: int) -> Tensor:
    height, width = -(-seen[0] // 4), -(-seen[1] // 4)
    generator = torch.Generator().manual_seed(classes)
    rough = torch.randn(1, classes, max(height // blob, 2), max(width // blob, 2), generator=generator)
    noise = 0.01 * torch.randn(1, classes, height, width, generator=generator)
    return functional.interpolate(rough, (height, width), mode="bicubic") + noise


@pytest.mark.parametrize("classes", [1, 2, 19, 150])
@pytest.mark.parametrize(("seen", "size", "blob"), SIZES)
def test_the_class_map_is_that_of_enlarged_logits(
    classes: int, seen: tuple[int, int], size: tuple[int, int], blob: int
) -> None:
    logits = field(classes, seen, blob)
    enlarged = resize(resize(logits, seen), size)[0].double()
    classes_here = torch.from_numpy(enlarged_class_map(logits, seen, size)).long()
    assert classes_here.shape == size
    # Where two classes are equal within rounding either may lead.
    chosen = enlarged.gather(0, classes_here[None])[0]
    assert float((enlarged.max(dim=0).values - chosen).max()) < 1e-5
    assert float((enlarged.argmax(dim=0) == classes_here).double().mean()) > 0.999


def test_logits_of_the_images_own_size_are_taken_as_they_are() -> None:
    logits = torch.randn(1, 5, 33, 47, generator=torch.Generator().manual_seed(0))
    classes = enlarged_class_map(logits, (33, 47), (33, 47))
    assert torch.equal(torch.from_numpy(classes).long(), logits[0].argmax(dim=0))


def test_votes_are_the_mean_of_probabilities() -> None:
    size, votes = (75, 100), Votes((75, 100))
    total = torch.zeros(1, 6, *size)
    for seen in ((64, 86), (96, 128), (75, 100)):
        logits = 4 * field(6, seen, 6)
        votes.add(logits, seen)
        total += resize(resize(logits, seen), size).softmax(dim=1)
    classes = torch.from_numpy(votes.class_map()).long()
    chosen = total[0].gather(0, classes[None])[0]
    assert float((total[0].max(dim=0).values - chosen).max()) < 1e-5


def test_votes_need_a_view() -> None:
    with pytest.raises(ValueError, match="no view"):
        Votes((2, 2)).class_map()
