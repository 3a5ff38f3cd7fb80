"""Where rows come from: text of every kind and fault, pipes, followed files, watched folders."""

from __future__ import annotations

import csv
import io
import os
import threading
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.waiting import until
from zgedge.errors import DataError, MissingExtraError, UsageError
from zgedge.runtime.sources import (
    Awaited,
    Followed,
    LineError,
    Lines,
    Pipe,
    Reader,
    Row,
    Source,
    Watched,
    line_limit,
)


def rows_of(reader: Reader, *lines: str | bytes) -> Iterator[tuple[Any, ...] | str]:
    """What each line is: (values, label, id), or why it is refused."""
    row = Row(reader.inputs)
    for line in lines:
        try:
            if reader.read(line if isinstance(line, bytes) else line.encode(), row):
                yield row.x.tolist() if row.given else None, row.label, row.name
        except LineError as e:
            yield e.why


# ---- rows ----


def test_csv_without_a_header() -> None:
    found = list(rows_of(Reader(3), "1,2,3", "4, 5,6e0 ,cat", "", "7,8,9,"))
    assert found == [
        ([1, 2, 3], None, None),
        ([4, 5, 6], "cat", None),
        ([7, 8, 9], None, None),
    ]


def test_csv_with_a_header() -> None:
    found = list(rows_of(Reader(2), "id,a,b,label", "r1,1,2,x", "r2,3,4,", ",5,6,7"))
    assert found == [([1, 2], "x", "r1"), ([3, 4], None, "r2"), ([5, 6], "7", None)]


def test_csv_label_is_the_last_column_unless_named() -> None:
    assert list(rows_of(Reader(2), "a,b,kind", "1,2,x")) == [([1, 2], "x", None)]
    reader = Reader(2, label="kind")
    assert list(rows_of(reader, "kind,a,b", "x,1,2")) == [([1, 2], "x", None)]
    assert list(rows_of(Reader(2, label="kind"), "q,a,b")) == ["no header"]
    assert list(rows_of(Reader(2, label="kind"), "1,2,3")) == ["no header"]


def test_csv_columns_are_found_by_the_names_that_the_model_knows() -> None:
    reader = Reader(2, features=("a", "b"))
    found = list(rows_of(reader, '"b","time","a","label"', "1,noon,2,x"))
    assert found == [([2, 1], "x", None)]
    assert list(rows_of(Reader(2, features=("a", "b")), "b,kind,a", "1,x,2")) == [
        ([2, 1], "x", None)
    ]


def test_csv_header_without_a_name_that_the_model_knows_makes_its_rows_useless() -> None:
    reader = Reader(2, features=("a", "b"))
    assert list(rows_of(reader, "b,c,label", "1,2,x", "3,4,y")) == ["names"] * 3
    with pytest.raises(LineError, match="no 'a'; the model knows its inputs by their names"):
        reader.read(b"5,6", Row(2))
    assert list(rows_of(reader, "b,a", "1,2")) == [([2, 1], None, None)]  # the right one comes
    reader = Reader(2, features=("a", "b"))
    assert list(rows_of(reader, "b,c", "1,2")) == ["names"] * 2
    reader.begin()  # another file
    assert list(rows_of(reader, "1,2")) == [([1, 2], None, None)]


def test_csv_noise_is_no_header_for_a_model_that_knows_names() -> None:
    for noise in ("hello", "NA,NA"):
        reader = Reader(2, features=("a", "b"))
        assert list(rows_of(reader, noise, "1,2")) == ["names", ([1, 2], None, None)]


@pytest.mark.parametrize(
    "header", ["a,b,label", "id,a,c", "x,y,z", "a,b", "a,b,c,a", "c,b,a,label,c"]
)
def test_no_row_under_a_header_that_does_not_fit_is_answered(header: str) -> None:
    reader = Reader(3, features=("a", "b", "c"))
    assert list(rows_of(reader, header, "1,2,0", "3,4,5,6")) == ["names"] * 3
    reader = Reader(3, features=("a", "b", "c"))
    reader.apart = True  # messages of anybody: the next one is another's
    assert list(rows_of(reader, header, "1,2,0")) == ["names", ([1, 2, 0], None, None)]


