"""A folder of pictures per class: FOLDER/CLASS/*.png, or FOLDER/train/CLASS and FOLDER/test/CLASS.

To predict, also a folder of pictures without classes, or one picture.

All pictures of a data set get one size. Small ones that have one size already stay as they are; all
others are scaled, so that the longer side has at most `SIDE` pixels. A picture of another form than
the rest loses its edges: the middle is kept. A model's own shape says what it was trained on, so
what it predicts on is scaled by the same rule, and nothing else need be remembered.
"""

from __future__ import annotations

import os
import re
import statistics
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zgedge.data.dataset import Array, Part, Raw, Request, Source, label_text
from zgedge.errors import DataError
from zgedge.extras import need
from zgedge.network import MAX_INPUTS

# Longer side of pictures that are scaled, where nobody asks for another.
SIDE = 64
# A picture that would have to be enlarged more than this shows nothing.
MOST_ENLARGED = 8
# Files that a sentence lists.
SHOWN = 20

# What is wrong, by the file or folder.
Faults = dict[Path, DataError]

_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".pgm", ".ppm", ".pbm", ".tif", ".tiff",
     ".webp")
)  # fmt: skip
# Pictures too, but of forms that Pillow alone does not read.
_FOREIGN = frozenset(
    (".heic", ".heif", ".avif", ".svg", ".raw", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".psd")
)
_LEFT_BY_ARCHIVERS = "__MACOSX"
_TEST_NAMES = ("test", "val", "valid", "validation")
_ORIENTATION = 0x0112
# How a picture is turned upright, by its orientation (EXIF): a method of Pillow's `Transpose`.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
    6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
_SIDEWAYS = (5, 6, 7, 8)
# Modes of Pillow with colours that RGB does not hold exactly.
_SPACES = ("CMYK", "HSV", "LAB", "YCbCr")


@dataclass(frozen=True)
class _Head:
    """What a picture's header says: its size as it is to be seen, and how it is stored.

    `space` is a space of colours that is no RGB, such as CMYK; `deep` where values have 16 bits,
    `turned` where the camera was not held upright.
    """

    width: int
    height: int
    colour: bool
    transparent: bool
    film: bool
    space: str | None
    deep: bool
    turned: bool


def _kind_of(path: Path) -> str:
    return path.suffix.lower()


def _is_picture(path: Path) -> bool:
    return _kind_of(path) in _SUFFIXES and path.is_file() and not path.name.startswith(".")


def _text(path: Path) -> str:
    """A path as it can be printed: what is no UTF-8 in it as escapes."""
    return str(path).encode(errors="backslashreplace").decode()


def _some(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - SHOWN:,} more" if len(paths) > SHOWN else ""
    return ", ".join(map(_text, paths[:SHOWN])) + more


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without what is hidden."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _folders_in(folder: Path) -> list[Path]:
    return [p for p in _entries(folder) if p.is_dir() and p.name != _LEFT_BY_ARCHIVERS]


def _pictures_in(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if _is_picture(path)]


