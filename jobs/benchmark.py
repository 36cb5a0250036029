"""`hrgrid benchmark`: memory and speed of a recipe by the protocol behind the published table's columns; the suite."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hrnet.catalogue import Recipe
from jobs._command import main_of
from jobs._options import add_json, add_name, add_places, positive
from jobs._show import number, print_table
from jobs._suite import add_suite, run_suite
from jobs._watch import watched
from jobs._weights import catalogue_recipe, found, load_model
from orchestrator.errors import UsageError

if TYPE_CHECKING:
    import torch

    from hrnet.speed import Image, Memory, Speed

HELP = """Measure a recipe's training memory and images per second by the protocol behind the published table. Memory:
training steps at the recipe's crop and batch per GPU. Speed: one image at a time at the recipe's test scale.
With --suite: everything that should be fast, beside mmsegmentation 1.2.2."""

WHAT = ("memory", "fps")

CPU_SECONDS = 60.0
"""Time after which no further image is begun on a CPU, unless --seconds says another."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Recipe, what to measure and on what."""
    parser.add_argument("recipe", metavar="NAME", nargs="?", help="recipe to measure")
    parser.add_argument("--what", type=_what, default=WHAT, metavar="memory,fps", help="one of them (default: both)")
    parser.add_argument(
        "--images", type=positive, default=200, metavar="N", help="images, the first five not counted (default 200)"
    )
    parser.add_argument(
        "--seconds",
        type=positive,
        metavar="S",
        help=f"begin no further image after this time (default: {CPU_SECONDS:.0f} on a CPU, no end on a GPU)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where (default: a GPU if there is one)")
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="random images of this size (default: typical of the data set)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument(
        "--weights", metavar="FILE|RUN", help="trained weights as for hrgrid evaluate (default: random weights)"
    )
    add_places(parser)
    add_name(parser)
    add_json(parser)
    add_suite(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if args.suite == (args.recipe is not None):
        raise UsageError("hrgrid benchmark takes the NAME of a recipe or --suite (see hrgrid benchmark --help)")
    if args.suite:
        return run_suite(args)
    recipe = catalogue_recipe(args.recipe, args.data, args.overrides)
    device = _device(args.device)
    from hrnet import speed

    measured = _fps(args, recipe, device) if "fps" in args.what else None
    memory = _memory(recipe, device) if "memory" in args.what and device.type == "cuda" else None
    facts = speed.figures(
        recipe,
        speed.conditions(recipe, device),
        measured,
        None if memory is None else memory.gb,
        images=_source(args),
        weights=args.weights or "random",
        memory={} if memory is None else _memory_conditions(memory),
    )
    if args.json:
        print(json.dumps(facts, indent=1))
    else:
        _print(facts, args.what)
    return 0


def _fps(args: argparse.Namespace, recipe: Recipe, device: torch.device) -> Speed:
    from hrnet import speed
    from hrnet.memory import evaluation_remedies, memory_explained
    from hrnet.model.segmentor import build_model

    if args.weights is None:
        model = build_model(recipe.width, recipe.num_classes, seed=0)
    else:
        with found(args.weights, args, recipe) as path:
            model, loaded = load_model(path, recipe)
        if not args.json:
            print(loaded.summary(), flush=True)
    seconds = args.seconds or (CPU_SECONDS if device.type == "cpu" else None)
    images = _images(args, recipe)
    remedies = ["smaller images with --size HxW", *evaluation_remedies(recipe)]
    with memory_explained(device, f"{recipe.name}: the timing of images", remedies):
        measuring = speed.measure_speed(model.to(device), images, recipe, device, wanted=args.images, budget=seconds)
        return watched(measuring, "timing images", lambda done: (done, args.images))


def _images(args: argparse.Namespace, recipe: Recipe) -> Iterator[Image]:
    from hrnet import speed

    if args.data is None or args.size is not None:
        return speed.random_images(args.size or speed.typical_size(recipe))
    from hrnet.data.shards import locate, open_dataset

    return speed.images_of(open_dataset(locate(args.data, recipe.dataset)).split("val"), recipe)


def _source(args: argparse.Namespace) -> str:
    if args.size is not None:
        return "random pixels of the size asked for"
    return "random pixels of a typical size" if args.data is None else f"validation images of {args.data}"


def _memory(recipe: Recipe, device: torch.device) -> Memory:
    from hrnet import speed
    from hrnet.memory import memory_explained

    images, size = speed.per_gpu(recipe), f"{recipe.crop[0]}x{recipe.crop[1]}"
    doing = f"{recipe.name}: a training step on {images} images of {size}"
    with memory_explained(device, doing, ["fewer images with --set batch_size=N", "--what fps"]):
        return watched(speed.measure_memory(recipe, device), "training steps", lambda done: (done, speed.MEMORY_STEPS))


def _memory_conditions(memory: Memory) -> dict[str, Any]:
    return {
        "batch": memory.batch,
        "crop": f"{memory.crop[0]}x{memory.crop[1]}",
        "steps": memory.steps,
        "processes": 1,
        "counts": "the most that torch had allocated; neither its cache nor the buckets of a gang",
        "tf32": False,
        "cudnn_benchmark": False,
        "weights": "random",
    }


def _device(name: str | None) -> torch.device:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda, but torch sees no GPU here; leave it out to measure on the CPU")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _print(facts: Mapping[str, Any], what: tuple[str, ...]) -> None:
    published, on_gpu = facts["published"], facts["conditions"]["device_type"] == "cuda"
    memory = number(facts["train_mem_gb"]) if on_gpu else "n/a on CPU"
    rows = [
        row
        for name, row in (
            ("memory", ("training memory, GB", memory, number(published["train_mem_gb"]))),
            ("fps", ("images per second", number(facts["fps"]), number(published["fps"]))),
        )
        if name in what
    ]
    print_table((facts["recipe"], "here", "published"), rows, right={"here", "published"})
    print(f"published with {published['device']}: not comparable with {facts['conditions']['device']}")
    for title in ("conditions", "fps_conditions", "train_mem_conditions"):
        if facts[title]:
            print(f"\n{title.replace('_', ' ')}:")
            for name, value in facts[title].items():
                print(f"  {name.replace('_', ' ')}: {_text(value)}")


def _text(value: object) -> str:
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:6]))
        return f"{shown} and {len(value) - 6} more" if len(value) > 6 else shown
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _what(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if not set(words) <= set(WHAT):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of memory, fps or memory,fps")
    return words


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(32 <= side <= 16384 for side in size):
        raise argparse.ArgumentTypeError(f"{text!r} is no size of 32 to 16384 pixels such as 1024x2048")
    return size


if __name__ == "__main__":
    sys.exit(main_of("benchmark", HELP, add_arguments, run))
