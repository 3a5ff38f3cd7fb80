"""Streams of tasks and shifts of the world, for `zgedge bench continual`.

A stream is named after what it does and the data that it does it to: `split-mnist`,
`permuted20-mnist`, `dead-digits`. Its samples come in one random order, drawn by the seed, task
after task; what belongs to a later task is made when that task begins and not before.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.data import Dataset, shifts
from zgedge.data.split import stratified
from zgedge.errors import UsageError

Array = npt.NDArray[Any]
Rows = tuple[Array, npt.NDArray[np.int64]]

CLASSES, WORLDS, SHIFT = "classes", "worlds", "shift"
PER_TASK = 2  # classes of a task of a split
DISTRACTORS = 3000
POISONED = 0.4
BEFORE = 10_000  # samples that a model learned before the world changes
AFTER = 2_000  # and those with labels that it meets afterwards
DRIFTING = 6_000
HELD = 1 / 6  # of the training rows, where settings are chosen


@dataclass(frozen=True, eq=False)
class Task:
    """One stretch of a stream.

    train    gives its samples [n, inputs] and labels [n] in the order of their arrival
    test     gives the test rows of the same world
    classes  that it has samples of
    """

    name: str
    train: Callable[[], Rows]
    test: Callable[[], Rows]
    classes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Stream:
    """Tasks in their order.

    kind    "classes": each task brings classes of its own; "worlds": all classes in another world;
            "shift": one task, which follows what was learned of the world of `before`
    digest  tells one stream from another: of all rows and what is done to them
    neighbours  whether places beside each other still are so, as in a picture
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    picture: bool
    classes: tuple[str, ...]
    tasks: tuple[Task, ...]
    digest: str
    before: Task | None = None
    neighbours: bool = True

    @property
    def inputs(self) -> int:
        height, width, channels = self.shape
        return height * width * channels

    @property
    def colour(self) -> bool:
        """Whether its rows are pictures of several values for each place."""
        return self.picture and self.shape[2] > 1


def kinds() -> tuple[str, ...]:
    """What can be done to data."""
    return tuple(_MAKERS)


def parse(name: str) -> tuple[str, str]:
    """(kind, data) of a name. Raises UsageError where there is no such kind."""
    for kind in sorted(_MAKERS, key=len, reverse=True):
        if name.startswith(kind + "-") and len(name) > len(kind) + 1:
            return kind, name[len(kind) + 1 :]
    raise UsageError(
        f"{name!r} is no stream.",
        f"Name one as split-mnist: {', '.join(_MAKERS)}, a dash, and the data.",
    )


def make(
    name: str, dataset: Dataset, seed: int, *, samples: int | None = None, held: bool = False
) -> Stream:
    """The stream of that name over `dataset`.

    samples  at most so many of each task
    held     settings are being chosen: a part of the training rows stands for the test rows,
             which are not looked at

    Raises UsageError for an unknown kind, or data that the kind means nothing for.
    """
    kind, _ = parse(name)
    if held:
        rest, chosen = stratified(dataset.y_train, HELD, seed=20_000)
        dataset = replace(
            dataset, x_train=dataset.x_train[rest], y_train=dataset.y_train[rest],
            x_test=dataset.x_train[chosen], y_test=dataset.y_train[chosen],
        )  # fmt: skip
    stream = _MAKERS[kind](dataset, np.random.default_rng([seed, 77]), samples)
    digest = hashlib.sha256(repr((name, seed, samples, held)).encode())
    for array in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test):
        digest.update(array.tobytes())
    return replace(stream, name=name, digest=digest.hexdigest()[:16])


def _of(kind: str, data: Dataset, tasks: tuple[Task, ...], before: Task | None = None) -> Stream:
    return Stream("", kind, data.shape, data.kind == "picture", data.classes, tasks, "", before)


def _take(x: Array, y: Array, rows: Array) -> Callable[[], Rows]:
    return lambda: (x[rows], y[rows])


def _split(data: Dataset, rng: np.random.Generator, samples: int | None) -> Stream:
    """Classes two by two, in the order of their names as published tables have it."""
    tasks = []
    for first in range(0, len(data.classes), PER_TASK):
        classes = tuple(range(first, min(first + PER_TASK, len(data.classes))))
        mine = rng.permutation(np.flatnonzero(np.isin(data.y_train, classes)))[:samples]
        test = np.flatnonzero(np.isin(data.y_test, classes))
        name = " and ".join(data.classes[c] for c in classes)
        tasks.append(
            Task(
                name, _take(data.x_train, data.y_train, mine),
                _take(data.x_test, data.y_test, test), classes,
            )
        )  # fmt: skip
    return _of(CLASSES, data, tuple(tasks))


def _worlds(
    data: Dataset, rng: np.random.Generator, samples: int | None,
    changes: list[tuple[str, Callable[[Array], Array]]],
) -> Stream:  # fmt: skip
    every = tuple(range(len(data.classes)))

    def task(name: str, change: Callable[[Array], Array], rows: Array) -> Task:
        return Task(
            name,
            lambda: (change(data.x_train[rows]), data.y_train[rows]),
            lambda: (change(data.x_test), data.y_test),
            every,
        )

    return _of(
        WORLDS, data,
        tuple(
            task(name, change, rng.permutation(len(data.y_train))[:samples])
            for name, change in changes
        ),
    )  # fmt: skip


def _permuted(count: int) -> Callable[[Dataset, np.random.Generator, int | None], Stream]:
    def make(data: Dataset, rng: np.random.Generator, samples: int | None) -> Stream:
        """Each task has all inputs in a random order of its own."""

        def change(order: Array) -> Callable[[Array], Array]:
            return lambda x: np.take(x, order, axis=1)

        orders = [rng.permutation(data.features) for _ in range(count)]
        changes = [(f"order {i + 1}", change(order)) for i, order in enumerate(orders)]
        return replace(_worlds(data, rng, samples, changes), neighbours=False)

    return make


