"""Generated C, compiled and run: on this machine, on emulated Arm, and on an emulated Cortex-M4.

`Program(export).run(predict(codes), ...)` compiles the two files together with a small driver
(`c_board/`) that carries commands in and results out.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.errors import MissingExtraError, UsageError, ZgedgeError
from zgedge.export.c import CSource

BOARD = Path(__file__).parent / "c_board"
# As the core is compiled: every warning is an error.
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wpedantic", "-Werror")
EXACT = ("-std=c11", "-ffp-contract=off")
BOARD_RAM = 65536
_ZIG = {
    "aarch64": ("aarch64-linux-musl",),
    "armv7": ("arm-linux-musleabihf",),
    "cortex-m4": ("thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp"),
}
_EMULATORS = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm", "cortex-m4": "qemu-system-arm"}
TARGETS = ("native", *_ZIG)


class MissingToolError(MissingExtraError):
    """This machine has no compiler or no emulator for what was asked."""

    def __init__(self, message: str, hint: str) -> None:
        ZgedgeError.__init__(self, message, hint)


@dataclass(frozen=True)
class Command:
    """What the driver reads, and the form of what it answers to it: `count` records of `answer`."""

    data: bytes
    answer: list[Any]
    count: int


def _command(letter: str, count: int, data: bytes, answer: list[Any]) -> Command:
    head = np.array([ord(letter), count], "<u4").tobytes()
    return Command(head + data, answer, count)


def quantize(export: CSource, x: npt.NDArray[Any]) -> Command:
    """Raw samples [n, inputs] -> `result` (how many were clamped, or an error) and `codes`."""
    x = np.ascontiguousarray(x, "<f4")
    return _command("Q", len(x), x.tobytes(), [("result", "<i4"), ("codes", "u1", export.inputs)])


def predict(export: CSource, codes: npt.NDArray[np.uint8]) -> Command:
    """Codes [n, inputs] -> `result` (the class), `instructions`, `scores` and `logits`."""
    codes = np.ascontiguousarray(codes, np.uint8)
    answer: list[Any] = [("result", "<i4"), ("instructions", "<i4")]
    answer += [("scores", "u1", export.classes), ("logits", "<i4", export.classes)]
    return _command("P", len(codes), codes.tobytes(), answer)


def learn(export: CSource, x: npt.NDArray[Any], y: npt.NDArray[Any], replay: int) -> Command:
    """Samples [n, inputs], codes where they are uint8 and else raw values, of labels [n], one after
    the other -> `result` (what was predicted before, or an error) and `instructions`."""
    raw = x.dtype != np.uint8
    value = ("x", "<f4" if raw else "u1", export.inputs)
    rows = np.zeros(len(x), [("label", "<u4"), ("replay", "<u4"), value])
    rows["label"], rows["replay"], rows["x"] = y, replay, x
    answer: list[Any] = [("result", "<i4"), ("instructions", "<i4")]
    return _command("R" if raw else "L", len(x), rows.tobytes(), answer)


def start(saved: bytes | None = None) -> Command:
    """Begin a learner, from a saved arena where there is one -> `result`."""
    letter = "B" if saved is None else "S"
    return _command(letter, 1, saved or b"", [("result", "<i4")])


def configure(rate: float, what: int) -> Command:
    """Learning rate and what learns -> `result`."""
    data = np.array([rate], "<f4").tobytes() + np.array([what], "<u4").tobytes()
    return _command("C", 1, data, [("result", "<i4")])


def forget() -> Command:
    """Empty the replay -> `result`."""
    return _command("F", 1, b"", [("result", "<i4")])


def seal(export: CSource) -> Command:
    """The arena as a file -> `arena`."""
    return _command("A", 1, b"", [("arena", "u1", export.arena_bytes)])


def stack() -> Command:
    """Most bytes of stack so far, of a Cortex-M4 -> `result`."""
    return _command("T", 1, b"", [("result", "<i4")])


def compiler(target: str = "native") -> list[str]:
    """The C compiler for a target and what it must be told. Raises MissingToolError."""
    if target == "native":
        for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
            if name and (found := shutil.which(name)):
                return [found]
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise MissingToolError(
            f"There is no C compiler for {target} on this machine.",
            "Install one, or: pip install 'zgedge[deploy]'",
        )
    zig = [str(Path(spec.submodule_search_locations[0], "zig")), "cc"]
    return zig if target == "native" else [*zig, "-target", *_ZIG[target]]


def emulator(target: str) -> list[str]:
    """What runs a target's programs; nothing for this machine's own. Raises MissingToolError.

    $ZGEDGE_QEMU is a folder that is looked through before the programs of the machine.
    """
    if target == "native":
        return []
    name = _EMULATORS[target]
    folders = os.pathsep.join([os.environ.get("ZGEDGE_QEMU", ""), os.environ.get("PATH", "")])
    found = shutil.which(name, path=folders) or shutil.which(f"{name}-static")
    if found is None:
        raise MissingToolError(
            f"There is no {name} on this machine.", "Install QEMU, or name its folder: ZGEDGE_QEMU."
        )
    found = os.path.abspath(found)  # programs run in a folder of their own
    if target != "cortex-m4":
        return [found]
    board = "-M mps2-an386 -nographic -monitor none -serial none -icount shift=0"
    return [found, *board.split(), "-semihosting-config", "enable=on,target=native", "-kernel"]


class Program:
    """An export as a program for one of TARGETS, compiled into a folder of its own.

    `optimize` is the compiler's level, `options` are more of its options. On the board all of the
    program's data and its stack are in `ram` bytes. Raises MissingToolError where a tool is
    missing, ZgedgeError with the compiler's words where it refuses.
    """

    def __init__(
        self,
        export: CSource,
        target: str = "native",
        *,
        optimize: str = "-O2",
        options: Sequence[str] = (),
        ram: int = BOARD_RAM,
        command: Sequence[str] | None = None,
    ) -> None:
        if target not in TARGETS:
            raise UsageError(f"There is no target {target!r}.", f"Use one of {', '.join(TARGETS)}.")
        self.export = export
        self.target = target
        self.emulator = emulator(target)
        self.folder = Path(tempfile.mkdtemp(prefix="zgedge-c-"))
        weakref.finalize(self, shutil.rmtree, self.folder, True)
        self.path = self.folder / "program"
        export.write(self.folder)
        line = [*(command or compiler(target)), *EXACT, *WARNINGS, optimize, *options]
        # No name of an export is a macro by itself or a file of the driver, whatever it is.
        line += [f"-DCALL(x)={export.name}_##x", f"-DCONSTANT(x)={export.name.upper()}_##x"]
        line += [f'-DHEADER="{self.folder / export.name}.h"']
        line += ["-DLEARNS"] if export.learning else []
        sources = [self.folder / f"{export.name}.c", BOARD / "driver.c"]
        if target == "cortex-m4":
            line += ["-ffreestanding", "-DBOARD_CORTEX_M4", "-ffunction-sections"]
            line += ["-fdata-sections", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables"]
            script = self.folder / "board.ld"
            text = (BOARD / "cortex_m4.ld").read_text().replace("*PROGRAM.o", f"*/{export.name}.o")
            script.write_text(text.replace("LENGTH = 64K", f"LENGTH = {ram}"))
            line += ["-Wl,--gc-sections", "-Wl,-e,board_reset", f"-Wl,-T,{script}"]
            sources.append(BOARD / "cortex_m4.c")
        else:
            sources.append(BOARD / "linux.c")
            line += [] if target == "native" else ["-static"]
        # Quoted headers alone: one called like the C library's must not take its place.
        line += ["-iquote", str(BOARD), *map(str, sources), "-o", str(self.path)]
        try:
            done = subprocess.run(line, capture_output=True, text=True)
        except OSError as error:
            raise ZgedgeError(f"Cannot run {line[0]}: {error.strerror}.") from error
        if done.returncode:
            raise ZgedgeError(f"{line[0]} refuses {export.name}.c: {done.stderr.strip()[:2000]}")

    def sections(self) -> dict[str, int]:
        """Bytes of the linked program's sections that are in memory, by name. Those of the export
        itself begin with `.program`. For 32-bit ELF files, as a Cortex-M4's are."""
        elf = self.path.read_bytes()
        (start,) = struct.unpack_from("<I", elf, 32)
        size, count, names_at = struct.unpack_from("<HHH", elf, 46)
        rows = [struct.unpack_from("<10I", elf, start + i * size) for i in range(count)]
        names = rows[names_at][4]
        return {
            elf[names + row[0] : elf.index(b"\0", names + row[0])].decode(): row[5]
            for row in rows
            if row[2] & 2  # it takes memory
        }

    def run(self, *commands: Command, timeout: float = 600) -> list[npt.NDArray[Any]]:
        """Answers of the commands, in one run of the program: records of each one's form.

        Raises ZgedgeError where the program fails or says less than it should.
        """
        given = b"".join(x.data for x in commands)
        line = [*self.emulator, str(self.path)]
        if self.target == "cortex-m4":
            (self.folder / "in").write_bytes(given)
        try:
            done = subprocess.run(
                line, input=None if self.target == "cortex-m4" else given,
                stdin=subprocess.DEVNULL if self.target == "cortex-m4" else None,
                capture_output=True, cwd=self.folder, timeout=timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ZgedgeError(f"{self.export.name}.c ran longer than {timeout} s.") from error
        except OSError as error:
            raise ZgedgeError(
                f"Cannot run {line[0]}: {error.strerror}.",
                "Programs are made in the folder $TMPDIR; name one that may hold programs.",
            ) from error
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()[:2000]
            raise ZgedgeError(f"{self.export.name}.c ended with {done.returncode}. {words}")
        said = (self.folder / "out").read_bytes() if self.target == "cortex-m4" else done.stdout
        answers, at = [], 0
        for command in commands:
            form = np.dtype(command.answer)
            size = form.itemsize * command.count
            if len(said) < at + size:
                raise ZgedgeError(f"{self.export.name}.c wrote {len(said)} bytes, too few.")
            answers.append(np.frombuffer(said, form, command.count, at))
            at += size
        return answers
