"""Charts as inline SVG. They take their colours from the page's style sheet, so that they follow
its theme; a value can be read by resting on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zgedge.report.page_html import Html, join, tag

WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 14, 38
MOST_POINTS = 240  # that can be rested on


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` with its ticks; `text` writes a value."""

    low: float
    high: float
    ticks: tuple[float, ...]
    text: Callable[[float], str]


def plain(value: float) -> str:
    """A number as short as it can be: 1,500, 0.25."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.3g}"


def axis(
    values: Sequence[float],
    text: Callable[[float], str] = plain,
    *,
    zero: bool = False,
    whole: bool = False,
    most: float = math.inf,
) -> Axis:
    """An axis around values, its ticks at round numbers; with `zero` it starts or ends there."""
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-12:
        high = low + (1.0 if whole else max(abs(low) * 0.1, 0.1))
        if high > most:
            low, high = most - (high - low), most
    raw = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(i * step for i in range(first, last + 1) if i * step <= most + 1e-9)
    return Axis(ticks[0], max(ticks[-1], min(high, most)), ticks, text)


class Plot:
    """A frame with two axes, into which marks are put in the values' own units."""

    def __init__(self, x: Axis, y: Axis, height: int = HEIGHT) -> None:
        self.x, self.y, self.height = x, y, height
        self.marks: list[Html] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value is in the picture."""
        across = (x - self.x.low) / (self.x.high - self.x.low)
        up = (y - self.y.low) / (self.y.high - self.y.low)
        bottom = self.height - BOTTOM
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(bottom - up * (bottom - TOP), 1),
        )

    def line(self, xs: Sequence[float], ys: Sequence[float], kind: str, name: str) -> None:
        points = [self.at(x, y) for x, y in zip(xs, ys, strict=True)]
        path = " ".join(f"{x},{y}" for x, y in points)
        self.marks.append(tag("polyline", points=path, class_=f"line {kind}"))
        every = -(-len(points) // MOST_POINTS)
        for i, (x, y) in enumerate(points):
            if i % every == 0 or i == len(points) - 1:
                said = f"{name} {self.x.text(xs[i])}: {self.y.text(ys[i])}"
                dot = "dot" if len(points) <= 30 else "dot far"
                self.marks.append(
                    tag("circle", tag("title", said), cx=x, cy=y, r=3, class_=f"{dot} {kind}")
                )

    def bar(self, left: float, right: float, low: float, high: float, kind: str, said: str) -> None:
        x0, y0 = self.at(left, high)
        x1, y1 = self.at(right, low)
        gap = min(1.0, (x1 - x0) * 0.15)
        box = {"x": x0, "y": y0, "width": round(max(0.4, x1 - x0 - gap), 1)}
        height = round(max(0.4, y1 - y0), 1)
        self.marks.append(
            tag("rect", tag("title", said), **box, height=height, class_=f"fill {kind}")
        )

    def upright(self, x: float, label: str) -> None:
        """A dashed line at x, with its name at the top."""
        px, _ = self.at(x, self.y.low)
        end = px > WIDTH * 0.6
        self.marks.append(
            tag("line", x1=px, x2=px, y1=TOP, y2=self.height - BOTTOM, class_="guide")
        )
        self.marks.append(
            tag(
                "text", label, x=px - 5 if end else px + 5, y=TOP + 9,
                text_anchor="end" if end else "start",
            )
        )  # fmt: skip

    def draw(self, alt: str, x_label: str, y_label: str) -> Html:
        bottom = self.height - BOTTOM
        frame = []
        for value in self.y.ticks:
            _, y = self.at(self.x.low, value)
            kind = "zero" if value == 0 else "grid"
            frame.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_=kind))
            frame.append(tag("text", self.y.text(value), x=LEFT - 7, y=y + 3.5, text_anchor="end"))
        for value in self.x.ticks:
            x, _ = self.at(value, self.y.low)
            anchor = "end" if x > WIDTH - RIGHT - 8 else "middle"
            frame.append(tag("text", self.x.text(value), x=x, y=bottom + 15, text_anchor=anchor))
        middle = (LEFT + WIDTH - RIGHT) / 2
        frame.append(
            tag("text", x_label, x=middle, y=self.height - 6, text_anchor="middle", class_="name")
        )
        inside = join([*frame, *self.marks])
        drawn = tag(
            "svg", inside, viewBox=f"0 0 {WIDTH} {self.height}", role="img", aria_label=alt,
            class_="chart",
        )  # fmt: skip
        return join([tag("p", y_label, class_="y"), drawn])


def columns(
    values: Sequence[float], alt: str, x_label: str, y_label: str, names: Sequence[str],
    others: Sequence[float] | None = None, other_name: str = "before",
) -> Html:  # fmt: skip
    """A column for each value, and where `others` are given a line at the height of each."""
    top = [*values, *(others or ())]
    plot = Plot(axis([0, len(values)], whole=True), axis(top, zero=True), HEIGHT)
    plot.x = Axis(0, len(values), tuple(t for t in plot.x.ticks if t < len(values)), plain)
    for i, value in enumerate(values):
        said = f"{names[i]}: {plain(value)}"
        if others is not None:
            said += f", {other_name} {plain(others[i])}"
        low, high = min(0.0, value), max(0.0, value)
        plot.bar(i + 0.08, i + 0.92, low, high, "blue" if value >= 0 else "orange", said)
    if others is not None:
        for i, value in enumerate(others):
            (x0, y), (x1, _) = plot.at(i, value), plot.at(i + 1, value)
            plot.marks.append(tag("line", x1=x0, x2=x1, y1=y, y2=y, class_="line ink"))
    return plot.draw(alt, x_label, y_label)
