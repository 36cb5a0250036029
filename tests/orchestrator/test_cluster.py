"""What travels to a cluster, and the sentences of a cluster that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cluster import Job, jobs, package
from orchestrator.errors import ClusterError, UsageError
from orchestrator.raystart import prepare_environment

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def test_only_the_allow_list_travels(tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    for name in ("hrnet/model.py", "hrnet/__pycache__/model.pyc", "orchestrator/plan.py", "jobs/cli.py", ".git/HEAD"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x" * 10)
    (root / "hrgrid-results").mkdir()
    (root / "pyproject.toml").write_text("y" * 5)
    target.mkdir()
    assert package(root, target) == 35
    found = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert found == ["hrnet/model.py", "jobs/cli.py", "orchestrator/plan.py", "pyproject.toml"]


def test_a_folder_that_is_no_checkout_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has no hrnet"):
        package(tmp_path, tmp_path)


def test_a_cluster_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ClusterError, match=r"the Ray cluster at http://127.0.0.1:9 cannot be used"):
        jobs("127.0.0.1:9")
    with pytest.raises(UsageError, match="not that of a Ray dashboard"):
        jobs("ray://127.0.0.1:10001")


@pytest.mark.parametrize(
    ("status", "exit_code", "code"), [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("STOPPED", None, 130)]
)
def test_a_waiting_command_ends_as_its_job_did(status: str, exit_code: int | None, code: int) -> None:
    job = Job(name="j", status=status, command="c", exit_code=exit_code)
    assert job.has_ended
    assert job.code == code


def test_a_local_ray_has_a_token_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HRGRID_LOCAL_RAY", "GLOO_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    import os

    prepare_environment(local=True)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
    assert not (tmp_path / ".ray").exists()
