"""Memory of an evaluation does not grow with the number of images."""

from __future__ import annotations

import pytest

from .evaluation_memory import measure

SIZE = (256, 512)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_four_times_the_images_take_the_same_memory() -> None:
    few, many = measure([100, 400], SIZE)
    kept = 300 * SIZE[0] * SIZE[1] * 5 / 1e6
    # Equal processes differ by some 40 MB from run to run: the allocator's arenas.
    assert abs(many - few) < kept / 3, f"{few:.0f} MB and {many:.0f} MB; images and maps kept would add {kept:.0f} MB"
