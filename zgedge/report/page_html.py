"""Markup for the report: everything that is not markup already is escaped when it is put in.

Names of classes, inputs and files are a stranger's, so escaping is not left to the one who writes a
section: a child of `tag` is `Html`, which only `tag` and `join` make, or it is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from zgedge.report.screen import clean

_VOID = frozenset(("img", "meta", "br", "col"))
LONGEST_NAME = 48


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. `class_` is the attribute class, `_` in a name is `-`; None leaves it out."""
    written = [name]
    for key, value in attributes.items():
        if value is not None:
            quoted = html.escape(clean(str(value)))
            written.append(f'{key.rstrip("_").replace("_", "-")}="{quoted}"')
    opened = f"<{' '.join(written)}>"
    return Html(opened if name in _VOID else f"{opened}{join(children)}</{name}>")


def join(children: Iterable[object], between: str = "") -> Html:
    """Children one after the other, escaped where they are not markup."""
    return Html(between.join(_escaped(child) for child in children if child is not None))


def _escaped(child: object) -> str:
    return child if isinstance(child, Html) else html.escape(clean(str(child)))


def short(text: str, most: int = LONGEST_NAME) -> str:
    """A name cut to `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def shorter(text: str, most: int, head: int | None = None) -> str:
    """A file's name or path cut to `most` characters, its end kept: there files of one folder
    differ. `head` are the first ones that are kept; half of all, where it is not given."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2 if head is None else head
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def name(text: str, most: int = LONGEST_NAME) -> Html:
    """A stranger's name: set apart, so that its direction of writing stays its own."""
    return tag("bdi", short(text, most), title=short(text, 200) if len(text) > most else None)


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage; only all is 100 %, and only none is 0 %."""
    shown = f"{100 * share:.{digits}f}"
    if share < 1 and float(shown) >= 100:
        return f"> {100 - 10**-digits:.{digits}f} %"
    if share > 0 and float(shown) == 0:
        return f"< {10**-digits:.{digits}f} %"
    return f"{shown} %"


def count(n: int, one: str, many: str | None = None) -> str:
    """A number and its noun: 1 class, 2 classes."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def bar(share: float, kind: str = "blue") -> Html:
    """A bar in a table's cell; its number stands beside it, so it is silent."""
    inner = tag("span", class_=kind, style=f"width:{100 * max(0.0, min(1.0, share)):.2f}%")
    return tag("span", inner, class_="bar", aria_hidden="true")


def table(
    caption: object,
    heads: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[int] = (),
    class_: str | None = None,
) -> Html:
    """A table; its first column names the row, columns in `right` hold numbers."""

    def cell(i: int, value: object) -> Html:
        kind = "num" if i in right else None
        return tag("th", value, scope="row") if i == 0 else tag("td", value, class_=kind)

    head = join(
        tag("th", h, scope="col", class_="num" if i in right else None) for i, h in enumerate(heads)
    )
    body = join(tag("tr", *(cell(i, value) for i, value in enumerate(row))) for row in rows)
    whole = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", head)),
        tag("tbody", body),
        class_=class_,
    )
    return scroll(whole, str(caption))


def scroll(inside: object, label: str) -> Html:
    """What may be wider than a phone scrolls by itself, also from the keyboard."""
    return tag("div", inside, class_="scroll", tabindex=0, role="region", aria_label=label)


def figure(inside: object, caption: object = None, class_: str | None = None) -> Html:
    told = None if caption is None else tag("figcaption", caption)
    return tag("figure", inside, told, class_=class_)


def note(*children: object) -> Html:
    """A quiet line of explanation."""
    return tag("p", *children, class_="note")


def missing(what: str, command: str) -> Html:
    """What the page does not show, and the command that would."""
    return tag("p", f"{what} ", tag("code", command), class_="missing")
