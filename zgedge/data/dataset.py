"""What a data set is, what a source hands over, and how labels become class indices."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from zgedge.columns import is_number, some, unlike
from zgedge.data.findings import Findings
from zgedge.errors import DataError

Array = npt.NDArray[Any]

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.0*)?")


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows to train on and rows to test on.

    `x_train`, `x_test`: (n, features), any real numeric dtype, as the person has it; pictures are
    flattened row by row in the order height, width, channel; windows in the order time, channel.
    `y_train`, `y_test`: (n,) int64, an index into `classes`. `classes` are the labels as text,
    sorted as numbers where all are whole numbers (`int_classes`), else as text. `shape` is
    (height, width, channels) for pictures, (1, features, 1) for tables and (window, channels, 1)
    for series. `kind` is "picture" where all inputs share one scale that starts at 0, "table"
    where each input has its own, "series" for windows of a stream. `files_test` are the paths of
    the test rows, where each row was read from a file of its own.
    """

    name: str
    x_train: Array
    y_train: npt.NDArray[np.int64]
    x_test: Array
    y_test: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    int_classes: bool
    shape: tuple[int, int, int]
    kind: str
    feature_names: tuple[str, ...] | None = None
    files_test: tuple[str, ...] | None = None

    @property
    def column_names(self) -> tuple[str, ...] | None:
        """Names by which the columns of a table can be found; None where two are alike, or one is
        empty, or a number: a row of numbers could then be taken for a header."""
        names = self.feature_names if self.kind == "table" else None
        if not names or not all(names) or len(set(names)) < len(names) or "\0" in "".join(names):
            return None
        return None if any(map(is_number, names)) else names

    @property
    def features(self) -> int:
        """Number of inputs of one sample."""
        return int(self.x_train.shape[1])


@dataclass(frozen=True)
class Part:
    """Rows with or without labels: `x` is (n, features), (n, h, w) or (n, h, w, c).

    `files` are where the rows came from, where each came from a file of its own.
    """

    x: Array
    labels: list[str] | None
    files: list[str] | None = None


@dataclass(frozen=True)
class Raw:
    """What a source read. `test` is there where the data bring their own test rows."""

    train: Part
    test: Part | None = None
    feature_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Request:
    """What is asked of a source.

    `features` is the number of inputs of one row that a trained model expects, `shape` their
    (height, width, channels) where it was trained on pictures; `features` is None when the data are
    read to train on, and only then must there be labels. `part` is what is wanted of data that have
    a test part. `side` is the longer side that pictures are to be scaled to, None for the usual.
    `progress` is called with pictures read and pictures in all. `names` are those of the inputs,
    where a trained model knows them.
    """

    spec: str
    data_dir: Path
    label: str | None
    features: int | None
    findings: Findings
    shape: tuple[int, int, int] | None = None
    part: str = "test"
    side: int | None = None
    progress: Callable[[int, int], None] | None = None
    names: Sequence[str] | None = None

    @property
    def training(self) -> bool:
        return self.features is None


@dataclass(frozen=True)
class Source:
    """One form of data.

    `accepts(spec)` says whether the spec is of this form, `read(request)` reads it.
    `find(data_dir)` is there for sources that have a name: where the data are, or None.
    """

    name: str
    summary: str
    accepts: Callable[[str], bool]
    read: Callable[[Request], Raw]
    find: Callable[[Path], str | None] | None = None


def find_names(spec: str, names: Sequence[str], header: Sequence[str]) -> list[int]:
    """Where in a header the inputs of a model are. Raises DataError where one lacks or is twice."""
    lack, twice = unlike(names, header)
    if lack:
        other = [name for name in header if name and name not in set(names)]
        raise DataError(
            f"{spec} has no {_listed(lack)}, which the model knows "
            f"{'an input' if len(lack) == 1 else 'inputs'} by"
            + (f"; it has {_listed(other)} besides." if other else "."),
            "Name the columns as in the data that it was trained on. Without a header they are "
            "taken in their order.",
        )
    if twice:
        raise DataError(f"{spec} has more than one {_listed(twice)}.", "Rename all but one.")
    at = {name: i for i, name in enumerate(header)}
    return [at[name] for name in names]


def _listed(names: Sequence[str]) -> str:
    return f"{'column' if len(names) == 1 else 'columns'} {some(names)}"


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where named data sets live: `data_dir`, else $ZGEDGE_DATA, else ~/.cache/zgedge."""
    if data_dir is not None:
        return Path(data_dir)
    stated = os.environ.get("ZGEDGE_DATA")
    return Path(stated) if stated else Path.home() / ".cache" / "zgedge"


def label_text(value: object) -> str:
    """The text of a label. Whole numbers have one spelling: 3, "3", 3.0 and "3.0" are "3".

    This is done value by value, not column by column, so that a label reads the same in the file
    a model was trained on and in any file it meets later. "03" stays "03".
    """
    text = str(value).strip()
    if _INTEGER.fullmatch(text):
        return str(int(text.partition(".")[0]))
    return text


def are_integers(labels: Iterable[str]) -> bool:
    """Whether every label (as `label_text` gives it) is a whole number."""
    return all(_INTEGER.fullmatch(label) and "." not in label for label in labels)


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels in class order: numerically where all are whole numbers, else as text."""
    distinct = set(labels)
    return tuple(sorted(distinct, key=int) if are_integers(distinct) else sorted(distinct))


def encode(labels: Sequence[str], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Class indices, (n,) int64. Every label must be among `classes`."""
    index = {name: i for i, name in enumerate(classes)}
    return np.fromiter((index[label] for label in labels), dtype=np.int64, count=len(labels))
