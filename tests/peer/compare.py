"""The same weights and inputs through hrgrid and through mmsegmentation 1.2.2: the largest difference of everything.

    make peer            the peer's environment, .peer (once)
    make peer-compare    this program

The peer runs in its own interpreter; weights travel as .pth files in both directions, arrays as .npz, in a temporary
folder. Weights and inputs are made by rule (tests/hrnet/fill.py): nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hrnet.catalogue import Recipe, recipe
from hrnet.errors import WeightsError
from hrnet.evaluation.confusion import ConfusionMatrix
from hrnet.evaluation.inference import network_input, network_logits, scaled_size, segment
from hrnet.model.backbone import resize
from hrnet.model.segmentor import HRNetSegmentor, build_model
from hrnet.training.loss import segmentation_loss
from hrnet.weights import load_weights, save_weights
from tests.hrnet import fill

PEER = Path(__file__).resolve().parents[2] / ".peer" / "bin" / "python"
SIDE = Path(__file__).with_name("peer_side.py")

CITYSCAPES = "fcn_{}_4xb2-40k_cityscapes-512x1024"
VOC = "fcn_{}_4xb4-20k_voc12aug-512x512"
CONTEXT = "fcn_{}_4xb4-40k_pascal-context-59-480x480"
PREFIXES = ("hr18s", "hr18", "hr48")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    case: str
    difference: float | None = None
    """Largest absolute difference."""
    relative: float | None = None
    """The same in units of the standard deviation of the peer's values, or of the peer's value."""
    equal: float | None = None
    """Share of pixels with the same class, in percent."""
    note: str = ""


Judge = Callable[[Arrays], list[Row]]


@dataclass(kw_only=True)
class Case:
    """One thing that both sides compute."""

    name: str
    op: str
    recipe: str
    judge: Judge
    """From what the peer computed to lines of the table."""
    arrays: Arrays
    more: dict[str, Any] = field(default_factory=dict)


class Bench:
    """Collects the cases, with their weights in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases: list[Case] = []
        self._models: dict[str, HRNetSegmentor] = {}

    def add(self, op: str, recipe_name: str, judge: Judge, arrays: Arrays, **more: Any) -> None:
        """Note a case; its name is its number."""
        name = f"case{len(self.cases):02d}"
        self.cases.append(Case(name=name, op=op, recipe=recipe_name, judge=judge, arrays=arrays, more=more))

    def model(self, own: Recipe) -> tuple[HRNetSegmentor, str]:
        """A recipe's network with weights by rule, and the file that hrgrid saved them to."""
        path = self.folder / f"{own.width}-{own.num_classes}.pth"
        if path.name not in self._models:
            model = build_model(own.width, own.num_classes, seed=0)
            fill.fill(model)
            fill.spread(model, fill.inputs("spread", (1, 3, 128, 128), torch.float32))
            save_weights(model, path)
            self._models[path.name] = model.eval()
        return self._models[path.name], str(path)

    def run(self) -> list[Row]:
        """Let the peer compute every case, then judge."""
        tasks = [{"name": c.name, "op": c.op, "recipe": c.recipe, **c.more} for c in self.cases]
        (self.folder / "tasks.json").write_text(json.dumps(tasks))
        for case in self.cases:
            np.savez(self.folder / f"{case.name}.npz", **case.arrays)  # type: ignore[arg-type]
        began = time.monotonic()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        command = [str(PEER), "-W", "ignore", str(SIDE), str(self.folder)]
        with (
            (self.folder / "peer.log").open("w") as log,
            subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=log) as process,
        ):
            assert process.stdout is not None
            done = sum(1 for line in process.stdout if _progress(line, len(self.cases)))
        if process.returncode or done < len(self.cases):
            raise SystemExit("the peer failed:\n" + (self.folder / "peer.log").read_text()[-3000:])
        print(f"the peer computed {done} cases in {time.monotonic() - began:.0f} s", file=sys.stderr)
        rows = []
        for case in self.cases:
            with np.load(self.folder / f"{case.name}.peer.npz") as theirs:
                rows += case.judge(dict(theirs))
        return rows