def _below(
    folder: Path, request: Request, faults: Faults, seen: frozenset[str] = frozenset()
) -> list[Path]:
    """Every picture in a folder and the folders in it; a link that leads back is not followed."""
    place = os.path.realpath(folder)
    if place in seen:
        return []
    found: list[Path] = []
    foreign: list[Path] = []
    for path in _entries(folder):
        if path.is_dir():
            if path.name != _LEFT_BY_ARCHIVERS:
                found += _below(path, request, faults, seen | {place})
        elif _kind_of(path) in _FOREIGN:
            foreign.append(path)
        elif _is_picture(path):
            found.append(path)
        elif path.is_symlink() and _kind_of(path) in _SUFFIXES:
            faults[path] = DataError(f"{_text(path)} is a link to nothing.", "Remove the link.")
    if foreign:
        kinds = ", ".join(sorted({_kind_of(path) for path in foreign}))
        request.findings.note(
            f"{len(foreign)} files in {_text(folder)} are left out: {kinds} is not read.",
            "Save them as .jpg or .png.",
        )
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The picture with its header read and its pixels not yet decoded."""
    image = need("PIL.Image", "train", "pillow")
    with warnings.catch_warnings():
        # Of damaged parts that do not matter, and of more pixels than a website would take.
        warnings.simplefilter("ignore")
        with _decoding(path, opening=True):
            picture = image.open(path)
        with picture:
            yield picture


def _too_large(path: Path, error: Exception) -> DataError:
    """The fault of a picture that Pillow takes for a trap: a small file may hold any size."""
    from PIL import Image

    # The size stands in the text alone: the file is given up before there is a picture.
    has = re.search(r"\((\d+) pixels\)", str(error))
    most = None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS
    return DataError(
        f"{_text(path)} has {f'{int(has[1]):,}' if has else 'too many'} pixels"
        + ("." if most is None else f"; at most {most:,} are read."),
        f"Save it smaller: a model sees {SIDE} pixels a side, or what --side asks for.",
    )


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if path.stat().st_size == 0:
        return "the file is empty"
    return "it has the form of none" if "cannot identify" in str(error) else _said(error)


def _said(error: Exception) -> str:
    """What an error says, to go into a sentence; its kind where it says nothing."""
    return str(error).strip().rstrip(".") or type(error).__name__


def _wide(picture: Any) -> bool:
    """Whether a value has 16 bits: Pillow calls some such files 32-bit, which they cannot be."""
    return picture.mode.startswith("I;16") or (
        picture.mode == "I" and picture.format in ("PNG", "PPM")
    )


def _deep(picture: Any) -> bool:
    """Whether values have 16 bits: colours that have come out of Pillow with 8, and only how they
    are to be decoded tells."""
    if _wide(picture):
        return True
    for *_, said in picture.tile:
        for item in said if isinstance(said, tuple) else (said,):
            if isinstance(item, str) and ";16" in item:
                return True
            if picture.format == "PPM" and isinstance(item, int) and item > 255:
                return True
    return False


def _orientation(picture: Any) -> int:
    """How the camera was held (EXIF, 1 to 8); 1 where that is not told, or is damaged."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # as in any part of a damaged file
        return 1


def _head(path: Path) -> _Head:
    with _opened(path) as picture:
        if picture.mode in ("I", "F") and not _wide(picture):
            raise DataError(
                f"{_text(path)} has 32-bit pixels, which no fixed scale fits.",
                "Save it with 8 bits a channel.",
            )
        width, height = picture.size
        # A TIFF is turned by Pillow itself, and a PNG that tells it late would be decoded to tell.
        told = picture.format != "TIFF" and (picture.format != "PNG" or "exif" in picture.info)
        if told and _orientation(picture) in _SIDEWAYS:
            width, height = height, width
        grey = picture.mode in ("1", "L", "LA", "La") or _wide(picture)
        return _Head(
            width, height, not grey, _is_transparent(picture), _is_film(picture),
            # A JPEG's YCbCr is undone by its decoder.
            space=picture.mode if picture.mode in _SPACES else None,
            deep=_deep(picture),
            turned=_orientation(picture) in _UPRIGHT if told or picture.format == "TIFF" else False,
        )  # fmt: skip


def _is_film(picture: Any) -> bool:
    """Whether the file holds several pictures, but for a photograph's second view of itself."""
    try:
        return picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1
    except Exception:  # as in any part of a damaged file
        return False


def _is_transparent(picture: Any) -> bool:
    return picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info


def _decode(path: Path, shape: tuple[int, int, int]) -> Array:
    """uint8 `shape` (height, width, 1 or 3): turned upright, put on white, scaled, the middle kept.

    Of 16-bit grey the high byte is kept.
    """
    from PIL import Image

    height, width, channels = shape
    with _opened(path) as picture:
        with _decoding(path):
            # Of a JPEG a coarser picture is enough, and decoded several times as fast.
            picture.draft(None, (2 * max(height, width),) * 2)
            picture.load()
        if _wide(picture):
            values = np.asarray(picture).astype(np.int64) >> 8
            seen = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
        else:
            seen = picture
        if picture.format != "TIFF" and (way := _UPRIGHT.get(_orientation(picture))):
            seen = seen.transpose(Image.Transpose[way])
        if _is_transparent(seen):
            with _decoding(path):
                seen = seen.convert("RGBA")
            white = Image.new("RGBA", seen.size, "white")
            seen = Image.alpha_composite(white, seen)
        with _decoding(path):
            seen = seen.convert("L" if channels == 1 else "RGB")
        if seen.size != (width, height):
            box = _middle(*seen.size, width, height)
            seen = seen.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.asarray(seen).reshape(shape)


