"""The adaptation table: a network wired for one order of inputs meets another.

MNIST with 3,000 distractors, all inputs in one random order; 64 sparse units of fan-in 16 are
trained on it. Then all inputs are put into a second random order, and the core goes on learning,
in its own integers, from 2,000 labelled samples: re-reading them in steps of 16, or each once with
what the replay inside the arena holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from zgedge import arena, data
from zgedge.bench import results, timing
from zgedge.data import Dataset, shifts
from zgedge.network import Network, dense, sparse
from zgedge.runtime import Learner, Model

DISTRACTORS = 3000
UNITS, FAN_IN = 64, 16
SAMPLES = 2000
BATCH = 16
REPLAYS = (64, 256)
STEPS = (500, 2000)
EPOCHS = 4
SEEDS = 5


@dataclass(frozen=True)
class World:
    """One seed: the data before and after the shift, and the network trained before it."""

    before: Dataset
    after: Dataset
    network: Network
    parameters: arena.Parameters

    def model(self, replay: int) -> Model:
        """The trained network as a fresh arena with an empty replay of that many samples."""
        network = replace(self.network, replay_samples=replay, replay_bits=4 if replay else 0)
        blob = arena.write(network, replace(self.parameters, replay=None))
        buffer = arena.aligned(len(blob))
        buffer[:] = np.frombuffer(blob, np.uint8)
        return Model(buffer, "adaptation")


def network() -> Network:
    """64 sparse units of fan-in 16 over 3,784 inputs and a dense head."""
    inputs = 784 + DISTRACTORS
    return Network(
        shape=(1, inputs, 1), classes=10,
        layers=(sparse(inputs, UNITS, FAN_IN), dense(UNITS, 10)),
        names_bytes=20, task="picture", batch=BATCH, align=64,
    )  # fmt: skip


def world(mnist: Dataset, seed: int, epochs: int = EPOCHS) -> World:
    """Train the network for one seed."""
    from zgedge.train import train

    before = shifts.permute(
        shifts.distractors(mnist, DISTRACTORS, seed=1000 + seed), seed=2000 + seed
    )
    after = shifts.permute(before, seed=3000 + seed)
    result = train(before, network(), strategy="rigl", seed=seed, epochs=epochs)
    return World(before, after, result.network, result.parameters)


def _accuracy(model: Model, part: Dataset) -> float:
    return float((model.predict(part.x_test) == part.y_test).mean())


def reread(world: World, seed: int, steps: int, mode: str) -> float:
    """Test accuracy after `steps` steps of 16 over the same 2,000 samples."""
    learner = _learner(world.model(0), mode)
    x, y = world.after.x_train[:SAMPLES], world.after.y_train[:SAMPLES]
    rng = np.random.default_rng(seed)
    passes = -(-steps * BATCH // SAMPLES)
    order = np.concatenate([rng.permutation(SAMPLES) for _ in range(passes)])
    for step in range(steps):
        learner.anneal(step / steps)
        chosen = order[step * BATCH : (step + 1) * BATCH]
        learner.learn_many(x[chosen], y[chosen])
    return _accuracy(learner.model, world.after)


def one_pass(world: World, replay: int, mode: str) -> float:
    """Test accuracy after each of the 2,000 samples came once, with 15 replayed ones each."""
    learner = _learner(world.model(replay), mode)
    x, y = world.after.x_train[:SAMPLES], world.after.y_train[:SAMPLES]
    for step in range(SAMPLES):
        learner.anneal(step / SAMPLES)
        learner.learn_one(x[step], int(y[step]))
    return _accuracy(learner.model, world.after)


def _learner(model: Model, mode: str) -> Learner:
    learner = Learner(model, strategy="rigl" if mode == "rewired" else "static")
    if mode == "head only":
        learner.freeze("but head")
    return learner


def measure(seeds: list[int], epochs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All rows: {"trained": [...], "rows": {name: {mode: [accuracy of each seed]}}}."""
    mnist = data.load("mnist")
    trained: list[float] = []
    shifted: list[float] = []
    rows: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        here = world(mnist, seed, epochs)
        model = here.model(0)
        trained.append(_accuracy(model, here.before))
        shifted.append(_accuracy(model, here.after))
        say(f"seed {seed}: trained {trained[-1]:.3f}, after the shift {shifted[-1]:.3f}")
        for mode in ("head only", "weights only", "rewired"):
            for steps in STEPS:
                name = f"re-reading, {steps:,} steps of {BATCH}"
                accuracy = reread(here, seed, steps, mode)
                rows.setdefault(name, {}).setdefault(mode, []).append(accuracy)
            for replay in REPLAYS:
                name = f"one pass, replay of {replay} 4-bit samples"
                accuracy = one_pass(here, replay, mode)
                rows.setdefault(name, {}).setdefault(mode, []).append(accuracy)
            say(f"  {mode}: " + ", ".join(f"{r[mode][-1]:.3f}" for r in rows.values()))
    bytes_ = {str(r): here.model(r).arena.network.file_bytes for r in (0, *REPLAYS)}
    return {
        "seeds": seeds, "epochs": epochs, "bytes": bytes_, "trained": trained, "shifted": shifted,
        "rows": rows,
    }  # fmt: skip