def _progress(line: str, total: int) -> bool:
    known = line.startswith("case")
    if known:
        print(f"  {line.strip()} of {total - 1}", file=sys.stderr)
    return known


def _difference(what: str, case: str, ours: torch.Tensor, theirs: NDArray[Any], **more: Any) -> Row:
    largest = float(np.abs(ours.double().numpy() - theirs).max())
    return Row(what=what, case=case, difference=largest, relative=largest / float(theirs.std()), **more)


def add_logits(bench: Bench) -> None:
    """Every width on odd sizes, at a quarter and at the full size."""
    for prefix in PREFIXES:
        own = recipe(CITYSCAPES.format(prefix))
        model, weights = bench.model(own)
        for height, width in ((97, 131), (161, 193), (128, 160)):
            x = fill.inputs(f"peer{height}x{width}", (1, 3, height, width), torch.float32)

            def judge(
                theirs: Arrays, x: torch.Tensor = x, model: HRNetSegmentor = model, own: Recipe = own
            ) -> list[Row]:
                with torch.inference_mode():
                    quarter = model(x)
                    full = resize(quarter, x.shape[-2:])
                case = f"{own.width} {x.shape[2]}x{x.shape[3]}"
                equal = float((full.argmax(1).numpy() == theirs["full"].argmax(1)).mean() * 100)
                return [
                    _difference("logits, 1/4 size", case, quarter, theirs["quarter"]),
                    _difference("logits, full size", case, full, theirs["full"], equal=equal),
                ]

            bench.add("logits", own.name, judge, {"x": x.numpy()}, weights=weights)


def add_windows(bench: Bench) -> None:
    """Logits by windows that do not fit evenly."""
    for height, width in ((130, 170), (80, 200), (97, 96)):
        own = recipe(CONTEXT.format("hr18s")).with_overrides({"slide_crop": "96x96", "slide_stride": "64x64"})
        model, weights = bench.model(own)
        x = fill.inputs(f"slide{height}x{width}", (1, 3, height, width), torch.float32)

        def judge(theirs: Arrays, x: torch.Tensor = x, model: HRNetSegmentor = model, own: Recipe = own) -> list[Row]:
            with torch.inference_mode():
                full = network_logits(model, x, own)
            case = f"{own.width} {x.shape[2]}x{x.shape[3]}, windows 96 by 64"
            equal = float((full.argmax(1).numpy() == theirs["full"].argmax(1)).mean() * 100)
            return [_difference("logits by windows", case, full, theirs["full"], equal=equal)]

        bench.add("windows", own.name, judge, {"x": x.numpy()}, weights=weights, crop=[96, 96], stride=[64, 64])


def add_predictions(bench: Bench) -> None:
    """Images through the whole test: resize, network or windows, resize, arg-max."""
    published = [(VOC, "hr18s", (375, 500)), (CONTEXT, "hr18s", (375, 500)), (CONTEXT, "hr48", (333, 500))]
    for pattern, prefix, size in published:
        _add_prediction(bench, recipe(pattern.format(prefix)), size)
    for prefix in PREFIXES:
        small = recipe(CITYSCAPES.format(prefix)).with_overrides({"test_scale": "224x112"})
        _add_prediction(bench, small, (131, 193))


def _add_prediction(bench: Bench, own: Recipe, size: tuple[int, int]) -> None:
    model, weights = bench.model(own)
    image = fill.image(f"peer{size[0]}x{size[1]}", *size)

    def judge(theirs: Arrays) -> list[Row]:
        seen = scaled_size(*size, own.test_scale)
        with torch.inference_mode():
            logits = resize(network_logits(model, network_input(image, seen, torch.device("cpu")), own), size)
        classes = segment(model, image, own)
        equal = float((classes == theirs["classes"]).mean() * 100)
        case = f"{own.width} {own.dataset} {size[0]}x{size[1]} seen as {seen[0]}x{seen[1]}"
        note = f"{len(np.unique(theirs['classes']))} classes"
        return [_difference(f"prediction, {own.test_mode}", case, logits, theirs["full"], equal=equal, note=note)]

    bench.add("predict", own.name, judge, {"image": image}, weights=weights, scale=list(own.test_scale))


