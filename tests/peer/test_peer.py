"""Against mmsegmentation itself: every line of the comparison within rounding."""

from __future__ import annotations

import pytest

from tests.peer.compare import PARTS, PEER, compare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not PEER.exists(), reason=f"no environment of the peer at {PEER}: make it with `make peer`"),
]


def test_every_figure_equals_the_peers_within_rounding() -> None:
    rows = compare(list(PARTS))
    assert {row.what.split(",")[0] for row in rows} >= {"logits", "prediction", "ms+flip", "training step", "metric"}
    for row in rows:
        assert row.difference is not None or row.equal is not None, row
        assert row.equal is None or row.equal > 99.9, row
        assert row.relative is None or row.relative < 1e-4, row
        assert row.difference is None or row.difference < 0.01, row
