"""A lease's owner is one process: not another with its number, its host name, or its corpse."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from orchestrator.ledger import Ledger
from orchestrator.owners import is_alive, process_identity
from orchestrator.settings import make_settings
from orchestrator.storage import Storage
from orchestrator.takeover import free_dead_trials


def test_a_process_knows_itself_and_others_that_live() -> None:
    mine = process_identity()
    assert is_alive(mine)
    code = f"from orchestrator.owners import is_alive; print(is_alive({mine!r}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_an_owner_that_cannot_be_seen_from_here_is_taken_to_live() -> None:
    host, pid, created, place = process_identity().split(":")
    assert is_alive(f"elsewhere:{pid}:{created}:{place}")
    assert is_alive(f"{host}:999999999:{created}:another0")
    assert is_alive("nonsense")
    assert is_alive("")


def test_the_dead_the_buried_and_a_successor() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    created = psutil.Process(process.pid).create_time()
    owner = f"{socket.gethostname()}:{process.pid}:{created:.0f}:{process_identity().split(':')[-1]}"
    assert is_alive(owner)
    assert not is_alive(owner.replace(f"{created:.0f}", f"{created - 3600:.0f}"))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert not is_alive(owner)
    process.wait()
    assert not is_alive(owner)


def test_what_a_killed_launch_held_is_free_at_once_whatever_it_had_written(tmp_path: Path) -> None:
    host, _, created, place = process_identity().split(":")
    dead = f"{host}:999999999:{created}:{place}"
    settings = make_settings(storage=str(tmp_path), environment={})
    ledger = Ledger(Storage(settings.storage))
    for key in ("claimed", "running", "finished"):
        assert ledger.claim(key, dead) == 1
    ledger.write_progress("running", {"step": 3, "owner": dead}, lease=1)
    ledger.write_result("finished", {"state": "finished", "metrics": {}}, lease=1)
    assert ledger.claim("living", process_identity()) == 1
    keys = ["claimed", "running", "finished", "living", "new"]
    assert free_dead_trials(settings, keys) == ["claimed", "running"]
    assert [ledger.claim(key, "next") for key in keys] == [2, 2, None, None, 1]
    assert free_dead_trials(settings, keys) == []


def test_a_trial_whose_second_launch_was_killed_is_interrupted_though_the_first_one_failed(tmp_path: Path) -> None:
    host, _, created, place = process_identity().split(":")
    ledger = Ledger(Storage(str(tmp_path)))
    ledger.write_result("k", {"state": "failed"}, lease=ledger.claim("k", "first"))
    ledger.release("k", "first", 1)
    dead = f"{host}:999999999:{created}:{place}"
    ledger.write_progress("k", {"step": 3, "owner": dead}, lease=ledger.claim("k", dead))
    assert free_dead_trials(make_settings(storage=str(tmp_path), environment={}), ["k"]) == ["k"]
    assert ledger.state("k") == "interrupted"
