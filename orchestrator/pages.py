"""Where a browser shows a benchmark in MLflow, kept in storage: who asks for it later need not ask the server.

tracking/<benchmark>.json       the tracking store and the experiment's id there
"""

from __future__ import annotations

from orchestrator.settings import Settings
from orchestrator.storage import Storage
from orchestrator.tracking import Tracker
from orchestrator.views import LEADERBOARD, View, experiment_address

__all__ = ["address", "open_experiment"]


def open_experiment(settings: Settings) -> str:
    """Make the benchmark's experiment if it is new, give it its views and note where it is; returns its id.

    Raises TrackingError if the tracking store cannot be used.
    """
    tracker = Tracker(settings.tracking, settings.benchmark, artifacts=settings.artifacts)
    tracker.check()
    storage, place = Storage(settings.storage), _place(settings)
    facts = {"tracking": settings.tracking, "experiment_id": tracker.experiment_id}
    if storage.find_json(place) != facts:
        storage.write_json(place, facts)
    return tracker.experiment_id


def address(settings: Settings, pages: str, view: View = LEADERBOARD) -> str | None:
    """Return where the server at `pages` shows the benchmark, or None if no launch has recorded it in this store."""
    facts = Storage(settings.storage).find_json(_place(settings))
    if facts is None or facts["tracking"] != settings.tracking:
        return None
    return experiment_address(pages, facts["experiment_id"], view)


def _place(settings: Settings) -> str:
    return f"tracking/{settings.benchmark}.json"
