"""Programs of the platform tests: built once, skipped with a reason where a tool is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.platform import builds

T = TypeVar("T")


def _or_skip(make: Callable[[], T]) -> T:
    try:
        return make()
    except builds.MissingToolError as e:
        pytest.skip(str(e))


@pytest.fixture(scope="session")
def native() -> list[Path]:
    """Command of the driver for this machine, with every kernel variant that its compiler knows."""
    return [_or_skip(lambda: builds.driver(builds.NATIVE))]


@pytest.fixture(scope="session")
def aarch64(qemu_aarch64: str) -> list[Path]:
    """Command of the driver for 64-bit Arm, emulated."""
    return [Path(qemu_aarch64), _or_skip(lambda: builds.driver(builds.AARCH64))]


@pytest.fixture(scope="session")
def armv7(qemu_arm: str) -> list[Path]:
    """Command of the driver for 32-bit Arm with hard floats, emulated."""
    return [Path(qemu_arm), _or_skip(lambda: builds.driver(builds.ARMV7))]


@pytest.fixture(scope="session")
def traced() -> list[Path]:
    """Command of the driver that writes down every access to the arena."""
    return [_or_skip(builds.traced)]
