"""The tables of continual learning as one picture: a panel a stream, a line a row."""

from __future__ import annotations

import io
import statistics
from typing import Any

from zgedge.bench import contenders
from zgedge.bench.accuracy_plot import COLOURS, LINES, MARKS, figures
from zgedge.bench.continual import Run, Table, over_tasks


def points(runs: list[Run]) -> tuple[list[float], list[float]]:
    """What a line goes through: tasks or samples met, and the mean accuracy in percent."""
    if runs[0].curve:
        met = [point[0] for point in runs[0].curve]
        each = [[point[1] for point in run.curve] for run in runs]
    else:
        each = [over_tasks(run) for run in runs]
        tasks = len(runs[0].matrix) - 1
        met = [float(tasks - len(each[0]) + 1 + i) for i in range(len(each[0]))]
    return met, [100 * statistics.fmean(values) for values in zip(*each, strict=True)]


def draw(table: Table, kind: str = "png") -> bytes:
    """The bytes of a picture in one of `FORMATS`.

    Raises UsageError for another format or a table without a run, MissingExtraError without
    matplotlib.
    """
    names = [name for name in table.streams if table.rows(name)]
    module = figures(kind, bool(names))
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure = module.Figure(figsize=(max(6.5, 4.3 * across), 3.5 * down + 0.9), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    order = list(dict.fromkeys(row for name in names for row in table.rows(name)))
    shown: dict[str, Any] = {}
    for panel, name in zip(panels, names, strict=False):
        for row in table.rows(name):
            met, accuracy = points(table.of(name, row))
            i = order.index(row)
            (shown[row],) = panel.plot(
                met, accuracy, color=COLOURS[i % len(COLOURS)],
                marker=MARKS[(i + i // 7) % len(MARKS)],
                linestyle=LINES[(i + 2 * (i // 7)) % len(LINES)], markersize=4,
                linewidth=2.2 if row == contenders.WEIGHTS else 1.3,
            )  # fmt: skip
        shift = bool(table.of(name, table.rows(name)[0])[0].curve)
        panel.set_title(name, fontsize="medium")
        panel.set_xlabel("labelled samples since the change" if shift else "tasks learned")
        if not shift:
            panel.locator_params(axis="x", integer=True)
        panel.set_ylabel("test accuracy, %")
        panel.grid(alpha=0.3)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.legend(
        [shown[row] for row in order], order, loc="outside lower center", ncols=min(5, len(order)),
        frameon=False,
    )  # fmt: skip
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=110)
    return out.getvalue()
