"""MNIST and everything else in its IDX form (Fashion-MNIST, KMNIST, EMNIST), gzipped or not.

The form is that of the MNIST page: two zero bytes, a type byte (8 = unsigned byte), the number of
dimensions, each dimension as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np

from zgedge.data.dataset import Array, Part, Raw, Request, Source
from zgedge.errors import DataError

_STEMS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_MOST_BYTES = 2**32


def _locate(folder: Path, stem: str) -> Path | None:
    """The file of that name, gzipped or not; some archives write a dot before `idx`."""
    for name in (stem, stem.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            if (folder / (name + suffix)).is_file():
                return folder / (name + suffix)
    return None


def _holds_idx(folder: Path) -> bool:
    return any(_locate(folder, stem) for pair in _STEMS.values() for stem in pair)


def _folder(data_dir: Path) -> Path | None:
    return next((f for f in (data_dir / "mnist", data_dir) if _holds_idx(f)), None)


def read_idx(path: Path, dimensions: int) -> Array:
    """Read one IDX file of unsigned bytes with that many dimensions. Raises `DataError`."""
    try:
        with path.open("rb") as raw:
            gzipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if gzipped:
                with gzip.open(raw) as unpacked:
                    return _read_idx(cast("IO[bytes]", unpacked), path, dimensions)
            return _read_idx(raw, path, dimensions)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(
            f"{path} cannot be read: {error}.", "It may be cut or damaged; fetch it again."
        ) from error


def _read_idx(file: IO[bytes], path: Path, dimensions: int) -> Array:
    magic = file.read(4)
    if magic[:2] != b"\0\0" or len(magic) < 4:
        raise DataError(f"{path} is not an IDX file: it starts with {magic.hex(' ') or 'nothing'}.")
    if magic[2] != 8 or magic[3] != dimensions:
        raise DataError(
            f"{path} holds {magic[3]} dimensions of type 0x{magic[2]:02x}; "
            f"{dimensions} dimensions of unsigned bytes (0x08) are needed."
        )
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise DataError(f"{path} ends inside its header.", "Fetch it again.")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4"))
    size = math.prod(shape)
    if size > _MOST_BYTES:
        raise DataError(f"{path} claims {size} bytes of values (shape {shape}), more than 4 GB.")
    # Read what is there in pieces: a false header must not make us ask for gigabytes.
    body = bytearray()
    while len(body) <= size and (piece := file.read(min(size + 1 - len(body), 1 << 24))):
        body += piece
    if len(body) != size:
        found = "more" if len(body) > size else str(len(body))
        raise DataError(
            f"{path} should hold {size} bytes after its header (shape {shape}) and holds {found}.",
            "It may be cut or damaged; fetch it again.",
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _part(folder: Path, which: str) -> Part:
    paths = []
    for stem in _STEMS[which]:
        path = _locate(folder, stem)
        if path is None:
            raise DataError(
                f"{folder} has no file {stem} (or {stem}.gz).",
                "MNIST is four files: pictures and labels, each for train and t10k.",
            )
        paths.append(path)
    x, y = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(x) != len(y):
        raise DataError(
            f"{paths[0]} holds {len(x)} pictures, {paths[1].name} {len(y)} labels.",
            "The two files must belong together.",
        )
    return Part(x, [str(v) for v in y.tolist()])


def _read(request: Request) -> Raw:
    folder = _folder(request.data_dir) if request.spec == "mnist" else Path(request.spec)
    if folder is None:
        raise DataError(
            f"mnist is not in {request.data_dir / 'mnist'}.",
            "Put its four IDX files there (zgedge data get mnist --url ADDRESS fetches one), "
            "or name the folder above with --data-dir.",
        )
    test = _part(folder, "test")
    return Raw(_part(folder, "train"), test) if request.training else Raw(test)


def _find(data_dir: Path) -> str | None:
    folder = _folder(data_dir)
    return None if folder is None else str(folder)


SOURCE = Source(
    name="mnist",
    summary="70,000 handwritten digits, 28 x 28 grey, 10 classes; four IDX files, gzipped or not",
    accepts=lambda spec: spec == "mnist" or (Path(spec).is_dir() and _holds_idx(Path(spec))),
    read=_read,
    find=_find,
)
