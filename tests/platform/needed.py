"""What tests need and not every machine has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.platform.builds import MissingToolError

T = TypeVar("T")


def or_skip(make: Callable[[], T]) -> T:
    """What `make` makes; the test is skipped, with the reason, where a tool for it is missing."""
    try:
        return make()
    except MissingToolError as e:
        pytest.skip(str(e))
