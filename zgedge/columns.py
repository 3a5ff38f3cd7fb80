"""A table's header: which cells are names, and whether it has those that a model knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

SHOWN = 4


def is_number(cell: str) -> bool:
    """Whether a cell is of a row of numbers, and no name."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def unlike(names: Sequence[str], header: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of the names of a model those that a header lacks, and those that it has more than once."""
    here = Counter(header)
    return [x for x in names if x not in here], [x for x in names if here[x] > 1]


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(map(repr, names[:SHOWN]))
    return shown + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")
