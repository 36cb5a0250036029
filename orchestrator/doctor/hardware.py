"""Checks of the machines: GPUs, shared memory, disks, memory, open files, clocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from orchestrator.doctor.model import Answer, Finding, Level, Nodes, findings
from orchestrator.workload import Json

__all__ = [
    "ask_clocks", "disks", "gpus", "judge_clocks", "judge_disks", "judge_files", "judge_gpus", "judge_memory",
    "judge_shm", "memory", "open_files", "shm",
]  # fmt: skip

GB: Final = 1e9
SHM_BYTES: Final = 256e6
"""Below this even Ray's own object store does not fit; Docker's default of 64 MB is the usual cause."""
OTHER_CPUS: Final = 2.0
"""A GPU worker's CPUs that do not load: its own and Ray's."""
BATCHES_PER_PROCESS: Final = 3.0
"""Two ahead, as the loader asks for, and the one that is read."""
DISK_BYTES: Final = 1e9
"""Less free space than this, and logs and scratch files of one day may fill the disk."""
AMPLE_BYTES: Final = 10e9
"""Less free space than this is worth a warning: a checkpoint of the widest network has 0.5 GB."""
FULL_SHARE: Final = 0.05
"""Ray puts no objects on a disk with less than this share free (local_fs_capacity_threshold is 0.95)."""
WORKER_BYTES: Final = 2e9
"""Memory of a worker before its data: Python, PyTorch and the model."""
FILES_LEAST: Final = 1024
FILES_AMPLE: Final = 4096
"""Loaders keep a few files per batch on its way; ray itself advises 65536."""
SKEW_WARN_SECONDS: Final = 2.0
SKEW_FAIL_SECONDS: Final = 60.0
"""S3 refuses a request whose clock is 15 minutes off; long before that logs and charts of a trial are in disorder."""

_Problem = tuple[str, Level, str, str]


def gpus() -> dict[str, Json]:
    """What the driver's own library tells, whatever Ray hides from this process; device files where it is missing."""
    from pathlib import Path

    from orchestrator.telemetry import installed_gpus

    return {**installed_gpus(), "devices": len(list(Path("/dev").glob("nvidia[0-9]*")))}


def judge_gpus(answers: Sequence[Answer]) -> list[Finding]:
    """The GPUs that Ray promises (without a cluster: that have a device file) must be those that the driver sees."""
    problems: list[_Problem] = []
    kinds: dict[str, list[str]] = {}
    total, drivers = 0, set()
    for answer in answers:
        facts, node = answer.facts, answer.node
        seen = len(facts["names"])
        promised = int(node.resources.get("GPU", 0)) if node.resources else facts["devices"]
        for name in set(facts["names"]):
            kinds.setdefault(name, []).append(node.name)
        if promised and not facts["driver"]:
            said = f"{_count(promised, 'GPU')} promised, but the driver's library (NVML) cannot be loaded or used"
            fix = "install the NVIDIA driver, and the container toolkit where Ray runs in a container"
            problems.append((node.name, "failed", said, fix))
        elif promised > seen:
            said = f"Ray promises {_count(promised, 'GPU')}, the driver sees {seen}"
            problems.append((node.name, "failed", said, "start Ray there with the right --num-gpus, or mend the GPU"))
        elif promised < seen:
            said = f"Ray promises {_count(promised, 'GPU')} of the {seen} that the driver sees: the others stay idle"
            problems.append((node.name, "warning", said, "start Ray there with the right --num-gpus"))
        total += promised
        drivers |= {facts["driver"]} if facts["driver"] and promised else set()
    if len(kinds) > 1:
        told = ", ".join(f"{name} on {_some(nodes)}" for name, nodes in sorted(kinds.items()))
        problems.append(
            ("", "warning", f"different GPUs ({told}): a gang runs at the pace of the slowest", "train on one kind")
        )
    if len(drivers) > 1:
        said = f"different drivers ({', '.join(sorted(drivers))})"
        problems.append(("", "warning", said, "install one driver on all nodes"))
    if not total:
        return findings("gpus", problems, "no node has a GPU: training would be on CPUs")
    kind = ", ".join(kinds)
    return findings("gpus", problems, f"{_count(total, 'GPU')} ({kind}), driver {', '.join(drivers)}")


def shm() -> dict[str, Json]:
    """Size and free space of /dev/shm in bytes."""
    import os

    status = os.statvfs("/dev/shm")
    return {"total": status.f_blocks * status.f_frsize, "free": status.f_bavail * status.f_frsize}


