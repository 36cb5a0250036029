"""Downloads as trees: what is in archives is read like unpacked files, and nothing lies outside its folder."""

from __future__ import annotations

import io
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from hrnet.data.prepare.tree import File, Tree, open_tree
from hrnet.errors import DataError

CONTENT = {"a/one.png": b"1" * 5000, "a/b/two.txt": b"two", "a/.hidden": b"x", "__MACOSX/a/one.png": b"x"}


def pack(archive: Path, content: dict[str, bytes]) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for index, (name, data) in enumerate(content.items()):
                file.writestr(name, data, zipfile.ZIP_STORED if index % 2 else None)
        return archive
    with tarfile.open(archive, "w:gz" if archive.suffix == ".tgz" else "w") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive


def contents(tree: Tree) -> dict[str, bytes]:
    return {file.path: file.read() for file in tree.under()}


@pytest.mark.parametrize("end", ["zip", "tar", "tgz"])
def test_members_are_files_of_the_archives_folder(tmp_path: Path, end: str) -> None:
    pack(tmp_path / "dl" / "part" / f"x.{end}", CONTENT)
    with open_tree(tmp_path / "dl", tmp_path / "scratch") as tree:
        assert contents(tree) == {"part/a/one.png": b"1" * 5000, "part/a/b/two.txt": b"two"}
        assert (tree.folders(), tree.folders("part"), tree.folders("part/a")) == (["part"], ["a"], ["b"])
        assert (tree.has("part/a/b"), tree.has("part/a/c")) == (True, False)
        found = tree.get("part/a/b/two.txt")
        assert isinstance(found, File)
        assert found.where == f"{tmp_path}/dl/part/x.{end}!a/b/two.txt"
        copy: File = pickle.loads(pickle.dumps(found))
        assert (copy.read(), copy.size) == (b"two", 3)
        inner = tree.locate("b")
        assert inner is not None
        assert [inner.relative(file, "b") for file in inner.under("b", ".txt")] == ["two.txt"]
        assert inner.rooted("b").get("two.txt") == found
        assert tree.locate("b", "nothing") is None
    # What was unpacked is gone; one archive alone is a download, too.
    assert not list((tmp_path).glob("scratch/.*"))
    with open_tree(tmp_path / "dl" / "part" / f"x.{end}") as alone:
        assert [file.path for file in alone.under()] == ["a/b/two.txt", "a/one.png"]


def test_unpacked_files_come_before_archives_and_stamps_follow_changes(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", CONTENT)
    before = open_tree(tmp_path).get("a/one.png")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.png").write_bytes(b"mended")
    with open_tree(tmp_path) as tree:
        mended = tree.get("a/one.png")
        assert mended is not None
        assert mended.read() == b"mended"
        assert mended.where == str(tmp_path / "a" / "one.png")
    (tmp_path / "a" / "one.png").unlink()
    pack(archive, {**CONTENT, "a/one.png": b"2" * 5000})
    after = open_tree(tmp_path).get("a/one.png")
    assert before is not None
    assert after is not None
    assert before.stamp != after.stamp


def test_links_into_place_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    (tmp_path / "disk" / "images").mkdir(parents=True)
    (tmp_path / "disk" / "images" / "1.png").write_bytes(b"1")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "round").symlink_to(tmp_path / "disk")
    with open_tree(tmp_path / "source") as tree:
        assert [file.path for file in tree.under()] == ["linked/images/1.png"]
    # Pascal Context and VOC 2012 may share their images.
    (tmp_path / "source" / "again").symlink_to(tmp_path / "disk" / "images")
    (tmp_path / "source" / "whole").symlink_to(tmp_path / "source")
    with open_tree(tmp_path / "source") as tree:
        assert [file.path for file in tree.under()] == ["again/1.png", "linked/images/1.png"]


@pytest.mark.parametrize("end", ["zip", "tar", "tgz"])
@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png", "C:/evil.png"])
def test_members_outside_the_folder_are_refused(tmp_path: Path, end: str, name: str) -> None:
    pack(tmp_path / "dl" / f"x.{end}", {"fine.png": b"1", name: b"evil"})
    with pytest.raises(DataError, match="which would lie outside its folder"):
        open_tree(tmp_path / "dl", tmp_path / "scratch")
    assert not [path for path in tmp_path.rglob("*") if path.name == "evil.png"]
    assert not list(tmp_path.glob("scratch/.*"))


@pytest.mark.parametrize("end", ["zip", "tar", "tgz"])
def test_archives_that_are_cut_off_are_named(tmp_path: Path, end: str) -> None:
    archive = pack(tmp_path / f"x.{end}", {"a.png": bytes(range(256)) * 200, "b.png": b"b" * 60000})
    data = archive.read_bytes()
    archive.write_bytes(data[: 60000 if end == "tar" else len(data) // 2])
    with pytest.raises(DataError, match=rf"x\.{end} is cut off, damaged or no archive .* download it again"):
        open_tree(tmp_path, tmp_path / "scratch")
    archive.write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=rf"x\.{end} is cut off, damaged or no archive"):
        open_tree(tmp_path, tmp_path / "scratch")


def test_damaged_members_are_named(tmp_path: Path) -> None:
    archive = pack(
        tmp_path / "x.zip", {"packed.png": bytes(range(256)) * 9, "stored.png": b"s" * 999, "none.png": b""}
    )
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b"s" * 999, b"s" * 998 + b"t"))
    with open_tree(tmp_path) as tree:
        files = {file.path: file for file in tree.under()}
        assert files["packed.png"].read() == bytes(range(256)) * 9
        with pytest.raises(DataError, match=r"x\.zip!stored\.png is damaged \(its CRC is another\)"):
            files["stored.png"].read()
        with pytest.raises(DataError, match=r"none\.png is empty"):
            files["none.png"].read()
        archive.unlink()
        with pytest.raises(DataError, match=r"packed\.png does not exist"):
            files["packed.png"].read()


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs zip to set a password")
def test_a_password_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"secret")
    subprocess.run(["zip", "-q", "-P", "word", "x.zip", "a.png"], cwd=tmp_path, check=True)
    (tmp_path / "a.png").unlink()
    with (
        open_tree(tmp_path) as tree,
        pytest.raises(DataError, match=r"x\.zip!a\.png is encrypted; unpack the archive"),
    ):
        tree.under()[0].read()


KILLED = """
import os, signal, sys
from pathlib import Path
from hrnet.data.prepare.tree import open_tree

open_tree(Path(sys.argv[1]), Path(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_unpacked_is_used_again(tmp_path: Path) -> None:
    pack(tmp_path / "dl" / "x.tgz", CONTENT)
    words = (tmp_path / "dl", tmp_path / "scratch")
    assert subprocess.run([sys.executable, "-c", KILLED, *words], check=False).returncode == -signal.SIGKILL
    (unpacked,) = (tmp_path / "scratch").iterdir()
    (unpacked / "files" / "a" / "one.png").write_bytes(b"as it was left")
    with open_tree(*words) as tree:
        assert contents(tree)["a/one.png"] == b"as it was left"
        # Another run at the same time gets a folder of its own.
        with open_tree(*words) as other:
            assert contents(other)["a/one.png"] == b"1" * 5000
    assert list((tmp_path / "scratch").iterdir()) == []
