"""Symbols of ELF objects, archives of them and shared libraries, of any processor.

After the System V ABI, chapter 4 (object files), and ar(5); little-endian only. The `nm` of a
machine may know its own processor's files only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

SYMTAB, DYNSYM = 2, 11
UNDEFINED = 0
LOCAL, GLOBAL, WEAK = 0, 1, 2
DEFAULT = 0


@dataclass(frozen=True)
class Symbol:
    """A name, whether something else must define it, whether that may be missing, and whether
    other files see it."""

    name: str
    undefined: bool
    weak: bool
    exported: bool


def members(archive: bytes) -> dict[str, bytes]:
    """Files of an archive, by their names; two of one name get a number."""
    if not archive.startswith(b"!<arch>\n"):
        raise ValueError("not an archive")
    out: dict[str, bytes] = {}
    long_names = b""
    at = 8
    while at < len(archive):
        name = archive[at : at + 16].decode().strip()
        size = int(archive[at + 48 : at + 58])
        data = archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
        if name == "//":
            long_names = data
        elif name not in ("/", "/SYM64/"):
            if name[0] == "/" and name[1:].isdigit():
                name = long_names[int(name[1:]) :].split(b"\n", 1)[0].decode()
            name = name.rstrip("/")
            out[f"{name} {len(out)}" if name in out else name] = data
    return out


def symbols(elf: bytes, table: int = SYMTAB) -> list[Symbol]:
    """Global symbols of an object (SYMTAB) or a shared library (DYNSYM)."""
    if elf[:4] != b"\x7fELF" or elf[5] != 1:
        raise ValueError("not a little-endian ELF file")
    wide = elf[4] == 2
    if wide:
        (start,) = struct.unpack_from("<Q", elf, 0x28)
        entry, count = struct.unpack_from("<HH", elf, 0x3A)
    else:
        (start,) = struct.unpack_from("<I", elf, 0x20)
        entry, count = struct.unpack_from("<HH", elf, 0x2E)
    headers = []
    for i in range(count):
        at = start + i * entry
        form = "<IIQQQQIIQQ" if wide else "<IIIIIIIIII"
        _, kind, _, _, offset, size, link, _, _, item = struct.unpack_from(form, elf, at)
        headers.append((kind, offset, size, link, item))
    out = []
    for kind, offset, size, link, item in headers:
        if kind != table:
            continue
        names = headers[link][1]
        for at in range(offset + item, offset + size, item):
            if wide:
                name, info, other, section = struct.unpack_from("<IBBH", elf, at)
            else:
                name, _, _, info, other, section = struct.unpack_from("<IIIBBH", elf, at)
            if info >> 4 in (GLOBAL, WEAK):
                text = elf[names + name : elf.index(b"\0", names + name)].decode()
                undefined = section == UNDEFINED
                exported = not undefined and other & 3 == DEFAULT
                out.append(Symbol(text, undefined, info >> 4 == WEAK, exported))
    return out


def wanted(path: Path) -> dict[str, bool]:
    """What a file needs of others: names, and whether each may be missing (weak)."""
    data = path.read_bytes()
    parts = (
        [symbols(x) for x in members(data).values()]
        if data.startswith(b"!<arch>")
        else [symbols(data, DYNSYM)]
    )
    defined = {x.name for part in parts for x in part if not x.undefined}
    return {x.name: x.weak for part in parts for x in part if x.undefined and x.name not in defined}


def offered(path: Path) -> set[str]:
    """Names that a file shows to others."""
    data = path.read_bytes()
    if data.startswith(b"!<arch>"):
        return {x.name for part in members(data).values() for x in symbols(part) if x.exported}
    return {x.name for x in symbols(data, DYNSYM) if x.exported}
