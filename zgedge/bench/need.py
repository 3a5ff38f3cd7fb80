"""Import of packages that only benchmarks need, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from zgedge.errors import MissingExtraError


def need(package: str, extra: str) -> ModuleType:
    """The imported package; MissingExtraError naming the extra when it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(extra, package) from error
