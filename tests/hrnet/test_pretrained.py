"""The weights that a training starts from: known by content, verified, told in words."""

from __future__ import annotations

import hashlib
import http.server
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from hrnet.catalogue import Recipe, recipe
from hrnet.data.shards import open_dataset
from hrnet.errors import RecipeError, WeightsError
from hrnet.fetch import local_copy
from hrnet.model.segmentor import build_model
from hrnet.pretrained import canonical, pinned
from hrnet.training.loop import train
from hrnet.training.state import recipe_hash
from hrnet.weights import save_weights
from jobs._wiring import HrnetWorkload
from orchestrator.identity import trial_key
from orchestrator.workload import Spec


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and tells nobody."""

    def log_message(self, format: str, *args: object) -> None:
        pass


NAME = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
PUBLISHED = recipe(NAME)


def resolved(**overrides: str) -> Spec:
    work = HrnetWorkload()
    (cell,) = [cell for cell in work.cells() if cell.name == NAME]
    return work.resolve(cell, overrides, seed=0, data=None)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "own.pth"
    save_weights(build_model("w18-small", 4, seed=1), path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_published_weights_have_the_published_hash() -> None:
    assert PUBLISHED.pretrained_sha256 == "b5a04e21"
    spec = resolved()
    assert (spec.settings["pretrained"], spec.locations, spec.not_comparable) == (PUBLISHED.pretrained, {}, ())


def test_a_mirror_is_the_same_trial() -> None:
    mirror = "s3://mirror/hrnetv2_w18_small-b5a04e21.pth"
    spec = resolved(pretrained=mirror)
    assert trial_key(spec) == trial_key(resolved())
    assert spec.not_comparable == ()
    assert spec.locations == {"pretrained": mirror}
    given = resolved(pretrained="https://host/renamed.pth", pretrained_sha256="b5a04e21" + 56 * "0")
    assert trial_key(given) == trial_key(resolved())


def test_other_weights_are_another_trial_and_say_so(weights: Path) -> None:
    spec = resolved(pretrained=str(weights))
    assert spec.settings["pretrained"] == f"sha256:{digest(weights)}"
    assert spec.locations == {"pretrained": str(weights)}
    assert spec.not_comparable == (
        f"started from own.pth (SHA-256 {digest(weights)[:8]}...) instead of started from "
        "hrnetv2_w18_small-b5a04e21.pth (SHA-256 b5a04e21...)",
    )
    moved = weights.rename(weights.with_name("moved.pth"))
    assert trial_key(resolved(pretrained=str(moved))) == trial_key(spec), "the same content at another place"
    save_weights(build_model("w18-small", 4, seed=2), moved)
    assert trial_key(resolved(pretrained=str(moved))) != trial_key(spec), "another content at the same place"
    scratch = resolved(pretrained="none")
    assert trial_key(scratch) not in (trial_key(spec), trial_key(resolved()))
    assert scratch.not_comparable[0].startswith("trained from scratch instead of started from hrnetv2")


def test_what_only_watches_a_training_trains_nothing_again() -> None:
    free = {"workers": "2", "loader_workers": "9", "log_interval": "7", "speed_images": "0"}
    assert trial_key(resolved(**free)) == trial_key(resolved())
    assert resolved(**free).settings["log_interval"] == 7
    assert resolved(**free).not_comparable == ()
    for name in ("val_interval", "checkpoint_interval", "max_iters", "batch_size"):
        assert trial_key(resolved(**{name: "16"})) != trial_key(resolved())


def test_a_signed_address_is_fetched_at_once_and_kept_nowhere(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/own.pth?X-Amz-Signature=secret"
        with pytest.raises(RecipeError) as untold:
            resolved(pretrained=address)
        spec = resolved(pretrained=address, pretrained_sha256=digest(weights))
        server.shutdown()
        thread.join()
    assert "secret" not in f"{spec}{untold.value}"
    assert spec.not_comparable[0].startswith("started from own.pth (SHA-256 ")
    # The server is gone, and the weights are there.
    assert local_copy(spec.locations["pretrained"], digest(weights)).read_bytes() == weights.read_bytes()


def test_a_relative_path_becomes_absolute(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(weights.parent)
    assert pinned(PUBLISHED.with_overrides({"pretrained": "own.pth"})).pretrained == str(weights)


def test_what_nothing_says_the_hash_of_is_refused(weights: Path) -> None:
    with pytest.raises(RecipeError, match=r"nothing says the hash of pretrained s3://b/w\.pth.*pretrained_sha256=HEX"):
        resolved(pretrained="s3://b/w.pth")
    with pytest.raises(WeightsError, match=r"has the SHA-256 .* expected 0123abcd"):
        resolved(pretrained=str(weights), pretrained_sha256="0123abcd")
    with pytest.raises(WeightsError, match="there is no weights file"):
        resolved(pretrained=str(weights.with_name("absent.pth")))
    with pytest.raises(RecipeError, match="pretrained_sha256 must be 8 to 64 hexadecimal digits"):
        resolved(pretrained="https://host/w.pth", pretrained_sha256="short")
    with pytest.raises(RecipeError, match="must be none where pretrained is none"):
        resolved(pretrained="none", pretrained_sha256="0123abcd")


def test_a_saved_recipe_of_before_the_hash_is_read() -> None:
    values = PUBLISHED.to_dict()
    del values["pretrained_sha256"]
    assert Recipe.from_dict(values) == PUBLISHED
    assert Recipe.from_dict({**values, "pretrained": None}).pretrained_sha256 is None


def test_canonical_leaves_scratch_alone() -> None:
    scratch = PUBLISHED.with_overrides({"pretrained": "none"})
    assert canonical(pinned(scratch), PUBLISHED) == scratch
    assert canonical(PUBLISHED, scratch).pretrained == "sha256:b5a04e21"


def test_a_resumed_training_may_find_its_weights_elsewhere(weights: Path) -> None:
    first = pinned(PUBLISHED.with_overrides({"pretrained": str(weights)}))
    assert recipe_hash(first) == recipe_hash(replace(first, pretrained="/elsewhere.pth"))
    assert recipe_hash(first) != recipe_hash(replace(first, pretrained_sha256="0" * 64))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.INFO, "hrnet")
    return caplog


def test_training_says_what_it_loaded_and_holds_it_to_its_hash(
    tiny_recipe: Recipe, tiny_data: Path, weights: Path, logged: pytest.LogCaptureFixture
) -> None:
    """A segmentor's file of another number of classes gives its backbone alone."""
    assert "hrnet" in HrnetWorkload().packages, "a trial's log takes these records"
    start = pinned(replace(tiny_recipe, pretrained=str(weights), max_iters=1, val_limit=1))
    next(iter(train(start, open_dataset(tiny_data))))
    (said,) = [record.getMessage() for record in logged.records if record.name == "hrnet.training.loop"]
    assert f"weights {weights} (hrgrid, segmentor w18-small, 4 classes, SHA-256 {digest(weights)[:16]})" in said
    assert "loaded: 864 of 872 entries (backbone 864)" in said
    assert "not in the file, left as initialised: decode_head 8" in said
    assert "ignored: decode_head 8: head of a segmentor; the backbone alone was asked for" in said
    save_weights(build_model("w18-small", 4, seed=2), weights)
    with pytest.raises(WeightsError, match="expected"):
        next(iter(train(start, open_dataset(tiny_data))))
