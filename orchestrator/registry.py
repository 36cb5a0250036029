"""A finished trial's network in MLflow's model registry: packaged where it was trained, registered once, found again.

A registered model is a cell of a benchmark, its versions are the trials of the cell, each known by its tag
`hrgrid.key`. The alias `best` is on the version with the highest score, those that may be compared with published
numbers first. The files are the artifact `model/` of the trial's run.

What is packaged stands alone: a server that is away gets it later, from any host, without the workload.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import UsageError, reason_of
from orchestrator.runstore import absolute_uri, is_missing, probe, shown
from orchestrator.settings import Settings
from orchestrator.tracking import KEY_TAG, Tracker, denial, open_client, refused
from orchestrator.workload import Json, Packaged, Spec, Workload

__all__ = ["BEST", "MODEL_TAG", "download", "model_name", "note_verdict", "packaged", "register"]

BEST: Final = "best"
"""Alias of the version that one should take."""
MODEL_TAG: Final = "hrgrid.model"
"""On a run: its registered model, `models:/NAME/VERSION`."""
COMPARABLE_TAG: Final = "hrgrid.comparable"
SCORE_TAG: Final = "hrgrid.score"
"""On a version: what versions are compared by."""
_VERDICT_TAG: Final = "hrgrid.verdict"
_ARTIFACT: Final = "model"
_DOCUMENT: Final = "package.json"

_MODEL_URI: Final = re.compile(r"models:/(?P<name>[^/:@]+)(?:@(?P<alias>[^/:@]+)|/(?P<version>[0-9]+))")

_log = logging.getLogger(__name__)


def model_name(benchmark: str, cell: str) -> str:
    """Return the name of a cell's registered model."""
    return f"{benchmark}.{cell}"


def packaged(workload: Workload, spec: Spec, key: str, checkpoint: Path, settings: Settings, folder: Path) -> bool:
    """Make a model of a checkpoint in `folder`, with all that `register` needs; False if the workload cannot."""
    package = getattr(workload, "package", None)
    if package is None:
        return False
    folder.mkdir(parents=True)
    made: Packaged = package(spec, checkpoint, folder)
    document = {
        "package": dataclasses.asdict(made),
        "benchmark": settings.benchmark,
        "cell": spec.cell.name,
        "title": spec.title,
        "facets": dict(spec.cell.facets),
        "key": key,
        "seed": spec.seed,
        "not_comparable": list(spec.not_comparable),
    }
    (folder / _DOCUMENT).write_text(json.dumps(document))
    return True


def register(tracker: Tracker, run_id: str, folder: Path) -> str | None:
    """Register what `packaged` made in a folder as a version of its cell's model; return `models:/NAME/VERSION`.

    A version of the same trial is found, not made again. None if the registry refuses this process's account. Raises
    whatever keeps the store from answering.
    """
    probe(tracker.uri)
    document = json.loads((folder / _DOCUMENT).read_bytes())
    name = model_name(document["benchmark"], document["cell"])
    client = tracker.client
    try:
        version = _version_of(client, name, document["key"])
        if version is None:
            _create_model(client, tracker.uri, name, document)
            version = _create_version(tracker, run_id, name, document, folder)
        uri = f"models:/{name}/{version}"
        tracker.set_tags(run_id, {MODEL_TAG: uri})
        _point_to_best(client, name)
    except Exception as error:
        if not refused(error) and not _is_forbidden(error):
            raise
        _log.warning("trial %s: its model is not registered: %s", document["key"], reason_of(error))
        return None
    return uri


def note_verdict(tracker: Tracker, run_id: str, verdict: str) -> None:
    """Tell the registered version of a run, if it has one, the verdict of its trial."""
    uri = tracker.tags(run_id).get(MODEL_TAG)
    if uri is not None:
        name, version = uri.removeprefix("models:/").rsplit("/", 1)
        tracker.client.set_model_version_tag(name, version, _VERDICT_TAG, verdict)


def download(tracking: str, uri: str, folder: Path) -> Path:
    """Bring a registered model's data into a folder: what the workload wrote into `data`, and return where it is.

    `uri`: `models:/NAME/VERSION` or `models:/NAME@ALIAS`. Raises UsageError, TrackingError.
    """
    store = absolute_uri(tracking)
    probe(store)
    named = _MODEL_URI.fullmatch(uri)
    if named is None:
        raise UsageError(f"{uri!r} names no model; give models:/NAME/VERSION or models:/NAME@{BEST}")
    if is_missing(store):  # MLflow would make it
        raise UsageError(f"there is no MLflow store {shown(store)} to take {uri} from; give another --tracking")
    import yaml
    from mlflow.artifacts import download_artifacts

    name, alias, version = named["name"], named["alias"], named["version"]
    try:
        client = open_client(store)
        version = version or str(client.get_model_version_by_alias(name, alias).version)
        source = client.get_model_version_download_uri(name, version)
        model = Path(download_artifacts(source, dst_path=str(folder), tracking_uri=store))
        flavor = yaml.safe_load((model / "MLmodel").read_text())["flavors"]["python_function"]
    except Exception as error:
        denied = denial(store, error)
        raise denied or UsageError(
            f"the model {uri} cannot be had from {shown(store)} ({reason_of(error)}); the Models page there lists all"
        ) from error
    return model / str(flavor["data"])


