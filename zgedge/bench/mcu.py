"""What exported C takes of a microcontroller: flash, RAM and instructions on a Cortex-M4.

    python -m zgedge.bench.mcu [--out docs/results/mcu.md] [--quick] [--json]

Networks are trained, exported, compiled with `zig cc` and run on QEMU's board mps2-an386, whose
timer counts instructions (-icount). Every logit is compared with the core's on this machine. Then a
learner in 64 KB of RAM meets MNIST with its inputs permuted, and must leave the bytes that the
learner of this machine leaves.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from zgedge import arena
from zgedge import data as sources
from zgedge.bench import results, timing
from zgedge.budget import Task, named, parse_size
from zgedge.data import Dataset, shifts
from zgedge.errors import ProofError
from zgedge.export import c_run
from zgedge.export.c import CSource, to_c
from zgedge.runtime import Learner, Model

NETWORKS = {
    "sparse, single connections": "s96:64",
    "sparse, blocks of 4": "s96:64/4",
    "sparse, blocks of 8": "s96:64/8",
    "sparse, blocks of 16": "s96:64/16",
    "dense": "d32",
    "convolutions, one residual": "c3/2x8 c3x8+ c3/2x12",
    "depthwise convolutions": "c3/2x8 dw3/2 c1x24 dw3/2 c1x40 m",
}
LEVELS = ("-Os", "-O2")
RAM = parse_size("64KB")
LEARNER = "s96:64/4 b8 r80"
LARGEST = 1 << 24  # bytes that no network here reaches
TEST_ROWS = 2000  # of the learner's accuracy before and after
WINDOW = 200  # samples of the stream's first and last accuracy


@dataclass(frozen=True)
class Built:
    """An export at one level of the compiler: bytes of its sections and of its stack, and the mean
    of instructions per prediction."""

    level: str
    code: int
    constants: int
    static: int
    stack: int
    instructions: int


@dataclass(frozen=True)
class Row:
    """A network that predicts. `compared` logits were equal to the core's, all of them."""

    name: str
    spec: str
    bytes: int
    accuracy: float
    operations: int
    compared: int
    built: tuple[Built, ...]


@dataclass(frozen=True)
class Learning:
    """A network that learns in `RAM` bytes: what it took, and how its accuracy rose.

    `trained` and `shifted` are accuracies on test rows before and after the inputs were permuted,
    `first` and `last` those of the stream's ends, each sample predicted before it was learned, and
    `after` that on the permuted test rows after the stream.
    """

    spec: str
    bytes: int
    batch: int
    remembered: int
    built: Built
    learn_instructions: int
    samples: int
    rewired: int
    trained: float
    shifted: float
    first: float
    last: float
    after: float


def _model(written: bytes, name: str) -> Model:
    return Model(arena.in_memory(written), name)


def _trained(dataset: Dataset, spec: str, steps: int, learning: bool) -> bytes:
    from zgedge.train import train

    network = named(Task.of(dataset), LARGEST, spec, learning=learning).network
    result = train(dataset, network, steps=steps, seed=0)
    return arena.write(result.network, replace(result.parameters, budget=0, replay=None))


def _accuracy(model: Model, dataset: Dataset, rows: int | None = None) -> float:
    x, y = dataset.x_test[:rows], dataset.y_test[:rows]
    return float((model.logits(x).argmax(axis=1) == y).mean())


def built(
    export: CSource, level: str, model: Model, x: npt.NDArray[Any]
) -> tuple[Built, c_run.Program]:
    """An export compiled and run on samples. Raises ProofError where a logit is not the core's."""
    program = c_run.Program(export, "cortex-m4", optimize=level, ram=RAM)
    begin = [c_run.start()] if export.learning else []
    *_, coded = program.run(*begin, c_run.quantize(export, x))
    *_, said, deep = program.run(*begin, c_run.predict(export, coded["codes"]), c_run.stack())
    if not np.array_equal(said["logits"], model.logits(x)):
        raise ProofError(f"{model.name} on a Cortex-M4 gives other logits than here.")
    size = program.sections()
    weighed = Built(
        level, size[".program.text"], size[".program.rodata"] + size[".program.data"],
        size[".program.data"] + size[".program.bss"], int(deep["result"][0]),
        round(float(said["instructions"].mean())),
    )  # fmt: skip
    return weighed, program


