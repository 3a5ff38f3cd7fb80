"""Builds of the core for attacks: as it is shipped, and under the sanitizers."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from tests.platform import builds
from tests.platform.needed import or_skip
from zgedge.runtime import core_library as core

HERE = Path(__file__).resolve().parent
CORE = Path(core.__file__).parent / "core"
SANITIZED = (
    "-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all", "-DEXACT",
)  # fmt: skip
_AVX512 = ("f", "bw", "dq", "vl", "vbmi", "vnni")
_X86 = {
    "avx2": ("-mavx2",),
    "vnni": ("-mavx2", *(f"-mavx512{x}" for x in _AVX512), "-mprefer-vector-width=512"),
}


def compile_with_core(cc: str, folder: Path, source: Path, flags: tuple[str, ...]) -> Path:
    """A program of `source` and the core with every variant that this processor can run."""
    base = [cc, "-std=gnu11", "-ffp-contract=off", f"-I{CORE}", *flags]
    objects, defines = [], []
    for name, usable in core.variants().items():
        extra: tuple[str, ...] = ()
        if platform.machine() == "x86_64" and name in _X86:
            extra = ("-DZGE_SIMD_X86", *_X86[name])
        elif name != "portable":
            continue
        if not usable:
            continue
        out = folder / f"{name}.o"
        kernels = str(CORE / "zge_kernels.c")
        subprocess.run(
            [*base, f"-DZGE_VARIANT={name}", *extra, "-c", kernels, "-o", str(out)], check=True
        )
        objects.append(str(out))
        if name != "portable":
            defines.append(f"-DZGE_WITH_{name.upper()}")
    program = folder / source.stem
    rest = [str(path) for path in sorted(CORE.glob("*.c")) if path.name != "zge_kernels.c"]
    subprocess.run([*base, *defines, str(source), *rest, *objects, "-o", str(program)], check=True)
    return program


@pytest.fixture(scope="session")
def shipped(cc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """geometry.c with the core as the project builds it, which is compiled for other tests too."""
    library = or_skip(lambda: builds.cmake(builds.NATIVE))
    program = tmp_path_factory.mktemp("shipped") / "geometry"
    command = [cc, "-std=gnu11", "-O3", f"-I{CORE}", HERE / "geometry.c", library, "-o", program]
    subprocess.run(command, check=True)
    return program


@pytest.fixture(scope="session")
def sanitized(cc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """geometry.c with the core, both under the sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    return compile_with_core(cc, folder, HERE / "geometry.c", SANITIZED)
