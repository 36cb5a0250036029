"""A job's log over streams that break anywhere, and over a cluster that comes and goes. Ray's client is played."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from orchestrator import joblog
from orchestrator.errors import ClusterError, UsageError
from orchestrator.joblog import Reader

LOG = "".join(f"line {number}\n" for number in range(100))


class Cluster:
    """Gives the log in streams that end after so many characters, in order or broken; then the job has ended."""

    def __init__(self, *streams: int, away: int = 0, broken: bool = True) -> None:
        self.streams = list(streams)
        self.away = away
        self.broken = broken
        self.gone = False

    @contextmanager
    def connect(self) -> Iterator[tuple[Any, str]]:
        if self.away:
            self.away -= 1
            raise ClusterError("the Ray cluster cannot be used")
        try:
            yield self, "http://head"
        except RuntimeError as error:
            raise ClusterError(str(error)) from error

    def ended(self, client: Any, where: str) -> bool:
        if self.gone:
            raise UsageError("there is no job 'j'")
        return not self.streams

    def get_job_logs(self, name: str) -> str:
        return LOG

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        end = self.streams.pop(0)
        for begin in range(0, end, 7):
            yield LOG[begin : min(begin + 7, end)]
        if self.broken:
            raise RuntimeError("WebSocket connection closed unexpectedly")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblog, "PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize("broken", [True, False])
@pytest.mark.parametrize("streams", [(), (0,), (50,), (50, 20, 300), (len(LOG),), (400, 400, 3)])
def test_no_character_is_lost_or_doubled(streams: tuple[int, ...], broken: bool) -> None:
    cluster, pieces, told = Cluster(*streams, broken=broken), [], []
    Reader("j", cluster.connect, pieces.append, told.append).read(cluster.ended)
    assert "".join(pieces) == LOG
    assert len(told) == len(streams) * broken


def test_a_cluster_that_is_not_there_at_first_is_not_waited_for() -> None:
    cluster, told = Cluster(away=1), []
    with pytest.raises(ClusterError):
        Reader("j", cluster.connect, told.append, told.append).read(cluster.ended)
    assert not told


def test_a_cluster_that_stays_away_is_given_up() -> None:
    cluster, told = Cluster(50), []

    def write(piece: str) -> None:
        cluster.away = 1_000_000

    with pytest.raises(ClusterError):
        Reader("j", cluster.connect, write, told.append).read(cluster.ended, patience=0.2)
    assert len(told) == 1


def test_a_head_that_has_begun_anew_is_told() -> None:
    cluster = Cluster(50)

    def write(piece: str) -> None:
        cluster.gone = True

    with pytest.raises(ClusterError, match="it was there: the head of the cluster has begun anew"):
        Reader("j", cluster.connect, write, print).read(cluster.ended)


def test_who_reads_no_more_ends_it() -> None:
    def write(piece: str) -> None:
        raise BrokenPipeError

    cluster = Cluster(50)
    with pytest.raises(BrokenPipeError):
        Reader("j", cluster.connect, write, print).read(cluster.ended)
