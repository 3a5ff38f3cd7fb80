"""The picture at the head of the README: measured, then drawn, for light and for dark pages.

python tools/overview.py measure    writes docs/results/overview.json (half an hour; MNIST
                                    must be where `zgedge data get mnist` puts it)
python tools/overview.py draw       writes docs/images/overview-light.svg and -dark.svg
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from zgedge import arena, data
from zgedge.bench import adaptation
from zgedge.budget import Task, parse_size, plan
from zgedge.network import SECTION_NAMES
from zgedge.runtime import Learner, Model, prover
from zgedge.train import train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "overview.json"
BUDGET = "64KB"
REPLAY = 256
MODES = ("rewired", "weights only", "head only")
EVERY = 100  # samples between two points of a curve

INK = {"light": "#1f2328", "dark": "#e6edf3"}
FAINT = {"light": "#d1d9e0", "dark": "#3d444d"}
SOFT = {"light": "#59636e", "dark": "#9198a1"}
LINES = {
    "light": ("#0a7d53", "#b35900", "#7a7f87"),
    "dark": ("#3fcf8e", "#f0a04b", "#8b949e"),
}
BAD = {"light": "#c4323a", "dark": "#ff7b72"}
# What the sections are for, in the order of the bar.
PURPOSES = (
    ("weights and wiring", ("weights", "indices", "rows")),
    ("activations", ("activations",)),
    ("what learning needs", ("residual", "scratch", "learner")),
    ("remembered samples", ("replay",)),
    ("names, table, header", ()),
)
PARTS = {
    "light": ("#0a7d53", "#4aa98a", "#b35900", "#e0a15c", "#9aa1a9"),
    "dark": ("#2ea06f", "#7fd6b3", "#e08a35", "#f5c48a", "#6e7681"),
}


def curves(seeds: list[int]) -> dict[str, Any]:
    """Accuracy while 2,000 samples pass once after all inputs were permuted, seed by seed."""
    mnist = data.load("mnist")
    found: dict[str, list[list[float]]] = {mode: [] for mode in MODES}
    for seed in seeds:
        world = adaptation.world(mnist, seed)
        x, y = world.after.x_train, world.after.y_train
        for mode in MODES:
            learner = Learner(
                world.model(REPLAY), strategy="rigl" if mode == "rewired" else "static"
            )
            if mode == "head only":
                learner.freeze("but head")
            points = []
            for step in range(adaptation.SAMPLES + 1):
                if step % EVERY == 0:
                    right = learner.model.predict(world.after.x_test) == world.after.y_test
                    points.append(round(float(right.mean()), 5))
                if step < adaptation.SAMPLES:
                    learner.anneal(step / adaptation.SAMPLES)
                    learner.learn_one(x[step], int(y[step]))
            found[mode].append(points)
            click.echo(f"seed {seed}, {mode}: {points[0]:.3f} -> {points[-1]:.3f}", err=True)
    return {"every": EVERY, "replay": REPLAY, "seeds": seeds, "accuracy": found}


def file_and_proof(steps: int) -> dict[str, Any]:
    """A model for the digits: its sections, and unshared memory in a sound and a leaking proof."""
    digits = data.load("digits")
    chosen = plan(Task.of(digits), parse_size(BUDGET))
    result = train(digits, chosen.network, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.zge")
        path.write_bytes(arena.write(result.network, result.parameters))
        offsets = Model.open(path).arena.offsets
        sizes = {SECTION_NAMES[kind].lower(): size for kind, (_, size) in offsets.items()}
        record = {}
        for leak in (0, 64):
            proof = prover.prove(str(path), steps, leak=leak)
            readings = proof["record"]
            record[str(leak)] = {
                "passed": proof["passed"],
                "rewired": proof["rewired"],
                "steps": readings["step"],
                "growth": [value - readings["uss"][0] for value in readings["uss"]],
            }
        return {
            "budget": parse_size(BUDGET),
            "bytes": path.stat().st_size,
            "accuracy": result.accuracy,
            "sections": sizes,
            "proof": record,
        }


def draw(found: dict[str, Any], theme: str, path: Path) -> None:
    """One row: the byte map, the curves, the memory."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    ink, faint, soft = INK[theme], FAINT[theme], SOFT[theme]
    mpl.rcParams.update({
        "font.family": "DejaVu Sans", "font.size": 9, "svg.fonttype": "path",
        "svg.hashsalt": "zgedge", "text.color": ink, "axes.labelcolor": soft,
        "xtick.color": soft, "ytick.color": soft, "axes.edgecolor": faint,
    })  # fmt: skip
    figure, axes = plt.subplots(1, 3, figsize=(11.4, 3.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.14, wspace=0.04)
    _byte_map(axes[0], found["file"], theme)
    _shift(axes[1], found["shift"], theme)
    _memory(axes[2], found["file"]["proof"], theme)
    for axis in axes[1:]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color=faint, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(length=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(figure)


def _title(axis: Any, text: str, under: str, theme: str) -> None:
    axis.set_title(text, loc="left", fontsize=10.5, fontweight="bold", color=INK[theme], pad=24)
    axis.annotate(
        under, (0, 1), (0, 9), xycoords="axes fraction", textcoords="offset points", fontsize=8.5,
        color=SOFT[theme],
    )  # fmt: skip


def _byte_map(axis: Any, file: dict[str, Any], theme: str) -> None:
    sections, rest = file["sections"], file["bytes"]
    at = 0.0
    for (label, names), colour in zip(PURPOSES, PARTS[theme], strict=True):
        size = sum(sections.get(name, 0) for name in names) if names else rest
        rest -= size
        height = 100 * size / file["bytes"]
        # From the top down, as the bytes are in the file; a thin line of the page between parts.
        axis.bar(0, -height + 0.5, 0.42, -at, color=colour, align="edge")
        middle = min(max(at + height / 2, 3), 97)
        axis.annotate(
            f"{size / 1024:,.1f} KB", (0.5, -middle), va="center", fontsize=9, fontweight="bold"
        )
        axis.annotate(label, (0.5, -middle), (54, 0), textcoords="offset points", va="center",
                      fontsize=9, color=SOFT[theme])  # fmt: skip
        at += height
    axis.set_xlim(0, 2.2)
    axis.set_ylim(-100, 0)
    axis.set_axis_off()
    _title(
        axis,
        "One file, all of it",
        f"{file['bytes']:,} bytes for a budget of {file['budget']:,}",
        theme,
    )


def _shift(axis: Any, shift: dict[str, Any], theme: str) -> None:
    x = np.arange(len(shift["accuracy"][MODES[0]][0])) * shift["every"]
    for mode, colour in zip(MODES, LINES[theme], strict=True):
        rows = 100 * np.array(shift["accuracy"][mode])
        mean = rows.mean(axis=0)
        axis.fill_between(
            x, rows.min(axis=0), rows.max(axis=0), color=colour, alpha=0.15, linewidth=0
        )
        axis.plot(x, mean, color=colour, linewidth=2)
        axis.annotate(
            f"{mode}\n{mean[-1]:.0f} %", (x[-1], mean[-1]), (6, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=colour, fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    axis.set_xlim(0, x[-1])
    axis.set_xticks(x[::5], [f"{at:,}" for at in x[::5]])
    axis.set_ylim(0, 100)
    axis.set_xlabel("labelled samples, each seen once")
    axis.set_ylabel("test accuracy, %")
    _title(
        axis,
        "Every input moved: it rewires",
        "MNIST among 3,000 distractor inputs; mean and range of five seeds",
        theme,
    )


def _memory(axis: Any, proof: dict[str, Any], theme: str) -> None:
    good, bad = LINES[theme][0], BAD[theme]
    sound, leaking = proof["0"], proof["64"]
    end, stop, top = sound["steps"][-1], leaking["steps"][-1], leaking["growth"][-1] / 1024
    axis.plot(leaking["steps"], np.array(leaking["growth"]) / 1024, color=bad, linewidth=2)
    axis.plot(stop, top, "x", color=bad, markersize=8, markeredgewidth=2)
    after = stop - leaking["steps"][0]
    axis.annotate(
        f"with a planted leak of 64 bytes a step:\nstopped by the kernel after {after:,} steps",
        (stop, top), (10, -16), textcoords="offset points", va="center", fontsize=8.5, color=bad,
    )  # fmt: skip
    axis.plot(sound["steps"], np.array(sound["growth"]) / 1024, color=good, linewidth=2.5,
              clip_on=False)  # fmt: skip
    axis.annotate(
        f"{max(sound['growth']):+,} bytes, {sound['rewired']:,} connections rewired",
        (1, 0), (0, 7), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="right", fontsize=8.5, color=good, fontweight="bold",
    )  # fmt: skip
    axis.set_xlim(0, end)
    axis.set_ylim(0, top * 1.2)
    axis.set_xticks([0, end // 2, end], ["0", f"{end // 2:,}", f"{end:,}"])
    axis.set_xlabel("learning steps")
    axis.set_ylabel("growth of unshared memory, KB")
    _title(
        axis, "It learns and does not grow", "the file on the left; memory read 240 times", theme
    )


@click.group()
def main() -> None:
    """Measure, then draw."""


@main.command("measure")
@click.option("--seeds", default=5, show_default=True)
@click.option("--steps", default=1_000_000, show_default=True)
def measure_command(seeds: int, steps: int) -> None:
    """Measure what the picture shows."""
    found = {"file": file_and_proof(steps), "shift": curves(list(range(seeds)))}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(found) + "\n")


@main.command("draw")
def draw_command() -> None:
    """Draw it from what was measured."""
    found = json.loads(RESULTS.read_text())
    for theme in ("light", "dark"):
        draw(found, theme, ROOT / "docs" / "images" / f"overview-{theme}.svg")


if __name__ == "__main__":
    main()
