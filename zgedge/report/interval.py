"""How sure a measured share is."""

from __future__ import annotations

import math

Z = 1.959964  # of 95 %


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Wilson's interval of 95 % for the share behind `right` of `rows` (1 or more), 0..1.

    Unlike a standard error it claims no certainty where all are right, or none.
    """
    share, z2 = right / rows, Z * Z
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows * rows)) / (1 + z2 / rows)
    return max(0.0, middle - half), min(1.0, middle + half)


def words(right: int, rows: int) -> str:
    """The interval as it is printed beside a share."""
    low, high = wilson(right, rows)
    return f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
