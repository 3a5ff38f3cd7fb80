"""What tests of the device side share: the native program, built once."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.platform import builds
from tests.platform.needed import or_skip
from tests.runtime.native_program import NATIVE, PYTHON, Served
from zgedge.devices import native as deployed


def _built(target: str) -> Path:
    return or_skip(lambda: builds.cmake(target, "zgedge-native"))


@pytest.fixture(scope="session")
def native() -> str:
    """The native program for this machine."""
    return str(_built(builds.NATIVE))


@pytest.fixture(scope="session")
def native_deployed() -> str:
    """The native program as a board like this machine gets it: built with another C library."""
    return str(deployed.build(platform.machine()))


@pytest.fixture(scope="session")
def native_aarch64(qemu_aarch64: str) -> list[str]:
    """Command of the native program for 64-bit Arm, emulated."""
    return [qemu_aarch64, str(_built(builds.AARCH64))]


@pytest.fixture(scope="session")
def native_armv7(qemu_arm: str) -> list[str]:
    """Command of the native program for 32-bit Arm, emulated."""
    return [qemu_arm, str(_built(builds.ARMV7))]


@pytest.fixture(scope="session")
def native_sanitized() -> str:
    """The native program, which stops where it reads or writes what it must not."""
    return str(or_skip(lambda: builds.sanitized("zgedge-native")))


@pytest.fixture(scope="session")
def json_fuzz() -> str:
    """The reader of requests alone, likewise."""
    return str(or_skip(lambda: builds.sanitized("json_fuzz")))


@pytest.fixture(params=[PYTHON, NATIVE])
def runtime(request: pytest.FixtureRequest) -> str:
    """Both runtimes, one after the other."""
    if request.param == PYTHON:
        return PYTHON
    return request.getfixturevalue("native")  # type: ignore[no-any-return]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts services in folders of the test; all are ended with it."""
    made: list[Served] = []

    def start(
        what: str | Sequence[str], model: Path, name: str = "a", *options: str, **more: Any
    ) -> Served:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        made.append(Served(what, model, folder, *options, **more))
        return made[-1]

    yield start
    for served in made:
        if served.process.poll() is None:
            served.kill()
