"""When a gang that could be larger makes way: by the room that there is, and how long there has been."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.elastic import Growth
from orchestrator.ledger import Ledger
from orchestrator.settings import make_settings
from orchestrator.storage import Storage
from orchestrator.worker import Assignment
from tests.orchestrator.fake import FakeWorkload


class Hall:
    """Room as it is set."""

    def __init__(self, size: int) -> None:
        self.size, self.is_open = size, False

    def open(self) -> None:
        self.is_open = True

    def reached(self) -> int:
        assert self.is_open
        return self.size

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def hall() -> Hall:
    return Hall(2)


@pytest.fixture
def growth(tmp_path: Path, hall: Hall) -> Growth:
    settings = make_settings(storage=str(tmp_path), benchmark="bench", environment={})
    workload = FakeWorkload()
    spec = workload.resolve(workload.cells()[0], {}, seed=0, data="data")
    job = Assignment(
        spec=spec, key="k", settings=settings, run_id="r", start_ms=0, workers=2, cpus=1, owner="me", lease=1
    )
    return Growth(Ledger(Storage(str(tmp_path))), job, hall, 60.0)


def test_room_counts_once_it_has_been_there_for_a_while(growth: Growth, hall: Hall) -> None:
    assert growth.look(100.0, wanted=True) == 2
    hall.size = 4
    assert [growth.look(at, wanted=True) for at in (110.0, 169.0, 170.0)] == [2, 2, 4]
    hall.size = 8
    assert [growth.look(at, wanted=True) for at in (171.0, 230.0, 231.0)] == [2, 2, 8]
    hall.size = 2
    assert growth.look(300.0, wanted=True) == 2


def test_a_gang_without_a_place_gets_the_room(growth: Growth, hall: Hall) -> None:
    hall.size = 4
    assert growth.look(100.0, wanted=True) == 2
    assert growth.look(159.0, wanted=False) == 2
    assert not hall.is_open
    assert [growth.look(at, wanted=True) for at in (161.0, 220.0, 221.0)] == [2, 2, 4]


def test_what_was_asked_of_an_attempt_is_not_asked_of_the_next(tmp_path: Path) -> None:
    ledger = Ledger(Storage(str(tmp_path)))
    assert not ledger.regroup_asked("k", 1, 1)
    ledger.ask_regroup("k", 1, 1)
    assert [ledger.regroup_asked("k", *of) for of in ((1, 1), (1, 2), (2, 1))] == [True, False, False]
