"""What exports weigh and how long they take: the table of that.

    python -m zgedge.bench.exports [--data mnist] [--out docs/results/exports.md] [--quick] [--json]

Networks are trained, exported to everything, and every export is compared with the core on all test
rows. Beside each stands the dense network of the usual path, float to int8 after training, that
reaches its accuracy. Then predictions are timed, in one process, on one core, in turn.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from zgedge import arena
from zgedge import data as sources
from zgedge.bench import ours, results, timing
from zgedge.bench.nets import random_zge
from zgedge.bench.tflite_model import usual_bytes
from zgedge.bench.timing import Runner, Spread
from zgedge.budget import Task, named
from zgedge.data import Dataset
from zgedge.errors import ZgedgeError
from zgedge.export.check import compare, pair_of
from zgedge.export.naming import INPUT, LOGITS
from zgedge.export.source import need
from zgedge.export.targets import TARGETS, contents, make
from zgedge.export.tflite import feeder, open_in_litert
from zgedge.runtime import Model
from zgedge.train import train

NETWORKS = {
    "sparse, single connections": "s96:64",
    "sparse, blocks of 4": "s96:64/4",
    "sparse, blocks of 16": "s128:64/16",
    "convolutions, one residual": "c3/2x8 c3x8+ c3/2x12",
}
SMALL = {"sparse, blocks of 16": "s32:16/16", "convolution": "c3/2x4 c3x4+"}
WIDTHS = (8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256)
FORMS = tuple((target, form) for target, kind in TARGETS.items() for form in kind.forms)
PACKAGES = ("numpy", "torch", "onnx", "onnxruntime", "tflite", "ai-edge-litert")
LARGEST = 1 << 24  # bytes that no network here reaches
CALIBRATION = 1024


@dataclass(frozen=True)
class Export:
    """One export of a trained network: bytes, and how many of its integers on the test rows are
    not the core's. `accuracy` is its own."""

    target: str
    form: str
    bytes: int
    differing: int
    largest: int
    accuracy: float


@dataclass(frozen=True)
class Sizes:
    """A trained network, its exports, and the dense network that is as accurate: None where none
    of those tried is."""

    name: str
    spec: str
    bytes: int
    accuracy: float
    exports: tuple[Export, ...]
    dense_units: int | None
    dense_bytes: int | None
    dense_accuracy: float | None


def _trained(dataset: Dataset, spec: str, steps: int, seed: int) -> Model:
    network = named(Task.of(dataset), LARGEST, spec, learning=False).network
    result = train(dataset, network, steps=steps, seed=seed)
    written = arena.write(result.network, replace(result.parameters, budget=0))
    return Model(arena.in_memory(written), spec)


def _accuracy(model: Model, dataset: Dataset) -> float:
    return float((model.logits(dataset.x_test).argmax(axis=1) == dataset.y_test).mean())


def exported(model: Model, dataset: Dataset) -> tuple[Export, ...]:
    """All that a model can be exported to, compared on all test rows."""
    x = np.asarray(model.rows(dataset.x_test), np.float32)
    found = []
    for target, form in FORMS:
        try:
            out = "model" + TARGETS[target].suffixes[0]
            made = make(model, target, form, out, data=dataset.x_train[:CALIBRATION])
        except ZgedgeError:
            if (target, form) != ("tflite", "sparse"):
                raise
            continue  # no layer has blocks for that encoding
        # A program is flash, not text; its constants are what is counted.
        size = made.flash_bytes if target == "c" else len(b"".join(contents(target, made)))
        pair = pair_of(model, target, made)
        answers: list[npt.NDArray[Any]] = []

        def kept(
            rows: npt.NDArray[np.float32],
            pair: Callable[..., Any] = pair,
            answers: list[npt.NDArray[Any]] = answers,
        ) -> Any:
            both = pair(rows)
            answers.append(both[1])
            return both

        comparison = compare(kept, [("test rows", x)])
        right = float((answers[0].argmax(axis=1) == dataset.y_test).mean())
        found.append(Export(target, form, size, comparison.differing, comparison.largest, right))
    return tuple(found)


