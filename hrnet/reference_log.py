"""Training logs of OpenMMLab as plain curves: the `.log.json` of mmcv (0.x) and the scalars of mmengine (1.x).

Both hold one JSON object a line. mmcv's begin with one about the environment, then `{"mode": "train", "epoch", "iter",
"loss", "decode.acc_seg", ...}` and `{"mode": "val", "iter", "mIoU", ...}`; mmengine's have no mode, and `step` beside
or in place of `iter`. What differs between versions, and is taken care of:

- scores are fractions in mmcv's logs and percent in mmengine's;
- a validation's `iter` is the iteration in the oldest logs and the length of the validation set in later ones, and its
  `step` is the epoch where mmengine counts epochs: then it belongs to the last training line before it;
- with a runner of epochs `iter` starts again in every epoch;
- a training that was interrupted goes on in the same file: of lines of the same step the last one holds;
- NaN is written as such; the last line of a killed training is cut off.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hrnet.errors import DataError
from hrnet.fields import public

__all__ = ["Curve", "ReferenceLog", "parse_reference_log", "read_reference_log"]

Curve = tuple[tuple[int, float], ...]
"""(iteration, value) pairs in ascending order of the iteration."""

_SCORES: Final = {"mIoU": "val/mIoU", "mAcc": "val/mAcc", "aAcc": "val/aAcc"}
"""OpenMMLab's names to ours, which are in percent."""

_GZIP: Final = b"\x1f\x8b"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceLog:
    """The curves of one log."""

    source: str
    """The path or address that it was read from, without credentials."""

    sha256: str
    """SHA-256 of the file in hexadecimal."""

    curves: Mapping[str, Curve]
    """Metric under our name (`train/loss`, `train/acc` and `train/lr`, `val/mIoU`, ...) to its curve; scores and
    accuracies in percent."""


def read_reference_log(source: str) -> ReferenceLog:
    """Read a log from a path, an http(s) URL or an S3 URI; it may be compressed with gzip.

    Raises `DataError` for a file that is no such log, `WeightsError` for one that cannot be fetched.
    """
    from hrnet.fetch import is_remote, local_copy, sha256_of

    shown = public(source) if is_remote(source) else source
    path = local_copy(source)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no reference log {shown}; check the path") from None
    except OSError as error:
        raise DataError(f"cannot read the reference log {shown}: {error.strerror or error}") from None
    return ReferenceLog(source=shown, sha256=sha256_of(path), curves=parse_reference_log(content, shown))


def parse_reference_log(content: bytes, source: str) -> dict[str, Curve]:
    """Return the curves of a log's content by our names; raises `DataError`, which names `source`, if it has none."""
    if content.startswith(_GZIP):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"the reference log {source} is a damaged gzip file ({error}); fetch it again") from None
    lines = _records(content.decode("utf-8", "replace").splitlines())
    if not lines:
        raise DataError(
            f"{source} is no training log of OpenMMLab: it has no line of JSON; give the .log.json of an mmcv "
            "training, or vis_data/scalars.json of an mmengine one (not the .log beside it)"
        )
    epoch = _epoch_length(lines)
    trusted = not epoch and _validations_tell_iterations(lines)
    points: dict[str, dict[int, float]] = {}
    last = 0
    for line in lines:
        if _is_training(line):
            step = last = _training_step(line, epoch)
            found = _training(line)
        else:
            own = _own_step(line)
            step = own if trusted and own >= last else max(last, epoch * _whole(line, "epoch"))
            found = _scores(line)
        if step > 0:
            for name, value in found.items():
                points.setdefault(name, {})[step] = value
    if not points:
        raise DataError(
            f"{source} is no training log of OpenMMLab: none of its {len(lines)} lines of JSON has a loss or an mIoU "
            "with an iteration"
        )
    return {name: tuple(sorted(curve.items())) for name, curve in sorted(points.items())}


def _records(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The lines that are JSON objects; one that was cut off, or is a remark, is left out."""
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _is_training(line: Mapping[str, Any]) -> bool:
    return bool(line.get("mode", "train" if "loss" in line else "val") == "train")


def _whole(line: Mapping[str, Any], name: str) -> int:
    value = _number(line.get(name))
    return 0 if value is None else int(value)


def _number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _epoch_length(lines: Sequence[Mapping[str, Any]]) -> int:
    """Iterations of an epoch where `iter` starts again in every one, else 0.

    The largest `iter` that was written: lower than the truth by less than one logging interval.
    """
    length, before = 0, (0, 0)
    restarts = False
    for line in lines:
        if not _is_training(line) or "step" in line:
            continue
        now = (_whole(line, "epoch"), _whole(line, "iter"))
        restarts = restarts or (now[0] > before[0] > 0 and now[1] <= before[1])
        length, before = max(length, now[1]), now
    return length if restarts else 0


def _training_step(line: Mapping[str, Any], epoch: int) -> int:
    if "step" in line:
        return _whole(line, "step")
    return _whole(line, "iter") + epoch * max(0, _whole(line, "epoch") - 1)


def _own_step(line: Mapping[str, Any]) -> int:
    return _whole(line, "iter" if "iter" in line else "step")


def _validations_tell_iterations(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a validation's number is the iteration: not if all of several have the same, that of their images."""
    numbers = [_own_step(line) for line in lines if not _is_training(line) and _scores(line)]
    return len(numbers) == 1 or len(set(numbers)) > 1


def _training(line: Mapping[str, Any]) -> dict[str, float]:
    losses = [value for name, value in line.items() if name.startswith("decode.loss")]
    values = {
        "train/loss": _number(line.get("loss", losses[0] if len(losses) == 1 else None)),
        "train/acc": _number(line.get("decode.acc_seg")),
        "train/lr": _number(line.get("lr")),
    }
    return {name: value for name, value in values.items() if value is not None}


def _scores(line: Mapping[str, Any]) -> dict[str, float]:
    scores = {ours: value for theirs, ours in _SCORES.items() if (value := _number(line.get(theirs))) is not None}
    # The accuracy of all pixels is far above 1 % in any training, so that all scores below 1 are fractions.
    scale = 100.0 if scores and max(scores.values()) <= 1.0 else 1.0
    return {name: scale * value for name, value in scores.items()}
