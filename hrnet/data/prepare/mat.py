"""Labels in Matlab files, read by scipy."""

from __future__ import annotations

import io
import zlib
from typing import Any

from hrnet.errors import DataError

__all__ = ["load_mat"]

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, OSError, NotImplementedError, zlib.error)
"""What scipy raises for files that are damaged in one way or another."""


def load_mat(data: bytes, name: str, where: str) -> Any:
    """Return the variable called `name` of a Matlab file (before version 7.3); structures have attributes.

    Raises DataError with the place for a damaged file and for one without the variable.
    """
    import scipy.io
    from scipy.io.matlab import MatReadError

    try:
        return scipy.io.loadmat(io.BytesIO(data), squeeze_me=True, struct_as_record=False)[name]
    except (MatReadError, *_UNREADABLE) as error:
        raise DataError(f"label {where} is damaged or holds no {name} ({error}); copy it again") from None
