"""CIFAR-10 batches: what is read, and each fault by its name."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.conftest import cifar_batch, cifar_body, write_cifar, write_cifar_archive
from zgedge.data import check, load, load_inputs
from zgedge.errors import DataError

FORMS = ["binary", "python 2", "python 3"]
ARCHIVES = {"binary": "cifar-10-binary.tar.gz", "python 2": "cifar-10-python.tar.gz"}


def verify(spec: object, data_dir: object = None) -> None:
    data = load(str(spec), data_dir=data_dir)  # type: ignore[arg-type]
    assert (data.x_train.shape, data.x_test.shape) == ((50, 3072), (10, 3072))
    assert (data.shape, data.kind, data.x_train.dtype) == ((32, 32, 3), "picture", np.uint8)
    assert data.classes[:2] == ("airplane", "automobile")
    assert len(data.classes) == 10
    assert not data.int_classes
    batches = [cifar_batch(k) for k in range(6)]
    planes = np.concatenate([x for x, _ in batches]).reshape(60, 3, 32, 32)
    wanted = planes.transpose(0, 2, 3, 1).reshape(60, -1)
    assert np.array_equal(np.concatenate([data.x_train, data.x_test]), wanted)
    labels = [v for _, y in batches for v in y]
    assert np.concatenate([data.y_train, data.y_test]).tolist() == labels


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["cifar10", "", "cifar10/cifar-10-batches-py"])
def test_folder(tmp_path: Path, form: str, place: str) -> None:
    write_cifar(tmp_path / place, form)
    verify("cifar10", tmp_path)
    verify(tmp_path)


@pytest.mark.parametrize("form", ARCHIVES)
def test_archive(tmp_path: Path, form: str) -> None:
    write_cifar_archive(tmp_path / "cifar10" / ARCHIVES[form], form)
    verify("cifar10", tmp_path)
    verify(tmp_path / "cifar10" / ARCHIVES[form])
    assert os.listdir(tmp_path / "cifar10") == [ARCHIVES[form]]


def test_inputs_are_the_test_part(tmp_path: Path) -> None:
    write_cifar(tmp_path, "binary")
    x, labels = load_inputs("cifar10", features=3072, data_dir=tmp_path)
    assert len(x) == 10
    assert labels is not None
    assert labels[0] == "dog"


def fails(folder: Path, *parts: str) -> DataError:
    with pytest.raises(DataError) as caught:
        load("cifar10", data_dir=folder)
    for part in parts:
        assert part in caught.value.message
    return caught.value


def test_no_files(tmp_path: Path) -> None:
    assert "--data-dir" in str(fails(tmp_path, "cifar10 is not in"))


def test_missing_batch(tmp_path: Path) -> None:
    write_cifar(tmp_path, "binary")
    (tmp_path / "data_batch_3.bin").unlink()
    fails(tmp_path, "no batch data_batch_3")


def test_cut_binary_batch(tmp_path: Path) -> None:
    write_cifar(tmp_path, "binary")
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    fails(tmp_path, "data_batch_2.bin is 30729 bytes long", "3,073")


def test_label_out_of_range(tmp_path: Path) -> None:
    write_cifar(tmp_path, "binary")
    body = bytearray((tmp_path / "data_batch_2.bin").read_bytes())
    body[3073] = 10
    (tmp_path / "data_batch_2.bin").write_bytes(body)
    fails(tmp_path, "data_batch_2.bin: picture 1 has the label 10")


def test_empty_batches(tmp_path: Path) -> None:
    write_cifar(tmp_path, "binary")
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    fails(tmp_path, "no rows")


@pytest.mark.parametrize("form", ["python 2", "python 3"])
def test_pickle_cut_at_any_place(tmp_path: Path, form: str) -> None:
    write_cifar(tmp_path, form)
    whole = cifar_body(1, form)
    for length in [*range(300), *range(300, len(whole), 997), *range(len(whole) - 60, len(whole))]:
        (tmp_path / "data_batch_2").write_bytes(whole[:length])
        fails(tmp_path, "data_batch_2")


class Call:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


X, Y = cifar_batch(1)


@pytest.mark.parametrize(
    "value",
    [
        Call(os.system, "touch executed"),
        Call(eval, "open('executed', 'w')"),
        Call(subprocess.call, ["touch", "executed"]),
        {"data": X, "labels": Y, "more": Call(os.system, "touch executed")},
        {"data": X, "labels": Y, "more": Call(np.load, "executed")},
        {"data": X, "labels": Y, "more": Call(getattr, "a", "upper")},
    ],
    ids=["os.system", "eval", "subprocess", "beside the data", "numpy.load", "getattr"],
)
def test_pickle_that_wants_to_run_code(
    tmp_path: Path, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path / "cifar10", "python 3")
    (tmp_path / "cifar10" / "data_batch_2").write_bytes(pickle.dumps(value, protocol=2))
    fails(tmp_path, "data_batch_2 is not a CIFAR-10 batch and was not loaded")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "cannot be read"),
        ({"labels": Y}, "no entry 'data'"),
        ({"data": X}, "no entry 'labels'"),
        ({"data": X.tolist(), "labels": Y}, "not an array"),
        ({"data": X.astype(np.float32), "labels": Y}, "not an array of bytes"),
        ({"data": np.array([None, 1]), "labels": Y}, "not an array of bytes"),
        ({"data": X[:, :5], "labels": Y}, "shape (10, 5)"),
        ({"data": X, "labels": Y[:3]}, "3 labels"),
        ({"data": X, "labels": [*Y[:-1], 11]}, "label 11"),
        ({"data": X, "labels": [*Y[:-1], "cat"]}, "cannot be read"),
    ],
)
def test_pickle_of_something_else(tmp_path: Path, value: Any, message: str) -> None:
    write_cifar(tmp_path, "python 3")
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps(value, protocol=2))
    fails(tmp_path, "data_batch_2", message)


def test_pickle_in_column_order(tmp_path: Path) -> None:
    write_cifar(tmp_path, "python 3")
    body = pickle.dumps({"data": np.asfortranarray(X), "labels": Y}, protocol=2)
    (tmp_path / "data_batch_2").write_bytes(body)
    assert np.array_equal(np.sort(load(tmp_path).x_train[10]), np.sort(X[0]))


def test_cut_archive(tmp_path: Path) -> None:
    path = tmp_path / ARCHIVES["binary"]
    write_cifar_archive(path, "binary")
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:length])
        fails(tmp_path, path.name)


def test_archive_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("notes.txt")
        archive.addfile(member, io.BytesIO())
    report = check(path)
    assert not report.ok
    assert "no batch test_batch" in report.errors[0].message


def test_archive_with_links_and_huge_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="no batch test_batch"):
        load(path)
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("test_batch.bin")
        member.size = (1 << 26) + 1
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(DataError, match="too many"):
        load(path)


@pytest.mark.slow  # all of it
def test_real_cifar10(shared_data: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(shared_data / "cifar10_to_bin.py"), str(tmp_path)], check=True
    )
    data = load("cifar10", data_dir=tmp_path)
    assert (data.x_train.shape, data.x_test.shape) == ((50000, 3072), (10000, 3072))
    assert np.bincount(data.y_train).tolist() == [5000] * 10
    assert np.bincount(data.y_test).tolist() == [1000] * 10
