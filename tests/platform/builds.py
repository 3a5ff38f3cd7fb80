"""Builds of the core and its driver, for this machine and for others. Kept in .cache/platforms."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
CORE = ROOT / "zgedge" / "runtime" / "core"
CACHE = ROOT / ".cache" / "platforms"
NATIVE = "native"
AARCH64, ARMV7 = "aarch64-linux-musl", "armv7-linux-musleabihf"
ZIG_TARGETS = {AARCH64: "aarch64-linux-musl", ARMV7: "arm-linux-musleabihf"}
_UNITS = (
    "zge_analytic", "zge_arena", "zge_guard", "zge_learn", "zge_model", "zge_pending",
    "zge_rewire", "zge_trunk", "zge_watch", "zge_kernels",
)  # fmt: skip


class MissingToolError(Exception):
    """A tool that this machine does not have; the text says which and how to get it."""


def tool(name: str) -> str:
    """A program, that of this Python's environment before that of the machine."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    if found := shutil.which(name, path=path):
        return found
    raise MissingToolError(f"no {name} on this machine (pip install 'zgedge[deploy]')")


def compiler() -> str:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise MissingToolError("no C compiler on this machine")


def zig() -> str:
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise MissingToolError("ziglang is not installed (pip install 'zgedge[deploy]')")
    return str(Path(spec.submodule_search_locations[0], "zig"))


def emulator(name: str) -> str:
    """The program that runs those of another processor, by QEMU's name for it."""
    local = ROOT / ".cache" / "qemu" / name
    found = str(local) if local.exists() else shutil.which(f"{name}-static") or shutil.which(name)
    if found is None:
        raise MissingToolError(f"no {name} (tools/get_qemu.sh brings one where it can)")
    return found


