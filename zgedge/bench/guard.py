"""What the guard costs and what it saves: streams that harm a learner, and streams that teach it.

MNIST with 3,000 distractors, all inputs in one random order, and the network of the adaptation
table (64 sparse units of fan-in 16). It goes on learning on a stream, one labelled sample a tick,
each sample once: the same world, the same world with 40 % wrong labels or with wrong labels only,
half of its inputs dead, contrast that fades slowly, or all inputs in a second random order. Each is
learned by the file as it is, without a watch, and by the same file with anchors; nothing else is
configured, and no run knows its length, but for those of the permuted table that follow
`Learner.anneal`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from zgedge import arena, data
from zgedge.bench import adaptation, results, timing
from zgedge.data import Dataset
from zgedge.runtime import Learner, Model

ANCHORS, REPLAY = 256, 64
LABELS = 4000
CHECKS = 40
STREAMS = {
    "same world": "nothing changes",
    "40 % wrong labels": "a random wrong class in 40 % of the stream",
    "wrong labels only": "a random wrong class in all of it",
    "half the inputs dead": "half of all inputs, drawn at random, are 0",
    "slow fading": "contrast falls from 1 to a half over the stream",
}
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Run:
    """Accuracy on clean test data of the stream's own world: before, at the checkpoints, after."""

    start: float
    curve: list[float]
    end: float
    status: dict[str, Any]

    @property
    def lowest(self) -> float:
        """What 99 % of the checkpoints reach."""
        return float(np.quantile(self.curve, 0.01))

    @property
    def allowed(self) -> float:
        """The larger of 1 point and two standard errors of the anchors below the start."""
        return self.start - (self.status.get("smallest_drop") or 1.0) / 100


def model(world: adaptation.World, anchors: int, replay: int = REPLAY) -> Model:
    """The trained network; with `anchors`, those of training rows that the stream does not use."""
    network = replace(world.network, replay_samples=replay, replay_bits=4 if replay else 0)
    plain = _open(network, replace(world.parameters, replay=None))
    if not anchors:
        return plain
    x = world.before.x_train[-anchors:].astype(np.float32)
    y = world.before.y_train[-anchors:].astype(np.int64)
    p = world.parameters
    codes = np.rint((x - p.input_center) * p.input_scale) + p.layers[0].z_in
    codes = np.clip(codes, 0, 255).astype(np.uint8)
    seen = arena.unpack_codes(arena.pack_codes(codes, 4), 4, network.features)
    raw = (seen.astype(np.float32) - p.layers[0].z_in) / p.input_scale + p.input_center
    right = plain.predict(raw) == y
    guarded = replace(network, anchors=anchors, watch=True)
    return _open(guarded, replace(p, replay=None, anchors=(codes, y, right)))


def _open(network: Any, parameters: arena.Parameters) -> Model:
    return Model(arena.in_memory(arena.write(network, parameters)), "guard")


