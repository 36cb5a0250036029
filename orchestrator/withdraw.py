"""Take back a Ray job that never began: `python withdraw.py JOB` on a node of its cluster.

Ray's own stop waits for the process of such a job, and its demand for resources stays: for as long as 15 minutes, in
which an autoscaler may buy machines for it. `orchestrator.cluster` sends this file alone as a small job, so it must
need nothing of the package.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

MESSAGE = "withdrawn on request before it began; nothing of it has run"


def main(name: str) -> int:
    """Mark a pending job as STOPPED and end the actor that waits to run it; a job that has begun is left alone."""
    import ray
    from ray.dashboard.modules.job.common import (
        JOB_ACTOR_NAME_TEMPLATE,
        SUPERVISOR_ACTOR_RAY_NAMESPACE,
        JobInfoStorageClient,
    )
    from ray.job_submission import JobStatus

    cluster: Any = ray
    cluster.init(log_to_driver=False)
    jobs = JobInfoStorageClient(cluster._private.worker.global_worker.gcs_client)
    status = asyncio.run(jobs.get_status(name))
    if status != JobStatus.PENDING:
        print(f"{name} is {status}")
        return 1
    # The status first: a job that is not PENDING any more does not begin, and its end is not taken for a failure.
    asyncio.run(jobs.put_status(name, JobStatus.STOPPED, message=MESSAGE))
    try:
        actor = cluster.get_actor(
            JOB_ACTOR_NAME_TEMPLATE.format(job_id=name), namespace=SUPERVISOR_ACTOR_RAY_NAMESPACE
        )
    except ValueError:  # Ray has ended it meanwhile
        return 0
    cluster.kill(actor)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
