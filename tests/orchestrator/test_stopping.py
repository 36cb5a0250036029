"""A stop asks everybody who trains, waits for them, and not for ever."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from orchestrator.ledger import Ledger
from orchestrator.stopping import stop_with_checkpoints, undisturbed, until_interrupted
from orchestrator.storage import Storage


def test_all_are_asked_also_who_begins_meanwhile_and_none_is_waited_for_in_vain(tmp_path: Path) -> None:
    ledger = Ledger(Storage(str(tmp_path)))
    states = [{"a": 1}, {"a": 1, "b": 3}, {"b": 3}, {}]
    told: list[str] = []
    halted: list[bool] = []

    def step() -> bool:
        states.pop(0)
        return False

    stop_with_checkpoints(
        ledger, lambda: states[0], seconds=30.0, halt=lambda: halted.append(True), step=step, tell=told.append
    )
    assert not states[0]
    assert halted == [True]
    assert ledger.stop_asked("a", 1)
    assert ledger.stop_asked("b", 3)
    assert not ledger.stop_asked("b", 4)  # a later lease goes on
    assert told == ["stopping: waiting for checkpoints, up to 30 s ... Ctrl-C again to stop at once"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_stops_at_once(tmp_path: Path, number: signal.Signals) -> None:
    told: list[str] = []

    def step() -> bool:
        os.kill(os.getpid(), number)
        time.sleep(5.0)
        return False

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        stop_with_checkpoints(
            Ledger(Storage(str(tmp_path))), lambda: {"a": 1}, seconds=30.0, halt=list, step=step, tell=told.append
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert told[-1] == "stopping at once"


def test_who_does_not_answer_is_waited_for_as_long_as_was_said(tmp_path: Path) -> None:
    told: list[str] = []
    stop_with_checkpoints(
        Ledger(Storage(str(tmp_path))), lambda: {"a": 1}, seconds=0.1, halt=list,
        step=lambda: bool(time.sleep(0.05)), tell=told.append,
    )  # fmt: skip
    assert told[-1] == "no checkpoint within 0 s; stopping at once"


def test_signals_are_taken_as_interrupts_and_later_not_at_all() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with until_interrupted(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    with undisturbed():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
