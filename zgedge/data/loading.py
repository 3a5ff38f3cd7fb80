"""From a spec (a name, a file, a folder) to a `Dataset`, to rows to predict on, or to a report."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zgedge.data import split
from zgedge.data.dataset import (
    Array,
    Dataset,
    Part,
    Raw,
    Request,
    Source,
    are_integers,
    class_names,
    data_folder,
    encode,
)
from zgedge.data.findings import CheckReport, Findings
from zgedge.data.sources import SOURCES
from zgedge.errors import DataError, UsageError
from zgedge.network import MAX_CLASSES, MAX_INPUTS

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Entry:
    """A line of the catalog.

    `named` data sets are asked for by `name` and are at `place`, or not there (None). The others
    are forms of a person's own files.
    """

    name: str
    summary: str
    named: bool
    place: str | None


def catalog(data_dir: PathLike | None = None) -> tuple[Entry, ...]:
    """The named data sets, with where they are, and the forms of files that can be read."""
    folder = data_folder(data_dir)
    return tuple(
        Entry(s.name, s.summary, s.find is not None, s.find(folder) if s.find else None)
        for s in SOURCES
    )


def load(
    spec: PathLike = "digits",
    *,
    data_dir: PathLike | None = None,
    label: str | None = None,
    window: int | None = None,
    hop: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    side: int | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Read data to train and test on.

    `spec` is `digits`, `mnist`, `cifar10`, or a path: .npz, .csv, `x.npy,y.npy`, a folder of
    pictures per class. `data_dir` is where the named sets live (`data_folder`). `label` names
    the label column of a table (default: the last). `window` and `hop` (rows; default hop: the
    window, so no overlap) turn a table that is a stream into a series; a window has the label of
    its last row. Pictures get one size: those that have one of at most 64 pixels a side keep it,
    all others are scaled so that the longer side has at most 64, or `side` pixels. `say` is called
    with each remark about what was done to the data, `progress` with pictures read and in all.

    Where the data bring no test part, `test_fraction` of each class is set aside by `seed`; of a
    series the last part in time, with a gap so that no row is in both parts (`split.by_time`).
    The named sets have fixed test parts.

    Raises `DataError` for data that cannot be used, naming the first fault; `UsageError` for
    options that mean nothing; `MissingExtraError` where a package is missing.
    """
    _check_options(window, hop, test_fraction, side)
    request = Request(
        os.fspath(spec), data_folder(data_dir), label, None, Findings(), side=side,
        progress=progress,
    )  # fmt: skip
    source, raw = _read(request)
    raw = _windowed(raw, window, hop)
    _examine(raw, request)
    dataset = _dataset(raw, request, source, window, hop, test_fraction, seed)
    _tell(request, say)
    return dataset


