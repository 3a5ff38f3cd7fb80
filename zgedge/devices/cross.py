"""What is compiled here for a board's processor, by the zig of PyPI: the core as a library for the
board's Python, and the native program. No CMake: an installed zgedge carries the sources alone."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zgedge import runtime
from zgedge.devices.places import cache_folder, make_folder
from zgedge.errors import MissingExtraError, UsageError, ZgedgeError

CORE = Path(runtime.__file__).parent / "core"
# As in CMakeLists.txt, which says why.
CORE_FLAGS = (
    "-std=c11", "-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno",
    "-fvisibility=hidden", "-fno-stack-protector", "-U_FORTIFY_SOURCE",
)  # fmt: skip
_X86, _ARM = "-DZGE_SIMD_X86", "-DZGE_SIMD_ARM"
_VNNI = (
    "-mavx2", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vbmi",
    "-mavx512vnni", "-mprefer-vector-width=512",
)  # fmt: skip

Say = Callable[[str], None]


@dataclass(frozen=True)
class Product:
    """A file that is made of the core, and of `beside` with `flags`."""

    what: str  # as messages call it
    key: str  # of its folder in the cache
    file: str
    targets: dict[str, str]  # machine: zig's name for it
    common: tuple[str, ...]
    link: tuple[str, ...]
    beside: Callable[[], Sequence[Path]] = list
    flags: tuple[str, ...] = ()


def compiler() -> str:
    """The zig program, called by its path. Raises MissingExtraError."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("deploy", "ziglang")
    return str(Path(spec.submodule_search_locations[0], "zig"))


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


def build(
    product: Product, machine: str, cpu: str | None = None, say: Say = lambda _: None
) -> Path:
    """`product` for `machine` ("aarch64", "armv7l" or "x86_64"), compiled where it is not in the
    cache ($XDG_CACHE_HOME/zgedge) already.

    cpu  a processor as GCC names it ("cortex-a72"): all may then use its instructions, and the
         product may stop on an older one. None: it runs on all of them, and kernels are chosen when
         it starts
    say  is told where it has to be compiled

    Raises MissingExtraError without ziglang, UsageError for a machine that there is no build for,
    ZgedgeError where the compiler fails.
    """
    if machine not in product.targets:
        raise UsageError(
            f"There is no {product.what} for {machine!r}.",
            f"It is for {', '.join(product.targets)}.",
        )
    zig = compiler()
    key = _key(product, machine, cpu)
    cache = make_folder(cache_folder())
    made = cache / f"{product.key}-{machine}-{key}" / product.file
    if made.exists():
        return made
    try:
        with open(cache / "cross.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                say(f"Compiling the {product.what} for {machine} ...")
                with tempfile.TemporaryDirectory(dir=cache) as folder:
                    _compile(zig, product, machine, cpu, Path(folder))
                    made.parent.mkdir(exist_ok=True)
                    os.replace(Path(folder, product.file), made)
    except OSError as e:
        raise ZgedgeError(
            f"Cannot build in {cache}: {e.strerror}.",
            "XDG_CACHE_HOME names another folder for what is built.",
        ) from e
    return made


def _key(product: Product, machine: str, cpu: str | None) -> str:
    digest = hashlib.sha256()
    flags = (CORE_FLAGS, product.common, product.flags, product.link, variants(machine, cpu), cpu)
    for part in (product.targets[machine], repr(flags), importlib.metadata.version("ziglang")):
        digest.update(part.encode() + b"\0")
    for path in sorted([*CORE.glob("*.[ch]"), *product.beside()]):
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\0".encode() + data)
    return digest.hexdigest()[:16]


def _compile(zig: str, product: Product, machine: str, cpu: str | None, folder: Path) -> None:
    """Compile into `folder`: once more for each kernel variant, then all the rest."""
    command = [zig, "cc", "-target", product.targets[machine], *product.common, f"-I{CORE}"]
    if cpu is not None:
        command.append(f"-mcpu={_cpu(cpu)}")
    having = [f"-DZGE_WITH_{name.upper()}" for name in variants(machine, cpu) if name != "portable"]
    jobs: list[tuple[list[str], Path]] = [
        ([*CORE_FLAGS, f"-DZGE_VARIANT={name}", *flags], CORE / "zge_kernels.c")
        for name, flags in variants(machine, cpu).items()
    ]
    jobs += [([*CORE_FLAGS, *having], path) for path in _c(CORE.glob("*.c"))
             if path.name != "zge_kernels.c"]  # fmt: skip
    jobs += [([*product.flags, *having], path) for path in _c(product.beside())]
    objects: list[str] = []
    running: list[tuple[list[str], subprocess.Popen[str]]] = []
    try:
        for i, (flags, path) in enumerate(jobs):
            out = str(folder / f"{i}.o")
            objects.append(out)
            _start(running, [*command, *flags, "-c", str(path), "-o", out], product.what)
        while running:
            _wait(running.pop(0), product.what)
    finally:
        for _, left in running:
            left.kill()
            left.communicate()
    link = [*command, *product.link, *objects, "-o", str(folder / product.file)]
    _start(running, link, product.what)
    _wait(running.pop(), product.what)


def _c(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix == ".c")


def _start(
    running: list[tuple[list[str], subprocess.Popen[str]]], command: list[str], what: str
) -> None:
    """Start a compiler, as many at once as there are processors."""
    if len(running) >= (os.cpu_count() or 1):
        _wait(running.pop(0), what)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )  # fmt: skip
    running.append((command, process))


def _wait(job: tuple[Sequence[str], subprocess.Popen[str]], what: str) -> None:
    command, process = job
    said, _ = process.communicate()
    if process.returncode:
        raise ZgedgeError(f"The {what} cannot be compiled: {' '.join(command)}\n{said[-4000:]}")