@contextmanager
def _decoding(path: Path, opening: bool = False) -> Iterator[None]:
    """What a decoder raises is the file's fault. Only what follows the file's own bytes belongs in
    here: a mistake of ours must not be called a damaged picture."""
    from PIL import Image

    try:
        yield
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, error) from error
    except Exception as error:  # a damaged file brings out anything in a decoder
        if opening:
            what, hint = f"read as a picture: {_why(path, error)}", "Save it again"
        else:
            what, hint = f"decoded: {_said(error)}", "It may be cut or damaged; save it again"
        raise DataError(f"{_text(path)} cannot be {what}.", f"{hint}, or leave it out.") from error


def _middle(
    width: int, height: int, to_width: int, to_height: int
) -> tuple[float, float, float, float]:
    """The largest part of a picture around its middle that has the form of another."""
    scale = min(width / to_width, height / to_height)
    # The side that fits exactly may come out a rounding longer than the picture.
    left = max(0.0, (width - scale * to_width) / 2)
    top = max(0.0, (height - scale * to_height) / 2)
    return left, top, width - left, height - top


def _labelled(folder: Path, request: Request, faults: Faults) -> list[tuple[Path, str]]:
    """(picture, class) of every picture in and below the class folders of `folder`."""
    found: list[tuple[Path, str]] = []
    for class_folder in _folders_in(folder):
        name = unicodedata.normalize("NFC", class_folder.name)
        if not name.isprintable():
            faults[class_folder] = DataError(
                f"The name of the folder {_text(class_folder)} is no readable text.",
                "Rename it; classes are called as their folders.",
            )
        known = len(faults)
        paths = _below(class_folder, request, faults)
        if not paths and len(faults) == known:
            faults[class_folder] = DataError(
                f"{_text(class_folder)} holds no picture.",
                f"Pictures are files such as {', '.join(sorted(_SUFFIXES))}.",
            )
        found += [(path, label_text(name)) for path in paths]
    if found and (beside := _pictures_in(folder)):
        request.findings.note(
            f"{len(beside)} pictures that lie beside the folders of classes are left out: "
            f"{_some(beside)}."
        )
    return found


def _report(faults: Faults, request: Request) -> None:
    """Report all that is wrong with files and folders; when strict, in one error."""
    if request.findings.strict and len(faults) > 1:
        first = next(iter(faults.values()))
        what = "files and folders" if any(path.is_dir() for path in faults) else "pictures"
        listed = len(faults) > SHOWN
        raise DataError(
            f"{len(faults):,} {what} cannot be used: {_some(list(faults))}. "
            f"The first: {first.message}",
            "`zgedge data check` says what is wrong with each." if listed else first.hint,
        )
    for path, fault in faults.items():
        request.findings.error(fault.message, fault.hint, value=_text(Path(path.name)))


def _heads(paths: Sequence[Path], faults: Faults) -> dict[Path, _Head]:
    """The headers of the pictures that can be read; the others are faults."""
    heads: dict[Path, _Head] = {}
    for path in paths:
        try:
            heads[path] = _head(path)
        except DataError as error:
            faults[path] = error
    if not heads:
        raise DataError(f"None of the pictures beside {_text(paths[0])} can be read.")
    return heads


def _shape_for(heads: dict[Path, _Head], side: int | None) -> tuple[int, int, int]:
    """(height, width, channels) that the pictures of a training set get."""
    sizes = {(head.width, head.height) for head in heads.values()}
    longest = [max(head.width, head.height) for head in heads.values()]
    channels = 3 if any(head.colour for head in heads.values()) else 1
    if side is None and len(sizes) == 1 and longest[0] <= SIDE:
        ((width, height),) = sizes
        return height, width, channels
    longer = side or min(SIDE, int(statistics.median(longest)))
    forms = {_scaled(width, height, longer) for width, height in sizes}
    width, height = forms.pop() if len(forms) == 1 else (longer, longer)
    if width * height * channels > MAX_INPUTS:
        raise DataError(
            f"Pictures of {width} x {height} with {channels} channels have "
            f"{width * height * channels:,} values, more than the {MAX_INPUTS:,} that a model "
            "can take.",
            "Ask for a smaller side; 64 is usual.",
        )
    return height, width, channels