def load_inputs(
    spec: PathLike,
    *,
    features: int,
    shape: tuple[int, int, int] | None = None,
    data_dir: PathLike | None = None,
    label: str | None = None,
    window: int | None = None,
    hop: int | None = None,
    part: str = "test",
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    files: list[str] | None = None,
    names: Sequence[str] | None = None,
) -> tuple[Array, list[str] | None]:
    """Read rows for a trained model of `features` inputs: (n, features) and their labels as text.

    Takes what `load` takes, and also data without labels (the second value is then None), a
    folder of pictures without class folders, and a single picture or .npy file. A table with
    `features` columns has no labels; with one column more it has. Data with a test part of their
    own (every named set, .npz with x_test) give that part, or with `part` "train" the other one;
    all others give every row. With the `shape` (height, width, channels) of a model of pictures,
    picture files of any size are scaled to it as for training; without it they must have
    `features` values. `say` and `progress` are as for `load`. A list that is given as `files` gets
    the path of each row, where every row is a picture file of its own. With the `names` of the
    inputs of a model, the columns of a table with a header are found by them, in whatever order
    they stand; the label is then the one column more, or the one that `label` names.

    Raises `DataError` for data that cannot be used; where the number of inputs differs, the
    message names both numbers.
    """
    _check_options(window, hop)
    if window is not None and features % window:
        raise DataError(
            f"The model has {features} inputs, which is no multiple of a window of {window} rows.",
            "Use the window that the model was trained with.",
        )
    width = features if window is None else features // window
    request = Request(
        os.fspath(spec), data_folder(data_dir), label, width, Findings(), shape=shape, part=part,
        progress=progress, names=names if window is None else None,
    )  # fmt: skip
    _, raw = _read(request)
    chosen = raw.train if part == "train" else raw.test or raw.train
    x = _flat(chosen.x)
    if not len(x):
        raise DataError(f"{request.spec} has no rows.")
    if x.shape[1] != width:
        raise DataError(
            f"{request.spec} has {x.shape[1]} inputs a row; the model has {features}"
            + ("." if window is None else f", {width} a row of a window of {window} rows."),
            "Use data of the same form as the model was trained on.",
        )
    _tell(request, say)
    if window is None:
        if files is not None:
            files += chosen.files or []
        return x, chosen.labels
    return split.windows(x, chosen.labels, window, hop or window)