def add_ms_flip(bench: Bench) -> None:
    """Six scales by two directions, by the sizes of both release lines."""
    windows = {"slide_crop": "96x96", "slide_stride": "64x64", "test_scale": "160x160"}
    cases: list[tuple[str, str, dict[str, str], tuple[int, int]]] = [
        (CITYSCAPES, "hr18s", {"test_scale": "192x96"}, (90, 121)),
        (VOC, "hr18", {"test_scale": "256x64"}, (75, 100)),
        (CITYSCAPES, "hr48", {"test_scale": "128x64"}, (64, 85)),
        (CONTEXT, "hr18s", windows, (113, 150)),
    ]
    for pattern, prefix, changes, size in cases:
        for conventions in ("1.x", "0.x"):
            own = recipe(pattern.format(prefix)).with_overrides({**changes, "conventions": conventions})
            _add_ms_flip(bench, own, size)


def _add_ms_flip(bench: Bench, own: Recipe, size: tuple[int, int]) -> None:
    model, weights = bench.model(own)
    image = fill.image(f"peer{size[0]}x{size[1]}", *size)
    more: dict[str, Any] = {}
    if own.conventions == "0.x":
        more["scales"] = [[int(side * ratio) for side in own.test_scale] for ratio in own.tta_ratios]
    if own.test_mode == "slide":
        more |= {"crop": list(own.slide_crop or ()), "stride": list(own.slide_stride or ())}

    def judge(theirs: Arrays) -> list[Row]:
        classes = segment(model, image, own, ms_flip=True)
        equal = float((classes == theirs["classes"]).mean() * 100)
        case = f"{own.width} {own.dataset} {size[0]}x{size[1]}, sizes of {own.conventions}"
        note = f"{len(np.unique(theirs['classes']))} classes"
        return [Row(what=f"ms+flip, {own.test_mode}", case=case, equal=equal, note=note)]

    bench.add("ms_flip", own.name, judge, {"image": image}, weights=weights, **more)


def add_exchange(bench: Bench) -> None:
    """A checkpoint that the peer's own runner wrote after a training step, into hrgrid."""
    for seed, prefix in enumerate(PREFIXES):
        own = recipe(CITYSCAPES.format(prefix))
        x = fill.inputs("exchange", (1, 3, 97, 131), torch.float32)
        folder = bench.folder / f"runner-{prefix}"

        def judge(theirs: Arrays, own: Recipe = own, folder: Path = folder, x: torch.Tensor = x) -> list[Row]:
            model = build_model(own.width, own.num_classes, seed=1)
            try:
                report = load_weights(model, folder / "iter_1.pth")
            except WeightsError as error:
                return [Row(what="its runner's file, ours", case=own.width, note=str(error))]
            with torch.inference_mode():
                quarter = model.eval()(x)
            note = f"{len(report.loaded)} loaded, {len(report.missing)} missing; file: {', '.join(theirs['entries'])}"
            return [_difference("its runner's file, ours", own.width, quarter, theirs["quarter"], note=note)]

        bench.add("train_and_save", own.name, judge, {"x": x.numpy()}, seed=seed, folder=str(folder))


