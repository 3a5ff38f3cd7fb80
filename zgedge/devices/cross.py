"""What is compiled here for a board's processor, by the zig of PyPI: the core as a library for the
board's Python, and the native program. No CMake: an installed zgedge carries the sources alone."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
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
    key = _key(zig, product, machine, cpu)
    cache = make_folder(cache_folder())
    made = cache / f"{product.key}-{machine}-{key}" / product.file
    if _whole(made):
        return made
    try:
        with open(cache / "cross.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _whole(made):
                say(f"Compiling the {product.what} for {machine} ...")
                with tempfile.TemporaryDirectory(dir=cache) as folder:
                    _compile(zig, product, machine, cpu, Path(folder))
                    with open(Path(folder, product.file), "rb") as file:
                        os.fsync(file.fileno())
                    made.parent.mkdir(exist_ok=True)
                    os.replace(Path(folder, product.file), made)
    except OSError as e:
        raise ZgedgeError(
            f"Cannot build in {cache}: {e.strerror}.",
            "XDG_CACHE_HOME names another folder for what is built.",
        ) from e
    return made


def _whole(made: Path) -> bool:
    """Whether it is there, and more than a name that a power cut left."""
    return made.exists() and made.stat().st_size > 0


def _zig_version(zig: str) -> str:
    try:
        return importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:  # it can be imported all the same
        return f"{os.stat(zig).st_size} bytes"


def _key(zig: str, product: Product, machine: str, cpu: str | None) -> str:
    digest = hashlib.sha256()
    flags = (CORE_FLAGS, product.common, product.flags, product.link, variants(machine, cpu), cpu)
    for part in (product.targets[machine], repr(flags), _zig_version(zig)):
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
    objects = [str(folder / f"{i}.o") for i in range(len(jobs))]
    made = str(folder / product.file)
    _run_all(
        [[*command, *flags, "-c", str(path), "-o", out]
         for (flags, path), out in zip(jobs, objects, strict=True)], product.what,
    )  # fmt: skip
    _run_all([[*command, *product.link, *objects, "-o", made]], product.what)


def _c(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix == ".c")


def _run_all(commands: Sequence[list[str]], what: str) -> None:
    """Run compilers, as many at once as there are processors; none is left running."""
    left = list(commands)
    running: list[subprocess.Popen[str]] = []
    try:
        while left or running:
            if left and len(running) < (os.cpu_count() or 1):
                running.append(_start(left.pop(0)))
                continue
            said, _ = running[0].communicate()
            process = running.pop(0)
            if process.returncode:
                raise ZgedgeError(
                    f"The {what} cannot be compiled: {' '.join(map(str, process.args))}\n"  # type: ignore[arg-type]
                    + (said[-4000:] or f"It ended with {process.returncode} and said nothing. Is "
                       f"there room in {cache_folder()}?")
                )  # fmt: skip
    finally:
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # zig, and the compiler that it started
            process.communicate()


def _start(command: list[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as e:
        raise ZgedgeError(
            f"{command[0]} cannot be started: {e.strerror}.",
            "Install it again: pip install --force-reinstall ziglang",
        ) from e
