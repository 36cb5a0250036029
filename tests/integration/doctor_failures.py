"""`python -m tests.integration.doctor_failures [--cluster]`: every check of the doctor made to fail, and its sentence.

The conditions are real: full disks and small shared memory are mounts of a namespace of their own, memory is bounded
by a control group, services are wrong servers on loopback. With --cluster three hosts, network namespaces of which two
cannot reach each other, run a Ray cluster whose nodes differ. Needs root. What cannot be made here, GPUs of several
kinds, is judged from facts by tests/orchestrator/test_doctor.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.integration import children
from tests.integration.doctor_servers import Silent, WrongS3, mlflow_server, prepared

_MEMORY = Path("/sys/fs/cgroup/memory")
_AWS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Print all sentences; exit code 1 if a condition was not noticed."""
    noticed = True
    with tempfile.TemporaryDirectory(prefix="hrgrid-doctor-") as name:
        folder = Path(name)
        parts = [_machine, _names, _services] if "--cluster" not in arguments else [_hosts]
        for part in parts:
            for title, expected, found in part(folder):
                noticed &= _show(title, expected, found)
    return 0 if noticed else 1


def _show(title: str, expected: Sequence[str], found: Sequence[Mapping[str, object]]) -> bool:
    print(f"\n== {title}", flush=True)
    for finding in found:
        if finding["level"] != "ok" and finding["check"] in expected:
            nodes = ", ".join(map(str, finding["nodes"])) if isinstance(finding["nodes"], list) else ""
            print(f"{finding['level']:<8}{finding['check']:<14}{nodes and nodes + ': '}{finding['said']}")
            print(f"{'':<22}fix: {finding['fix']}", flush=True)
    bad = {finding["check"] for finding in found if finding["level"] != "ok"}
    for check in sorted(set(expected) - bad):
        print(f"NOT NOTICED: {check}")
    return set(expected) <= bad


def doctor(
    folder: Path, *arguments: str, before: Sequence[str] = (), **environment: str
) -> list[Mapping[str, object]]:
    """The findings of `hrgrid doctor`, run behind the words `before` that make its conditions."""
    command = [*before, sys.executable, "-m", "jobs.cli", "doctor", "--json", *arguments]
    own = {**children.environment(folder / "home"), "HRGRID_CACHE": f"{folder}/cache", **_AWS, **environment}
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise RuntimeError(f"the doctor ended with {done.returncode}: {done.stdout}\n{done.stderr}")
    found: list[Mapping[str, object]] = json.loads(done.stdout)["findings"]
    return found


_Part = Iterator[tuple[str, Sequence[str], Sequence[Mapping[str, object]]]]


def _machine(folder: Path) -> _Part:
    (folder / "small").mkdir()
    token = folder / "home" / ".ray" / "auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("0" * 64)
    token.chmod(0o644)
    mounts = f"{_DEVICES.format(folder=folder)} && mount -t tmpfs -o size=500m tmpfs {folder}/small"
    with _control_group(1_500_000_000) as group:
        inner = f'{mounts} && ulimit -n 512 && echo $$ > {group}/cgroup.procs && exec "$@"'
        checks = ("token", "gpus", "/dev/shm", "disk", "memory", "open files", "collective")
        title = (
            "this machine: a token for all to read, a GPU without a driver, small /dev/shm, disk and memory, few "
            "files, no such interface"
        )
        before = ["unshare", "-m", "bash", "-c", inner, "--"]
        yield title, checks, doctor(
            folder, before=before, HRGRID_CACHE=f"{folder}/small/cache", GLOO_SOCKET_IFNAME="nosuch0"
        )  # fmt: skip


_DEVICES = """set -e; mkdir {folder}/dev; mount -t tmpfs tmpfs {folder}/dev; cd {folder}/dev; touch nvidia0
for file in null zero full random urandom; do touch $file; mount --bind /dev/$file $file; done
mkdir shm; mount -t tmpfs -o size=64m tmpfs shm; cd {folder}; mount --rbind dev /dev; test -w /dev/null"""
"""Another /dev, with the file of a GPU and little shared memory."""