def _version_of(client: Any, name: str, key: str) -> str | None:
    found = [version for version in _versions(client, name) if version.tags.get(KEY_TAG) == key]
    return str(found[0].version) if found else None


def _versions(client: Any, name: str) -> Sequence[Any]:
    """All versions of a model, the newest first."""
    return list(client.search_model_versions(f"name = '{name}'", max_results=1000))


def _create_model(client: Any, tracking: str, name: str, document: Mapping[str, Json]) -> None:
    from mlflow.exceptions import MlflowException

    tags = {**document["facets"], "hrgrid.benchmark": document["benchmark"], "hrgrid.cell": document["cell"]}
    try:
        client.create_registered_model(name, tags, _model_text(tracking, name, document))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _create_version(tracker: Tracker, run_id: str, name: str, document: Mapping[str, Json], folder: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="hrgrid-model-", dir=folder.parent) as made:
        _save(folder, Path(made) / _ARTIFACT, document, run_id)
        tracker.log_artifact(run_id, Path(made) / _ARTIFACT, _ARTIFACT)
    source = f"{tracker.client.get_run(run_id).info.artifact_uri}/{_ARTIFACT}"
    scores: Mapping[str, float] = document["package"]["scores"]
    compared_by = next(iter(scores.values()), None)
    tags = {
        KEY_TAG: document["key"],
        "hrgrid.seed": str(document["seed"]),
        COMPARABLE_TAG: str(not document["not_comparable"]).lower(),
        **{metric.split("/")[-1]: f"{value:.2f}" for metric, value in scores.items()},
        **({} if compared_by is None else {SCORE_TAG: repr(compared_by)}),
    }
    version = tracker.client.create_model_version(name, source, run_id, tags, description=_version_text(document))
    return str(version.version)


def _save(folder: Path, target: Path, document: Mapping[str, Json], run_id: str) -> None:
    """Write a package in the form of an MLflow model."""
    import mlflow.pyfunc
    import pandas
    from mlflow.models import Model, ModelSignature

    package = document["package"]
    signature = ModelSignature.from_dict({part: json.dumps(form) for part, form in package["signature"].items()})
    binary = {column["name"] for column in package["signature"]["inputs"] if column["type"] == "binary"}
    example = {name: base64.b64decode(v) if name in binary else v for name, v in package["example"].items()}
    facts = {name: document[name] for name in ("benchmark", "cell", "key", "seed", "not_comparable")}
    level = logging.getLogger("mlflow.pyfunc").level
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # it tells that it looks at the example
    try:
        mlflow.pyfunc.save_model(
            target,
            loader_module=package["loader"],
            data_path=str(next((folder / "data").iterdir())),
            code_paths=[str(path) for path in sorted((folder / "code").iterdir())],
            mlflow_model=Model(artifact_path=_ARTIFACT, run_id=run_id),
            signature=signature,
            input_example=pandas.DataFrame([example]),
            pip_requirements=list(package["requirements"]),
            metadata={**package["metadata"], **facts, "scores": package["scores"]},
        )
    finally:
        logging.getLogger("mlflow.pyfunc").setLevel(level)


def _point_to_best(client: Any, name: str) -> None:
    """Let the alias name the version of the highest rank; of equal ones the older."""
    versions = _versions(client, name)
    best = max(versions, key=lambda version: (*_rank(version), -int(version.version)))
    if str(client.get_registered_model(name).aliases.get(BEST)) != str(best.version):
        client.set_registered_model_alias(name, BEST, str(best.version))


def _rank(version: Any) -> tuple[bool, float]:
    score = float(version.tags.get(SCORE_TAG, "-inf"))
    return version.tags.get(COMPARABLE_TAG) == "true", score if score == score else float("-inf")


def _is_forbidden(error: Exception) -> bool:
    status = getattr(error, "get_http_status_code", None)
    return status is not None and status() == 403 and "Host header" not in str(error)


def _model_text(tracking: str, name: str, document: Mapping[str, Json]) -> str:
    """The registered model's description."""
    package = document["package"]
    return f"""**{document["cell"]}** of the benchmark `{document["benchmark"]}`: {package["description"]}

Serve it:

```
export MLFLOW_TRACKING_URI={shown(tracking)}
mlflow models serve --env-manager local --port 5001 \\
  -m "models:/{name}@{BEST}"
```

{package["usage"]}

Each version is a trial of this cell: seed, overrides, data. `{BEST}` is the version with the highest score; one that \
may stand beside the published score goes before all others.
"""


def _version_text(document: Mapping[str, Json]) -> str:
    scores = [f"{name.split('/')[-1]} {value:.2f}" for name, value in document["package"]["scores"].items()]
    lines = [f"**{document['title']}**, best checkpoint: {', '.join(scores) or 'not validated'}."]
    if document["not_comparable"]:
        lines.append(f"Not comparable with the published number: {'; '.join(document['not_comparable'])}.")
    lines.append(f"Trial `{document['key']}`.")
    return "\n\n".join(lines)
