"""`cluster.yaml` is accepted by Ray's launcher, makes what it says on AWS, and has none of the mistakes that pass."""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from moto import mock_aws
from ray.autoscaler._private.aws import config as ray_aws
from ray.autoscaler._private.aws import utils as ray_aws_utils
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME, TAG_RAY_LAUNCH_CONFIG, TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

ROOT = Path(__file__).resolve().parents[2]
REGION = "us-west-2"
GPUS = {"a10g_spot": (4, "A10G"), "a100_spot": (8, "A100")}
"""GPUs of the worker types and what EC2 calls them."""


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def _workers(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: node for name, node in config["available_node_types"].items() if name != config["head_node_type"]}


def test_rays_launcher_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == {"head", *GPUS}, "a default node type was merged in"


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
    head, workers = config["available_node_types"][config["head_node_type"]], _workers(config)
    assert "GPU" not in head["resources"]
    assert "InstanceMarketOptions" not in head["node_config"], "the head must not be a spot node"
    for name, node in workers.items():
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert node["resources"]["GPU"] == GPUS[name][0]
        assert node["max_workers"] <= config["max_workers"]
    assert sum(node["max_workers"] for node in workers.values()) == config["max_workers"]
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


def test_a_gang_brings_the_node_that_fits_it(config: dict[str, Any]) -> None:
    types = config["available_node_types"]
    scorer = partial(_default_utilization_scorer, node_availability_summary=NodeAvailabilitySummary({}))
    for workers, wanted in ((1, "a10g_spot"), (4, "a10g_spot"), (8, "a100_spot")):
        gang = [{"CPU": 8, "GPU": 1}] * workers
        asked, left = get_nodes_for(types, {}, "head", config["max_workers"], gang, scorer)
        assert dict(asked) == {wanted: 1}
        assert not left


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
    assert "mlflow server --host $MLFLOW_HOST" in start
    assert "--allowed-hosts" in start
    for side in ("head", "worker"):
        assert "--shm-size" in " ".join(config["docker"][f"{side}_run_options"])


def test_versions_are_those_of_the_lock(config: dict[str, Any]) -> None:
    lock = ROOT / "requirements.lock"
    pinned = dict(line.split("==") for line in lock.read_text().split() if "==" in line)
    for image in ("head_image", "worker_image"):
        assert config["docker"][image].startswith(f"rayproject/ray:{pinned['ray']}-")
    assert "pip install --no-cache-dir -r /home/ray/hrgrid/requirements.lock" in config["setup_commands"]
    assert "psycopg2-binary" in pinned, "MLflow needs it for PostgreSQL"


