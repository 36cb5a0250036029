"""Where a command says that a benchmark can be looked at in a browser."""

from __future__ import annotations

from jobs._relay import HOST
from jobs.ui import DEFAULT_PORT
from orchestrator.pages import address
from orchestrator.settings import Settings

__all__ = ["mlflow_line", "ui_command"]


def mlflow_line(places: Settings) -> str | None:
    """Return the line that names the benchmark's page in MLflow, or None while nothing of it is recorded there."""
    remote = places.tracking.startswith("http")
    page = address(places, places.tracking if remote else f"http://{HOST}:{DEFAULT_PORT}")
    if page is None:
        return None
    return f"MLflow: {page}" if remote else f"MLflow: {page}  (while hrgrid ui runs)"


def ui_command(places: Settings) -> str:
    """Return the command that opens the benchmark in a browser."""
    return f"hrgrid ui --storage {places.storage} --name {places.benchmark}"
