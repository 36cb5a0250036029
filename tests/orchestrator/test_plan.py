"""What a launch decides about every trial, and the sentence it gives for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from orchestrator.errors import UsageError
from orchestrator.estimates import Estimator
from orchestrator.grid import Trial, expand, parse_overrides
from orchestrator.ledger import TrialRecord
from orchestrator.plan import ClusterShape, Plan, make_plan, parse_cluster
from orchestrator.sharing import Sharing
from tests.orchestrator.fake import FakeWorkload

WORKLOAD = FakeWorkload()
CPU4 = ClusterShape(slots=4, cpus=8)


def trials(*overrides: str, count: int = 8) -> list[Trial]:
    return expand(WORKLOAD, WORKLOAD.cells()[:count], parse_overrides(overrides))


def one(record: TrialRecord | None = None, *overrides: str, cluster: ClusterShape = CPU4, **options: object) -> Plan:
    trial = trials(*overrides, count=1)[0]
    return make_plan([trial], {trial.key: record} if record else {}, cluster, **options)  # type: ignore[arg-type]


RESULT = {"error": "out of memory\nmore", "metrics": {}}


@pytest.mark.parametrize(
    ("record", "action", "reason", "step"),
    [
        (None, "run", "not run before", None),
        (TrialRecord(key="k", state="new", checkpoint_step=4), "resume", "goes on from step 4 of 8", 4),
        (TrialRecord(key="k", state="finished", checkpoint_step=8), "skip", "finished before", None),
        (
            TrialRecord(key="k", state="running", progress={"step": 6}, age=12.3, checkpoint_step=4),
            "skip", r"another launch is training it \(step 6 of 8, 12 s ago\)", None,
        ),
        (TrialRecord(key="k", state="interrupted", checkpoint_step=4), "resume", "interrupted before; goes on", 4),
        (TrialRecord(key="k", state="interrupted"), "run", "interrupted before, without a checkpoint", None),
        (TrialRecord(key="k", state="stopped", checkpoint_step=2), "resume", "stopped before; goes on from step 2", 2),
        (TrialRecord(key="k", state="failed", result=RESULT), "run", r"failed before \(out of memory\), with", None),
        (
            TrialRecord(key="k", state="failed", result=RESULT, checkpoint_step=6),
            "resume", r"failed before \(out of memory\); goes on from step 6", 6,
        ),
    ],
)  # fmt: skip
def test_actions(record: TrialRecord | None, action: str, reason: str, step: int | None) -> None:
    planned = one(record).trials[0]
    assert (planned.action, planned.resume_step) == (action, step)
    assert re.match(reason, planned.reason)


@pytest.mark.parametrize(
    ("slots", "batch", "published", "expected"), [(4, 8, 4, 4), (3, 8, 4, 2), (1, 8, 4, 1), (8, 6, 4, 3), (9, 7, 6, 1)]
)
def test_workers_by_default(slots: int, batch: int, published: int, expected: int) -> None:
    plan = one(None, f"batch={batch}", f"workers={published}", cluster=ClusterShape(slots=slots, cpus=slots))
    assert plan.trials[0].workers == expected


def test_workers_by_rule() -> None:
    plan = make_plan(trials(), {}, CPU4, workers=["1", "thick-*=4", "*-sort-*=2"])
    gangs = {p.spec.cell.name: p.workers for p in plan.trials}
    assert (gangs["thin-add-long"], gangs["thick-add-long"], gangs["thick-sort-long"]) == (1, 4, 2)
    assert one(workers=2).trials[0].workers == 2


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        (3, "thin-add-short: 3 workers cannot share a batch of 4 equally; take 1, 2 or 4"),
        (["thin-*=8"], "thin-add-short: 8 workers cannot share a batch of 4"),
        (["3"], "thin-add-short: 3 workers cannot share a batch of 4 equally; take 1, 2 or 4"),
        (["5-7"], "thin-add-short: 5 to 7 workers cannot share a batch of 4 equally; take 1, 2 or 4"),
        (["4-2"], "'4-2' is neither N nor PATTERN=N with N of 1 or more, or a range such as 2-4"),
        (["thin-*=x"], "'thin-[*]=x' is neither N nor PATTERN=N"),
        (["0"], "'0' is neither N nor PATTERN=N"),
        (["thim-*=2"], "'thim-[*]=2' matches no cell"),
    ],
)
def test_workers_that_cannot_be(workers: int | Sequence[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_plan(trials(count=1), {}, CPU4, workers=workers)


@pytest.mark.parametrize(
    ("cluster", "options", "words"),
    [
        (ClusterShape(slots=2, cpus=2), {"workers": 4}, "4 workers at once and the cluster has 2; give --workers 2"),
        (CPU4, {"workers": 4, "cpus_per_worker": 3}, r"12 CPU cores \(4 workers with 3 each\) and the cluster has 8"),
        (
            ClusterShape(slots=4, kind="GPU", cpus=8, gpus=4, gpu_memory_gb=0.6), {},
            "needs about 1.0 GB on each of 2 GPUs and the cluster's GPUs have 0.6 GB; --workers 4 would fit",
        ),
        (ClusterShape(slots=4, kind="GPU", cpus=8, gpus=4, gpu_memory_gb=0.1), {}, "no number of workers would fit"),
    ],
)  # fmt: skip
def test_what_never_fits_is_blocked(cluster: ClusterShape, options: dict[str, object], words: str) -> None:
    plan = one(None, cluster=cluster, **options)
    assert plan.trials[0].action == "blocked"
    assert re.search(words, plan.trials[0].reason)
    assert plan.to_run == ()


def test_a_gang_within_a_range() -> None:
    """Planned with the largest divisor that the cluster holds; smaller ones in reserve, as far as they fit."""
    planned = one(None, "batch=12", workers=["2-8"], cluster=ClusterShape(slots=5, cpus=5)).trials[0]
    assert (planned.workers, planned.fewer, planned.gang.size) == (4, (2, 3), 4)
    assert one(workers=["1-4", "2"]).trials[0].sizes == (2,)
    assert one(workers=["3-4"]).trials[0].sizes == (4,)
    gpus = ClusterShape(slots=8, kind="GPU", cpus=8, gpus=8, gpu_memory_gb=0.7)
    assert one(workers=["1-4"], cluster=gpus).trials[0].sizes == (4,)
    assert one(workers=["1-4"], cluster=gpus, auto_gangs=True).trials[0].sizes == (4,)


@pytest.mark.parametrize(
    ("slots", "memory", "words"),
    [
        (1, None, "it needs 2 GPUs at once and the cluster has 1"),
        (8, 0.1, "it needs about 0.5 GB on each of 4 GPUs and the cluster's GPUs have 0.1 GB"),
    ],
)
def test_a_range_of_which_nothing_fits_is_blocked(slots: int, memory: float | None, words: str) -> None:
    cluster = ClusterShape(slots=slots, kind="GPU", cpus=8, gpus=slots, gpu_memory_gb=memory)
    planned = one(workers=["2-4"], cluster=cluster).trials[0]
    assert planned.action == "blocked"
    assert planned.reason.startswith(words)


def test_a_problem_blocks_its_trial_but_not_a_finished_one() -> None:
    first, second = trials(count=2)
    records = {second.key: TrialRecord(key=second.key, state="finished")}
    plan = make_plan([first, second], records, CPU4, problems={first.key: ["no data"], second.key: ["no data"]})
    blocked = plan.trials[0]
    assert (blocked.action, blocked.reason) == ("blocked", "no data")
    assert plan.count("blocked") == plan.count("skip") == 1


def test_longest_first_with_times() -> None:
    every = trials()
    done = next(t for t in every if t.spec.cell.name == "thick-sort-long")
    half = next(t for t in every if t.spec.cell.name == "thick-add-long")
    records = {
        done.key: TrialRecord(key=done.key, state="finished"),
        half.key: TrialRecord(key=half.key, state="stopped", checkpoint_step=12),
    }
    cluster = ClusterShape(slots=4, cpus=8, rate=2.0)
    plan = make_plan(every, records, cluster, workers=2, estimator=Estimator((), cluster))
    # Work left: thick short 4*8 (twice), thick-add-long 4*4, thin long 16 (twice), thin short 8 (twice).
    assert [p.spec.cell.name for p in plan.trials][:3] == ["thick-add-short", "thick-sort-short", "thin-add-long"]
    assert plan.trials[-1].action == "skip"
    assert [(p.seconds, p.start, p.end) for p in plan.to_run][:3] == [(8, 0, 8), (8, 0, 8), (4, 8, 12)]
    assert (plan.finish_seconds, plan.bound_seconds) == (16.0, 16.0)
    assert plan.slot_hours == pytest.approx(64 / 3600)
    assert make_plan(every, records, CPU4, workers=2).finish_seconds is None


def test_planning_twice_gives_the_same_plan() -> None:
    cluster = ClusterShape(slots=4, cpus=8, rate=1.0)
    first, second = (make_plan(trials(), {}, cluster, estimator=Estimator((), cluster)) for _ in range(2))
    assert first == second
    assert [trial.seconds for trial in first.to_run] != [None] * 8


def test_resources_of_a_worker() -> None:
    gpu = one(cluster=ClusterShape(slots=4, kind="GPU", cpus=48, gpus=4)).trials[0]
    assert (gpu.cpus_per_worker, gpu.gpus_per_worker) == (12, 1.0)
    cpu = one().trials[0]
    assert (cpu.cpus_per_worker, cpu.gpus_per_worker) == (2, 0.0)
    assert one(cpus_per_worker=3).trials[0].cpus_per_worker == 3


def test_the_launch_follows_the_very_plan() -> None:
    cluster = ClusterShape(slots=3, cpus=8, rate=1.0)
    plan = make_plan(trials(), {}, cluster, workers=["1", "thick-*=2"], estimator=Estimator((), cluster))
    policy, now, started = plan.policy(), 0.0, {}
    while True:
        while (index := policy.start(now)) is not None:
            started[index] = now
        if not policy.running:
            break
        now = min(plan.to_run[index].end or 0.0 for index in policy.running)
        for index in [index for index in policy.running if plan.to_run[index].end == now]:
            policy.end(index)
    assert [started[index] for index in range(8)] == [trial.start for trial in plan.to_run]
    assert plan.finish_seconds == now


def test_gangs_are_chosen_so_that_the_grid_ends_early() -> None:
    cluster = ClusterShape(slots=16, cpus=16, rate=1.0)
    every, estimator = trials("batch=8"), Estimator((), cluster)
    usual = make_plan(every, {}, cluster, estimator=estimator)
    auto = make_plan(every, {}, cluster, estimator=estimator, auto_gangs=True)
    assert {trial.workers for trial in usual.trials} == {2}
    assert len({trial.workers for trial in auto.trials}) > 1
    assert (auto.bound_seconds or 0.0) <= (auto.finish_seconds or 0.0) < 0.9 * (usual.finish_seconds or 0.0)
    ruled = make_plan(every, {}, cluster, workers=["thin-*=4"], estimator=estimator, auto_gangs=True)
    assert {trial.workers for trial in ruled.trials if trial.spec.cell.name.startswith("thin")} == {4}
    unknown = make_plan(every, {}, CPU4, auto_gangs=True)
    assert unknown.finish_seconds is None
    assert {trial.action for trial in unknown.trials} == {"run"}


def test_a_duration_that_nobody_knows_leaves_the_rest_of_the_plan() -> None:
    plan = make_plan(trials(), {}, CPU4)
    assert (plan.finish_seconds, plan.slot_hours, plan.unknown) == (None, None, 8)
    assert plan.trials[0].spec.cell.name == "thick-add-long"
    assert plan.policy().start(0.0) == 0


def test_who_may_share_a_gpu_and_why_the_others_may_not() -> None:
    cluster = ClusterShape(slots=4, kind="GPU", cpus=32, gpus=4, gpu_memory_gb=10.0, rate=1.0)
    rules = ["1", "thin-sort-*=2"]
    every = trials("batch=4")  # thin: 1 GB at two workers, so 2 GB at one; thick: 8 GB
    plan = make_plan(
        every, {}, cluster, workers=rules, estimator=Estimator((), cluster), sharing=Sharing(number=3, measured=False)
    )
    shared = {trial.spec.cell.name: (trial.share, trial.alone) for trial in plan.trials}
    assert shared["thin-add-short"] == (3, "")
    assert shared["thin-sort-short"] == (1, "a gang of 2 workers; only single workers share")
    assert shared["thick-add-long"] == (1, "it needs about 8.0 GB, and 3 on a GPU have 3.0 GB each")
    thin = next(trial for trial in plan.trials if trial.spec.cell.name == "thin-add-short")
    assert (thin.gpus_per_worker, thin.gang.slots, thin.cpus_per_worker) == (0.3333, 0.3333, 2)
    lone = make_plan(
        every, {}, cluster, workers=["2", "thin-add-short=1"], estimator=Estimator((), cluster),
        sharing=Sharing(number=3, measured=False),
    )  # fmt: skip
    assert {trial.share for trial in lone.trials} == {1}
    assert "no other cell could share with it" in {trial.alone for trial in lone.trials}
    told = make_plan(every, {}, cluster, workers=rules, sharing=Sharing())
    assert {trial.share for trial in told.trials} == {1}
    assert "nothing of its kind was measured" in next(t.alone for t in told.trials if t.alone[0] == "n")


def test_clusters_as_text() -> None:
    assert parse_cluster("cpus=4") == ClusterShape(slots=4, cpus=4)
    assert parse_cluster("cpus=8, workers=2") == ClusterShape(slots=2, cpus=8)
    gpu = parse_cluster("gpus=8,memory=80,cpus=96")
    assert gpu == ClusterShape(slots=8, kind="GPU", cpus=96, gpus=8, gpu_memory_gb=80.0)
    assert str(gpu) == "8 GPUs of 80 GB and 96 CPU cores"
    assert str(ClusterShape(slots=1, cpus=1)) == "1 worker on 1 CPU core"
    assert parse_cluster("gpus=2,kind=NVIDIA H100,rate=3000").device == "NVIDIA H100"
    assert parse_cluster("cpus=2,rate=3.5").rate == 3.5
    odd = ("gpus=1.5", "gpus=8,gpus=4", "gpus=8,workers=4", "cpus=8,memory=4", "cpus=8,rate=0", "gpus=8,memory=0")
    for text in ("", "kind=", "rate=x,cpus=1", "gpu=8", "gpus=", "gpus=-1", "memory=80", *odd):
        with pytest.raises(UsageError, match="cluster"):
            parse_cluster(text)
    with pytest.raises(UsageError, match="cannot train"):
        ClusterShape(slots=0)
