"""The native program for a board: the core and `zgedge/runtime/native` in one static file without
Python (docs/native.md), compiled here for the board's processor."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from zgedge import runtime
from zgedge.devices.places import cache_folder, make_folder
from zgedge.errors import MissingExtraError, UsageError, ZgedgeError

RUNTIME = Path(runtime.__file__).parent
CORE, NATIVE = RUNTIME / "core", RUNTIME / "native"
NAME = "zgedge-native"
TARGETS = {
    "aarch64": "aarch64-linux-musl",
    "armv7l": "arm-linux-musleabihf",
    "x86_64": "x86_64-linux-musl",
}
# As in CMakeLists.txt, which says why.
CORE_FLAGS = (
    "-std=c11", "-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno",
    "-fvisibility=hidden", "-fno-stack-protector", "-U_FORTIFY_SOURCE",
)  # fmt: skip
FLAGS = ("-std=c11", "-Os", "-ffp-contract=off", "-fvisibility=hidden")
SMALL = ("-ffunction-sections", "-fdata-sections", "-fno-unwind-tables",
         "-fno-asynchronous-unwind-tables")  # fmt: skip
LINK = ("-static", "-s", "-Wl,--gc-sections")
_X86, _ARM = "-DZGE_SIMD_X86", "-DZGE_SIMD_ARM"
_VNNI = (
    "-mavx2", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vbmi",
    "-mavx512vnni", "-mprefer-vector-width=512",
)  # fmt: skip


def variants(machine: str, cpu: str | None) -> dict[str, tuple[str, ...]]:
    """Kernel variants of a build, and what each is compiled with."""
    if machine == "x86_64":
        return {"portable": (), "avx2": (_X86, "-mavx2"), "vnni": (_X86, *_VNNI)}
    if machine == "aarch64":
        dotprod = f"-mcpu={_cpu(cpu) if cpu else 'generic'}+dotprod"
        return {"portable": (), "neon": (_ARM,), "dotprod": (_ARM, dotprod)}
    return {"portable": ()}


def _cpu(cpu: str) -> str:
    """A processor as zig spells it."""
    return cpu.replace("-", "_")


def build(machine: str, cpu: str | None = None) -> Path:
    """The native program for `machine` ("aarch64", "armv7l" or "x86_64"), compiled where it is not
    in the cache ($XDG_CACHE_HOME/zgedge) already.

    cpu  a processor as GCC names it ("cortex-a72"): all may then use its instructions, and the
         program may stop on an older one. None: it runs on all of them, and kernels are chosen when
         it starts

    Raises MissingExtraError without ziglang, UsageError for a machine that there is no build for,
    ZgedgeError where the compiler fails.
    """
    if machine not in TARGETS:
        raise UsageError(
            f"There is no native program for {machine!r}.", f"It is for {', '.join(TARGETS)}."
        )
    zig = compiler()
    key = _key(machine, cpu)
    cache = make_folder(cache_folder())
    program = cache / f"native-{machine}-{key}" / NAME
    if program.exists():
        return program
    try:
        with open(cache / "native.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not program.exists():
                with tempfile.TemporaryDirectory(dir=cache) as made:
                    _compile(zig, machine, cpu, Path(made))
                    program.parent.mkdir(exist_ok=True)
                    os.replace(Path(made, NAME), program)
    except OSError as e:
        raise ZgedgeError(
            f"Cannot build in {cache}: {e.strerror}.",
            "XDG_CACHE_HOME names another folder for what is built.",
        ) from e
    return program


def compiler() -> str:
    """The zig program, called by its path. Raises MissingExtraError."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("deploy", "ziglang")
    return str(Path(spec.submodule_search_locations[0], "zig"))


def sources() -> list[Path]:
    """What the program is made of."""
    found = [path for folder in (CORE, NATIVE) for path in folder.glob("*.[ch]")]
    if not any(path.parent == NATIVE for path in found):
        raise ZgedgeError(
            f"The sources of the native program are not in {NATIVE}.", "Install zgedge again."
        )
    return sorted(found)


def _key(machine: str, cpu: str | None) -> str:
    digest = hashlib.sha256()
    flags = (CORE_FLAGS, FLAGS, SMALL, LINK, variants(machine, cpu), cpu)
    for part in (TARGETS[machine], repr(flags), importlib.metadata.version("ziglang")):
        digest.update(part.encode() + b"\0")
    for path in sources():
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]


def _compile(zig: str, machine: str, cpu: str | None, folder: Path) -> None:
    """Compile into `folder`: once more for each kernel variant, then all the rest."""
    command = [zig, "cc", "-target", TARGETS[machine], *SMALL, f"-I{CORE}"]
    if cpu is not None:
        command.append(f"-mcpu={_cpu(cpu)}")
    having = [f"-DZGE_WITH_{name.upper()}" for name in variants(machine, cpu) if name != "portable"]
    objects: list[str] = []
    jobs: list[tuple[list[str], Path]] = [
        ([*CORE_FLAGS, f"-DZGE_VARIANT={name}", *flags], CORE / "zge_kernels.c")
        for name, flags in variants(machine, cpu).items()
    ]
    for path in sources():
        if path.suffix == ".c" and path.name != "zge_kernels.c":
            jobs.append(([*(CORE_FLAGS if path.parent == CORE else FLAGS), *having], path))
    running: list[tuple[list[str], subprocess.Popen[str]]] = []
    try:
        for i, (flags, path) in enumerate(jobs):
            out = str(folder / f"{i}.o")
            objects.append(out)
            _start(running, [*command, *flags, "-c", str(path), "-o", out])
        while running:
            _wait(running.pop(0))
    finally:
        for _, left in running:
            left.kill()
            left.communicate()
    _start(running, [*command, *LINK, *objects, "-o", str(folder / NAME)])
    _wait(running.pop())


def _start(running: list[tuple[list[str], subprocess.Popen[str]]], command: list[str]) -> None:
    """Start a compiler, as many at once as there are processors."""
    if len(running) >= (os.cpu_count() or 1):
        _wait(running.pop(0))
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )  # fmt: skip
    running.append((command, process))


def _wait(job: tuple[Sequence[str], subprocess.Popen[str]]) -> None:
    command, process = job
    said, _ = process.communicate()
    if process.returncode:
        raise ZgedgeError(
            f"The native program cannot be compiled: {' '.join(command)}\n{said[-4000:]}"
        )
