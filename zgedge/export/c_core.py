"""The core's own sources, cut down to what one network needs.

A generated program computes with the very text of `zgedge/runtime/core`: the portable kernels, of
which all that cannot be reached from the functions asked for is left out, with limits that fit the
network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zgedge.errors import ZgedgeError
from zgedge.runtime import core_library

FOLDER = Path(core_library.__file__).parent / "core"
# In the order of a program: what is declared in the first two is defined in the others.
FILES = (
    "zge.h", "zge_impl.h", "zge_kernels.c", "zge_trunk.c", "zge_model.c", "zge_analytic.c",
    "zge_pending.c", "zge_rewire.c", "zge_watch.c", "zge_guard.c", "zge_learn.c", "zge_arena.c",
)  # fmt: skip
# What a program can do without, and the macro that leaves it out.
PARTS = {
    "trunk": "ZGE_NO_TRUNK", "traces": "ZGE_NO_TRACES", "watch": "ZGE_NO_WATCH",
    "analytic": "ZGE_NO_ANALYTIC", "pending": "ZGE_NO_PENDING",
}  # fmt: skip
_UNDEFINED = re.compile(r"ZGE_(SIMD|HAVE|WITH)_\w+|ZGE_NEEDS|ZGE_VARIANT|ZGE(_IMPL)?_H|__cplusplus")
_NAME = re.compile(r"\b(?:zge|ZGE)_\w+")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_TEXT = re.compile(r'"(?:\\.|[^"\\])*"')


@dataclass
class Item:
    """A piece of a source at its outermost level, with the comment before it."""

    text: str
    comment: str = ""
    names: frozenset[str] = frozenset()
    prototype: bool = False
    uses: frozenset[str] = field(default=frozenset())


def read(name: str) -> str:
    """A source of the core. Raises ZgedgeError where this installation has none."""
    try:
        return (FOLDER / name).read_text(encoding="utf-8")
    except OSError as error:
        raise ZgedgeError(
            f"The core's source {name} is not in {FOLDER}: {error.strerror}.",
            "Install zgedge again: it comes with the package.",
        ) from error


def _bare(text: str) -> str:
    """Code without comments and texts."""
    return _TEXT.sub('""', _COMMENT.sub(" ", text))


def _condition(line: str, defined: frozenset[str]) -> bool | None:
    """Whether a conditional line holds; None where only the compiler can tell."""
    match = re.fullmatch(
        r"#\s*(?:(ifdef|ifndef)\s+(\w+)|(?:el)?if\s+(!?)defined\((\w+)\))", _bare(line).strip()
    )
    if match is None:
        return None
    name, negated = match[2] or match[4], match[1] == "ifndef" or match[3] == "!"
    if name in defined:
        return not negated
    return negated if _UNDEFINED.fullmatch(name) or name in PARTS.values() else None


def resolved(text: str, defined: frozenset[str]) -> str:
    """A source without includes and without what its conditions leave out. Conditions on the
    compiler stay."""
    out: list[str] = []
    # Of each open condition: whether its lines count, whether a branch did, whether it stays as is.
    open_: list[tuple[bool, bool, bool]] = []
    for line in text.splitlines():
        word = re.match(r"#\s*(\w+)", line)
        kind = word[1] if word else ""
        live = all(x[0] for x in open_)
        if kind in ("if", "ifdef", "ifndef"):
            holds = _condition(line, defined)
            if holds is None and live:
                out.append(line)
            open_.append((holds is not False, holds is not False, holds is None))
        elif kind in ("elif", "else", "endif"):
            _, done, kept = open_.pop()
            if kept:
                if all(x[0] for x in open_):
                    out.append(line)
                if kind != "endif":
                    open_.append((True, True, True))
            elif kind != "endif":
                holds = not done and (kind == "else" or _condition(line, defined) is True)
                open_.append((holds, done or holds, False))
        elif live and kind != "include":
            out.append(line)
    return "\n".join(out) + "\n"


def _without_empty_macros(text: str) -> str:
    """Macros of arguments that stand for nothing, and their uses, taken out."""
    for name in re.findall(r"^#define (\w+)\(\w+\)$", text, re.MULTILINE):
        text = re.sub(rf"^(#define )?\s*{name}\(\w+\)[ \\]*\n", "", text, flags=re.MULTILINE)
    return text


def _kernels() -> dict[str, str]:
    """Names of the kernels' functions, by the member of zge_kernels that points to them."""
    members = re.findall(r"\(\*(\w+)\)\(", read("zge_impl.h"))
    table = re.search(r"zge_kernels ZGE_JOIN\(.*?\) = \{(.*?)\};", read("zge_kernels.c"), re.DOTALL)
    names = [x.strip() for x in table[1].split(",")][1:] if table else []
    return dict(zip(members, names, strict=False))


