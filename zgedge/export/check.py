"""An export against the core it was made from: every integer, on the same samples.

Each exporter's module has `pair(model, export)`: of a `Model` and what the exporter returned for
it, a function of raw samples float32 [n, inputs] that returns two arrays of integers [n, classes]:
what the core gives, in the form in which the export answers, and what the export gives. Where the
export ends at the core's own logits these are the logits; where the target's format cannot hold
them, what the core's logits become in that format.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.errors import ZgedgeError
from zgedge.export.source import Float32, check_inputs
from zgedge.export.targets import TARGETS
from zgedge.runtime import Model

Integers = npt.NDArray[Any]
Pair = Callable[[Float32], tuple[Integers, Integers]]


@dataclass(frozen=True)
class Comparison:
    """What a check found.

    `sources` counts samples by where they came from. `compared` counts integers, `differing` those
    that are not equal, `largest` is the largest difference, `same_class` the share of samples whose
    largest output is that of the same class.
    """

    sources: dict[str, int]
    compared: int
    differing: int
    largest: int
    same_class: float

    @property
    def identical(self) -> bool:
        return self.differing == 0

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "identical": self.identical}


def compare(pair: Pair, inputs: Iterable[tuple[str, Float32]]) -> Comparison:
    """Run both on samples, by the name of their source. Raises ZgedgeError where shapes differ."""
    sources: dict[str, int] = {}
    compared = differing = largest = same = 0
    for name, x in inputs:
        ours, theirs = (np.asarray(values).astype(np.int64) for values in pair(x))
        if ours.shape != theirs.shape:
            raise ZgedgeError(f"The export answers {theirs.shape} where {ours.shape} is due.")
        apart = np.abs(ours - theirs)
        sources[name] = sources.get(name, 0) + len(x)
        compared += ours.size
        differing += int(np.count_nonzero(apart))
        largest = max(largest, int(apart.max(initial=0)))
        same += int(np.count_nonzero(ours.argmax(axis=1) == theirs.argmax(axis=1)))
    samples = sum(sources.values())
    return Comparison(sources, compared, differing, largest, same / samples if samples else 1.0)


def pair_of(model: Model, target: str, export: Any) -> Pair:
    """The function that runs both. Raises MissingExtraError where what runs the export is not
    installed."""
    pair: Pair = importlib.import_module(TARGETS[target].module).pair(model, export)
    return pair


def check(model: Model, target: str, export: Any, count: int = 64, seed: int = 0) -> Comparison:
    """Compare an export for `target` (onnx, tflite, c) with its model.

    On up to `count` samples that the model remembers, and on random and extreme inputs. Raises
    MissingExtraError where what runs the export is not installed.
    """
    return compare(pair_of(model, target, export), check_inputs(model, count, seed))