def add_loss(bench: Bench) -> None:
    """Loss, accuracy and gradient of a training step; labels with ignored pixels."""
    for prefix in PREFIXES:
        own = recipe(CITYSCAPES.format(prefix))
        _, weights = bench.model(own)
        x, labels = fill.inputs("train0", (2, 3, 128, 160), torch.float32), fill.labels("train0", (2, 128, 160), 19)

        def judge(
            theirs: Arrays, x: torch.Tensor = x, labels: torch.Tensor = labels, own: Recipe = own, path: str = weights
        ) -> list[Row]:
            model = build_model(own.width, own.num_classes, seed=0)
            load_weights(model, path)
            loss, correct, valid = segmentation_loss(model.train()(x), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [p.grad.double().norm() for p in model.parameters() if p.grad is not None]
            ours = {
                "loss": float(loss.detach()),
                "accuracy": 100 * float(correct) / float(valid),
                "gradient": float(torch.stack(gradients).norm()),
            }
            rows = []
            for name, value in ours.items():
                expected = float(theirs[name].item())
                gap = abs(value - expected)
                note = f"{value:.6g}"
                rows.append(Row(what=f"training step, {name}", case=own.width, difference=gap,
                                relative=gap / abs(expected), note=note))  # fmt: skip
            return rows

        bench.add("loss", own.name, judge, {"x": x.numpy(), "labels": labels.numpy()}, weights=weights)


def add_metric(bench: Bench) -> None:
    """Scores of the same class maps; labels with ignored pixels, and classes that do not occur."""
    for count in (19, 150):
        rng = np.random.default_rng(count)
        label = rng.integers(0, count - 2, (3, 211, 307)).astype(np.uint8)
        pred = np.where(rng.random(label.shape) < 0.7, label, rng.integers(0, count - 1, label.shape)).astype(np.uint8)
        label[rng.random(label.shape) < 0.1] = 255

        def judge(
            theirs: Arrays, pred: NDArray[Any] = pred, label: NDArray[Any] = label, count: int = count
        ) -> list[Row]:
            matrix = ConfusionMatrix(count)
            matrix.update(pred, label)
            scores = matrix.scores()
            rounded = np.round([scores.mIoU, scores.mAcc, scores.aAcc], 2)
            per_class = {"IoU": (scores.iou, theirs["iou"]), "accuracy": (scores.acc, theirs["acc"])}
            rows = []
            for name, (ours, expected) in per_class.items():
                if not np.array_equal(np.isnan(ours), np.isnan(expected)):
                    raise SystemExit(f"classes without a score differ: {ours} and {expected}")
                gap = float(np.nanmax(np.abs(ours - expected)))
                rows.append(Row(what=f"metric, {name} per class", case=f"{count} classes", difference=gap))
            gap = float(np.abs(rounded - theirs["summary"]).max())
            note = f"mIoU {rounded[0]:.2f}"
            rows.append(Row(what="metric, mIoU mAcc aAcc", case=f"{count} classes", difference=gap, note=note))
            return rows

        arrays = {"pred": pred, "label": label}
        bench.add("metric", CITYSCAPES.format("hr18s"), judge, arrays, classes=count)


PARTS: dict[str, Callable[[Bench], None]] = {
    "logits": add_logits,
    "windows": add_windows,
    "predictions": add_predictions,
    "ms-flip": add_ms_flip,
    "exchange": add_exchange,
    "loss": add_loss,
    "metric": add_metric,
}


def compare(parts: list[str]) -> list[Row]:
    """Compare the named parts; raises SystemExit if the peer is missing or fails."""
    if not PEER.exists():
        raise SystemExit(f"{PEER} is missing: make it with `make peer`")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="hrgrid-peer-") as folder:
        bench = Bench(Path(folder))
        for part in parts:
            PARTS[part](bench)
        return bench.run()


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.peer.compare", description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    rows = compare(parser.parse_args().part or list(PARTS))
    print(f"{'what':30}{'case':58}{'largest difference':>19}{'in deviations':>15}{'equal pixels':>15}  note")
    for row in rows:
        numbers = f"{_cell(row.difference, '.2e'):>19}{_cell(row.relative, '.2e'):>15}"
        share = "-" if row.equal is None else f"{row.equal:.4f} %"
        print(f"{row.what:30}{row.case:58}{numbers}{share:>15}  {row.note}".rstrip())


if __name__ == "__main__":
    main()
