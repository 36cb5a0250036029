"""What MLflow's UI shows of artifacts in a form of its own: pictures over the steps of a run, and tables.

Both are conventions of names and tags, those of `MlflowClient.log_image` and `log_table`, followed here so that such
artifacts take the same way as all others: sent in the background, kept in storage while the server is away.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Mapping
from typing import Final

__all__ = ["TABLE_SUFFIX", "exhibit_tags", "is_exhibit", "picture_files"]

TABLE_SUFFIX: Final = ".table.json"
_PICTURES: Final = "images/"
_PICTURES_TAG: Final = "mlflow.loggedImages"
_TABLES_TAG: Final = "mlflow.loggedArtifacts"
_QUALITY: Final = 80
"""Of the copy that the UI shows in its grid, in WebP's scale to 100: about a tenth of the PNG's size."""


def picture_files(name: str, png: bytes, *, run_id: str, step: int, timestamp_ms: int) -> dict[str, bytes]:
    """Return the two files of one picture of a series by path: as it is, and as the UI shows it in its grid.

    The same step of a run that goes on has the same paths: it takes the place of what an earlier attempt has sent.
    """
    from PIL import Image

    small = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.save(small, "WEBP", quality=_QUALITY)
    unique = uuid.uuid5(uuid.NAMESPACE_URL, f"{run_id}/{name}/{step}")
    stem = f"{_PICTURES}{name.replace('/', '~')}+step+{step}+timestamp+{timestamp_ms}+{unique}"
    return {f"{stem}.png": png, f"{stem}+compressed.webp": small.getvalue()}


def is_exhibit(path: str) -> bool:
    """Tell whether the UI shows the artifact `path` in a form of its own once the run's tags say so."""
    return path.startswith(_PICTURES) or path.endswith(TABLE_SUFFIX)


def exhibit_tags(path: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags to add to a run's `tags` so that the UI shows the artifact `path` in a form of its own."""
    if path.startswith(_PICTURES):
        return {} if _PICTURES_TAG in tags else {_PICTURES_TAG: "True"}
    if path.endswith(TABLE_SUFFIX):
        known, entry = json.loads(tags.get(_TABLES_TAG, "[]")), {"path": path, "type": "table"}
        return {} if entry in known else {_TABLES_TAG: json.dumps([*known, entry])}
    return {}
