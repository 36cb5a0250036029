"""docs/metrics.md names whatever the code writes into MLflow: tags, metrics, artifacts."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hrnet", "orchestrator", "jobs")

TAG = re.compile(r"hrgrid\.[a-z][a-z0-9_.]*[a-z0-9]")
METRIC = re.compile(r"(?:train|val|speed|published|reference|cells|system)/\w+")
ARTIFACT = re.compile(r"(?:config|eval|provenance|evidence)/[\w./-]+")


def written() -> dict[str, str]:
    """Every text in the code that has the form of such a name, to the file where it stands."""
    found = {}
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for form in (TAG, METRIC, ARTIFACT):
                    if form.fullmatch(node.value):
                        found[node.value] = path.relative_to(ROOT).as_posix()
    return found


def test_every_name_that_code_writes_is_explained() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    named = re.findall(r"`([^`]+)`", page)
    exact = set(named)
    # `reference/...`, `eval/overlays/*.png`, `system/node<rank>/...`: what begins so.
    cut = (re.match(r"([^.*<]+/[^.*<]*)(?:\.\.\.|\*|<)", name) for name in named)
    beginnings = tuple(begin[1] for begin in cut if begin)
    names = written()
    assert {"hrgrid.key", "train/loss", "val/mIoU", "eval/confusion.json"} <= set(names)
    missing = {
        name: where for name, where in names.items() if name not in exact and not f"{name}/".startswith(beginnings)
    }
    assert not missing, f"docs/metrics.md does not explain {missing}"