def test_csv_names_in_quotes_may_hold_commas_and_quotes() -> None:
    names = ("temp, C", 'a "x"', '5"')
    out = io.StringIO()
    csv.writer(out).writerow([*names[::-1], "label"])
    reader = Reader(3, features=names)
    assert list(rows_of(reader, out.getvalue(), "1,2,3,q")) == [([3, 2, 1], "q", None)]


def test_csv_names_that_are_numbers_or_usual_keys() -> None:
    reader = Reader(2, features=("2019", "2020"))
    assert list(rows_of(reader, "2020,2019,kind", "1,2,x")) == [([2, 1], "x", None)]
    reader = Reader(2, features=("id", "label"))
    assert list(rows_of(reader, "label,id,kind", "1,2,x")) == [([2, 1], "x", None)]


def test_a_model_of_windows_says_that_none_are_cut() -> None:
    for line in (b"1,2,3", b"[1, 2, 3]"):
        with pytest.raises(LineError, match=r"a whole window, 4 rows of 3 values") as e:
            Reader(12, window=4).read(line, Row(12))
        assert e.value.why == "width"


def test_json_rows() -> None:
    found = list(
        rows_of(
            Reader(2),
            "[1, 2]",
            '{"x": [3, 4], "label": 7, "id": "r"}',
            '{"id": "r", "label": "x"}',
        )
    )
    assert found == [([1, 2], None, None), ([3, 4], 7, "r"), (None, "x", "r")]
    reader = Reader(2, label="y", name="n")
    assert list(rows_of(reader, '{"x": [1, 2], "y": "q", "n": 5}')) == [([1, 2], "q", 5)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("1,2", "width"), ("1,2,3,4,5", "width"), ("1,x,3", "not numbers"),
        ("1,,3", "not numbers"), ("nan,1,2", "not finite"), ("inf,1,2", "not finite"),
        ("1e39,1,2", "not finite"), (b"\xff\xfe,1,2", "not UTF-8"), ("1;2;3", "width"),
        ("\0\0\0", "width"), ('{"x": [1,2,3]}', "not numbers"),
    ],
)  # fmt: skip
def test_csv_rows_that_cannot_be_used(line: str | bytes, why: str) -> None:
    found = list(rows_of(Reader(3), "1,2,3", line, "4,5,6"))
    assert found == [([1, 2, 3], None, None), why, ([4, 5, 6], None, None)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"), ('{"x": [1,2,3]', "not JSON"), ("[1,2]", "width"), ("{}", "no row"),
        ('{"x": 5}', "width"), ('{"x": {"a": 1}}', "width"), ("null", "no row"), ("5", "no row"),
        ('{"x": [1, "a", 3]}', "not numbers"), ('{"x": [1, null, 3]}', "not finite"),
        ('{"x": [1, [2], 3]}', "not numbers"), ("[NaN, 1, 2]", "not finite"),
        ("[1e999, 1, 2]", "not finite"), ("[1e39, 1, 2]", "not finite"),
        ('{"x": [' + "9" * 400 + ", 1, 2]}", "not numbers"),
        ("[" * 100_000, "not JSON"), (b"[1,2,\xff]", "not UTF-8"), ('{"label": "x"}', "no row"),
        ('{"id": "x"}', "no row"), ("1,2,3", "not JSON"),
    ],
)  # fmt: skip
def test_json_rows_that_cannot_be_used(line: str | bytes, why: str) -> None:
    found = list(rows_of(Reader(3, "json"), "[1,2,3]", line, "[4,5,6]"))
    assert found == [([1, 2, 3], None, None), why, ([4, 5, 6], None, None)]


