"""How long a prediction takes on this host: a cost model fitted to its measured kernels.

`python -m zgedge.bench.latency --out docs/results/latency.md` fits the model on random networks,
compares what it predicts with what others take that were not fitted, and writes the table.

A prediction's time is a sum over layers of what their kernels do (operations, outputs, rows), each
with a price that is fitted by least squares on relative errors and is never below 0. The prices are
kept in the user's cache folder, for each processor, kernel variant and version of the library.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from zgedge import arena
from zgedge import network as net
from zgedge.bench import nets, results, timing
from zgedge.budget import Task, fitted, parse_size, sparse_plan
from zgedge.devices.profiles import ALIASES
from zgedge.errors import UsageError, ZgedgeError
from zgedge.network import Layer, Network, TrunkLayer
from zgedge.runtime import Model
from zgedge.runtime import core_library as core
from zgedge.space import families
from zgedge.spec import spec_of

Float = npt.NDArray[np.float64]

# What a prediction's time is made of. Products come in groups of 16 and windows in groups of 4, of
# at most 32; channels go 16 at a time and the rest one by one, as the compiler and the vector
# kernels have it. Wider or narrower vectors fit these parts as well.
PARTS = (
    "call", "value read", "picture row", "window", "window product", "window sum", "window byte",
    "window run", "window weight", "output vector", "output single", "added vector",
    "added single", "depthwise tap", "depthwise vector", "depthwise single", "pool tap",
    "pool vector", "pool single", "mean vector", "mean single", "sparse product", "sparse block",
    "sparse row", "sparse input", "dense product", "dense row",
)  # fmt: skip
_AT = {name: i for i, name in enumerate(PARTS)}
TILE, GROUP, VECTOR = 32, 4, 16

FITTED, HELD_OUT = 90, 20
# Timings of a network, seconds of each at least, and pictures in turn: one alone would be known to
# the branch predictor.
ROUNDS, SHORTEST, SAMPLES = 15, 2e-3, 8
SHAPES = ((8, 8, 1), (28, 28, 1), (32, 32, 3), (48, 48, 1), (64, 64, 3), (96, 96, 1))
BUDGETS = ("4KB", "8KB", "12KB", "24KB", "48KB", "96KB", "192KB", "256KB")


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def counts(network: Network) -> Float:
    """How often one prediction does each of `PARTS`: float64 [parts]."""
    out = np.zeros(len(PARTS))

    def add(part: str, times: float) -> None:
        out[_AT[part]] += times

    add("call", 1)
    add("value read", network.inputs)
    for layer in network.trunk:
        _count_picture(layer, add)
    for behind in network.layers:
        _count_layer(behind, add)
    return out


def _count_picture(layer: TrunkLayer, add: Callable[[str, float], None]) -> None:
    rows, width, channels = layer.out_shape
    places, taps = rows * width, rows * width * layer.kernel * layer.kernel

    def each(what: str, times: int) -> None:
        add(f"{what} vector", times * (channels // VECTOR))
        add(f"{what} single", times * (channels % VECTOR))

    if layer.kind == net.MEAN_POOL:
        add("picture row", layer.shape[0])
        each("mean", layer.shape[0] * layer.shape[1])
        return
    add("picture row", rows)
    if layer.kind == net.CONV:
        tiles = -(-width // TILE)
        windows = rows * sum(_up(min(TILE, width - i * TILE), GROUP) for i in range(tiles))
        add("window", places)
        add("window product", windows * channels * _up(layer.taps, VECTOR))
        add("window sum", windows * channels)
        add("window byte", places * _up(layer.taps, VECTOR))
        add("window run", places * layer.kernel)
        add("window weight", rows * tiles * channels * _up(layer.taps, VECTOR))
    else:
        what = "depthwise" if layer.kind == net.DEPTHWISE else "pool"
        add(f"{what} tap", taps)
        each(what, taps)
    if layer.has_weights:
        each("output" if layer.add is None else "added", places)


def _count_layer(layer: Layer, add: Callable[[str, float], None]) -> None:
    if layer.kind == net.SPARSE:
        add("sparse product", layer.weights)
        add("sparse block", layer.indices)
        add("sparse row", layer.outputs)
        add("sparse input", layer.inputs)
    else:
        add("dense product", layer.outputs * _up(layer.inputs, VECTOR))
        add("dense row", layer.outputs)


@dataclass(frozen=True)
class CostModel:
    """Prices in seconds, one for each of `PARTS`, of the host that `key` names."""

    key: str
    prices: tuple[float, ...]

    def seconds(self, network: Network) -> float:
        """Predicted time of one prediction, by the core alone."""
        return float(counts(network) @ np.array(self.prices))


def fit(networks: Sequence[Network], seconds: Sequence[float], key: str = "") -> CostModel:
    """The prices under which the relative errors are smallest, none below 0."""
    from scipy.optimize import nnls

    took = np.array(seconds)
    wanted = np.array([counts(n) for n in networks]) / took[:, None]
    size = np.maximum(wanted.max(axis=0), 1e-300)  # columns of one size are solved more exactly
    prices, _ = nnls(wanted / size, np.ones(len(took)))
    return CostModel(key, tuple((prices / size).tolist()))


class Stopwatch:
    """A network of random weights, ready to be timed again and again."""

    def __init__(self, network: Network, seed: int = 0) -> None:
        blob = arena.write(network, nets.random_parameters(network, seed))
        buffer = arena.in_memory(blob)
        self.model = Model(buffer)
        rng = np.random.default_rng(seed)
        x = rng.integers(0, 256, (SAMPLES, network.inputs))
        self.x: npt.NDArray[Any] = x.astype(np.uint8)
        if network.groups > 1:
            self.x = x.astype(np.float32) / np.float32(16)
        self.calls = 1
        while (took := self.once() * self.calls * SAMPLES) < SHORTEST:
            self.calls = max(self.calls + 1, math.ceil(self.calls * 1.2 * SHORTEST / took))

    def once(self) -> float:
        """Seconds of one prediction, over some thousandths of a second."""
        start = time.perf_counter()
        for _ in range(self.calls):
            self.model.predict_index(self.x)
        return (time.perf_counter() - start) / (self.calls * SAMPLES)


def random_networks(count: int, seed: int) -> list[Network]:
    """Networks of the planner's own space, of all kinds and sizes, one in six without a trunk."""
    rng = random.Random(seed)
    all_families = {shape: list(families(shape)) for shape in SHAPES}
    out: list[Network] = []
    while len(out) < count:
        shape, budget = rng.choice(SHAPES), parse_size(rng.choice(BUDGETS))
        task = Task(shape, 10, 20, 1, "picture", 60_000)
        family = rng.choice(all_families[shape])
        if len(out) % 6 == 5:
            try:
                out.append(sparse_plan(task, budget, learning=False).network)
            except ZgedgeError:
                continue
            continue
        found = fitted(task, budget, family, learning=False)
        if found is not None:
            out.append(found.network)
    return out


