"""Checks of what the nodes share: the storage of results, as every node uses it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from orchestrator.doctor.model import Answer, Check, Finding, Level, Nodes, findings
from orchestrator.workload import Json

__all__ = ["judge_storage", "storage", "storage_check"]

STORAGE_SECONDS: Final = 45.0
"""A request that nobody answers is given up by the client itself after a part of this."""
SKEW_SECONDS: Final = 60.0
"""The times of a storage are whole seconds, and a request takes some; S3 refuses clocks that are 15 minutes off."""

_RIGHTS: Final = {
    "write": "s3:PutObject",
    "read": "s3:GetObject",
    "list": "s3:ListBucket",
    "delete": "s3:DeleteObject",
}


def storage(uri: str, folder: str, shared: bool) -> dict[str, Json]:
    """Write, read, list, write under conditions and delete below `folder`; nothing of it stays.

    `shared`: whoever asks has put a file there, which this node must see.
    """
    import time

    from orchestrator.errors import StorageError
    from orchestrator.storage import Storage

    place, own = Storage(uri), f"{folder}/{uuid.uuid4().hex[:12]}"
    marker, step = f"{own}/marker", "write"
    facts: dict[str, Json] = {"failed": None, "said": "", "sees": True, "ahead": 0.0, "conditions": True}
    try:
        with _leaving_no_folder(uri):
            began = time.time()
            place.write_bytes(marker, b"hrgrid")
            clock = place.clock(own)
            facts["ahead"] = clock - (began + time.time()) / 2
            step = "read"
            facts["same"] = place.read_bytes(marker) == b"hrgrid"
            facts["sees"] = not shared or place.exists(f"{folder}/shared")
            step = "list"
            facts["listed"] = place.list(own) == ["marker"]
            step = "write"
            again = place.create_exclusive(marker, b"again") or place.replace(marker, b"other", '"of-nothing"')
            stored = place.find_stored(marker)
            renewed = stored is not None and place.replace(marker, b"renewed", stored.version)
            facts["conditions"] = renewed and not again
            step = "delete"
            place.delete(own)
            facts["gone"] = not place.exists(marker)
    except StorageError as error:
        facts |= {"failed": step, "said": str(error)}
        if step != "delete":
            with contextlib.suppress(StorageError):
                place.delete(own)
    return facts


def judge_storage(answers: Sequence[Answer], uri: str) -> list[Finding]:
    """Every node must be able to do everything, and see what the others wrote."""
    problems: list[tuple[str, Level, str, str]] = []
    for answer in answers:
        facts, node = answer.facts, answer.node.name
        if facts["failed"]:
            said, _, fix = facts["said"].rpartition("; ")
            right = _RIGHTS[facts["failed"]]
            if not said:
                said = facts["said"]
                fix = "look at the service's log and at the node's AWS environment"
                fix = fix if "://" in uri else "give another --storage, which every node may write to"
            if "may not do this" in fix:
                said, fix = f"{said}; {fix}", f"give them {right} (and the other rights that docs/doctor.md lists)"
            problems.append((node, "failed", _without_marker(said), fix))
            continue
        for fact, said, fix in _BROKEN:
            if not facts[fact]:
                problems.append((node, "failed", f"{uri} {said}", fix))
        ahead = facts["ahead"]
        if abs(ahead) > SKEW_SECONDS:
            said = f"its clock and that of {uri} are {abs(ahead):.0f} s apart ({'ahead' if ahead > 0 else 'behind'}"
            said += " is the storage's, by which leases are taken over)"
            fix = "run a time service on both (chrony); S3 refuses requests that are 15 minutes off"
            problems.append((node, "failed", said, fix))
    told = "written, read, listed, written under conditions, deleted"
    return findings("storage", problems, f"{uri}: {told} from {_nodes(len(answers))}")


_BROKEN: Final = (
    ("sees", "does not show what the head has written to it: it is another folder there",
     "give storage that all nodes share: s3://bucket/prefix, or the same network file system mounted everywhere"),
    ("same", "does not give back what was written to it", "take another storage"),
    ("listed", "does not list what was just written to it", "take a storage that lists at once, as S3 does"),
    ("conditions", "ignores the conditions If-None-Match and If-Match of a write, without which two launches could "
     "train the same cell", "take another storage, or a newer release of its server"),
    ("gone", "keeps what was deleted from it", "take another storage, or one without object locks"),
)  # fmt: skip
"""Fact that must hold, what is wrong if it does not, what to do."""


def storage_check(uri: str) -> Check:
    """The whole check: a file from here that every node must see, then each node on its own."""
    from orchestrator.errors import StorageError
    from orchestrator.storage import Storage

    folder = f".hrgrid-doctor-{uuid.uuid4().hex[:12]}"
    held = contextlib.ExitStack()

    def ask(nodes: Nodes, seconds: float) -> Sequence[Answer]:
        shared = False
        with contextlib.suppress(StorageError):
            held.enter_context(_leaving_no_folder(uri))
            Storage(uri).write_bytes(f"{folder}/shared", b"hrgrid")
            shared = True
        return nodes.ask(partial(storage, uri, folder, shared), seconds)

    def clean() -> None:
        with contextlib.suppress(StorageError):
            Storage(uri).delete(folder)
        held.close()

    judge: Callable[[Sequence[Answer]], list[Finding]] = partial(judge_storage, uri=uri)
    return Check(name="storage", of=uri, ask=ask, judge=judge, seconds=STORAGE_SECONDS, clean=clean)


@contextmanager
def _leaving_no_folder(uri: str) -> Iterator[None]:
    """Take away the folders of a local storage that were not there before, if nothing is in them."""
    from pathlib import Path

    root = Path(uri)
    new = [] if "://" in uri else [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        yield
    finally:
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _without_marker(said: str) -> str:
    """Whom a person gives rights is the location, not the file that the doctor tried."""
    head, found, tail = said.partition("/.hrgrid-doctor-")
    return said if not found else head + ":" + tail.partition(":")[2]


def _nodes(number: int) -> str:
    return "1 node" if number == 1 else f"{number} nodes"
