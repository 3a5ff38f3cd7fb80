"""What the report says, as plain numbers: measured with the model, read from files and logs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge import network as net
from zgedge.arena import Arena
from zgedge.errors import DataError, UsageError
from zgedge.network import Network
from zgedge.report import interval
from zgedge.report.pictures import read_log
from zgedge.runtime import Model

Ints = npt.NDArray[np.int64]
ONE = 32_768  # what a score of 1 is in the core's units
CHUNK = 256


@dataclass(frozen=True)
class Measured:
    """Answers of a model to labelled rows.

    x       [n, inputs], as the data have them
    labels  [n] class numbers that are true
    found   [n] class numbers that the model gives; -1: unknown
    scores  [n] the score of the class that was chosen, 0..1
    files   [n] paths, where each row is a file of its own
    """

    name: str
    x: npt.NDArray[Any]
    labels: Ints
    found: Ints
    scores: npt.NDArray[np.float64]
    classes: int
    files: Sequence[str] = ()

    @property
    def accuracy(self) -> float:
        return float((self.found == self.labels).mean())

    @property
    def interval(self) -> str:
        """Where the accuracy of other rows of the same kind may be."""
        return interval.words(int((self.found == self.labels).sum()), len(self.labels))

    @property
    def unknown(self) -> int:
        return int((self.found < 0).sum())

    @property
    def mistaken(self) -> Ints:
        """Rows that got a wrong class, the most confident first; unknown is no class."""
        wrong = np.flatnonzero((self.found != self.labels) & (self.found >= 0))
        return wrong[np.argsort(-self.scores[wrong], kind="stable")]

    def samples(self) -> Ints:
        """Rows of each class [classes]."""
        return np.bincount(self.labels, minlength=self.classes)

    def right(self) -> Ints:
        """Rows of each class that were answered rightly [classes]."""
        good: Ints = self.labels[self.found == self.labels]
        return np.bincount(good, minlength=self.classes)

    def confusion(self) -> Ints:
        """[classes, classes + 1]: true class down, answer across, unknown last."""
        answers = np.where(self.found < 0, self.classes, self.found)
        at = self.labels * (self.classes + 1) + answers
        size = self.classes * (self.classes + 1)
        counts: Ints = np.bincount(at, minlength=size).reshape(self.classes, self.classes + 1)
        return counts

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """(true class, answer, how often), the most frequent first; unknown is no class."""
        wrong = self.mistaken
        pairs = zip(self.labels[wrong].tolist(), self.found[wrong].tolist(), strict=True)
        counts = Counter(pairs)
        order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return [(true, found, n) for (true, found), n in order[:most]]


def measure(
    model: Model,
    name: str,
    x: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
    progress: Callable[[int, int], None] | None = None,
    files: Sequence[str] = (),
) -> Measured:
    """Ask a model for every row; `progress` gets rows done and all rows."""
    found = np.empty(len(x), np.int64)
    scores = np.empty(len(x))
    for at in range(0, len(x), CHUNK):
        answer, score = model.predict_index(x[at : at + CHUNK])
        found[at : at + CHUNK], scores[at : at + CHUNK] = answer, score / ONE
        if progress is not None:
            progress(min(len(x), at + CHUNK), len(x))
    return Measured(name, x, labels, found, scores, model.arena.network.classes, files)


def features_shape(network: Network) -> tuple[int, int, int]:
    """(height, width, channels) of what the first layer behind the trunk looks at."""
    return network.trunk[-1].out_shape if network.trunk else network.shape


def wires(arena: Arena) -> Ints:
    """Connections of the first layer behind the trunk on each of its inputs [features]."""
    layer, indices = arena.network.layers[0], arena.indices(0)
    if indices is None:
        return np.full(layer.inputs, layer.outputs, np.int64)
    blocks = np.bincount(indices.reshape(-1), minlength=layer.inputs // layer.block)
    return np.repeat(blocks, layer.block)


def seen(arena: Arena, i: int) -> Ints:
    """Inputs that the weights of a sparse layer are for [outputs, width]; of a dense one all."""
    layer, indices = arena.network.layers[i], arena.indices(i)
    if indices is None:
        return np.broadcast_to(np.arange(layer.inputs), (layer.outputs, layer.inputs))
    at = indices.astype(np.int64)[:, :, None] * layer.block + np.arange(layer.block)
    return at.reshape(layer.outputs, layer.width)


def rows_of_weights(arena: Arena, i: int, rows: Ints) -> npt.NDArray[np.float32]:
    """Weights of some units of layer i [len(rows), inputs]; NaN where there is no connection."""
    whole = np.full((len(rows), arena.network.layers[i].inputs), np.nan, np.float32)
    weights = arena.weights(i)[rows].astype(np.float32)
    np.put_along_axis(whole, seen(arena, i)[rows], weights, 1)
    return whole


def small_weights(arena: Arena, i: int, box: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Weights of layer i, of each box (units, inputs) of connections the largest; else NaN.

    The layer as a dense matrix is never made: it can be a thousand times the file.
    """
    layer, weights = arena.network.layers[i], arena.weights(i).astype(np.float32)
    wide = -(-layer.inputs // box[1])
    rows = np.arange(layer.outputs)[:, None] // box[0]
    at = (rows * wide + seen(arena, i) // box[1]).reshape(-1)
    order = np.argsort(np.abs(weights), axis=None, kind="stable")
    whole = np.full((-(-layer.outputs // box[0])) * wide, np.nan, np.float32)
    whole[at[order]] = weights.reshape(-1)[order]  # of those in a box the last one stays
    return whole.reshape(-1, wide)


def strength(arena: Arena) -> Ints:
    """Sum of the first layer's weights without their signs, for each of its inputs [features]."""
    weights = np.abs(arena.weights(0).astype(np.int64))
    size = arena.network.layers[0].inputs
    total = np.bincount(seen(arena, 0).reshape(-1), weights=weights.reshape(-1), minlength=size)
    return total.astype(np.int64)


@dataclass(frozen=True)
class History:
    """A training as its log tells it.

    epochs      events of every epoch, in order
    start, end  events of the start and of the end; {} where the log has none
    wires       connections on each input of the first layer, by "start" and "end"
    """

    start: dict[str, Any]
    epochs: list[dict[str, Any]]
    end: dict[str, Any]
    wires: dict[str, Ints]

    @property
    def rewired(self) -> Ints:
        """Connections replaced, [epochs, layers]."""
        return np.array([event["rewired"] for event in self.epochs], np.int64)


def history(path: str | os.PathLike[str], network: Network) -> History:
    """Read a training log. Raises DataError where it is none, or of another network."""
    events = read_log(path)
    first: dict[str, dict[str, Any]] = {}
    for event in events:
        first.setdefault(event["event"], event)
    try:
        by_number = {int(e["epoch"]): e for e in events if e["event"] == "epoch"}
        epochs = [by_number[number] for number in sorted(by_number)]
        for event in epochs:
            event["accuracy"], event["loss"] = float(event["accuracy"]), float(event["loss"])
            event["rewired"] = [int(n) for n in event["rewired"]]
        counts = {
            str(e["when"]): np.array(e["counts"], np.int64) for e in events if e["event"] == "wires"
        }
        layers = [
            tuple(layer[key] for key in ("kind", "inputs", "outputs", "fan_in", "block"))
            for layer in first.get("start", {}).get("layers", ())
            if layer["kind"] in (net.SPARSE, net.DENSE)
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise DataError(
            f"{path} is not a training log: {type(e).__name__}: {e}.",
            "`zgedge train --log FILE` writes one.",
        ) from e
    own = [(x.kind, x.inputs, x.outputs, x.width, x.block) for x in network.layers]
    fits = not layers or layers == own
    fits = fits and all(len(event["rewired"]) == len(own) for event in epochs)
    fits = fits and all(value.shape == (network.features,) for value in counts.values())
    if not fits:
        raise DataError(
            f"{path} is the log of another network.",
            "Give the log that was written when this model was trained.",
        )
    finite = all(np.isfinite((e["accuracy"], e["loss"])).all() for e in epochs)
    if not finite or any(value.min() < 0 for value in counts.values()):
        raise DataError(f"{path} has values that no training writes.")
    ends = [event for event in events if event["event"] == "end"]
    return History(first.get("start", {}), epochs, ends[-1] if ends else {}, counts)


def check_older(older: Model, model: Model) -> None:
    """Raise UsageError where two files cannot be compared: their wires see different things."""
    old, new = older.arena.network, model.arena.network
    if old.shape != new.shape or features_shape(old) != features_shape(new):
        raise UsageError(
            f"{older.name} and {model.name} look at different inputs.",
            "Compare a file with one that it was made from, as `zgedge adapt --out` does.",
        )


def codes(arena: Arena, x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Rows as the network sees them: 0..255 of pictures, steps around 0 of measurements."""
    scale, center = arena.input_coding()
    steps = (np.asarray(x, np.float64) - center) * scale
    return np.clip(steps, 0, 255) if arena.network.groups == 1 else steps


def row_names(arena: Arena) -> Sequence[str]:
    """A name for each input of a sample."""
    if arena.feature_names is not None:
        return arena.feature_names
    return [f"input {i}" for i in range(arena.network.inputs)]