def _scaled(width: int, height: int, longer: int) -> tuple[int, int]:
    scale = longer / max(width, height)
    return max(1, round(scale * width)), max(1, round(scale * height))


def _shape_of_model(heads: dict[Path, _Head], request: Request) -> tuple[int, int, int]:
    """The shape that a model reads, from the model or, where only its size is told, the files."""
    if request.shape is not None:
        if request.shape[2] not in (1, 3):
            raise DataError(
                f"The model takes pictures of {request.shape[2]} channels; files hold 1 or 3.",
                "Give arrays of the form that it was trained on.",
            )
        return request.shape
    path, head = next(iter(heads.items()))
    area = head.width * head.height
    if request.features not in (area, 3 * area):
        raise DataError(
            f"{_text(path)} is {head.width} x {head.height}: {area} values in grey, "
            f"{3 * area} in colour; the model has {request.features} inputs.",
            "Use pictures of the size that the model was trained on.",
        )
    return head.height, head.width, request.features // area


def _stack(
    heads: dict[Path, _Head], shape: tuple[int, int, int], request: Request, faults: Faults
) -> Array:
    """(n, height, width, channels) uint8 of the pictures, in their order; a faulty one is black."""
    stack = np.zeros((len(heads), *shape), np.uint8)
    for i, (path, head) in enumerate(heads.items()):
        if max(shape[1] / head.width, shape[0] / head.height) > MOST_ENLARGED:
            faults[path] = DataError(
                f"{_text(path)} is {head.width} x {head.height} pixels, too few to be enlarged to "
                f"{shape[1]} x {shape[0]}.",
                "Leave it out.",
            )
            continue
        try:
            stack[i] = _decode(path, shape)
        except DataError as error:
            faults[path] = error
        if request.progress is not None:
            request.progress(i + 1, len(heads))
    return stack


def _announce(heads: dict[Path, _Head], shape: tuple[int, int, int], request: Request) -> None:
    """Say what was done to the pictures."""
    height, width, channels = shape
    sizes = Counter((head.width, head.height) for head in heads.values())
    scaled = sum(sizes.values()) - sizes[width, height]
    cut = sum(
        n for (w, h), n in sizes.items() if (w, h) != (width, height)
        and (width, height) != _scaled(w, h, max(width, height))
    )  # fmt: skip
    note = request.findings.note
    if scaled:
        note(
            f"{scaled:,} of {len(heads):,} pictures are scaled to {width} x {height} pixels"
            + (f"; {cut:,} of another form lose their edges, the middle is kept." if cut else "."),
            "A model scales what it predicts on in the same way; --side asks for another size."
            if request.training and request.side is None else None,
        )  # fmt: skip
    if turned := sum(head.turned for head in heads.values()):
        note(f"{turned:,} pictures are turned upright as the camera noted.")
    if deep := sum(head.deep for head in heads.values()):
        note(f"{deep:,} pictures have 16 bits a value; the high 8 are kept.")
    spaces = sorted({head.space for head in heads.values() if head.space})
    if foreign := sum(head.space is not None for head in heads.values()):
        note(f"{foreign:,} pictures in {' and '.join(spaces)} are converted to RGB.")
    if clear := sum(head.transparent for head in heads.values()):
        note(f"{clear:,} pictures with transparency are put on white.")
    if films := sum(head.film for head in heads.values()):
        note(f"{films:,} files hold several pictures; the first of each is used.")
    if channels == 1 and (coloured := sum(head.colour for head in heads.values())):
        note(f"{coloured:,} colour pictures are read as grey.")


def _part(
    found: list[tuple[Path, str]], heads: dict[Path, _Head], shape: tuple[int, int, int],
    request: Request, faults: Faults,
) -> Part:  # fmt: skip
    """A labelled part; what has no readable header is left out."""
    kept = [(_text(path), label) for path, label in found if path in heads]
    return Part(
        _stack(heads, shape, request, faults),
        [label for _, label in kept],
        [path for path, _ in kept],
    )


