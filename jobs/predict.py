"""`hrgrid predict`: class maps and pictures of any images, with any checkpoint, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrnet.catalogue import Recipe
from hrnet.errors import DataError, RecipeError
from jobs._command import main_of
from jobs._options import add_device, add_json, add_name, add_places, device
from jobs._weights import catalogue_recipe, found, load_model, stored_recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hrnet.data.cards import Card

HELP = "Segment images: writes NAME_classes.png (class ids) and NAME_overlay.png for each."

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Checkpoint, images and where to write."""
    parser.add_argument(
        "weights",
        metavar="RUN|FILE",
        help="a weights file, URL or S3 URI, a checkpoint folder, or the key, recipe name or MLflow run id of a trial "
        "in the storage",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("-o", "--to", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--recipe", metavar="NAME", help="recipe of a weights file that does not say its own")
    parser.add_argument("--ms-flip", action="store_true", help="average over six scales and mirrored images")
    add_device(parser)
    add_places(parser)
    add_name(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Segment every image."""
    images = _image_files([Path(name) for name in args.images])
    _check_readable(images)
    with found(args.weights, args) as path:
        recipe = _recipe(args, path)
        network, loaded = load_model(path, recipe)
    if not args.json:
        print(loaded.summary(), flush=True)
    card = _card(recipe, args.data)
    import torch

    from hrnet.model.fused import fused

    place = torch.device(device(args))
    model = fused(network.to(place).eval())
    try:
        args.to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {args.to}: {error.strerror or error}") from error
    facts = []
    for file in images:
        facts.append(_segment(model, place, recipe, card, file, args.to, ms_flip=args.ms_flip))
        if not args.json:
            shown = ", ".join(f"{name} {share:.0%}" for name, share in facts[-1]["largest"].items())
            print(f"{file}: {shown} -> {facts[-1]['overlay']}")
    if args.json:
        print(json.dumps(facts, indent=1))
    return 0


def _segment(
    model: nn.Module, place: torch.device, recipe: Recipe, card: Card, file: Path, folder: Path, *, ms_flip: bool
) -> dict[str, Any]:
    """Segment one image and write its two pictures; returns where they are and the three largest classes."""
    import cv2
    import numpy as np

    from hrnet.draw import overlay
    from hrnet.evaluation.inference import segment
    from hrnet.memory import memory_explained

    pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if pixels is None:
        raise DataError(f"{file} is damaged; the images before it are in {folder}")
    image = np.asarray(pixels, dtype=np.uint8)
    remedies = (["no --ms-flip"] if ms_flip else []) + (["--device cpu"] if place.type == "cuda" else [])
    with memory_explained(place, f"{recipe.name}: the prediction of {file}", [*remedies, "a smaller image"]):
        classes = segment(model, image, recipe, ms_flip=ms_flip)
    maps, picture = folder / f"{file.stem}_classes.png", folder / f"{file.stem}_overlay.png"
    for target, drawn in ((maps, classes), (picture, overlay(image, classes, card.palette))):
        if not cv2.imwrite(str(target), drawn):
            raise DataError(f"cannot write {target}: is the folder writable and the disk not full?")
    shares = np.bincount(classes.ravel(), minlength=len(card.classes)) / classes.size
    largest = {card.classes[i]: round(float(shares[i]), 4) for i in np.argsort(-shares)[:3] if shares[i] > 0}
    return {"image": str(file), "classes": str(maps), "overlay": str(picture), "largest": largest}


def _check_readable(files: Sequence[Path]) -> None:
    import cv2

    for file in files:
        if not cv2.haveImageReader(str(file)):
            raise DataError(f"{file} is no image that can be read")


def _recipe(args: argparse.Namespace, path: Path) -> Recipe:
    if args.recipe is not None:
        return catalogue_recipe(args.recipe, args.data, ())
    recipe = stored_recipe(path)
    if recipe is None:
        raise RecipeError(f"{path} does not say which recipe it is for: give --recipe NAME (see hrgrid recipes)")
    return recipe


def _card(recipe: Recipe, data: str | None) -> Card:
    """The data set's card for names and colours; made up where a custom data set is not at hand."""
    from hrnet.data.cards import Card, cards
    from hrnet.data.shards import locate, open_dataset

    if recipe.dataset in cards():
        return cards()[recipe.dataset]
    if data is not None:
        return open_dataset(locate(data, recipe.dataset)).card
    names = [f"class {number}" for number in range(recipe.num_classes)]
    return Card.from_dict({"name": recipe.dataset, "classes": names})


def _image_files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise DataError(f"the folder {path} holds no image ({', '.join(SUFFIXES)})")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"there is no image {path}")
    twice = [stem for stem, count in Counter(file.stem for file in files).items() if count > 1]
    if twice:
        raise DataError(f"several images are called {twice[0]!r} and would overwrite each other; predict them apart")
    return files


if __name__ == "__main__":
    sys.exit(main_of("predict", HELP, add_arguments, run))