def test_a_header_that_does_not_fit() -> None:
    assert list(rows_of(Reader(3), "a,b", "1,2,3")) == ["width", ([1, 2, 3], None, None)]


def test_a_form_that_is_none() -> None:
    with pytest.raises(UsageError, match="xml"):
        Reader(3, "xml")


# ---- lines ----


def test_lines_come_whole_whatever_the_pieces() -> None:
    text = b"one\ntwo\r\n\nthree\n" + b"x" * 50 + b"\nlast"
    for size in (1, 2, 3, 7, 100):
        lines, found = Lines(60), []
        for at in range(0, len(text), size):
            lines.feed(text[at : at + size])
            while (line := lines.next()) is not None:
                found.append(line)
        assert found == [b"one", b"two", b"", b"three", b"x" * 50]
        assert lines.rest() == b"last"


@pytest.mark.parametrize("size", [1, 10, 64, 1000])
def test_a_line_that_is_too_long_is_told_once_and_passed_over(size: int) -> None:
    lines, found = Lines(40), []
    text = b"good\n" + b"x" * 333 + b"\nnext\n" + b"y" * 41 + b"\nend\n"
    for at in range(0, len(text), size):
        lines.feed(text[at : at + size])
        while True:
            try:
                line = lines.next()
            except LineError as e:
                line = e.why.encode()
            if line is None:
                break
            found.append(line)
    assert found == [b"good", b"too long", b"next", b"too long", b"end"]


def test_the_longest_line_grows_with_the_model() -> None:
    assert line_limit(64) == 64 * 1024
    assert line_limit(65536) == 2 * 1024 * 1024


# ---- pipes ----


def all_rows(source: Source, now: float = 0.0) -> list[Any]:
    row, found = Row(2), []
    while True:
        try:
            if not source.take(row, now):
                return found
            found.append((row.x.tolist(), row.label))
        except DataError as e:
            found.append(e.why if isinstance(e, LineError) else str(e))


def test_a_pipe_gives_rows_as_they_come_and_ends() -> None:
    read, write = os.pipe()
    source = Pipe(read, Reader(2))
    assert source.fd == read
    assert all_rows(source) == []
    os.write(write, b"1,2\n3,4,x\n5,")
    assert all_rows(source) == [([1, 2], None), ([3, 4], "x")]
    os.write(write, b"6\n7,8")
    assert all_rows(source) == [([5, 6], None)]
    assert not source.ended
    os.close(write)
    assert all_rows(source) == [([7, 8], None)]  # a last line needs no end
    assert source.ended
    assert source.fd is None
    os.close(read)


