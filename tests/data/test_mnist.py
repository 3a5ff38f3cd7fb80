"""IDX files: what is read, and each fault by its name."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import idx_bytes, write_mnist
from zgedge.data import catalog, load, load_inputs
from zgedge.errors import DataError

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("place", ["mnist", ""])
def test_every_form(tmp_path: Path, gzipped: bool, dotted: bool, place: str) -> None:
    write_mnist(tmp_path / place, gzipped=gzipped, dotted=dotted)
    data = load("mnist", data_dir=tmp_path)
    wanted = np.random.default_rng(0).integers(0, 256, (20, 4, 3)).reshape(20, -1)
    assert np.array_equal(data.x_train, wanted)
    assert data.y_train.tolist() == [i % 10 for i in range(20)]
    assert data.x_train.dtype == np.uint8
    assert (data.x_test.shape, data.shape, data.kind) == ((10, 12), (4, 3, 1), "picture")
    assert (data.name, data.int_classes) == ("mnist", True)


def test_the_same_files_by_path(tmp_path: Path) -> None:
    write_mnist(tmp_path / "fashion")
    data = load(tmp_path / "fashion")
    assert (data.name, len(data.x_train)) == ("fashion", 20)


def test_inputs_are_the_test_part(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    x, labels = load_inputs("mnist", features=12, data_dir=tmp_path)
    assert np.array_equal(x, load("mnist", data_dir=tmp_path).x_test)
    assert labels == [str(i) for i in range(10)]


def test_place_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "mnist")
    monkeypatch.setenv("ZGEDGE_DATA", str(tmp_path))
    assert len(load("mnist").x_train) == 20
    entry = next(e for e in catalog() if e.name == "mnist")
    assert entry.place == str(tmp_path / "mnist")


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mnist is not in") as caught:
        load("mnist", data_dir=tmp_path)
    assert "--data-dir" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / LABELS).unlink()
    with pytest.raises(DataError, match=f"no file {LABELS}"):
        load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b"", "not an IDX file: it starts with nothing"),
        (lambda b: b[:3], "not an IDX file"),
        (lambda b: b"GIF8" + b[4:], "not an IDX file: it starts with 47 49 46 38"),
        (lambda b: b[:2] + b"\x0d" + b[3:], "type 0x0d"),
        (lambda b: b[:3] + b"\x01" + b[4:], "holds 1 dimensions"),
        (lambda b: b[:15], "ends inside its header"),
        (lambda b: b[:-1], "should hold 240 bytes .* holds 239"),
        (lambda b: b + b"\0", "should hold 240 bytes .* holds more"),
        (lambda b: b[:4] + struct.pack(">3I", *[2**32 - 1] * 3), "more than 4 GB"),
        (lambda b: b[:4] + struct.pack(">3I", 2**32 - 1, 1, 1) + b[16:], "holds 240"),
        (lambda b: b[:4] + struct.pack(">3I", 19, 4, 3) + b[16:-12], "19 pictures, .* 20 labels"),
        (lambda b: gzip.compress(b)[:-9], "cannot be read"),
        (lambda b: gzip.compress(b)[:-8] + bytes(4) + gzip.compress(b)[-4:], "cannot be read"),
    ],
    ids=[
        "empty", "cut in the magic", "another format", "another type", "other dimensions",
        "cut in the header", "cut", "too long", "claims 2^96", "claims 2^32", "fewer pictures",
        "cut gzip", "damaged gzip",
    ],
)  # fmt: skip
def test_damaged_file(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / IMAGES).write_bytes(change(idx_bytes(np.zeros((20, 4, 3)))))
    with pytest.raises(DataError, match=message) as caught:
        load("mnist", data_dir=tmp_path)
    assert IMAGES in caught.value.message


def test_cut_at_any_byte(tmp_path: Path) -> None:
    write_mnist(tmp_path, gzipped=True)
    path = tmp_path / f"{IMAGES}.gz"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            load("mnist", data_dir=tmp_path)


def test_real_mnist(shared_data: Path) -> None:
    data = load("mnist", data_dir=shared_data)
    assert (data.x_train.shape, data.x_test.shape) == ((60000, 784), (10000, 784))
    assert data.shape == (28, 28, 1)
    assert data.x_train.max() == 255
    assert np.bincount(data.y_train).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