def _train(
    train: list[tuple[Path, str]], test: list[tuple[Path, str]], request: Request, faults: Faults
) -> Raw:
    heads = _heads([path for path, _ in train], faults)
    shape = _shape_for(heads, request.side)
    part = _part(train, heads, shape, request, faults)
    x = part.x
    if shape[2] == 3 and (x[..., :1] == x).all():
        # Every colour is a grey: a third of the values say the same.
        shape = (*shape[:2], 1)
        part = replace(part, x=x[..., :1])
    test_heads = _heads([path for path, _ in test], faults) if test else {}
    _announce({**heads, **test_heads}, shape, request)
    if not test:
        return Raw(part)
    return Raw(part, _part(test, test_heads, shape, request, faults))


def _rows(found: Sequence[tuple[Path, str | None]], request: Request, faults: Faults) -> Raw:
    """Pictures for a model."""
    heads = _heads([path for path, _ in found], faults)
    shape = _shape_of_model(heads, request)
    if request.shape is None and {(h.width, h.height) for h in heads.values()} != {shape[1::-1]}:
        sizes = sorted({f"{h.width} x {h.height}" for h in heads.values()})
        raise DataError(
            f"{request.spec} has pictures of several sizes: {', '.join(sizes[:8])}.",
            "Bring all pictures to the size that the model was trained on.",
        )
    _announce(heads, shape, request)
    labels = [label for path, label in found if path in heads and label is not None]
    x = _stack(heads, shape, request, faults)
    return Raw(Part(x, labels or None, [_text(path) for path, _ in found if path in heads]))


def _top(root: Path) -> Path:
    """The folder that holds the folders: an archive often has one more around all."""
    while not _pictures_in(root) and len(folders := _folders_in(root)) == 1:
        inner = folders[0]
        if _pictures_in(inner) or len(_folders_in(inner)) < 2:
            break
        root = inner
    return root


def _own_parts(root: Path, request: Request) -> tuple[Path, Path | None] | None:
    """The folders to train and to test on, where there are such with classes in them.

    The second is None where what is there to test on has no classes.
    """
    named = {folder.name.lower(): folder for folder in _folders_in(root)}
    train = named.get("train")
    others = [named[name] for name in _TEST_NAMES if name in named]
    if train is None or not others or not _folders_in(train):
        return None
    test = next((folder for folder in others if _folders_in(folder)), None)
    for folder in others:
        if folder != test:
            why = "" if _folders_in(folder) else ": its pictures are in no folders of classes"
            request.findings.note(f"{_text(folder)} is left out{why}.")
    return train, test


def _read(request: Request) -> Raw:
    try:
        return _read_folder(request)
    except OSError as error:
        place = error.filename or request.spec
        raise DataError(
            f"{place} cannot be read: {error.strerror}.", "Check its permissions."
        ) from error


def _read_folder(request: Request) -> Raw:
    # Of all stages, so that a person who mends what is named is not told of more then.
    faults: Faults = {}
    try:
        raw = _found(request, faults)
    except DataError:
        _report(faults, request)
        raise
    _report(faults, request)
    return raw


def _found(request: Request, faults: Faults) -> Raw:
    root = Path(request.spec)
    if root.is_file():
        return _rows([(root, None)], request, faults)
    root = _top(root)
    if (parts := _own_parts(root, request)) is not None:
        train, test = (_labelled(folder, request, faults) if folder else [] for folder in parts)
        if request.training and train:
            return _train(train, test, request, faults)
        if chosen := train if request.part == "train" else test:
            return _rows(chosen, request, faults)
    elif found := _labelled(root, request, faults):
        if request.training:
            return _train(found, [], request, faults)
        return _rows(found, request, faults)
    elif not request.training and (paths := _pictures_in(root)):
        return _rows([(path, None) for path in paths], request, faults)
    raise DataError(
        f"{request.spec} holds no folders with pictures.",
        "Make one folder per class, named as the class, with its pictures in it.",
    )


def _accepts(spec: str) -> bool:
    path = Path(spec)
    return path.is_dir() or _is_picture(path)


SOURCE = Source(
    name="FOLDER/",
    summary="pictures, a folder per class (or train/ and test/ above them)",
    accepts=_accepts,
    read=_read,
)
