"""Descriptions of runs in the tracking store: written by the platform, with room for what people add below."""

from __future__ import annotations

import re
import urllib.parse
from typing import Final

from orchestrator.registry import MODEL_TAG
from orchestrator.runstore import TAG_LIMIT
from orchestrator.tracking import Tracker
from orchestrator.views import NOTE_TAG

__all__ = ["write_note"]

_OWN_END: Final = "<!-- what stands below is yours and stays -->"
"""Invisible where the description is shown, visible where it is edited."""
_MODEL_LINE: Final = re.compile(r"^- model: .*\n?", re.MULTILINE)


def write_note(tracker: Tracker, run_id: str, note: str | None = None) -> None:
    """Describe a run, with a link to its registered model if it has one; what people wrote below is kept.

    `artifact:PATH` in a link becomes the address of that artifact's page. None describes it as before, for a model
    that was registered meanwhile.
    """
    tags = tracker.tags(run_id)
    before, mark, added = tags.get(NOTE_TAG, "").partition(_OWN_END)
    if not mark:
        before, added = "", f"\n\n{before}" if before else ""
    page = f"#/experiments/{tracker.experiment_id}/runs/{run_id}/artifacts"
    text = re.sub(r"\]\(artifact:", f"]({page}/", before if note is None else note)
    text = _MODEL_LINE.sub("", text.rstrip())
    model = tags.get(MODEL_TAG, "")
    if model.startswith("models:/"):
        name, _, version = model.removeprefix("models:/").rpartition("/")
        address = f"#/models/{urllib.parse.quote(name, safe='')}/versions/{version}"
        text = f"{text.rstrip()}\n- model: [{name}, version {version}]({address})"
    room = max(0, TAG_LIMIT - len(_OWN_END) - len(added) - 2)
    tracker.set_tags(run_id, {NOTE_TAG: f"{text[:room]}\n\n{_OWN_END}{added}"})
