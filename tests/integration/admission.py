"""Gangs of every size through Ray Tune alone, on four logical GPUs: `python -m tests.integration.admission FOLDER`.

Prints one JSON line: who ran when, errors, and the placement groups that are left.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from orchestrator.admission import admission
from orchestrator.dispatch import Dispatch, Gang
from orchestrator.raystart import SLOTS, connect

GANGS = (
    Gang(size=2, seconds=600.0),
    Gang(size=4, seconds=200.0),
    *[Gang(size=1, seconds=250.0, share=2)] * 3,
    Gang(size=1, seconds=100.0),
)
FASTER = 100
"""Real seconds are so many times fewer: the slow start of a process on a busy machine then changes no decision."""
FAILS = 5
"""The last one raises at its first attempt, and Tune tries again."""


def main() -> int:
    """Run the gangs and print what happened."""
    folder = Path(sys.argv[1])
    connect(address=None, slots=4, cpus=2, gpus=4)
    import ray
    import ray.util
    from ray import tune

    def trial(config: dict[str, Any]) -> None:
        index = config["index"]
        (folder / f"{index}-{time.time():.3f}-start").touch()
        time.sleep((GANGS[index].seconds or 0.0) / FASTER)
        first = not (folder / f"{index}-failed").exists()
        (folder / f"{index}-{time.time():.3f}-end").touch()
        if index == FAILS and first:
            (folder / f"{index}-failed").touch()
            raise RuntimeError("as asked")
        tune.report({"done": 1})

    def needs(config: dict[str, Any]) -> dict[str, float]:
        slots = GANGS[config["index"]].slots
        return {"CPU": 0, SLOTS: slots, "GPU": slots}

    tuner = tune.Tuner(
        tune.with_resources(trial, needs),  # type: ignore[arg-type]
        tune_config=tune.TuneConfig(
            search_alg=admission(Dispatch(GANGS, 4)),
            num_samples=len(GANGS),
            max_concurrent_trials=len(GANGS),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="admission",
            storage_path=str(folder / "ray"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    )
    results: list[Any] = []
    fit = threading.Thread(target=lambda: results.append(tuner.fit()))
    fit.start()
    fit.join()
    time.sleep(1.0)
    groups: Any = ray.util.placement_group_table()
    left = sum(group["state"] != "REMOVED" for group in groups.values())
    ray.shutdown()
    events = sorted(
        (float(moment), int(index), kind)
        for index, moment, kind in (path.name.split("-") for path in folder.glob("*-*-*"))
    )
    errors = [str(result.error) for result in results[0] if result.error is not None]
    print(json.dumps({"events": events, "left": left, "groups": len(groups), "errors": errors}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
