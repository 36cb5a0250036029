"""`hrgrid weights import|export|show`: weights of others into ours, ours into theirs, and what a file is."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrnet.errors import WeightsError
from jobs._command import add_step, main_of
from jobs._options import add_json, add_name, add_storage
from jobs._weights import found, stored_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hrnet.weightsfile import WeightsFile

HELP = "Convert weights files: OpenMMLab, official HRNet, timm in; OpenMMLab, safetensors, ONNX out."

SOURCE = (
    "a .pth, .pt or .safetensors file, an http(s) URL or S3 URI, a checkpoint folder, or the key, recipe name or "
    "MLflow run id of a trial in the storage"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand for each direction."""
    steps = parser.add_subparsers(dest="step", required=True, metavar="import|export|show")
    add = functools.partial(add_step, steps, "weights")
    into = add("import", "Convert any accepted weights file to ours, and say what became of it.", take)
    out = add("export", "Write a model as .pth (OpenMMLab's form), .safetensors or .onnx.", give)
    shown = add("show", "Say what a weights file is, without loading it into a model.", show)
    for step in (into, out, shown):
        step.add_argument("source", metavar="SOURCE", help=SOURCE)
        step.add_argument("--sha256", metavar="HEX", help="first digits that the file's SHA-256 must have")
        add_storage(step)
        add_name(step)
        add_json(step)
    into.add_argument("-o", "--to", required=True, type=Path, metavar="FILE", help=".pth or .safetensors")
    out.add_argument("-o", "--to", required=True, type=Path, metavar="FILE", help=".pth, .safetensors or .onnx")
    out.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="ONNX from uint8 RGB pixels (N,H,W,3) to the class of every pixel (N,H,W), in place of normalised floats "
        "(N,3,H,W) to logits at a quarter of the size",
    )


def run(args: argparse.Namespace) -> int:
    """Run the step."""
    step: Callable[[argparse.Namespace], int] = args.action
    return step(args)


def take(args: argparse.Namespace) -> int:
    """Convert a file to ours."""
    with _opened(args) as (file, _):
        return _convert(args, file, recipe=None, imported=None if file.trained_here else file.sha256)


def give(args: argparse.Namespace) -> int:
    """Write a model for others."""
    with _opened(args) as (file, recipe):
        if file.kind != "segmentor":
            raise WeightsError(f"{file.path} is a backbone without the head that segments: give a trained segmentor")
        origin = file.meta.get("hrgrid")
        imported = origin.get("imported") if isinstance(origin, dict) else None
        if not file.trained_here:
            imported = imported or file.sha256
        return _convert(args, file, recipe=recipe, imported=imported)


def show(args: argparse.Namespace) -> int:
    """Print what a file is."""
    with _opened(args) as (file, _):
        meta = {str(name): _brief(value) for name, value in file.meta.items()}
        facts = {
            "path": str(file.path), "origin": file.origin, "kind": file.kind, "width": file.width,
            "num_classes": file.num_classes, "classes": list(file.classes), "entries": len(file.entries),
            "parameters": sum(t.numel() for n, t in file.entries.items() if n.endswith(("weight", "bias"))),
            "beside": list(file.beside), "sha256": file.sha256, "bytes": file.path.stat().st_size, "meta": meta,
        }  # fmt: skip
    if args.json:
        print(json.dumps(facts, indent=1))
        return 0
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:" + "".join(f"\n  {key}: {item}" for key, item in value.items()))
        else:
            print(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return 0


@contextmanager
def _opened(args: argparse.Namespace) -> Iterator[tuple[WeightsFile, str | None]]:
    """The file that a source means, read, and the recipe that it was trained with where it says so."""
    from hrnet.fetch import check_sha256
    from hrnet.training.state import STATE_FILE
    from hrnet.weightsfile import open_weights

    with found(args.source, args) as path:
        recipe = stored_recipe(path)
        file = path / STATE_FILE if path.is_dir() else path
        if args.sha256:
            check_sha256(file, args.sha256)
        yield open_weights(file), None if recipe is None else recipe.name


def _convert(args: argparse.Namespace, file: WeightsFile, *, recipe: str | None, imported: str | None) -> int:
    from hrnet.export import checkpoint_meta, export
    from hrnet.model.segmentor import build_model
    from hrnet.weights import put_weights

    if file.width is None:
        raise WeightsError(f"{file.path} holds none of the three HRNets (w18-small, w18, w48), by its shapes")
    classes, palette = _classes(file, recipe)
    model = build_model(file.width, file.num_classes or 1, seed=0)
    report = put_weights(model, file)
    meta = checkpoint_meta(model, classes=classes, palette=palette, recipe=recipe, imported=imported)
    backbone = report.kind == "backbone"
    export(model, args.to, meta, with_preprocessing=getattr(args, "with_preprocessing", False), backbone_only=backbone)
    if args.json:
        facts = {"source": str(file.path), "to": str(args.to), "kind": report.kind, "width": file.width}
        print(json.dumps({**facts, "loaded": report.summary().splitlines()}, indent=1))
    else:
        print(report.summary())
        print(f"written: {args.to} ({args.to.stat().st_size / 1e6:.1f} MB)")
    return 0


def _classes(file: WeightsFile, recipe: str | None) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and colours of the classes: from the file, else from the published data set of its recipe."""
    if len(file.classes) == file.num_classes:
        return file.classes, file.palette
    from hrnet.catalogue import recipes
    from hrnet.data.cards import cards

    for known in recipes():
        if known.name == recipe:
            return cards()[known.dataset].classes, cards()[known.dataset].palette
    return (), ()


def _brief(value: object) -> Any:
    """A value of `meta` as text that fits a line."""
    text = value if isinstance(value, str) else repr(value)
    lines = text.strip().splitlines()
    first = lines[0][:100] if lines else ""
    return first if len(lines) <= 1 and len(text) <= 100 else f"{first}... ({len(text)} characters)"


if __name__ == "__main__":
    sys.exit(main_of("weights", HELP, add_arguments, run))
