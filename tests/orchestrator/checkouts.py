"""A small git repository that looks like this one."""

from __future__ import annotations

import subprocess
from pathlib import Path

FILES = {
    "hrnet/model.py": "x = 1\n",
    "hrnet/published.csv": "a,b\n",
    "orchestrator/plan.py": "y = 1\n",
    "jobs/cli.py": "z = 1\n",
    "pyproject.toml": "[project]\n",
    "requirements.lock": "ray==2\n",
    "README.md": "read me\n",
    ".gitignore": "*.pyc\n.env\n",
}


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def checkout(folder: Path) -> Path:
    """Make a repository with one commit on the branch `main`."""
    folder.mkdir(exist_ok=True)
    write(folder, FILES)
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "one")
    return folder
