"""Tables as text: what is read, and each fault by its name."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zgedge.data import load, load_inputs
from zgedge.errors import DataError

Write = Callable[[str, str], str]

ROWS = "1,2,a\n3,4,b\n5,6,a\n7,8,b\n"


def rows_of(path: str, features: int = 2, **options: str) -> tuple[list[list[float]], object]:
    x, labels = load_inputs(path, features=features, **options)
    return x.tolist(), labels


@pytest.mark.parametrize(
    "text",
    [
        ROWS,
        "left,right,kind\n" + ROWS,
        "left,right,kind\r\n" + ROWS.replace("\n", "\r\n"),
        "\ufeffleft,right,kind\n" + ROWS,
        "\n" + ROWS.replace("\n", "\n\n"),
        ROWS + ",,\n,,\n",
        ROWS.rstrip("\n"),
        ROWS.replace(",", ";"),
        ROWS.replace(",", "\t"),
        ROWS.replace(",", " , "),
        '"1","2","a"\n3,4,b\n5,6,a\n7,8,b\n',
        ",left,right,kind\n0,1,2,a\n1,3,4,b\n2,5,6,a\n3,7,8,b\n",
    ],
    ids=[
        "no header", "header", "crlf", "byte order mark", "blank lines", "empty rows at the end",
        "no last newline", "semicolons", "tabs", "spaces", "quotes", "pandas row index",
    ],
)  # fmt: skip
def test_forms_that_mean_the_same(write: Write, text: str) -> None:
    path = write("a.csv", text)
    assert rows_of(path) == ([[1, 2], [3, 4], [5, 6], [7, 8]], ["a", "b", "a", "b"])
    data = load(path)
    assert data.classes == ("a", "b")
    assert not data.int_classes
    assert (data.kind, data.shape, data.name) == ("table", (1, 2, 1), "a")
    assert len(data.x_train) + len(data.x_test) == 4


def test_header_names_the_inputs(write: Write) -> None:
    path = write("a.csv", "left,kind,right\n1,a,2\n3,b,4\n5,a,6\n7,b,8\n")
    data = load(path, label="kind")
    assert data.feature_names == ("left", "right")
    assert rows_of(path, label="kind")[0] == [[1, 2], [3, 4], [5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("left,right,kind\n1,2,a\n3,4,b\n", None),
        ("right,left,kind\n2,1,a\n4,3,b\n", None),
        ("kind,right,left\na,2,1\nb,4,3\n", None),
        ("left,kind,right\n1,a,2\n3,b,4\n", "2"),
        (",right,left,kind\n0,2,1,a\n1,4,3,b\n", None),
        ("when,right,kind,left\nnoon,2,a,1\nnight,4,b,3\n", "kind"),
        ("1,2,a\n3,4,b\n", None),
        ("when,label,right,left\nnoon,a,2,1\nnight,b,4,3\n", None),
    ],
    ids=["as trained", "swapped", "label first", "label by number", "row index", "one more",
         "no header", "the usual name of a label"],
)  # fmt: skip
def test_inputs_are_found_by_the_names_of_a_model(
    write: Write, text: str, label: str | None
) -> None:
    x, labels = load_inputs(write("a.csv", text), features=2, label=label, names=("left", "right"))
    assert (x.tolist(), labels) == ([[1, 2], [3, 4]], ["a", "b"])


def test_names_of_a_model_without_labels_and_of_numbers(write: Write) -> None:
    path = write("a.csv", "right,left\n2,1\n")
    x, labels = load_inputs(path, features=2, names=("left", "right"))
    assert (x.tolist(), labels) == ([[1, 2]], None)
    path = write("b.csv", "2020,2019,kind\n2,1,a\n")
    x, labels = load_inputs(path, features=2, names=("2019", "2020"))
    assert (x.tolist(), labels) == ([[1, 2]], ["a"])


@pytest.mark.parametrize(
    ("text", "label", "says"),
    [
        ("left,up,kind\n1,2,a\n", None, "no column 'right', which the model knows an input by; "
         "it has columns 'up', 'kind' besides"),
        ("left\n1\n", None, "no column 'right'"),
        ("2019,up,kind\n1,2,a\n", "kind", "no columns 'left', 'right'"),
        ("left,right,right,kind\n1,2,2,a\n", None, "more than one column 'right'"),
        ("when,left,right,kind\n1,1,2,a\n", None, "2 columns besides the model's 2 inputs: "
         "'when', 'kind'"),
        ("left,right,kind\n1,2,a\n", "left", "no column 'left' besides"),
    ],
)  # fmt: skip
def test_header_of_other_names_than_the_model_knows(
    write: Write, text: str, label: str | None, says: str
) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        load_inputs(write("a.csv", text), features=2, label=label, names=("left", "right"))


def test_byte_order_mark_is_no_part_of_the_first_cell(write: Write) -> None:
    assert rows_of(write("a.csv", "\ufeff" + ROWS))[0][0] == [1, 2]
    names = load(write("b.csv", "\ufeffleft,right,kind\n" + ROWS)).feature_names
    assert names == ("left", "right")


def test_header_with_numbers_for_names(write: Write) -> None:
    path = write("a.csv", "2019,2020,kind\n" + ROWS)
    assert rows_of(path, label="kind")[0] == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert load(path, label="kind").feature_names == ("2019", "2020")
    with pytest.raises(DataError, match="row 1"):
        load(write("b.csv", "2019,temperature,kind\n" + ROWS))


def test_label_column_by_number(write: Write) -> None:
    path = write("a.csv", "a,1,2\nb,3,4\na,5,6\n")
    assert rows_of(path, label="1") == ([[1, 2], [3, 4], [5, 6]], ["a", "b", "a"])


@pytest.mark.parametrize("index", [False, True])
def test_header_of_column_numbers(write: Write, index: bool) -> None:
    text = "0,1,2,label\n5,6,7,0\n8,9,1,1\n2,2,2,0\n"
    if index:
        text = "\n".join(f"{i},{r}" for i, r in zip(["", 0, 1, 2], text.split("\n"), strict=False))
    path = write("a.csv", text)
    assert rows_of(path, 3) == ([[5, 6, 7], [8, 9, 1], [2, 2, 2]], ["0", "1", "0"])


def test_counting_first_row_with_a_known_label_is_data(write: Write) -> None:
    path = write("a.csv", "0,1,2,a\n5,6,7,a\n8,9,1,b\n")
    assert len(rows_of(path, 3)[0]) == 3


def test_rows_without_labels(write: Write) -> None:
    assert rows_of(write("a.csv", "left,right\n1,2\n3,4\n")) == ([[1, 2], [3, 4]], None)
    assert rows_of(write("b.csv", "1,2\n3,4\n"), label="kind") == ([[1, 2], [3, 4]], None)


@pytest.mark.parametrize(
    ("labels", "classes", "whole"),
    [
        (["10", "9", "-1", "9"], ("-1", "9", "10"), True),
        (["1.0", "2.0", "1", "2"], ("1", "2"), True),
        (["01", "1", "01", "1"], ("01", "1"), False),
        (["x", "10", "9", "x"], ("10", "9", "x"), False),
    ],
)
def test_classes_in_order(
    write: Write, labels: list[str], classes: tuple[str, ...], whole: bool
) -> None:
    data = load(write("a.csv", "".join(f"{i},{label}\n" for i, label in enumerate(labels))))
    assert (data.classes, data.int_classes) == (classes, whole)


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Z")), min_size=1, max_size=8
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.tuples(st.lists(numbers, min_size=width, max_size=width), texts), min_size=1
        )
    ),
    header=st.booleans(),
    delimiter=st.sampled_from(",;\t"),
)
def test_round_trip(
    write: Write, rows: list[tuple[list[float], str]], header: bool, delimiter: str
) -> None:
    """What the csv module writes comes back: the same numbers bit for bit, the same labels."""
    width = len(rows[0][0])
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    # The first row decides on the separator, so its label must not be made of another one.
    writer.writerow([f"input{i}" for i in range(width)] + ["kind"])
    if not header:
        out = io.StringIO()
        writer = csv.writer(out, delimiter=delimiter)
        rows = [(rows[0][0], "first"), *rows]
    for values, label in rows:
        writer.writerow([*map(repr, values), label])
    x, labels = load_inputs(write("a.csv", out.getvalue()), features=width)
    assert x.tolist() == [values for values, _ in rows]
    assert np.array_equal(np.signbit(x), np.signbit([values for values, _ in rows]))
    assert labels is not None
    for (_, written), read in zip(rows, labels, strict=True):
        assert read == written or float(read) == float(written)


def fails(path: str, *parts: str, **options: str) -> DataError:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    for part in parts:
        assert part in caught.value.message
    assert path in caught.value.message
    return caught.value


def test_text_in_a_number_column(write: Write) -> None:
    path = write("a.csv", "left,right,kind\n1,2,a\n3,four,b\n")
    fails(path, "row 3", "column 'right'", "'four' is not a number")


def test_text_in_a_number_column_of_the_first_row_without_header(write: Write) -> None:
    error = fails(write("a.csv", "1,two,a\n3,4,b\n"), "row 1", "column '2'", "'two'")
    assert error.hint is not None
    assert "header" in error.hint


def test_decimal_comma(write: Write) -> None:
    error = fails(write("a.csv", "1,5;2,5;a\n3,5;4,5;b\n"), "row 2", "column '1,5'", "'3,5'")
    assert error.hint is not None
    assert "point" in error.hint


def test_empty_cell(write: Write) -> None:
    fails(write("a.csv", "1,2,a\n3,,b\n"), "row 2", "column '2'", "the cell is empty")


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-Infinity"])
def test_nan_or_infinity(write: Write, text: str) -> None:
    fails(write("a.csv", f"u,v,kind\n1,2,a\n\n3,{text},b\n"), "row 4", "column 'v'", "is ")


def test_number_too_large_for_the_model(write: Write) -> None:
    fails(write("a.csv", "1,2,a\n3,-1e39,b\n"), "row 2", "column '2'", "-1e+39", "32-bit")


def test_rows_of_unequal_length(write: Write) -> None:
    fails(write("a.csv", "1,2,a\n3,4,5,b\n"), "row 2 has 4 columns", "row 1 has 3")
    fails(write("b.csv", "1,2,a\n3,b\n"), "row 2 has 2 columns", "row 1 has 3")


def test_empty_label(write: Write) -> None:
    fails(write("a.csv", "u,kind\n1,a\n2, \n"), "row 3", "column 'kind'", "label is empty")


def test_empty_file(write: Write) -> None:
    fails(write("a.csv", ""), "is empty")
    fails(write("b.csv", "\n\n , \n"), "is empty")


def test_header_and_no_rows(write: Write) -> None:
    fails(write("a.csv", "left,right,kind\n"), "no rows")


def test_single_column(write: Write) -> None:
    fails(write("a.csv", "1\n2\n"), "single column")


def test_unknown_label_column(write: Write) -> None:
    fails(write("a.csv", "u,v,kind\n1,2,a\n"), "no column 'sort'", "u, v, kind", label="sort")
    fails(write("b.csv", "1,2,a\n"), "no column '4'", label="4")


def test_bytes_that_are_not_utf8(tmp_path: object, write: Write) -> None:
    path = write("a.csv", ROWS)
    with open(path, "ab") as file:
        file.write(b"9,9,caf\xe9\n")
    error = fails(path, "row 5", "0xe9")
    assert error.hint is not None
    assert "UTF-8" in error.hint


def test_utf16_spreadsheet_text(write: Write) -> None:
    path = write("a.csv", "")
    with open(path, "wb") as file:
        file.write(ROWS.encode("utf-16"))
    fails(path, "row 1", "UTF-8")


def test_zero_byte(write: Write) -> None:
    fails(write("a.csv", "1,2,a\n3,4,b\0\n5,6,a\n"), "")


def test_cell_without_end(write: Write) -> None:
    fails(write("a.csv", '1,2,a\n3,4,"' + "b" * 140_000), "after row 1", "field larger")


def test_other_number_of_inputs_than_the_model(write: Write) -> None:
    path = write("a.csv", ROWS)
    with pytest.raises(DataError, match="2 inputs and a label, or 3 inputs; .* 64 inputs"):
        load_inputs(path, features=64)


def test_labels_that_are_measurements(write: Write) -> None:
    path = write("a.csv", "".join(f"{i},{i * 1.37}\n" for i in range(1, 20)))
    fails(path, "19 different labels in 19 rows", "measurements")
