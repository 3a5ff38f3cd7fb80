"""A numpy archive with `x` and `y`, and optionally `x_test` and `y_test`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zgedge.data.dataset import Array, Raw, Request, Source
from zgedge.data.sources.arrays import READ_ERRORS, part, unreadable
from zgedge.errors import DataError


def _read(request: Request) -> Raw:
    path = request.spec
    try:
        archive: Any = np.load(path, allow_pickle=False)
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    if isinstance(archive, np.ndarray):
        raise DataError(f"{path} is one .npy array, not an .npz archive.", "Name it .npy.")
    with archive:
        names = list(archive.files)

        def get(name: str) -> Array | None:
            if name not in names:
                return None
            try:
                return np.asarray(archive[name])
            except READ_ERRORS as error:
                raise unreadable(f"{path}, {name}", error) from error

        x, x_test, y_test = get("x"), get("x_test"), get("y_test")
        if x is None:
            raise DataError(
                f"{path} has no array x; it has {', '.join(names) or 'none'}.",
                "Save it with np.savez(path, x=x, y=y).",
            )
        train = part(x, get("y"), ("x", "y"), path, request)
        if (x_test is None) != (y_test is None) and request.training:
            there, missing = ("x_test", "y_test") if y_test is None else ("y_test", "x_test")
            raise DataError(f"{path} has {there} but no {missing}.", "Save both or neither.")
        test = None
        if x_test is not None:
            test = part(x_test, y_test, ("x_test", "y_test"), path, request)
    return Raw(train, test)


SOURCE = Source(
    name="FILE.npz",
    summary="arrays x and y, optionally x_test and y_test",
    accepts=lambda spec: spec.lower().endswith(".npz") and Path(spec).is_file(),
    read=_read,
)
