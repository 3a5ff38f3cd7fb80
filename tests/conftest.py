"""What tests of every part share: where things are, and reasons to skip where they are not."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Files and folders in the order in which processes take their files; all others come after them.
# Long ones come early, or one process would be at work alone at the end. The first compiles the
# core for every processor, for which others would wait; the second waits most of the time.
EARLY = (
    "tests/platform/test_symbols.py", "tests/devices/test_deploy.py", "tests/cli/",
    "tests/devices/", "tests/runtime/", "tests/test_", "tests/platform/", "tests/attacks/",
    "tests/export/", "tests/train/",
)  # fmt: skip


def _place(item: pytest.Item) -> int:
    return next((i for i, name in enumerate(EARLY) if item.nodeid.startswith(name)), len(EARLY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: $ZGEDGE_TEST_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("ZGEDGE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder} (ZGEDGE_TEST_DATA names another folder)")
    return folder


@pytest.fixture(scope="session")
def mnist_dir(shared_data: Path) -> Path:
    """MNIST in its four IDX files."""
    folder = shared_data / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no MNIST in {folder}")
    return folder


@pytest.fixture(scope="session")
def cc() -> str:
    """A C compiler for this machine."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    pytest.skip("no C compiler on this machine")


@pytest.fixture(scope="session")
def zig() -> str:
    """The zig program of the ziglang package: `zig cc -target ...` compiles for all processors."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("ziglang is not installed (pip install 'zgedge[deploy]')")
    return str(Path(spec.submodule_search_locations[0], "zig"))


def _emulator(name: str) -> str:
    local = ROOT / ".cache" / "qemu" / name
    if local.exists():
        return str(local)
    found = shutil.which(f"{name}-static") or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} (tools/get_qemu.sh brings one where it can)")
    return found


@pytest.fixture(scope="session")
def qemu_aarch64() -> str:
    """Runs programs for 64-bit Arm."""
    return _emulator("qemu-aarch64")


@pytest.fixture(scope="session")
def qemu_arm() -> str:
    """Runs programs for 32-bit Arm."""
    return _emulator("qemu-arm")
