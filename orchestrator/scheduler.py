"""Many trials on Ray Tune: one gang budget, longest first, a failing cell isolated, a stop that leaves true states."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from orchestrator.admission import admission
from orchestrator.dispatch import Dispatch
from orchestrator.errors import ClusterError
from orchestrator.failures import classify
from orchestrator.gauges import shown
from orchestrator.halving import asha, validations_told
from orchestrator.ledger import Entry, Ledger
from orchestrator.mourning import mourner
from orchestrator.owners import process_identity
from orchestrator.pages import open_experiment
from orchestrator.patience import patiently
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.raystart import HEAD, HEAD_PART, SLOTS, connect, withhold_credentials
from orchestrator.scratch import Scratch
from orchestrator.settings import Settings
from orchestrator.stopping import stop_with_checkpoints, undisturbed, until_interrupted
from orchestrator.storage import Storage
from orchestrator.trainer import RunOptions, TrialOutcome, close_trial, run_trial
from orchestrator.watching import TrialProgress, Watch
from orchestrator.workload import Json, Workload

__all__ = ["run_plan"]

STOP_SECONDS: Final = 30.0
"""What Tune gets to stop all trials after Ctrl-C, before Ray itself is shut down."""

_log = logging.getLogger(__name__)


def run_plan(
    workload: Workload,
    plan: Plan,
    settings: Settings,
    on_update: Callable[[list[TrialProgress]], None] = lambda _: None,
    options: RunOptions | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[TrialOutcome]:
    """Carry out a plan; return one outcome per trial in the plan's order. Without anything to run no Ray is started.

    `on_update` is called about every second from the calling thread, and once at the end. Ctrl-C or SIGTERM asks all
    running trials for a checkpoint and waits for it up to `options.stop_seconds`, a second one not any more; `tell` is
    given what happens then. Raises KeyboardInterrupt when every trial that had begun is marked as stopped in ledger
    and tracking; ClusterError without a cluster.
    """
    options = options or RunOptions()
    options = dataclasses.replace(options, owner=options.owner or process_identity())
    ledger = Ledger(Storage(settings.storage))
    ledger.add_benchmark(settings.benchmark, [_entry(trial) for trial in plan.trials])
    watch = Watch(ledger, plan, options.owner)
    if plan.to_run:
        _run(workload, plan, settings, options, watch, on_update, tell)
    on_update(patiently("the launch", watch.read, say=_log.warning, seconds=options.storage_seconds))
    return [_outcome(trial, watch) for trial in plan.trials]


def _entry(trial: PlannedTrial) -> Entry:
    spec = trial.spec
    return Entry(cell=spec.cell.name, key=trial.key, facets=dict(spec.cell.facets), seed=spec.seed)


def _run(
    workload: Workload,
    plan: Plan,
    settings: Settings,
    options: RunOptions,
    watch: Watch,
    on_update: Callable[[list[TrialProgress]], None],
    tell: Callable[[str], None],
) -> None:
    cpus = max(os.cpu_count() or 1, max(trial.workers * trial.cpus_per_worker for trial in plan.to_run))
    with ThreadPoolExecutor(1) as pool:
        # The store must be there before several drivers open it at once; meanwhile Ray starts.
        checked = pool.submit(open_experiment, settings)
        started = connect(address=options.address, slots=plan.cluster.slots, cpus=cpus, gpus=plan.cluster.gpus)
    import ray

    problem = checked.exception()
    if problem is not None:
        if started:
            ray.shutdown()
        raise problem
    tuning, on_update = _Tuning(workload, plan, settings, options), shown(settings.benchmark, on_update)
    interval = options.poll_seconds or (1.0 if Storage(settings.storage).is_local else 5.0)

    def look() -> bool:
        on_update(watch.look())
        return tuning.wait(interval)

    try:
        with until_interrupted():
            tuning.start()
            while not look():
                pass
        for trial, error, failure in tuning.errors():
            if watch.result(trial.key) is None:
                progress, said = watch.progress(trial.key), f"{trial.spec.cell.name}: {error}"
                _close(workload, trial, settings, options, progress, "failed", said, failure, patience=None)
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        if interrupted:
            stop_with_checkpoints(
                watch.ledger,
                watch.at_work,
                seconds=options.stop_seconds,
                halt=tuning.halt,
                step=look,
                tell=tell,
            )
        with undisturbed():
            tuning.stop()
            if started:
                ray.shutdown()
            for trial in watch.begun():
                progress = watch.progress(trial.key)
                if interrupted:
                    _close(workload, trial, settings, options, progress, "stopped", None, "stopped")
                else:
                    _close(workload, trial, settings, options, progress, "failed", str(error), classify(error))
            on_update(watch.look())
            if interrupted:
                _tell_ends(watch, plan.to_run, tell)
        raise
    finally:
        if started and ray.is_initialized():
            ray.shutdown()


class _Tuning:
    """`Tuner.fit` in a thread of its own, so that the calling thread can watch and take Ctrl-C."""

    def __init__(self, workload: Workload, plan: Plan, settings: Settings, options: RunOptions) -> None:
        self._stop = threading.Event()
        self._done = threading.Event()
        self._grid: Any = None
        self._failure: BaseException | None = None
        self._trials = plan.to_run
        # Nothing of Ray's is kept: the ledger knows what is done, and an outage of the storage must not reach Ray.
        self._scratch = Scratch("tune")
        self._policy = plan.policy()
        self._tuner = _tuner(workload, plan, settings, options, self._stop, self._scratch.path, self._policy)
        self._thread = threading.Thread(target=self._fit, name="hrgrid-tune", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds`; True when all trials have ended. Raises ClusterError if Tune itself failed."""
        if not self._done.wait(seconds):
            return False
        if self._failure is not None:
            raise ClusterError(f"the launch ended early ({self._failure})") from self._failure
        return True

    def halt(self) -> None:
        """Let no further trial begin."""
        self._policy.halt()

    def stop(self) -> None:
        """Ask Tune to stop all trials and wait for it; a thread left behind would start a new Ray."""
        self._stop.set()
        self._done.wait(STOP_SECONDS)

    def errors(self) -> list[tuple[PlannedTrial, str, str]]:
        """The trials whose driver ended with an error, the error, and its class of failure."""
        found = []
        for result in self._grid or ():
            if result.error is not None and result.config:
                line = (str(result.error).strip().splitlines() or ["no reason given"])[-1]
                failure = classify(getattr(result.error, "cause", None) or result.error)
                found.append((self._trials[result.config["index"]], f"the trial's driver failed ({line})", failure))
        return found

    def _fit(self) -> None:
        try:
            self._grid = self._tuner.fit()
        except BaseException as error:
            self._failure = error
        finally:
            self._scratch.close()
            self._done.set()


