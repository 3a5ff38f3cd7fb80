"""Two .npy files, rows and labels: `x.npy,y.npy`, or a folder that holds them."""

from __future__ import annotations

from pathlib import Path

from zgedge.data.dataset import Raw, Request, Source
from zgedge.data.sources.arrays import load_npy, parts
from zgedge.errors import DataError


def _is_npy(path: str) -> bool:
    return path.lower().endswith(".npy")


def _pair(spec: str) -> list[str]:
    """The one or two paths of a spec; a comma may also stand in the name of a single file."""
    return [spec] if Path(spec).is_file() else [name.strip() for name in spec.split(",")]


def _read(request: Request) -> Raw:
    folder = Path(request.spec)
    if folder.is_dir():
        there = {n: folder / f"{n}.npy" for n in ("x", "y", "x_test", "y_test")}
        files = {name: path for name, path in there.items() if path.is_file()}
    else:
        paths = [Path(name) for name in _pair(request.spec)]
        if len(paths) > 2:
            raise DataError(
                f"{request.spec} names {len(paths)} files.", "Name two: the rows and the labels."
            )
        missing = next((path for path in paths if not path.is_file()), None)
        if missing is not None:
            raise DataError(f"{missing} does not exist.", "Name a pair as x.npy,y.npy.")
        files = dict(zip(("x", "y"), paths, strict=False))
    return parts({name: load_npy(path) for name, path in files.items()}, request.spec, request)


def _accepts(spec: str) -> bool:
    return (Path(spec) / "x.npy").is_file() or all(map(_is_npy, _pair(spec)))


SOURCE = Source(
    name="X.npy,Y.npy",
    summary="two arrays, rows and labels; or a folder with x.npy and y.npy",
    accepts=_accepts,
    read=_read,
)
