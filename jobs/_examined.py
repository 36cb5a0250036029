"""What a doctor must know of the science: which data sets and weights the chosen recipes need, and whether a node
has them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from hrnet.catalogue import Recipe
from hrnet.errors import HrnetError
from orchestrator.doctor.model import Answer, Check, Finding, Level, everywhere, findings

__all__ = ["batch_bytes", "biggest_gang", "data_check", "weights_check"]

_SHOWN = 12
"""Hex digits of a fingerprint in a sentence."""


def batch_bytes(recipes: Sequence[Recipe]) -> float:
    """Bytes of the largest batch of one worker: three of colours and one of label per pixel."""
    return max(4.0 * recipe.crop[0] * recipe.crop[1] * recipe.batch_size / recipe.workers for recipe in recipes)


def biggest_gang(recipes: Sequence[Recipe]) -> int:
    """Workers of the largest gang that the recipes were published with."""
    return max(recipe.workers for recipe in recipes)


def data_check(data: str, datasets: Sequence[str] | None) -> Check:
    """The data sets named, or all that are prepared at a location, as each node sees them."""
    probe = partial(_data, data, None if datasets is None else tuple(datasets))
    return Check(name="data", ask=everywhere(probe), judge=partial(_judge_data, data=data), seconds=60.0)


def weights_check(recipes: Sequence[Recipe]) -> Check:
    """The pretrained weights that the recipes start from, as each node gets them."""
    wanted = sorted({(r.pretrained, r.pretrained_sha256) for r in recipes if r.pretrained is not None})
    return Check(name="weights", ask=everywhere(partial(_weights, wanted)), judge=_judge_weights, seconds=45.0)


def _data(data: str, datasets: Sequence[str] | None) -> dict[str, Any]:
    """Read the manifests, look for every shard, and hash the smallest one of each data set."""
    from hrnet.data.shards import PreparedDataset, list_datasets, locate, open_dataset

    found: list[PreparedDataset] = []
    broken: list[str] = []
    try:
        if datasets is None:
            found = list_datasets(data)
        for name in datasets or ():
            try:
                found.append(open_dataset(locate(data, name)))
            except HrnetError as error:
                broken.append(str(error))
    except HrnetError as error:
        broken.append(str(error))
    sets = []
    for dataset in found:
        try:
            sets.append({"name": dataset.card.name, "fingerprint": dataset.fingerprint, **_shards(dataset)})
        except (HrnetError, OSError) as error:
            broken.append(f"{dataset.uri}: {error}")
    return {"sets": sets, "broken": broken}


def _shards(dataset: Any) -> dict[str, Any]:
    from hrnet.data.location import contents, is_local, join, read

    shards = [shard for name in dataset.splits for shard in dataset.split(name).shards]
    there = set(contents(dataset.uri))
    missing = [shard.file for shard in shards if shard.file not in there]
    other = [
        shard.file
        for shard in shards
        if is_local(dataset.uri) and shard.file in there and _size(dataset.uri, shard.file) != shard.bytes
    ]
    smallest = min((shard for shard in shards if shard.file in there), key=lambda shard: shard.bytes, default=None)
    if smallest is not None and smallest.file not in other:
        content = read(dataset.uri, smallest.file) or b""
        if hashlib.sha256(content).hexdigest() != smallest.sha256:
            other.append(smallest.file)
    return {
        "where": join(dataset.uri, "manifest.json"),
        "shards": len(shards),
        "missing": missing,
        "damaged": other,
    }


def _size(uri: str, name: str) -> int:
    return (Path(uri) / name).stat().st_size


def _judge_data(answers: Sequence[Answer], data: str) -> list[Finding]:
    """Every node must read the same manifests, and find the shards that these list."""
    problems: list[tuple[str, Level, str, str]] = []
    first = {each["name"]: each["fingerprint"] for each in answers[0].facts["sets"]}
    for answer in answers:
        node = answer.node.name
        for said in answer.facts["broken"]:
            problems.append((node, "failed", *_split(said, "look at the location, and at the node's AWS environment")))
        if not answer.facts["sets"] and not answer.facts["broken"]:
            fix = "give --data what `hrgrid data prepare` wrote, where every node sees it"
            problems.append((node, "failed", f"{data} holds no prepared data set", fix))
        for each in answer.facts["sets"]:
            problems += [(node, "failed", *told) for told in _of_dataset(each)]
            expected = first.get(each["name"], each["fingerprint"])
            if each["fingerprint"] != expected:
                said = f"{each['where']} has the fingerprint {each['fingerprint'][:_SHOWN]}, on "
                said += f"{answers[0].node.name} it has {expected[:_SHOWN]}: the trials of the two would be others"
                problems.append((node, "failed", said, "copy one data set to all nodes, or keep it in S3"))
    told = ", ".join(f"{name} ({fingerprint[:_SHOWN]})" for name, fingerprint in first.items())
    return findings("data", problems, f"{told}: read from {len(answers)} node{'s' if len(answers) > 1 else ''}")


def _of_dataset(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    for kind, word in (("missing", "missing"), ("damaged", "not what the manifest says")):
        if files := facts[kind]:
            said = f"{len(files)} of the {facts['shards']} shards of {facts['where']} {_are(files)} {word}: {files[0]}"
            found.append((said, "prepare the data set again, or copy it again from where it is whole"))
    return found


def _are(files: Sequence[str]) -> str:
    return "is" if len(files) == 1 else "are"


def _weights(wanted: Sequence[tuple[str, str | None]]) -> dict[str, Any]:
    with ThreadPoolExecutor(max(1, len(wanted))) as pool:
        return {"files": list(pool.map(lambda each: _had(*each), wanted))}


def _had(source: str, sha256: str | None) -> dict[str, str]:
    """How the weights are had here, or the error for which they are not."""
    from hrnet.fetch import cache_folder, check_sha256, is_remote, mirrored, name_hash, reachable

    name = source.rsplit("/", 1)[-1]
    prefix = sha256 or name_hash(source)
    try:
        reachable(source, prefix)
        place = mirrored(source)
        local = cache_folder() / name if is_remote(place) else Path(place)
        if prefix is not None and local.is_file():
            check_sha256(local, prefix)
        how = "on disk" if local.is_file() else "to be fetched"
        return {"name": name, "how": how, "error": ""}
    except HrnetError as error:
        return {"name": name, "how": "", "error": str(error)}


def _judge_weights(answers: Sequence[Answer]) -> list[Finding]:
    problems: list[tuple[str, Level, str, str]] = []
    for answer in answers:
        errors = [file["error"] for file in answer.facts["files"] if file["error"]]
        if errors:
            said, fix = _split(errors[0], "give a file's path with --set pretrained=FILE")
            if fix == "fetch it again":  # what is said of a file in the cache
                fix = "delete that file, and it is fetched again"
            elif "cannot fetch" in said:
                fix += ", name a mirror in HRGRID_WEIGHTS_MIRROR, or train with --set pretrained=none"
            more = f" (and {len(errors) - 1} more files)" if len(errors) > 1 else ""
            problems.append((answer.node.name, "failed", f"{said}{more}", fix))
    files = answers[0].facts["files"]
    if not files:
        return findings("weights", problems, "the chosen recipes start from scratch")
    hows = sorted({file["how"] for answer in answers for file in answer.facts["files"] if file["how"]})
    return findings(
        "weights", problems, f"{len(files)} pretrained file{'s' if len(files) > 1 else ''}: {', '.join(hows)}"
    )


def _split(message: str, fix: str) -> tuple[str, str]:
    """A sentence and its advice, which stands behind the last semicolon."""
    said, found, advice = message.rpartition("; ")
    return (said, advice) if found else (message, fix)
