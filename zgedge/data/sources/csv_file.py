"""Tables as text: .csv, .tsv, separated by comma, semicolon or tab, with or without a header."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from zgedge.columns import is_number
from zgedge.data.dataset import Array, Part, Raw, Request, Source, find_names, label_text
from zgedge.data.findings import Findings
from zgedge.errors import DataError

_ENCODING_HINT = "Save it as UTF-8 text (in a spreadsheet: 'CSV UTF-8')."
_NUMBER_HINT = "Every column but the label's must hold numbers, with a point as decimal mark."
_HEADER_HINT = "A first row that is a header must not have numbers among its names."


@dataclass(frozen=True)
class _Layout:
    """Which columns mean what. Column numbers count from 0 in the row as it is written."""

    header: bool
    first: int  # 1 where the first column is a row index, which is left out
    label: int | None
    names: tuple[str, ...]  # one per column, for messages
    found: tuple[int, ...] | None = None  # inputs by their names, in a model's order

    @property
    def inputs(self) -> list[int]:
        if self.found is not None:
            return list(self.found)
        return [c for c in range(self.first, len(self.names)) if c != self.label]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank; lines count from 1.

    The separator is the one that stands most often in the first row; a semicolon wins a tie,
    because with it a comma may be a decimal mark.
    """
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            start = next((text for text in file if text.strip()), "")
            file.seek(0)
            reader = csv.reader(file, delimiter=max(";", "\t", ",", key=start.count))
            for cells in reader:
                line = reader.line_num
                if any(cell.strip() for cell in cells):
                    yield line, cells
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(path), _ENCODING_HINT) from error
    except csv.Error as error:
        raise DataError(
            f"{path}, after row {line}: {error}.", "A quote may be missing or never closed."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _not_utf8(path: Path) -> str:
    """Names the line that is not UTF-8; the reader's own position is one in its buffer."""
    with path.open("rb") as file:
        for line, content in enumerate(file, 1):
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"{path}, row {line}: byte 0x{content[error.start]:02x} is not UTF-8 text."
    return f"{path} is not UTF-8 text."


def _find_column(wanted: str, first_row: list[str], index: int) -> int | None:
    """The column of that name, or of that number counted from 1.

    In a row of data a number may stand anywhere, so it is a name only in a header that counts.
    """
    numbered = wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= len(first_row)
    if numbered and not _counts(first_row[index:]):
        return int(wanted) - 1
    return first_row.index(wanted) if wanted in first_row else None


def _label_column(first_row: list[str], index: int, request: Request) -> int | None:
    """Where the labels are, or None for rows without any. `index` is 1 with a row index."""
    path, wanted, width = request.spec, request.label, len(first_row) - index
    unlabelled = request.features == width
    column: int | None = len(first_row) - 1
    if wanted is not None:
        column = _find_column(wanted, first_row, index)
    if unlabelled and (wanted is None or column is None or first_row[column] != wanted):
        return None
    if column is None:
        shown = ", ".join(first_row[:12]) + (", ..." if len(first_row) > 12 else "")
        raise DataError(
            f"{path} has no column {wanted!r}; its first row is {shown}.",
            "Name a column of the header, or a column number counted from 1.",
        )
    if request.features is not None and request.features != width - 1:
        raise DataError(
            f"{path} has {width} columns, so {width - 1} inputs and a label, or {width} inputs; "
            f"the model has {request.features} inputs.",
            "Use data of the same form as the model was trained on.",
        )
    if request.training and width < 2:
        raise DataError(
            f"{path} has a single column; inputs and a label are needed.",
            "Columns are separated by commas, semicolons or tabs.",
        )
    return column


def _counts(cells: list[str]) -> bool:
    """Whether the cells are 0, 1, 2 ..., the names that pandas gives to columns without names."""
    return len(cells) > 2 and cells == [str(c) for c in range(len(cells))]


def _layout(path: Path, first_row: list[str], request: Request) -> _Layout:
    """Tell header from data.

    The first row is a header when it names the label column, when no input cell in it is a number,
    or when its input cells count 0, 1, 2 ... and its label is nobody else's.
    """
    if request.names is not None and (
        set(request.names) <= set(first_row) or not any(map(is_number, first_row))
    ):
        return _layout_by_name(first_row, request.names, request)
    # pandas writes its row index as a first column without a name. As an input it would betray
    # the order of the rows, so it is left out.
    rest = first_row[1:]
    index = first_row[0] == "" and (not any(map(is_number, rest)) or _counts(rest[:-1]))
    label = _label_column(first_row, int(index), request)
    cells = [cell for c, cell in enumerate(first_row) if c >= index and c != label]
    header = index or not any(map(is_number, cells)) or _names_label(first_row, label, request)
    if not header and _counts(cells):
        header = label is None or label_text(first_row[label]) not in _labels_below(path, label)
    if header and request.names is not None:
        return _layout_by_name(first_row, request.names, request)
    names = tuple(first_row) if header else tuple(str(c + 1) for c in range(len(first_row)))
    return _Layout(header, int(index), label, names)


def _layout_by_name(first_row: list[str], names: Sequence[str], request: Request) -> _Layout:
    """Where a header has the inputs that a model knows by name; the label is what else it has."""
    path, wanted = request.spec, request.label
    found = find_names(path, names, first_row)
    index = int(first_row[0] == "" and 0 not in found)
    rest = [c for c in range(index, len(first_row)) if c not in found]
    label = rest[0] if len(rest) == 1 else None
    if wanted is None and len(rest) > 1 and [first_row[c] for c in rest].count("label") == 1:
        wanted = "label"
    if wanted is not None and rest:
        label = _find_column(wanted, first_row, index)
        if label not in rest:
            raise DataError(
                f"{path} has no column {wanted!r} besides the model's inputs.",
                f"Others are {', '.join(first_row[c] for c in rest[:12])}.",
            )
    elif label is None and rest:
        shown = ", ".join(repr(first_row[c]) for c in rest[:12])
        raise DataError(
            f"{path} has {len(rest)} columns besides the model's {len(names)} inputs: {shown}.",
            "Say with --label which is the label, or leave them out.",
        )
    if left := [first_row[c] for c in rest if c != label]:
        shown = ", ".join(map(repr, left[:12]))
        request.findings.note(f"{path}: the model does not know {shown}; left out.")
    return _Layout(True, index, label, tuple(first_row), tuple(found))


def _names_label(first_row: list[str], label: int | None, request: Request) -> bool:
    return label is not None and first_row[label] == request.label


def _labels_below(path: Path, label: int) -> set[str]:
    rows = _rows(path)
    next(rows)
    return {label_text(cells[label]) for _, cells in rows if len(cells) > label}


def _read(request: Request) -> Raw:
    path, findings = Path(request.spec), request.findings
    rows = _rows(path)
    first_line, first_row = next(rows, (0, []))
    if not first_row:
        raise DataError(f"{path} is empty.", "It must hold rows of numbers, each with a label.")
    layout = _layout(path, [cell.strip() for cell in first_row], request)
    if layout.first:
        findings.note(f"{path}: the first column has no name; it is left out as a row index.")
    inputs, label = layout.inputs, layout.label
    values, labels, lines = array("d"), list[str](), list[int]()
    for line, cells in rows if layout.header else chain([(first_line, first_row)], rows):
        if len(cells) != len(layout.names):
            findings.error(
                f"{path}, row {line} has {len(cells)} columns; "
                f"row {first_line} has {len(layout.names)}.",
                "All rows must have the same number of columns.",
                row=line,
                value=str(len(cells)),
            )
            continue
        try:
            numbers = array("d", [float(cells[c]) for c in inputs])
        except ValueError:
            _report_text(path, line, cells, layout, findings)
            continue
        if label is not None:
            text = label_text(cells[label])
            if text == "":
                findings.error(
                    f"{path}, row {line}, column {layout.names[label]!r}: the label is empty.",
                    "Label every row, or leave out rows without a label.",
                    row=line,
                    column=layout.names[label],
                    value="",
                )
                continue
            labels.append(text)
        values.extend(numbers)
        lines.append(line)
    x = np.frombuffer(values, np.float64).reshape(len(lines), len(inputs))
    _report_not_finite(x, path, lines, layout, findings)
    names = tuple(layout.names[c] for c in inputs) if layout.header else None
    return Raw(Part(x, None if label is None else labels), feature_names=names)


def _report_text(
    path: Path, line: int, cells: list[str], layout: _Layout, findings: Findings
) -> None:
    for c in layout.inputs:
        cell = cells[c].strip()
        if not is_number(cell):
            what = f"{cell!r} is not a number" if cell else "the cell is empty"
            findings.error(
                f"{path}, row {line}, column {layout.names[c]!r}: {what}.",
                _NUMBER_HINT if layout.header else f"{_NUMBER_HINT} {_HEADER_HINT}",
                row=line,
                column=layout.names[c],
                value=cell,
            )


def _report_not_finite(
    x: Array, path: Path, lines: list[int], layout: _Layout, findings: Findings
) -> None:
    """The model reads 32-bit floats, so what overflows them is as unusable as an infinity."""
    with np.errstate(over="ignore"):
        places = np.argwhere(~np.isfinite(x.astype(np.float32)))
    for done, (row, c) in enumerate(places.tolist()):
        if findings.room <= 0:
            findings.count_only(len(places) - done)
            break
        name, value = layout.names[layout.inputs[c]], float(x[row, c])
        findings.error(
            f"{path}, row {lines[row]}, column {name!r} is {value}"
            + (", too large for a 32-bit float." if np.isfinite(value) else "."),
            "Fill in or leave out rows with missing values.",
            row=lines[row],
            column=name,
            value=str(value),
        )


SOURCE = Source(
    name="FILE.csv",
    summary="a table as text; the label is the last column or the one that --label names",
    accepts=lambda spec: spec.lower().endswith((".csv", ".tsv")) and Path(spec).is_file(),
    read=_read,
)
