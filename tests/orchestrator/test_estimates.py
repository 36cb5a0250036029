"""Where the expected duration of a trial comes from: the nearest measurement on the same kind of device, or none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from orchestrator.estimates import EFFICIENCY, Estimator, Measurement, measurements
from orchestrator.grid import Trial, expand
from orchestrator.ledger import Entry, Ledger
from orchestrator.shape import ClusterShape
from orchestrator.storage import Storage
from tests.orchestrator.fake import FakeWorkload

WORKLOAD = FakeWorkload()
GPUS = ClusterShape(slots=8, kind="GPU", cpus=8, gpus=8, device="H100")
TRIALS = {trial.spec.cell.name: trial for trial in expand(WORKLOAD, WORKLOAD.cells())}
THIN = TRIALS["thin-add-short"]  # 8 iterations of 4 samples, 0.25 each


def measured(trial: Trial = THIN, **changes: Any) -> Measurement:
    one = Measurement(
        key=trial.key, cell=trial.spec.cell.name, facets=trial.spec.cell.facets, family=trial.estimate.family,
        sample_work=trial.estimate.work / trial.estimate.batch, device="NVIDIA H100 80GB HBM3", workers=2, share=1,
        rate=4.0,
    )  # fmt: skip
    return dataclasses.replace(one, **changes)


def test_the_most_specific_measurement_counts() -> None:
    far = measured(TRIALS["thin-sort-long"], rate=1.0)
    near = measured(TRIALS["thin-add-long"], rate=2.0)
    cell = measured(key="another seed", rate=8.0)
    own = measured(rate=16.0)
    for those, source, seconds in (
        ([far], "scaled", 32.0),
        ([far, near], "alike", 16.0),
        ([far, near, cell], "cell", 4.0),
        ([far, near, cell, own], "trial", 2.0),
    ):
        timing = Estimator(those, GPUS).timing(THIN, 2)
        assert (timing.source, timing.seconds) == (source, seconds)
        assert "NVIDIA H100 80GB HBM3" in timing.detail


def test_another_family_or_device_tells_nothing() -> None:
    for those in (
        [],
        [measured(TRIALS["thick-add-short"])],
        [measured(device="NVIDIA H200")],
        [measured(device="CPU, X")],
    ):
        timing = Estimator(those, GPUS).timing(THIN, 2)
        assert (timing.source, timing.seconds) == ("unknown", None)
    cpu = ClusterShape(slots=2, cpus=2)
    assert Estimator([measured(), measured(device="CPU, X", rate=1.0)], cpu).timing(THIN, 2).seconds == 32.0
    nameless = dataclasses.replace(GPUS, device=None)
    several = [measured(device="NVIDIA H200", rate=1.0), measured(rate=8.0), measured(rate=8.0)]
    assert Estimator(several, nameless).timing(THIN, 2).seconds == 4.0


def test_a_rate_that_was_given_is_the_last_resort() -> None:
    given = dataclasses.replace(GPUS, rate=0.5)
    timing = Estimator([], given).timing(THIN, 2)
    assert (timing.source, timing.seconds) == ("given", 8.0)
    assert Estimator([measured()], given).timing(THIN, 2).source == "trial"


def test_arithmetic_and_the_number_of_workers_scale() -> None:
    double = measured(TRIALS["thin-add-long"], sample_work=0.5, rate=2.0)
    assert Estimator([double], GPUS).timing(THIN, 2).seconds == pytest.approx(8.0)
    four = Estimator([measured()], GPUS).timing(THIN, 4)
    assert four.seconds == pytest.approx(8.0 / 2 / EFFICIENCY)
    assert "per doubling" in four.detail
    better = Estimator([measured(), measured(workers=4, rate=7.9)], GPUS).timing(THIN, 4)
    assert better.seconds == pytest.approx(32 / 7.9)


def test_what_is_done_is_not_counted_and_evaluation_is() -> None:
    estimator = Estimator([measured(beside=5.0), measured(beside=7.0)], GPUS)
    assert estimator.timing(THIN, 2).seconds == pytest.approx(8.0 + 6.0)
    assert estimator.timing(THIN, 2, done=4).seconds == pytest.approx(4.0 + 6.0)
    assert estimator.timing(THIN, 2, done=8).seconds == 0.0


def test_sharers_slow_each_other_down_as_far_as_is_known() -> None:
    alone = [measured(gpu_percent=40.0)]
    assert Estimator(alone, GPUS).timing(THIN, 1, share=2).seconds == pytest.approx(16.0 * EFFICIENCY)
    assert Estimator(alone, GPUS).timing(THIN, 1, share=4).seconds == pytest.approx(1.6 * 16.0 * EFFICIENCY)
    assert Estimator([measured()], GPUS).timing(THIN, 1, share=2).seconds == pytest.approx(2 * 16.0 * EFFICIENCY)
    together = [*alone, measured(workers=1, share=2, rate=1.0)]
    assert Estimator(together, GPUS).timing(THIN, 1, share=2).seconds == pytest.approx(32.0)
    assert Estimator(together[1:], GPUS).timing(THIN, 1).seconds is None


def test_memory_that_was_measured_replaces_the_estimate() -> None:
    assert Estimator([], GPUS).memory_gb(THIN, 1) == (2.0, False)
    assert Estimator([measured(memory_gb=3.0), measured(memory_gb=2.5)], GPUS).memory_gb(THIN, 1) == (6.0, True)


def test_the_ledger_is_read_for_the_plan_and_for_whatever_else_the_storage_holds(tmp_path: Path) -> None:
    ledger = Ledger(Storage(str(tmp_path)))
    ours, other, unmeasured = (TRIALS[name] for name in ("thin-add-short", "thin-add-long", "thick-add-long"))
    progress = {"metrics": {"train/images_per_s": 4.0}, "workers": 2, "device": "NVIDIA H100", "resumed_from": 4}
    ledger.write_progress(ours.key, {**progress, "gpu_percent": 30.0})
    ledger.write_result(ours.key, {"state": "finished", "metrics": {"speed/train_mem_gb": 1.5}, "seconds": 9.0})
    ledger.write_progress(other.key, {**progress, "share": 2})
    ledger.write_spec(other.key, other.spec)
    entries = [Entry(cell=t.spec.cell.name, key=t.key, facets={}, seed=0) for t in (ours, other, unmeasured)]
    ledger.add_benchmark("earlier", entries)
    found = {m.key: m for m in measurements(ledger, [ours], ledger.trials([ours.key]), WORKLOAD)}
    assert set(found) == {ours.key, other.key}
    # Four iterations of four samples at four per second are four of the nine seconds.
    assert (found[ours.key].beside, found[ours.key].gpu_percent) == (5.0, 30.0)
    assert found[ours.key].memory_gb == pytest.approx(1.5 * 2**30 / 1e9)  # the table's GB have 2^30 bytes
    assert (found[other.key].share, found[other.key].family, found[other.key].beside) == (2, "thin", None)