def sizes(
    dataset: Dataset, networks: dict[str, str], widths: tuple[int, ...], steps: int, seed: int = 0
) -> list[Sizes]:
    """Train the networks and dense ones of growing width, all for as many steps; export them."""
    models = {name: _trained(dataset, spec, steps, seed) for name, spec in networks.items()}
    goal = {name: _accuracy(model, dataset) for name, model in models.items()}
    dense: list[tuple[int, float]] = []
    for units in widths:
        dense.append((units, _accuracy(_trained(dataset, f"d{units}", steps, seed), dataset)))
        if dense[-1][1] >= max(goal.values()):
            break
    out = []
    for name, model in models.items():
        equal = next((pair for pair in dense if pair[1] >= goal[name]), None)
        shape = None if equal is None else (model.inputs, equal[0], len(dataset.classes))
        out.append(
            Sizes(
                name, networks[name], len(model.arena.buffer), goal[name],
                exported(model, dataset), None if equal is None else equal[0],
                None if shape is None else usual_bytes(shape),
                None if equal is None else equal[1],
            )
        )  # fmt: skip
    return out


# ---- latency ----


def _python_loop(call: Callable[[Any], object], rows: list[Any]) -> Callable[[int], int]:
    def run(calls: int) -> int:
        count, at = len(rows), 0
        start = time.perf_counter_ns()
        for _ in range(calls):
            call(rows[at])
            at = at + 1 if at + 1 < count else 0
        return time.perf_counter_ns() - start

    return run


def onnx_runner(model: Model, form: str, x: npt.NDArray[np.uint8]) -> Runner:
    """onnxruntime's Python API on one thread: raw float32 in, logits out."""
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    data = make(model, "onnx", form, "model.onnx")
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape[1:]
    rows = [row.astype(np.float32).reshape(1, *shape) for row in x]
    run, names = session.run, [LOGITS]

    def call(row: Any) -> Any:
        return run(names, {INPUT: row})[0]

    def check() -> npt.NDArray[Any]:
        return np.asarray(np.concatenate([call(row) for row in rows]).argmax(axis=1))

    return Runner(f"onnxruntime, {form}", _python_loop(call, rows), check, (session,))


def litert_runner(model: Model, form: str, x: npt.NDArray[np.uint8]) -> Runner:
    """LiteRT's Python API on one thread, as `zgedge export` writes the file by itself."""
    interpreter = open_in_litert(make(model, "tflite", form, "model.tflite"))
    given = interpreter.get_input_details()[0]
    given_at, shape = given["index"], tuple(given["shape"][1:])
    codes = feeder(model.arena, given["dtype"], shape)(x.astype(np.float32))
    rows = [codes[i : i + 1] for i in range(len(codes))]
    made_at = interpreter.get_output_details()[0]["index"]

    def call(row: Any) -> Any:
        interpreter.set_tensor(given_at, row)
        interpreter.invoke()
        return interpreter.get_tensor(made_at)

    def check() -> npt.NDArray[Any]:
        return np.asarray(np.concatenate([call(row) for row in rows]).argmax(axis=1))

    return Runner(f"LiteRT, {form}", _python_loop(call, rows), check, (interpreter,))


def runners(data: bytes) -> list[Runner]:
    """Ours from Python, the exports from Python, and last ours from C."""
    model = ours.open_bytes(data)
    x = np.random.default_rng(5).integers(0, 256, (64, model.inputs), np.uint8)
    found = [ours.predict_python(data, x)]
    found += [onnx_runner(model, form, x) for form in ("sparse", "qoperator")]
    found.append(litert_runner(model, "dense", x))
    try:
        found.append(litert_runner(model, "sparse", x))
    except ZgedgeError as e:
        if "sparse encoding" not in e.message:
            raise
    return [*found, ours.predict_c(data, x, "zgedge, C core, from C")]


def latency(rounds: int, slice_ms: float, blocks: tuple[int, ...]) -> dict[int, list[Spread]]:
    """Predictions of one sample of 784-256-10 with fan-in 32, for each size of blocks."""
    timing.pin()
    return {
        block: timing.measure(
            runners(random_zge((784, 256, 10), 32, block, learning=False)), rounds, slice_ms
        )
        for block in blocks
    }


# ---- the page ----


