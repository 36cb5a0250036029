"""The data of a run as MLflow's datasets: what its UI lists, filters by and shows the profile of."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence
from typing import Final

from orchestrator.describe import without_secrets
from orchestrator.tracking import Tracker
from orchestrator.workload import Input, Spec

__all__ = ["log_inputs"]

DIGEST_LENGTH: Final = 36
"""Longest digest that MLflow stores."""
_CONTEXT_TAG: Final = "mlflow.data.context"


def log_inputs(tracker: Tracker, run_id: str, spec: Spec, inputs: Sequence[Input]) -> None:
    """Log the parts of a spec's data as datasets of a run; those that it has already stay as they are."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    digest, source = spec.data_fingerprint[:DIGEST_LENGTH], without_secrets(spec.data)
    scheme = urllib.parse.urlsplit(source).scheme
    known = {found.dataset.name for found in tracker.client.get_run(run_id).inputs.dataset_inputs}
    new = [
        DatasetInput(
            Dataset(
                name=part.name,
                digest=digest,
                source_type=scheme if scheme in ("s3", "http", "https") else "local",
                source=json.dumps({"uri": source}),
                schema=_schema(part),
                profile=json.dumps(part.profile),
            ),
            [InputTag(_CONTEXT_TAG, part.context)],
        )
        for part in inputs
        if part.name not in known
    ]
    if new:
        tracker.client.log_inputs(run_id, new)


def _schema(part: Input) -> str | None:
    columns = [{"name": name, "type": kind, "required": True} for name, kind in part.columns.items()]
    return json.dumps({"mlflow_colspec": columns}) if columns else None
