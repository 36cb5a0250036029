"""What may be printed and kept of an address that holds a password or a signature."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

__all__ = ["is_public", "public", "split_password"]

_USER: Final = re.compile(r"(\w://)[^/\s@?#]*@")
_QUERY: Final = re.compile(r"(https?://[^\s?#'\"]+)[?#][^\s'\"]*")


def public(text: str) -> str:
    """A text with its addresses, without their users and passwords, and without the queries of web addresses."""
    return _QUERY.sub(r"\1", _USER.sub(r"\1", text))


def is_public(text: str) -> bool:
    """Whether a text may be printed and kept as it is."""
    return public(text) == text


def split_password(uri: str) -> tuple[str, str | None, str | None]:
    """An address without user and password, and both of them, decoded; None for what it does not hold."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri, None, None
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    user, password = parts.username, parts.password
    return bare, unquote(user) if user else None, unquote(password) if password else None