def _direct(text: str) -> str:
    """Kernels called by their names instead of through the table of variants."""
    text = re.sub(r"^ *const zge_kernels \*\w+ = zge_kernels_now\(\);\n", "", text, flags=re.M)
    for member, name in _kernels().items():
        text = re.sub(rf"\b(?:k|kernels|zge_kernels_now\(\))->{member}\(", f"{name}(", text)
    return text


def _names(text: str, macros: Mapping[str, str]) -> tuple[frozenset[str], bool]:
    """What an item defines, and whether it is only a function's prototype."""
    bare = _bare(text).strip()
    if bare.startswith("#"):
        return frozenset(re.findall(r"^#\s*define (\w+)", bare, re.MULTILINE)), False
    if call := re.fullmatch(r"(\w+)\((\w+)\)", bare):  # a macro that makes a function
        made = re.findall(r"\b(\w+_)##\w+", macros[call[1]])
        return frozenset(x + call[2] for x in made), False
    head = bare.partition("{")[0]
    if bare.startswith(("typedef", "enum")):
        names = set(re.findall(r"(\w+)\s*;$", bare))
        if "enum" in head:
            names |= set(re.findall(r"\b(ZGE_\w+)\s*(?:=|,|\})", bare))
        return frozenset(names), False
    if "=" in head or "(" not in head:
        return frozenset(re.findall(r"(\w+)\s*(?:\[[^]]*\]\s*)?(?:=|;|$)", head)[:1]), False
    return frozenset(re.findall(r"(\w+)\(", head)[:1]), bare.endswith(";")


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """Comment and text of each item of a source. A comment before an empty line belongs to none."""
    comment: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("/*"):
            comment = [line]
            while "*/" not in line:
                line = next(lines)
                comment.append(line)
            continue
        if not line.strip():
            comment = []
            continue
        piece = [line]
        if line.startswith("#if"):
            depth = 1
            while depth:
                piece.append(next(lines))
                depth += piece[-1].startswith("#if") - piece[-1].startswith("#endif")
        elif line.startswith("#"):
            while piece[-1].endswith("\\"):
                piece.append(next(lines))
        elif not re.fullmatch(r"[A-Z_]+\(\w+\)", line):
            while not _whole("\n".join(piece)):
                piece.append(next(lines))
        yield "\n".join(comment), "\n".join(piece)
        comment = []


def _whole(text: str) -> bool:
    """Whether a declaration or definition ends here."""
    bare = _bare(text).rstrip()
    if bare.count("{") != bare.count("}"):
        return False
    return bare.endswith(";") or _is_function(bare)


def _is_function(text: str) -> bool:
    """Whether a whole item is a function's definition."""
    head = _bare(text).partition("{")[0]
    called = "(" in head and "=" not in head and not head.startswith("#")
    return called and _bare(text).rstrip().endswith("}")


def _items(defined: frozenset[str], limits: Mapping[str, int], kept: str) -> list[Item]:
    items = []
    for name in FILES:
        text = _direct(_without_empty_macros(resolved(read(name), defined)))
        text = text.replace("ZGE_API ", "")
        text = re.sub(r"\bZGE_KEPT ", kept, text)
        for limit, value in limits.items():
            text = re.sub(rf"^(#define {limit}) \d+u", rf"\1 {value}u", text, flags=re.MULTILINE)
        macros: dict[str, str] = {}
        for comment, piece in _pieces(text):
            names, prototype = _names(piece, macros)
            if piece.startswith("#define"):
                macros.update(dict.fromkeys(names, piece))
            uses = frozenset(_NAME.findall(_bare(piece))) - names
            if prototype or _is_function(piece):
                piece = piece if piece.startswith(("static", "ZGE_INLINE")) else f"static {piece}"
            items.append(Item(piece, comment, names, prototype, uses))
    return items


def amalgam(
    roots: Iterable[str],
    *,
    limits: Mapping[str, int],
    parts: Iterable[str],
    constant: bool,
) -> str:
    """C of all that the functions and types `roots` need, every function static.

    `limits` replaces limits of the format (ZGE_MAX_...) by those of one network; of PARTS those in
    `parts` are there, the others stay away; with `constant` nothing can write to weights.
    """
    defined = frozenset(PARTS.values()) - {PARTS[name] for name in parts}
    items = _items(defined, limits, "const " if constant else "")
    by_name: dict[str, list[Item]] = {}
    for item in items:
        for name in item.names:
            by_name.setdefault(name, []).append(item)
    wanted, todo = set(), list(roots)
    while todo:
        name = todo.pop()
        for item in by_name.get(name, ()):
            if id(item) not in wanted:
                wanted.add(id(item))
                todo.extend(item.uses)
    compiler = [x for x in items if x.text.startswith("#if") and not x.names]
    out = ""
    for item in items:
        if id(item) not in wanted and item not in compiler:
            continue
        single = item.text.startswith("#define") and "\n" not in item.text and not item.comment
        if out and not (single and out.rpartition("\n")[2].startswith("#define")):
            out += "\n"
        out += ("\n" if out else "") + (f"{item.comment}\n" if item.comment else "") + item.text
    return out + "\n"