def judge_shm(answers: Sequence[Answer], batch_bytes: float) -> list[Finding]:
    """`batch_bytes`: of one worker's batch, of which every loading process of a GPU worker has some on their way."""
    problems: list[_Problem] = []
    for answer in answers:
        facts, node = answer.facts, answer.node
        workers = int(node.resources.get("GPU", 0))  # a worker on CPUs loads in its own process
        processes = max(1.0, node.resources.get("CPU", 0.0) / workers - OTHER_CPUS) if workers else 0.0
        need = workers * processes * BATCHES_PER_PROCESS * batch_bytes
        total = f"/dev/shm has {_gb(facts['total'])}, {_gb(facts['free'])} free"
        fix = "give the container more (docker run --shm-size=8g; in Kubernetes an emptyDir of medium Memory)"
        if facts["free"] < need:
            said = f"{total}; the loaders of {_count(workers, 'worker')} need {_gb(need)}"
            problems.append((node.name, "failed", said, fix))
        elif facts["total"] < SHM_BYTES:
            said = f"{total}; Ray's objects then go to the disk, and loaders of GPU workers would end with a bus error"
            problems.append((node.name, "warning", said, fix))
    least = min(answer.facts["free"] for answer in answers)
    return findings("/dev/shm", problems, f"{_gb(least)} free or more")


def disks() -> dict[str, Json]:
    """Free and total bytes where caches, scratch folders and Ray's own files are."""
    import os
    import tempfile
    from pathlib import Path

    def place(what: str, path: Path) -> dict[str, Json]:
        there = path
        while not there.exists():
            there = there.parent
        status = os.statvfs(there)
        sizes = {"free": status.f_bavail * status.f_frsize, "total": status.f_blocks * status.f_frsize}
        return {"what": what, "path": str(path), "read_only": bool(status.f_flag & os.ST_RDONLY), **sizes}

    cache = Path(os.environ.get("HRGRID_CACHE") or Path.home() / ".cache" / "hrgrid")
    temporary = Path(tempfile.gettempdir())
    session = Path(os.environ.get("RAY_TMPDIR") or temporary) / "ray"
    try:
        from ray._private import worker

        node = worker._global_node
        session = Path(node.get_session_dir_path()) if node is not None else session
    except (ImportError, AttributeError):
        pass
    limit = os.environ.get("HRGRID_CACHE_GB")
    found = [place("the cache", cache), place("scratch files", temporary), place("Ray's files", session)]
    return {"places": found, "limit": limit}


def judge_disks(answers: Sequence[Answer], data_bytes: float) -> list[Finding]:
    """`data_bytes`: what the nodes' caches are to hold of remote data; 0 if the data is local to them."""
    problems: list[_Problem] = []
    for answer in answers:
        told: set[tuple[int, int]] = set()
        for place in answer.facts["places"]:
            where = f"{place['what']} ({place['path']})"
            need = min(data_bytes, _limit(answer.facts["limit"])) if place["what"] == "the cache" else 0.0
            free, total = place["free"], place["total"]
            if place["read_only"]:
                said, level = f"the disk of {where} is read-only", "failed"
            elif free < max(need, DISK_BYTES):
                wanted = f"the data needs {_gb(need)}" if need > DISK_BYTES else f"{_gb(DISK_BYTES)} is the least"
                said, level = f"the disk of {where} has {_gb(free)} free of {_gb(total)}; {wanted}", "failed"
            elif place["what"] == "Ray's files" and free < FULL_SHARE * total:
                said, level = f"the disk of {where} is {1 - free / total:.0%} full, where Ray stops at 95 %", "failed"
            elif free < AMPLE_BYTES:
                said, level = f"the disk of {where} has {_gb(free)} free of {_gb(total)}", "warning"
            else:
                continue
            if (free, total) not in told:  # several places on one disk are one problem
                told.add((free, total))
                problems.append((answer.node.name, _level(level), said, _DISK_FIX[place["what"]]))
    least = min(place["free"] for answer in answers for place in answer.facts["places"])
    return findings("disk", problems, f"{_gb(least)} free or more where caches, scratch and Ray's files are")


_DISK_FIX: Final = {
    "the cache": "free some space, or set HRGRID_CACHE to a folder of a larger disk on every node",
    "scratch files": "free some space, or set TMPDIR to a folder of a larger disk before Ray is started",
    "Ray's files": "free some space, or start Ray with --temp-dir on a larger disk",
}


