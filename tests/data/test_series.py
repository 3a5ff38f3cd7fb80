"""Streams: windows, their labels, and a split in time that leaks nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zgedge.data import check, load, load_inputs
from zgedge.data.split import by_time, windows
from zgedge.errors import DataError

Savez = Callable[..., str]


def stream(rows: int, run: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Two channels that both tell the row; labels in runs of `run` rows."""
    i = np.arange(rows)
    return np.stack([i, 1000 + i], axis=1).astype(np.float32), i // run % 2


@pytest.mark.parametrize(("window", "hop"), [(4, 1), (4, 2), (4, 4), (4, 7), (1, 1), (50, 1)])
def test_windows_and_their_labels(savez: Savez, window: int, hop: int) -> None:
    x, y = stream(50)
    cut, labels = windows(x, [str(v) for v in y], window, hop)
    starts = range(0, 50 - window + 1, hop)
    assert len(cut) == len(starts)
    assert labels is not None
    for start, row, label in zip(starts, cut, labels, strict=True):
        assert np.array_equal(row, x[start : start + window].ravel())
        assert label == str(y[start + window - 1])


def rows_seen(x: np.ndarray) -> set[int]:
    """The rows of the stream in the windows of `x` (its first channel tells them)."""
    return set(x[:, ::2].ravel().astype(int).tolist())


@pytest.mark.parametrize(("window", "hop"), [(8, 1), (8, 3), (8, 8), (8, 11)])
def test_split_by_time_with_a_gap(savez: Savez, window: int, hop: int) -> None:
    x, y = stream(600)
    data = load(savez(x=x, y=y), window=window, hop=hop)
    assert (data.kind, data.shape, data.features) == ("series", (window, 2, 1), 2 * window)
    assert data.feature_names is None
    train, test = rows_seen(data.x_train), rows_seen(data.x_test)
    assert max(train) < min(test)
    assert min(test) == pytest.approx(480, abs=2 * window)
    lost = (600 - window) // hop + 1 - len(data.x_train) - len(data.x_test)
    assert lost == -(-window // hop) - 1


def test_hop_is_the_window_by_default(savez: Savez) -> None:
    x, y = stream(600)
    data = load(savez(x=x, y=y), window=8)
    assert len(data.x_train) + len(data.x_test) == 75


def test_class_after_class_is_cut_in_each_class(savez: Savez) -> None:
    x, _ = stream(300)
    path = savez(x=x, y=np.repeat([0, 1, 2], 100))
    data = load(path, window=10, hop=1)
    assert set(data.y_train) == set(data.y_test) == {0, 1, 2}
    assert not rows_seen(data.x_train) & rows_seen(data.x_test)
    assert any("own last part" in note.message for note in check(path, window=10, hop=1).notes)


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=80),
    st.integers(1, 12),
    st.integers(1, 12),
    st.floats(0.05, 0.95),
)
def test_no_row_is_in_both_parts(labels: list[int], window: int, hop: int, fraction: float) -> None:
    y = np.array(labels)
    try:
        train, test, _ = by_time(y, window, hop, fraction)
    except DataError:
        return
    assert set(y[train]) == set(y)
    assert len(test) > 0
    covered = {i * hop + k for i in test.tolist() for k in range(window)}
    for i in train.tolist():
        assert covered.isdisjoint(range(i * hop, i * hop + window))


def test_own_test_part_needs_no_gap(savez: Savez) -> None:
    x, y = stream(60)
    data = load(savez(x=x, y=y, x_test=x[:20], y_test=y[:20]), window=4, hop=2)
    assert (len(data.x_train), len(data.x_test)) == (29, 9)


def test_windows_to_predict(savez: Savez) -> None:
    x, y = stream(60)
    cut, labels = load_inputs(savez(x=x, y=y), features=8, window=4, hop=2)
    assert np.array_equal(cut, windows(x, None, 4, 2)[0])
    assert labels == [str(v) for v in y[3::2][:29]]


def test_stream_shorter_than_a_window(savez: Savez) -> None:
    x, y = stream(20)
    with pytest.raises(DataError, match="20 rows, fewer than one window of 21"):
        load(savez(x=x, y=y), window=21)


def test_stream_too_short_to_part(savez: Savez) -> None:
    x, y = stream(20)
    with pytest.raises(DataError, match="too short to part"):
        load(savez(x=x, y=y), window=15, hop=1)


def test_window_of_too_many_inputs(savez: Savez) -> None:
    with pytest.raises(DataError, match="400000 inputs, more than the 65536"):
        load(savez(x=np.zeros((1000, 400)), y=np.arange(1000) % 2), window=1000)


def test_one_class_in_the_windows(savez: Savez) -> None:
    x, y = stream(40)
    with pytest.raises(DataError, match="one class only"):
        load(savez(x=x, y=y), window=10, hop=10)


def test_other_window_than_the_model(savez: Savez) -> None:
    x, y = stream(40)
    path = savez(x=x, y=y)
    with pytest.raises(DataError, match="8 inputs, which is no multiple of a window of 3"):
        load_inputs(path, features=8, window=3)
    with pytest.raises(
        DataError, match="2 inputs a row; the model has 8, 1 a row of a window of 8"
    ):
        load_inputs(path, features=8, window=8)
