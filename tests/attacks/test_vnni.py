"""The AVX-512 kernels leave the bytes of the portable ones, also seen where no processor has them.

Their intrinsics are computed in plain C (avx512_plain.h), over the same networks as in
test_geometry.py.
"""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import pytest

from tests import nets
from tests.attacks.conftest import CORE, HERE
from tests.attacks.test_geometry import _edges, _extreme, _random, _random_trunks, _trunks
from zgedge import arena

pytestmark = [
    pytest.mark.xdist_group("attacks"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels of x86-64"),
]
PLAIN = (HERE / "avx512_plain.h").read_text()


def _program(cc: str, folder: Path, plain: str) -> Path:
    """geometry.c with the portable kernels and those for AVX-512, which think that they can run."""
    core = folder / "core"
    core.mkdir()
    for source in CORE.glob("zge*.[ch]"):
        text = source.read_text()
        if source.name == "zge_x86.h":
            ask = (
                "static inline int32_t zge_x86_has(uint32_t ebx7, uint32_t ecx7, uint32_t xcr0) {\n"
            )
            assert ask in text
            text = text.replace(ask, f"{ask}    if (ebx7 || ecx7 || xcr0) return 1;\n")
        (core / source.name).write_text(text)
    header = folder / "avx512_plain.h"
    header.write_text(plain)
    flags = [cc, "-std=gnu11", "-O2", "-ffp-contract=off", "-w", f"-I{core}"]
    vnni = ["-DZGE_VARIANT=vnni", "-DZGE_SIMD_X86", "-mavx2", "-include", str(header)]
    kernels = str(core / "zge_kernels.c")
    objects = [str(folder / "portable.o"), str(folder / "vnni.o")]
    for kind, out in zip((["-DZGE_VARIANT=portable"], vnni), objects, strict=True):
        subprocess.run([*flags, *kind, "-c", kernels, "-o", out], check=True)
    units = [str(path) for path in sorted(core.glob("*.c")) if path.name != "zge_kernels.c"]
    program = folder / "geometry"
    subprocess.run(
        [*flags, "-DZGE_WITH_VNNI", str(HERE / "geometry.c"), *units, *objects, "-o", program],
        check=True,
    )  # fmt: skip
    return program


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("files")
    paths = []
    networks = [*_edges(), *_random(60), *_trunks(), *_random_trunks(40)]
    for i, network in enumerate(networks[::3]):
        path = folder / f"{i}.zge"
        extreme = i % 4 == 3
        data = (
            _extreme(network, i) if extreme else arena.write(network, nets.parameters(network, i))
        )
        path.write_bytes(data)
        paths.append(str(path))
    return paths


def test_every_intrinsic_is_a_plain_one() -> None:
    used = set(re.findall(r"\b_mm512_\w+", (CORE / "zge_x86.h").read_text()))
    defined = set(re.findall(r"^#define (_mm512_\w+)", PLAIN, re.MULTILINE))
    assert len(used) > 60
    assert used <= defined


def test_bytes_are_those_of_the_portable_kernels(cc: str, tmp_path: Path, files: list[str]) -> None:
    command = [_program(cc, tmp_path, PLAIN), "1", "4", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == len(files) > 130


def test_a_wrong_product_is_seen(cc: str, tmp_path: Path, files: list[str]) -> None:
    right = "(int32_t)a.ub[j] * b.b[j]"
    assert PLAIN.count(right) == 1
    command = [
        _program(cc, tmp_path, PLAIN.replace(right, f"{right} + (j == 63)")),
        "1",
        "4",
        *files,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "variant vnni: other answers" in done.stderr
