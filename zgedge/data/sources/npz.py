"""A numpy archive with `x` and `y`, and optionally `x_test` and `y_test`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zgedge.data.dataset import Array, Raw, Request, Source
from zgedge.data.sources.arrays import READ_ERRORS, parts, unreadable
from zgedge.errors import DataError


def _read(request: Request) -> Raw:
    path = where = request.spec
    arrays: dict[str, Array] = {}
    try:
        # Opened here, because numpy leaves the file open when it turns out to be damaged.
        with open(path, "rb") as file:
            archive: Any = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"{path} is one .npy array, not an .npz archive.", "Name it .npy.")
            names = list(archive.files)
            for name in ("x", "y", "x_test", "y_test"):
                if name in names:
                    where = f"{path}, {name}"
                    arrays[name] = np.asarray(archive[name])
    except DataError:
        raise
    except READ_ERRORS as error:
        raise unreadable(where, error) from error
    if "x" not in arrays:
        raise DataError(
            f"{path} has no array x; it has {', '.join(names) or 'none'}.",
            "Save it with np.savez(path, x=x, y=y).",
        )
    return parts(arrays, path, request)


SOURCE = Source(
    name="FILE.npz",
    summary="arrays x and y, optionally x_test and y_test",
    accepts=lambda spec: spec.lower().endswith(".npz") and Path(spec).is_file(),
    read=_read,
)
