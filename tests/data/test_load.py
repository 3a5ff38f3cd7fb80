"""Specs, splits and options: what holds for every form of data."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zgedge.data import catalog, class_names, data_folder, encode, label_text, load, load_inputs
from zgedge.data.split import stratified
from zgedge.errors import DataError, MissingExtraError, UsageError

Savez = Callable[..., str]


def test_digits() -> None:
    data = load()
    assert (data.name, data.kind, data.shape) == ("digits", "picture", (8, 8, 1))
    assert (data.x_train.shape, data.x_test.shape) == ((1438, 64), (359, 64))
    assert (data.classes, data.int_classes) == (tuple("0123456789"), True)
    assert (data.x_train.min(), data.x_train.max()) == (0, 16)
    share = np.bincount(data.y_test) / np.bincount(np.concatenate([data.y_train, data.y_test]))
    assert np.abs(share - 0.2).max() < 0.01


def test_the_split_of_digits_is_fixed() -> None:
    assert np.array_equal(load("digits", seed=5).x_test, load("digits").x_test)
    x, labels = load_inputs("digits", features=64)
    assert np.array_equal(x, load().x_test)
    assert labels == [str(v) for v in load().y_test]


def test_scikit_learn_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"scikit-learn .*'zgedge\[train\]'"):
        load("digits")


def test_catalog_names_every_source(tmp_path: Path) -> None:
    entries = catalog(tmp_path)
    assert [e.name for e in entries if e.named] == ["digits", "mnist", "cifar10"]
    assert [e.name for e in entries if not e.named] == [
        "FILE.npz", "FILE.csv", "X.npy,Y.npy", "FOLDER/",
    ]  # fmt: skip
    assert {e.name: e.place for e in entries if e.named} == {
        "digits": "scikit-learn", "mnist": None, "cifar10": None,
    }  # fmt: skip


def test_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ZGEDGE_DATA", raising=False)
    assert data_folder() == Path.home() / ".cache" / "zgedge"
    monkeypatch.setenv("ZGEDGE_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    assert data_folder("here") == Path("here")


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.01, 0.99), st.integers(0))
def test_stratified_split(labels: list[int], fraction: float, seed: int) -> None:
    y = np.array(labels)
    counts = np.bincount(y)
    if counts.max() < 2:
        with pytest.raises(DataError, match="single sample"):
            stratified(y, fraction, seed)
        return
    train, test = stratified(y, fraction, seed)
    assert sorted([*train, *test]) == list(range(len(y)))
    for value, n in enumerate(counts):
        tested = int((y[test] == value).sum())
        if n == 1:
            assert tested == 0
        elif n > 1:
            assert 1 <= tested < n
            assert abs(tested - fraction * n) <= 1


def test_split_follows_the_seed(savez: Savez) -> None:
    x = np.arange(100.0).reshape(50, 2)
    path = savez(x=x, y=np.arange(50) % 2)
    same, again, other = load(path, seed=1), load(path, seed=1), load(path, seed=2)
    assert np.array_equal(same.x_test, again.x_test)
    assert not np.array_equal(same.x_test, other.x_test)
    assert len(load(path, test_fraction=0.5).x_test) == 24  # 12.5 of each class, rounded to even
    assert len(same.x_test) == 10


def test_class_with_one_sample_is_trained_on(savez: Savez) -> None:
    data = load(savez(x=np.arange(7.0)[:, None], y=np.array([0, 0, 0, 1, 1, 1, 2])))
    assert 2 in data.y_train
    assert 2 not in data.y_test


def test_labels_have_one_spelling() -> None:
    three = (3, "3", 3.0, " 3.0 ", "3.")
    assert {label_text(v) for v in three} == {"3"}
    assert label_text("-0") == "0"
    for kept in ("03", "3.5", "+3", "3e1", "3.0.1"):
        assert label_text(kept) == kept
    names = class_names(["10", "9", "x", "9"])
    assert names == ("10", "9", "x")
    assert encode(["x", "9"], names).tolist() == [2, 1]


def test_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no data set or file 'minst'. Did you mean mnist"):
        load("minst")
    with pytest.raises(DataError, match="no data set or file 'a.csv'"):
        load("a.csv")


def test_file_of_unknown_form(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(DataError, match="no form that can be read.*FILE.csv"):
        load(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window of 0"),
        ({"window": 2, "hop": 0}, "hop of 0"),
        ({"hop": 2}, "hop needs a window"),
        ({"test_fraction": 0.0}, "fraction of 0.0"),
        ({"test_fraction": 1.0}, "fraction of 1.0"),
        ({"window": 2}, "these data are pictures"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load("digits", **options)


def test_other_number_of_inputs_than_the_model() -> None:
    with pytest.raises(DataError, match="64 inputs a row; the model has 784"):
        load_inputs("digits", features=784)


def test_importing_needs_numpy_alone() -> None:
    """A device that reads its data must not hold packages or network modules that it never uses."""
    code = (
        "import sys, zgedge.data, zgedge.data.shifts\n"
        "heavy = {'sklearn', 'scipy', 'PIL', 'torch', 'urllib.request', 'ssl'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from zgedge.data import get\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