def time_all(
    networks: Sequence[Network], progress: Callable[[int, int], None] = lambda done, total: None
) -> list[float]:
    """Seconds of a prediction of each: all in turn, several rounds, the least of each."""
    watches = [Stopwatch(n, seed) for seed, n in enumerate(networks)]
    least = [math.inf] * len(watches)
    for turn in range(ROUNDS):
        for i, watch in enumerate(watches):
            least[i] = min(least[i], watch.once())
            progress(turn * len(watches) + i + 1, ROUNDS * len(watches))
    return least


# ---- the model of this host, kept ----


def host_key() -> str:
    """What the prices depend on: the processor, the kernel variant, the core's very bytes."""
    about = timing.machine()
    library = hashlib.sha256(Path(core.library_path()).read_bytes()).hexdigest()[:16]
    parts = hashlib.sha256(" ".join(PARTS).encode()).hexdigest()[:8]
    return f"{about['processor']}, {core.variant()}, core {library}, parts {parts}"


def cache_file(key: str) -> Path:
    """Where the prices of a host are kept: under $XDG_CACHE_HOME, or ~/.cache."""
    stated = os.environ.get("XDG_CACHE_HOME")
    folder = Path(stated) if stated else Path.home() / ".cache"
    return folder / "zgedge" / f"latency-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def of_host(progress: Callable[[int, int], None] = lambda done, total: None) -> CostModel:
    """The cost model of this host: the one kept, or a new one, which takes some 20 seconds.

    A kept file that cannot be read is measured again; a folder that cannot be written is no error.
    """
    key = host_key()
    path = cache_file(key)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key and len(kept["prices"]) == len(PARTS):
            return CostModel(key, tuple(float(x) for x in kept["prices"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or not ours
    networks = random_networks(FITTED, seed=0)
    model = fit(networks, time_all(networks, progress), key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"key": key, "prices": model.prices})
        arena.replace_file(path, text.encode())
    except (OSError, ZgedgeError):
        pass  # measured again the next time
    return model


# ---- boards that were not measured ----


@dataclass(frozen=True)
class Board:
    """A board by its data sheet: clock in GHz, and 8-bit multiply-adds a cycle of one core."""

    name: str
    processor: str
    clock: float
    products: int


# Clocks: the boards' product pages. Multiply-adds a cycle: the 128-bit Advanced SIMD pipes of Arm's
# software optimization guides; with the dot product (v8.2) 16 a pipe, without it 8 through 16 bits.
BOARDS = {
    "rpi-zero2w": Board("Raspberry Pi Zero 2 W", "Cortex-A53", 1.0, 8),
    "rpi3": Board("Raspberry Pi 3 B+", "Cortex-A53", 1.4, 8),
    "rpi4": Board("Raspberry Pi 4 B", "Cortex-A72", 1.5, 8),
    "rpi5": Board("Raspberry Pi 5", "Cortex-A76", 2.4, 32),
    "jetson-nano": Board("Jetson Nano", "Cortex-A57", 1.43, 8),
    "jetson-orin-nano": Board("Jetson Orin Nano", "Cortex-A78AE", 1.5, 32),
    "jetson-agx-orin": Board("Jetson AGX Orin", "Cortex-A78AE", 2.2, 32),
}
# Of the variants on a host: two products of 16 numbers a cycle in AVX2, of 64 in AVX-512 VNNI.
_PRODUCTS = {"portable": 8, "avx2": 32, "vnni": 128, "neon": 8, "dotprod": 32}
_CLOCK = 3.0  # GHz, where the host does not tell


def host_clock() -> float:
    """Clock of this host in GHz, as /proc/cpuinfo has it; 3 where it has none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("cpu MHz"):
                return float(line.split(":")[1]) / 1000
    except (OSError, ValueError):
        pass
    return _CLOCK


def board_factor(board: Board, variant: str, clock: float) -> float:
    """How many times longer than on the host a prediction takes on a board: an estimate.

    The geometric mean of the ratio of clocks, which scales what is not vectors, and that of clocks
    times multiply-adds a cycle.
    """
    scalar = clock / board.clock
    vector = scalar * _PRODUCTS.get(variant, 32) / board.products
    return math.sqrt(scalar * vector)


def factor_of(board: str) -> float:
    """How many times longer a prediction takes on a named board than on this host: an estimate."""
    return board_factor(BOARDS[ALIASES.get(board, board)], core.variant(), host_clock())


def parse_latency(text: str) -> float:
    """Seconds of a time such as "5ms", "300us" or "0.01s".

    Raises UsageError for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s)\s*", text)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"{text!r} is not a time.", "Write it as 5ms, 300us or 0.5s.")
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]


