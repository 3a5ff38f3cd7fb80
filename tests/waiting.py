"""Tests wait for what comes, and a busy machine may take its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE = 60.0  # seconds
Found = TypeVar("Found")


def until(
    look: Callable[[], Found],
    so: Callable[[Found], object] = bool,
    *,
    seconds: float = PATIENCE,
    each: float = 0.01,
) -> Found:
    """What `look` finds once it is so, looking each `each` seconds."""
    end = time.monotonic() + seconds
    while not so(found := look()):
        assert time.monotonic() < end, f"never: {found}"
        time.sleep(each)
    return found