@contextmanager
def _control_group(limit: int) -> Iterator[Path]:
    group = _MEMORY / f"hrgrid-doctor-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit))
        yield group
    finally:
        children.wait_for(lambda: _gone(group), 30, "the control group is empty")


def _gone(group: Path) -> bool:
    with contextlib.suppress(OSError):  # busy for a moment after its last process
        group.rmdir()
    return not group.exists()


def _names(folder: Path) -> _Part:
    """Locations that are wrong."""
    data = prepared(folder / "data")
    (shard,) = data.glob("val-*.parquet")
    shard.rename(folder / "shard")
    weights = folder / "weights.pth"
    weights.write_bytes(b"no weights")
    (folder / "cache" / "weights").mkdir(parents=True)
    (folder / "cache" / "weights" / "hrnetv2_w48-d2186c55.pth").write_bytes(b"half of a file")
    given = ["--fast", "--storage", "/proc/hrgrid", "--data", str(data)]
    title = "a storage that cannot be written, MLflow that nobody serves, a missing shard, no network, a spoilt cache"
    checks = ("storage", "mlflow", "data", "weights")
    yield title, checks, doctor(folder, *given, "--tracking", "http://127.0.0.1:9")
    content = bytearray((folder / "shard").read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    title = "MLflow by a name that is unknown, a damaged shard, weights that are not there"
    given = ["--fast", "--tracking", "http://mlflow.invalid:5000", "--set", f"pretrained={folder}/none.pth"]
    yield title, ("mlflow", "data", "weights"), doctor(folder, *given, "--data", str(data))
    yield "a pretrained file that is spoilt in the cache", ("weights",), doctor(folder, "--fast", "--width", "w48")
    (data / "manifest.json").write_text('{"format": "hrgrid-shards/1"')
    yield "a damaged manifest", ("data",), doctor(folder, "--fast", "--data", str(data))


def _services(folder: Path) -> _Part:
    """Services that answer wrongly, or not at all."""
    with ExitStack() as stack:
        servers = {kind: stack.enter_context(WrongS3(kind)) for kind in ("", "clock", "conditions", "denied")}
        server = stack.enter_context(mlflow_server(folder / "mlflow"))
        closed = stack.enter_context(mlflow_server(folder / "closed", auth=True))
        silent = stack.enter_context(Silent())
        by_name = server.replace("127.0.0.1", socket.gethostname())
        for title, endpoint, bucket, tracking in (
            ("S3 without the bucket; MLflow by a name that is not allowed", servers[""], "none", by_name),
            ("S3 whose clock is 20 minutes off; MLflow without a password", servers["clock"], "bucket", closed),
            ("S3 that ignores conditions; a server that is not MLflow", servers["conditions"], "bucket",
             servers[""].endpoint),
            ("S3 that refuses the credentials; silence where MLflow should be", servers["denied"], "bucket",
             silent.uri),
        ):  # fmt: skip
            given = ["--fast", "--storage", f"s3://{bucket}/results", "--tracking", tracking]
            yield title, ("storage", "mlflow"), doctor(folder, *given, AWS_ENDPOINT_URL=endpoint.endpoint)
        given = ["--fast", "--storage", "s3://bucket/results", "--tracking", closed]
        title = "silence where S3 should be; MLflow with a wrong password"
        yield title, ("storage", "mlflow"), doctor(
            folder, *given, AWS_ENDPOINT_URL=silent.uri,
            MLFLOW_TRACKING_USERNAME="admin", MLFLOW_TRACKING_PASSWORD="wrong-password-of-mine",
        )  # fmt: skip
        left = [key for each in servers.values() for key in each.stored()]
        print(f"\nleft behind in the storages: {left or 'nothing'}")


def _hosts(folder: Path) -> _Part:
    """Three hosts, of which two do not reach each other, and whose nodes differ in what can."""
    from tests.integration.doctor_hosts import hosts

    yield from hosts(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
