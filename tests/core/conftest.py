"""Kernel variants, each of which must do the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zgedge.runtime import core_library as core

VARIANTS = [name for name, usable in core.variants().items() if usable]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kernel variant that this processor can run, in use."""
    before = core.variant()
    core.select_variant(request.param)
    yield request.param
    core.select_variant(before)
