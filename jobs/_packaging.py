"""A checkpoint of HRNet as a package that the platform registers: weights, code that loads them, what they mean."""

from __future__ import annotations

import base64
import shutil
from importlib.metadata import version
from pathlib import Path

import hrnet
from hrnet import serving
from hrnet.catalogue import Recipe
from hrnet.published import BACKBONES
from orchestrator.workload import Packaged

__all__ = ["package"]

_USAGE = """\
Ask it (the content of an image file in, a grey PNG of class ids out, both as base64):

```
printf '{"dataframe_records": [{"image": "%s"}]}' "$(base64 < street.jpg | tr -d '\\n')" |
  curl -s http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' -d @-
```

Beside `dataframe_records`, `"params": {"ms_flip": true}` averages over several scales and mirrored images, as the \
table's last column does."""


def package(recipe: Recipe, data: str, checkpoint: Path, folder: Path) -> Packaged:
    """Write a checkpoint folder's network into `folder/data/network` and this package into `folder/code`."""
    card, scores = serving.package(recipe, data, checkpoint, folder / "data" / "network")
    source = Path(hrnet.__file__).parent
    shutil.copytree(source, folder / "code" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    backbone = BACKBONES.get(recipe.width, recipe.width)
    return Packaged(
        loader=serving.__name__,
        signature=serving.SIGNATURE,
        example={"image": base64.b64encode(serving.example_image(card)).decode()},
        requirements=tuple(f"{name}=={version(name).partition('+')[0]}" for name in serving.REQUIREMENTS),
        scores=scores,
        metadata={
            "classes": list(card.classes),
            "palette": [list(colour) for colour in card.palette],
            "recipe": recipe.to_dict(),
        },
        description=f"{backbone} with an FCN head for the {card.num_classes} classes of {card.title}.",
        usage=_USAGE,
    )
