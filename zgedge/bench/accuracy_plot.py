"""The equal-bytes table as a picture: accuracy against the bytes of the file."""

from __future__ import annotations

import io
from typing import Any

from zgedge.bench.accuracy import FIXED, TITLES, Table, summary
from zgedge.budget import format_size
from zgedge.errors import UsageError
from zgedge.extras import need

# Okabe and Ito's colours, which people with any colour vision tell apart; each row has its own mark
# besides, and rows of one colour have other lines.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "p", "d", "8")
LINES = ("-", "--", ":")
FORMATS = ("png", "svg", "pdf")


def figures(kind: str, runs: bool) -> Any:
    """matplotlib's module of figures, to draw a picture in one of `FORMATS`.

    Raises UsageError for another format or where there are no `runs`, MissingExtraError without
    matplotlib.
    """
    if kind not in FORMATS:
        raise UsageError(f"A plot cannot be a .{kind}.", f"Name it .{', .'.join(FORMATS)}.")
    if not runs:
        raise UsageError("There is no run to plot.", "Let at least one end.")
    return need("matplotlib.figure", "report")


def draw(table: Table, kind: str = "png") -> bytes:
    """The bytes of a picture in one of `FORMATS`: a line for each row, over bytes on a logarithmic
    axis, with the standard deviation over the seeds as bars.

    Raises UsageError for another format or a table without a run, MissingExtraError without
    matplotlib.
    """
    records = summary(table)
    figure = figures(kind, bool(records)).Figure(figsize=(9.5, 5.5), layout="constrained")
    axis = figure.subplots()
    axis.set_xscale("log", base=2)
    # The best of the largest budget first, as the lines end on the right.
    rows = sorted(
        {record["row"] for record in records},
        key=lambda row: max((r["bytes"], r["accuracy"]) for r in records if r["row"] == row)[1],
        reverse=True,
    )
    order = list(dict.fromkeys(record["row"] for record in records))
    for row in rows:
        _line(axis, [r for r in records if r["row"] == row], order.index(row))
    sizes = sorted({record["budget"] for record in records})
    axis.set_xticks(sizes, [format_size(size) for size in sizes])
    axis.minorticks_off()
    axis.set_xlim(min(r["bytes"] for r in records) / 1.25, 1.25 * max(sizes))
    axis.set_xlabel("length of the file that predicts, activations included")
    axis.set_ylabel("test accuracy, %")
    axis.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside right upper")
    seeds = {record["seeds"] for record in records}
    of = "one seed"
    if max(seeds) > 1:
        many = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else f"{max(seeds)}"
        of = f"mean ± standard deviation of {many} seeds"
    axis.set_title(f"{table.data}: {TITLES[table.name]} ({of})", fontsize="medium")
    out = io.BytesIO()
    figure.savefig(out, format=kind, dpi=130)
    return out.getvalue()


def _line(axis: Any, records: list[dict[str, Any]], number: int) -> None:
    spread = [100 * (r["deviation"] or 0.0) for r in records]
    axis.errorbar(
        [r["bytes"] for r in records],
        [100 * r["accuracy"] for r in records],
        yerr=spread if any(spread) else None,
        label=records[0]["row"],
        color=COLOURS[number % len(COLOURS)],
        marker=MARKS[number % len(MARKS)],
        linestyle=LINES[number // len(COLOURS) % len(LINES)],
        markersize=6,
        capsize=3,
        linewidth=2.2 if records[0]["row"] == FIXED else 1.5,
    )