def _tuner(
    workload: Workload,
    plan: Plan,
    settings: Settings,
    options: RunOptions,
    stop: threading.Event,
    folder: Path,
    policy: Dispatch,
) -> Any:
    import ray
    from ray import tune

    cluster: Any = ray
    trials = plan.to_run
    withhold_credentials()

    def hrgrid_trial(config: dict[str, Any]) -> None:
        # Progress goes through the ledger: Ray's TuneReportCallback costs one more process per trial.
        trial = trials[config["index"]]
        with validations_told(Ledger(Storage(settings.storage)), trial.key, options.owner, options.halving):
            outcome = run_trial(workload, trial, settings, options)
        tune.report({"state": outcome.state, **outcome.metrics})

    def needs(config: Mapping[str, Any]) -> dict[str, float]:
        # Both are on the head alone, which no cloud takes away; drivers and Ray Train's controllers stay there.
        return {"CPU": 0, SLOTS: trials[config["index"]].gang.slots} if budgeted else {"CPU": 0, HEAD: HEAD_PART}

    # The policy decides what starts; on a cluster without the budget resource it is the only one to do so.
    budgeted = cluster.cluster_resources().get(SLOTS, 0) >= max(trial.workers for trial in trials)
    return tune.Tuner(
        tune.with_resources(hrgrid_trial, needs),  # type: ignore[arg-type]
        tune_config=tune.TuneConfig(
            search_alg=admission(policy),
            scheduler=asha(options.halving, [trial.key for trial in trials], settings.storage),
            num_samples=len(trials),
            max_concurrent_trials=len(trials),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            storage_path=str(folder),
            verbose=0,
            stop=_stopper(stop),
            # A driver of weeks may die more than once: each driver counts those before it, see `run_trial`.
            failure_config=tune.FailureConfig(max_failures=-1),
            callbacks=[
                mourner(
                    [(t.key, t.spec.cell.name) for t in trials], settings.storage, options.owner, options.max_failures
                )
            ],
        ),
    )