def predicting(dataset: Dataset, networks: dict[str, str], steps: int, samples: int) -> list[Row]:
    """A row for each network."""
    out = []
    for name, spec in networks.items():
        model = _model(_trained(dataset, spec, steps, learning=False), name)
        x = np.asarray(model.rows(dataset.x_test[:samples]), np.float32)
        export = to_c(model)
        sizes = tuple(built(export, level, model, x)[0] for level in LEVELS)
        network = model.arena.network
        out.append(
            Row(
                name, spec, network.file_bytes, _accuracy(model, dataset), network.operations,
                len(x) * network.classes, sizes,
            )
        )  # fmt: skip
    return out


def learning(dataset: Dataset, spec: str, steps: int, samples: int, rate: float) -> Learning:
    """The learner's row. Raises ProofError where its arena is not the one of this machine."""
    written = _trained(dataset, spec, steps, learning=True)
    after = shifts.permute(dataset, seed=1)
    model = _model(written, spec)
    trained, shifted = (_accuracy(model, d, TEST_ROWS) for d in (dataset, after))
    learner = Learner(model)
    learner.configure(rate=rate)
    export = to_c(_model(written, spec), learning=True)
    network = model.arena.network
    x = np.asarray(model.rows(after.x_train[:samples]), np.float32)
    y = after.y_train[:samples]
    size, program = built(export, "-Os", _model(written, spec), x[:50])
    _, _, said, deep, sealed = program.run(
        c_run.start(), c_run.configure(rate, 0),
        c_run.learn(export, x, y, network.batch - 1), c_run.stack(), c_run.seal(export),
    )  # fmt: skip
    for row, label in zip(x, y, strict=True):
        learner.learn_one(row, model.classes[label])
    if sealed["arena"][0].tobytes() != model.to_bytes():
        raise ProofError("The learner on a Cortex-M4 left other bytes than the one here.")
    right = said["result"] == y
    return Learning(
        spec, network.file_bytes, network.batch, network.replay_samples,
        replace(size, stack=int(deep["result"][0])),
        round(float(said["instructions"].mean())), samples, learner.status()["rewired"], trained,
        shifted, float(right[:WINDOW].mean()), float(right[-WINDOW:].mean()),
        _accuracy(model, after, TEST_ROWS),
    )  # fmt: skip


# ---- the page ----


