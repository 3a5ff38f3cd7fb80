"""What learning changed between two files of one network: wires, weights, and the answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.arena import Arena
from zgedge.errors import UsageError
from zgedge.report import page_facts, pictures
from zgedge.runtime import Model


@dataclass(frozen=True)
class LayerDiff:
    """One layer behind the trunk; `layer` is its number from 1 among all, the trunk's included.

    connections          all that it has, each with a weight
    kept, dropped, grown those that both files have, only the older, only the newer; a dense layer
                         keeps all
    moved                kept connections whose weight is another
    mean_step            mean size of the difference of their weights, in 8-bit steps of the weights
    biases               units whose bias is another
    """

    layer: int
    kind: str
    connections: int
    kept: int
    dropped: int
    grown: int
    moved: int
    mean_step: float
    biases: int


@dataclass(frozen=True)
class Answers:
    """Two files on the same labelled rows: accuracies, and the share of rows answered alike.

    `classes` are (name, rows, right before, right after).
    """

    samples: int
    before: float
    after: float
    agreement: float
    classes: tuple[tuple[str, int, int, int], ...]


def compare_layers(before: Arena, after: Arena) -> list[LayerDiff]:
    """Every layer behind the trunk of two files; [] where they have different ones."""
    if before.network.layers != after.network.layers:
        return []
    return [_layer(before, after, i) for i in range(len(after.network.layers))]


def _layer(before: Arena, after: Arena, i: int) -> LayerDiff:
    layer = after.network.layers[i]
    old, new = _placed(before, i), _placed(after, i)
    kept, at, to = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    old_weights = before.weights(i).reshape(-1)[at].astype(np.int64)
    step = np.abs(after.weights(i).reshape(-1)[to] - old_weights)
    gone = layer.weights - len(kept)
    return LayerDiff(
        len(after.network.trunk) + i + 1, layer.kind, layer.weights,
        len(kept), gone, gone, int((step > 0).sum()), float(step.mean()) if len(step) else 0.0,
        int((before.rows(i)[0] != after.rows(i)[0]).sum()),
    )  # fmt: skip


def _placed(arena: Arena, i: int) -> npt.NDArray[np.int64]:
    """For each weight of a layer, in their order, its place in the matrix of all connections."""
    layer = arena.network.layers[i]
    rows = np.arange(layer.outputs)[:, None] * layer.inputs
    return (rows + page_facts.seen(arena, i)).reshape(-1)


def same_trunk(before: Arena, after: Arena) -> bool:
    """Whether the trunks compute the same: a device does not learn there."""
    for i in range(len(after.network.trunk)):
        old, new = before.trunk_weights(i), after.trunk_weights(i)
        if old is not None and new is not None and not np.array_equal(old, new):
            return False
        if not all(map(np.array_equal, before.trunk_rows(i), after.trunk_rows(i))):
            return False
    return True


def check_same(before: Model, after: Model) -> None:
    """Raise UsageError where two files are not of one network."""
    page_facts.check_older(before, after)
    old, new = before.arena, after.arena
    advice = "Compare a file with one that it was made from, as `zgedge adapt --out` does."
    if (old.network.trunk, old.network.layers) != (new.network.trunk, new.network.layers):
        raise UsageError(f"{before.name} and {after.name} have different layers.", advice)
    if old.class_names != new.class_names:
        raise UsageError(f"{before.name} and {after.name} know different classes.", advice)


def compare_answers(
    before: Model,
    after: Model,
    x: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Ask both for every row; `progress` gets rows done and all rows, of both together."""

    def watched(past: int) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, rows: progress(past + done, 2 * rows)

    old = page_facts.measure(before, "", x, labels, watched(0)).found
    new = page_facts.measure(after, "", x, labels, watched(len(x))).found
    classes = tuple(
        (name, int((labels == i).sum()), int((old[labels == i] == i).sum()),
         int((new[labels == i] == i).sum()))
        for i, name in enumerate(after.arena.class_names)
    )  # fmt: skip
    return Answers(
        len(x), float((old == labels).mean()), float((new == labels).mean()),
        float((old == new).mean()), classes,
    )  # fmt: skip


def learned(before: Arena, after: Arena) -> dict[str, int]:
    """What the learner of the newer file did since the older: samples, steps, connections moved."""
    old, new = before.learner() or {}, after.learner() or {}
    return {key: new.get(key, 0) - old.get(key, 0) for key in ("samples", "steps", "rewired")}


def draw(before: Model, after: Model, answers: Answers | None, out: str | os.PathLike[str]) -> None:
    """Draw wires on each input before and after, their change, and what each layer kept.

    With `answers` also the accuracy of each class. The form follows from the end of `out`'s name.
    Raises MissingExtraError without matplotlib, ZgedgeError where it cannot be written.
    """
    figure = pictures.figure((11, 7.5))
    axes = figure.subplots(2, 2)
    shape = page_facts.features_shape(after.arena.network)
    counts = [page_facts.wires(model.arena) for model in (before, after)]
    most = max(float(pictures.grid_of(shape, each).max()) for each in counts)
    for axis, each, model in zip(axes[0], counts, (before, after), strict=True):
        title = f"connections on each input, {pictures.plain(os.path.basename(model.name))}"
        pictures.draw_wires(figure, axis, pictures.grid_of(shape, each), title, most)
    _draw_layers(axes[1][0], compare_layers(before.arena, after.arena))
    if answers is None:
        axes[1][1].axis("off")
    else:
        _draw_classes(axes[1][1], answers)
    pictures.save(figure, out)


def _draw_layers(axis: Any, layers: list[LayerDiff]) -> None:
    left = np.zeros(len(layers))
    total = np.array([max(1, layer.connections) for layer in layers])
    for text, colour, values in (
        ("kept as it was", "0.75", [layer.kept - layer.moved for layer in layers]),
        ("kept, other weight", "tab:blue", [layer.moved for layer in layers]),
        ("dropped, and as many grown", "tab:orange", [layer.grown for layer in layers]),
    ):
        share = 100 * np.array(values) / total
        axis.barh(range(len(layers)), share, left=left, color=colour, label=text)
        left += share
    axis.set_yticks(range(len(layers)), [f"layer {x.layer}, {x.kind}" for x in layers])
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("connections, %")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize="small")


def _draw_classes(axis: Any, answers: Answers) -> None:
    shown = [each for each in answers.classes if each[1]]
    at = np.arange(len(shown))
    axis.bar(at - 0.2, [100 * old / n for _, n, old, _ in shown], 0.4, color="0.7", label="before")
    axis.bar(at + 0.2, [100 * new / n for _, n, _, new in shown], 0.4, label="after")
    names = [pictures.plain(name[:12]) for name, *_ in shown]
    axis.set_xticks(at, names, rotation=90 if len(shown) > 10 else 0)
    axis.set_ylabel("right, %")
    axis.set_ylim(0, 100)
    axis.set_title(f"accuracy {answers.before:.1%} before, {answers.after:.1%} after")
    axis.legend(loc="lower left")
