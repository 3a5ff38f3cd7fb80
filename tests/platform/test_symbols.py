"""The core needs memcpy and memset of its surroundings, and shows them what zge.h declares."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.platform import builds, elf
from tests.platform.needed import or_skip

pytestmark = pytest.mark.xdist_group("platform")

ALLOWED = {"memcpy", "memset"}
# What a start-up file of the compiler refers to in every shared library; all may be missing.
START_UP = {
    "__cxa_finalize", "__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable",
}  # fmt: skip
TARGETS = (builds.NATIVE, builds.AARCH64, builds.ARMV7)
each_target = pytest.mark.parametrize("target", TARGETS)


def library(target: str, what: str = "zge_static", flags: str = "") -> Path:
    return or_skip(lambda: builds.cmake(target, what, flags))


def declared() -> set[str]:
    """Functions of zge.h."""
    text = (builds.CORE / "zge.h").read_text()
    return set(re.findall(r"^ZGE_API [^;(]*?\b(zge_\w+)\(", text, re.MULTILINE))


def strong(path: Path) -> set[str]:
    return {name for name, weak in elf.wanted(path).items() if not weak}


def weak(path: Path) -> set[str]:
    return {name for name, weak in elf.wanted(path).items() if weak}


@each_target
def test_objects_need_memcpy_and_memset_only(target: str) -> None:
    path = library(target)
    needed = strong(path)
    if target == builds.ARMV7:
        # Armv7 has no division instruction in its base set, so division is a function of the
        # compiler's own library, as is what unwind tables name (Run-time ABI for the Arm
        # Architecture, IHI 0043).
        needed = {name for name in needed if not name.startswith("__aeabi_")}
    assert needed == ALLOWED
    assert weak(path) == ({"getauxval"} if target == builds.AARCH64 else set())


@each_target
def test_every_unit_is_in_the_archive(target: str) -> None:
    """Else the test above would look at too little."""
    names = {name.split(".")[0] for name in elf.members(library(target).read_bytes())}
    assert names == {*builds._UNITS}


@each_target
def test_objects_show_what_the_header_declares(target: str) -> None:
    assert elf.offered(library(target)) == declared()


def test_the_shared_library(root: Path) -> None:
    path = library(builds.NATIVE, "zge")
    assert strong(path) == ALLOWED
    assert weak(path) <= START_UP
    assert elf.offered(path) == declared()


@pytest.mark.slow  # builds the core once more
def test_a_compiler_that_hardens_by_default_adds_no_call() -> None:
    """Some distributions' compilers check stacks and lengths, which calls the C library."""
    path = library(
        builds.NATIVE, "zge", "-fstack-protector-all -D_FORTIFY_SOURCE=2 -fstack-clash-protection"
    )
    assert strong(path) == ALLOWED


def test_undefined_symbols_are_seen(tmp_path: Path) -> None:
    """The reader of symbols against an object that calls something."""
    source = tmp_path / "a.c"
    source.write_text(
        "extern int weak(void) __attribute__((weak));\n"
        "int puts(const char *);\nstatic int own(void) { return weak ? weak() : 0; }\n"
        'int shown(void) { return puts("") + own(); }\n'
        '__attribute__((visibility("hidden"))) int hidden(void) { return 1; }\n'
    )
    out = tmp_path / "a.o"
    builds.run_tool([or_skip(builds.compiler), "-c", source, "-o", out])
    found = {x.name: x for x in elf.symbols(out.read_bytes())}
    assert found["puts"].undefined
    assert not found["puts"].weak
    assert found["weak"].undefined
    assert found["weak"].weak
    assert found["shown"].exported
    assert not found["hidden"].exported
    assert "own" not in found
