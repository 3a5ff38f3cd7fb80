"""The scikit-learn estimator: scikit-learn's own checks, and what is ours alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import zgedge
from zgedge.errors import BudgetError, UsageError
from zgedge.train.estimator import ZeroGrowthClassifier


@parametrize_with_checks([ZeroGrowthClassifier(epochs=20)])
def test_scikit_learn_check(estimator: Any, check: Any) -> None:
    check(estimator)


def _digits() -> tuple[Any, ...]:
    x, y = load_digits(return_X_y=True)
    return tuple(train_test_split(x, y, test_size=0.2, random_state=0, stratify=y))


def test_fits_its_budget_and_predicts_well() -> None:
    x, x_test, y, y_test = _digits()
    model = zgedge.ZeroGrowthClassifier("16KB", shape=(8, 8, 1), epochs=30).fit(x, y)
    assert model.n_bytes_ <= 16 * 1024
    assert model.score(x_test, y_test) >= 0.94
    assert model.plan_.network.layers[0].block == 4


def test_partial_fit_learns_in_the_same_bytes() -> None:
    x, x_test, y, y_test = _digits()
    model = ZeroGrowthClassifier("16KB", shape=(8, 8, 1), epochs=3, rate=0.1).fit(x[:200], y[:200])
    before, size, buffer = model.score(x_test, y_test), model.n_bytes_, model.model_.arena.buffer
    model.partial_fit(x[200:], y[200:])
    assert model.score(x_test, y_test) > before
    assert model.model_.arena.buffer is buffer
    assert len(buffer) == size
    assert model.model_.arena.learner()["rewired"] > 0


def test_partial_fit_moves_wires_where_a_guard_judges() -> None:
    x, _, y, _ = _digits()
    model = ZeroGrowthClassifier("64KB", shape=(8, 8, 1), epochs=3).fit(x, y)
    watch = model.model_.arena.watch()
    assert watch is not None
    assert watch["guard"] == "on"
    model.partial_fit(x[:400], y[:400])
    assert model.model_.arena.learner()["rewired"] > 0
    assert model.model_.arena.calm == 4


def test_first_partial_fit_plans_for_classes_yet_to_come() -> None:
    x, _, y, _ = _digits()
    few = y < 5
    model = ZeroGrowthClassifier("16KB", shape=(8, 8, 1), epochs=5, rate=0.2)
    model.partial_fit(x[few][:200], y[few][:200], classes=np.arange(10))
    assert len(model.classes_) == 10
    model.partial_fit(x[~few][:300], y[~few][:300])
    assert set(model.predict(x[~few][:300])) & set(range(5, 10))


def test_partial_fit_without_classes() -> None:
    with pytest.raises(ValueError, match="classes must be passed"):
        ZeroGrowthClassifier().partial_fit([[0.0], [1.0]], [0, 1])


def test_label_that_the_network_has_no_room_for() -> None:
    x, _, y, _ = _digits()
    model = ZeroGrowthClassifier("8KB", epochs=1).fit(x[y < 9], y[y < 9])
    with pytest.raises(ValueError, match="cannot grow"):
        model.partial_fit(x[y == 9], y[y == 9])


def test_budget_too_small_and_budget_that_means_nothing() -> None:
    x = np.random.default_rng(0).random((40, 3000))
    with pytest.raises(BudgetError) as e:
        ZeroGrowthClassifier("2KB").fit(x, np.arange(40) % 2)
    assert e.value.smallest is not None
    with pytest.raises(UsageError):
        ZeroGrowthClassifier("abc").fit(x, np.arange(40) % 2)


def test_text_labels_are_kept_in_the_file(tmp_path: Path) -> None:
    x, y = load_wine(return_X_y=True)
    names = np.array(["barolo", "grignolino", "barbera"])[y]
    model = make_pipeline(StandardScaler(), ZeroGrowthClassifier("8KB", epochs=40)).fit(x, names)
    assert model.score(x, names) > 0.95
    inner = model[-1]
    inner.save(str(tmp_path / "wine.zge"))
    opened = zgedge.Model.open(tmp_path / "wine.zge")
    scaled = model[0].transform(x)
    assert list(opened.predict(scaled)) == list(inner.predict(scaled))
    assert (tmp_path / "wine.zge").stat().st_size <= 8 * 1024


def test_same_seed_same_bytes_and_pickle_and_clone() -> None:
    x, _, y, _ = _digits()
    a = ZeroGrowthClassifier("8KB", epochs=2, random_state=3).fit(x[:300], y[:300])
    b = clone(a).fit(x[:300], y[:300])
    assert a.model_.arena.buffer.tobytes() == b.model_.arena.buffer.tobytes()
    c = pickle.loads(pickle.dumps(a))
    assert np.array_equal(c.predict_proba(x), a.predict_proba(x))


def test_works_in_cross_validation() -> None:
    x, y = load_wine(return_X_y=True)
    scores = cross_val_score(ZeroGrowthClassifier("8KB", epochs=40), x, y, cv=3)
    assert scores.mean() > 0.9
