"""Made-up shifts: each does what it says, on arrays and on data sets, the same for one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zgedge.data import Dataset, load
from zgedge.data.shifts import dead, distractors, drift, new_class, permute, without_class
from zgedge.errors import UsageError

SHIFTS: dict[str, Callable[..., Any]] = {
    "permute": permute,
    "distractors": lambda data, seed: distractors(data, 30, seed=seed),
    "dead": dead,
    "drift": drift,
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def as_bytes(data: Dataset) -> Dataset:
    return replace(data, x_train=data.x_train.astype(np.uint8), x_test=data.x_test.astype(np.uint8))


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.float32])
def test_seeded_pure_and_of_the_same_type(digits: Dataset, name: str, dtype: Any) -> None:
    shift = SHIFTS[name]
    data = replace(digits, x_train=digits.x_train.astype(dtype))
    before = data.x_train.copy()
    once, again, other = (shift(data, seed=s) for s in (1, 1, 2))
    assert np.array_equal(data.x_train, before)
    assert np.array_equal(once.x_train, again.x_train)
    assert np.array_equal(once.x_test, again.x_test)
    assert not np.array_equal(once.x_train, other.x_train)
    assert not np.array_equal(once.x_train, data.x_train)
    assert np.array_equal(once.y_train, data.y_train)
    assert once.x_train.dtype == dtype
    assert once.x_train.flags.c_contiguous
    array = shift(data.x_train, seed=np.random.default_rng(1))
    assert np.array_equal(array, once.x_train)


def test_permute_moves_every_row_alike(digits: Dataset) -> None:
    order = permute(np.arange(64)[None], seed=3)[0]
    assert sorted(order) == list(range(64))
    moved = permute(digits, seed=3)
    assert np.array_equal(moved.x_train, digits.x_train[:, order])
    assert np.array_equal(moved.x_test, digits.x_test[:, order])
    named = replace(digits, feature_names=tuple(map(str, range(64))))
    assert permute(named, seed=3).feature_names == tuple(map(str, order))


def test_distractors_are_sparse_noise_in_the_range_of_the_data(digits: Dataset) -> None:
    for data in (digits, as_bytes(digits)):
        wide = distractors(data, 500, seed=1)
        assert np.array_equal(wide.x_train[:, :64], data.x_train)
        assert (wide.features, wide.shape, wide.kind) == (564, (1, 564, 1), "picture")
        noise = wide.x_train[:, 64:].astype(float)
        assert noise.min() == 0
        assert 15 < noise.max() <= 16
        lit = noise[noise > 0.5]
        # Of the fifth that is not set to 0, one in 32 is below a half and reads as 0.
        assert lit.size / noise.size == pytest.approx(0.2 * 31 / 32, abs=0.002)
        assert lit.mean() == pytest.approx(8.25, abs=0.1)
        assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 0.1
        assert not np.array_equal(wide.x_test[:100, 64:], wide.x_train[:100, 64:])


def test_distractors_of_a_table_start_at_its_low_end() -> None:
    x = np.linspace(-3, 5, 40).reshape(20, 2)
    noise = distractors(x, 400, seed=1)[:, 2:]
    assert noise.min() == -3
    assert (noise == -3).mean() == pytest.approx(0.8, abs=0.02)


def test_dead_inputs_read_zero(digits: Dataset) -> None:
    table = np.random.default_rng(0).normal(size=(50, 40)) + 9
    broken = dead(table, 0.25, seed=1)
    silent = (broken == 0).all(axis=0)
    assert silent.sum() == 10
    assert np.array_equal(broken[:, ~silent], table[:, ~silent])
    shifted = dead(replace(digits, x_train=digits.x_train + 1, x_test=digits.x_test + 1), seed=1)
    assert ((shifted.x_train == 0).all(axis=0) == (shifted.x_test == 0).all(axis=0)).all()
    assert (shifted.x_train == 0).all(axis=0).sum() == 32


def test_drift_grows_row_by_row(digits: Dataset) -> None:
    x = np.ones((101, 5))
    x[:, 0] = 3
    aged = drift(x, seed=1, gain=0.3, offset=0.1)
    assert np.array_equal(aged[0], x[0])
    moved = aged - x
    assert np.allclose(moved, np.linspace(0, 1, 101)[:, None] * moved[-1])
    assert (np.abs(moved[-1]) <= 0.3 * x[-1] + 0.1 * 2).all()
    shifted = drift(digits, seed=1)
    assert np.array_equal(shifted.x_train[0], digits.x_train[0])
    assert not np.array_equal(shifted.x_test[0], digits.x_test[0])
    assert np.array_equal(drift(x, seed=1, gain=0, offset=0), x)


def test_drift_of_bytes_is_clamped() -> None:
    x = np.tile(np.array([[0, 255]], np.uint8), (50, 30))
    aged = drift(x, seed=1, gain=0.9, offset=0.5)
    assert aged.dtype == np.uint8
    assert aged[-1, ::2].min() == 0
    assert aged[-1, 1::2].max() == 255


def test_new_class_keeps_its_place(digits: Dataset) -> None:
    before, after = new_class(digits, "7")
    assert before.classes == digits.classes
    assert 7 not in before.y_train
    assert 7 not in before.y_test
    assert after is digits
    assert len(before.x_train) == len(before.y_train) == (digits.y_train != 7).sum()
    assert {len(new_class(digits, seed=1)[0].x_train)} == {
        len(new_class(digits, seed=1)[0].y_train)
    }
    x, y = without_class(digits.x_train, digits.y_train, 7)
    assert np.array_equal(x, before.x_train)
    assert np.array_equal(y, before.y_train)


def test_shifts_that_mean_nothing(digits: Dataset) -> None:
    for call in (
        lambda: distractors(digits, -1, seed=0),
        lambda: distractors(digits, 1, seed=0, zero_fraction=1.5),
        lambda: dead(digits, 2, seed=0),
        lambda: new_class(digits, "eleven"),
    ):
        with pytest.raises(UsageError):
            call()


def test_the_adaptation_experiment(shared_data: Path) -> None:
    data = load("mnist", data_dir=shared_data)
    data = replace(data, x_train=data.x_train[:5000], y_train=data.y_train[:5000])
    before = permute(distractors(data, 3000, seed=1), seed=2)
    after = permute(before, seed=3)
    assert before.features == after.features == 3784
    assert before.x_train.dtype == np.uint8
    assert (before.x_test == 0).mean() == pytest.approx(0.8, abs=0.01)
    same = np.array_equal(np.sort(before.x_train[0]), np.sort(after.x_train[0]))
    assert same
    assert not np.array_equal(before.x_train[0], after.x_train[0])
