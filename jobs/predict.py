"""`hrgrid predict`: class maps and pictures of any images and videos, with any checkpoint, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hrnet.catalogue import Recipe
from hrnet.errors import DataError, RecipeError
from jobs._command import main_of
from jobs._options import add_device, add_json, add_name, add_places, device, positive
from jobs._progress import Report, progress
from jobs._show import plural
from jobs._weights import MODEL, catalogue_recipe, found, load_model, stored_card, stored_recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hrnet.data.cards import Card
    from hrnet.serving import ServedModel
    from jobs._video import Clip, VideoFile

HELP = (
    "Segment images and videos: writes NAME_classes.png (class ids) and NAME_overlay.png for each image, "
    "NAME_overlay.mp4 for each video."
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

_OWN = ("_classes", "_overlay")
"""Ends of the names of what this command writes: never taken from a folder that is segmented again."""

_TOLD = 20
"""Most inputs of which each gets a line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Checkpoint, images and where to write."""
    parser.add_argument(
        "weights",
        metavar="RUN|FILE|MODEL",
        help="a weights file, URL or S3 URI, a checkpoint folder, the key, recipe name or MLflow run id of a trial in "
        f"the storage, or a registered model ({MODEL}NAME@best)",
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="images, videos, or folders, which are searched with all below them"
    )
    parser.add_argument("-o", "--to", required=True, type=Path, metavar="DIR", help="where to write")
    parser.add_argument("--recipe", metavar="NAME", help="recipe of a weights file that does not say its own")
    parser.add_argument("--ms-flip", action="store_true", help="average over six scales and mirrored images")
    parser.add_argument("--every", type=positive, default=1, metavar="N", help="of videos, take each Nth frame")
    parser.add_argument(
        "--frame-maps", action="store_true", help="of videos, write the class map of each frame: NAME_classes/*.png"
    )
    add_device(parser)
    add_places(parser)
    add_name(parser)
    add_json(parser)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Input:
    file: Path
    clip: Clip | None
    """Of a video."""
    target: Path
    """Where its results go, without `_overlay` and suffix."""

    def beside(self, end: str) -> Path:
        return self.target.with_name(self.target.name + end)


def run(args: argparse.Namespace) -> int:
    """Segment every image and every frame."""
    inputs = _inputs([Path(name) for name in args.inputs], args.to)
    model = _model(args)
    try:
        args.to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {args.to}: {error.strerror or error}") from error
    total = sum(1 if each.clip is None else each.clip.taken(args.every) for each in inputs)
    facts: list[dict[str, Any]] = []
    try:
        with progress(args.json, "segmenting") as report, _Behind() as behind:
            work = _Work(model, behind, report, total)
            for each in inputs:
                each.target.parent.mkdir(parents=True, exist_ok=True)
                facts.append(work.image(each, args) if each.clip is None else work.video(each, args))
    except KeyboardInterrupt:
        print(f"hrgrid: {len(facts)} of {plural(len(inputs), 'input')} done, in {args.to}", file=sys.stderr)
        raise
    if args.json:
        print(json.dumps(facts, indent=1))
        return 0
    for fact in facts[:_TOLD]:
        shown = ", ".join(f"{name} {share:.0%}" for name, share in fact["largest"].items())
        length = f"{fact['frames']} frames, " if "frames" in fact else ""
        print(f"{fact.get('image') or fact['video']}: {length}{shown} -> {fact['overlay']}")
    if len(facts) > _TOLD:
        print(f"... and {len(facts) - _TOLD} more in {args.to}")
    return 0


class _Work:
    """The segmentation of inputs; pictures are drawn and written while the next image is computed."""

    def __init__(self, model: ServedModel, behind: _Behind, report: Report | None, total: int) -> None:
        """`total`: images and frames of all inputs, as far as videos say the truth."""
        self.model, self.behind, self.report, self.total = model, behind, report, total
        self.done = 0

    def image(self, given: _Input, args: argparse.Namespace) -> dict[str, Any]:
        """Segment an image; returns where its two pictures are and the three largest classes."""
        import cv2
        import numpy as np

        from hrnet.draw import overlay

        pixels = cv2.imread(str(given.file), cv2.IMREAD_COLOR)
        if pixels is None:
            raise DataError(f"{given.file} is damaged; the images before it are in {args.to}")
        image = np.asarray(pixels, dtype=np.uint8)
        classes = self._segment(image, given.file, args)
        maps, picture = given.beside("_classes.png"), given.beside("_overlay.png")

        def keep() -> None:
            _write(maps, classes)
            _write(picture, overlay(image, classes, self.model.card.palette))

        self.behind.do(keep)
        largest = self._largest(self._counts(classes))
        return {"image": str(given.file), "classes": str(maps), "overlay": str(picture), "largest": largest}

    def video(self, given: _Input, args: argparse.Namespace) -> dict[str, Any]:
        """Segment a video's frames; of a damaged one, those before the damage are kept and DataError is raised."""
        import numpy as np

        from jobs._video import VideoFile, frames

        assert given.clip is not None
        counts, before = np.zeros(self.model.card.num_classes, np.int64), self.done
        maps = given.beside("_classes") if args.frame_maps else None
        if maps is not None:
            maps.mkdir(exist_ok=True)
        fault: DataError | None = None
        with VideoFile(given.beside("_overlay.mp4"), given.clip.rate / args.every) as film:
            try:
                for number, image in frames(given.clip, args.every):
                    classes = self._segment(image, given.file, args)
                    counts += self._counts(classes)
                    self.behind.do(partial(self._keep, film, maps, number, image, classes))
            except DataError as error:
                fault = error
            finally:
                self.behind.wait()
            film.finish()
        if fault is not None:
            raise DataError(f"{fault}; the frames before it are in {film.file}") from fault
        facts = {"video": str(given.file), "overlay": str(film.file), "frames": self.done - before}
        return {**facts, **({} if maps is None else {"classes": str(maps)}), "largest": self._largest(counts)}

    def _keep(
        self, film: VideoFile, maps: Path | None, number: int, image: NDArray[np.uint8], classes: NDArray[np.uint8]
    ) -> None:
        from hrnet.draw import overlay

        if maps is not None:
            _write(maps / f"{number:06d}.png", classes)
        film.add(overlay(image, classes, self.model.card.palette))

    def _segment(self, image: NDArray[np.uint8], file: Path, args: argparse.Namespace) -> NDArray[np.uint8]:
        from hrnet.evaluation.inference import segment
        from hrnet.memory import memory_explained

        model = self.model
        remedies = ["no --ms-flip"] if args.ms_flip else []
        remedies += ["--device cpu"] if model.device.type == "cuda" else []
        with memory_explained(
            model.device, f"{model.recipe.name}: the prediction of {file}", [*remedies, "a smaller image"]
        ):
            classes = segment(model.network, image, model.recipe, ms_flip=args.ms_flip)
        self.done += 1
        if self.report is not None:
            self.report(self.done, max(self.done, self.total), file.name)
        return classes

    def _counts(self, classes: NDArray[np.uint8]) -> NDArray[np.int64]:
        import numpy as np

        return np.bincount(classes.ravel(), minlength=self.model.card.num_classes)

    def _largest(self, counts: NDArray[np.int64]) -> dict[str, float]:
        shares = counts / counts.sum()
        largest = (-shares).argsort(kind="stable")[:3]
        return {self.model.card.classes[i]: round(float(shares[i]), 4) for i in largest if shares[i] > 0}


