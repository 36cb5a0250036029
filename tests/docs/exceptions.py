"""Commands of the pages that end otherwise where the tests run, and pages whose commands cannot run there at all."""

from __future__ import annotations

from collections.abc import Mapping

WEIGHTS = "there is no weights file"

ENDS_OTHERWISE: Mapping[str, tuple[int, str]] = {
    "hrgrid evaluate fcn_hr18_4xb2-40k_cityscapes-512x1024 --weights published": (2, WEIGHTS),
    "hrgrid plan --dataset cityscapes --data prepared": (2, "9 blocked"),
    "hrgrid launch --dataset cityscapes --data prepared": (2, WEIGHTS),
    "hrgrid submit -f doctor": (1, WEIGHTS),
}
"""Beginning of a command to the exit code and a part of the sentence that it must give here.

The published weights are taken from a mirror that has none, so that nothing depends on a network: their hash is in
their name, so no test can make them. With them these commands would train for GPU-days.
"""

NOT_RUN: Mapping[str, str] = {
    "docs/operating.md": "needs an AWS account: CloudFormation, ray up, Session Manager",
    "docs/tracking.md": "needs PostgreSQL and its roles; tests/jobs/test_serve.py and tests/integration/test_serve.py "
    "start such servers",
    "docs/full_benchmark.md": "needs the real data sets, the published weights and GPU-days",
    "docs/benchmark.md": "needs the real data sets and the published weights",
    "docs/datasets.md": "needs the downloads, most of which stand behind a login; tests/hrnet/test_prepare.py "
    "prepares drawn ones in the same layouts",
    "docs/performance.md": "takes a quarter of an hour and the peer's environment; tests/jobs/test_suite.py runs it "
    "small",
    "docs/planning.md": "needs the real data sets; tests/jobs/test_plan.py plans drawn ones",
    "docs/failures.md": "needs the real data sets; tests/integration/test_search.py runs a search",
    "docs/doctor.md": "needs a cluster with S3 and MLflow; the README's `hrgrid submit -f doctor` is run",
    "docs/serving.md": "needs a trained network and a server in the foreground; "
    "tests/integration/test_model_serving.py has both and runs the page's clients",
    "CONTRIBUTING.md": "make test would run itself",
}
"""Page to why its commands are only held against the parsers (tests/architecture/test_docs.py)."""
