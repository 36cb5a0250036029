"""Peak memory of an evaluation over few and over many images, each in a process of its own: it must be the same.

    python -m tests.hrnet.evaluation_memory [--images 100 400] [--size 256x512]

Prints the peak resident memory of each process in MB, and what the images and class maps would take if they were kept.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def peak_mb(data: str, ms_flip: bool) -> float:
    """Evaluate a prepared data set in this process; returns its peak resident memory in MB."""
    import torch

    from hrnet.catalogue import recipe
    from hrnet.data.shards import open_dataset
    from hrnet.evaluation.run import evaluate
    from hrnet.model.segmentor import build_model

    torch.set_num_threads(1)
    own = recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024").with_overrides({"test_scale": "64x32", "tta_ratios": "1.0"})
    evaluate(build_model(own.width, own.num_classes, seed=0), open_dataset(data), own, ms_flip=ms_flip)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(images: list[int], size: tuple[int, int], *, ms_flip: bool = False) -> list[float]:
    """Peak memory in MB of an evaluation over each number of drawn images."""
    from hrnet.data.prepare.run import prepare
    from hrnet.data.synthetic import synthesise

    peaks = []
    for count in images:
        with tempfile.TemporaryDirectory(prefix="hrgrid-memory-") as folder:
            native, prepared = Path(folder, "native"), Path(folder, "prepared")
            synthesise("cityscapes", native, train=1, val=count, size=size, seed=1)
            prepare(native, prepared, dataset="cityscapes", partial=True)
            command = [sys.executable, "-W", "ignore", "-m", "tests.hrnet.evaluation_memory", "--data", str(prepared)]
            done = subprocess.run(
                [*command, "--ms-flip"] if ms_flip else command, cwd=ROOT, check=True, capture_output=True, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
            peaks.append(float(done.stdout))
    return peaks


def main() -> None:
    """Measure and print; with --data evaluate that and print the peak alone."""
    parser = argparse.ArgumentParser(prog="python -m tests.hrnet.evaluation_memory", description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--size", default="256x512", help="height x width of an image")
    parser.add_argument("--data")
    parser.add_argument("--ms-flip", action="store_true")
    args = parser.parse_args()
    if args.data:
        print(peak_mb(args.data, args.ms_flip))
        return
    height, width = map(int, args.size.split("x"))
    for count, peak in zip(args.images, measure(args.images, (height, width), ms_flip=args.ms_flip), strict=True):
        kept = count * height * width * 5 / 1e6
        print(f"{count} images of {args.size}: peak {peak:.0f} MB; images, labels and class maps kept: {kept:.0f} MB")


if __name__ == "__main__":
    main()
