"""Small PNG pictures as data URIs, without a picture library.

Weights and counts are drawn with an opacity that follows their size, over the page's own surface:
nothing is where the surface shows, on a light page and on a dark one.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]

BLUE, ORANGE = (52, 131, 214), (222, 112, 20)
STEPS = 15  # shades of a colour: more cannot be told apart, and would cost bytes


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _uri(width: int, height: int, colour: int, chunks: bytes, lines: UInt8) -> str:
    """lines: uint8 [height, bytes of a row]."""
    raw = np.zeros((height, lines.shape[1] + 1), np.uint8)  # a row begins with its filter: none
    raw[:, 1:] = lines
    png = (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
        + chunks
        + _chunk(b"IDAT", zlib.compress(raw.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def picture(pixels: UInt8) -> str:
    """Data URI of uint8 [height, width], grey, or [height, width, 3], red, green, blue."""
    height, width = pixels.shape[:2]
    colour = 0 if pixels.ndim == 2 else 2
    return _uri(width, height, colour, b"", pixels.reshape(height, -1))


def heat(values: npt.NDArray[np.floating]) -> str:
    """Data URI of [height, width] in -1..1: orange below 0, blue above; NaN and 0 are nothing."""
    height, width = values.shape
    codes = np.nan_to_num(np.clip(values, -1, 1), nan=0.0)
    # What is there is never drawn as nothing: the sign of a small weight is still its sign.
    steps = np.sign(codes) * np.maximum(np.ceil(np.abs(codes) * STEPS), np.abs(np.sign(codes)))
    lines = (steps + STEPS).astype(np.uint8)
    palette = [ORANGE] * STEPS + [BLUE] * (STEPS + 1)
    opacity = [round(255 * abs(i - STEPS) / STEPS) for i in range(2 * STEPS + 1)]
    chunks = _chunk(b"PLTE", bytes(x for c in palette for x in c)) + _chunk(b"tRNS", bytes(opacity))
    return _uri(width, height, 3, chunks, lines)


def root(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Values in -1..1 by the root of their size: most weights are small, and would hardly show."""
    roots: npt.NDArray[np.floating] = np.sign(values) * np.sqrt(np.abs(values))
    return roots


def shrink(
    values: npt.NDArray[np.floating], height: int, width: int
) -> tuple[npt.NDArray[np.floating], tuple[int, int]]:
    """[h, w] made at most [height, width]; of each box the value furthest from 0 is kept.

    Returns the smaller array and the box. NaN is what is not there.
    """
    down, across = -(-values.shape[0] // height), -(-values.shape[1] // width)
    if (down, across) == (1, 1):
        return values, (1, 1)
    rows, columns = -(-values.shape[0] // down), -(-values.shape[1] // across)
    whole = np.full((rows * down, columns * across), np.nan, np.float32)
    whole[: values.shape[0], : values.shape[1]] = values
    boxes = whole.reshape(rows, down, columns, across).swapaxes(1, 2).reshape(rows, columns, -1)
    at = np.abs(np.nan_to_num(boxes)).argmax(axis=2)
    return np.take_along_axis(boxes, at[:, :, None], 2)[:, :, 0], (down, across)


def thumbnail(pixels: UInt8, most: int) -> UInt8:
    """A picture [h, w] or [h, w, 3] of which no side is above `most`, by means over boxes."""
    box = -(-max(pixels.shape[:2]) // most)
    if box == 1:
        return pixels
    down, across = (min(box, n) for n in pixels.shape[:2])
    height, width = pixels.shape[0] // down, pixels.shape[1] // across
    cut = pixels[: height * down, : width * across].astype(np.float32)
    means = cut.reshape(height, down, width, across, -1).mean(axis=(1, 3))
    small: UInt8 = np.rint(means).astype(np.uint8).reshape(height, width, *pixels.shape[2:])
    return small


def montage(tiles: npt.NDArray[np.floating], columns: int) -> npt.NDArray[np.floating]:
    """Tiles [n, h, w] side by side, a gap of one between them: [rows * (h + 1) - 1, ...]."""
    n, h, w = tiles.shape
    rows = -(-n // columns)
    whole = np.full((rows * columns, h + 1, w + 1), np.nan, np.float32)
    whole[:n, :h, :w] = tiles
    lines = whole.reshape(rows, columns, h + 1, w + 1).swapaxes(1, 2)
    return lines.reshape(rows * (h + 1), columns * (w + 1))[:-1, :-1]
