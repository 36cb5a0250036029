"""KubeRay and Slurm beside `cluster.yaml`: names that the programs know, the same versions, the same precautions."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.architecture.commands import check_words

CLUSTER = Path(__file__).resolve().parents[2] / "docs/cluster"
FIELDS = {
    "RayCluster": {
        "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
        "workerGroupSpecs",
    },
    "RayJob": {"clusterSelector", "submissionMode", "entrypoint", "runtimeEnvYAML"},
    "group": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}  # fmt: skip
"""Fields of ray.io/v1 that are used here, by KubeRay's API reference (v1.6.2)."""


@pytest.fixture(scope="module")
def kuberay() -> dict[str, Any]:
    text = (CLUSTER / "kuberay.yaml").read_text() + "---\n" + (CLUSTER / "rayjob.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def _ray_start_options() -> set[str]:
    from ray.scripts.scripts import start

    return {option.removeprefix("--") for parameter in start.params for option in parameter.opts}


def test_kuberay_names_fields_that_exist(kuberay: dict[str, Any]) -> None:
    cluster, job = kuberay["RayCluster"], kuberay["RayJob"]
    assert cluster["apiVersion"] == job["apiVersion"] == "ray.io/v1"
    assert set(cluster["spec"]) <= FIELDS["RayCluster"]
    assert set(job["spec"]) <= FIELDS["RayJob"]
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        assert set(group) <= FIELDS["group"]
        assert set(group["rayStartParams"]) <= _ray_start_options()
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= 120
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


def test_kuberays_head_has_the_budget_and_no_gpu(kuberay: dict[str, Any]) -> None:
    spec = kuberay["RayCluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    (group,) = spec["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    gpus = int(worker["resources"]["limits"]["nvidia.com/gpu"]) * group["maxReplicas"]
    start = spec["headGroupSpec"]["rayStartParams"]
    assert start["num-cpus"] == "0"
    # KubeRay puts the value into a shell command as it is.
    (given,) = shlex.split(start["resources"])
    assert json.loads(given) == {"hrgrid_slots": gpus}
    assert {"name": "shm", "mountPath": "/dev/shm"} in worker["volumeMounts"]


def test_kuberays_mlflow_is_reached_by_the_name_it_answers_to(kuberay: dict[str, Any]) -> None:
    service = kuberay["Service"]
    address = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    spec = kuberay["RayCluster"]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        assert {"name": "HRGRID_TRACKING", "value": address} in container["env"]
    pod = kuberay["Deployment"]["spec"]["template"]
    assert pod["metadata"]["labels"] == service["spec"]["selector"]
    command = pod["spec"]["containers"][0]["command"][-1]
    assert f"--allowed-hosts {service['metadata']['name']}" in command
    check_words(shlex.split(command.partition("-m jobs.")[2]))
    check_words(shlex.split(kuberay["RayJob"]["spec"]["entrypoint"].partition("-m jobs.")[2]))


def test_versions_are_those_of_the_lock(kuberay: dict[str, Any]) -> None:
    lock = (CLUSTER.parents[1] / "requirements.lock").read_text()
    version = re.search(r"^ray==(\S+)", lock, re.MULTILINE)
    assert version
    assert kuberay["RayCluster"]["spec"]["rayVersion"] == version[1]
    assert f"FROM rayproject/ray:{version[1]}-py311" in (CLUSTER / "Dockerfile").read_text()


def test_slurms_script_is_shell_with_options_of_ray() -> None:
    script = (CLUSTER / "slurm.sbatch").read_text()
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    starts = re.findall(r"ray start ((?:[^&\\]|\\\n|\\\")*)", script)
    assert len(starts) == 2
    for options in starts:
        used = set(re.findall(r"--([a-z-]+)", options))
        assert used <= _ray_start_options()
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "RAY_AUTH_MODE=token" in script
    assert "umask 077" in script