# ---- the table ----


def evaluate(progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
    """Fit on some random networks and predict others: every figure that the table has.

    All are timed in turn, so that both sorts see the same moods of the machine.
    """
    networks = random_networks(FITTED + HELD_OUT, seed=1)
    # The held out are drawn from all, so that both sorts have the same kinds.
    order = random.Random(1).sample(range(len(networks)), len(networks))
    held, kept = sorted(order[:HELD_OUT]), sorted(order[HELD_OUT:])
    took = time_all(networks, progress)
    model = fit([networks[i] for i in kept], [took[i] for i in kept], host_key())
    rows: list[dict[str, Any]] = [
        {"network": spec_of(networks[i]), "shape": list(networks[i].shape),
         "bytes": networks[i].file_bytes, "operations": networks[i].operations,
         "predicted": model.seconds(networks[i]), "measured": took[i],
         "error": abs(model.seconds(networks[i]) - took[i]) / took[i]}
        for i in held
    ]  # fmt: skip
    errors = [row["error"] for row in rows]
    return {
        "key": model.key, "fitted": len(kept), "rows": rows, "rounds": ROUNDS,
        "median_error": statistics.median(errors), "largest_error": max(errors),
        "prices": dict(zip(PARTS, model.prices, strict=True)),
    }  # fmt: skip


def as_markdown(found: dict[str, Any]) -> str:
    """The results file."""
    about = timing.machine()
    versions = timing.versions("numpy", "scipy", "zgedge")
    lines = [
        "# Predicted against measured latency",
        "",
        "Written by `python -m zgedge.bench.latency --out docs/results/latency.md`; do not edit.",
        "",
        f"- Machine: {about['processor']}, {about['cores']} cores, one used; {about['system']}.",
        f"- Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}; "
        f"kernel variant `{core.variant()}`.",
        f"- Date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}. Load: {about['load']}.",
        f"- Method: {found['fitted']} random networks of the planner's own space fit the prices, "
        f"{len(found['rows'])} others are predicted. Everything is timed in turn, the least of "
        f"{found['rounds']} rounds; a time is that of one prediction in the core.",
        "",
        f"**Median error {found['median_error']:.1%}**, largest {found['largest_error']:.1%}.",
        "",
    ]
    rows = [
        ("x".join(map(str, r["shape"])), f"`{r['network']}`", f"{r['bytes']:,}",
         f"{r['operations']:,}", f"{r['measured'] * 1e6:,.1f}", f"{r['predicted'] * 1e6:,.1f}",
         f"{r['error']:.1%}")
        for r in sorted(found["rows"], key=lambda r: float(r["measured"]))
    ]  # fmt: skip
    head = (
        "picture",
        "network",
        "bytes",
        "multiply-adds",
        "measured, us",
        "predicted, us",
        "error",
    )
    lines += results.table(head, rows)
    lines += ["", "What a prediction is made of, and the price of each on this host:", ""]
    prices = [(name, f"{price * 1e9:.3f}") for name, price in found["prices"].items()]
    return "\n".join([*lines, *results.table(("part", "ns"), prices)]) + "\n"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the table to this file."
)
def main(as_json: bool, out: Path | None) -> None:
    """Predict the latency of networks that were not fitted, and measure it."""
    timing.pin()
    found = evaluate()
    text = as_markdown(found)
    if out is not None:
        results.write(out, text.splitlines())
    click.echo(json.dumps(found) if as_json else text, nl=as_json)


if __name__ == "__main__":
    timing.restart_clean("zgedge.bench.latency")
    main()
