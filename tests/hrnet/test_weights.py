"""Weights files of every form that occurs, and downloads that break off."""

from __future__ import annotations

import hashlib
import http.server
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hrnet.errors import WeightsError
from hrnet.fetch import cache_folder, name_hash
from hrnet.model.segmentor import HRNetSegmentor, build_model
from hrnet.weights import fetch, load_weights, reachable, save_weights

EXTRA = {
    "incre_modules.0.0.conv1.weight": torch.zeros(2, 2),
    "downsamp_modules.0.0.weight": torch.zeros(2),
    "final_layer.0.weight": torch.zeros(2),
    "classifier.weight": torch.zeros(10, 4),
}


@pytest.fixture(scope="module")
def source() -> HRNetSegmentor:
    return build_model("w18-small", 4, seed=1)


@pytest.fixture
def target() -> HRNetSegmentor:
    return build_model("w18-small", 4, seed=2)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_round_trip(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path) -> None:
    save_weights(source, tmp_path / "w.pth")
    report = load_weights(target, tmp_path / "w.pth")
    assert same(source.state_dict(), target.state_dict())
    assert (report.kind, len(report.loaded)) == ("segmentor", 872)
    assert (report.missing, report.unexpected, report.ignored) == ((), (), {})


@pytest.mark.parametrize("zipped", [False, True], ids=["2020", "2021"])
def test_published_segmentor(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path, zipped: bool) -> None:
    """The form of the published files: `meta` with text, lists and NumPy numbers; the older ones are not zip files."""
    meta = {
        "env_info": "sys.platform: linux",
        "mmseg_version": "0.5.0",
        "config": "norm_cfg = dict(type='SyncBN')",
        "CLASSES": ("road", "car"),
        "PALETTE": [[128, 64, 128], [0, 0, 142]],
        "iter": 40000,
        "hook_msgs": {"best_score": np.float64(0.7386), "best_iter": np.int64(40000), "last": np.float32(0.5)},
    }
    content = {"meta": meta, "state_dict": {f"module.{name}": t for name, t in source.state_dict().items()}}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert load_weights(target, tmp_path / "w.pth").kind == "segmentor"
    assert same(source.state_dict(), target.state_dict())


def test_numpy_numbers_by_their_old_name(tmp_path: Path, target: HRNetSegmentor, source: HRNetSegmentor) -> None:
    """NumPy 1 wrote `numpy.core.multiarray`, NumPy 2 writes `numpy._core.multiarray`."""

    class OldNames(pickle._Pickler):
        def save_global(self, obj: Any, name: str | None = None) -> None:
            if getattr(obj, "__module__", "") == "numpy._core.multiarray":
                self.write(b"cnumpy.core.multiarray\nscalar\n")
                self.memoize(obj)
            else:
                super().save_global(obj, name)

    module = type("module", (), {"Pickler": OldNames, "__name__": "pickle", "dump": pickle.dump})
    content = {"meta": {"score": np.float64(0.7)}, "state_dict": source.state_dict()}
    torch.save(content, tmp_path / "w.pth", pickle_module=module)
    assert b"numpy.core.multiarray" in (tmp_path / "w.pth").read_bytes()
    load_weights(target, tmp_path / "w.pth")
    assert same(source.state_dict(), target.state_dict())


@pytest.mark.parametrize("wrapped", [False, True])
def test_official_backbone(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path, wrapped: bool) -> None:
    """The classification head of the ImageNet weights is ignored, the segmentation head keeps what it has."""
    entries = {**source.backbone.state_dict(), **EXTRA}
    torch.save(
        {"state_dict": {f"module.{n}": t for n, t in entries.items()}} if wrapped else entries, tmp_path / "b.pth"
    )
    before = {name: tensor.clone() for name, tensor in target.decode_head.state_dict().items()}
    report = load_weights(target, tmp_path / "b.pth")
    assert same(source.backbone.state_dict(), target.backbone.state_dict())
    assert same(before, target.decode_head.state_dict())
    assert (report.kind, len(report.loaded), set(report.ignored)) == ("backbone", 864, set(EXTRA))
    assert report.missing == tuple(f"decode_head.{name}" for name in target.decode_head.state_dict())