def as_markdown(
    command: str, dataset: str, steps: int, found: list[Sizes], took: dict[int, list[Spread]]
) -> list[str]:
    """Lines of the results file."""
    lines = results.heading("Exports", command, (0,), packages=PACKAGES)[:-1]
    lines += [
        f"- Load before the run: {timing.machine()['load']}. One seed.",
        "",
        "## Bytes",
        "",
        f"Networks for {dataset}, each trained for {steps:,} steps; files without learning. Of C "
        "the constants in flash are counted, to which the code comes. *usual path* is the TFLite "
        "file of a dense int8 network of one hidden layer, converted after training: the first of "
        "those "
        f"tried ({', '.join(map(str, WIDTHS))} units) that is as accurate after as many steps.",
        "",
    ]
    head = ["network", "accuracy, %", ".zge"]
    head += [f"{TARGETS[t].title} {f}" if t != "c" else "C" for t, f in FORMS]
    head += ["usual path", "its units, accuracy"]
    rows = []
    for s in found:
        by = {(e.target, e.form): e for e in s.exports}
        cells: list[object] = [f"{s.name} `{s.spec}`", f"{100 * s.accuracy:.2f}", f"{s.bytes:,}"]
        cells += [f"{by[key].bytes:,}" if key in by else "none" for key in FORMS]
        if s.dense_bytes is None:
            cells += ["none of those tried", ""]
        else:
            cells += [f"{s.dense_bytes:,}", f"{s.dense_units}, {100 * (s.dense_accuracy or 0):.2f}"]
        rows.append(cells)
    lines += results.table(head, rows)
    lines += [
        "",
        "TFLite's sparse encoding has blocks of 16; *none* where no layer gets smaller in it.",
        "",
        "## Integers",
        "",
        "Logits of all test rows that are not the core's, with the largest difference in steps of "
        "a logit, and accuracy where any differs.",
        "",
    ]
    rows = [
        [s.name, *(_integers({(e.target, e.form): e for e in s.exports}.get(key)) for key in FORMS)]
        for s in found
    ]
    lines += results.table(
        ["network", *(f"{TARGETS[t].title} {f}" if t != "c" else "C" for t, f in FORMS)], rows
    )
    lines += [
        "",
        "## Latency",
        "",
        "One prediction of 784-256-10 with fan-in 32 and random weights, from Python on one "
        "thread. Ours is `Model.predict_one`, raw uint8 in, label out; onnxruntime `run`, raw "
        "float32 in, logits out; LiteRT `set_tensor`, `invoke`, `get_tensor`. Median µs, and least "
        "and most over the rounds; ratios are to our row from Python.",
    ]
    for block, spreads in took.items():
        rows = []
        for spread in spreads:
            middle, least, most = timing.ratio(spread, spreads[0])
            rows.append(
                [
                    spread.name, f"{spread.median:.2f}", f"{spread.least:.2f}-{spread.most:.2f}",
                    f"{middle:.2f} x ({least:.2f}-{most:.2f})",
                ]
            )  # fmt: skip
        title = "Single connections" if block == 1 else f"Blocks of {block}"
        lines += ["", f"### {title}", ""]
        lines += results.table(["what", "median µs", "min-max µs", "against ours"], rows)
        ahead = all(timing.ratio(s, spreads[0])[0] > 1 for s in spreads[1:-1])
        lines += ["", f"Ours ahead of all: {'yes' if ahead else '**no**'}."]
    return lines


def _integers(export: Export | None) -> str:
    if export is None:
        return "none"
    if not export.differing:
        return "0"
    return f"{export.differing:,}, by at most {export.largest:,}; {100 * export.accuracy:.2f} %"


@click.command()
@click.option(
    "--data", default="mnist", show_default=True, help="What the networks are trained on."
)
@click.option("--data-dir", help="Folder of mnist and cifar10.")
@click.option("--steps", default=1000, show_default=True, help="Steps of each training.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Page to write.")
@click.option("--quick", is_flag=True, help="Small networks and a short run: figures are rough.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def main(
    data: str, data_dir: str | None, steps: int, out: Path | None, quick: bool, as_json: bool
) -> None:
    """Weigh and time exports against the core and against the usual path."""
    took = latency(3, 2.0, (16,)) if quick else latency(21, 20.0, (1, 4, 16))
    dataset = sources.load(data, data_dir=data_dir)
    found = sizes(dataset, SMALL if quick else NETWORKS, WIDTHS[:3] if quick else WIDTHS, steps)
    command = "python -m zgedge.bench.exports " + shlex.join(sys.argv[1:])
    lines = as_markdown(command.rstrip(), data, steps, found, took)
    if out is not None:
        results.write(out, lines)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "sizes": [{**vars(s), "exports": [vars(e) for e in s.exports]} for s in found],
                    "latency": {
                        str(block): [spread.as_json() for spread in spreads]
                        for block, spreads in took.items()
                    },
                }
            )
        )
    else:
        click.echo("\n".join(lines))


if __name__ == "__main__":
    timing.restart_clean("zgedge.bench.exports")
    main()
