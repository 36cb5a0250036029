"""How a field of a recipe is read from text, and which values it may take. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["RULES", "Rule", "name_hash", "parse", "public", "show"]


@dataclass(frozen=True, slots=True)
class Rule:
    """The values that a field may take."""

    accepts: Callable[[Any], bool]
    """Whether a value is allowed."""
    allowed: str
    """The same in words."""


def parse(kind: str, text: str, current: object) -> Any:
    """Return the value that `text` stands for in a field of type `kind` (the annotation) that now holds `current`.

    `x0.5` multiplies a number, or every part of a tuple of numbers; whole numbers are rounded and at least 1. Raises
    ValueError with the expected form.
    """
    text = text.strip()
    if text.lower() == "none" and kind.endswith("| None"):
        return None
    read, form = _READERS[kind.removesuffix(" | None")]
    try:
        if text.startswith("x") and read is not str:
            return _multiply(current, float(text[1:]))
        return read(text)
    except (ValueError, TypeError, OverflowError, KeyError):
        raise ValueError(form + (" or none" if kind.endswith("| None") else "")) from None


def show(value: object) -> str:
    """Return a value in the form that `parse` reads."""
    if isinstance(value, tuple):
        return ("x" if all(isinstance(part, int) for part in value) else ",").join(map(str, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def name_hash(source: str) -> str | None:
    """Return the eight digits of SHA-256 that a published file's name ends with (`...-b5a04e21.pth`), if it does."""
    found = re.search(r"-([0-9a-f]{8})\.(?:pth|pt|safetensors)(?:[?#].*)?$", source)
    return found[1] if found else None


def public(source: str) -> str:
    """Return a URL as it may be printed and kept: without user and query, which may be a password or a signature."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return source
    host, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _multiply(value: Any, factor: float) -> Any:
    if isinstance(value, tuple):
        return tuple(_multiply(part, factor) for part in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a number")
    return max(1, round(value * factor)) if isinstance(value, int) else value * factor


def _size(text: str) -> tuple[int, int]:
    first, second = text.split("x")
    return int(first), int(second)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


_READERS: Mapping[str, tuple[Callable[[str], Any], str]] = MappingProxyType(
    {
        "int": (int, "a whole number or a factor such as x0.5"),
        "float": (float, "a number or a factor such as x0.5"),
        "bool": (_boolean, "true or false"),
        "tuple[int, int]": (_size, "a size such as 512x1024 or a factor such as x0.5"),
        "tuple[float, float]": (_numbers, "two numbers such as 0.5,2.0"),
        "tuple[float, ...]": (_numbers, "numbers such as 0.5,1.0,1.5"),
        "str": (str, "text"),
        "Choice": (str, "one of its words"),
    }
)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(low: int, high: int) -> Rule:
    return Rule(lambda value: _is_int(value) and low <= value <= high, f"a whole number from {low} to {high}")


def _real(low: float, high: float) -> Rule:
    return Rule(lambda value: _is_real(value) and low <= value <= high, f"a number from {low:g} to {high:g}")


def _pair(low: int, high: int) -> Rule:
    def accepts(value: Any) -> bool:
        return isinstance(value, tuple) and len(value) == 2 and all(_is_int(v) and low <= v <= high for v in value)

    return Rule(accepts, f"two whole numbers from {low} to {high}")


def _ratios(count: int | None) -> Rule:
    def accepts(value: Any) -> bool:
        if not isinstance(value, tuple) or not value or not all(_is_real(v) and 0.05 <= v <= 8 for v in value):
            return False
        return count is None or (len(value) == count and value[0] <= value[-1])

    what = "one or more numbers" if count is None else "two numbers, the smaller first,"
    return Rule(accepts, f"{what} from 0.05 to 8")


def _words(*choices: str) -> Rule:
    return Rule(lambda value: value in choices, " or ".join(choices))


def _optional(rule: Rule) -> Rule:
    return Rule(lambda value: value is None or rule.accepts(value), f"{rule.allowed} or none")


_FLAG = Rule(lambda value: isinstance(value, bool), "true or false")
_TEXT = Rule(lambda value: isinstance(value, str) and value != "", "text")
_HASH = Rule(
    lambda value: isinstance(value, str) and re.fullmatch(r"[0-9a-f]{8,64}", value) is not None,
    "8 to 64 hexadecimal digits in lower case",
)
_MILLION = 10_000_000

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "name": _TEXT,
        "dataset": _TEXT,
        "width": _words("w18-small", "w18", "w48"),
        "schedule": _TEXT,
        # Label 255 is "ignored" and 254 is kept for "no class of this recipe", so that a byte holds every label.
        "num_classes": _whole(1, 254),
        "crop": _pair(32, 16384),
        "train_scale": _pair(32, 65536),
        "test_scale": _pair(32, 65536),
        "ratio_range": _ratios(2),
        "cat_max_ratio": _real(0, 1),
        "flip_prob": _real(0, 1),
        "photometric": _FLAG,
        "batch_size": _whole(1, 65536),
        "workers": _whole(1, 4096),
        "loader_workers": _whole(0, 256),
        "max_iters": _whole(1, _MILLION),
        "val_interval": _whole(1, _MILLION),
        "checkpoint_interval": _whole(1, _MILLION),
        "log_interval": _whole(1, _MILLION),
        "lr": _real(0, 100),
        "momentum": _real(0, 1),
        "weight_decay": _real(0, 1),
        "lr_power": _real(0, 10),
        "lr_min": _real(0, 100),
        "test_mode": _words("whole", "slide"),
        "slide_crop": _optional(_pair(32, 16384)),
        "slide_stride": _optional(_pair(1, 16384)),
        "tta_ratios": _ratios(None),
        "tta_flip": _FLAG,
        "ms_flip": _FLAG,
        "reduce_zero_label": _FLAG,
        "ignore_index": Rule(lambda value: value == 255 and _is_int(value), "255"),
        "pretrained": _optional(_TEXT),
        "pretrained_sha256": _optional(_HASH),
        "conventions": _words("0.x", "1.x"),
        "precision": _words("fp32", "bf16"),
        "val_limit": _optional(_whole(1, _MILLION)),
        "speed_images": _whole(0, 100_000),
    }
)
"""Field of a recipe to the values that it may take."""