def test_a_file_as_standard_input(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("1,2\nbad\n3,4")
    with path.open("rb") as f:
        source = Pipe(f.fileno(), Reader(2))
        assert source.fd is None  # it cannot be waited on
        assert source.wait(0) == 0
        assert all_rows(source) == [([1, 2], None), "width", ([3, 4], None)]
        assert source.ended


# ---- files that are followed ----


def test_follow_starts_at_the_end_or_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("a,b,label\n1,2,x\n")
    late = Followed(str(path), Reader(2))
    early = Followed(str(path), Reader(2), begin=True)
    assert all_rows(early) == [([1, 2], "x")]
    assert all_rows(late) == []
    with path.open("a") as f:
        f.write("3,4,y\n5,")
    # The one that began at the end knows the header all the same.
    assert all_rows(late) == all_rows(early) == [([3, 4], "y")]
    with path.open("a") as f:
        f.write("6,z\n")
    assert all_rows(late) == [([5, 6], "z")]
    late.close()
    early.close()


def test_follow_begins_behind_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("1,2\n3,")
    source = Followed(str(path), Reader(2))
    with path.open("a") as f:
        f.write("4\n5,6\n")
    assert all_rows(source) == [([5, 6], None)]
    source.close()


def test_follow_survives_rotation(tmp_path: Path) -> None:
    path, old = tmp_path / "log.csv", tmp_path / "log.csv.1"
    path.write_text("")
    source = Followed(str(path), Reader(2), begin=True)
    got, now = [], 0.0
    for turn in range(5):
        with path.open("a") as f:
            f.write(f"{turn},0\n")
        got += all_rows(source, now)
        with path.open("a") as f:
            f.write(f"{turn},1\n")  # written before the file was moved, read after it
        path.rename(old)
        path.write_text(f"{turn},2\n")
        now += 1
        got += all_rows(source, now)
    assert [x for x, _ in got] == [[float(t), float(i)] for t in range(5) for i in range(3)]
    source.close()


def test_follow_survives_truncation_and_absence(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    source = Followed(str(path), Reader(2))
    assert all_rows(source, 0.0) == []
    path.write_text("1,2\n3,4\n")
    assert all_rows(source, 0.1) == []  # looked a moment ago
    assert all_rows(source, 1.0) == [([1, 2], None), ([3, 4], None)]
    os.truncate(path, 0)
    assert all_rows(source, 2.0) == []
    with path.open("a") as f:
        f.write("5,6\n")
    assert all_rows(source, 3.0) == [([5, 6], None)]
    path.unlink()
    assert all_rows(source, 4.0) == []
    path.write_text("7,8\n")
    assert all_rows(source, 5.0) == [([7, 8], None)]
    assert source.wait(5.0) <= Followed.EVERY
    source.close()


def test_a_folder_in_the_place_of_a_file_is_waited_out(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.mkdir()
    source = Followed(str(path), Reader(2), begin=True)
    assert all_rows(source, 0.0) == []
    assert source.trouble is not None
    path.rmdir()
    path.write_text("1,2\n")
    assert all_rows(source, 1.0) == [([1, 2], None)]
    source.close()


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_awaited_becomes_what_comes(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "later"
    source = Awaited(
        str(path), lambda: Followed(str(path), Reader(2), begin=True),
        lambda: Watched(str(path), 2, load, begin=True),
    )  # fmt: skip
    assert all_rows(source, 0.0) == []
    assert (source.trouble, source.state) == (
        "is not there yet, and is waited for", "waits for it",
    )  # fmt: skip
    assert source.wait(0.1) == pytest.approx(0.15)
    if folder:
        path.mkdir()
        np.save(path / "a.npy", np.ones((2, 2), np.float32))
    else:
        path.write_text("1,1\n1,1\n")
    found = [row for now in (1.0, 2.5, 4.0) for row in all_rows(source, now)]
    assert found == [([1, 1], None)] * 2
    assert (source.trouble, source.state, source.ended) == (None, None, False)
    assert source.number == 2
    source.ended = True
    assert source.ended
    source.close()


def test_follow_tells_of_half_a_line_at_the_end_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("1,2\n3,")
    source = Followed(str(path), Reader(2), begin=True)
    assert all_rows(source, 0.0) == [([1, 2], None)]
    path.rename(tmp_path / "old")
    path.write_text("5,6\n")
    assert all_rows(source, 1.0) == ["half a line", ([5, 6], None)]
    source.close()


def test_follow_while_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    source = Followed(str(path), Reader(2), begin=True)
    got: list[Any] = []

    def write() -> None:
        first = 0
        for i in range(300):
            if i % 100 == 50:
                # A file that is there for less than a look is not seen.
                until(partial(lambda first: len(got) > first, first))
                path.rename(tmp_path / f"old{i}")
                first = i
            with path.open("a") as f:
                f.write(f"{i},")
                f.flush()
                f.write("1\n")

    path.write_text("")
    thread = threading.Thread(target=write)
    thread.start()
    clock = count()

    def look() -> bool:
        got.extend(all_rows(source, float(next(clock))))
        return not thread.is_alive() and len(got) >= 300

    until(look, each=0.0005)
    assert [x[0] for x, _ in got] == list(range(300))
    source.close()


# ---- folders that are watched ----


def load(path: str) -> tuple[Any, list[Any] | None]:
    if path.endswith(".bad"):
        raise DataError("is no samples")
    found = np.load(path)
    if isinstance(found, np.ndarray):
        return found, None
    return found["x"], [str(y) for y in found["y"]]


def test_watched_folder(tmp_path: Path) -> None:
    np.save(tmp_path / "old.npy", np.ones((1, 2)))
    source = Watched(str(tmp_path), 2, load)
    assert all_rows(source, 0.0) == []
    np.save(tmp_path / "a.npy", np.array([[1.0, 2], [np.nan, 4], [5, 6]]))
    (tmp_path / "cat").mkdir()
    np.save(tmp_path / "cat" / "b.npy", np.array([[7.0, 8]]))
    np.savez(tmp_path / "c.npz", x=np.array([[9, 10]]), y=np.array(["dog"]))
    (tmp_path / "d.bad").write_text("")
    (tmp_path / ".hidden").write_text("")
    assert all_rows(source, 1.5) == []  # perhaps they are still being written
    got = all_rows(source, 3.0)
    assert got[:3] == [([1, 2], None), "not finite", ([5, 6], None)]
    assert got[3:5] == [([9, 10], "dog"), "file"]
    assert got[5:] == [([7, 8], "cat")]
    assert all_rows(source, 9.0) == []
    np.save(tmp_path / "a.npy", np.array([[11.0, 12]]))  # another one under its name
    assert all_rows(source, 12.0) == []
    assert all_rows(source, 14.0) == [([11, 12], None)]


def test_watched_folder_refuses_what_nothing_is_installed_for(tmp_path: Path) -> None:
    def load_or_lack(path: str) -> tuple[Any, list[Any] | None]:
        if path.endswith(".png"):
            raise MissingExtraError("train", "pillow")
        return load(path)

    source = Watched(str(tmp_path), 2, load_or_lack)
    (tmp_path / "a.png").write_bytes(b"")
    np.save(tmp_path / "b.npy", np.ones((1, 2)))
    assert all_rows(source, 0.0) == []
    row = Row(2)
    with pytest.raises(LineError, match="pip install pillow$") as e:
        source.take(row, 2.0)
    assert e.value.why == "not installed"
    assert source.place == "a.png"
    assert all_rows(source, 3.0) == [([1, 1], None)]


def test_watched_folder_from_the_start(tmp_path: Path) -> None:
    np.save(tmp_path / "old.npy", np.ones((1, 2)))
    source = Watched(str(tmp_path), 2, load, begin=True)
    all_rows(source, 0.0)
    assert all_rows(source, 2.0) == [([1, 1], None)]


def test_watched_folder_waits_for_a_file_that_is_written(tmp_path: Path) -> None:
    source = Watched(str(tmp_path), 2, load)
    path = tmp_path / "a.npy"
    for i in range(5):
        path.write_bytes(b"x" * (i + 1))
        assert all_rows(source, i * 1.01) == []
    np.save(path, np.ones((1, 2)))
    assert all_rows(source, 6.1) == []
    assert all_rows(source, 8.0) == [([1, 1], None)]


def test_watched_folder_remembers_only_what_is_there(tmp_path: Path) -> None:
    source = Watched(str(tmp_path), 2, load)
    for i in range(20):
        np.save(tmp_path / f"{i}.npy", np.ones((1, 2)))
        all_rows(source, 10.0 * i)
        assert all_rows(source, 10.0 * i + 5) == [([1, 1], None)]
        (tmp_path / f"{i}.npy").unlink()
    assert len(source._seen) <= 1
    tmp_path.rename(tmp_path.with_name("gone"))
    assert all_rows(source, 1000.0) == []
