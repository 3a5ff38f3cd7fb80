"""Every field stands where the core and Python both think it stands; a C program says where.

Also the error table: the core's numbers, its texts and Python's constants, entry by entry.
"""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
import zlib

import numpy as np
import pytest

from tests.attacks.conftest import CORE
from zgedge import arena
from zgedge.runtime import core_library as core

# The core's names of the fields of Python's structures, in order.
FIELDS = {
    "H": (arena._HEADER, "MAGIC VERSION SECTIONS BYTES ALIGN GENERATION CHECKSUM FLAGS RESERVED"),
    "T": (arena._ENTRY, "KIND FLAGS OFFSET BYTES CHECKSUM"),
    "N": (
        arena._NET,
        "INPUTS CLASSES LAYERS GROUPS HEIGHT WIDTH CHANNELS TASK BATCH UNKNOWN REPLAY REPLAY_BITS "
        "FLAGS BUDGET SEED STEPS ACCURACY SAMPLES REPLAY_POOL HEAD KNOWN",
    ),
    "L": (arena._LAYER, "KIND BLOCK RESIDUAL Z_IN INPUTS OUTPUTS WIDTH S_IN S_W S_OUT RESERVED"),
    "P": (
        arena._TRUNK,
        "KIND KERNEL RESIDUAL Z_IN INPUTS OUTPUTS TAPS S_IN S_W S_OUT STRIDE SAME ADD ZERO",
    ),
    "K": (
        arena._LEARNER,
        "STEP SAMPLES REWIRED CLAMPED KEY CURSOR RATE LEARN STRATEGY SWAPS KEEP GATHER GATHERED "
        "FILLED ACTIVITY CORRECT",
    ),
    "G": (arena._ANCHORS, "ROOM FILLED CURSOR TRIED"),
    "D": (arena._DETECTOR, "SEEN HELD TOTAL SUM ZERO"),
}
FIELDS["WAIT"] = (arena._PENDING, "DROPPED UNKNOWN HELD ENTRIES RESERVED")
STRUCTURES = {"zge_fault": core.Fault, "zge_tick": core.Tick, "zge_config": core.Config}


@pytest.fixture(scope="module")
def probe(cc: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What a C program says of every field's offset, every structure and every size."""
    names = [f"ZGE_{p}_{f}" for p, (_, fields) in FIELDS.items() for f in [*fields.split(), "SIZE"]]
    for name, structure in STRUCTURES.items():
        names.append(f"sizeof({name})")
        names += [f"offsetof({name}, {field[0]})" for field in structure._fields_]
    names += ["sizeof(zge_model)", "ZGE_KL_WEIGHT", "ZGE_KL_BIAS", "ZGE_VERSION"]
    names += [f"(int)zge_crc32(0, data, {n})" for n in CRC_LENGTHS]
    folder = tmp_path_factory.mktemp("probe")
    source = folder / "probe.c"
    lines = "".join(f'    printf("{name}=%lld\\n", (long long)({name}));\n' for name in names)
    data = ", ".join(map(str, CRC_DATA))
    source.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "zge_impl.h"\n'
        f"static const uint8_t data[] = {{{data}}};\nint main(void) {{\n{lines}}}\n"
    )
    program = folder / "probe"
    units = [str(path) for path in sorted(CORE.glob("*.c"))]
    command = [cc, "-std=gnu11", "-DZGE_VARIANT=portable", f"-I{CORE}", str(source), *units]
    subprocess.run([*command, "-o", str(program)], check=True)
    out = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in (line.split("=") for line in out.splitlines())}


CRC_DATA = np.random.default_rng(0).integers(0, 256, 1025).tolist()
CRC_LENGTHS = (0, 1, 2, 3, 4, 5, 63, 64, 65, 1025)


