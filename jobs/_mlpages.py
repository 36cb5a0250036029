"""MLflow's server with pages that open on trainings: `mlflow server --app-name hrgrid` (pyproject.toml names it).

MLflow 3 greets a new browser with its tools for language models, a panel to chat in, a notice of telemetry, which is
switched off here, and an advertisement over its list of models. There is no setting for it but the browser's own
memory, so the page fills that, once: what a user chooses afterwards stays. Cards of pictures begin with the picture.

The seven megabytes of scripts that a page needs are sent here, too: through Flask, as MLflow sends them, they take
0.3 to 0.4 seconds longer.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["APP", "create_app", "installed"]

APP: Final = "hrgrid"
"""Name of the application."""

_FIRST_CHOICES: Final = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "mlflow.telemetry.info.alert.dismissed_v1": True,
    "_mlflow_model_registry_promo_modal_dismissed_v1": True,
}
"""Entries of the browser's local storage that a new profile lacks (MLflow 3.17)."""
_SCRIPT: Final = (
    "<script>for (const [name, value] of Object.entries(%s)) "
    "if (localStorage.getItem(name) === null) localStorage.setItem(name, JSON.stringify(value))</script>"
)

_STYLE: Final = (
    "<style>"
    "div:has(> div .rc-image) > [tooltip-data-state] { max-height: 1.7em; overflow: hidden; }"
    "div:has(> .rc-image) { height: auto !important; aspect-ratio: auto !important; padding: 0 !important; }"
    "</style>"
)
"""A card of pictures begins with every parameter of its run, and the picture is out of sight below them: the name is
enough, the rest is shown by pointing at it."""


def installed() -> bool:
    """Tell whether MLflow finds the application: not in a checkout that was installed before it came."""
    return any(point.name == APP for point in importlib.metadata.entry_points(group="mlflow.app"))


def create_app() -> FastAPI:
    """Return MLflow's application, with the page of its UI and the scripts of that sent by this module."""
    from fastapi.responses import HTMLResponse
    from mlflow.server import app as pages
    from mlflow.server import fastapi_app
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    app: FastAPI = fastapi_app.app
    folder = Path(str(pages.static_folder))
    # A browser that kept the page would not notice that a newer one is installed.
    answer = HTMLResponse(adapted((folder / "index.html").read_text()), headers={"Cache-Control": "no-cache"})
    app.router.routes[:0] = [
        Route("/", lambda request: answer),
        Mount("/static-files", _Kept(StaticFiles(directory=folder))),
    ]
    return app


class _Kept:
    """Lets browsers keep files, as MLflow does, whose names change with their content."""

    def __init__(self, files: ASGIApp) -> None:
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_kept(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"cache-control", b"max-age=2419200")]
            await send(message)

        await self._files(scope, receive, send_kept)


def adapted(page: str) -> str:
    """Return MLflow's page with a script before its own that makes a new browser's choices, and with its style."""
    return page.replace("<head>", "<head>" + _SCRIPT % json.dumps(_FIRST_CHOICES) + _STYLE, 1)
