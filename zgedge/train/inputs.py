"""How raw values become the 8-bit codes that a network reads, the same numbers as the core's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.data.dataset import Dataset
from zgedge.errors import DataError

# A table's feature is coded in steps of 1/32 standard deviation around its mean: +-4 deviations.
STEPS_PER_DEVIATION = 32.0
TABLE_ZERO = 128


@dataclass(frozen=True)
class InputCoding:
    """code = clamp(round_half_even((float32(x) - center) * scale) + zero, 0, 255).

    scale, center  float32 [1] or [inputs]
    zero           code of the raw value `center`
    step           real value of one step, as the first layer sees it
    """

    scale: npt.NDArray[np.float32]
    center: npt.NDArray[np.float32]
    zero: int
    step: float

    def encode(self, x: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Codes uint8 [n, inputs] of raw values [n, inputs].

        Raises DataError at a value that is NaN, infinite or beyond float32.
        """
        out = np.empty(x.shape, np.uint8)
        for at in range(0, len(x), 4096):
            with np.errstate(over="ignore"):
                part = x[at : at + 4096].astype(np.float32)
            if not np.isfinite(part).all():
                row, column = np.argwhere(~np.isfinite(part))[0]
                raise DataError(
                    f"The value in row {at + row}, column {column} is {part[row, column]}.",
                    "Every value must be a finite number within float32.",
                )
            steps = np.clip((part - self.center) * self.scale, -512.0, 512.0)
            out[at : at + 4096] = np.clip(np.rint(steps) + self.zero, 0, 255).astype(np.uint8)
        return out


def choose_coding(dataset: Dataset, groups: int) -> InputCoding:
    """The coding of a data set's values, from its training rows.

    With one group the values share a scale that starts at 0 and ends at the largest; else each has
    its own mean and deviation. A feature that never changes gets a deviation of 1.
    Raises DataError where one scale is asked of values that are nowhere above 0, or for NaN.
    """
    x = dataset.x_train
    if groups == 1:
        top = float(x.max())
        if not (np.isfinite(top) and top > 0):
            raise DataError(
                f"The largest training value of {dataset.name} is {top:g}.",
                "Pictures need values from 0 up; give other data as a table.",
            )
        scale = np.full(1, 255.0 / top, np.float32)
        return InputCoding(scale, np.zeros(1, np.float32), 0, 1.0 / 255.0)
    mean = x.mean(axis=0, dtype=np.float64)
    deviation = x.std(axis=0, dtype=np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        column = int(np.argmin(np.isfinite(mean) & np.isfinite(deviation)))
        raise DataError(
            f"Column {column} of {dataset.name} holds NaN, infinities or values too large to scale."
        )
    deviation[deviation < 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0
    scale = (STEPS_PER_DEVIATION / deviation).astype(np.float32)
    return InputCoding(scale, mean.astype(np.float32), TABLE_ZERO, 1.0 / STEPS_PER_DEVIATION)
