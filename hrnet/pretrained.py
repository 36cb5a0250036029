"""Which weights a recipe starts from, known by their content rather than by where they lie."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from hrnet.catalogue import Recipe
from hrnet.errors import RecipeError, WeightsError
from hrnet.fetch import is_remote, local_copy, sha256_of
from hrnet.fields import public

__all__ = ["canonical", "pinned"]


def pinned(recipe: Recipe) -> Recipe:
    """Return the recipe with the hash of its pretrained weights known, and their path absolute.

    A local file is hashed now; a remote one is taken by the hash that its name ends with or that was given, and is
    held to it when it is loaded. An address with a signature or a password is fetched now and known without them
    afterwards, since recipes are kept and shown: whoever loads the weights finds them in the cache folder.

    Raises:
        WeightsError: there is no such file, it has another hash than the one given, or it cannot be fetched.
        RecipeError: nothing says the hash of a remote file.
    """
    if recipe.pretrained is None:
        return recipe
    if is_remote(recipe.pretrained):
        if recipe.pretrained_sha256 is None:
            raise RecipeError(
                f"recipe {recipe.name}: nothing says the hash of pretrained {public(recipe.pretrained)}, by "
                "which changed weights are told from the same; add --set pretrained_sha256=HEX (sha256sum prints it), "
                "or give a file"
            )
        return replace(recipe, pretrained=_known_as(recipe.pretrained, recipe.pretrained_sha256))
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


@lru_cache(maxsize=64)
def _known_as(address: str, sha256_prefix: str) -> str:
    """Return the address that a recipe keeps; one that keeps a secret is fetched first, once for all of a grid."""
    shown = public(address)
    # The query of an S3 URI names an endpoint or a region.
    secret = shown != (address.partition("?")[0] if address.lower().startswith("s3://") else address)
    if not secret:
        return address
    local_copy(address, sha256_prefix)
    return shown


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