def _rotated(data: Dataset, rng: np.random.Generator, samples: int | None) -> Stream:
    """Ten tasks, each with all pictures turned by an angle of its own from 0 to 180 degrees."""
    if data.kind != "picture":
        raise UsageError(f"{data.name} has no pictures to turn.")
    angles = np.sort(rng.uniform(0, 180, 10))

    def change(angle: float) -> Callable[[Array], Array]:
        return lambda x: turn(x, data.shape, angle)

    return _worlds(data, rng, samples, [(f"{a:.0f} degrees", change(float(a))) for a in angles])


def turn(x: Array, shape: tuple[int, int, int], angle: float) -> Array:
    """Pictures [n, inputs] of `shape` turned about their middle by `angle` degrees, each place
    from the four around where it came from; 0 comes in at the edges."""
    height, width, _ = shape
    pictures = x.reshape(len(x), *shape)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    rows, columns = rows - (height - 1) / 2, columns - (width - 1) / 2
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    from_row = c * rows + s * columns + (height - 1) / 2
    from_column = c * columns - s * rows + (width - 1) / 2
    out = np.zeros(pictures.shape, np.float32)
    top, left = np.floor(from_row).astype(int), np.floor(from_column).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            r, k = top + down, left + right
            share = (1 - np.abs(from_row - r)) * (1 - np.abs(from_column - k))
            share *= (r >= 0) & (r < height) & (k >= 0) & (k < width)
            there = pictures[:, np.clip(r, 0, height - 1), np.clip(k, 0, width - 1)]
            out += share[None, :, :, None].astype(np.float32) * there
    if x.dtype.kind in "ui":
        out = np.rint(out)
    return out.astype(x.dtype).reshape(len(x), -1)


def _shift(
    before: Dataset, after: Dataset, rng: np.random.Generator, samples: int | None,
    *, most: int = AFTER, label: Callable[[Array], Array] = lambda y: y, without: int | None = None,
) -> Stream:  # fmt: skip
    """`before` and `after` have the same rows in their two worlds; none is met in both.

    label    changes the labels that come after
    without  a class that is not there before
    """
    count = min(most, len(after.y_train) // 3, samples or most)
    order = rng.permutation(len(after.y_train))
    late, early = order[:count], order[count:][: min(BEFORE, 4 * count)]
    tested = np.arange(len(before.y_test))
    if without is not None:
        early = early[before.y_train[early] != without]
        tested = tested[before.y_test != without]
    labels = label(after.y_train[late])
    first = Task(
        "before", _take(before.x_train, before.y_train, early),
        _take(before.x_test, before.y_test, tested),
        tuple(c for c in range(len(before.classes)) if c != without),
    )  # fmt: skip
    then = Task(
        "after", lambda: (after.x_train[late], labels), lambda: (after.x_test, after.y_test),
        tuple(range(len(after.classes))),
    )  # fmt: skip
    return _of(SHIFT, after, (then,), first)


def _few(data: Dataset, rng: np.random.Generator, most: int = 4 * AFTER + BEFORE) -> Dataset:
    """As many training rows as a shift needs: wide ones take memory."""
    rows = rng.permutation(len(data.y_train))[:most]
    return replace(data, x_train=data.x_train[rows], y_train=data.y_train[rows])


def _sensors(data: Dataset, rng: np.random.Generator, samples: int | None) -> Stream:
    """3,000 inputs of noise beside the true ones, and all of them change their places."""
    wide = shifts.distractors(_few(data, rng), DISTRACTORS, seed=rng)
    before = shifts.permute(wide, seed=rng)
    return _shift(before, shifts.permute(before, seed=rng), rng, samples)


def _dead(data: Dataset, rng: np.random.Generator, samples: int | None) -> Stream:
    """Half the inputs read 0 from now on."""
    few = _few(data, rng)
    return _shift(few, shifts.dead(few, 0.5, seed=rng), rng, samples)


def _drift(data: Dataset, rng: np.random.Generator, samples: int | None) -> Stream:
    """Each sensor's gain and offset wander away; tested in the world of the end."""
    few = _few(data, rng)
    found = _shift(few, few, rng, samples, most=DRIFTING)
    x, y = found.tasks[0].train()
    ageing = replace(few, x_train=x, y_train=y)
    aged = shifts.drift(ageing, seed=rng, gain=0.6, offset=0.3)
    task = replace(
        found.tasks[0], train=lambda: (aged.x_train, y), test=lambda: (aged.x_test, aged.y_test)
    )
    return replace(found, tasks=(task,))


def _new_class(data: Dataset, rng: np.random.Generator, samples: int | None) -> Stream:
    """A class that has a place in the file and had no sample so far."""
    few = _few(data, rng)
    return _shift(few, few, rng, samples, without=int(rng.integers(len(data.classes))))


def _poisoned(data: Dataset, rng: np.random.Generator, samples: int | None) -> Stream:
    """The world stays; two labels in five are wrong."""
    few = _few(data, rng)

    def lie(y: Array) -> Array:
        wrong = (y + rng.integers(1, len(data.classes), len(y))) % len(data.classes)
        return np.where(rng.random(len(y)) < POISONED, wrong, y)

    return _shift(few, few, rng, samples, label=lie)


_MAKERS: dict[str, Callable[[Dataset, np.random.Generator, int | None], Stream]] = {
    "split": _split,
    "permuted": _permuted(10),
    "permuted20": _permuted(20),
    "rotated": _rotated,
    "sensors": _sensors,
    "dead": _dead,
    "drift": _drift,
    "new-class": _new_class,
    "poisoned": _poisoned,
}
