"""Draws what each rewiring strategy does, from real runs of one seed: docs/strategies/*.png.

    python tools/draw_strategies.py [--out docs/strategies] [--seed 0]

The units look at 64 pixels of digits among 936 distractors, all in one random order. Strategies of
the device start from the network trained for one order and learn after a second one (as in
`python -m zgedge.bench.strategies`); those of the host alone start from random wires and train. The
pictures put the wires back where their pixels are, and follow how many look at pixels at all.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from zgedge import arena, data  # noqa: E402
from zgedge.bench import strategies as bench  # noqa: E402
from zgedge.bench.adaptation import BATCH, World  # noqa: E402
from zgedge.data import shifts  # noqa: E402

STEPS, LOOKS = 1_000, 40
PIXELS = 64
INK, FAINT, COLOURS = "#1f4e79", "#9aa5b1", "Blues"

Counts = npt.NDArray[Any]


def order_of(seed: int, shifted: bool) -> npt.NDArray[np.int64]:
    """The input that stands at each place: 0 .. 63 are the pixels."""
    wide = np.arange(PIXELS + bench.DISTRACTORS)[None]
    before = shifts.permute(wide, seed=2000 + seed)
    return (shifts.permute(before, seed=3000 + seed) if shifted else before)[0]


def on_device(here: World, strategy: str, seed: int) -> tuple[list[Counts], list[float]]:
    """Wires of each input, in the pixels' own order, at looks through the learning; accuracies."""
    learner = bench.learner_of(here, strategy)
    x, y = here.after.x_train, here.after.y_train
    rng = np.random.default_rng(seed)
    order, found, right = order_of(seed, True), [], []
    for step in range(STEPS + 1):
        if step % (STEPS // LOOKS) == 0:
            indices = learner.model.arena.indices(0)
            assert indices is not None
            counts = np.zeros(len(order), np.int64)
            np.add.at(counts, order[indices.reshape(-1)], 1)
            found.append(counts)
            right.append(
                float((learner.model.predict(here.after.x_test) == here.after.y_test).mean())
            )
        if step < STEPS:
            learner.anneal(step / STEPS)
            chosen = rng.integers(0, len(x), BATCH)
            learner.learn_many(x[chosen], y[chosen])
    return found, right


def wires_of(here: World, strategy: str, seed: int, steps: int) -> list[Counts]:
    """Wires of each input at the start and at the end of a training."""
    from zgedge.train import train

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        train(here.before, bench.device_network(), strategy=strategy, seed=seed, steps=steps,
              log=log)  # fmt: skip
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    order, found = order_of(seed, False), []
    for line in lines:
        if line["event"] == "wires":
            counts = np.zeros(len(order), np.int64)
            counts[order] = line["counts"]
            found.append(counts)
    return found


def on_host(here: World, strategy: str, seed: int) -> list[Counts]:
    """Wires of each input before and after a training; before, as every strategy begins."""
    first, _ = wires_of(here, "static", seed, 1)
    _, last = wires_of(here, strategy, seed, bench.STEPS)
    return [first, last]


def share(counts: Counts) -> float:
    """Of all wires, those that look at a pixel, in percent."""
    return 100 * float(counts[:PIXELS].sum() / counts.sum())


def draw(path: Path, strategy: str, counts: list[Counts], right: list[float], top: int) -> None:
    """Wires on the pixels before and after, and between them their share or its two ends."""
    from matplotlib.figure import Figure

    figure = Figure((7.4, 2.6), dpi=100, layout="constrained")
    first, last, line = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    for axes, title, one in ((first, "before", counts[0]), (last, "after", counts[-1])):
        axes.imshow(one[:PIXELS].reshape(8, 8), COLOURS, vmin=0, vmax=top)
        axes.set_title(f"{title}: {share(one):.0f} % on pixels", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    if right:
        steps = np.linspace(0, STEPS, len(counts))
        line.plot(steps, [share(c) for c in counts], color=INK)
        line.plot(steps, [100 * r for r in right], color=FAINT, linestyle="--")
        line.text(STEPS, share(counts[-1]) - 4, "wires on pixels", color=INK, fontsize=8,
                  ha="right", va="top")  # fmt: skip
        line.text(STEPS, 100 * right[-1] + 3, "test accuracy", color="#5c6670", fontsize=8,
                  ha="right", va="bottom")  # fmt: skip
        line.set_xlabel("learning steps after the shift", fontsize=8)
        line.set_xlim(0, STEPS)
    else:
        line.bar(["before", "after"], [share(counts[0]), share(counts[-1])], 0.5, color=INK)
        line.set_xlabel("training from wires that know nothing", fontsize=8)
        line.axhline(100 * PIXELS / len(counts[0]), color=FAINT, linestyle="--")
        line.text(0.5, 100 * PIXELS / len(counts[0]) + 2, "by chance", color="#5c6670", fontsize=8,
                  ha="center", va="bottom")  # fmt: skip
    line.set_ylim(0, 108)
    line.set_ylabel("percent", fontsize=8)
    line.tick_params(labelsize=8)
    line.spines[["top", "right"]].set_visible(False)
    figure.suptitle(strategy, fontsize=10, fontweight="bold", x=0.01, ha="left")
    figure.savefig(path, metadata={"Software": None})


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder.",
              default=ROOT / "docs" / "strategies", show_default=True)  # fmt: skip
@click.option("--seed", default=0, show_default=True)
def main(out: Path, seed: int) -> None:
    """Draw what every strategy does."""
    here = bench.world(data.load("digits"), seed)
    out.mkdir(parents=True, exist_ok=True)
    runs = {name: on_device(here, name, seed) for name in arena.STRATEGIES}
    hosts = [name for name in arena.TRAINING_STRATEGIES if name not in runs]
    runs |= {name: (on_host(here, name, seed), []) for name in hosts}
    top = max(int(counts[-1][:PIXELS].max()) for counts, _ in runs.values())
    for name, (counts, right) in runs.items():
        draw(out / f"{name}.png", name, counts, right, top)
        click.echo(f"{name}: {share(counts[0]):.1f} % on pixels, then {share(counts[-1]):.1f} %")


if __name__ == "__main__":
    main()