def open_files() -> dict[str, Json]:
    """Limits of open files of this process, soft and hard."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {"soft": soft, "hard": hard}


def judge_files(answers: Sequence[Answer]) -> list[Finding]:
    """Loaders, Ray and storage clients share one limit."""
    problems: list[_Problem] = []
    for answer in answers:
        soft = answer.facts["soft"]
        if 0 <= soft < FILES_AMPLE:
            level: Level = "failed" if soft < FILES_LEAST else "warning"
            fix = "ulimit -n 65536 before ray start (docker run --ulimit nofile=65536:65536)"
            problems.append((answer.node.name, level, f"a process may have {soft} open files", fix))
    least = min((answer.facts["soft"] for answer in answers if answer.facts["soft"] >= 0), default=None)
    return findings("open files", problems, "no limit" if least is None else f"a process may have {least} or more")


def memory() -> dict[str, Json]:
    """Memory of the machine and of the control groups around this process, in bytes, and whom the kernel killed."""
    from pathlib import Path

    def number(file: Path) -> int | None:
        try:
            text = file.read_text().strip()
        except OSError:
            return None
        return int(text) if text.isdecimal() and int(text) < 1 << 60 else None

    lines = Path("/proc/meminfo").read_text().splitlines()
    known = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith("kB")}
    limits: list[tuple[int, int]] = []
    killed = 0
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup") / controllers
        limit_name, use_name = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        if not controllers:
            limit_name, use_name = ("memory.max", "memory.current")
        inner = root / path.strip("/")
        # In a container the path may be the host's: what is bounded then is bounded at the root that is seen here.
        for folder in (inner, *inner.parents):
            if folder != root and root not in folder.parents:
                break
            limit, used = number(folder / limit_name), number(folder / use_name)
            if limit is not None and used is not None:
                limits.append((limit, used))
            for events in ("memory.events", "memory.oom_control"):
                try:
                    words = (folder / events).read_text().split()
                    killed = max(killed, int(words[words.index("oom_kill") + 1]))
                except (OSError, ValueError, IndexError):
                    continue
    limit, used = min(limits, key=lambda pair: pair[0] - pair[1], default=(0, 0))
    return {"total": known["MemTotal"], "free": known["MemAvailable"], "limit": limit, "used": used, "killed": killed}


def judge_memory(answers: Sequence[Answer]) -> list[Finding]:
    """Ray must not promise what the control group would kill for, and a worker must fit."""
    problems: list[_Problem] = []
    least = float("inf")
    for answer in answers:
        facts, node = answer.facts, answer.node
        free = min(facts["free"], facts["limit"] - facts["used"]) if facts["limit"] else facts["free"]
        whole = min(facts["total"], facts["limit"] or facts["total"])
        least = min(least, free)
        promised = node.resources.get("memory", 0.0) + node.resources.get("object_store_memory", 0.0)
        bound = f" (its control group allows {_gb(facts['limit'])})" if facts["limit"] == whole else ""
        if free < WORKER_BYTES:
            said = f"{_gb(max(0.0, free))} of {_gb(whole)} memory are free{bound}; a worker needs {_gb(WORKER_BYTES)}"
            problems.append((node.name, "failed", said, "end what uses it, or take a machine with more memory"))
        elif promised > whole:
            said = f"Ray promises {_gb(promised)} of memory, there are {_gb(whole)}{bound}"
            problems.append((node.name, "failed", said, "start Ray with --memory and --object-store-memory that fit"))
        if facts["killed"]:
            said = f"the kernel has killed {_count(facts['killed'], 'process', 'processes')} here for want of memory"
            problems.append((node.name, "warning", said, "raise the container's memory, or run fewer workers there"))
    return findings("memory", problems, f"{_gb(least)} free or more")


def ask_clocks(nodes: Nodes, seconds: float) -> Sequence[Answer]:
    """How far the clocks of a cluster's nodes are apart; see `Cluster.clocks`."""
    cluster: Any = nodes
    answers: Sequence[Answer] = cluster.clocks(seconds)
    return answers


def judge_clocks(answers: Sequence[Answer]) -> list[Finding]:
    """Against the machine that asks, which is the head's in a job."""
    problems: list[_Problem] = []
    largest = 0.0
    for answer in answers:
        ahead, known_to = answer.facts["ahead"], answer.facts["known_to"]
        off = max(0.0, abs(ahead) - known_to)  # what is beyond doubt
        largest = max(largest, off)
        if off > SKEW_WARN_SECONDS:
            level: Level = "failed" if off > SKEW_FAIL_SECONDS else "warning"
            said = f"the clock is {off:.0f} s {'ahead of' if ahead > 0 else 'behind'} the head's"
            problems.append((answer.node.name, level, said, _CLOCK_FIX))
    return findings("clocks", problems, f"all nodes within {max(largest, 0.1):.1f} s of the head")


_CLOCK_FIX: Final = "run a time service there (chrony, systemd-timesyncd)"


def _limit(text: str | None) -> float:
    try:
        return float(text) * GB if text else float("inf")
    except ValueError:
        return float("inf")


def _level(word: str) -> Level:
    return "failed" if word == "failed" else "warning"


def _gb(count: float) -> str:
    return f"{count / GB:.2g} GB" if count < 10 * GB else f"{count / GB:.0f} GB"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} nodes"