def run_tool(command: Sequence[str | Path]) -> None:
    """Run a compiler or the like. Raises RuntimeError with all that it said where it fails."""
    done = subprocess.run(
        [str(x) for x in command], capture_output=True, text=True, env={**os.environ, **_zig_env()}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def _zig_env() -> dict[str, str]:
    try:
        return {"ZIG": zig()}
    except MissingToolError:
        return {}


@contextmanager
def _locked(what: str) -> Iterator[None]:
    """One build of a thing at a time: tests run in several processes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_new(program: Path, command: Sequence[str | Path], sources: Sequence[Path]) -> bool:
    """Whether `program` was made by another command or from other sources; remembers these."""
    text = hashlib.sha256("\n".join(map(str, command)).encode())
    for source in sources:
        text.update(source.read_bytes())
    stamp = program.with_name(program.name + ".stamp")
    if program.exists() and stamp.exists() and stamp.read_text() == text.hexdigest():
        return False
    program.unlink(missing_ok=True)
    stamp.write_text(text.hexdigest())
    return True


def cmake(target: str, what: str = "zge_static", flags: str = "") -> Path:
    """The core as the project builds it: `what` is "zge_static" (libzge.a), "zge" (libzge.so) or
    "zgedge-native" (the program).

    `flags` are those that a person, or the compiler's own defaults, would add.
    """
    folder = CACHE / target
    if flags:
        folder = CACHE / f"{target}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
    configure: list[str | Path] = [tool("cmake"), "-S", ROOT, "-B", folder, "-G", "Ninja"]
    configure.append(f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}")
    if target == NATIVE:
        used = [compiler(), "--version"]
        configure.append(f"-DCMAKE_C_COMPILER={compiler()}")
    else:
        used = [zig(), "version"]
        configure.append(f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'cmake' / target}.cmake")
        # The project says -O3 itself. Said here as well, CMake's trial programs have it too: for
        # each level that something is linked with, zig builds its own libraries once more.
        flags = f"-O3 {flags}".rstrip()
    configure.append(f"-DCMAKE_C_FLAGS={flags}")
    with _locked(folder.name):
        # Ninja sees changed sources. What an earlier run compiled otherwise is not used.
        version = subprocess.run(used, capture_output=True, text=True, check=True).stdout
        text, stamp = "\n".join([*map(str, configure), version]), folder / "configured"
        if not stamp.exists() or stamp.read_text() != text:
            shutil.rmtree(folder, ignore_errors=True)
            run_tool(configure)
            stamp.write_text(text)
        run_tool([tool("cmake"), "--build", folder, "--target", what])
    return folder / {"zge_static": "libzge.a", "zge": "libzge.so"}.get(what, what)


def driver(target: str) -> Path:
    """driver.c with the core inside it; linked statically for other processors."""
    library = cmake(target)
    program = CACHE / f"driver-{target}"
    if target == NATIVE:
        command: list[str | Path] = [compiler()]
    else:
        command = [zig(), "cc", "-target", ZIG_TARGETS[target], "-static"]
    command += ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{CORE}", HERE / "driver.c"]
    command += [library, "-o", program]
    with _locked(program.name):
        if _is_new(program, command, [HERE / "driver.c", CORE / "zge.h", library]):
            run_tool(command)
    return program


def guarded(shared: bool) -> tuple[Path, Path]:
    """The driver for use under guard.c, with the core inside it or as the shared library, and the
    library to preload."""
    library = cmake(NATIVE, "zge" if shared else "zge_static")
    preload = CACHE / "guard.so"
    program = CACHE / f"driver-guarded-{'shared' if shared else 'static'}"
    flags = [compiler(), "-std=c11", "-O1", "-fno-builtin", "-Wall", "-Wextra"]
    make_preload: list[str | Path] = [*flags, "-fPIC", "-shared", HERE / "guard.c", "-o", preload]
    command: list[str | Path] = [*flags, "-DZGE_GUARD", f"-I{CORE}", HERE / "driver.c", library]
    command += [f"-Wl,-rpath,{library.parent}", preload, "-o", program]
    with _locked("guarded"):
        if _is_new(preload, make_preload, [HERE / "guard.c"]):
            run_tool(make_preload)
        if _is_new(program, command, [HERE / "driver.c", HERE / "guard.c", library]):
            run_tool(command)
    return program, preload


def traced() -> Path:
    """The driver with the portable core, which tells trace.c of every access to memory."""
    program = CACHE / "driver-traced"
    sources = [HERE / x for x in ("driver.c", "trace.c", "untraced.h")]
    units = [CORE / f"{x}.c" for x in _UNITS]
    # Loops stay loops: one that became a call of memset would be missed.
    flags = ["-std=c11", "-O1", "-ffp-contract=off", "-fno-tree-loop-distribute-patterns"]
    flags += ["-fno-builtin", f"-I{CORE}"]
    tracing = ["-fsanitize=thread", "-Dmemcpy=traced_memcpy", "-Dmemset=traced_memset"]
    gcc = shutil.which("gcc")
    if gcc is None:
        raise MissingToolError("no gcc on this machine")
    with _locked(program.name):
        if not _is_new(
            program, [*flags, *tracing], [*sources, *units, *CORE.glob("*.h"), Path(__file__)]
        ):
            return program
        objects: list[str | Path] = []
        for unit in units:
            out = CACHE / f"traced-{unit.stem}.o"
            extra: list[str | Path] = []
            if unit.stem == "zge_arena":
                extra = ["-include", HERE / "untraced.h"]
            run_tool([gcc, *flags, *tracing, *extra, "-c", unit, "-o", out])
            objects.append(out)
        own: list[str | Path] = ["-O2", "-DZGE_HOOKS", HERE / "driver.c", HERE / "trace.c"]
        run_tool([gcc, *flags, *own, *objects, "-o", program])
    return program


def sanitized(program: str) -> Path:
    """The native program ("zgedge-native"), or a C file of tests/runtime with its text parts, that
    stops where it reads or writes what it must not."""
    library = cmake(NATIVE)
    out = CACHE / f"sanitized-{program}"
    native = ROOT / "zgedge" / "runtime" / "native"
    sources = sorted(native.glob("*.c"))
    if program != "zgedge-native":
        sources = [native / "json.c", native / "text.c", HERE.parent / "runtime" / f"{program}.c"]
    command: list[str | Path] = [compiler(), "-std=c11", "-D_GNU_SOURCE", "-O1", "-g"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{CORE}"]
    command += [f"-I{native}", *sources, library, "-pthread", "-lm", "-o", out]
    with _locked(out.name):
        if _is_new(out, command, [*sources, *native.glob("*.h"), library]):
            run_tool(command)
    return out


def stream(x: npt.NDArray[np.float32] | npt.NDArray[np.uint8], y: npt.NDArray[np.int64]) -> bytes:
    """Samples [n, inputs] and their classes [n] in the form that driver.c reads."""
    kind = 1 if x.dtype == np.uint8 else 0
    labels = np.zeros((len(y) + 1) // 2 * 2, "<u2")
    labels[: len(y)] = y
    head = struct.pack("<IIII", len(y), x.shape[1], kind, 0)
    return head + labels.tobytes() + np.ascontiguousarray(x).tobytes()


class Result:
    """What a run of the driver printed and wrote."""

    def __init__(self, text: str, data: bytes) -> None:
        self.data = data
        words = [line.split() for line in text.splitlines()]
        self.variants = {x[1]: x[2] == "1" for x in words if x[0] == "has"}
        values = {x[0]: x[1] for x in words if x[0] != "has"}
        self.variant, self.predictions = values["variant"], values["predictions"]
        self.rewired, self.replayed = int(values["rewired"]), int(values["replayed"])
        self.correct = int(values["correct"])


def replay(
    command: Sequence[str | Path],
    file: bytes,
    samples: bytes,
    folder: Path,
    variant: str = "best",
    steps: int = 100,
    new: int = 1,
    replayed: int = 0,
    options: Sequence[str] = (),
    env: dict[str, str] | None = None,
) -> Result:
    """Run a driver, `command`, in `folder`. Raises CalledProcessError where it fails."""
    (folder / "in.zge").write_bytes(file)
    (folder / "stream").write_bytes(samples)
    done = subprocess.run(
        [
            *map(str, command), "in.zge", "stream", "out", variant, str(steps), str(new),
            str(replayed), *options,
        ],
        cwd=folder, capture_output=True, text=True, timeout=600, env={**os.environ, **(env or {})},
    )  # fmt: skip
    if done.returncode:
        raise subprocess.CalledProcessError(
            done.returncode, list(map(str, command)), done.stdout, done.stderr
        )
    return Result(done.stdout, (folder / "out").read_bytes())