def _stopper(stop: threading.Event) -> Any:
    from ray import tune

    class WhenAsked(tune.Stopper):
        """Stops everything when the event is set; the copies that Tune saves never do."""

        def __init__(self, event: threading.Event | None) -> None:
            self.event = event

        def __reduce__(self) -> tuple[Any, ...]:
            return WhenAsked, (None,)

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return self.event is not None and self.event.is_set()

    return WhenAsked(stop)


def _close(
    workload: Workload,
    trial: PlannedTrial,
    settings: Settings,
    options: RunOptions,
    progress: Mapping[str, Json],
    state: Any,
    error: str | None,
    failure: str,
    *,
    patience: float | None = 0.0,
) -> None:
    """Write the end of a trial whose driver cannot; a storage that is away is not waited for unless asked to be."""
    outcome = TrialOutcome(
        key=trial.key,
        cell=trial.spec.cell.name,
        state=state,
        metrics=progress.get("metrics") or {},
        run_id=progress.get("run_id"),
        error=error,
        failure=failure,
        seconds=time.time() - float(progress.get("started") or time.time()),
    )
    try:
        ledger, lease = Ledger(Storage(settings.storage)), progress.get("lease")
        if lease is None and ledger.state(trial.key) != "finished":
            lease = ledger.claim(trial.key, options.owner)  # its drivers did not come so far
        if lease is not None:  # else it is another launch's
            close_trial(workload, trial, settings, outcome, options, lease=lease, patience=patience)
    except Exception as problem:
        _log.error("trial %s could not be closed: %s", trial.key, problem)


def _tell_ends(watch: Watch, trials: Sequence[PlannedTrial], tell: Callable[[str], None]) -> None:
    """Say of each trial that the stop has ended where the same command goes on with it."""
    for trial in trials:
        result = watch.results.get(trial.key)
        if result is not None and result["state"] == "stopped":
            tell(f"{trial.spec.cell.name}: {result['advice']}")


def _outcome(trial: PlannedTrial, watch: Watch) -> TrialOutcome:
    key, cell = trial.key, trial.spec.cell.name
    if not trial.runs:
        return TrialOutcome(
            key=key, cell=cell, state="skipped" if trial.action == "skip" else "blocked", error=trial.reason
        )
    result = watch.results.get(key)
    if result is None and watch.is_unclosed(key):
        error = f"{cell}: the ledger does not say how it ended; the same command goes on with it"
        return TrialOutcome(key=key, cell=cell, state="failed", error=error, failure="storage")
    if result is None:
        reason = "another launch has finished it" if watch.finished(key) else "another launch is training it"
        return TrialOutcome(key=key, cell=cell, state="skipped", error=reason)
    return TrialOutcome(
        key=key,
        cell=cell,
        state=result["state"],
        metrics=result["metrics"],
        run_id=result["run_id"],
        error=result["error"],
        failure=result.get("failure"),
        advice=result.get("advice"),
        seconds=result["seconds"],
    )