def _commands(config: Mapping[str, Any]) -> list[str]:
    keys = ("initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    return [command for key in keys for command in config[key]]


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_commands_are_shell_and_name_options_that_exist(config: dict[str, Any]) -> None:
    from mlflow.cli import server
    from ray.scripts.scripts import drain_node, start

    known = {"mlflow server": _options(server), "ray start": _options(start), "ray drain-node": _options(drain_node)}
    seen = set()
    for command in _commands(config):
        # As Ray hands them over, see `_with_interactive` of its command runner.
        bash = ["bash", "-n", "-c", f"true && ({command})"]
        done = subprocess.run(bash, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for program, arguments in re.findall(r"\b(mlflow server|ray start|ray drain-node)\b([^;>]*)", command):
            options = set(re.findall(r"(?<![\w\"-])--[a-z-]+", arguments))
            assert options
            assert options <= known[program]
            seen.add(program)
    assert seen == set(known)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the nodes get in an account where docs/cluster/aws.yaml was deployed."""
    with pytest.MonkeyPatch.context() as environment, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "testing")
        for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE"):
            environment.delenv(name, raising=False)
        environment.setenv("AWS_DEFAULT_REGION", REGION)
        environment.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray writes keys there
        _forget_clients()
        stacks = boto3.client("cloudformation", REGION)
        ec2 = boto3.client("ec2", REGION)
        stacks.create_stack(
            StackName="hrgrid",
            TemplateBody=(ROOT / "docs/cluster/aws.yaml").read_text(),
            Parameters=[
                {"ParameterKey": "Vpc", "ParameterValue": ec2.describe_vpcs()["Vpcs"][0]["VpcId"]},
                {"ParameterKey": "Bucket", "ParameterValue": "hrgrid-data"},
            ],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        (output,) = stacks.describe_stacks(StackName="hrgrid")["Stacks"][0]["Outputs"]
        image = ec2.describe_images()["Images"][0]["ImageId"]
        yield {"SecurityGroupIds": [output["OutputValue"]], "ImageId": image}
    _forget_clients()


@pytest.fixture
def aws(config: dict[str, Any], account: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the group of the account."""
    for node in config["available_node_types"].values():
        node["node_config"] |= account
    return config


def _forget_clients() -> None:
    """Ray keeps its clients for the life of the process; those of another account must not be asked."""
    ray_aws_utils.resource_cache.cache_clear()
    ray_aws_utils.client_cache.cache_clear()
    ray_aws._get_subnets_or_die.cache_clear()


def _bootstrap(config: Mapping[str, Any]) -> dict[str, Any]:
    prepared = prepare_config(copy.deepcopy(dict(config)))
    validate_config(prepared)
    made: dict[str, Any] = _bootstrap_config(prepared, no_config_cache=True)
    return made


def _open_to_all() -> list[str]:
    """Ports that a group lets everybody come in by; the default group of a VPC lets in its own members alone."""
    found = []
    for group in boto3.client("ec2", REGION).describe_security_groups()["SecurityGroups"]:
        for rule in group["IpPermissions"]:
            ranges = [r["CidrIp"] for r in rule["IpRanges"]] + [r["CidrIpv6"] for r in rule["Ipv6Ranges"]]
            found += [f"{group['GroupName']}: {rule.get('FromPort')} to {one}" for one in ranges]
    return found


def test_a_bootstrap_makes_head_and_workers_behind_closed_ports(aws: dict[str, Any]) -> None:
    made = _bootstrap(aws)
    for name, (count, model) in GPUS.items():
        resources = made["available_node_types"][name]["resources"]
        assert resources["GPU"] == count
        assert resources[f"accelerator_type:{model}"] == 1
        detected = boto3.client("ec2", REGION).describe_instance_types(
            InstanceTypes=[aws["available_node_types"][name]["node_config"]["InstanceType"]]
        )["InstanceTypes"][0]
        assert detected["GpuInfo"]["Gpus"][0]["Count"] == resources["GPU"]
        assert detected["VCpuInfo"]["DefaultVCpus"] == resources["CPU"]
    head = made["available_node_types"]["head"]["resources"]
    assert not head.get("GPU")
    assert (head["CPU"], head["hrgrid_slots"]) == (0, 32)
    assert _open_to_all() == []

    provider = AWSNodeProvider(made["provider"], "hrgrid")
    ec2 = boto3.resource("ec2", REGION)
    for kind in ("head", *GPUS):
        node = made["available_node_types"][kind]["node_config"]
        tags = {TAG_RAY_CLUSTER_NAME: "hrgrid", TAG_RAY_USER_NODE_TYPE: kind, TAG_RAY_LAUNCH_CONFIG: "hash"}
        tags[TAG_RAY_NODE_KIND] = "head" if kind == "head" else "worker"
        (identity,) = provider.create_node(copy.deepcopy(node), tags, 1)
        instance = ec2.Instance(identity)
        assert instance.metadata_options["HttpTokens"] == "required"
        assert instance.instance_lifecycle == (None if kind == "head" else "spot")
        assert [g["GroupId"] for g in instance.security_groups] == node["SecurityGroupIds"]
        assert instance.iam_instance_profile["Arn"].endswith("hrgrid-head" if kind == "head" else "hrgrid-worker")
        assert all(volume.encrypted for volume in instance.volumes.all())
        assert list(instance.volumes.all())
        if kind == "head":  # moto gives a spot node no request, by which Ray knows that it cannot be stopped
            provider.terminate_node(identity)
            instance.reload()
            assert instance.state["Name"] == "stopped", "`ray down` ends the head's disk"
    assert _open_to_all() == []


def test_without_our_group_nothing_starts_and_rays_own_would_be_open(aws: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(aws))
    for node in prepared["available_node_types"].values():
        node["node_config"]["SecurityGroupIds"] = ["sg-REPLACE"]
    with pytest.raises(Exception):  # noqa: B017,PT011 - Ray prints its sentence, and raises an empty one
        ray_aws.bootstrap_aws(prepared)
    assert _open_to_all() == []
    for node in prepared["available_node_types"].values():
        del node["node_config"]["SecurityGroupIds"]
    ray_aws.bootstrap_aws(prepared)
    assert _open_to_all() == ["ray-autoscaler-hrgrid: 22 to 0.0.0.0/0"], "the check above sees nothing"
