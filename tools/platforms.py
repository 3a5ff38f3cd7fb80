"""Whether one file and one stream leave the same bytes on every processor: the table of that.

    python tools/platforms.py [--quick] [--json] [--out docs/results/platforms.md]

Learns the same stream, with replay and rewiring, on this machine and on emulated 64-bit and 32-bit
Arm, with every kernel variant, and compares the whole arenas (tests/platform has the driver and the
networks). Fails where any byte differs. What the machine lacks is left out, and said.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.platform import builds, networks  # noqa: E402
from zgedge import network as net  # noqa: E402

STEPS = 10_000


@dataclass(frozen=True)
class Platform:
    """A processor and the kernels to use on it; `best` are those that the core chooses."""

    name: str
    command: tuple[Path, ...]
    variant: str
    env: tuple[tuple[str, str], ...] = ()


def platforms() -> tuple[list[Platform], list[str]]:
    """What can run here, the reference first, and reasons for what cannot."""
    out, missing = [], []
    native = (builds.driver(builds.NATIVE),)
    for name in ("portable", "avx2", "vnni", "neon", "dotprod"):
        case = networks.SMALL[0]
        with tempfile.TemporaryDirectory() as folder:
            usable = builds.replay(native, case.file(), case.stream(), Path(folder)).variants
        if usable.get(name):
            out.append(Platform(f"this machine, {name}", native, name))
        elif name in usable:
            missing.append(f"{name}: this machine lacks the instructions")
    try:
        arm = (Path(builds.emulator("qemu-aarch64")), builds.driver(builds.AARCH64))
        for name in ("portable", "neon", "dotprod"):
            out.append(Platform(f"aarch64, {name}", arm, name, (("QEMU_CPU", "max"),)))
        out.append(Platform("Cortex-A72, own choice", arm, "best", (("QEMU_CPU", "cortex-a72"),)))
    except builds.MissingToolError as e:
        missing.append(f"aarch64: {e}")
    try:
        arm = (Path(builds.emulator("qemu-arm")), builds.driver(builds.ARMV7))
        out.append(Platform("armv7, portable", arm, "portable"))
    except builds.MissingToolError as e:
        missing.append(f"armv7: {e}")
    return out, missing


def describe(network: net.Network) -> str:
    """A network in a table's cell: "64 → 136 of 20 by 4 → 10"; of a trunk its layers' kinds."""
    text = str(network.inputs)
    if network.trunk:
        text = " × ".join(map(str, network.shape))
        for conv in network.trunk:
            height, width, channels = conv.out_shape
            plus = " +" if conv.add is not None else ""
            text += f" → {conv.kind}{plus} {height} × {width} × {channels}"
    for layer in network.layers:
        text += f" → {layer.outputs}"
        if layer.kind == net.SPARSE:
            text += f" of {layer.width}" + (f" by {layer.block}" if layer.block > 1 else "")
    return text


def run(cases: tuple[networks.Case, ...], steps: int) -> dict[str, Any]:
    """Every case on every platform: a row for each case, of what was learned and what differs."""
    where, missing = platforms()
    rows = []
    for case in cases:
        results = {}
        for platform in where:
            with tempfile.TemporaryDirectory() as folder:
                results[platform.name] = builds.replay(
                    platform.command, case.file(), case.stream(), Path(folder), platform.variant,
                    steps, case.new, case.replayed, env=dict(platform.env),
                )  # fmt: skip
        first = results[where[0].name]
        rows.append(
            {
                "name": case.name,
                "network": describe(case.network),
                "batch": case.network.batch,
                "strategy": case.strategy,
                "bytes": len(first.data),
                "rewired": first.rewired,
                "replayed": first.replayed,
                "sha256": hashlib.sha256(first.data).hexdigest(),
                "chosen": {name: x.variant for name, x in results.items()},
                "same": {
                    name: (x.data, x.predictions) == (first.data, first.predictions)
                    for name, x in results.items()
                },
            }
        )
    return {"steps": steps, "seed": networks.SEED, "missing": missing, "rows": rows}


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].strip()


def as_markdown(result: dict[str, Any]) -> list[str]:
    """The page of docs/results."""
    from zgedge.bench import results as pages

    lines = pages.heading(
        "The same bytes on every processor",
        "python tools/platforms.py --out docs/results/platforms.md",
        [result["seed"]],
        packages=["numpy", "ziglang"],
    )
    lines[-1] = lines[-1].split(" Seeds:")[0] + f" Seed of files and streams: {result['seed']}."
    tools = [_first_line(builds.compiler(), "--version")]
    for name in ("qemu-aarch64", "qemu-arm"):
        try:
            tools.append(_first_line(builds.emulator(name), "--version"))
        except builds.MissingToolError:
            continue
    lines.append(f"- Tools: {'; '.join(dict.fromkeys(tools))}.")
    lines += [f"- Left out: {reason}." for reason in result["missing"]]
    names = list(result["rows"][0]["same"]) if result["rows"] else []
    chosen = {name: result["rows"][0]["chosen"][name] for name in names}
    lines += [
        "",
        f"Each network learned {result['steps']:,} steps of one stream, with replay and rewiring,",
        "and predicted after each seventh. Compared are all bytes of the sealed arena and a hash",
        "of all predictions and scores, with the portable kernels of this machine. Arm is emulated",
        "by QEMU; its programs are built by zig and linked statically with musl, so compiler and C",
        "library differ too. A Cortex-A72 (Raspberry Pi 4) has no dot product: there the core took",
        f"{chosen.get('Cortex-A72, own choice', 'nothing: it was not run')}.",
        "",
    ]
    head = ["network", "layers", "batch", "rewiring", "bytes", "rewired", "SHA-256", *names[1:]]
    rows = [
        [
            x["name"], x["network"], x["batch"], x["strategy"], f"{x['bytes']:,}",
            f"{x['rewired']:,}", f"`{x['sha256'][:12]}`",
            *("same" if x["same"][name] else "**differs**" for name in names[1:]),
        ]
        for x in result["rows"]
    ]  # fmt: skip
    lines += pages.table(head, rows)
    lines += [
        "",
        '*Layers*: units after units; "of n": of that fan-in, "by b": in blocks of b inputs that',
        "share an index; without, dense. Of a trunk the pictures that its layers give, with a plus",
        "where another is added.",
    ]
    return lines


@click.command()
@click.option("--quick", is_flag=True, help="The small networks only, 1,000 steps.")
@click.option("--json", "to_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the page to this file.")
def main(quick: bool, to_json: bool, out: Path | None) -> None:
    """Compare what learning leaves on every processor at hand."""
    from zgedge.bench import results as pages

    cases = networks.SMALL if quick else (*networks.SMALL, *networks.LARGE)
    try:
        result = run(cases, 1_000 if quick else STEPS)
    except builds.MissingToolError as e:
        raise click.ClickException(str(e)) from e
    if out is not None:
        pages.write(out, as_markdown(result))
    print(json.dumps(result) if to_json else "\n".join(as_markdown(result)))
    if not all(same for x in result["rows"] for same in x["same"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
