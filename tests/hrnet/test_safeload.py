"""Files that would run code when they are loaded run none, wherever in the file the code hides."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrnet.errors import WeightsError
from hrnet.safeload import read_weights_file

Write = Callable[[Any, Path], None]


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


class ReducedDict(OrderedDict[str, Any]):
    """A dictionary whose subclass says how it is made."""

    command: Any

    def __reduce__(self) -> Any:
        return self.command.__reduce__()


class ReducedTensor(torch.Tensor):
    command: Any

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.command.__reduce__()


def commands(canary: Path) -> dict[str, Call]:
    import importlib
    import os
    import subprocess

    code = f"__import__('os').mkdir({str(canary)!r})"
    return {
        "os.system": Call(os.system, f"mkdir {canary}"),
        "os.mkdir": Call(os.mkdir, str(canary)),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "subprocess": Call(subprocess.check_call, ["mkdir", str(canary)]),
        "torch.hub": Call(torch.hub.download_url_to_file, Path(__file__).as_uri(), str(canary)),
        "numpy": Call(np.save, str(canary), 0),
        "import": Call(importlib.import_module, "antigravity"),
        "getattr": Call(getattr, Call(importlib.import_module, "os"), "system"),
    }


def zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


def legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def plain(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


def plain_newest(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=5))


def top(command: Call) -> Any:
    return command


def entry(command: Call) -> Any:
    return {"state_dict": {"conv1.weight": command}}


def meta(command: Call) -> Any:
    return {"meta": {"config": {"a": [(command,)]}}, "state_dict": {"conv1.weight": torch.zeros(1)}}


def history(command: Call) -> Any:
    return {"state_dict": {}, "message_hub": {"log_scalars": OrderedDict(loss=np.array([command, None], object))}}


def subclass(command: Call) -> Any:
    made = ReducedDict()
    made.command = command
    return {"state_dict": made}


def tensor(command: Call) -> Any:
    made = torch.zeros(1).as_subclass(ReducedTensor)
    made.command = command
    return {"state_dict": {"conv1.weight": made}}


@pytest.mark.parametrize("write", [zipped, legacy, plain, plain_newest])
@pytest.mark.parametrize("place", [top, entry, meta, history, subclass, tensor])
def test_code_is_refused_and_not_run(write: Write, place: Callable[[Call], Any], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for name, command in commands(canary).items():
        write(place(command), tmp_path / "w.pth")
        with pytest.raises(WeightsError) as caught:
            read_weights_file(tmp_path / "w.pth")
        said = str(caught.value)
        assert str(tmp_path / "w.pth") in said
        assert "\n" not in said
        assert "was refused" in said, (name, said)
        assert not canary.exists(), name
        assert "antigravity" not in sys.modules


def test_the_canary_would_sing(tmp_path: Path) -> None:
    """Without the guard these files do what they say."""
    zipped(meta(commands(tmp_path / "canary")["os.mkdir"]), tmp_path / "w.pth")
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "canary").is_dir()


def with_pickle(pickled: bytes, path: Path, *, zipped: bool) -> None:
    """Write a torch file of either form whose objects are a given pickle."""
    torch.save({}, path, _use_new_zipfile_serialization=zipped)
    if not zipped:
        kept = path.read_bytes()
        path.write_bytes(kept[: kept.index(pickle.dumps({}, protocol=2), 1)] + pickled + pickle.dumps([], protocol=2))
        return
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
def test_code_in_a_persistent_id_is_refused(zipped: bool, tmp_path: Path) -> None:
    """Storages are named by an id that is pickled too; an id of another kind, or with code in it, is refused."""
    command = commands(tmp_path / "canary")["os.mkdir"]

    class Ids(pickle.Pickler):
        kind: Any

        def persistent_id(self, obj: Any) -> Any:
            return self.kind if obj is command else None

    with_pickle(pickle.dumps({"state_dict": {}}, protocol=2), tmp_path / "w.pth", zipped=zipped)
    assert read_weights_file(tmp_path / "w.pth") == {"state_dict": {}}, "the forged files are right otherwise"
    called = Call(command.function, *command.args)
    for kind in (("storage", called, "0", "cpu", 1), ("module", called, "file", "source"), ("other",), "text"):
        stream = io.BytesIO()
        pickler = Ids(stream, protocol=2)
        pickler.kind = kind
        pickler.dump({"state_dict": {"a": command}})
        with_pickle(stream.getvalue(), tmp_path / "w.pth", zipped=zipped)
        with pytest.raises(WeightsError, match="was refused"):
            read_weights_file(tmp_path / "w.pth")
    assert not (tmp_path / "canary").exists()


def test_a_stand_in_gives_no_hold(tmp_path: Path) -> None:
    """`getattr` and the classes that are let through look nothing up and cannot be called on."""
    allowed = b"cmmengine.logging.history_buffer\nHistoryBuffer\n"
    chain = b"\x80\x02c__builtin__\ngetattr\n" + allowed + b"U\x0e__subclasses__\x86R)R."
    (tmp_path / "w.pth").write_bytes(chain)
    with pytest.raises(WeightsError, match="was refused"):
        read_weights_file(tmp_path / "w.pth")


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, stream)
    (tmp_path / "w.pt").write_bytes(stream.getvalue())
    with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
        folder = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{folder}/constants.pkl", pickle.dumps((), protocol=2))
    with pytest.raises(WeightsError, match="is a TorchScript archive"):
        read_weights_file(tmp_path / "w.pt")


@contextmanager
def foreign(name: str, qualname: str) -> Iterator[type]:
    """A class that pickles under a foreign name, gone again afterwards."""
    made = type(qualname, (), {"__module__": name})
    parts = name.split(".")
    paths = [".".join(parts[: i + 1]) for i in range(len(parts))]
    assert not set(paths) & set(sys.modules)
    for path in paths:
        sys.modules[path] = types.ModuleType(path)
    setattr(sys.modules[name], qualname, made)
    try:
        yield made
    finally:
        for path in paths:
            del sys.modules[path]


@pytest.mark.parametrize("write", [zipped, legacy])
def test_training_state_of_openmmlab_is_let_through_and_not_read(write: Write, tmp_path: Path) -> None:
    """The shape of a 1.x training checkpoint: histories with their statistics, arrays, numbers, configurations."""
    with foreign("mmengine.logging.history_buffer", "HistoryBuffer") as buffer:
        buffer.mean = lambda self: 0  # type: ignore[attr-defined]
        buffer.mean.__qualname__, buffer.mean.__module__ = "HistoryBuffer.mean", buffer.__module__  # type: ignore[attr-defined]
        made = buffer()
        made.__dict__.update(
            max_length=10, _log_history=np.arange(3.0), _count_history=np.ones(3, np.int64),
            statistics_methods={"mean": buffer.mean},  # type: ignore[attr-defined]
        )  # fmt: skip
        content = {
            "meta": {"iter": 7, "best": np.float64(0.5), "names": deque(["a"]), "more": defaultdict(list, a=[1])},
            "state_dict": OrderedDict(weight=torch.arange(3)),
            "message_hub": {"log_scalars": OrderedDict({"train/loss": made}), "runtime_info": OrderedDict(iter=7)},
            "optimizer": {"state": {}, "param_groups": [{"lr": np.float32(0.01)}]},
        }
        write(content, tmp_path / "w.pth")
    read = read_weights_file(tmp_path / "w.pth")
    assert "mmengine" not in sys.modules
    assert read["state_dict"]["weight"].tolist() == [0, 1, 2]
    assert (read["meta"]["best"], read["meta"]["names"], read["meta"]["more"]) == (0.5, ["a"], {"a": [1]})
    assert repr(read["message_hub"]["log_scalars"]["train/loss"]) == "(not read)"
    assert read["message_hub"]["runtime_info"] == {"iter": 7}


@pytest.mark.parametrize("module", ["addict.addict", "mmcv.utils.config", "mmengine.config.config"])
def test_configurations_become_plain_dictionaries(module: str, tmp_path: Path) -> None:
    name = {"addict.addict": "Dict"}.get(module, "ConfigDict")
    with foreign(module, name):
        made: Any = type(name, (dict,), {"__module__": module})
        if module.startswith("mmengine"):
            made.__reduce_ex__ = lambda self, protocol: (type(self), (dict(self.items()),))
        setattr(sys.modules[module], name, made)
        torch.save({"meta": made(a=1), "state_dict": {"w": torch.zeros(1)}}, tmp_path / "w.pth")
    assert read_weights_file(tmp_path / "w.pth")["meta"] == {"a": 1}


@pytest.mark.parametrize("write", [zipped, legacy])
def test_a_file_cut_anywhere_is_refused_in_a_sentence(write: Write, tmp_path: Path) -> None:
    write({"state_dict": {"w": torch.zeros(3)}, "meta": {"iter": 70_000, "lr": 0.5}}, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for size in range(0, len(whole), 1 if write is legacy else 7):
        (tmp_path / "w.pth").write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=r"is damaged or no torch file|was refused"):
            read_weights_file(tmp_path / "w.pth")


def test_a_damaged_safetensors_file(tmp_path: Path) -> None:
    plain(commands(tmp_path / "canary")["os.mkdir"], tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="is damaged or no safetensors file"):
        read_weights_file(tmp_path / "w.safetensors")
    assert not (tmp_path / "canary").exists()
