"""Programs of the platform tests: built once, skipped with a reason where a tool is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.platform import builds
from tests.platform.needed import or_skip


@pytest.fixture(scope="session")
def native() -> list[Path]:
    """Command of the driver for this machine, with every kernel variant that its compiler knows."""
    return [or_skip(lambda: builds.driver(builds.NATIVE))]


@pytest.fixture(scope="session")
def aarch64(qemu_aarch64: str) -> list[Path]:
    """Command of the driver for 64-bit Arm, emulated."""
    return [Path(qemu_aarch64), or_skip(lambda: builds.driver(builds.AARCH64))]


@pytest.fixture(scope="session")
def armv7(qemu_arm: str) -> list[Path]:
    """Command of the driver for 32-bit Arm with hard floats, emulated."""
    return [Path(qemu_arm), or_skip(lambda: builds.driver(builds.ARMV7))]


@pytest.fixture(scope="session")
def traced() -> list[Path]:
    """Command of the driver that writes down every access to the arena."""
    return [or_skip(builds.traced)]
