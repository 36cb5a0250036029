"""The doctor: judgements from facts, probes of real wrong services, and what becomes of probes that hang or raise."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from orchestrator.doctor import hardware, roles, software
from orchestrator.doctor.collective import judge_collective
from orchestrator.doctor.examine import examine
from orchestrator.doctor.model import Answer, Check, Finding, Machine, everywhere
from orchestrator.doctor.nodes import ThisMachine
from orchestrator.doctor.services import storage_check
from orchestrator.doctor.tracking import judge_tracking, tracking_check
from orchestrator.workload import Json
from tests.integration.doctor_servers import Silent, WrongS3

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

GPU = {"driver": "570.1", "names": ["NVIDIA H100"] * 2, "devices": 2}


def answers(*facts: dict[str, Json], **resources: float) -> list[Answer]:
    return [
        Answer(node=Machine(name=f"n{i}", head=not i, address=f"10.0.0.{i}", resources=resources), facts=each)
        for i, each in enumerate(facts)
    ]


def said(found: Sequence[Finding], level: str = "failed") -> str:
    return "\n".join(f"{','.join(f.nodes)} {f.said} -> {f.fix}" for f in found if f.level == level)


def test_gpus_are_what_ray_promises() -> None:
    assert [f.level for f in hardware.judge_gpus(answers(GPU, GPU, GPU=2))] == ["ok"]
    gone = {"driver": None, "names": [], "devices": 2}
    assert "n1 2 GPUs promised, but the driver's library (NVML)" in said(
        hardware.judge_gpus(answers(GPU, gone, GPU=2))
    )
    assert "n0 Ray promises 3 GPUs, the driver sees 2" in said(hardware.judge_gpus(answers(GPU, GPU=3)))
    other = {**GPU, "names": ["NVIDIA A10G"] * 2, "driver": "550.2"}
    mixed = said(hardware.judge_gpus(answers(GPU, other, GPU=2)), "warning")
    assert "NVIDIA A10G on n1, NVIDIA H100 on n0" in mixed
    assert "different drivers (550.2, 570.1)" in mixed
    assert "the others stay idle" in said(hardware.judge_gpus(answers(GPU, GPU=1)), "warning")


def test_shared_memory_must_hold_the_batches_of_a_nodes_loaders() -> None:
    docker = {"total": 67_108_864, "free": 67_108_864}
    found = hardware.judge_shm(answers(docker, GPU=4, CPU=48), batch_bytes=8e6)
    assert "the loaders of 4 workers need 0.96 GB" in said(found)
    assert hardware.judge_shm(answers({"total": 8e9, "free": 8e9}, GPU=4, CPU=48), 8e6)[0].level == "ok"


def test_disks_hold_the_data_and_ray_is_not_stopped_by_a_full_one() -> None:
    places = [{"what": what, "path": "/x", "read_only": False, "free": 40e9, "total": 1000e9}
              for what in ("the cache", "Ray's files")]  # fmt: skip
    facts = {"places": places, "limit": None}
    assert "has 40 GB free of 1000 GB; the data needs 60 GB" in said(hardware.judge_disks(answers(facts), 60e9))
    assert "is 96% full, where Ray stops at 95 %" in said(hardware.judge_disks(answers(facts), 0.0))
    bounded = {"places": places[:1], "limit": "30"}
    assert said(hardware.judge_disks(answers(bounded), 60e9)) == ""


def test_memory_that_ray_promises_must_be_allowed() -> None:
    facts = {"total": 64e9, "free": 60e9, "limit": 16_000_000_000, "used": 1_000_000_000, "killed": 2}
    found = hardware.judge_memory(answers(facts, memory=40e9, object_store_memory=10e9))
    assert "Ray promises 50 GB of memory, there are 16 GB (its control group allows 16 GB)" in said(found)
    assert "the kernel has killed 2 processes" in said(found, "warning")


def test_clocks_are_judged_beyond_doubt() -> None:
    here, late = {"ahead": 0.1, "known_to": 0.2}, {"ahead": -90.0, "known_to": 0.5}
    assert "n1 the clock is 90 s behind the head's" in said(hardware.judge_clocks(answers(here, late)))
    assert hardware.judge_clocks(answers(here, {"ahead": 3.0, "known_to": 2.5}))[0].level == "ok"


def test_versions_differ_by_node_and_share_a_line() -> None:
    here = {"python": "3.11.2", "packages": {"ray": "2.60.0", "torch": "2.13.0", "mlflow": "3.17.2", "numpy": "2",
            "opencv-python-headless": "4", "boto3": "1"}, "hrgrid": "abc"}  # fmt: skip
    old = {
        **here,
        "python": "3.12.1",
        "packages": {**here["packages"], "torch": "2.9.0", "boto3": "0"},
        "hrgrid": None,
    }
    found = software.judge_versions(answers(here, old, old), here)
    assert "n1,n2 torch is 2.9.0, here it is 2.13.0" in said(found)
    assert "n1,n2 Python is 3.12.1, here it is 3.11.2" in said(found)
    assert "n1,n2 hrgrid cannot be imported" in said(found)
    assert "boto3 is 0" in said(found, "warning")
    without = {**here, "packages": {**here["packages"], "mlflow": None}}
    assert "mlflow is not installed here" in said(software.judge_versions(answers(without), without))


def test_a_token_is_asked_for_and_nobody_else_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    file.chmod(0o604)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    told = software.ask_token(ThisMachine(), 20.0, dashboard=None)
    sentences = said(software.judge_token(told, cluster=True))
    assert "RAY_AUTH_MODE is disabled" in sentences
    assert f"may use the token file {file} (mode 604) -> chmod 600 {file}" in sentences
    assert "secret" not in str(told)
    open_ = [
        Answer(node=a.node, facts={**a.facts, "dashboard": 200, "mode": "token", "permissions": 0o600}) for a in told
    ]
    assert "answers a request without a token" in said(software.judge_token(open_, cluster=True))


def test_the_gang_budget_is_on_the_head_alone() -> None:
    def judged(*slots: float) -> list[Finding]:
        told = [
            Answer(node=Machine(name=f"n{i}", head=not i, resources={"hrgrid_slots": each, "GPU": 4}))
            for i, each in enumerate(slots)
        ]
        return roles.judge_slots(told, biggest=4)

    assert "the head declares no hrgrid_slots: no trial would ever start" in said(judged(0, 0))
    assert "n1 hrgrid_slots is declared on a node that is not the head" in said(judged(8, 1))
    assert "less than the largest gang of 4" in said(judged(2, 0), "warning")
    assert "for 8 GPUs: the others stay idle" in said(judged(4, 0), "warning")
    assert [f.level for f in judged(8, 0)] == ["ok"]
    spot = answers({"preemptible": True, "kind": "spot"})
    assert "may be taken away (spot)" in said(roles.judge_head(spot))


def test_a_gang_that_cannot_meet_names_the_pair_and_the_interface() -> None:
    fine = {
        "unreached": {},
        "interface": "eth0",
        "chosen": "",
        "members": 2,
        "error": "",
        "sum": 1.0,
        "backend": "gloo",
    }
    closed = [
        {**fine, "address": "10.0.0.0", "unreached": {"10.0.0.1": "timed out"}, "milliseconds": 1.0},
        {**fine, "address": "10.0.0.1", "milliseconds": 1.0},
    ]
    assert "n0 cannot reach n1 at 10.0.0.1 from its interface eth0 (timed out)" in said(
        judge_collective(answers(*closed))
    )
    wrong = {**fine, "address": "a", "chosen": "lo", "error": "RuntimeError: no way"}
    assert "(interface lo, address a): RuntimeError: no way" in said(judge_collective(answers(wrong)))
    assert "2 members is 3.0" in said(judge_collective(answers({**fine, "address": "a", "sum": 3.0})))
    assert "no place for a gang of 8" in said(judge_collective(answers({"busy": True, "members": 8})), "warning")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "bucket", "sentence"),
    [
        ("", "none", "the bucket 'none' does not exist -> create it first"),
        ("clock", "bucket", "s apart (ahead is the storage's"),
        ("conditions", "bucket", "ignores the conditions If-None-Match and If-Match"),
        ("denied", "bucket", "give them s3:PutObject"),
    ],
)
def test_a_storage_that_cannot_do_it_all(aws: pytest.MonkeyPatch, kind: str, bucket: str, sentence: str) -> None:
    with WrongS3(kind) as server:
        aws.setenv("AWS_ENDPOINT_URL", server.endpoint)
        (found,) = examine([storage_check(f"s3://{bucket}/results")], ThisMachine())
        assert found.level == "failed"
        assert sentence in said([found])
        assert server.stored() == []


def test_a_good_storage_keeps_nothing(aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with WrongS3("") as server:
        aws.setenv("AWS_ENDPOINT_URL", server.endpoint)
        assert [f.level for f in examine([storage_check("s3://bucket/results")], ThisMachine())] == ["ok"]
        assert server.stored() == []
    assert [f.level for f in examine([storage_check(f"{tmp_path}/new/results")], ThisMachine())] == ["ok"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_only_the_head_has_is_no_storage(tmp_path: Path) -> None:
    class Elsewhere(ThisMachine):
        """Every node's folder is another one: here the head's file vanishes before the nodes look."""

        def ask(self, probe: object, seconds: float) -> list[Answer]:
            for file in tmp_path.glob(".hrgrid-doctor-*/shared"):
                file.unlink()
            return super().ask(probe, seconds)  # type: ignore[arg-type]

    assert "does not show what the head has written" in said(examine([storage_check(str(tmp_path))], Elsewhere()))


def test_mlflow_that_is_not_there_or_is_something_else(tmp_path: Path) -> None:
    def found(uri: str) -> str:
        return said(examine([tracking_check(uri)], ThisMachine()))

    assert "nobody listens" in found("http://127.0.0.1:9")
    assert "is each node's own machine" in found("http://127.0.0.1:9")
    assert "is unknown there" in found("http://mlflow.invalid:5000")
    assert found(f"sqlite:///{tmp_path}/mlflow.db") == ""
    assert list(tmp_path.iterdir()) == []
    with Silent() as silent:
        assert "does not answer in 5 s -> open its port" in found(silent.uri)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (
            {"status": 401, "credentials": False},
            "asks for a user and a password (401) -> set MLFLOW_TRACKING_USERNAME",
        ),
        ({"status": 401, "credentials": True}, "refuses the node's user name or password (401)"),
        ({"status": 403, "said": "Invalid Host header"}, "start it with `hrgrid serve --allowed-hosts head:5000`"),
        ({"status": 403, "said": "Permission denied"}, "forbids this user"),
        ({"status": 502}, "answers 502"),
    ],
)
def test_what_an_mlflow_server_refuses(facts: dict[str, Json], sentence: str) -> None:
    told = answers({"kind": "server", "problem": "", "credentials": False, **facts})
    assert sentence in said(judge_tracking(told, "http://head:5000"))


def test_a_database_file_is_for_one_machine() -> None:
    file = {"kind": "file", "disk": "nfs4", "writable": True}
    assert "a file of one machine, and the cluster has 2" in said(
        judge_tracking(answers(file, file), "sqlite:////x.db")
    )
    assert "network file system (nfs4)" in said(judge_tracking(answers(file), "sqlite:////x.db"))


def test_probes_that_hang_raise_or_leave_are_failures_in_time() -> None:
    def check(name: str, probe: object, **more: object) -> Check:
        return Check(name=name, ask=everywhere(probe), judge=lambda a: [], seconds=0.5, **more)  # type: ignore[arg-type]

    hang, cleaned = threading.Event(), threading.Event()
    began = time.monotonic()
    found = examine(
        [
            check("hangs", hang.wait, clean=cleaned.set),
            check("raises", partial(os.stat, "/nowhere")),
            check("leaves", partial(exit, 3)),
            Check(name="defect", ask=everywhere(dict), judge=lambda a: 1 // 0),  # type: ignore[arg-type, return-value]
        ],
        ThisMachine(),
    )
    hang.set()
    assert time.monotonic() - began < 30
    assert cleaned.is_set()
    assert [finding.level for finding in found] == ["failed"] * 4
    assert "no answer in 0 s" in found[0].said or "no answer in 1 s" in found[0].said
    assert "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'" in found[1].said
    assert "SystemExit: 3" in found[2].said
    assert "ZeroDivisionError" in found[3].said
    assert all(finding.fix for finding in found)
