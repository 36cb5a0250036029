"""A launch on a local Ray by a person with secrets: it listens to no other machine, and leaves no secret behind."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration import children
from tests.integration.security.planted import environment, values
from tests.integration.security.ports import Port, watch
from tests.integration.security.scan import Place, scan
from tests.integration.security.spy import spying

pytestmark = pytest.mark.ray


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What a launch opened and left behind."""

    outcomes: dict[str, Any]
    ports: set[Port]
    places: dict[str, Place]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A gang of two that trains, and a cell that fails."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "data").mkdir()
    planted = values()
    # Ray makes sockets below its folder, whose path must be short.
    temporary = tempfile.mkdtemp(prefix="hr", dir="/tmp")
    settings = {**environment(planted), "TMPDIR": temporary, "RAY_TMPDIR": temporary}
    arguments = [f"{folder}/results", "thick-add-short", "thin-add-long", "--workers", "thick-add-short=2"]
    try:
        launch = children.start(
            [*arguments, "--data", f"{folder}/data", "--set", "sleep=0.2"], folder / "home", **settings
        )
        with spying(launch.pid, folder / "seen", children.environment(folder / "home", **settings)):
            ports = watch(launch.pid, seconds=240)
        document = children.finish(launch)
    finally:
        shutil.move(temporary, folder / "temporary")
    names = ("results", "home", "temporary", "seen")
    return Left(
        outcomes=document["outcomes"], ports=ports, places={name: scan(name, folder / name, planted) for name in names}
    )


def test_no_port_of_a_local_launch_can_be_reached_from_another_machine(left: Left) -> None:
    assert left.outcomes["thick-add-short"]["state"] == "finished"
    seen = {port.process for port in left.ports}
    assert {"Ray GCS", "Ray raylet and object manager", "ray::RayTrainWorker", "ray::ImplicitFunc"} <= seen
    assert not [port for port in left.ports if port.beyond_loopback]


def test_no_secret_of_the_environment_is_left_behind(left: Left) -> None:
    assert left.outcomes["thin-add-long"]["state"] == "failed"
    assert {name: place.files > 0 for name, place in left.places.items() if name != "home"} == {
        "results": True, "temporary": True, "seen": True,
    }  # fmt: skip
    assert not [found for place in left.places.values() for found in place.found]


def test_a_secret_is_found_in_whatever_it_is_wrapped(tmp_path: Path) -> None:
    import base64
    import gzip
    import pickle
    import sqlite3
    import zipfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    value = "s3cret/+value-of-today"
    (tmp_path / "b64").write_bytes(base64.b64encode(f"ann:{value}".encode()))
    (tmp_path / "url").write_text("http://ann:s3cret%2F%2Bvalue-of-today@host/")
    (tmp_path / "gz").write_bytes(gzip.compress(pickle.dumps({"password": value})))
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner", value)
    pq.write_table(pa.table({"c": [value]}), tmp_path / "parquet")
    database = sqlite3.connect(tmp_path / "db")
    database.execute("create table t (c)")
    database.execute("insert into t values (?)", ["x" * 8000 + value])
    database.commit()
    database.close()
    (tmp_path / "clean").write_text("s3cret value")
    place = scan("here", tmp_path, {"it": value})
    assert {entry.split(" in ")[1].partition("|")[0] for entry in place.found} == {
        "b64", "url", "gz", "zip", "parquet", "db",
    }  # fmt: skip
    assert place.files == 7