def markdown(result: dict[str, Any]) -> list[str]:
    """The results file."""
    lines = results.heading(
        "Adaptation: all inputs permuted",
        results.command(
            "zgedge.bench.adaptation",
            "docs/results/adaptation.md",
            seeds=(len(result["seeds"]), SEEDS),
            epochs=(result["epochs"], EPOCHS),
        ),
        result["seeds"],
        packages=("numpy", "torch", "zgedge"),
    )
    sizes = result["bytes"]
    lines += [
        f"- Network: {UNITS} sparse units of fan-in {FAN_IN} over {784 + DISTRACTORS:,} inputs, "
        f"dense head; MNIST with {DISTRACTORS:,} distractors (uniform noise, four in five zero).",
        f"- Trained: {results.percent(result['trained'])} %. After all inputs are permuted, "
        f"before learning: {results.percent(result['shifted'])} %.",
        f"- Learning: {SAMPLES:,} labelled samples, by the core, in integers; the schedule is "
        "that of `Learner.anneal`: rate 0.5 falling to 0.05, blocks replaced at a visit falling "
        "from three quarters of a row's to none at 60 %.",
        f"- Arena, everything included: {sizes['0']:,} bytes without replay, "
        + ", ".join(f"{sizes[str(r)]:,} with {r} samples" for r in REPLAYS)
        + ".",
        "",
        "Test accuracy in percent; the gain is that of rewiring over weights only, in points, "
        "paired over seeds, with its 95 % interval.",
        "",
    ]
    body = []
    for name, modes in result["rows"].items():
        body.append(
            [name, *(results.percent(v) for v in modes.values()),
             results.gain(modes["rewired"], modes["weights only"])]
        )  # fmt: skip
    lines += results.table(["", "head only", "weights only", "rewired", "gain"], body)
    return lines


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
@click.option("--seeds", default=SEEDS, show_default=True, help="How many seeds, from 0.")
@click.option("--epochs", default=EPOCHS, show_default=True, help="Epochs before the shift.")
def main(as_json: bool, out: Path | None, seeds: int, epochs: int) -> None:
    """Measure how much of its accuracy a network wins back when all its inputs are permuted."""
    result = measure(list(range(seeds)), epochs, lambda text: click.echo(text, err=True))
    lines = markdown(result)
    if out is not None:
        results.write(out, lines)
    click.echo(json.dumps(result) if as_json else "\n".join(lines))


if __name__ == "__main__":
    timing.restart_clean("zgedge.bench.adaptation")
    main()
