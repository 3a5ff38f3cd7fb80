"""CIFAR-10 in both of its published forms, as a folder or as the tar archive.

Binary: records of one label byte and 3,072 pixel bytes (red, green and blue planes of 32 x 32).
Python: pickled dictionaries with `data` and `labels`. A pickle can run any code when it is read
the usual way, so these are read by an unpickler that knows arrays of bytes and nothing else.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from zgedge.data.dataset import Array, Part, Raw, Request, Source
from zgedge.errors import DataError

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_PIXELS = 3072
_TRAIN = tuple(f"data_batch_{k}" for k in range(1, 6))
_TEST = ("test_batch",)
_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py", "")
_ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
# A published batch is 31 MB. The bound keeps a hostile archive from unpacking without end.
_MOST_BYTES = 1 << 26

_FETCH = "It may be cut or damaged; fetch it again."

Batches = Mapping[str, Callable[[], bytes]]


class _PickledArray:
    """Stands in for a numpy array: keeps the pickled state instead of acting on it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _PickledDtype(_PickledArray):
    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code


def _latin1(text: str, encoding: str) -> bytes:
    """What Python 3 writes for bytes in old protocols: text to be encoded as latin1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unexpected encoding {encoding!r}")
    return text.encode("latin1")


def _nothing(*_: Any) -> None:
    raise pickle.UnpicklingError("an array is made in an unexpected way")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _PickledArray(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _PickledArray(),
    ("numpy", "ndarray"): _nothing,  # only ever named as an argument of _reconstruct
    ("numpy", "dtype"): _PickledDtype,
    ("_codecs", "encode"): _latin1,
}


class _ByteArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _pixels_of(value: Any) -> Array:
    """The (n, 3072) bytes of a pickled uint8 array."""
    state = getattr(value, "state", None)
    if not (isinstance(value, _PickledArray) and isinstance(state, tuple) and len(state) == 5):
        raise ValueError("its data are not an array")
    _, shape, dtype, fortran, body = state
    code = getattr(dtype, "code", None)
    if code not in ("u1", b"u1") or not isinstance(body, bytes) or not isinstance(shape, tuple):
        raise ValueError("its data are not an array of bytes")
    return np.frombuffer(body, np.uint8).reshape(shape, order="F" if fortran else "C")


def _read_python_batch(body: bytes, where: str) -> tuple[Array, list[int]]:
    try:
        batch = _ByteArrayUnpickler(io.BytesIO(body), encoding="bytes").load()
        # Python 2 wrote the keys as bytes, Python 3 as text.
        fields = {k.decode() if isinstance(k, bytes) else k: v for k, v in batch.items()}
        x = _pixels_of(fields["data"])
        labels = [int(v) for v in fields["labels"]]
    except KeyError as error:
        raise DataError(f"{where} has no entry {error}.", _FETCH) from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{where} is not a CIFAR-10 batch and was not loaded: {error}.",
            "A pickle can run code; only arrays of bytes are accepted.",
        ) from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{where} cannot be read: {error}.", _FETCH) from error
    return x, labels


def _read_binary_batch(body: bytes, where: str) -> tuple[Array, list[int]]:
    if len(body) % (_PIXELS + 1):
        raise DataError(
            f"{where} is {len(body)} bytes long, not a multiple of a record's 3,073.", _FETCH
        )
    records = np.frombuffer(body, np.uint8).reshape(-1, _PIXELS + 1)
    return records[:, 1:], records[:, 0].tolist()


def _read_part(batches: Batches, names: tuple[str, ...], origin: str) -> Part:
    pictures, labels = [], []
    for name in names:
        stored = next((n for n in (f"{name}.bin", name) if n in batches), None)
        if stored is None:
            raise DataError(
                f"{origin} has no batch {name} (or {name}.bin).",
                "CIFAR-10 is data_batch_1 to data_batch_5 and test_batch.",
            )
        where = f"{origin}, {stored}"
        read = _read_binary_batch if stored.endswith(".bin") else _read_python_batch
        x, y = read(batches[stored](), where)
        if x.ndim != 2 or x.shape[1] != _PIXELS or len(x) != len(y):
            raise DataError(
                f"{where} has data of shape {x.shape} and {len(y)} labels; "
                f"(n, {_PIXELS}) and n are needed.",
                _FETCH,
            )
        wrong = next((row for row, v in enumerate(y) if not 0 <= v < len(CLASSES)), None)
        if wrong is not None:
            raise DataError(
                f"{where}: picture {wrong} has the label {y[wrong]}; labels are 0 to 9.", _FETCH
            )
        pictures.append(x)
        labels += [CLASSES[v] for v in y]
    planes = np.concatenate(pictures).reshape(-1, 3, 32, 32)
    return Part(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)


def _in_folder(folder: Path) -> Batches:
    names = [n for base in (*_TRAIN, *_TEST) for n in (f"{base}.bin", base)]
    return {n: (folder / n).read_bytes for n in names if (folder / n).is_file()}


def _in_archive(archive: tarfile.TarFile, origin: str) -> Batches:
    """The batches of an archive, read from it and never unpacked to disk.

    All are read in one pass: going back in a gzipped archive means unpacking it again.
    """
    found: dict[str, Callable[[], bytes]] = {}
    for member in archive:
        name = PurePosixPath(member.name).name
        if member.isfile() and name.removesuffix(".bin") in (*_TRAIN, *_TEST):
            if member.size > _MOST_BYTES:
                raise DataError(f"{origin}, {name} is {member.size} bytes long, too many.")
            file = archive.extractfile(member)
            body = b"" if file is None else file.read()
            found[name] = partial(bytes, body)
    return found


def _is_archive(path: Path) -> bool:
    return path.is_file() and path.name.endswith((".tar.gz", ".tgz", ".tar"))


def _locate(folder: Path) -> Path | None:
    """The folder with batches or the archive in or below `folder`."""
    for base in (folder / "cifar10", folder):
        for inner in _FOLDERS:
            if _in_folder(base / inner):
                return base / inner
        for name in _ARCHIVES:
            if (base / name).is_file():
                return base / name
    return None


def _read(request: Request) -> Raw:
    named = request.spec == "cifar10"
    place = Path(request.spec)
    if named or place.is_dir():
        found = _locate(request.data_dir if named else place)
        if found is None:
            raise DataError(
                f"cifar10 is not in {request.data_dir / 'cifar10'}.",
                "Put cifar-10-binary.tar.gz or its unpacked batches there "
                "(zgedge data get cifar10 --url ADDRESS fetches it), "
                "or name the folder above with --data-dir.",
            )
        place = found
    if place.is_dir():
        return _parts(_in_folder(place), str(place), request.training)
    try:
        with tarfile.open(place) as archive:
            return _parts(_in_archive(archive, str(place)), str(place), request.training)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{place} cannot be read: {error}.", _FETCH) from error


def _parts(batches: Batches, origin: str, training: bool) -> Raw:
    test = _read_part(batches, _TEST, origin)
    return Raw(_read_part(batches, _TRAIN, origin), test) if training else Raw(test)


def _accepts(spec: str) -> bool:
    path = Path(spec)
    return spec == "cifar10" or _is_archive(path) or (path.is_dir() and _locate(path) is not None)


def _find(data_dir: Path) -> str | None:
    place = _locate(data_dir)
    return None if place is None else str(place)


SOURCE = Source(
    name="cifar10",
    summary="60,000 photographs, 32 x 32 colour, 10 classes; binary or Python batches, or the tar",
    accepts=_accepts,
    read=_read,
    find=_find,
)
