"""Between opening and sealing the core gets no memory and asks nothing of the kernel."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.platform import builds, networks
from tests.platform.needed import or_skip
from tests.platform.networks import Case
from tests.platform.test_replay import assert_same, run

pytestmark = [
    pytest.mark.xdist_group("platform"),
    pytest.mark.skipif(sys.platform != "linux", reason="guards the calls of Linux"),
]

STEPS = 2_000
each_case = pytest.mark.parametrize("case", networks.SMALL, ids=lambda case: case.name)


@pytest.fixture(scope="module", params=[False, True], ids=["static", "shared"])
def guarded(request: pytest.FixtureRequest) -> tuple[list[Path], dict[str, str]]:
    """A driver whose calls for memory are guarded, and the environment that it runs in."""
    program, preload = or_skip(lambda: builds.guarded(request.param))
    return [program], {"LD_PRELOAD": str(preload)}


@each_case
def test_no_call_for_memory(
    case: Case, guarded: tuple[list[Path], dict[str, str]], native: list[Path], tmp_path: Path
) -> None:
    command, env = guarded
    expected = run(native, case, tmp_path, "portable", steps=STEPS)
    for variant in (name for name, works in expected.variants.items() if works):
        assert_same(run(command, case, tmp_path, variant, env, STEPS), expected)


def test_the_guard_sees_one_of_64_bytes(
    guarded: tuple[list[Path], dict[str, str]], tmp_path: Path
) -> None:
    command, env = guarded
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run(command, networks.SMALL[0], tmp_path, "best", env, 200, ("leak",))
    assert failed.value.returncode == 3
    assert failed.value.stderr == "malloc was called while learning\n"


@each_case
def test_no_system_call(case: Case, native: list[Path], tmp_path: Path) -> None:
    """Under seccomp's strict mode the kernel kills at the first but read, write and exit."""
    expected = run(native, case, tmp_path, "portable", steps=STEPS)
    for variant in (name for name, works in expected.variants.items() if works):
        got = run(native, case, tmp_path, variant, steps=STEPS, options=("strict",))
        assert_same(got, expected)


def test_the_kernel_sees_one_allocation(native: list[Path], tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run(native, networks.SMALL[0], tmp_path, steps=200, options=("strict", "leak"))
    assert failed.value.returncode == -signal.SIGKILL