def stream(
    world: adaptation.World, name: str, seed: int, labels: int
) -> tuple[Floats, npt.NDArray[np.int64], Callable[[float], Dataset]]:
    """Samples, their labels, and the test data of the world as it is at a share of the stream."""
    before = world.before
    x = before.x_train[:labels].astype(np.float32)
    y = before.y_train[:labels].astype(np.int64)
    rng = np.random.default_rng((seed, 7))
    wrong = {"40 % wrong labels": 0.4, "wrong labels only": 1.0}.get(name, 0.0)
    bad = rng.random(labels) < wrong
    y = np.where(bad, (y + rng.integers(1, 10, labels)) % 10, y)
    if name == "half the inputs dead":
        dead = rng.permutation(x.shape[1])[: x.shape[1] // 2]
        x[:, dead] = 0
        test = before.x_test.copy()
        test[:, dead] = 0
        now = replace(before, x_test=test)
        return x, y, lambda _: now
    if name == "slow fading":
        fade = 1 - 0.5 * np.arange(labels, dtype=np.float32) / labels
        test = before.x_test.astype(np.float32)
        return (
            x * fade[:, None], y,
            lambda at: replace(before, x_test=test * np.float32(1 - 0.5 * at)),
        )  # fmt: skip
    return x, y, lambda _: before


def _accuracy(m: Model, part: Dataset) -> float:
    return float((m.predict(part.x_test) == part.y_test).mean())


def run(world: adaptation.World, name: str, seed: int, anchors: int, labels: int) -> Run:
    """One stream, learned once."""
    learner = Learner(model(world, anchors))
    x, y, now = stream(world, name, seed, labels)
    start = _accuracy(learner.model, now(0.0))
    curve = []
    for i in range(labels):
        learner.learn_one(x[i], int(y[i]))
        if (i + 1) % (labels // CHECKS) == 0:
            curve.append(_accuracy(learner.model, now(i / labels)))
    end = _accuracy(learner.model, now(1.0))
    return Run(start, curve, end, learner.status())


def permuted(
    world: adaptation.World, replay: int, mode: str, labels: int = adaptation.SAMPLES
) -> tuple[float, list[float]]:
    """Accuracy after all inputs were permuted and `labels` samples learned, and on the way there.

    "weights only" and "rewired" know the length of the run (`Learner.anneal`); "guarded" knows
    nothing: it has to find out that the world changed.
    """
    learner = Learner(
        model(world, ANCHORS if mode == "guarded" else 0, replay),
        strategy="static" if mode == "weights only" else "rigl",
    )
    x, y = world.after.x_train[:labels], world.after.y_train[:labels]
    curve = []
    for i in range(labels):
        if mode != "guarded":
            learner.anneal(i / labels)
        learner.learn_one(x[i], int(y[i]))
        if (i + 1) % (labels // 40) == 0:
            curve.append(_accuracy(learner.model, world.after))
    return _accuracy(learner.model, world.after), curve


def measure(seeds: list[int], epochs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures of the page."""
    mnist = data.load("mnist")
    streams: dict[str, dict[str, list[Any]]] = {name: {} for name in STREAMS}
    shifted: dict[str, dict[str, list[float]]] = {}
    curves: dict[str, list[float]] = {}
    for seed in seeds:
        world = adaptation.world(mnist, seed, epochs)
        for replay in adaptation.REPLAYS:
            row = shifted.setdefault(f"replay of {replay}", {})
            for mode in ("weights only", "rewired", "guarded"):
                end, curve = permuted(world, replay, mode)
                row.setdefault(mode, []).append(end)
                if seed == seeds[0] and replay == adaptation.REPLAYS[0]:
                    curves[f"permuted, {mode}"] = curve
            say(f"seed {seed}, permuted, {replay}: " + str({k: v[-1] for k, v in row.items()}))
        for name in STREAMS:
            for mode, anchors in (("without", 0), ("guarded", ANCHORS)):
                found = run(world, name, seed, anchors, LABELS)
                if seed == seeds[0]:
                    curves[f"{name}, {mode}"] = found.curve
                drift = found.status.get("drift", {})
                streams[name].setdefault(mode, []).append(
                    {
                        "start": found.start, "end": found.end, "lowest": found.lowest,
                        "allowed": found.allowed, "epoch": found.status.get("epoch", 0),
                        "rolled_back": found.status.get("rolled_back", 0),
                        "rejected": drift.get("rejected", 0),
                    }
                )  # fmt: skip
            say(f"  {name}: " + str({k: round(v[-1]["end"], 4) for k, v in streams[name].items()}))
    return {
        "seeds": seeds, "epochs": epochs, "streams": streams, "permuted": shifted, "curves": curves
    }  # fmt: skip


def markdown(result: dict[str, Any], picture: str | None) -> list[str]:
    """The results file."""
    lines = results.heading(
        "The guard: what it saves and what it costs",
        results.command(
            "zgedge.bench.guard",
            "docs/results/guard.md",
            seeds=(len(result["seeds"]), adaptation.SEEDS),
            epochs=(result["epochs"], adaptation.EPOCHS),
        ),
        result["seeds"],
        packages=("numpy", "torch", "zgedge"),
    )
    lines += [
        f"- Network and data of the adaptation table; {ANCHORS} anchors, {REPLAY} remembered "
        f"samples of 4 bits, {LABELS:,} labels of a stream, one pass, {CHECKS} checkpoints.",
        "- *Lowest* is what 99 % of the checkpoints reach, on clean test data of the stream's "
        "world. *Allowed* is the start less the larger of 1 point and two standard errors of the "
        "anchors.",
        "",
    ]
    body = []
    for name, modes in result["streams"].items():
        for mode, runs in modes.items():
            part = {k: results.percent([r[k] for r in runs]) for k in ("start", "end", "lowest")}
            kept = sum(min(r["end"], r["lowest"]) >= r["allowed"] for r in runs)
            body.append(
                [
                    name if mode == "without" else "", mode, part["start"], part["end"],
                    part["lowest"],
                    f"{kept} of {len(runs)}" if mode == "guarded" else "",
                    f"{sum(r['epoch'] for r in runs)}" if mode == "guarded" else "",
                ]
            )  # fmt: skip
    lines += results.table(
        ["stream", "learner", "start", "end", "lowest", "above allowed", "epochs"], body
    )
    lines += [
        "",
        "All inputs permuted, 2,000 labels, one pass. The first two know the length of the run. "
        "*Kept* is the gain of rewiring over weights only that is left with the guard on.",
        "",
    ]
    body = []
    for name, modes in result["permuted"].items():
        gain = np.mean(modes["rewired"]) - np.mean(modes["weights only"])
        kept = (np.mean(modes["guarded"]) - np.mean(modes["weights only"])) / gain
        body.append([name, *(results.percent(v) for v in modes.values()), f"{kept:.0%}"])
    lines += results.table(["", "weights only", "rewired", "rewired, guarded", "kept"], body)
    if picture is not None:
        lines += ["", f"![Accuracy over a poisoned and over a permuted stream]({picture})"]
    return lines


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy over the poisoned and over the permuted stream, of the first seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    poisoned, shifted = "40 % wrong labels", "permuted"
    for mode, colour in (("without", "#b9560b"), ("guarded", "#2b6cb3")):
        curve = result["curves"][f"{poisoned}, {mode}"]
        at = np.arange(1, len(curve) + 1) * (LABELS // CHECKS)
        axes[0].plot(at, np.array(curve) * 100, color=colour, label=mode)
    first = result["streams"][poisoned]["guarded"][0]
    axes[0].axhline(first["allowed"] * 100, color="#79838e", linewidth=0.8, linestyle="--")
    axes[0].annotate("allowed", (0, first["allowed"] * 100), va="top", color="#525c68", fontsize=8)
    for mode, colour in (
        ("weights only", "#79838e"), ("rewired", "#b9560b"), ("guarded", "#2b6cb3"),
    ):  # fmt: skip
        curve = result["curves"][f"{shifted}, {mode}"]
        at = np.arange(1, len(curve) + 1) * (adaptation.SAMPLES // 40)
        axes[1].plot(at, np.array(curve) * 100, color=colour, label=mode)
    for axis, title in zip(axes, ("40 % of the labels wrong", "all inputs permuted"), strict=True):
        axis.set(title=title, xlabel="labels", ylim=(0, 100))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right")
    axes[0].set_ylabel("accuracy on clean test data, %")
    figure.savefig(path, dpi=150)
    plt.close(figure)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
@click.option(
    "--seeds", default=adaptation.SEEDS, show_default=True, help="How many seeds, from 0."
)
@click.option("--epochs", default=adaptation.EPOCHS, show_default=True, help="Epochs of training.")
def main(as_json: bool, out: Path | None, seeds: int, epochs: int) -> None:
    """Measure a guarded learner on streams that harm it and on streams that teach it."""
    result = measure(list(range(seeds)), epochs, lambda text: click.echo(text, err=True))
    picture = None
    if out is not None:
        picture = out.with_suffix(".png").name
        draw(result, out.with_suffix(".png"))
    lines = markdown(result, picture)
    if out is not None:
        results.write(out, lines)
    click.echo(json.dumps(result) if as_json else "\n".join(lines))


if __name__ == "__main__":
    timing.restart_clean("zgedge.bench.guard")
    main()
