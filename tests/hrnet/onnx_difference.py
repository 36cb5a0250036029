"""Largest difference between PyTorch and the exported ONNX on the CPU: `python -m tests.hrnet.onnx_difference`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from hrnet.catalogue import WIDTHS, Width
from hrnet.export import checkpoint_meta, export
from hrnet.model.segmentor import HRNetSegmentor, build_model
from tests.hrnet.fill import fill, inputs

SHAPES = ((1, 64, 64), (2, 65, 97), (1, 33, 47), (3, 96, 64), (1, 127, 129))
"""Images, height and width; even and odd, others than those traced."""


def filled(width: Width, classes: int) -> HRNetSegmentor:
    """A model with the deterministic weights of the reference numbers, whose logits have a deviation near 1."""
    model = build_model(width, classes, seed=0)
    fill(model)
    return model.eval()


def session(path: Path) -> Callable[[NDArray[np.generic]], list[NDArray[np.generic]]]:
    """A function that runs a graph on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: list(made.run(None, {"image": image}))


def largest_difference(
    model: HRNetSegmentor, path: Path, shapes: Sequence[tuple[int, int, int]]
) -> tuple[float, float]:
    """The largest absolute difference of logits, and the share of equal classes."""
    run, worst, equal = session(path), 0.0, []
    for n, height, width in shapes:
        x = inputs("onnx", (n, 3, height, width), torch.float32)
        with torch.inference_mode():
            ours = model(x).numpy()
        (theirs,) = run(x.numpy())
        assert ours.shape == theirs.shape
        worst = max(worst, float(np.abs(ours - theirs).max()))
        equal.append(float((ours.argmax(1) == theirs.argmax(1)).mean()))
    return worst, min(equal)


def main() -> int:
    """Print a line per width."""
    print(f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, CPU, float32, 19 classes")
    for width in WIDTHS:
        model = filled(width, 19)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export(model, path, checkpoint_meta(model))
            size = path.stat().st_size / 1e6
            for shape in (*SHAPES, (1, 512, 1024)):
                worst, equal = largest_difference(model, path, [shape])
                text = "x".join(map(str, shape))
                print(f"{width:10} {size:6.1f} MB  {text:>10}  difference {worst:.2e}  equal classes {equal:.4%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
