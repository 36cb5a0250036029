"""Flags, then environment, then defaults; relative paths become absolute where the command was called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from orchestrator.addresses import is_public, public
from orchestrator.errors import UsageError
from orchestrator.settings import Settings, make_settings


def made(folder: Path, env: Mapping[str, str] | None = None, /, **flags: str) -> Settings:
    return make_settings(environment=env or {}, folder=folder, **flags)


def test_defaults_need_nothing(tmp_path: Path) -> None:
    settings = made(tmp_path)
    assert settings.storage == f"{tmp_path}/hrgrid-results"
    assert settings.tracking == f"sqlite:///{tmp_path}/hrgrid-results/mlflow.db"
    assert settings.artifacts == f"{tmp_path}/hrgrid-results/mlartifacts"
    assert settings.benchmark == "hrnet"


def test_flags_beat_the_environment(tmp_path: Path) -> None:
    environment = {
        "HRGRID_STORAGE": "s3://bucket/x/",
        "HRGRID_TRACKING": "http://first:5000",
        "MLFLOW_TRACKING_URI": "http://second:5000",
        "HRGRID_BENCHMARK": "from-environment",
    }
    settings = made(tmp_path, environment)
    assert (settings.storage, settings.tracking, settings.artifacts) == ("s3://bucket/x", "http://first:5000", None)
    assert settings.benchmark == "from-environment"
    del environment["HRGRID_TRACKING"]
    assert made(tmp_path, environment).tracking == "http://second:5000"
    flagged = made(tmp_path, environment, storage="here", tracking="http://third:5000", benchmark="mine")
    assert (flagged.storage, flagged.tracking, flagged.benchmark) == (f"{tmp_path}/here", "http://third:5000", "mine")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"storage": "s3://bucket/x"}, "is remote and no tracking location is given; start `hrgrid serve`"),
        ({"storage": "gs://bucket/x"}, "'gs://bucket/x' is neither a local path nor s3://bucket/prefix"),
        ({"tracking": "file:///x"}, "'file:///x' is a file store"),
        ({"tracking": "./mlruns"}, "'./mlruns' is a file store"),
        ({"benchmark": "a/b"}, "the benchmark name 'a/b' is not usable"),
        ({"benchmark": "../x"}, "the benchmark name '../x' is not usable"),
    ],
)
def test_what_cannot_be(tmp_path: Path, flags: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made(tmp_path, {}, **flags)


def test_a_password_in_an_address_moves_to_the_environment_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    assert made(tmp_path, tracking="https://ann:s%2Fcret@host:5000/x").tracking == "https://host:5000/x"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("ann", "s/cret")
    for flags in ({"tracking": "postgresql://ann:s3cret@db/runs"}, {"storage": "s3://ann:s3cret@bucket/x"}):
        with pytest.raises(UsageError, match="holds") as refused:
            made(tmp_path, **flags)
        assert "s3cret" not in str(refused.value)


def test_what_may_be_printed_of_a_command() -> None:
    text = "launch --tracking http://a:b@h:1/p --set pretrained=https://h/f.pth?X-Sig=1&n=2 --data s3://b/d?region=x"
    assert public(text) == "launch --tracking http://h:1/p --set pretrained=https://h/f.pth --data s3://b/d?region=x"
    assert is_public("launch --data s3://b/d?region=x --name who@here")
