"""Parts of the site that are made of the code: commands, recipes, the Python interface, the notebook, other pages."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

OUTSIDE: Mapping[str, str] = {
    "../README.md": "index.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changes.md",
}
"""Pages outside this folder that others link to, and the pages of the site that stand for them."""

_MARK = re.compile(r"<!-- generated: ([\w-]+) -->")
_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_ENTRY = re.compile(r"^- \[([^\]]+)\]\(([\w-]+)\.md\)", re.MULTILINE)


def filled(text: str) -> str:
    """Return a page with every mark replaced by what it stands for; raises KeyError for an unknown mark."""
    return _MARK.sub(lambda mark: PARTS[mark[1]](), text)


def within_site(text: str) -> str:
    """Return a page whose links to the pages above this folder lead to those that stand for them in the site."""
    for path, page in OUTSIDE.items():
        text = text.replace(f"]({path}", f"]({page}")
    return text


def sidebar(index: str) -> str:
    """Return hidden tables of contents, one for each section of the index that lists pages."""
    parts = []
    for title, body in _SECTION.findall(index):
        entries = _ENTRY.findall(body)
        if entries:
            lines = "\n".join(f"{name} <{page}>" for name, page in entries)
            parts.append(f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{lines}\n```\n")
    return "".join(parts)


def commands() -> str:
    """Every command with its options, from the parsers."""
    from jobs._command import CommandParser
    from jobs.cli import COMMANDS

    parts = []
    for name, (module_name, line) in COMMANDS.items():
        module = importlib.import_module(module_name)
        parser = CommandParser(f"hrgrid {name}", module.HELP)
        module.add_arguments(parser)
        parts.append(f"## hrgrid {name}\n\n{_plain(line[0].upper() + line[1:])}.\n\n{_described(parser)}")
        for below in _steps(parser):
            parts.append(f"### {below.prog}\n\n{_described(below)}")
    return "\n".join(parts)


def _steps(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _described(parser: argparse.ArgumentParser) -> str:
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    wrapped = textwrap.fill(usage, 88, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    parts = [f"{_plain(parser.description or '')}\n", f"```text\n{wrapped}\n```\n"]
    for group in parser._action_groups:
        rows = [
            (_called(action), _meaning(parser, action))
            for action in group._group_actions
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)
        ]
        rows = [row for row in rows if row[0] != "`-h, --help`"]
        if rows:
            own = group.title not in ("positional arguments", "options", None)
            heading = [f"{_plain((group.title or '').capitalize())}:\n"] if own else []
            parts += [*heading, table(("option", "meaning"), rows)]
    if parser.epilog:
        parts.append(f"{_plain(parser.epilog)}\n")
    return "\n".join(parts)


def _called(action: argparse.Action) -> str:
    value = action.metavar or (action.choices and "{" + ",".join(map(str, action.choices)) + "}")
    if not action.option_strings:
        return f"`{value or action.dest}`"
    takes = action.nargs != 0
    names = ", ".join(action.option_strings)
    return f"`{names} {value or action.dest.upper()}`" if takes else f"`{names}`"


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = _plain(parser._get_formatter()._expand_help(action)) if action.help else ""
    silent = action.default in (None, False, argparse.SUPPRESS) or action.default in ([], (), "")
    if silent or "default" in text:
        return text
    return f"{text} (default `{action.default}`)".strip()


def _plain(text: str) -> str:
    """Text of a command's help as Markdown that says the same."""
    return re.sub(r"([*<|])", r"\\\1", " ".join(text.split()))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a column whose heading ends in `>` is set to the right."""
    right = [name.endswith(">") for name in columns]
    lines = [
        "| " + " | ".join(name.removesuffix(">") for name in columns) + " |",
        "|" + "|".join("---:" if each else "---" for each in right) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def recipes() -> str:
    """The 45 recipes by data set, with their published numbers."""
    from hrnet import catalogue
    from hrnet.published import published
    from hrnet.workload import published_links, table_section

    columns = ("recipe", "width", "schedule", "crop", "batch>", "mIoU>", "ms+flip>", "Mem (GB)>", "fps>", "published")
    parts = []
    for dataset in catalogue.DATASETS:
        rows = []
        for recipe in (each for each in catalogue.recipes() if each.dataset == dataset):
            row = published(recipe.name)
            numbers = (None,) * 4 if row is None else (row.miou, row.miou_ms_flip, row.mem_gb, row.fps)
            links = ", ".join(f"[{what}]({address})" for what, address in published_links(recipe.name).items())
            rows.append((
                f"`{recipe.name}`", recipe.width, recipe.schedule, _size(recipe.crop), str(recipe.batch_size),
                *("" if number is None else f"{number:g}" for number in numbers), links,
            ))  # fmt: skip
        parts.append(f"### {table_section(dataset)} (`{dataset}`)\n\n{table(columns, rows)}")
    return "\n".join(parts)


def settings() -> str:
    """Every field of a recipe, with its meaning, and the value that all recipes share where there is one."""
    from hrnet import catalogue

    meanings = _field_sentences(catalogue.Recipe)
    rows = []
    for field in dataclasses.fields(catalogue.Recipe):
        values = {str(getattr(recipe, field.name)) for recipe in catalogue.recipes()}
        shared = f"`{next(iter(values))}`" if len(values) == 1 else "by recipe"
        free = "no" if field.name in catalogue.FREE_FIELDS else "yes"
        rows.append((f"`{field.name}`", _plain(meanings[field.name]), shared, free))
    return table(("setting", "meaning", "value", "part of the key"), rows)


def _field_sentences(of: type) -> dict[str, str]:
    """The sentence that stands below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(of))).body[0]
    assert isinstance(body, ast.ClassDef)
    sentences, field = {}, ""
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            field = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and field:
            sentences[field], field = str(node.value.value), ""
    return sentences


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def interface() -> str:
    """What `import hrnet` offers: signatures and docstrings."""
    import hrnet

    parts = []
    for name in hrnet.__all__:
        what = getattr(hrnet, name)
        text = inspect.cleandoc(what.__doc__ or "")
        parts.append(f"### hrnet.{name}\n\n```python\n{_signature(name, what)}\n```\n\n{_docstring(text)}\n")
        if inspect.isclass(what) and dataclasses.is_dataclass(what):
            meanings = _field_sentences(what)
            rows = [(f"`{f.name}`", f"`{f.type}`".replace("|", "\\|"), _plain(meanings.get(f.name, "")))
                    for f in dataclasses.fields(what)]  # fmt: skip
            if name != "Recipe":
                parts.append(table(("field", "type", "meaning"), rows))
            else:
                parts.append("Its fields are [the settings of a recipe](recipes.md#settings).\n")
    return "\n".join(parts)


