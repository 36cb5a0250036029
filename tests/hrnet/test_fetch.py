"""Downloads that break off, that are wrong, that are here already; from http and from S3."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from hrnet.errors import WeightsError
from hrnet.fetch import cache_folder, fetch, local_copy, name_hash, reachable
from hrnet.fields import public
from hrnet.model.segmentor import build_model
from hrnet.weights import load_weights, save_weights


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
    path = fetch(server.url("w.pth"), tmp_path)
    path.rename(path.with_name("w.pth.part"))
    path.with_name("w.pth.part").write_bytes(b"something else")
    assert fetch(server.url("w.pth"), tmp_path).read_bytes() == server.content


def test_files_of_one_name_are_kept_apart_where_no_hash_tells_them(server: Server, tmp_path: Path) -> None:
    first = fetch(server.url("a/w.pth"), tmp_path)
    server.content = b"another file"
    second = fetch(server.url("b/w.pth"), tmp_path)
    assert first != second
    assert second.read_bytes() == b"another file"
    assert fetch(server.url("a/w.pth"), tmp_path) == first
    assert first.read_bytes() == b"another file", "nothing says that it is still the file that it was"


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
    with pytest.raises(WeightsError, match="only http, https and s3 are known"):
        fetch("ftp://host/w.pth", tmp_path)
    with pytest.raises(WeightsError, match="names no file"):
        fetch(server.url(""), tmp_path)
    assert len(server.requests) == 1


def test_concurrent_fetches_download_once(server: Server, tmp_path: Path) -> None:
    at_once(server, tmp_path, digest(server))
    assert (tmp_path / "w.pth").read_bytes() == server.content
    assert len(server.requests) == 1


def test_a_concurrent_fetch_leaves_alone_what_another_has_finished(server: Server, tmp_path: Path) -> None:
    at_once(server, tmp_path, None)
    assert len(server.requests) == 4
    (target,) = tmp_path.rglob("w.pth")
    assert target.read_bytes() == server.content
    assert not list(tmp_path.rglob("*.part"))


def test_concurrent_fetches_of_a_wrong_file_all_say_so(server: Server, tmp_path: Path) -> None:
    said = at_once(server, tmp_path, "00000000")
    assert len(said) == 4
    assert all("expected 00000000" in sentence for sentence in said)
    assert not list(tmp_path.iterdir())


def at_once(server: Server, folder: Path, prefix: str | None) -> list[str]:
    """Fetch four times at the same moment; returns what the failures said."""
    said: list[str] = []

    def one() -> None:
        try:
            fetch(server.url("w.pth"), folder, prefix)
        except WeightsError as error:
            said.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"cannot keep fetched weights in .*file: .*HRGRID_CACHE"):
        fetch(server.url("w.pth"), tmp_path / "file", digest(server))


@pytest.mark.parametrize("uri", ["http://[x/w.pth", "http://host/w%00.pth", "https://host/..", "s3://bucket/a%2F.."])
def test_what_names_no_file_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"it is no URL|it names no file"):
        local_copy(uri)
    with pytest.raises(WeightsError, match=r"it is no URL|it names no file"):
        fetch(uri, tmp_path)


def test_no_password_and_no_signature_is_told(server: Server, tmp_path: Path) -> None:
    port = server.server_address[1]
    with pytest.raises(WeightsError, match="answers 404") as told:
        fetch(f"http://127.0.0.1:{port}/absent.pth?X-Amz-Signature=secret", tmp_path)
    assert "secret" not in str(told.value)
    assert public("https://me:secret@host/a/w.pth?key=secret#x") == "https://host/a/w.pth"
    assert public("/a/w?.pth") == "/a/w?.pth"


def test_load_from_a_url_checks_the_hash_in_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
    source, target = build_model("w18-small", 4, seed=1), build_model("w18-small", 4, seed=2)
    save_weights(source, tmp_path / "w.pth")
    server.content = (tmp_path / "w.pth").read_bytes()
    url = server.url(f"hrnet-{digest(server)}.pth")
    assert load_weights(target, url).source == str(cache_folder() / f"hrnet-{digest(server)}.pth")
    assert target.decode_head.conv_seg.weight.equal(source.decode_head.conv_seg.weight)
    with pytest.raises(WeightsError, match="expected 01234567"):
        load_weights(target, server.url("hrnet-01234567.pth"))


def test_name_hash() -> None:
    assert name_hash("https://host/pretrain/hrnetv2_w18_small-b5a04e21.pth") == "b5a04e21"
    assert name_hash("s3://bucket/hrnet_w18-0123abcd.safetensors") == "0123abcd"
    assert name_hash("https://host/hrnetv2_w18_small.pth") is None


def test_reachable(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path))
    reachable(server.url("w.pth"))
    with pytest.raises(WeightsError, match="answers 404"):
        reachable(server.url("absent.pth"))
    cache_folder().mkdir()
    (cache_folder() / "absent-01234567.pth").write_bytes(b"")
    reachable(server.url("absent-01234567.pth"))
    reachable(str(cache_folder() / "absent-01234567.pth"))
    with pytest.raises(WeightsError, match="there is no weights file"):
        reachable(str(tmp_path / "w.pth"))
    with pytest.raises(WeightsError, match=r"cannot fetch http://127\.0\.0\.1:1/w\.pth"):
        reachable("http://127.0.0.1:1/w.pth")


PUBLISHED = "https://download.openmmlab.com/pretrain/third_party/hrnet-{}.pth"


def test_a_mirror_stands_in_for_the_publisher(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HRGRID_WEIGHTS_MIRROR", server.url(""))
    assert local_copy(PUBLISHED.format(digest(server))).read_bytes() == server.content
    assert server.requests == [(f"/pretrain/third_party/hrnet-{digest(server)}.pth", None)]
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1.* has the SHA-256 \w{16}\.\.\., expected 01234567"):
        local_copy(PUBLISHED.format("01234567"))
    monkeypatch.setenv("HRGRID_WEIGHTS_MIRROR", str(tmp_path / "folder"))
    copy = tmp_path / "folder" / "pretrain" / "third_party" / f"hrnet-{digest(server)}.pth"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(server.content)
    assert local_copy(PUBLISHED.format(digest(server))) == copy
    copy.write_bytes(b"changed")
    with pytest.raises(WeightsError, match="expected"):
        local_copy(PUBLISHED.format(digest(server)))


def test_weights_in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    try:
        host, port = served.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1", "HRGRID_CACHE": str(tmp_path),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        content = np.random.default_rng(0).bytes(3_000_000)
        hashed = hashlib.sha256(content).hexdigest()
        client = boto3.client("s3")
        client.create_bucket(Bucket="weights")
        client.put_object(Bucket="weights", Key=f"a/hrnet-{hashed[:8]}.pth", Body=content)
        uri = f"s3://weights/a/hrnet-{hashed[:8]}.pth"
        reachable(uri)
        cache_folder().mkdir()
        (cache_folder() / f"hrnet-{hashed[:8]}.pth.part").write_bytes(content[:1_500_000])
        assert local_copy(uri).read_bytes() == content, "what an earlier process left is continued"
        client.delete_object(Bucket="weights", Key=f"a/hrnet-{hashed[:8]}.pth")
        assert local_copy(uri).read_bytes() == content, "it is here already"
        for ask in (reachable, local_copy):
            with pytest.raises(WeightsError, match=r"cannot fetch s3://weights/absent\.pth: there is no such object"):
                ask("s3://weights/absent.pth")
        client.put_object(Bucket="weights", Key="changed.pth", Body=b"changed")
        with pytest.raises(WeightsError, match="expected 01234567"):
            local_copy("s3://weights/changed.pth", "01234567")
    finally:
        served.stop()


def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="user and password") as refused:
        fetch("https://me:secret@host:80/w.pth", tmp_path)
    assert "secret" not in str(refused.value)