@pytest.mark.parametrize("prefix", FIELDS)
def test_fields_of_a_file_stand_where_the_core_reads_them(
    probe: dict[str, int], prefix: str
) -> None:
    structure, fields = FIELDS[prefix]
    kinds = re.findall(r"\d*[a-zA-Z]", structure.format.removeprefix("<"))
    names = fields.split()  # reserved bytes are padding to Python and fields to the core
    assert len(kinds) == len(names)
    at = 0
    for kind, name in zip(kinds, names, strict=True):
        assert probe[f"ZGE_{prefix}_{name}"] == at, name
        at += struct.calcsize("<" + kind)
    assert at == structure.size == probe[f"ZGE_{prefix}_SIZE"]


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_of_a_call_are_the_same_on_both_sides(probe: dict[str, int], name: str) -> None:
    structure = STRUCTURES[name]
    assert ctypes.sizeof(structure) == probe[f"sizeof({name})"]
    for field in structure._fields_:
        assert getattr(structure, field[0]).offset == probe[f"offsetof({name}, {field[0]})"]
    header = (CORE / "zge.h").read_text()
    body = re.search(rf"typedef struct {name} {{(.*?)}} {name};", header, re.S)
    assert body is not None
    text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.S)
    declared = [n.strip() for line in text.split(";") if line.strip()
                for n in line.split(None, 1)[1].split(",")]  # fmt: skip
    assert declared == [field[0] for field in structure._fields_]


def test_library_is_the_one_of_the_header(probe: dict[str, int]) -> None:
    assert core.lib.zge_model_bytes() == probe["sizeof(zge_model)"]
    assert core.lib.zge_version() == probe["ZGE_VERSION"]


def test_checksum_is_that_of_zlib(probe: dict[str, int]) -> None:
    for n in CRC_LENGTHS:
        expected = zlib.crc32(bytes(CRC_DATA[:n]))
        assert probe[f"(int)zge_crc32(0, data, {n})"] & 0xFFFFFFFF == expected, n


# Written out once more: an entry that changes its number or its meaning must change here too.
STATUSES = {
    "OK": (0, "done"),
    "E_ARGUMENT": (-1, "argument"), "E_MAGIC": (-2, "not a zge file"), "E_VERSION": (-3, "version"),
    "E_SIZE": (-4, "cut short or has bytes too many"), "E_CHECKSUM": (-5, "checksum"),
    "E_SECTION": (-6, "section"), "E_SHAPE": (-7, "size"), "E_KIND": (-8, "of a kind"),
    "E_INDEX": (-9, "points outside"), "E_DUPLICATE": (-10, "connected twice"),
    "E_SCALE": (-11, "scale, bias or weight"), "E_STATE": (-12, "learner's state"),
    "E_ALIGN": (-13, "multiple of 8 bytes"), "E_INPUT": (-14, "NaN or an infinity"),
    "E_LABEL": (-15, "label"), "E_NO_LEARNING": (-16, "without what learning needs"),
    "E_VARIANT": (-17, "kernel variant"), "E_NO_GUARD": (-18, "no anchors"),
    "E_ROOM": (-19, "no room was planned"), "E_NAME": (-20, "class name"),
    "E_ID": (-21, "waits for its label"),
}  # fmt: skip


def test_every_status_of_the_header_is_in_the_table() -> None:
    found = re.findall(r"\bZGE_(OK|E_\w+) = (-?\d+)", (CORE / "zge.h").read_text())
    assert {name: int(number) for name, number in found} == {k: v[0] for k, v in STATUSES.items()}


@pytest.mark.parametrize("name", STATUSES)
def test_status_means_the_same_everywhere(name: str) -> None:
    number, words = STATUSES[name]
    assert words in core.status_text(number)
    assert getattr(core, name, number) == number


def test_no_two_statuses_have_one_text() -> None:
    assert len({core.status_text(number) for number, _ in STATUSES.values()}) == len(STATUSES)


def test_hints_are_for_statuses_of_a_file() -> None:
    assert set(core.HINTS) <= {number for number, _ in STATUSES.values() if -14 < number < -1}


@pytest.mark.parametrize("number", [1, -22, -99, 2**31 - 1, -(2**31)])
def test_number_that_is_no_status_has_a_text_too(number: int) -> None:
    assert core.status_text(number) == "unknown status"