def _signature(name: str, what: Callable[..., object] | type) -> str:
    if inspect.isclass(what):
        base = what.__mro__[1].__name__
        return f"class hrnet.{name}" + ("" if base == "object" else f"({base})")
    source = inspect.getsource(inspect.unwrap(what))
    node = ast.parse(textwrap.dedent(source)).body[0]
    assert isinstance(node, ast.FunctionDef)
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"hrnet.{name}({ast.unparse(node.args)}){returned}"
    return textwrap.fill(line, 88, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _docstring(text: str) -> str:
    """A docstring as Markdown: its sections (Args, Returns, Raises) become lists."""
    lines = []
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Yields):", line):
            lines += [f"{line}\n"]
        elif re.match(r"    \w[\w.]*: ", line):
            name, _, rest = line.strip().partition(": ")
            lines.append(f"- `{name}`: {rest}")
        else:
            lines.append(re.sub(r"([*<])", r"\\\1", line))
    return "\n".join(lines)


def notebook() -> str:
    """The cells of explore.ipynb."""
    cells = json.loads((ROOT / "docs" / "explore.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    # The page has a heading of its own.
    return "\n\n".join(parts).removeprefix(parts[0].splitlines()[0])


def _page(name: str) -> str:
    """A page of the repository's root, its links as they are from here; without its heading, which the site's has."""
    text = (ROOT / name).read_text(encoding="ascii").replace("](docs/", "](")
    return text.partition("\n")[2]


PARTS: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "recipes": recipes,
    "settings": settings,
    "interface": interface,
    "notebook": notebook,
    "contributing": functools.partial(_page, "CONTRIBUTING.md"),
    "changes": functools.partial(_page, "CHANGELOG.md"),
}
"""Name in a page's mark to what makes the text that takes its place."""
