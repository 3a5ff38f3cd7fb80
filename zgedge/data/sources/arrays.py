"""Arrays that a person saved: checks that .npz and .npy share."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zgedge.data.dataset import Array, Part, Raw, Request, label_text
from zgedge.data.findings import Findings
from zgedge.errors import DataError

_SAVE_HINT = "Save arrays of numbers, for instance with np.savez(path, x=x, y=y)."
_ROWS_AT_A_TIME = 4096

# What numpy raises on files that are cut, hostile or of another kind. A header may claim more
# memory than there is, hence MemoryError.
READ_ERRORS = (
    ValueError,
    EOFError,
    OSError,
    KeyError,
    MemoryError,
    OverflowError,
    SyntaxError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def unreadable(where: str, error: BaseException) -> DataError:
    """The error for an array file that numpy refuses. `where` names the file and the array."""
    said = str(error)
    # numpy takes whatever it does not know for a pickle.
    if "pickle" in said and "Object arrays" not in said:
        return DataError(
            f"{where} is neither an .npy nor an .npz file. Python objects are not loaded, because "
            "they can run code.",
            _SAVE_HINT,
        )
    if "pickle" in said or "Python objects" in said:
        return DataError(
            f"{where} holds Python objects, which are not loaded because they can run code.",
            _SAVE_HINT,
        )
    reason = " ".join(said.split()).rstrip(".") or type(error).__name__
    return DataError(f"{where} cannot be read: {reason}.", _SAVE_HINT)


def load_npy(path: Path) -> Array:
    """Read one .npy file, without pickles. Raises `DataError`."""
    try:
        # Mapping first refuses a header that claims more than the file holds before any
        # memory is asked for.
        mapped: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            mapped.close()
            raise DataError(f"{path} is an .npz archive, not one .npy array.", "Name it .npz.")
        return np.array(mapped)
    except DataError:
        raise
    except READ_ERRORS as error:
        raise unreadable(str(path), error) from error


def parts(arrays: Mapping[str, Array], path: str, request: Request) -> Raw:
    """The arrays `x`, `y`, `x_test`, `y_test` (all but `x` may be absent), checked.

    Raises `DataError` (when strict) for wrong shapes, types, NaN, infinities, unequal lengths,
    and where training needs labels that are not there.
    """
    if request.training and ("x_test" in arrays) != ("y_test" in arrays):
        there, missing = ("x_test", "y_test") if "x_test" in arrays else ("y_test", "x_test")
        raise DataError(f"{path} has {there} but no {missing}.", "Save both or neither.")
    train = _part(arrays["x"], arrays.get("y"), ("x", "y"), path, request)
    if "x_test" not in arrays:
        return Raw(train)
    names = ("x_test", "y_test")
    return Raw(train, _part(arrays["x_test"], arrays.get("y_test"), names, path, request))


def _part(x: Array, y: Array | None, names: tuple[str, str], path: str, request: Request) -> Part:
    x_name, y_name = names
    findings = request.findings
    x = _numbers(x, f"{path}, {x_name}", x_name, findings)
    if y is None:
        if request.training:
            raise DataError(
                f"{path} has no labels {y_name}.", f"Save the label of each row of {x_name} too."
            )
        return Part(x, None)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(
            f"{path}, {y_name} has the shape {y.shape}; it must hold one label per row.",
            f"For one-hot labels save {y_name}.argmax(axis=1).",
        )
    if len(x) != len(y):
        raise DataError(
            f"{path}: {x_name} has {len(x)} rows and {y_name} has {len(y)}.",
            "Each row needs exactly one label.",
        )
    return Part(x, _labels(y, f"{path}, {y_name}", y_name, findings))


def _numbers(x: Array, where: str, name: str, findings: Findings) -> Array:
    if x.dtype.kind in "US":
        raise DataError(f"{where} holds text, not numbers (dtype {x.dtype}).", _SAVE_HINT)
    if x.dtype.kind == "b":
        x = x.astype(np.uint8)
    if x.dtype.kind not in "uif":
        raise DataError(f"{where} has the dtype {x.dtype}; real numbers are needed.", _SAVE_HINT)
    if x.ndim not in (2, 3, 4):
        raise DataError(
            f"{where} has the shape {x.shape}; it must be (rows, features), or for pictures "
            "(rows, height, width) or (rows, height, width, channels).",
            "One row needs two axes too: x[None, :]." if x.ndim == 1 else None,
        )
    if x.dtype.kind == "f":
        _report_not_finite(x, where, name, findings)
    return x.astype(x.dtype.newbyteorder("="), copy=False)


def _report_not_finite(x: Array, where: str, name: str, findings: Findings) -> None:
    """The model reads 32-bit floats, so what overflows them is as unusable as an infinity."""
    for start in range(0, len(x), _ROWS_AT_A_TIME):
        rows = x[start : start + _ROWS_AT_A_TIME]
        with np.errstate(over="ignore"):
            places = np.argwhere(~np.isfinite(rows.astype(np.float32)))
        for done, place in enumerate(places):
            if findings.room <= 0:
                findings.count_only(len(places) - done)
                break
            value = rows[tuple(place)]
            row, *rest = (int(i) for i in place)
            row += start
            index = ", ".join(map(str, [row, *rest]))
            findings.error(
                f"{where}: {name}[{index}] is {value}"
                + (", too large for a 32-bit float." if np.isfinite(value) else "."),
                "Fill in or leave out rows with missing values.",
                row=row,
                column=rest[0] if len(rest) == 1 else str(tuple(rest)),
                value=str(value),
            )


def _labels(y: Array, where: str, name: str, findings: Findings) -> list[str]:
    if y.dtype.kind not in "buifSU":
        raise DataError(f"{where} has the dtype {y.dtype}; labels are whole numbers or text.")
    if y.dtype.kind == "S":
        try:
            y = np.char.decode(y, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{where} holds bytes that are not UTF-8 text: {error}.") from error
    if y.dtype.kind == "f":
        labels = [label_text(int(v) if v.is_integer() else v) for v in y]
        missing = ~np.isfinite(y)
    else:
        labels = [label_text(v) for v in y.tolist()]
        missing = np.array([text == "" for text in labels], dtype=bool)
    for row in np.flatnonzero(missing).tolist():
        findings.error(
            f"{where}: {name}[{row}] is {labels[row] or 'empty'}, which is no label.",
            "Label every row, or leave out rows without a label.",
            row=row,
            value=labels[row],
        )
    return labels
