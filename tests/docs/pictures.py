"""The pictures of docs/quickstart.md, made anew: `python -m tests.docs.pictures OUT`.

Runs the demo on a terminal in a checkout of its own, and takes pictures of that, of its report and of its runs in the
MLflow UI. Everything on them is drawn, no image of a data set. Takes about ten minutes on two cores; `--folder` keeps
the checkout, and takes the pictures of a demo that has run there before.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.docs.blocks import ROOT
from tests.docs.newcomer import REPORT
from tests.docs.stage import install
from tests.integration import children
from tests.integration.browser import Visit, visit
from tests.jobs.terminal import on_terminal

COLUMNS: Final = 132
CONTROL: Final = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)")
REDRAWN: Final = re.compile(r"\x1b\[2K(?:\x1b\[1A\x1b\[2K)+")
"""What a live table writes before it is drawn again."""
MOMENT: Final = 0.6
"""The picture of the live table is of this share of its frames."""
WINDOW: Final = {"width": 1500, "height": 950}


def main() -> int:
    """Run the demo and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, help="where the demo runs, or has run")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hrgrid-pictures-", ignore_cleanup_errors=True) as name:
        checkout = Path(args.folder or name).resolve() / "hrgrid"
        stream = _demo(checkout)
        frames = [match.start() for match in REDRAWN.finditer(stream)]
        live = screen(stream[: frames[int(MOMENT * len(frames))]])
        begin = max(place for place, line in enumerate(live) if "$ hrgrid launch" in line)
        _draw(live[begin:], "hrgrid demo", out / "terminal-launch.png")
        whole = screen(stream)
        texts = [CONTROL.sub("", line) for line in whole]
        table = max(place for place, text in enumerate(texts) if re.match("cell +mIoU", text))
        # What comes below are places on this machine.
        places = next(place for place, text in enumerate(texts) if text.startswith("report: "))
        _draw(whole[table:places], "hrgrid demo", out / "leaderboard.png")
        with visit((checkout / REPORT).as_uri(), size=WINDOW) as seen:
            _keep(seen, out / "report.png")
        with _pages(checkout) as address, visit(address, size=WINDOW) as seen:
            run = seen.page.get_by_role("link", name=re.compile("^fcn_hr18_"))
            run.first.wait_for()
            _keep(seen, out / "mlflow-experiment.png")
            run.first.click()
            seen.page.get_by_text("About this run").wait_for()
            seen.page.wait_for_timeout(1500)
            _keep(seen, out / "mlflow-run.png")
    print(f"pictures in {out}")
    return 0


def _demo(checkout: Path) -> str:
    """What the demo writes to a terminal; it runs once in a checkout."""
    record = checkout.parent / "demo.ansi"
    if not record.exists():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
        install(checkout)
        with contextlib.chdir(checkout):
            shown = on_terminal(["-m", "jobs.cli", "demo"], columns=COLUMNS, height=40, raw=True)
            record.write_bytes(shown.encode())
    return record.read_bytes().decode()  # as text its carriage returns would be new lines


def screen(stream: str) -> list[str]:
    """Return the lines, with their colours, that a terminal of endless height shows after `stream`."""
    lines, row, returned = [""], 0, False
    for part in CONTROL.split(stream):
        if part == "\n":
            row, returned = row + 1, False
            lines += [""] * (row == len(lines))
        elif part == "\r":
            returned = True
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part and (not part.startswith("\x1b") or part.endswith("m")):
            lines[row] = part if returned else lines[row] + part
            returned = False
    return lines


def _draw(lines: list[str], title: str, target: Path) -> None:
    """Save lines of a terminal as a picture of its window."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in lines:
        text = Text.from_ansi(line)
        for part in text.divide(range(COLUMNS, len(text), COLUMNS)):
            console.print(part, soft_wrap=True)
    with visit("about:blank", size=WINDOW) as seen:
        seen.page.set_content(console.export_svg(title=title))
        seen.page.locator("svg").first.screenshot(path=target, omit_background=True)


def _keep(seen: Visit, target: Path) -> None:
    shutil.copy(seen.shoot(target.stem), target)


@contextlib.contextmanager
def _pages(checkout: Path) -> Iterator[Any]:
    """The address of the demo's experiment in an MLflow UI over its store."""
    words = [sys.executable, "-m", "jobs.cli", "ui", "--no-browser"]
    process = subprocess.Popen(words, cwd=checkout, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        yield next(found[1] for line in process.stdout if (found := re.search(r"MLflow UI: (\S+)", line)))
    finally:
        children.end(process)


if __name__ == "__main__":
    sys.exit(main())
