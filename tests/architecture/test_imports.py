"""The borders between the packages, and what an import may cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BLOCKER = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)
        return None

sys.meta_path.insert(0, Blocker())
"""


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_contracts_of_the_import_linter_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_hrnet_needs_nothing_of_the_platform() -> None:
    blocked = ("ray", "mlflow", "boto3", "orchestrator", "jobs")
    walk = (
        "import hrnet, importlib, pkgutil\n"
        # The suite's other side runs in the environment of mmsegmentation.
        "names = {m.name for m in pkgutil.walk_packages(hrnet.__path__, 'hrnet.')} - {'hrnet.suite.peer_side'}\n"
        "for name in names: importlib.import_module(name)\n"
        "hrnet.recipes(), hrnet.build_model, hrnet.load_weights, hrnet.predict, hrnet.train, hrnet.evaluate\n"
        "print(len(names))"
    )
    done = _python(BLOCKER.format(blocked=blocked) + walk)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_the_blocker_blocks() -> None:
    done = _python(BLOCKER.format(blocked=("ray",)) + "import ray")
    assert done.returncode == 1
    assert "blocked: ray" in done.stderr


def test_the_platform_needs_nothing_of_segmentation() -> None:
    pure = "grid plan packing ledger report checkpoints identity settings storage tracking scheduler trainer cluster"
    code = "import importlib\n" + "\n".join(f"importlib.import_module('orchestrator.{name}')" for name in pure.split())
    done = _python(BLOCKER.format(blocked=("hrnet", "jobs", "torch", "cv2")) + code)
    assert done.returncode == 0, done.stderr


HEAVY = ("torch", "numpy", "cv2", "pyarrow", "ray", "mlflow", "boto3", "pandas", "jinja2")


@pytest.mark.parametrize("argv", [["--help"], ["recipes"], ["recipes", "--json"], ["launch", "--help"], ["nonsense"]])
def test_quick_commands_import_nothing_heavy(argv: list[str]) -> None:
    code = (
        f"import sys\nfrom jobs.cli import main\n"
        f"try: main({argv!r})\nexcept SystemExit: pass\n"
        f"print('loaded:', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    done = _python(code)
    assert done.stdout.splitlines()[-1] == "loaded: []", done.stdout[-300:] + done.stderr
