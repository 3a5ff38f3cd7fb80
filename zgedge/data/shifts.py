"""Made-up shifts of the world, for tests and benchmarks.

Each takes an array of rows, (n, features), or a whole `Dataset`, and returns the same kind of
thing; nothing is changed in place. `seed` is a number or a numpy Generator; a number gives the
same shift for every array it is applied to.

The adaptation experiment (a network wired for one order of inputs meets another):

    wide = distractors(load("mnist"), 3000, seed=1)
    before = permute(wide, seed=2)      # train on this
    after = permute(before, seed=3)     # then the device meets this
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from zgedge.data.dataset import Array, Dataset
from zgedge.errors import UsageError

Seed = int | np.random.Generator
Rows = TypeVar("Rows", Array, Dataset)
Labelled = tuple[Array, Array]

_ROWS_AT_A_TIME = 4096


def _on_both(data: Dataset, change: Callable[[Array], Array]) -> Dataset:
    return replace(data, x_train=change(data.x_train), x_test=change(data.x_test))


def _train(data: Array | Dataset) -> Array:
    return data.x_train if isinstance(data, Dataset) else data


def _range(x: Array) -> tuple[float, float]:
    return float(x.min()), float(x.max())


def _like(values: Array, dtype: np.dtype[Any]) -> Array:
    """`values` in `dtype`: rounded and clamped where that holds whole numbers."""
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return values.astype(dtype)


def permute(data: Rows, *, seed: Seed) -> Rows:
    """All inputs in one random order, the same for every row."""
    order = np.random.default_rng(seed).permutation(_train(data).shape[1])
    if isinstance(data, Dataset):
        names = data.feature_names
        moved = _on_both(data, lambda x: np.take(x, order, axis=1))
        return replace(moved, feature_names=names and tuple(names[i] for i in order))
    return np.take(data, order, axis=1)


def distractors(data: Rows, count: int, *, seed: Seed, zero_fraction: float = 0.8) -> Rows:
    """`count` inputs more, of noise, behind the others.

    The noise is uniform in the range of the data (of the training rows), and each value is set to
    the low end of the range with probability `zero_fraction`. A picture with distractors keeps
    its one scale for all inputs; its shape becomes (1, features, 1).
    """
    if count < 0 or not 0 <= zero_fraction <= 1:
        raise UsageError(f"{count} distractors with {zero_fraction} zero mean nothing.")
    rng = np.random.default_rng(seed)
    low, high = _range(_train(data))

    def widen(x: Array) -> Array:
        wide = np.empty((len(x), x.shape[1] + count), x.dtype)
        wide[:, : x.shape[1]] = x
        for start in range(0, len(x), _ROWS_AT_A_TIME):  # MNIST's noise at once: 1.4 GB
            shape = (len(x[start : start + _ROWS_AT_A_TIME]), count)
            noise = rng.random(shape, dtype=np.float32)
            noise[rng.random(shape, dtype=np.float32) < zero_fraction] = 0
            rows = wide[start : start + _ROWS_AT_A_TIME]
            rows[:, x.shape[1] :] = _like(low + noise * (high - low), x.dtype)
        return wide

    if isinstance(data, Dataset):
        names = data.feature_names
        wide = _on_both(data, widen)
        return replace(
            wide,
            shape=(1, wide.features, 1),
            feature_names=names and names + tuple(f"distractor {i}" for i in range(count)),
        )
    return widen(data)


def dead(data: Rows, fraction: float = 0.5, *, seed: Seed) -> Rows:
    """A random `fraction` of the inputs reads 0 from now on, as a broken sensor does."""
    if not 0 <= fraction <= 1:
        raise UsageError(f"A fraction of {fraction} dead inputs is not between 0 and 1.")
    features = _train(data).shape[1]
    rng = np.random.default_rng(seed)
    chosen = rng.choice(features, size=round(fraction * features), replace=False)

    def kill(x: Array) -> Array:
        copy = x.copy()
        copy[:, chosen] = 0
        return copy

    return _on_both(data, kill) if isinstance(data, Dataset) else kill(data)


def drift(data: Rows, *, seed: Seed, gain: float = 0.3, offset: float = 0.1) -> Rows:
    """Sensors that age: each input's gain and offset move away from 1 and 0, row by row.

    The first row is as it was; at the last row input j is x * g_j + o_j, with g_j uniform in
    1 - gain .. 1 + gain and o_j uniform in -offset .. offset times the range of the data. Of a
    `Dataset` the training rows drift in their order, and the test rows are all as the world is
    at the end. Whole numbers are rounded and clamped to what their type holds.
    """
    x = _train(data)
    rng = np.random.default_rng(seed)
    low, high = _range(x)
    gains = 1 + rng.uniform(-gain, gain, x.shape[1])
    offsets = rng.uniform(-offset, offset, x.shape[1]) * (high - low)

    def age(rows: Array, time: npt.NDArray[np.float64]) -> Array:
        aged = np.empty_like(rows)
        for start in range(0, len(rows), _ROWS_AT_A_TIME):
            here = slice(start, start + _ROWS_AT_A_TIME)
            t = time[here, None]
            aged[here] = _like(rows[here] * (1 + t * (gains - 1)) + t * offsets, rows.dtype)
        return aged

    drifting = age(x, np.linspace(0, 1, len(x)))
    if isinstance(data, Dataset):
        return replace(data, x_train=drifting, x_test=age(data.x_test, np.ones(len(data.x_test))))
    return drifting


def new_class(
    data: Dataset, label: str | None = None, *, seed: Seed = 0
) -> tuple[Dataset, Dataset]:
    """(before, after): the world without one class, and with it.

    `label` is the class that comes later; by default a random one. `before` has no sample of it
    and yet keeps its name and index: nothing grows on a device, so the place of a class to come
    is planned from the start. Samples in arrays are held back by `without_class`.
    """
    if label is None:
        label = str(np.random.default_rng(seed).choice(data.classes))
    if label not in data.classes:
        raise UsageError(f"{data.name} has no class {label!r}: {', '.join(data.classes)}.")
    index = data.classes.index(label)
    x_train, y_train = without_class(data.x_train, data.y_train, index)
    x_test, y_test = without_class(data.x_test, data.y_test, index)
    before = replace(data, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return before, data


def without_class(x: Array, y: Array, index: int) -> Labelled:
    """The rows and labels of every class but `index`."""
    keep = y != index
    return x[keep], y[keep]
