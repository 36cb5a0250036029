"""The code that travels to a cluster: its files, and what git knows of them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from orchestrator.errors import UsageError

__all__ = ["LIMIT_BYTES", "PACKAGES", "PATCH_BYTES", "Checkout"]

PACKAGES: Final = ("hrnet", "orchestrator", "jobs")
TRAVELS: Final = (*PACKAGES, "pyproject.toml")
"""What a job is given; nothing else of a working folder leaves it."""
LOCK: Final = "requirements.lock"
SUFFIXES: Final = frozenset({".py", ".typed", ".csv", ".json", ".jinja", ".css", ".js", ".toml"})
"""Of the files that travel where no git says which belong to the code."""
LIMIT_BYTES: Final = 10_000_000
"""Largest package: the head of a cluster keeps every one of them in memory."""
PATCH_BYTES: Final = 1_000_000
"""A longer difference to the commit is cut: it is kept with every run."""
_GIT_SECONDS: Final = 20.0


class Checkout:
    """A folder with the three packages: a git checkout, or a copy without git."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        # A package that was installed below somebody else's repository is none of its files.
        self.tracked = tuple(self._names("ls-files", "-z", "--", *TRAVELS, LOCK))

    @property
    def commit(self) -> str | None:
        """The commit that is checked out, None without git."""
        return self._fact("rev-parse", "HEAD")

    @property
    def branch(self) -> str | None:
        """The branch, None without git or between branches."""
        name = self._fact("rev-parse", "--abbrev-ref", "HEAD")
        return None if name == "HEAD" else name

    @property
    def lock(self) -> str | None:
        """SHA-256 of the file with the locked versions, None without it."""
        path = self.root / LOCK
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

    def patch(self) -> str:
        """Return what `git apply` needs to make the tracked code of this folder out of the commit; cut at PATCH_BYTES.

        Files that git does not track are never in it: nobody has said that they may be shown.
        """
        if not self.tracked:
            return ""
        content = self._git("diff", "HEAD", "--no-ext-diff", "--no-color", "--binary", "--", *TRAVELS, LOCK) or b""
        text = content[:PATCH_BYTES].decode(errors="replace")
        return text if len(content) <= PATCH_BYTES else f"{text}\n(cut here, of {len(content)} bytes)\n"

    def untracked(self) -> list[str]:
        """Names of the Python files of the packages that git neither tracks nor ignores; they travel, too."""
        if not self.tracked:
            return []
        return sorted(self._names("ls-files", "-z", "--others", "--exclude-standard", "--", *_below("*.py")))

    def files(self) -> list[str]:
        """Names of the files that travel: those that git tracks and new Python files; without git by their suffix.

        Raises UsageError where a package is missing.
        """
        for package in PACKAGES:
            if not (self.root / package).is_dir():
                raise UsageError(f"{self.root} is no checkout of hrgrid: it has no {package}")
        if self.tracked:
            names = [name for name in self.tracked if name != LOCK] + self.untracked()
        else:
            names = [name for top in TRAVELS for name in self._walk(top)]
        return sorted(name for name in set(names) if (self.root / name).is_file())

    def copy(self, target: Path) -> int:
        """Copy the files that travel to a folder and return their size in bytes; UsageError above 10 MB."""
        sizes = {name: (self.root / name).stat().st_size for name in self.files()}
        total = sum(sizes.values())
        if total > LIMIT_BYTES:
            largest = max(sizes, key=lambda name: sizes[name])
            raise UsageError(
                f"the code to send has {total / 1e6:.1f} MB, more than {LIMIT_BYTES / 1e6:.0f}: {largest} alone has "
                f"{sizes[largest] / 1e6:.1f}; move it out of the packages (data belongs into the storage)"
            )
        for name in sizes:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / name, target / name)
        return total

    def _walk(self, top: str) -> list[str]:
        path = self.root / top
        found = [path] if path.is_file() else path.rglob("*")
        names = [file.relative_to(self.root) for file in found if file.suffix in SUFFIXES]
        return [name.as_posix() for name in names if not any(part.startswith((".", "__py")) for part in name.parts)]

    def _fact(self, *arguments: str) -> str | None:
        said = self._git(*arguments) if self.tracked else None
        return None if said is None else said.decode(errors="replace").strip() or None

    def _names(self, *arguments: str) -> list[str]:
        return [name for name in (self._git(*arguments) or b"").decode(errors="replace").split("\0") if name]

    def _git(self, *arguments: str) -> bytes | None:
        command = ["git", "-C", str(self.root), *arguments]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


def _below(pattern: str) -> Sequence[str]:
    return [f":(glob){package}/**/{pattern}" for package in PACKAGES]
