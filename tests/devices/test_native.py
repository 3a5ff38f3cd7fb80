"""The native program as it is built for boards."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import zgedge
from tests import nets
from zgedge.devices import cross, native, wheels
from zgedge.errors import MissingExtraError, UsageError, ZgedgeError
from zgedge.runtime.board import make_golden

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A cache of the test's own, but for programs that take long to build."""
    folder = ROOT / ".cache" if request.node.get_closest_marker("slow") else tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "zgedge"


def written(calls: list[str]) -> object:
    def compile_(
        zig: str, product: cross.Product, machine: str, cpu: str | None, folder: Path
    ) -> None:
        calls.append(f"{machine} {cpu}")
        (folder / product.file).write_text(machine)

    return compile_


def test_built_once_and_again_where_anything_differs(
    zig: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    said: list[str] = []
    monkeypatch.setattr(cross, "_compile", written(calls))
    first = native.build("aarch64", say=said.append)
    assert first.read_text() == "aarch64"
    assert first.parent.parent == cache
    assert native.build("aarch64", say=said.append) == first
    assert said == ["Compiling the native program for aarch64 ..."]
    assert native.build("aarch64", "cortex-a76") != first
    assert native.build("armv7l") != first
    assert calls == ["aarch64 None", "aarch64 cortex-a76", "armv7l None"]
    copy = tmp_path / "native"
    shutil.copytree(native.NATIVE, copy)
    with (copy / "main.c").open("a") as f:
        f.write("\n")
    monkeypatch.setattr(native, "NATIVE", copy)
    assert native.build("aarch64") != first
    cross.build(replace(native.PROGRAM, flags=()), "aarch64")
    assert len(calls) == 5
    assert cross.build(wheels.CORE, "aarch64").name == "libzge.so"
    assert {p.name.split("-")[0] for p in cache.iterdir()} == {"native", "library", "cross.lock"}


def test_what_cannot_be_built(
    zig: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    with pytest.raises(UsageError, match=r"no native program for 'riscv64'.*aarch64, armv7l"):
        native.build("riscv64")
    copy = tmp_path / "native"
    copy.mkdir()
    monkeypatch.setattr(native, "NATIVE", copy)
    with pytest.raises(ZgedgeError, match="sources of the native program are not in"):
        native.build("x86_64")
    (copy / "zgn_bad.c").write_text("this is no C\n")
    core = tmp_path / "core"
    core.mkdir()
    (core / "zge_kernels.c").write_text("int f(void);\n")
    monkeypatch.setattr(cross, "CORE", core)
    with pytest.raises(ZgedgeError, match=r"native program cannot be compiled: .*zgn_bad\.c"):
        native.build("x86_64")
    (core / "zge_model.c").write_text("this is no C\n")
    with pytest.raises(ZgedgeError, match=r"core cannot be compiled: .*zge_model\.c"):
        wheels.own("x86_64")
    assert not [p for p in cache.iterdir() if p.is_dir()]
    monkeypatch.setattr(cross.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'zgedge\[deploy\]'"):
        native.build("x86_64")
    with pytest.raises(MissingExtraError, match=r"pip install 'zgedge\[deploy\]'"):
        wheels.own("x86_64")


def test_what_was_left_half_or_cannot_run_is_said(
    zig: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(cross, "_compile", written(calls))
    made = native.build("aarch64")
    made.write_bytes(b"")  # as after a power cut
    assert native.build("aarch64").read_text() == "aarch64"
    assert len(calls) == 2
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    for text, what in (("", "cannot be started"), ("exit 3", "ended with 3 and said nothing")):
        program = tmp_path / "zig"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755 if text else 0o644)
        monkeypatch.setattr(cross, "compiler", lambda: str(tmp_path / "zig"))
        with pytest.raises(ZgedgeError, match=what):
            native.build("armv7l")


def test_no_compiler_is_left_running(tmp_path: Path) -> None:
    running = tmp_path / "running"
    ended = tmp_path / "ended"
    slow = ["sh", "-c", f"(sleep 20; touch {ended}) & echo $! > {running}; wait"]
    with pytest.raises(ZgedgeError, match="ended with 7"):
        cross._run_all([slow, ["sh", "-c", f"until [ -s {running} ]; do :; done; exit 7"]][::-1],
                       "program")  # fmt: skip
    child = Path(f"/proc/{int(running.read_text())}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"
    assert not ended.exists()  # it was stopped, and not waited for


def test_flags_are_those_of_the_wheel() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    options = re.search(r"target_compile_options\(\s*zge_flags INTERFACE (-Wall[^)]*)\)", text)
    assert options is not None
    assert {f for f in options[1].split() if not f.startswith("-W")} <= {*cross.CORE_FLAGS}
    for flag in cross.CORE_FLAGS:
        assert flag in text or flag in ("-std=c11", "-O3"), flag
    for flag in cross.variants("x86_64", None)["vnni"]:
        assert flag.removeprefix("-D") in text, flag
    assert cross.variants("aarch64", "cortex-a72")["dotprod"][1] == "-mcpu=cortex_a72+dotprod"
    for product, static in ((native.PROGRAM, "musl"), (wheels.CORE, "gnu")):
        targets = {
            path.stem: found[1]
            for path in (ROOT / "cmake").glob(f"*{static}*.cmake")
            if (found := re.search(r"ZIG_TARGET (\S+)\)", path.read_text()))
        }
        assert sorted(targets.values()) == sorted(product.targets.values())


def test_nothing_is_allocated() -> None:
    """No source of the program calls an allocator."""
    calls = re.compile(r"\b(malloc|calloc|realloc|free|fopen|getline|strdup|opendir)\s*\(")
    for path in native.sources():
        assert not calls.search(path.read_text()), path


@pytest.mark.slow
@pytest.mark.parametrize("machine", native.PROGRAM.targets)
def test_the_program_for_each_machine(
    machine: str, tmp_path: Path, zig: str, request: pytest.FixtureRequest
) -> None:
    program = native.build(machine)
    command = [str(program)]
    if machine != "x86_64":
        name = {"aarch64": "qemu_aarch64", "armv7l": "qemu_arm"}[machine]
        command.insert(0, request.getfixturevalue(name))
    model, golden = tmp_path / "m.zge", tmp_path / "g"
    net = nets.network(replay_samples=16, replay_bits=4, batch=4)
    model.write_bytes(nets.file(net))
    golden.write_bytes(make_golden(model, *nets.samples(net, 200)))
    done = subprocess.run([*command, "golden", model, golden], capture_output=True, timeout=60)
    assert json.loads(done.stdout)["ok"], done
    done = subprocess.run([*command, "version"], capture_output=True, timeout=60)
    told = json.loads(done.stdout)
    assert (told["zgedge"], told["machine"]) == (zgedge.__version__, machine)
    assert program.stat().st_size < 600_000
    assert b"ld-linux" not in program.read_bytes()
