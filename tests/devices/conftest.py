"""Emulated boards, built once and kept in .cache/boards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.devices.desks import Desk, make_desk
from tests.devices.local import local
from zgedge.devices import emulated
from zgedge.devices.emulated import Emulated

CACHE = ROOT / ".cache" / "boards"


def prepared(kind: str) -> Path:
    """The folder of a kind of board, built where it is not there; skips where none can run."""
    if why := emulated.unavailable():
        pytest.skip(why)
    os.environ.setdefault("ZGEDGE_QEMU", str(ROOT / ".cache" / "qemu"))
    return emulated.prepare(kind, CACHE)


@pytest.fixture(scope="session")
def a_board() -> Iterator[Emulated]:
    """One board for tests that leave it as it is."""
    prepared("emulated")
    with Emulated("emulated", cache=CACHE) as board:
        board.start()
        yield board


@pytest.fixture(scope="session")
def an_old_board() -> Iterator[Emulated]:
    """An armv7 board without Python, for tests that leave it as it is."""
    prepared("emulated-armv7")
    with Emulated("emulated-armv7", cache=CACHE) as board:
        board.start()
        yield board


@pytest.fixture
def board() -> Iterator[Emulated]:
    """A new board for one test, not started."""
    prepared("emulated")
    with Emulated("emulated", cache=CACHE) as made:
        yield made


@pytest.fixture
def old_board() -> Iterator[Emulated]:
    """A new armv7 board for one test, not started."""
    prepared("emulated-armv7")
    with Emulated("emulated-armv7", cache=CACHE) as made:
        yield made


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A desk and a new board on this machine, run by dash."""
    with local() as board:
        yield make_desk(board, tmp_path, monkeypatch)


@pytest.fixture
def busybox() -> Callable[[], str]:
    """Gives busybox for this machine: its own, or Debian's, unpacked into .cache."""

    def find() -> str:
        if found := shutil.which("busybox"):
            return found
        folder = ROOT / ".cache" / "busybox"
        program = folder / "bin" / "busybox"
        if not program.exists():
            if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
                pytest.skip("no busybox on this machine, and no apt to fetch one")
            folder.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                ["apt-get", "download", "-q", "busybox-static"], cwd=folder, capture_output=True,
                check=False,
            )  # fmt: skip
            packages = list(folder.glob("*.deb"))
            if done.returncode or not packages:
                pytest.skip("no busybox on this machine, and none to be had")
            subprocess.run(["dpkg", "-x", packages[0], folder], check=True)
        return str(program)

    return find
