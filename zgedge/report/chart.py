"""Small charts made of characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def growth_chart(
    steps: Sequence[int],
    growth: Sequence[int],
    *,
    width: int,
    height: int = 5,
    least: int = 4096,
    unicode: bool = True,
    text: Callable[[int], str] = lambda n: f"{n:,}",
) -> list[str]:
    """Lines of a chart of growth (values from 0 up) over steps.

    The axis ends at the largest value or at `least`, whichever is more, so that no growth at all
    is a flat line at the bottom. `text` writes the values of the axis. Without `unicode` a column
    is drawn with '#' and '|'.
    """
    top = max(least, *growth)
    labels = [f"+{text(top)}", f"+{text(0)}"]
    margin = max(map(len, labels))
    columns = max(8, width - margin - 2)
    first, last = steps[0], steps[-1]
    most = [0] * columns
    for step, value in zip(steps, growth, strict=True):
        at = min(columns - 1, (step - first) * columns // max(1, last - first))
        most[at] = max(most[at], value)
    filled = {min(columns - 1, (s - first) * columns // max(1, last - first)) for s in steps}
    for at in range(1, columns):  # a column between two readings shows the earlier one
        if at not in filled:
            most[at] = most[at - 1]
    lines = []
    for row in range(height, 0, -1):
        cells = []
        for value in most:
            eighths = round(value / top * height * 8) - (row - 1) * 8
            if unicode:
                cells.append(_EIGHTHS[min(8, max(0, eighths))])
            else:
                cells.append("#" if eighths >= 4 else " ")
        label = labels[0] if row == height else ""
        edge = "┤" if unicode and label else "│" if unicode else "|"
        lines.append(f"{label:>{margin}} {edge}{''.join(cells)}".rstrip())
    floor = ("┼" + "─" * columns) if unicode else ("+" + "-" * columns)
    lines.append(f"{labels[1]:>{margin}} {floor}")
    ends = f"{first:,}".ljust(columns - len(f"{last:,}")) + f"{last:,}"
    lines.append(" " * (margin + 2) + ends)
    return lines
