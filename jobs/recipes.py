"""`hrgrid recipes`: the recipes of the benchmark, or one with every setting."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from hrnet.catalogue import Recipe, select
from hrnet.workload import catalogue, custom_cards, published_device, published_links, published_metrics, table_columns
from jobs._command import main_of
from jobs._options import add_filters, overrides_for
from orchestrator.settings import absolute_uri

HELP = "List the recipes of the benchmark, or print one with every setting and its row of the published table."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Filters, overrides and the form of the output."""
    add_filters(parser)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--data", type=absolute_uri, metavar="URI", help="list custom data sets prepared there, too")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON with every setting")
    form.add_argument("--yaml", action="store_true", help="print YAML with every setting")


def run(args: argparse.Namespace) -> int:
    """Print the chosen recipes."""
    chosen = select(catalogue(custom_cards(args.data)), args.dataset, args.width, args.schedule, args.names)
    resolved = [recipe.with_overrides(overrides_for(recipe.name, args.overrides)) for recipe in chosen]
    single = len(args.names) == 1 and len(resolved) == 1
    if args.json:
        facts = [_facts(recipe) for recipe in resolved]
        print(json.dumps(facts[0] if single else facts, indent=1))
    elif args.yaml or single:
        import yaml

        for recipe in resolved:
            print(yaml.safe_dump(_facts(recipe), sort_keys=False, default_flow_style=None, width=119), end="")
            if recipe is not resolved[-1]:
                print("---")
    else:
        _print_table(resolved)
    return 0


def _facts(recipe: Recipe) -> dict[str, Any]:
    settings = json.loads(json.dumps(recipe.to_dict()))
    table = {
        **table_columns(recipe.width, recipe.schedule, recipe.crop),
        "Device": published_device(recipe.name) or None,
        **published_links(recipe.name),
    }
    return {**settings, "published": published_metrics(recipe.name), "table": table}


def _print_table(recipes: Sequence[Recipe]) -> None:
    from jobs._show import print_table

    columns = ("recipe", "dataset", "width", "schedule", "crop", "batch", "published mIoU", "ms+flip")
    rows = []
    for recipe in recipes:
        numbers = published_metrics(recipe.name) or {}
        scores = [f"{numbers[name]:.2f}" if name in numbers else "-" for name in ("val/mIoU", "val/mIoU_ms_flip")]
        crop = f"{recipe.crop[0]}x{recipe.crop[1]}"
        rows.append(
            (recipe.name, recipe.dataset, recipe.width, recipe.schedule, crop, str(recipe.batch_size), *scores)
        )
    print_table(columns, rows, right=frozenset({"batch", "published mIoU", "ms+flip"}))
    print(f"{len(rows)} recipes; hrgrid recipes NAME shows every setting of one")


if __name__ == "__main__":
    sys.exit(main_of("recipes", HELP, add_arguments, run))
