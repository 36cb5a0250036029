"""Which weights a recipe starts from, known by their content rather than by where they lie."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from hrnet.catalogue import Recipe
from hrnet.errors import RecipeError, WeightsError
from hrnet.fetch import is_remote, sha256_of

__all__ = ["canonical", "pinned"]


def pinned(recipe: Recipe) -> Recipe:
    """Return the recipe with the hash of its pretrained weights known, and their path absolute.

    A local file is hashed now; a remote one is taken by the hash that its name ends with or that was given, and is
    held to it when it is loaded.

    Raises:
        WeightsError: there is no such file, or it has another hash than the one given.
        RecipeError: nothing says the hash of a remote file.
    """
    if recipe.pretrained is None:
        return recipe
    if is_remote(recipe.pretrained):
        if recipe.pretrained_sha256 is None:
            raise RecipeError(
                f"recipe {recipe.name}: nothing says the hash of pretrained {recipe.pretrained}, by which changed "
                "weights are told from the same; add --set pretrained_sha256=HEX (sha256sum prints it), or give a file"
            )
        return recipe
    path = Path(recipe.pretrained).expanduser().absolute()
    actual = _hash(path)
    if recipe.pretrained_sha256 is not None and not actual.startswith(recipe.pretrained_sha256):
        raise WeightsError(f"{path} has the SHA-256 {actual[:16]}..., expected {recipe.pretrained_sha256}...")
    return replace(recipe, pretrained=str(path), pretrained_sha256=actual)


def canonical(recipe: Recipe, published: Recipe) -> Recipe:
    """Return a pinned recipe as the identity of a trial sees it: its weights by content, wherever they lie.

    The published weights go by their published name, also where a copy of them is used; others by their hash.
    """
    if recipe.pretrained is None:
        return recipe
    if recipe.same_start(published):
        return replace(recipe, pretrained=published.pretrained, pretrained_sha256=published.pretrained_sha256)
    return replace(recipe, pretrained=f"sha256:{recipe.pretrained_sha256}")


def _hash(path: Path) -> str:
    try:
        seen = os.stat(path)
    except OSError as error:
        raise WeightsError(f"there is no weights file {path} ({error.strerror}); check the path") from None
    return _hash_of_state(path, seen.st_mtime_ns, seen.st_size)


@lru_cache(maxsize=64)
def _hash_of_state(path: Path, changed: int, size: int) -> str:
    """Hash a file once for all trials of a grid, and again when it has changed."""
    return sha256_of(path)
