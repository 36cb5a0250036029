"""Reading torch and safetensors files without running anything that a file asks for.

torch's restricted reader (`weights_only=True`) refuses every class and function that it does not know. Checkpoints of
OpenMMLab's 1.x line hold histories, configurations and NumPy values beside the weights, which it therefore refuses.
Those names, and no others, are given to it as stand-ins that hold nothing and do nothing: the real classes are neither
imported nor called, so a file gains no power by naming them. All other names stay refused.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hrnet.errors import WeightsError

__all__ = ["read_weights_file"]


class _Nothing:
    """Stands for an object whose content nobody needs: takes any arguments and any state, and keeps none."""

    def __new__(cls, *args: object) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __repr__(self) -> str:
        return "(not read)"


class _DType(_Nothing):
    """Stands for a NumPy type; keeps its code, such as `f8`, alone."""

    code: str

    def __init__(self, code: object = "", *args: object) -> None:
        self.code = code if isinstance(code, str) else ""


_FORMATS = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "i2": "<h", "u1": "<B", "b1": "<?", "?": "<?"}


def _scalar(dtype: object, content: object = b"") -> object:
    """The number that a NumPy scalar holds; scores in `meta` are such numbers."""
    form = _FORMATS.get(dtype.code) if isinstance(dtype, _DType) else None
    if form is None or not isinstance(content, bytes) or len(content) != struct.calcsize(form):
        return _Nothing()
    return struct.unpack(form, content)[0]


def _mapping(content: object = (), *args: object) -> OrderedDict[Any, Any]:
    """A configuration or default dictionary, as a plain one; a factory of missing values is dropped."""
    return OrderedDict(content) if isinstance(content, dict) else OrderedDict()


def _sequence(content: object = (), *args: object) -> list[Any]:
    return list(content) if isinstance(content, list | tuple) else []


_STAND_INS: Mapping[str, Callable[..., object]] = {
    # Training histories of 1.x. Each also names its own statistics as `getattr(HistoryBuffer, "mean")`; the stand-in
    # of getattr looks nothing up.
    "mmengine.logging.history_buffer.HistoryBuffer": _Nothing,
    "mmengine.logging.log_buffer.LogBuffer": _Nothing,
    "builtins.getattr": _Nothing,
    "mmengine.config.config.ConfigDict": _mapping,
    "mmengine.config.config.Config": _Nothing,
    "mmcv.utils.config.ConfigDict": OrderedDict,
    "mmcv.utils.config.Config": _Nothing,
    "addict.addict.Dict": OrderedDict,
    "collections.defaultdict": _mapping,
    "collections.deque": _sequence,
    "pathlib.PosixPath": _Nothing,
    "pathlib.WindowsPath": _Nothing,
    # What a default dictionary makes missing values of.
    **{f"builtins.{name}": _Nothing for name in ("bool", "dict", "float", "int", "list", "str", "tuple")},
    "numpy.ndarray": _Nothing,
    "numpy.dtype": _DType,
    **{
        f"numpy.{core}.multiarray.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (("_reconstruct", _Nothing), ("scalar", _scalar))
    },
}
"""Name in a file to what it becomes; whoever adds one must not let it call, import or look up what a file gives."""

_guard = threading.Lock()
"""torch keeps the names that it allows once per process."""


def read_weights_file(path: Path) -> Any:
    """Return what a `.pth`, `.pt` or `.safetensors` file holds, its tensors on the CPU.

    Of a `.safetensors` file the tensors are returned under `state_dict` and its own texts under `meta`.

    Raises:
        WeightsError: there is no such file, it is damaged, or it holds an object that could run code.
    """
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}; check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with _allowed(), warnings.catch_warnings():
            # Of another pickle protocol, or of a TorchScript archive: what comes of both is said below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error))) from None
    except Exception as error:
        # torch's reader fails in a dozen ways on damaged files, also with struct.error and AssertionError.
        if "TorchScript" in str(error):
            raise WeightsError(
                f"{path} was refused: it is a TorchScript archive, which is a program; save its state dict instead"
            ) from None
        raise WeightsError(_damaged(path)) from None


@contextmanager
def _allowed() -> Iterator[None]:
    names: list[Any] = [(stand_in, name) for name, stand_in in _STAND_INS.items()]
    with _guard, torch.serialization.safe_globals(names):
        yield


def _refusal(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL (\S+)", message)
    named = found[1] if found else _first_name(path)
    if named is not None:
        return (
            f"{path} was refused: it holds an object of type {named}, and loading such objects can run code; save "
            "only its state dict again where you trust it"
        )
    said = re.search(r"WeightsUnpickler error: (.+)|((?:Can only|Trying to call|Only persistent|persistent_load).+)",
                     message)  # fmt: skip
    if said and "Unsupported operand" not in said[0]:
        return f"{path} was refused: it holds more than weights ({(said[1] or said[2]).strip()[:120]})"
    return _damaged(path)


def _first_name(path: Path) -> str | None:
    """Return the first class or function that a plain pickle names; its instructions are listed, none is followed.

    torch stops at the instructions of newer pickle protocols before it comes to a name.
    """
    words: list[str] = []
    try:
        with path.open("rb") as file:
            for instruction, value, _ in pickletools.genops(file):
                if instruction.name == "GLOBAL":
                    return str(value).replace(" ", ".")
                if instruction.name == "STACK_GLOBAL" and len(words) >= 2:
                    return ".".join(words[-2:])
                if isinstance(value, str):
                    words.append(value)
    except (ValueError, OSError):
        return None
    return None


def _damaged(path: Path) -> str:
    return f"{path} is damaged or no torch file ({path.stat().st_size} bytes); fetch it again"


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {"state_dict": tensors, "meta": dict(file.metadata() or {})}
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged or no safetensors file ({error}); fetch it again") from None
