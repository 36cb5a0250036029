"""`hrgrid train`: the launch of one cell."""

from __future__ import annotations

import argparse
import sys

from jobs import launch
from jobs._command import main_of
from jobs._options import add_launch, add_models, add_yes

HELP = "Train and evaluate one cell; run again, it continues. The same as a launch of this cell alone."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a launch, for one recipe."""
    parser.add_argument("recipe", metavar="NAME", help="recipe (see hrgrid recipes)")
    add_launch(parser)
    add_models(parser)
    add_yes(parser)


def run(args: argparse.Namespace) -> int:
    """Launch the cell."""
    # A name, not a pattern: brackets and stars in it would silently mean more than one cell.
    args.names, args.dataset, args.width, args.schedule = [args.recipe], [], [], []
    args.smoke = False
    return launch.run(args)


if __name__ == "__main__":
    sys.exit(main_of("train", HELP, add_arguments, run))
