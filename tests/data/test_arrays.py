"""Arrays in .npz and .npy files: what is read, and each fault by its name."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zgedge.data import load, load_inputs
from zgedge.errors import DataError

Savez = Callable[..., str]

X = np.arange(24, dtype=np.float32).reshape(8, 3)
Y = np.array([0, 1] * 4)


def fails(path: str, *parts: str) -> DataError:
    with pytest.raises(DataError) as caught:
        load(path)
    for part in parts:
        assert part in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", ">f4", "f8", "i1", "u1", "i2", ">i4", "i8", "u8", "?", "g"]
)
def test_every_real_dtype(savez: Savez, dtype: str) -> None:
    path = savez(x=X.astype(dtype), y=Y)
    assert load_inputs(path, features=3)[0].dtype.isnative
    data = load(path)
    assert data.x_train.dtype == (np.uint8 if dtype == "?" else np.dtype(dtype).newbyteorder("="))
    every = np.concatenate([data.x_train, data.x_test])
    wanted = X.astype(dtype).astype(float)
    assert sorted(map(tuple, every.astype(float))) == sorted(map(tuple, wanted))


@pytest.mark.parametrize(
    ("y", "classes", "whole"),
    [
        (np.array([3, -1] * 4, np.int8), ("-1", "3"), True),
        (np.array([10.0, 9.0] * 4, np.float32), ("9", "10"), True),
        (np.array([0.1, 0.5] * 4, np.float32), ("0.1", "0.5"), False),
        (np.array(["b", "ä"] * 4), ("b", "ä"), False),
        (np.char.encode(np.array(["b", "ä"] * 4), "utf-8"), ("b", "ä"), False),
        (np.array(["7", "70"] * 4), ("7", "70"), True),
        (np.array([True, False] * 4), ("False", "True"), False),
        (np.array([[3], [4]] * 4), ("3", "4"), True),
        (np.array([2**63, 1] * 4, np.uint64), ("1", str(2**63)), False),
    ],
    ids=[
        "int", "whole float", "fraction", "text", "bytes", "digits", "bool", "column",
        "uint64",
    ],
)  # fmt: skip
def test_every_form_of_label(savez: Savez, y: Any, classes: tuple[str, ...], whole: bool) -> None:
    data = load(savez(x=X, y=y))
    assert (data.classes, data.int_classes) == (classes, whole)
    assert data.y_train.dtype == np.int64


def test_rows_keep_their_labels(savez: Savez) -> None:
    data = load(savez(x=X, y=Y + 5))
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        for row, index in zip(x, y, strict=True):
            assert int(data.classes[index]) == 5 + int(row[0] / 3) % 2


def test_own_test_part(savez: Savez) -> None:
    path = savez(x=X, y=Y, x_test=X[:3] + 100, y_test=Y[:3])
    data = load(path)
    assert np.array_equal(data.x_train, X)
    assert np.array_equal(data.x_test, X[:3] + 100)
    x, labels = load_inputs(path, features=3)
    assert np.array_equal(x, X[:3] + 100)
    assert labels == ["0", "1", "0"]


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_pictures(savez: Savez, channels: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (8, 5, 4, *channels), dtype=np.uint8)
    path = savez(x=x, y=Y)
    data = load(path)
    assert (data.kind, data.shape) == ("picture", (5, 4, *(channels or (1,))))
    assert data.x_train.dtype == np.uint8
    assert np.array_equal(load_inputs(path, features=data.features)[0], x.reshape(8, -1))


def test_pictures_with_values_below_zero_are_scaled_as_a_table(savez: Savez) -> None:
    data = load(savez(x=X.reshape(8, 3, 1) - 5, y=Y))
    assert (data.kind, data.shape) == ("table", (1, 3, 1))


def test_npz_without_labels_to_predict(savez: Savez) -> None:
    x, labels = load_inputs(savez(x=X), features=3)
    assert np.array_equal(x, X)
    assert labels is None


def test_pair_of_npy_files(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    pair = load(f"{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}")
    folder = load(tmp_path)
    assert np.array_equal(pair.x_train, folder.x_train)
    assert (pair.name, folder.name) == ("x", tmp_path.name)
    x, labels = load_inputs(tmp_path / "x.npy", features=3)
    assert np.array_equal(x, X)
    assert labels is None


def test_folder_of_npy_files_with_a_test_part(tmp_path: Path) -> None:
    for name, values in (("x", X), ("y", Y), ("x_test", X[:2]), ("y_test", Y[:2])):
        np.save(tmp_path / f"{name}.npy", values)
    assert len(load(tmp_path).x_test) == 2
    (tmp_path / "y_test.npy").unlink()
    fails(str(tmp_path), "x_test but no y_test")


def test_missing_labels(savez: Savez, tmp_path: Path) -> None:
    fails(savez(x=X), "no labels y")
    np.save(tmp_path / "x.npy", X)
    fails(str(tmp_path / "x.npy"), "no labels y")


def test_missing_x(savez: Savez) -> None:
    fails(savez(data=X, target=Y), "no array x", "data, target")


def test_missing_npy_file(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    fails(f"{tmp_path / 'x.npy'},{tmp_path / 'y.npy'}", "y.npy does not exist")
    fails(f"{tmp_path / 'x.npy'},a.npy,b.npy", "3 files")


def test_half_a_test_part(savez: Savez) -> None:
    fails(savez(x=X, y=Y, x_test=X), "x_test but no y_test")
    fails(savez(x=X, y=Y, y_test=Y), "y_test but no x_test")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_or_infinity(savez: Savez, value: float) -> None:
    x = X.copy()
    x[5, 2] = value
    fails(savez(x=x, y=Y), "x[5, 2]", f"is {value}")


def test_nan_in_a_picture(savez: Savez) -> None:
    x = X.reshape(8, 3, 1).copy()
    x[5, 2, 0] = np.nan
    fails(savez(x=x, y=Y), "x[5, 2, 0] is nan")


def test_nan_past_the_first_block_of_rows(savez: Savez) -> None:
    x = np.zeros((9000, 2))
    x[8999, 1] = np.nan
    fails(savez(x=x, y=np.arange(9000) % 2), "x[8999, 1] is nan")


def test_nan_in_the_test_part(savez: Savez) -> None:
    fails(savez(x=X, y=Y, x_test=X * np.nan, y_test=Y), "x_test[0, 0] is nan")


def test_number_too_large_for_the_model(savez: Savez) -> None:
    x = X.astype(float)
    x[1, 1] = 1e39
    fails(savez(x=x, y=Y), "x[1, 1] is 1e+39", "32-bit")


def test_text_instead_of_numbers(savez: Savez) -> None:
    fails(savez(x=X.astype(str), y=Y), "text, not numbers")


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", [("a", "f4")]])
def test_dtype_that_is_no_real_number(savez: Savez, dtype: Any) -> None:
    fails(savez(x=np.zeros((8, 3), dtype), y=Y), "real numbers")


@pytest.mark.parametrize("shape", [(), (8,), (2, 2, 2, 2, 2)])
def test_wrong_number_of_axes(savez: Savez, shape: tuple[int, ...]) -> None:
    fails(savez(x=np.zeros(shape), y=Y), f"shape {shape}")


def test_one_hot_labels(savez: Savez) -> None:
    error = fails(savez(x=X, y=np.eye(2)[Y]), "y has the shape (8, 2)")
    assert error.hint is not None
    assert "argmax" in error.hint


def test_unequal_lengths(savez: Savez) -> None:
    fails(savez(x=X, y=Y[:7]), "x has 8 rows and y has 7")


@pytest.mark.parametrize(
    ("y", "shown"), [(np.array([0, np.nan] * 4), "nan"), (np.array(["a", " "] * 4), "empty")]
)
def test_row_without_label(savez: Savez, y: Any, shown: str) -> None:
    fails(savez(x=X, y=y), f"y[1] is {shown}")


def test_labels_of_no_usable_type(savez: Savez) -> None:
    fails(savez(x=X, y=Y.astype(complex)), "y has the dtype complex128")
    fails(savez(x=X, y=np.array([b"\xff", b"a"] * 4)), "not UTF-8")


def test_label_with_a_zero_byte(savez: Savez) -> None:
    fails(savez(x=X, y=np.array(["a\0b", "c"] * 4)), "zero byte")


def test_empty_data(savez: Savez) -> None:
    fails(savez(x=X[:0], y=Y[:0]), "no rows")
    fails(savez(x=X[:, :0], y=Y), "0 inputs")
    fails(savez(x=X, y=Y, x_test=X[:0], y_test=Y[:0]), "test part has no rows")


def test_one_class(savez: Savez) -> None:
    fails(savez(x=X, y=Y * 0), "one class only, '0'")


def test_too_many_classes(savez: Savez) -> None:
    x = np.zeros((8194, 1), np.uint8)
    fails(savez(x=x, y=np.arange(8194) // 2), "4097 different labels", "at most 4096")
    assert len(load(savez(x=x[:8192], y=np.arange(8192) // 2)).classes) == 4096


def test_too_many_features(savez: Savez) -> None:
    fails(savez(x=np.zeros((4, 65537), np.uint8), y=Y[:4]), "65537 inputs", "1 to 65536")
    assert load(savez(x=np.zeros((4, 65536), np.uint8), y=Y[:4])).features == 65536


def test_only_single_samples(savez: Savez) -> None:
    fails(savez(x=X[:3], y=np.arange(3)), "single sample of each")


def test_label_seen_only_in_the_test_part(savez: Savez) -> None:
    fails(savez(x=X, y=Y, x_test=X[:1], y_test=Y[:1] + 9), "label '9'", "no training row")


def test_test_part_of_another_shape(savez: Savez) -> None:
    fails(savez(x=X, y=Y, x_test=X[:, :2], y_test=Y), "(3,)", "(2,)")


def test_other_number_of_inputs_than_the_model(savez: Savez) -> None:
    with pytest.raises(DataError, match="3 inputs a row; the model has 64"):
        load_inputs(savez(x=X, y=Y), features=64)


def test_no_rows_to_predict(savez: Savez) -> None:
    with pytest.raises(DataError, match="no rows"):
        load_inputs(savez(x=X[:0]), features=3)


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was executed",))


def test_pickled_objects_are_refused(savez: Savez, tmp_path: Path) -> None:
    objects = np.array([Bomb()] * 8, dtype=object)
    fails(savez(x=X, y=objects), "y holds Python objects")
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.save(tmp_path / "y.npy", Y)
    fails(str(tmp_path), "x.npy holds Python objects")


def test_pickle_named_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(pickle.dumps(Bomb()))
    fails(str(path), "Python objects")


def test_text_under_another_name(tmp_path: Path) -> None:
    """numpy says of whatever it does not know that it is a pickle."""
    for name in ("a.npz", "a.npy"):
        (tmp_path / name).write_text("no array at all\n")
        fails(str(tmp_path / "a.npz"), "a.npz is neither an .npy nor an .npz file")
    (tmp_path / "x.npy").write_text("nor here\n")
    fails(str(tmp_path), "x.npy is neither an .npy nor an .npz file")


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 not really")
    fails(str(tmp_path / "a.npz"), "cannot be read")
    (tmp_path / "b.npz").write_bytes(b"")
    fails(str(tmp_path / "b.npz"), "cannot be read")
    np.save(tmp_path / "c.npy", X)
    (tmp_path / "c.npy").rename(tmp_path / "c.npz")
    fails(str(tmp_path / "c.npz"), "one .npy array")
    np.savez(tmp_path / "d.npz", x=X)
    (tmp_path / "d.npz").rename(tmp_path / "d.npy")
    fails(str(tmp_path / "d.npy"), ".npz archive")
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("x.npy", b"no array")
    fails(str(tmp_path / "e.npz"), "x")


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_cut_at_any_byte(tmp_path: Path, savez: Savez, form: str) -> None:
    if form == "npz":
        path = Path(savez(x=X, y=Y))
    else:
        path = tmp_path / "x.npy"
        np.save(path, X)
        np.save(tmp_path / "y.npy", Y)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            load(path if form == "npz" else tmp_path)


def test_header_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    body = (tmp_path / "x.npy").read_bytes()
    claim = body.replace(b"(8, 3), }        ", b"(4294967295, 3), }")
    assert claim != body
    (tmp_path / "x.npy").write_bytes(claim)
    fails(str(tmp_path), "x.npy cannot be read")
