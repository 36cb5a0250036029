"""The `hrgrid` command: finds the module of a command and runs it. Nothing is imported before it is needed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from jobs._command import MISUSED, complain, main_of

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("jobs.demo", "a small grid from nothing: synthetic data, six trainings, report"),
    "recipes": ("jobs.recipes", "list the published recipes, or print one with every setting"),
    "data": ("jobs.data", "make synthetic data, prepare a data set, check it, draw it"),
    "plan": ("jobs.plan", "say what a launch would run, resume and skip, and for how long"),
    "launch": ("jobs.launch", "train and evaluate a grid of cells; run again, it continues"),
    "train": ("jobs.train", "train and evaluate one cell"),
    "evaluate": ("jobs.evaluate", "score a checkpoint on a data set's validation split"),
    "benchmark": ("jobs.benchmark", "measure memory and speed as the published table did"),
    "predict": ("jobs.predict", "segment images with a checkpoint"),
    "weights": ("jobs.weights", "convert weights files: OpenMMLab, HRNet, timm in; OpenMMLab, ONNX out"),
    "status": ("jobs.status", "say where every cell of a benchmark is"),
    "reconcile": ("jobs.reconcile", "repair what killed launches left behind in ledger and MLflow"),
    "report": ("jobs.report", "write the leaderboard beside the published numbers"),
    "ui": ("jobs.ui", "open the MLflow UI on the right store"),
    "serve": ("jobs.serve", "start the MLflow tracking server that all machines record to"),
    "doctor": ("jobs.doctor", "look over the cluster, or this machine: one line and one fix per finding"),
    "drill": ("jobs.drill", "kill and take away what can fail, and prove that results stay the same"),
    "submit": ("jobs.submit", "run a command on a Ray cluster, as a job"),
    "jobs": ("jobs.list_jobs", "list the jobs of a cluster"),
    "logs": ("jobs.logs", "print or follow the output of a job"),
    "stop": ("jobs.stop", "stop a job; a later launch continues its work"),
}
"""Command to its module and its one line of help."""

_USAGE = "usage: hrgrid COMMAND [OPTIONS]"
_EPILOG = """\
hrgrid COMMAND --help explains one command. Start with: hrgrid demo
Exit codes: 0 done, 1 not every cell is finished or something is wrong, 2 an input to mend, 130 interrupted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else MISUSED
    if words[0] in ("-V", "--version"):
        print(_version())
        return 0
    name = words[0]
    if name not in COMMANDS:
        from hrnet.errors import suggestion

        complain(f"no command {name!r}{suggestion(name, COMMANDS)}")
        return MISUSED
    module = importlib.import_module(COMMANDS[name][0])
    return main_of(name, module.HELP, module.add_arguments, module.run, words[1:])


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, (_, text) in COMMANDS.items()]
    title = "The published HRNet segmentation benchmark as a grid on Ray, recorded in MLflow."
    return "\n".join([_USAGE, "", title, "", *lines, "", _EPILOG])


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"hrgrid {version('hrgrid')}"
    except PackageNotFoundError:
        return "hrgrid (run from its source tree)"


if __name__ == "__main__":
    sys.exit(main())
