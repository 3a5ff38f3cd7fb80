"""The strategies' table: digits, on the host at equal bytes and on the device after a shift.

On the host every strategy trains the same sparse network from the same seeds. On the device a
network that was trained on digits with distractors meets a second order of all its inputs, and
every strategy of the core learns it anew from the same labelled samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from zgedge import arena, data
from zgedge.bench import results, timing
from zgedge.bench.adaptation import BATCH, World
from zgedge.budget import Task, sparse_plan
from zgedge.data import Dataset, shifts
from zgedge.network import Network, dense, sparse
from zgedge.runtime import Learner

BUDGET = 3 * 1024
STEPS = 1_600
DISTRACTORS = 936
UNITS, FAN_IN = 64, 16
LEARNING_STEPS = (300, 1_000)
PARTS = 8


def host_network(dataset: Dataset) -> Network:
    """One sparse layer and a head, as many units as that many bytes of inference have room for."""
    return sparse_plan(Task.of(dataset), BUDGET, learning=False).network


def train_on_host(dataset: Dataset, strategy: str, seed: int) -> tuple[float, int]:
    """Test accuracy of the trained integers, and the bytes of their file."""
    from zgedge.train import train

    network = host_network(dataset)
    result = train(dataset, network, strategy=strategy, seed=seed, steps=STEPS)
    assert result.accuracy is not None
    return result.accuracy, len(arena.write(result.network, result.parameters))


def device_network() -> Network:
    """64 sparse units of fan-in 16 over 1,000 inputs and a dense head."""
    inputs = 64 + DISTRACTORS
    return Network(
        shape=(1, inputs, 1), classes=10, layers=(sparse(inputs, UNITS, FAN_IN), dense(UNITS, 10)),
        names_bytes=20, task="picture", batch=BATCH, align=64,
    )  # fmt: skip


def world(digits: Dataset, seed: int) -> World:
    """The network of one seed, trained before the shift."""
    from zgedge.train import train

    wide = shifts.distractors(digits, DISTRACTORS, seed=1000 + seed)
    before = shifts.permute(wide, seed=2000 + seed)
    after = shifts.permute(before, seed=3000 + seed)
    result = train(before, device_network(), strategy="rigl", seed=seed, steps=STEPS)
    return World(before, after, result.network, result.parameters)


def learner_of(here: World, strategy: str) -> Learner:
    """A fresh arena of the trained network; with traces where the strategy needs them."""
    traces = PARTS if strategy == "attention" else 0
    model = replace(here, network=replace(here.network, traces=traces)).model(0)
    return Learner(model, strategy=strategy)


def learn_on_device(here: World, strategy: str, seed: int, steps: int) -> float:
    """Test accuracy after that many steps of 16 samples of the shifted world."""
    learner = learner_of(here, strategy)
    x, y = here.after.x_train, here.after.y_train
    rng = np.random.default_rng(seed)
    for step in range(steps):
        learner.anneal(step / steps)
        chosen = rng.integers(0, len(x), BATCH)
        learner.learn_many(x[chosen], y[chosen])
    found = learner.model.predict(here.after.x_test)
    return float((found == here.after.y_test).mean())


def measure(seeds: Sequence[int], say: Callable[[str], None]) -> dict[str, Any]:
    """{"host": {strategy: [accuracy of each seed]}, "device": {steps: {strategy: [...]}}, ...}."""
    digits = data.load("digits")
    host: dict[str, list[float]] = {}
    device: dict[str, dict[str, list[float]]] = {}
    sizes: set[int] = set()
    before, shifted = [], []
    for seed in seeds:
        for name in arena.TRAINING_STRATEGIES:
            accuracy, size = train_on_host(digits, name, seed)
            host.setdefault(name, []).append(accuracy)
            sizes.add(size)
        here = world(digits, seed)
        model = here.model(0)
        before.append(float((model.predict(here.before.x_test) == here.before.y_test).mean()))
        shifted.append(float((model.predict(here.after.x_test) == here.after.y_test).mean()))
        for steps in LEARNING_STEPS:
            rows = device.setdefault(str(steps), {})
            for name in arena.STRATEGIES:
                rows.setdefault(name, []).append(learn_on_device(here, name, seed, steps))
        say(f"seed {seed}: host {results.percent(host['rigl'])}, device {rows['rigl'][-1]:.3f}")
    (bytes_,) = sizes
    plain = device_network()
    return {
        "seeds": list(seeds), "bytes": bytes_, "host": host, "device": device, "trained": before,
        "shifted": shifted, "arena": plain.file_bytes,
        "arena_traces": replace(plain, traces=PARTS).file_bytes,
    }  # fmt: skip


def markdown(result: dict[str, Any]) -> list[str]:
    """The results file."""
    lines = results.heading(
        "Rewiring strategies on digits",
        "python -m zgedge.bench.strategies --out docs/results/strategies.md",
        result["seeds"],
        packages=("numpy", "torch", "zgedge"),
    )
    lines += [
        "- Test accuracy in percent; gains in points, paired over seeds, with their 95 % interval.",
        "",
        "## On the host, at equal bytes",
        "",
        f"Every strategy trains the same sparse network for {STEPS:,} steps; each file has "
        f"{result['bytes']:,} bytes.",
        "",
    ]
    fixed = result["host"]["static"]
    body = [
        [f"`{name}`", results.percent(v), "" if name == "static" else results.gain(v, fixed)]
        for name, v in result["host"].items()
    ]
    lines += results.table(["strategy", "accuracy", "gain over fixed wiring"], body)
    lines += [
        "",
        "## On the device, after all inputs were permuted",
        "",
        f"{UNITS} units of fan-in {FAN_IN} over the 64 pixels and {DISTRACTORS} distractors, in "
        f"one random order; trained: {results.percent(result['trained'])}. Then a second order of "
        f"all inputs (before learning: {results.percent(result['shifted'])}), and the core learns "
        f"from {BATCH} samples a step, by the schedule of `Learner.anneal`. The arena has "
        f"{result['arena']:,} bytes, with the sketches of `attention` {result['arena_traces']:,}.",
        "",
    ]
    columns = list(result["device"])
    body = []
    for name in arena.STRATEGIES:
        row = [f"`{name}`"]
        for steps in columns:
            v, fixed = result["device"][steps][name], result["device"][steps]["static"]
            row += [results.percent(v), "" if name == "static" else results.gain(v, fixed)]
        body.append(row)
    head = ["strategy"]
    for steps in columns:
        head += [f"{int(steps):,} steps", "gain over fixed wiring"]
    return lines + results.table(head, body)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
@click.option("--seeds", default=5, show_default=True, help="How many seeds, from 0.")
def main(as_json: bool, out: Path | None, seeds: int) -> None:
    """Compare all rewiring strategies on digits, in some minutes."""
    result = measure(range(seeds), lambda text: click.echo(text, err=True))
    lines = markdown(result)
    if out is not None:
        results.write(out, lines)
    click.echo(json.dumps(result) if as_json else "\n".join(lines))


if __name__ == "__main__":
    timing.restart_clean("zgedge.bench.strategies")
    main()
