"""A terminal to print on: rich where it is installed, plain text where it is not (on a device).

The text is the same on both; rich adds colour, and nothing is said by colour alone.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Protocol

WIDEST = 100
NARROWEST = 20  # of a column of words


def clean(text: str) -> str:
    """Text that cannot steer a terminal: names in a file are a stranger's."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def counted(n: int, one: str) -> str:
    """So many of what has a plain plural."""
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"


class Screen(Protocol):
    """What both kinds of terminal can do. `style` is a rich style such as "bold green"."""

    width: int

    def line(self, text: str = "", style: str = "") -> None:
        """One line, never broken."""

    def spans(self, spans: Iterable[tuple[str, str]]) -> None:
        """One line made of pairs (text, style)."""


class Plain:
    """Text without colour."""

    def __init__(self) -> None:
        self.width = min(WIDEST, shutil.get_terminal_size((80, 24)).columns)

    def line(self, text: str = "", style: str = "") -> None:
        self.spans([(text, style)])

    def spans(self, spans: Iterable[tuple[str, str]]) -> None:
        sys.stdout.write("".join(clean(text) for text, _ in spans).rstrip() + "\n")
        sys.stdout.flush()


class Rich:
    """Text in colour where the terminal has colours. Raises ImportError without rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.text import Text

        class Terminal(Console):
            def on_broken_pipe(self) -> None:
                raise  # as from plain text, for whoever printed; rich would end the process

        self._console = Terminal(highlight=False, markup=False, emoji=False)
        self._text = Text
        self.width = min(WIDEST, self._console.width)

    def line(self, text: str = "", style: str = "") -> None:
        self.spans([(text, style)])

    def spans(self, spans: Iterable[tuple[str, str]]) -> None:
        spans = [(clean(text), style) for text, style in spans]
        while spans and not spans[-1][0].rstrip():
            spans.pop()
        if spans:
            spans[-1] = (spans[-1][0].rstrip(), spans[-1][1])
        self._console.print(self._text.assemble(*spans), soft_wrap=True)


def screen() -> Screen:
    """The terminal of this process."""
    try:
        return Rich()
    except ImportError:
        return Plain()


def table(
    out: Screen,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[int] = (),
    indent: int = 2,
) -> None:
    """Print columns under their heads; those numbered in `right` are flush right.

    The last column is broken into lines between words where it would leave the screen.
    """
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    start = indent + sum(widths[:-1]) + 2 * len(widths[:-1])
    room = max(NARROWEST, out.width - start)

    def text(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return " " * indent + "  ".join(cells)

    if any(heads):
        out.line(text(heads), "bold")
    for row in rows:
        first, *more = textwrap.wrap(row[-1], room, break_long_words=False) or [""]
        if (len(heads) - 1) in right:
            first, more = row[-1], []
        out.line(text([*row[:-1], first]))
        for line in more:
            out.line(" " * start + line)
