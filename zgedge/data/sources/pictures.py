"""A folder of pictures per class: FOLDER/CLASS/*.png, or FOLDER/train/CLASS and FOLDER/test/CLASS.

To predict, also a folder of pictures without classes, or one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zgedge.data.dataset import Array, Part, Raw, Request, Source, label_text
from zgedge.errors import DataError, MissingExtraError
from zgedge.network import MAX_INPUTS

_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".pbm", ".tif", ".tiff", ".webp")
)
_GREY_MODES = ("1", "L", "LA", "I;16", "I;16B", "I;16L")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_picture(path))


def _folders_in(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _open(path: Path) -> Any:
    """The picture with its header read and its pixels not yet decoded."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("train", "pillow") from error
    try:
        return Image.open(path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as a picture: {error}.", "Save it again, or leave it out."
        ) from error


def _decode(path: Path, colour: bool) -> Array:
    """(h, w, 1) or (h, w, 3) uint8. Transparency is dropped; 16-bit grey keeps its high byte."""
    with _open(path) as picture:
        if picture.mode in ("I", "F"):
            raise DataError(
                f"{path} has 32-bit pixels, which no fixed scale fits.",
                "Save it with 8 bits a channel.",
            )
        try:
            if picture.mode.startswith("I;16"):
                pixels = (np.asarray(picture) >> 8).astype(np.uint8)
                pixels = np.stack([pixels] * 3, axis=2) if colour else pixels
            else:
                pixels = np.asarray(picture.convert("RGB" if colour else "L"))
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{path} cannot be decoded: {error}.", "It may be cut or damaged; save it again."
            ) from error
    return pixels if colour else pixels[:, :, None]


def _labelled(folder: Path, request: Request) -> list[tuple[Path, str]]:
    """(picture, class) of every picture below the class folders of `folder`."""
    found: list[tuple[Path, str]] = []
    for class_folder in _folders_in(folder):
        paths = _pictures_in(class_folder)
        if not paths:
            request.findings.error(
                f"{class_folder} holds no picture.",
                f"Pictures are files such as {', '.join(sorted(_SUFFIXES))}.",
                value=class_folder.name,
            )
        found += [(path, label_text(class_folder.name)) for path in paths]
    return found


def _stack(paths: Sequence[Path], request: Request) -> Array:
    """(n, h, w, c) uint8. All pictures must have the size of the first one that can be read."""
    sizes: dict[Path, tuple[int, int]] = {}
    grey = True
    for path in paths:
        try:
            with _open(path) as picture:
                sizes[path] = picture.size
                grey = grey and picture.mode in _GREY_MODES
        except DataError as error:
            request.findings.error(error.message, error.hint, value=path.name)
    if not sizes:
        raise DataError(f"None of the pictures beside {paths[0]} can be read.")
    first, (width, height) = next(iter(sizes.items()))
    area = width * height
    colour = not grey if request.features is None else request.features != area
    values = area * (3 if colour else 1)
    # Checked before anything is decoded: a photograph from a camera is far too large.
    if request.features is None and values > MAX_INPUTS:
        raise DataError(
            f"{first} is {width} x {height}: {values} values, more than the {MAX_INPUTS} inputs "
            "that a model can have.",
            "Make the pictures smaller, for instance 32 x 32.",
        )
    if request.features is not None and values != request.features:
        raise DataError(
            f"{first} is {width} x {height}: {area} values in grey, {3 * area} in colour; "
            f"the model has {request.features} inputs.",
            "Use pictures of the size that the model was trained on.",
        )
    stack = np.zeros((len(paths), height, width, 3 if colour else 1), np.uint8)
    for i, path in enumerate(paths):
        if path not in sizes:
            continue
        if sizes[path] != (width, height):
            request.findings.error(
                f"{path} is {sizes[path][0]} x {sizes[path][1]} pixels, "
                f"{first} is {width} x {height}.",
                "Bring all pictures to one size first.",
                value=f"{sizes[path][0]}x{sizes[path][1]}",
            )
            continue
        try:
            stack[i] = _decode(path, colour)
        except DataError as error:
            request.findings.error(error.message, error.hint, value=path.name)
    return stack


def _part(found: list[tuple[Path, str]], request: Request) -> Part:
    return Part(_stack([path for path, _ in found], request), [label for _, label in found])


def _read(request: Request) -> Raw:
    root = Path(request.spec)
    if root.is_file():
        return Raw(Part(_stack([root], request), None))
    parts = {name: root / name for name in ("train", "test") if (root / name).is_dir()}
    split = len(parts) == 2 and all(_folders_in(f) for f in parts.values())
    if split:
        test = _labelled(parts["test"], request)
        train = _labelled(parts["train"], request) if request.training else test
        if train and test:
            both = _part(test, request)
            return Raw(_part(train, request), both) if request.training else Raw(both)
    elif found := _labelled(root, request):
        return Raw(_part(found, request))
    elif not request.training and (paths := _pictures_in(root)):
        return Raw(Part(_stack(paths, request), None))
    raise DataError(
        f"{root} holds no folders with pictures.",
        "Make one folder per class, named as the class, with its pictures in it.",
    )


def _accepts(spec: str) -> bool:
    path = Path(spec)
    return path.is_dir() or _is_picture(path)


SOURCE = Source(
    name="FOLDER/",
    summary="pictures of one size, a folder per class (or train/ and test/ above them)",
    accepts=_accepts,
    read=_read,
)