class _Behind:
    """Does one job after the other in a thread; a job's error is raised by the call that follows it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hrgrid-draw")
        self._last: Future[None] | None = None

    def do(self, job: Callable[[], None]) -> None:
        """Begin a job once the one before it has ended."""
        self.wait()
        self._last = self._pool.submit(job)

    def wait(self) -> None:
        """Return when all is done."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> _Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            self._pool.shutdown()


def _write(target: Path, picture: NDArray[np.uint8]) -> None:
    """Write a picture; the file appears whole or not at all."""
    from hrnet.draw import to_png

    unfinished = target.with_name(f".{target.name}.partial")
    try:
        unfinished.write_bytes(to_png(picture))
        unfinished.replace(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error


def _model(args: argparse.Namespace) -> ServedModel:
    with found(args.weights, args) as path:
        recipe = _recipe(args, path)
        network, loaded = load_model(path, recipe)
        card = stored_card(path)
    if not args.json:
        print(loaded.summary(), flush=True)
    import torch

    from hrnet.model.fused import fused
    from hrnet.serving import ServedModel

    place = torch.device(device(args))
    fast = fused(network.to(place).eval())
    return ServedModel(network=fast, device=place, recipe=recipe, card=card or _card(recipe, args.data))


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


def _inputs(paths: Sequence[Path], to: Path) -> list[_Input]:
    """Every image and video that is named or lies in a named folder, each looked into; raises DataError."""
    from jobs._video import VIDEO_SUFFIXES, open_clip

    inputs: list[_Input] = []
    for path in paths:
        if path.is_dir():
            wanted = (*SUFFIXES, *VIDEO_SUFFIXES)
            inside = [file for file in sorted(path.rglob("*")) if _is_wanted(file.relative_to(path), wanted)]
            if not inside:
                raise DataError(f"the folder {path} holds no image and no video ({', '.join(wanted)})")
        elif path.is_file():
            inside = [path]
        else:
            raise DataError(f"there is no image or video {path}")
        for file in inside:
            name = file.relative_to(path) if path.is_dir() else Path(file.name)
            clip = None if _is_image(file) else open_clip(file)
            inputs.append(_Input(file=file, clip=clip, target=to / name.with_suffix("")))
    first: dict[Path, Path] = {}
    for each in inputs:
        other = first.setdefault(each.target, each.file)
        if other != each.file:
            raise DataError(f"{other} and {each.file} would both become {each.target}_overlay; predict them apart")
    return list({each.target: each for each in inputs}.values())


def _is_wanted(name: Path, suffixes: Sequence[str]) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    own = any(part.endswith(_OWN) for part in (*name.parent.parts, name.stem))
    return not hidden and not own and name.suffix.lower() in suffixes


def _is_image(file: Path) -> bool:
    """Tell an image from a video; raises DataError if the file is neither."""
    import cv2

    from jobs._video import VIDEO_SUFFIXES

    if file.suffix.lower() in VIDEO_SUFFIXES:
        return False
    if not cv2.haveImageReader(str(file)):
        raise DataError(f"{file} is no image or video that can be read")
    return True


if __name__ == "__main__":
    sys.exit(main_of("predict", HELP, add_arguments, run))