def as_markdown(command: str, data: str, steps: int, rows: list[Row], one: Learning) -> list[str]:
    """Lines of the results file."""
    lines = results.heading("C on a microcontroller", command, (0,), packages=("torch", "ziglang"))
    lines = [
        *lines[:-1],
        "- Processor: Cortex-M4 with its floating-point unit, emulated by QEMU (board mps2-an386); "
        "compiled with `zig cc -mcpu=cortex_m4+vfp4d16sp`.",
        "",
        "Flash and RAM are the sizes of the linked program's sections, start-up code left out: "
        "*code* is the network's functions and the compiler's helpers that they call, *constants* "
        "weights, wiring, scales and tables, *RAM* what is static; *stack* is the most that was "
        "ever used, found by painting it. Instructions are counted by the emulator, not cycles: "
        "a Cortex-M4 takes one cycle and more for each.",
        "",
        "## Predicting",
        "",
        f"Networks for {data}, each trained for {steps:,} steps. Every logit of the test rows that "
        "were run is the core's of this machine.",
        "",
    ]
    head = ["network", "accuracy, %", ".zge", "multiply-adds", "compiled", "code", "constants"]
    head += ["RAM", "stack", "instructions", "for each multiply-add", "logits equal"]
    table = []
    for row in rows:
        for i, b in enumerate(row.built):
            first: list[object] = ["", "", "", ""]
            if i == 0:
                first = [f"{row.name} `{row.spec}`", f"{100 * row.accuracy:.2f}"]
                first += [f"{row.bytes:,}", f"{row.operations:,}"]
            per = b.instructions / row.operations
            table.append([*first, *_sizes(b), f"{per:.1f}", f"all {row.compared:,}"])
    lines += results.table(head, table)
    lines += [
        "",
        f"## Learning in {RAM:,} bytes of RAM",
        "",
        f"The network `{one.spec}` in a file of {one.bytes:,} bytes, the whole of which is in RAM; "
        f"the linker has {RAM:,} bytes for that and the stack. Trained for {steps:,} steps, it "
        f"meets the same pictures with all inputs permuted: {one.samples:,} samples come once, one "
        f"by one, each learned together with {one.batch - 1} of the {one.remembered} that are "
        "remembered. Its arena afterwards is, byte by byte, that of the learner of this machine.",
        "",
    ]
    lines += results.table(
        ["compiled", "code", "constants", "RAM", "stack", "instructions of a prediction",
         "of a learning step"],
        [[*_sizes(one.built), f"{one.learn_instructions:,}"]],
    )  # fmt: skip
    lines += [""]
    lines += results.table(
        ["accuracy", "%"],
        [
            ["test rows, as trained", f"{100 * one.trained:.1f}"],
            ["permuted, before learning", f"{100 * one.shifted:.1f}"],
            [f"the stream's first {WINDOW}, each before it was learned", f"{100 * one.first:.1f}"],
            [f"the stream's last {WINDOW}", f"{100 * one.last:.1f}"],
            ["permuted, after the stream", f"{100 * one.after:.1f}"],
        ],
    )
    lines += ["", f"{one.rewired:,} connections were replaced on the way."]
    return lines


def _sizes(b: Built) -> list[str]:
    numbers = (b.code, b.constants, b.static, b.stack, b.instructions)
    return [f"`{b.level}`", *(f"{n:,}" for n in numbers)]


@click.command()
@click.option("--data", default="mnist", show_default=True, help="What networks are trained on.")
@click.option("--data-dir", help="Folder of mnist and cifar10.")
@click.option("--steps", default=1000, show_default=True, help="Steps of each training.")
@click.option("--samples", default=2000, show_default=True, help="Samples of the learner's stream.")
@click.option("--rate", default=0.05, show_default=True, help="The learner's rate.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Page to write.")
@click.option("--quick", is_flag=True, help="Two networks and a short run: figures are rough.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def main(
    data: str,
    data_dir: str | None,
    steps: int,
    samples: int,
    rate: float,
    out: Path | None,
    quick: bool,
    as_json: bool,
) -> None:
    """Weigh exported C on an emulated Cortex-M4, and let it learn there."""
    command = "python -m zgedge.bench.mcu " + shlex.join(sys.argv[1:])
    names = tuple(NETWORKS)[1:6:4] if quick else tuple(NETWORKS)
    steps, samples = (min(steps, 100), min(samples, WINDOW)) if quick else (steps, samples)
    dataset = sources.load(data, data_dir=data_dir)
    rows = predicting(
        dataset, {name: NETWORKS[name] for name in names}, steps, 20 if quick else 200
    )
    one = learning(dataset, LEARNER, steps, samples, rate)
    lines = as_markdown(command.rstrip(), data, steps, rows, one)
    if out is not None:
        results.write(out, lines)
    if as_json:
        click.echo(json.dumps({"rows": [asdict(row) for row in rows], "learning": asdict(one)}))
    else:
        click.echo("\n".join(lines))


if __name__ == "__main__":
    timing.restart_clean("zgedge.bench.mcu")
    main()
