"""Fuzz the loader, prediction and learning under the sanitizers; record a long run.

    python tools/fuzz.py --minutes 60 --out docs/results/fuzz.md

The driver (tools/fuzz_driver.c) changes files of many shapes, signs most of them again so that the
deep checks are reached, and uses what the core accepts. Every kernel variant that this processor
has gets an equal share of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import nets  # noqa: E402
from zgedge.bench import results  # noqa: E402
from zgedge.network import (  # noqa: E402
    Network,
    conv,
    dense,
    depthwise,
    max_pool,
    mean_pool,
    sparse,
)
from zgedge.runtime import core_library as core  # noqa: E402

CORE = ROOT / "zgedge" / "runtime" / "core"
PARTS = sorted({path.stem.removeprefix("zge_") for path in CORE.glob("*.c")} - {"kernels"})
FLAGS = [
    "-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-ffp-contract=off",
    "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{CORE}",
]  # fmt: skip
X86 = {
    "avx2": ["-DZGE_SIMD_X86", "-mavx2"],
    "vnni": ["-DZGE_SIMD_X86", "-mavx2", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl",
             "-mavx512vbmi", "-mavx512vnni"],
}  # fmt: skip

SEEDS: list[Network] = [
    nets.network((1, 24, 1), (sparse(24, 9, 5),), 4, replay_samples=3, replay_bits=4, batch=4),
    nets.network((1, 32, 1), (sparse(32, 17, 8, 4),), 3, replay_samples=5, replay_bits=8),
    nets.network((1, 32, 1), (sparse(32, 16, 16, 8),), 3, batch=8),
    nets.network((1, 64, 1), (sparse(64, 16, 32, 16),), 5),
    nets.network((1, 33, 1), (sparse(33, 17, 5), sparse(17, 9, 3)), 3, groups=33, batch=8),
    nets.network((1, 20, 1), (sparse(20, 16, 32 // 2), dense(16, 7)), 4, batch=16),
    nets.network((1, 16, 1), (dense(16, 5),), 3).for_inference(),
    nets.network((1, 40, 1), (sparse(40, 32, 32),), 3, align=64).for_inference(),
    nets.network((1, 12, 1), (), 4, batch=1),
    nets.network(
        (5, 4, 1),
        (sparse(8, 5, 3),),
        3,
        batch=4,
        replay_samples=3,
        replay_bits=4,
        trunk=(
            conv((5, 4, 1), 4),
            conv((5, 4, 4), 4, 1, add=1),
            max_pool((5, 4, 4), 3, 2),
            depthwise((2, 1, 4), add=3),
        ),
    ),
    nets.network((1, 16, 1), (sparse(16, 9, 4),), 3, batch=2, head="analytic", pending=2),
    nets.network((1, 9, 1), (), 4, batch=4, known=2, pending=2, replay_samples=3, replay_bits=4),
    nets.network((1, 9, 1), (dense(9, 5),), 4, batch=4, known=3, head="analytic"),
    nets.network(
        (6, 5, 3), (), 3, batch=2, trunk=(depthwise((6, 5, 3), 5, 2), mean_pool((3, 3, 3)))
    ),
    nets.network(
        (7, 7, 2),
        (dense(18, 3),),
        2,
        learning=False,
        batch=1,
        trunk=(conv((7, 7, 2), 17, 3, 2, same=False), conv((3, 3, 17), 18, 3, same=False)),
    ),
]


def build(folder: Path) -> tuple[Path, list[str]]:
    """Compile the driver with every variant that can run here: the program and their names."""
    cc = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if cc is None:
        raise SystemExit("No C compiler: install one, or name it in CC.")
    variants = [name for name, usable in core.variants().items() if usable and name != "neon"]
    variants = [name for name in variants if name == "portable" or name in X86]
    defines, objects = [], []
    for name in variants:
        out = folder / f"{name}.o"
        flags = [f"-DZGE_VARIANT={name}", *X86.get(name, [])]
        subprocess.run(
            [cc, *FLAGS, *flags, "-c", str(CORE / "zge_kernels.c"), "-o", str(out)], check=True
        )
        objects.append(str(out))
        if name != "portable":
            defines.append(f"-DZGE_WITH_{name.upper()}")
    sources = [str(CORE / f"zge_{part}.c") for part in PARTS]
    program = folder / "fuzz"
    driver = str(ROOT / "tools" / "fuzz_driver.c")
    command = [cc, *FLAGS, *defines, driver, *sources, *objects, "-o", str(program)]
    subprocess.run(command, check=True)
    return program, variants


def run(seconds: float, seed: int = 0) -> dict[str, Any]:
    """Fuzz for about that long. Raises SystemExit at a finding."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program, variants = build(folder)
        files = []
        for i, network in enumerate(SEEDS):
            path = folder / f"{i}.zge"
            path.write_bytes(nets.file(network, seed=i))
            files.append(str(path))
        total: Counter[str] = Counter()
        executions = accepted = 0
        for number, variant in enumerate(variants):
            share = str(seconds / len(variants))
            done = subprocess.run(
                [str(program), str(seed * 100 + number), share, variant, *files],
                cwd=folder, capture_output=True, text=True, check=False,
                env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1"},
            )  # fmt: skip
            if done.returncode != 0:
                kept = folder / "finding.zge"
                if kept.exists():
                    shutil.copy(kept, ROOT / "finding.zge")
                raise SystemExit(f"finding with variant {variant}:\n{done.stderr[-4000:]}")
            found = json.loads(done.stdout)
            executions += found["executions"]
            accepted += found["accepted"]
            total.update({k: int(v) for k, v in found["statuses"].items()})
    return {
        "executions": executions, "accepted": accepted, "findings": 0, "variants": variants,
        "statuses": {core.status_text(int(k)): v for k, v in sorted(total.items(), reverse=True)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="Markdown file")
    options = parser.parse_args()
    found = run(60 * options.minutes, options.seed)
    command = f"python tools/fuzz.py --minutes {options.minutes:g} --out docs/results/fuzz.md"
    lines = results.heading("Fuzzing", command, [options.seed], packages=("numpy", "zgedge"))
    lines += [
        f"- {options.minutes:g} minutes under the address and undefined-behaviour sanitizers, "
        f"kernel variants {', '.join(found['variants'])}.",
        f"- **{found['executions']:,} files tried, {found['accepted']:,} accepted, 0 findings.** "
        "An accepted file predicted, learned, was sealed and opened again.",
        "",
    ]
    lines += results.table(["what the core said", "files"],
                           [[k, f"{v:,}"] for k, v in found["statuses"].items()])  # fmt: skip
    if options.out is not None:
        results.write(options.out, lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