def check(
    spec: PathLike,
    *,
    data_dir: PathLike | None = None,
    label: str | None = None,
    window: int | None = None,
    hop: int | None = None,
    keep: int = 20,
    side: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Say everything that is wrong with data to train on, where `load` stops at the first fault.

    `keep` is how many faults are described in full; all are counted. Raises only `UsageError` and
    `MissingExtraError`.
    """
    _check_options(window, hop, side=side)
    findings = Findings(keep)
    request = Request(
        os.fspath(spec), data_folder(data_dir), label, None, findings, side=side, progress=progress
    )
    source: Source | None = None
    raw: Raw | None = None
    try:
        source, raw = _read(request)
        # Rows with faults are left out, so what follows would blame the rest for it.
        if findings.error_count == 0:
            raw = _windowed(raw, window, hop)
            _examine(raw, request)
        if findings.error_count == 0:
            _dataset(raw, request, source, window, hop, 0.2, 0)
    except DataError as error:
        findings.error(error.message, error.hint)
    parts = [] if raw is None else [p for p in (raw.train, raw.test) if p is not None]
    counts = Counter(label for part in parts for label in part.labels or ())
    return CheckReport(
        spec=request.spec,
        source=None if source is None else source.name,
        rows=sum(len(part.x) for part in parts),
        features=_flat(parts[0].x).shape[1] if parts else 0,
        class_counts={name: counts[name] for name in class_names(counts)},
        errors=tuple(findings.errors),
        notes=tuple(findings.notes),
        error_count=findings.error_count,
    )


def _tell(request: Request, say: Callable[[str], None] | None) -> None:
    if say is None:
        return
    for note in request.findings.notes:
        say(f"{note.message} {note.hint}" if note.hint else note.message)


def _check_options(
    window: int | None, hop: int | None, test_fraction: float = 0.2, side: int | None = None
) -> None:
    if window is not None and window < 1:
        raise UsageError(f"A window of {window} rows means nothing.", "Use 1 or more.")
    if hop is not None and hop < 1:
        raise UsageError(f"A hop of {hop} rows means nothing.", "Use 1 or more.")
    if hop is not None and window is None:
        raise UsageError("A hop needs a window.", "Give the window's rows too.")
    if side is not None and side < 1:
        raise UsageError(
            f"Pictures of a side of {side} pixels are none.", "Use 1 or more; 64 is usual."
        )
    if not 0 < test_fraction < 1:
        raise UsageError(f"A test fraction of {test_fraction} is not between 0 and 1.")


def _read(request: Request) -> tuple[Source, Raw]:
    for source in SOURCES:
        if source.accepts(request.spec):
            return source, source.read(request)
    forms = "Data are one of: " + ", ".join(s.name for s in SOURCES) + "."
    if Path(request.spec).exists():
        raise DataError(f"{request.spec} is of no form that can be read.", forms)
    named = [s.name for s in SOURCES if s.find is not None]
    close = difflib.get_close_matches(request.spec, named, n=1)
    hint = f"Did you mean {close[0]}? {forms}" if close else forms
    raise DataError(f"There is no data set or file {request.spec!r}.", hint)


def _windowed(raw: Raw, window: int | None, hop: int | None) -> Raw:
    if window is None:
        return raw
    if raw.train.x.ndim != 2:
        raise UsageError("A window is for the rows of a stream; these data are pictures.")
    if window * raw.train.x.shape[1] > MAX_INPUTS:
        raise DataError(
            f"A window of {window} rows of {raw.train.x.shape[1]} values has "
            f"{window * raw.train.x.shape[1]} inputs, more than the {MAX_INPUTS} that a model "
            "can have.",
            "Use a smaller window.",
        )

    def cut(part: Part) -> Part:
        return Part(*split.windows(part.x, part.labels, window, hop or window))

    return replace(raw, train=cut(raw.train), test=None if raw.test is None else cut(raw.test))


def _flat(x: Array) -> Array:
    """(n, features), rows and channels unrolled; also where there is no row."""
    return x.reshape(len(x), int(np.prod(x.shape[1:])))


def _examine(raw: Raw, request: Request) -> None:
    """What every source's data must fulfil: rows, inputs, labels."""
    name, findings, train = request.spec, request.findings, _flat(raw.train.x)
    if not len(train):
        raise DataError(f"{name} has no rows.", "There must be rows of numbers, each with a label.")
    if not 1 <= train.shape[1] <= MAX_INPUTS:
        findings.error(
            f"{name} has {train.shape[1]} inputs a row; a model has 1 to {MAX_INPUTS}.",
            "Leave out inputs, or make arrays of pictures smaller.",
        )
    if raw.test is not None:
        if not len(raw.test.x):
            raise DataError(f"{name}: its test part has no rows.")
        if raw.test.x.shape[1:] != raw.train.x.shape[1:]:
            findings.error(
                f"{name}: a row to train on has the shape {raw.train.x.shape[1:]}, "
                f"a row to test on {raw.test.x.shape[1:]}.",
            )
    _examine_labels(raw, request)
    _remark_singles(raw, request)
    if not findings.strict:
        _remark(raw, train, request)


def _examine_labels(raw: Raw, request: Request) -> None:
    name, findings = request.spec, request.findings
    counts = Counter(raw.train.labels or ())
    if len(counts) < 2:
        findings.error(
            f"{name} has one class only, {next(iter(counts), '')!r}.",
            "There must be two or more kinds of label to tell apart.",
        )
    elif len(counts) > MAX_CLASSES or _measurements(counts):
        findings.error(
            f"{name} has {len(counts)} different labels in {counts.total()} rows"
            + (f"; a model has at most {MAX_CLASSES} classes." if len(counts) > MAX_CLASSES else
               ", numbers with fractions; they look like measurements."),
            "Is it the right label column? Numbers to be estimated are not classes.",
        )  # fmt: skip
    elif max(counts.values()) < 2 and raw.test is None:
        findings.error(
            f"{name} has a single sample of each of its {len(counts)} classes, so none is left "
            "to test on.",
            "Collect more samples of each class.",
        )
    for label in class_names(counts):
        if "\0" in label:
            findings.error(f"{name}: the label {label!r} holds a zero byte.", value=label)
    if raw.test is not None:
        for label in class_names(set(raw.test.labels or ()) - set(counts)):
            findings.error(
                f"{name}: the label {label!r} is in the test rows but in no training row.",
                "A model cannot know a class that it was never shown.",
                value=label,
            )


def _measurements(counts: Counter[str]) -> bool:
    """Whether the labels are numbers with fractions, most of them used once."""
    if 2 * len(counts) <= counts.total() or are_integers(counts):
        return False
    try:
        return all(np.isfinite(float(label)) for label in counts)
    except ValueError:
        return False


def _remark_singles(raw: Raw, request: Request) -> None:
    name, findings, labels = request.spec, request.findings, raw.train.labels or []
    singles = [label for label, n in sorted(Counter(labels).items()) if n == 1]
    if singles and raw.test is None:
        findings.note(
            f"{name}: {len(singles)} of its classes "
            + (
                "has a single sample and is"
                if len(singles) == 1
                else "have a single sample and are"
            )
            + f" not tested: {_some(singles)}.",
            f"Collect more samples of {'it' if len(singles) == 1 else 'them'}.",
        )


def _remark(raw: Raw, x: Array, request: Request) -> None:
    name, findings = request.spec, request.findings
    constant = np.flatnonzero((x == x[0]).all(axis=0)).tolist()
    if constant:
        names = raw.feature_names
        shown = [names[c] if names and len(names) == x.shape[1] else str(c) for c in constant]
        findings.note(
            f"{name}: {len(constant)} of {x.shape[1]} inputs never change: {_some(shown)}.",
            "They tell a model nothing; leaving them out saves bytes.",
        )
    if raw.train.x.ndim > 2 and _kind(raw.train.x) == "table":
        findings.note(
            f"{name}: x has the form of pictures but values below 0, so each input is scaled on "
            "its own, as in a table.",
            "Pictures with values from 0 up share one scale and cost fewer bytes.",
        )
    if raw.train.x.ndim == 2 and x.dtype == np.uint8 and x.shape[1] >= 64:
        findings.note(
            f"{name}: x is a table of bytes. If its rows are pictures, save them as "
            "(rows, height, width): they then share one scale and cost fewer bytes.",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (" and more" if len(names) > 8 else "")


def _name(spec: str, source: Source) -> str:
    """What a data set is called: its own name, a file's without its ending, a folder's."""
    if spec == source.name:
        return spec
    path = Path(os.path.abspath(spec.split(",")[0]))
    return path.name if path.is_dir() else path.stem


def _kind(x: Array) -> str:
    return "picture" if x.ndim > 2 and (x.dtype.kind == "u" or bool(x.min() >= 0)) else "table"


def _dataset(
    raw: Raw,
    request: Request,
    source: Source,
    window: int | None,
    hop: int | None,
    test_fraction: float,
    seed: int,
) -> Dataset:
    train_labels = raw.train.labels or []
    classes = class_names(train_labels)
    x, y = _flat(raw.train.x), encode(train_labels, classes)
    files = None if raw.test is None else raw.test.files
    if raw.test is not None:
        x_train, y_train = x, y
        x_test, y_test = _flat(raw.test.x), encode(raw.test.labels or [], classes)
    else:
        if window is None:
            train, test = split.stratified(y, test_fraction, seed)
        else:
            train, test, once = split.by_time(y, window, hop or window, test_fraction)
            if not once:
                request.findings.note(
                    f"{request.spec}: the end of the stream does not hold every class, so each "
                    "class is tested on its own last part."
                )
        x_train, y_train, x_test, y_test = x[train], y[train], x[test], y[test]
        files = raw.train.files and [raw.train.files[i] for i in test]
    kind = _kind(raw.train.x) if window is None else "series"
    if window is not None:
        shape = (window, x.shape[1] // window, 1)
    elif kind == "picture":
        height, width, *channels = raw.train.x.shape[1:]
        shape = (height, width, channels[0] if channels else 1)
    else:
        shape = (1, x.shape[1], 1)
    return Dataset(
        name=_name(request.spec, source),
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        classes=classes,
        int_classes=are_integers(classes),
        shape=shape,
        kind=kind,
        feature_names=raw.feature_names if window is None else None,
        files_test=tuple(files) if files and window is None else None,
    )
