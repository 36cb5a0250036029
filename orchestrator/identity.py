"""What a trial's key is made of: everything that changes its numbers, and nothing else.

The key names the training run, the storage prefix and the tracking tag. Where the data lies, how many workers share
the batch, how often it is logged and when it was launched do not enter it; a changed recipe, seed, data set or code
version does.
"""

from __future__ import annotations

import hashlib
import json

from orchestrator.workload import Spec

__all__ = ["KEY_LENGTH", "canonical_json", "trial_key"]

KEY_LENGTH = 16
"""Hexadecimal digits of a key: 64 bits, far beyond the number of trials that one storage ever holds."""


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII; raises ValueError on NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def trial_key(spec: Spec) -> str:
    """Return the 16 hexadecimal digits that identify a spec."""
    identity = {
        "cell": spec.cell.name,
        "settings": _plain({name: value for name, value in spec.settings.items() if name not in spec.free}),
        "seed": spec.seed,
        "data_fingerprint": spec.data_fingerprint,
        "code_version": spec.code_version,
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:KEY_LENGTH]


def _plain(value: object) -> object:
    """Give tuples and other mappings the shape that a JSON round trip gives them, so that both have one key."""
    if hasattr(value, "items"):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
