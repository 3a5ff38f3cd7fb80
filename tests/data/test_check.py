"""`check` says everything at once, and agrees with `load`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zgedge.data import check, load
from zgedge.errors import DataError, UsageError

Savez = Callable[..., str]
Write = Callable[[str, str], str]

FAULTY = """left,right,kind
1,2,a
3,four,b
5,,a
7,8
9,nan,b
11,12,
13,1e99,a
x,y,b
"""


def test_every_fault_of_a_table(write: Write) -> None:
    path = write("a.csv", FAULTY)
    report = check(path)
    assert not report.ok
    assert report.source == "FILE.csv"
    assert [(e.row, e.column, e.value) for e in report.errors] == [
        (3, "right", "four"),
        (4, "right", ""),
        (5, None, "2"),
        (7, "kind", ""),
        (9, "left", "x"),
        (9, "right", "y"),
        (6, "right", "nan"),
        (8, "right", "1e+99"),
    ]
    with pytest.raises(DataError) as caught:
        load(path)
    assert caught.value.message == report.errors[0].message


def test_faults_past_the_limit_are_counted(write: Write, savez: Savez) -> None:
    report = check(write("a.csv", FAULTY), keep=3)
    assert (len(report.errors), report.error_count) == (3, 8)
    report = check(savez(x=np.full((100, 100), np.nan), y=np.arange(100) % 2), keep=5)
    assert (len(report.errors), report.error_count) == (5, 10_000)
    report = check(write("b.csv", "nan,nan,a\n" * 10), keep=5)
    assert (len(report.errors), report.error_count) == (5, 20)


def test_faults_of_arrays(savez: Savez) -> None:
    x = np.zeros((6, 3))
    x[2, 1], x[4, 0] = np.nan, -np.inf
    report = check(savez(x=x, y=np.array([0, 1, np.nan] * 2)))
    assert [(e.row, e.column, e.value) for e in report.errors] == [
        (2, 1, "nan"), (4, 0, "-inf"), (2, None, "nan"), (5, None, "nan"),
    ]  # fmt: skip
    assert (report.rows, report.features) == (6, 3)


def test_good_data(write: Write) -> None:
    report = check(write("a.csv", "1,2,a\n3,4,b\n5,6,a\n7,8,b\n"))
    assert report.ok
    assert (report.rows, report.features, report.class_counts) == (4, 2, {"a": 2, "b": 2})
    assert report.errors == report.notes == ()
    assert json.loads(json.dumps(report.as_dict()))["ok"] is True


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((0, 2)), "y": np.zeros(0)}, "no rows"),
        ({"x": np.ones((4, 2)), "y": np.zeros(4)}, "one class only"),
        ({"x": np.ones((4, 2)), "y": np.arange(4)}, "single sample"),
        ({"x": np.ones((4, 2)), "y": np.arange(3)}, "4 rows and y has 3"),
        ({"x": np.ones((9000, 2)), "y": np.arange(9000) // 2}, "at most 4096"),
        ({"x": np.ones((4, 65537), np.uint8), "y": np.arange(4) % 2}, "65537 inputs"),
    ],
    ids=["empty", "one class", "one of each", "lengths", "too many classes", "too many inputs"],
)  # fmt: skip
def test_faults_of_the_whole(savez: Savez, arrays: dict[str, np.ndarray], message: str) -> None:
    report = check(savez(**arrays))
    assert not report.ok
    assert any(message in error.message for error in report.errors)


def notes(path: str | Path) -> str:
    report = check(path)
    assert report.ok
    return "\n".join(note.message for note in report.notes)


def test_note_of_constant_columns(write: Write) -> None:
    text = "a,flat,b,kind\n" + "".join(f"{i},7,{i * i},{i % 2}\n" for i in range(9))
    assert "1 of 3 inputs never change: flat" in notes(write("a.csv", text))


def test_note_of_classes_with_one_sample(write: Write) -> None:
    assert "1 of its classes has a single sample" in notes(
        write("a.csv", "1,a\n2,a\n3,b\n4,b\n5,c\n")
    )


def test_note_of_a_row_index(write: Write) -> None:
    text = ",u,kind\n" + "".join(f"{i},{i * i},{i % 2}\n" for i in range(9))
    assert "left out as a row index" in notes(write("a.csv", text))


def test_note_of_flat_pictures(savez: Savez) -> None:
    rng = np.random.default_rng(0)
    path = savez(x=rng.integers(0, 256, (9, 64), dtype=np.uint8), y=np.arange(9) % 2)
    assert "table of bytes" in notes(path)


def test_note_of_pictures_below_zero(savez: Savez) -> None:
    rng = np.random.default_rng(0)
    assert "below 0" in notes(savez(x=rng.normal(size=(9, 4, 4)), y=np.arange(9) % 2))


def test_missing_file_is_a_finding() -> None:
    report = check("no/such/file.csv")
    assert (report.ok, report.source, report.rows) == (False, None, 0)
    assert "no data set or file" in report.errors[0].message


def test_series_is_checked_as_windows(savez: Savez) -> None:
    path = savez(x=np.arange(40.0)[:, None], y=np.arange(40) // 5 % 2)
    report = check(path, window=4, hop=2)
    assert report.ok
    assert (report.rows, report.features) == (19, 4)
    assert not check(path, window=41).ok


def test_options_that_mean_nothing() -> None:
    with pytest.raises(UsageError):
        check("digits", hop=3)


def test_digits_are_good() -> None:
    report = check("digits")
    assert report.ok
    assert report.rows == 1797
    assert sum(report.class_counts.values()) == 1797
