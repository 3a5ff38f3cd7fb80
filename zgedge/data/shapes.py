"""Made-up pictures: eight shapes of any place, size, turn and colour, on busy grounds, with noise.

A data set that is nobody's and that anybody can make again: a picture follows from the seed, its
class and its number alone, so a longer set begins with the pictures of a shorter one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.errors import UsageError, ZgedgeError
from zgedge.extras import need

Floats = npt.NDArray[np.float64]

# Share of the side that a shape's radius takes, at least and at most.
SMALLEST, LARGEST = 0.2, 0.42
# Least difference of a shape's colour from the ground's mean, in any channel, of 255.
CONTRAST = 110.0
# Least and most standard deviation of the noise, of 255.
NOISE = (3.0, 18.0)
# Most that a shape is turned from upright, to either side, in radians.
TURN = 0.6
SMALLEST_SIDE, LARGEST_SIDE = 8, 4096


def _half_planes(u: Floats, v: Floats, corners: int, inner: float) -> Floats:
    angles = 2 * np.pi * np.arange(corners) / corners
    planes = np.cos(angles)[:, None, None] * u + np.sin(angles)[:, None, None] * v
    return np.asarray(planes.max(axis=0) - inner)


def _star(u: Floats, v: Floats) -> Floats:
    # Folded into one of ten equal wedges, the outline is a line from a dent to a point.
    turn = np.arctan2(v, u) % (2 * np.pi / 5) - np.pi / 5
    r, angle = np.hypot(u, v), np.abs(turn)
    dent, point = np.array([0.42, 0.0]), np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    along = (point - dent) / np.hypot(*(point - dent))
    return np.asarray(
        (r * np.cos(angle) - dent[0]) * along[1] - (r * np.sin(angle) - dent[1]) * along[0]
    )


def _cross(u: Floats, v: Floats) -> Floats:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.3, b - 0.95), np.maximum(b - 0.3, a - 0.95))


# Distance from the outline, about, of points around a shape of radius 1; inside it is below 0.
SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": lambda u, v: np.hypot(u, v) - 0.9,
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 1.0, 0.8 - np.hypot(u - 0.5, v)),
    "cross": _cross,
    "hexagon": lambda u, v: _half_planes(u, v, 6, 0.85),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.2,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.78,
    "star": _star,
    "triangle": lambda u, v: _half_planes(u, v, 3, 0.55),
}


def picture(name: str, number: int, *, seed: int = 0, size: int = 32) -> npt.NDArray[np.uint8]:
    """One picture uint8 [size, size, 3] of a shape in `SHAPES`."""
    rng = np.random.default_rng([seed, list(SHAPES).index(name), number])
    rows, columns = (np.mgrid[0:size, 0:size] + 0.5) / size
    ground = _ground(rng, rows, columns)
    mean = ground.mean(axis=(0, 1))
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.abs(colour - mean).max() >= CONTRAST:
            break
    radius = rng.uniform(SMALLEST, LARGEST)
    at = rng.uniform(0.85 * radius, 1 - 0.85 * radius, 2)
    turn, squeeze = rng.uniform(-TURN, TURN), rng.uniform(0.85, 1.0)
    x, y = (columns - at[0]) / radius, (rows - at[1]) / radius
    u = np.cos(turn) * x + np.sin(turn) * y
    v = (np.cos(turn) * y - np.sin(turn) * x) / squeeze
    cover = np.clip(0.5 - SHAPES[name](u, v) * radius * size, 0, 1)[:, :, None]
    pixels = ground * (1 - cover) + colour * cover
    light = 1 + rng.uniform(-0.3, 0.3, 2) @ np.stack([rows.ravel() - 0.5, columns.ravel() - 0.5])
    pixels = pixels * light.reshape(size, size, 1)
    pixels = pixels + rng.normal(0, rng.uniform(*NOISE), pixels.shape)
    return np.asarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _ground(rng: np.random.Generator, rows: Floats, columns: Floats) -> Floats:
    """float [size, size, 3]: a colour that runs into another, stripes, and a few streaks."""
    first, second = rng.uniform(0, 255, (2, 3))
    direction = rng.uniform(0, 2 * np.pi)
    along = np.cos(direction) * columns + np.sin(direction) * rows
    ground = first + (second - first) * (0.5 * np.clip(along, 0, 1))[:, :, None]
    waves = np.sin(2 * np.pi * (rng.uniform(1, 5) * along + rng.uniform()))
    ground = ground + rng.uniform(0, 15) * waves[:, :, None]
    for _ in range(rng.integers(0, 3)):
        # A streak: the band between two near parallels, of a colour of its own.
        tilt, offset = rng.uniform(0, np.pi), rng.uniform(-0.3, 1.2)
        across = np.cos(tilt) * columns + np.sin(tilt) * rows
        band = np.abs(across - offset) < rng.uniform(0.01, 0.05)
        ground[band] = 0.5 * ground[band] + 0.5 * rng.uniform(0, 255, 3)
    return np.asarray(ground)


def make(
    folder: str | os.PathLike[str], seed: int = 0, size: int = 32, count: int = 400
) -> tuple[str, ...]:
    """Write `count` pictures of each shape, `size` pixels wide and high, as FOLDER/SHAPE/*.png.

    Returns the names of the shapes. Files of a former call are replaced by name; `load` reads the
    folder. Raises UsageError for a size outside 8 .. 4096 or a count below 1, MissingExtraError
    without Pillow, ZgedgeError where the folder cannot be written.
    """
    if not SMALLEST_SIDE <= size <= LARGEST_SIDE:
        raise UsageError(
            f"Pictures of {size} pixels are outside {SMALLEST_SIDE} to {LARGEST_SIDE}."
        )
    if count < 1:
        raise UsageError(f"{count} pictures of a shape are too few.", "Make at least 1.")
    image: Any = need("PIL.Image", "train", "pillow")
    digits = max(4, len(str(count - 1)))
    try:
        for name in SHAPES:
            place = Path(folder) / name
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = picture(name, number, seed=seed, size=size)
                image.fromarray(pixels).save(place / f"{number:0{digits}}.png")
    except OSError as error:
        raise ZgedgeError(f"Cannot write {folder}: {error}.", "Choose another folder.") from error
    return tuple(SHAPES)
