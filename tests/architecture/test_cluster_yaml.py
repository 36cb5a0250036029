"""`cluster.yaml` is accepted by Ray's launcher, and holds none of the mistakes that the launcher accepts too."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_rays_launcher_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", "gpu_spot"}, "a default node type was merged in"


def test_it_needs_nothing_of_rays_defaults(config: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    for key in ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands", "head_node_type"):
        assert prepared[key] == config[key]
    for image in ("head_image", "worker_image"):
        assert re.search(r":\d+\.\d+\.\d+-py311", prepared["docker"][image])
    text = (ROOT / "cluster.yaml").read_text()
    for trap in ("0.0.0.0", "latest/ray-3", "dev0", ":latest"):
        assert trap not in text


def test_head_and_workers_are_what_they_must_be(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    workers = {name: node for name, node in types.items() if name != config["head_node_type"]}
    assert "GPU" not in head["resources"]
    assert "InstanceMarketOptions" not in head["node_config"], "the head must not be a spot node"
    for node in workers.values():
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert node["resources"]["GPU"] >= 1
        assert node["max_workers"] <= config["max_workers"]
    slots = sum(node["max_workers"] * node["resources"]["GPU"] for node in workers.values())
    assert head["resources"]["hrgrid_slots"] == slots


def test_node_configs_are_known_to_ec2(config: dict[str, Any]) -> None:
    service = botocore.session.Session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    for node in config["available_node_types"].values():
        request = {"MinCount": 1, "MaxCount": 1, **node["node_config"]}
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), report.generate_report()
    misspelt = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, "InstanceTyp": "m6i.large"}, shape)
    assert misspelt.has_errors(), "this check would not see a misspelt field"


def test_tokens_are_asked_for_and_nothing_listens_publicly(config: dict[str, Any]) -> None:
    options = " ".join(config["docker"]["run_options"])
    assert "RAY_AUTH_MODE=token" in options
    token = re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", options)
    assert token
    assert config["file_mounts"][token[1]] == "~/.ray/auth_token"
    assert "RAY_USAGE_STATS_ENABLED=0" in options
    assert "MLFLOW_DISABLE_TELEMETRY=true" in options
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "mlflow server --host $IP" in start
    assert "--allowed-hosts" in start


def test_versions_are_those_of_the_lock(config: dict[str, Any]) -> None:
    lock = ROOT / "requirements.lock"
    pinned = dict(line.split("==") for line in lock.read_text().split() if "==" in line)
    for image in ("head_image", "worker_image"):
        assert config["docker"][image].startswith(f"rayproject/ray:{pinned['ray']}-")
    assert "pip install --no-cache-dir -r /home/ray/hrgrid/requirements.lock" in config["setup_commands"]
