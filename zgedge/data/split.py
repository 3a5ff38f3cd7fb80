"""How rows are parted into train and test, and how a stream becomes windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from zgedge.data.dataset import Array
from zgedge.errors import DataError

Indices = npt.NDArray[np.intp]


def _test_share(samples: int, fraction: float) -> int:
    """How many of `samples` of one class are tested on: at least one, but never the last one."""
    return 0 if samples < 2 else min(max(round(fraction * samples), 1), samples - 1)


def stratified(y: Array, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Row indices (train, test), both ascending, each class parted in the same proportion.

    `y`: (n,) class indices. A class with one sample goes to train; a class with two or more has
    at least one on each side. Raises `DataError` where no class has two samples.
    """
    rng = np.random.default_rng(seed)
    test = np.zeros(len(y), dtype=bool)
    for value in np.unique(y):
        rows = np.flatnonzero(y == value)
        test[rng.permutation(rows)[: _test_share(len(rows), fraction)]] = True
    if not test.any():
        raise DataError(
            "Every class has a single sample, so none is left to test on.",
            "Collect more samples of each class.",
        )
    return np.flatnonzero(~test), np.flatnonzero(test)


def windows(
    x: Array, labels: Sequence[str] | None, window: int, hop: int
) -> tuple[Array, list[str] | None]:
    """Cut a stream into windows.

    `x`: (rows, channels) in time order. Returns (windows, window * channels), in the order time,
    channel, one window every `hop` rows, and the label of each window's last row. Rows after the
    last whole window are left out. Raises `DataError` where the stream is shorter than a window.
    """
    if len(x) < window:
        raise DataError(
            f"The stream has {len(x)} rows, fewer than one window of {window}.",
            "Use a smaller window or a longer recording.",
        )
    view = np.lib.stride_tricks.sliding_window_view(x, window, axis=0)[::hop]
    cut = np.ascontiguousarray(view.transpose(0, 2, 1)).reshape(len(view), -1)
    return cut, None if labels is None else list(labels[window - 1 :: hop][: len(cut)])


def by_time(y: Array, window: int, hop: int, fraction: float) -> tuple[Indices, Indices, bool]:
    """Window indices (train, test) and whether the stream was cut once.

    `y`: (n,) class indices of the windows in time order. The last `fraction` of the windows is
    the test part. Where that would leave a class out of either part (a stream recorded class after
    class), each class is cut at its own last `fraction` instead, and the third value is False.
    Windows that share a row with a test window are in neither part. A class whose only windows
    stand among test windows of other classes is an error, `DataError`.
    """
    once = np.zeros(len(y), dtype=bool)
    once[len(y) - _test_share(len(y), fraction) :] = True
    train = _without_overlap(once, window, hop)
    values, counts = np.unique(y, return_counts=True)
    repeated = set(values[counts > 1].tolist())
    trained, tested = set(y[train].tolist()), set(y[once].tolist())
    if tested and trained == set(values.tolist()) and repeated <= tested:
        return np.flatnonzero(train), np.flatnonzero(once), True
    per_class = np.zeros(len(y), dtype=bool)
    for value in values:
        rows = np.flatnonzero(y == value)
        per_class[rows[len(rows) - _test_share(len(rows), fraction) :]] = True
    train = _without_overlap(per_class, window, hop)
    if not per_class.any() or set(y[train].tolist()) != set(values.tolist()):
        raise DataError(
            "The stream is too short to part into train and test: a class has no window left that "
            "shares no row with a test window.",
            "Use a smaller window, a smaller hop or a longer recording.",
        )
    return np.flatnonzero(train), np.flatnonzero(per_class), False


def _without_overlap(test: npt.NDArray[np.bool_], window: int, hop: int) -> npt.NDArray[np.bool_]:
    """The windows that share no row with a window of `test`."""
    reach = -(-window // hop) - 1  # windows i and j share rows where |i - j| * hop < window
    before = np.concatenate([[0], np.cumsum(test)])
    i = np.arange(len(test))
    near = before[np.minimum(i + reach + 1, len(test))] - before[np.maximum(i - reach, 0)]
    return np.asarray(near == 0)
