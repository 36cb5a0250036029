"""From a command's options to a plan: the half that `hrgrid plan` and `hrgrid launch` share. Starts nothing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs._options import facets, settings
from jobs._reference import parse_references, references
from jobs._search import halving, searched
from jobs._wiring import HrnetWorkload
from orchestrator.errors import ClusterError, TrackingError, UsageError
from orchestrator.estimates import Estimator, measurements
from orchestrator.grid import Trial, expand, parse_overrides, select
from orchestrator.identity import trial_key
from orchestrator.ledger import Ledger, TrialRecord
from orchestrator.plan import ClusterShape, Plan, make_plan, parse_cluster
from orchestrator.reference import Reference
from orchestrator.search import Halving
from orchestrator.settings import Settings
from orchestrator.sharing import Sharing
from orchestrator.sizing import AUTO
from orchestrator.storage import Storage
from orchestrator.telemetry import Gpus, device
from orchestrator.workload import Problem

__all__ = ["Draft", "cluster_shape", "draft", "note", "obstacles", "repaired", "require_data"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A plan with what it was made from."""

    settings: Settings
    workload: HrnetWorkload
    trials: tuple[Trial, ...]
    records: Mapping[str, TrialRecord]
    plan: Plan
    references: Mapping[str, Reference]
    """Key to what is shown beside the run, of the trials that will run and have one."""

    halving: Halving | None
    """Of a search: when its samples are stopped early."""


def require_data(args: argparse.Namespace) -> None:
    """Raise UsageError if no data was given."""
    if args.data is None:
        raise UsageError(
            "no data was given: pass --data URI (or set HRGRID_DATA) with what hrgrid data prepare has written"
        )


def cluster_shape(args: argparse.Namespace) -> ClusterShape:
    """The cluster to plan for: the one described, the Ray cluster named, or this machine; raises an OrchestratorError.

    A Ray cluster that still grows is taken at its full size, which its gang budget on the head declares.
    """
    if args.cluster is not None:
        return parse_cluster(args.cluster)
    address = args.address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("http"):
        raise UsageError(
            f"{address} takes jobs: use hrgrid submit, or give the cluster's own address such as host:6379"
        )
    return _this_machine() if address == "local" else _ray_cluster(address)


def _this_machine() -> ClusterShape:
    cpus = len(os.sched_getaffinity(0))
    if any(Path("/dev").glob("nvidia[0-9]*")):
        import torch

        gpus = torch.cuda.device_count()
        if gpus:
            memory = min(torch.cuda.get_device_properties(i).total_memory for i in range(gpus)) / 1e9
            return ClusterShape(
                slots=gpus, kind="GPU", cpus=cpus, gpus=gpus, gpu_memory_gb=round(memory, 1), device=device(Gpus())
            )
    return ClusterShape(slots=cpus, cpus=cpus, device=device(Gpus()))


def _ray_cluster(address: str) -> ClusterShape:
    from orchestrator.raystart import SLOTS, connect

    connect(address=address, slots=0, cpus=0)
    import ray

    api: Any = ray
    resources = api.cluster_resources()
    cpus, gpus, slots = (int(resources.get(name, 0)) for name in ("CPU", "GPU", SLOTS))
    if not gpus and cpus:
        return ClusterShape(slots=slots or cpus, cpus=cpus)
    if not gpus and not slots:
        raise ClusterError(
            f"the Ray cluster {address} has neither CPUs nor GPUs, nor {SLOTS} to say what it will have"
        )
    per_gpu = cpus / gpus if gpus else _CPUS_PER_GPU
    total = max(gpus, slots)
    models = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    model = models[0] if len(models) == 1 else None
    return ClusterShape(slots=total, kind="GPU", cpus=int(per_gpu * total), gpus=total, device=model)


def draft(args: argparse.Namespace, cluster: ClusterShape, *, repair: bool = False) -> Draft:
    """Choose cells, complete them, look up what is known of them, check what would run, and decide.

    With `repair`, what killed launches left behind is put right first, and their trials are taken over at once.
    Raises an HrnetError or OrchestratorError for the first option that cannot be.
    """
    places = settings(args)
    workload = HrnetWorkload(data=args.data)
    cells = select(workload.cells(), facets(args), args.names)
    overrides, rules = parse_overrides(args.overrides), parse_references(args.references)
    if args.search:
        trials = searched(args, workload, cells, overrides, note)
    else:
        trials = expand(workload, cells, overrides, args.seeds, args.data, note=note)
    rungs = halving(args, trials)
    if repair:
        repaired(places, [trial.key for trial in trials])
    ledger = Ledger(Storage(places.storage))
    records = ledger.trials(trial.key for trial in trials)
    plan = make_plan(
        trials,
        records,
        cluster,
        workers=args.workers,
        cpus_per_worker=args.cpus_per_worker,
        problems=_problems(workload, trials, records) if args.data else {},
        estimator=Estimator(measurements(ledger, trials, records, workload), cluster),
        auto_gangs=args.gangs == AUTO,
        sharing=_sharing(args.share_gpus),
        resume_stopped=args.resume_stopped,
    )
    going = {trial.key for trial in plan.to_run}
    shown = references(rules, trials, going.__contains__, places, workload.published_log) if rules else {}
    return Draft(
        settings=places,
        workload=workload,
        trials=tuple(trials),
        records=records,
        plan=plan,
        references=shown,
        halving=rungs,
    )


def obstacles(plan: Plan) -> list[str]:
    """One sentence for everything that keeps a trial of the plan from running; the same obstacle is said once."""
    blocked = [trial for trial in plan.trials if trial.action == "blocked"]
    names: dict[str, list[str]] = {}
    for trial in blocked:
        names.setdefault(trial.reason, []).append(trial.spec.cell.name)
    return [
        f"{cells[0]}{f' and {len(cells) - 1} more' if len(cells) > 1 else ''}: {reason}"
        for reason, cells in names.items()
    ]


_CPUS_PER_GPU = 4
"""Of a cluster that has not started a single worker yet; what the smallest GPU instances of clouds have."""


def _sharing(asked: int | None) -> Sharing | None:
    """What `--share-gpus` means: 0 stands for the option without a number."""
    if asked is None:
        return None
    return Sharing() if asked == 0 else Sharing(number=asked, measured=False)


def _problems(
    workload: HrnetWorkload, trials: Sequence[Trial], records: Mapping[str, TrialRecord]
) -> dict[str, list[str]]:
    """Sentences from the preflight of every trial that is not finished; seeds of one cell have one preflight."""
    found: dict[str, list[str]] = {}
    of_cell: dict[str, list[str]] = {}
    for trial in trials:
        if records[trial.key].state == "finished":
            continue
        what = trial_key(replace(trial.spec, seed=0))
        if what not in of_cell:
            of_cell[what] = [_sentence(problem) for problem in workload.preflight(trial.spec)]
        found[trial.key] = of_cell[what]
    return found


def _sentence(problem: Problem) -> str:
    told = problem.message
    return told if problem.where in told else f"{problem.where}: {told}"


def repaired(places: Settings, keys: Sequence[str]) -> None:
    """Put right what killed launches left behind, one line each; a tracking store that is away is no error here."""
    from orchestrator.reconcile import reconcile

    try:
        for repair in reconcile(places, keys):
            print(f"repaired: {repair}", flush=True)
    except TrackingError as error:
        print(f"hrgrid: note: runs are not repaired now: {error}", file=sys.stderr)


def note(text: str) -> None:
    """Tell on stderr what is worth knowing and no error."""
    print(f"hrgrid: note: {text}", file=sys.stderr)
