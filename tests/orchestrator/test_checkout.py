"""What travels to a cluster, and what is known of it there."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from pathlib import Path

import pytest

from orchestrator.checkout import PATCH_BYTES, TRAVELS, Checkout
from orchestrator.errors import UsageError
from orchestrator.provenance import CARRIED, PATCH_FILE, capture, source
from tests.orchestrator.checkouts import checkout, git, write

CODE = ["hrnet/model.py", "hrnet/published.csv", "jobs/cli.py", "orchestrator/plan.py", "pyproject.toml"]
MEGABYTE = 1_000_000


@pytest.fixture(autouse=True)
def _nothing_is_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CARRIED, "HRGRID_GIT_COMMIT"):
        monkeypatch.delenv(name, raising=False)


def copied(root: Path, target: Path) -> list[str]:
    target.mkdir()
    size = Checkout(root).copy(target)
    found = [path for path in target.rglob("*") if path.is_file()]
    assert size == sum(path.stat().st_size for path in found)
    return sorted(path.relative_to(target).as_posix() for path in found)


def test_20_megabytes_that_nobody_tracks_stay_where_they_are(tmp_path: Path) -> None:
    root = checkout(tmp_path / "root")
    for name in ("data.bin", "hrnet/weights.bin", "hrnet/set/images.json", "orchestrator/cache.csv"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(bytes(5 * MEGABYTE))
    write(root, {"hrnet/new.py": "n = 1\n", "jobs/.env": "KEY=secret", "scratch.py": "s = 1\n", "jobs/a.pyc": "c"})
    (root / "hrnet/published.csv").unlink()
    assert copied(root, tmp_path / "target") == sorted({*CODE, "hrnet/new.py"} - {"hrnet/published.csv"})


def test_without_git_the_suffix_decides(tmp_path: Path) -> None:
    files = dict.fromkeys((*CODE, "hrnet/weights.bin", "hrnet/__pycache__/m.py", "jobs/.env", "jobs/.x/a.py"), "x")
    write(tmp_path / "root", files)
    assert copied(tmp_path / "root", tmp_path / "target") == CODE


def test_a_copy_without_git_lacks_no_file_of_this_checkout(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    here = Checkout(root)
    if not here.tracked:
        pytest.skip("this is no git checkout")
    names = [name for name in here.tracked if name.startswith(TRAVELS)]
    for name in names:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes((root / name).read_bytes())
    assert copied(tmp_path / "root", tmp_path / "target") == sorted(names)


def test_this_checkout_is_small(tmp_path: Path) -> None:
    assert 500_000 < Checkout(Path(__file__).parents[2]).copy(tmp_path) < 2 * MEGABYTE


def test_too_much_and_too_little_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has no hrnet"):
        Checkout(tmp_path).copy(tmp_path)
    root = checkout(tmp_path / "root")
    (root / "hrnet/big.csv").write_bytes(bytes(11 * MEGABYTE))
    git(root, "add", "hrnet/big.csv")
    with pytest.raises(UsageError, match=r"11\.0 MB, more than 10: hrnet/big\.csv alone has 11\.0"):
        Checkout(root).copy(tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_the_code_of_a_clean_checkout(tmp_path: Path) -> None:
    root = checkout(tmp_path / "root")
    write(root, {"data.bin": "junk", "README.md": "changed\n"})
    found = source(root)
    assert found.patch == ""
    assert found.facts == {
        "git_commit": git(root, "rev-parse", "HEAD"), "git_branch": "main", "git_dirty": False,
        "git_diff_sha256": None, "git_untracked": None, "lock_sha256": hashlib.sha256(b"ray==2\n").hexdigest(),
    }  # fmt: skip
    facts = capture(root)
    assert facts["host"] == socket.gethostname()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(json.dumps(facts)) == facts


def test_a_patch_makes_the_code_of_a_dirty_checkout_again(tmp_path: Path) -> None:
    root = checkout(tmp_path / "root")
    write(root, {"hrnet/model.py": "x = 2\n", "jobs/new.py": "n = 1\n", "jobs/.env": "KEY=secret"})
    git(root, "rm", "-q", "orchestrator/plan.py")
    found = source(root)
    assert found.facts["git_dirty"] is True
    assert found.facts["git_untracked"] == ["jobs/new.py"]
    assert found.facts["git_diff_sha256"] == hashlib.sha256(found.patch.encode()).hexdigest()
    assert "secret" not in found.patch
    (tmp_path / "patch").write_text(found.patch)
    git(tmp_path, "clone", "-q", str(root), "clone")
    git(tmp_path / "clone", "apply", str(tmp_path / "patch"))
    assert (tmp_path / "clone/hrnet/model.py").read_text() == "x = 2\n"
    assert not (tmp_path / "clone/orchestrator/plan.py").exists()


def test_a_new_file_alone_makes_a_checkout_dirty(tmp_path: Path) -> None:
    root = checkout(tmp_path / "root")
    write(root, {"hrnet/new.py": ""})
    assert source(root).facts["git_dirty"] is True


def test_a_long_patch_is_cut(tmp_path: Path) -> None:
    root = checkout(tmp_path / "root")
    write(root, {"hrnet/model.py": "x = 1\n" * 500_000})
    patch = source(root).patch
    assert PATCH_BYTES < len(patch.encode()) < PATCH_BYTES + 100
    assert patch.endswith("bytes)\n")


def test_packages_below_a_repository_that_does_not_track_them_are_not_of_its_commit(tmp_path: Path) -> None:
    root = checkout(tmp_path / "root")
    inside = root / "venv"
    write(inside, dict.fromkeys(CODE, "x"))
    assert source(inside).facts["git_commit"] is None
    assert source(inside).facts["git_dirty"] is None
    assert copied(inside, tmp_path / "target") == CODE


def test_a_job_says_what_its_sender_knew_and_which_machine_it_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = {"git_commit": "0123abc", "git_dirty": True, "submit_host": "laptop"}
    monkeypatch.setenv(CARRIED, json.dumps(carried))
    (tmp_path / PATCH_FILE).write_text("a patch")
    assert source(tmp_path).patch == "a patch"
    facts = capture(tmp_path)
    assert {name: facts[name] for name in carried} == carried
    assert facts["host"] == socket.gethostname()
    monkeypatch.setenv(CARRIED, "[1]")
    with pytest.raises(UsageError, match="HRGRID_PROVENANCE holds no JSON object"):
        source(tmp_path)


def test_a_commit_named_in_the_environment_stands_in_for_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRGRID_GIT_COMMIT", "feed")
    assert capture(tmp_path)["git_commit"] == "feed"