def test_backbone_reports_what_it_does_not_know(
    source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path
) -> None:
    counters = {n: t for n, t in source.backbone.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save({**counters, "teacher.weight": torch.zeros(1)}, tmp_path / "b.pth")
    report = load_weights(target, tmp_path / "b.pth")
    assert report.unexpected == ("teacher.weight",)
    assert "backbone.bn1.num_batches_tracked" in report.missing


def refused(model: HRNetSegmentor, path: Path, message: str) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(model, path)
    assert str(path) in str(caught.value)
    assert same(before, model.state_dict()), "a refused file must not change the model"


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_would_run_code_is_refused(
    target: HRNetSegmentor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    crater = tmp_path / "crater"
    monkeypatch.setenv("BOMB", str(crater))
    content = {"state_dict": target.state_dict(), "meta": Bomb()}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    refused(target, tmp_path / "w.pth", r"refused: it holds an object of type (posix|os)\.mkdir")
    assert not crater.exists()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_truncated_file(target: HRNetSegmentor, tmp_path: Path, zipped: bool, kept: float) -> None:
    torch.save({"state_dict": target.state_dict()}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[: int(kept * len(whole))])
    refused(target, tmp_path / "w.pth", r"is damaged or no torch file \(\d+ bytes\)")


def test_other_things_that_are_no_weights(target: HRNetSegmentor, tmp_path: Path) -> None:
    refused(target, tmp_path / "none.pth", "there is no weights file")
    (tmp_path / "text.pth").write_text("<html>404</html>")
    refused(target, tmp_path / "text.pth", "is damaged or no torch file")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    refused(target, tmp_path / "list.pth", "holds no state dict but list")
    torch.save({"epoch": 3, "weight": torch.zeros(1)}, tmp_path / "dict.pth")
    refused(target, tmp_path / "dict.pth", "entry 'epoch' is int, not a tensor")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    refused(target, tmp_path / "resnet.pth", r"has no entry of HRNet \(its first is fc.weight\)")


@pytest.mark.parametrize("backbone", [False, True])
def test_weights_of_another_width(target: HRNetSegmentor, tmp_path: Path, backbone: bool) -> None:
    for width in ("w18", "w48"):
        # Zeros take no room in the file if they are one number, expanded.
        with torch.device("meta"):
            shapes = HRNetSegmentor(width, 4)
        entries = (shapes.backbone if backbone else shapes).state_dict()
        zero = torch.zeros(())
        torch.save({name: zero.expand(t.shape) for name, t in entries.items()}, tmp_path / "w.pth")
        refused(target, tmp_path / "w.pth", f"holds weights of width {width}, the model is w18-small")


def test_weights_that_do_not_fit(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    save_weights(build_model("w18-small", 19, seed=0), path)
    refused(target, path, "predicts 19 classes, the model 4")
    entries = source.state_dict()
    torch.save({**entries, "auxiliary_head.conv.weight": torch.zeros(1)}, path)
    refused(target, path, "has the entry auxiliary_head.conv.weight")
    torch.save({**entries, "backbone.bn2.weight": torch.zeros(7)}, path)
    refused(target, path, r"the shape of backbone.bn2.weight is \(7,\), the model's \(64,\)")
    del entries["backbone.bn1.running_mean"]
    torch.save(entries, path)
    refused(target, path, "is incomplete: it lacks backbone.bn1.running_mean")


def test_hash_of_a_local_file(source: HRNetSegmentor, target: HRNetSegmentor, tmp_path: Path) -> None:
    save_weights(source, tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    load_weights(target, tmp_path / "w.pth", sha256_prefix=digest[:8].upper())
    with pytest.raises(WeightsError, match="expected 00000000"):
        load_weights(target, tmp_path / "w.pth", sha256_prefix="00000000")


class Server(http.server.ThreadingHTTPServer):
    """Serves one file; cuts the connection after `cut` bytes as often as `cuts` says."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cut, self.cuts, self.ranges = content, len(content), 0, True
        self.requests: list[tuple[str, str | None]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(404 if "absent" in self.path else 200)
        self.end_headers()

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        content = self.server.content
        start = int(asked[len("bytes=") : -1]) if asked and self.server.ranges else 0
        if "absent" in self.path:
            self.send_error(404)
            return
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.cut] if self.server.cuts else content[start:])
        self.server.cuts = max(0, self.server.cuts - 1)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(np.random.default_rng(0).bytes(300_000)) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def digest(server: Server) -> str:
    return hashlib.sha256(server.content).hexdigest()[:8]


def test_fetch_once(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        path = fetch(server.url("a/w.pth"), tmp_path, digest(server))
        assert path.read_bytes() == server.content
    assert server.requests == [("/a/w.pth", None)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.pth"]


@pytest.mark.parametrize("checked", [False, True])
def test_fetch_resumes_after_a_cut(server: Server, tmp_path: Path, checked: bool) -> None:
    server.cut, server.cuts = 100_000, 2
    path = fetch(server.url("w.pth"), tmp_path, digest(server) if checked else None)
    assert path.read_bytes() == server.content
    assert server.requests == [("/w.pth", None), ("/w.pth", "bytes=100000-"), ("/w.pth", "bytes=200000-")]


def test_fetch_resumes_what_an_earlier_process_left(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.pth.part").write_bytes(server.content[:250_000])
    assert fetch(server.url("w.pth"), tmp_path, digest(server)).read_bytes() == server.content
    assert server.requests == [("/w.pth", "bytes=250000-")]


def test_fetch_without_a_hash_trusts_no_leftover(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.pth.part").write_bytes(b"something else")
    assert fetch(server.url("w.pth"), tmp_path).read_bytes() == server.content


def test_fetch_finds_a_complete_leftover(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.pth.part").write_bytes(server.content)
    assert fetch(server.url("w.pth"), tmp_path, digest(server)).read_bytes() == server.content


def test_fetch_starts_over_where_it_must(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.pth.part").write_bytes(server.content + b"more")
    assert fetch(server.url("w.pth"), tmp_path, digest(server)).read_bytes() == server.content
    server.ranges = False
    (tmp_path / "v.pth.part").write_bytes(b"a server that knows no ranges sends the whole file")
    assert fetch(server.url("v.pth"), tmp_path, digest(server)).read_bytes() == server.content


def test_fetch_replaces_a_damaged_copy(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"damaged")
    assert fetch(server.url("w.pth"), tmp_path, digest(server)).read_bytes() == server.content


def test_fetch_keeps_nothing_with_a_wrong_hash(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected 00000000"):
        fetch(server.url("w.pth"), tmp_path, "00000000")
    assert list(tmp_path.iterdir()) == []


def test_fetch_explains_failures(server: Server, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="the server answers 404"):
        fetch(server.url("absent.pth"), tmp_path)
    with pytest.raises(WeightsError, match="only http and https are known"):
        fetch("ftp://host/w.pth", tmp_path)
    with pytest.raises(WeightsError, match="names no file"):
        fetch(server.url(""), tmp_path)
    assert len(server.requests) == 1


def test_concurrent_fetches_download_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(server.url("w.pth"), tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "w.pth").read_bytes() == server.content
    assert len(server.requests) == 1


def test_load_from_a_url_checks_the_hash_in_its_name(
    source: HRNetSegmentor, target: HRNetSegmentor, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
    save_weights(source, tmp_path / "w.pth")
    server.content = (tmp_path / "w.pth").read_bytes()
    url = server.url(f"hrnet-{digest(server)}.pth")
    assert load_weights(target, url).source == str(cache_folder() / f"hrnet-{digest(server)}.pth")
    assert same(source.state_dict(), target.state_dict())
    with pytest.raises(WeightsError, match="expected 01234567"):
        load_weights(target, server.url("hrnet-01234567.pth"))


def test_name_hash() -> None:
    assert name_hash("https://host/pretrain/hrnetv2_w18_small-b5a04e21.pth") == "b5a04e21"
    assert name_hash("https://host/hrnetv2_w18_small.pth") is None


def test_reachable(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path))
    reachable(server.url("w.pth"))
    with pytest.raises(WeightsError, match="answers 404"):
        reachable(server.url("absent.pth"))
    cache_folder().mkdir()
    (cache_folder() / "absent.pth").write_bytes(b"")
    reachable(server.url("absent.pth"))
    reachable(str(cache_folder() / "absent.pth"))
    with pytest.raises(WeightsError, match="there is no weights file"):
        reachable(str(tmp_path / "w.pth"))
    with pytest.raises(WeightsError, match=r"cannot fetch http://127\.0\.0\.1:1/w\.pth"):
        reachable("http://127.0.0.1:1/w.pth")
