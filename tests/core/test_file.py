"""Every way in which a file can be wrong has its error, and no wrong file is opened.

Files are made wrong in one place and signed again, so that what refuses them is the check meant and
not a checksum.
"""

from __future__ import annotations

import re
import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from zgedge import Model, ModelError, arena
from zgedge import network as net
from zgedge.errors import ZgedgeError
from zgedge.network import Network, conv, dense, depthwise, max_pool, sparse
from zgedge.runtime import core_library as core

CORE = Path(core.__file__).parent / "core"
LEARNING = nets.network(
    (1, 24, 1), (sparse(24, 9, 5),), 4, replay_samples=3, replay_bits=4, batch=4
)
BLOCKS = nets.network((1, 24, 1), (sparse(24, 6, 8, 4),), 3, batch=2)
PLAIN = nets.network((1, 16, 1), (dense(16, 5),), 3).for_inference()
TABLE = nets.network((1, 7, 1), (dense(7, 5),), 3, groups=7, batch=1)
TRUNK = nets.network(
    (4, 3, 2), (sparse(6, 3, 2),), 2, batch=2, replay_samples=2, replay_bits=4,
    trunk=(conv((4, 3, 2), 3), depthwise((4, 3, 3), 1, add=1), max_pool((4, 3, 3), same=False)),
)  # fmt: skip
FILES = {"trunk": TRUNK, "learning": LEARNING, "blocks": BLOCKS, "plain": PLAIN, "table": TABLE}

MAGIC, VERSION, SIZE, CHECKSUM, SECTION, SHAPE, KIND, INDEX, DUPLICATE, SCALE, STATE, ALIGN = range(
    -2, -14, -1
)


def _refused(data: bytes | bytearray) -> int:
    with pytest.raises(ModelError) as e:
        Model(nets.buffer(bytes(data)), "bad.zge")
    assert "bad.zge" in str(e.value)
    assert e.value.exit_code == 4
    assert e.value.status is not None
    return e.value.status


def _offset(data: bytes, kind: int) -> int:
    return arena.Arena(nets.buffer(data)).offsets[kind][0]


def _changed(
    network: Network, change: Callable[[bytearray, Callable[[int], int]], None]
) -> bytearray:
    data = bytearray(nets.file(network))
    pristine = bytes(data)
    change(data, lambda kind: _offset(pristine, kind))
    arena.sign(memoryview(data))
    return data


def test_files_open_as_they_are() -> None:
    for network in FILES.values():
        assert Model(nets.buffer(nets.file(network))).arena.network == network


@pytest.mark.parametrize(
    "data", [b"", b"\x89ZG", b"PK\x03\x04" * 100, b"\0" * 4096, b"\x7fELF" * 50]
)
def test_not_a_zge_file(data: bytes) -> None:
    assert _refused(data) == MAGIC


@pytest.mark.parametrize("name", FILES)
def test_cut_at_any_byte(name: str) -> None:
    data = nets.file(FILES[name])
    for length in range(len(data)):
        assert _refused(data[:length]) in (MAGIC, SIZE), length


@pytest.mark.parametrize("more", [1, 7, 4096])
def test_bytes_too_many(more: int) -> None:
    assert _refused(nets.file(PLAIN) + b"\0" * more) == SIZE


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("more", [1, 8, 64])
def test_bytes_behind_the_last_section_that_the_header_counts(name: str, more: int) -> None:
    data = bytearray(nets.file(FILES[name]) + b"\0" * more)
    struct.pack_into("<I", data, 8, len(data))
    arena.sign(memoryview(data))
    assert _refused(data) == SECTION


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed(name: str) -> None:
    buffer = nets.buffer(nets.file(FILES[name]))
    handle = np.zeros(core.lib.zge_model_bytes() + 64, np.uint8)
    opened = []
    for at in range(len(buffer)):
        for bit in range(8):
            buffer[at] ^= 1 << bit
            status = core.lib.zge_model_open(
                handle.ctypes.data, buffer.ctypes.data, len(buffer), None
            )
            if status == core.OK:
                opened.append((at, bit))
            buffer[at] ^= 1 << bit
    assert opened == []


@pytest.mark.parametrize("version", [0, 2, 65_535])
def test_version_that_is_not_read(version: int) -> None:
    data = _changed(PLAIN, lambda d, _: struct.pack_into("<H", d, 4, version))
    assert _refused(data) == VERSION


@pytest.mark.parametrize("size", [0, 47, 48, 2**31, 2**32 - 1])
def test_size_field_that_lies(size: int) -> None:
    data = bytearray(nets.file(PLAIN))
    struct.pack_into("<I", data, 8, size)
    assert _refused(data) == SIZE


@pytest.mark.parametrize("count", [0, 19, 255, 65_535])
def test_number_of_sections_that_lies(count: int) -> None:
    data = bytearray(nets.file(PLAIN))
    struct.pack_into("<H", data, 6, count)
    assert _refused(data) == SECTION


ENTRY = net.HEADER_BYTES  # the first entry of the table


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (ENTRY, "<H", 0), (ENTRY, "<H", 12), (ENTRY, "<H", 13), (ENTRY, "<H", 999),
        (ENTRY, "<H", net.NAMES),  # twice
        (ENTRY + 2, "<H", 1),
        (12, "<I", 0), (12, "<I", 4), (12, "<I", 24), (12, "<I", 128), (12, "<I", 2**32 - 1),
        (28, "<I", 2), (32, "<I", 1), (44, "<I", 1),
    ],
    ids=["kind-0", "anchors", "kind-13", "kind-999", "twice", "entry-flags", "align-0", "align-4",
         "align-24", "align-128", "align-max", "flags", "reserved", "reserved-end"],
)  # fmt: skip
def test_table_or_header_that_means_nothing(at: int, form: str, value: int) -> None:
    assert _refused(_changed(PLAIN, lambda d, _: struct.pack_into(form, d, at, value))) == SECTION


def _unsigned(network: Network, at: int, value: int) -> int:
    """A field of the table changed; only the head is signed, sections may be anywhere."""
    data = bytearray(nets.file(network))
    struct.pack_into("<I", data, at, value)
    struct.pack_into("<I", data, 24, 0)
    sections = struct.unpack_from("<H", data, 6)[0]
    head = data[: net.HEADER_BYTES + net.ENTRY_BYTES * sections]
    struct.pack_into("<I", data, 24, zlib.crc32(head))
    return _refused(data)


@pytest.mark.parametrize("field", [4, 8], ids=["offset", "bytes"])
@pytest.mark.parametrize("value", [0, 1, 7, 48, 2**16, 2**31, 2**32 - 8, 2**32 - 1])
def test_section_that_leaves_the_file_or_overlaps(field: int, value: int) -> None:
    for entry in range(len(list(LEARNING.sections()))):
        at = net.HEADER_BYTES + entry * net.ENTRY_BYTES + field
        assert _unsigned(LEARNING, at, value) in (SECTION, CHECKSUM), entry


def test_padding_that_is_not_zero() -> None:
    network = nets.network((1, 24, 1), (sparse(24, 9, 5),), 4, align=64)
    data = bytearray(nets.file(network))
    ends = [offset + size for _, offset, size in network.sections()]
    starts = [offset for _, offset, _ in network.sections()]
    gap = next(end for end, start in zip(ends, starts[1:], strict=False) if start > end)
    data[gap] = 1
    assert _refused(data) == CHECKSUM


NET_FIELDS = {
    "inputs": 0, "classes": 4, "layers": 6, "groups": 8, "height": 12, "width": 16,
    "channels": 20, "task": 22, "batch": 24, "replay": 28, "replay-bits": 32,
}  # fmt: skip


@pytest.mark.parametrize("value", [0, 3, 255, 65_535, 2**31, 2**32 - 1])
@pytest.mark.parametrize("field", NET_FIELDS)
def test_network_shape_that_lies(field: str, value: int) -> None:
    wide = field in ("inputs", "groups", "height", "width", "replay")
    if (not wide and value > 65_535) or (field == "task" and value == 0):
        return
    at = NET_FIELDS[field]

    def change(d: bytearray, where: Callable[[int], int]) -> None:
        now = struct.unpack_from("<I" if wide else "<H", d, where(net.NET) + at)[0]
        new = value if value != now else value + 1
        struct.pack_into("<I" if wide else "<H", d, where(net.NET) + at, new)

    assert _refused(_changed(LEARNING, change)) in (SHAPE, SECTION, STATE)


LAYER_FIELDS = {"block": 1, "residual": 2, "inputs": 4, "outputs": 8, "width": 12, "reserved": 28}


@pytest.mark.parametrize("value", [0, 2, 3, 200, 2**16, 2**31, 2**32 - 1])
@pytest.mark.parametrize("field", LAYER_FIELDS)
@pytest.mark.parametrize("layer", [0, 1])
def test_layer_shape_that_lies(layer: int, field: str, value: int) -> None:
    small = field in ("block", "residual")
    if (small and value > 255) or (field == "reserved" and value == 0):
        return

    def change(d: bytearray, where: Callable[[int], int]) -> None:
        at = where(net.NET) + net.NET_BYTES + layer * net.LAYER_BYTES + LAYER_FIELDS[field]
        now = d[at] if small else struct.unpack_from("<I", d, at)[0]
        new = value if value != now else value + 1
        struct.pack_into("<B" if small else "<I", d, at, new)

    assert _refused(_changed(LEARNING, change)) in (SHAPE, SECTION)


@pytest.mark.parametrize(
    ("network", "at", "form", "value"),
    [(LEARNING, net.NET_BYTES + net.LAYER_BYTES + 3, "<B", 1), (LEARNING, 26, "<H", 32_769),
     (PLAIN, 24, "<H", 2), (PLAIN, 28, "<I", 5), (LEARNING, 32, "<H", 0), (PLAIN, 32, "<H", 4)],
    ids=["zero-point-of-hidden", "unknown", "batch-without-learning", "replay-without-learning",
         "replay-of-no-bits", "bits-of-no-replay"],
)  # fmt: skip
def test_shape_that_only_some_files_have(network: Network, at: int, form: str, value: int) -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        struct.pack_into(form, d, where(net.NET) + at, value)

    assert _refused(_changed(network, change)) == SHAPE


def test_height_width_and_channels_whose_product_is_right_modulo_2_to_the_64() -> None:
    shape = (22_871_553, 644_348_652, 60_082)
    assert shape[0] * shape[1] * shape[2] % 2**64 == LEARNING.inputs

    def change(d: bytearray, where: Callable[[int], int]) -> None:
        struct.pack_into("<IIH", d, where(net.NET) + 12, *shape)

    assert _refused(_changed(LEARNING, change)) == SHAPE


@pytest.mark.parametrize("kind", [0, 3, 16, 21, 32, 255])
def test_layer_kind_that_is_not_run(kind: int) -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        d[where(net.NET) + net.NET_BYTES] = kind

    assert _refused(_changed(LEARNING, change)) == KIND


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, -0.0, 3.3e38])
@pytest.mark.parametrize("what", ["s_in", "s_w", "s_out", "input scale", "multiplier", "step"])
def test_scale_that_is_not_finite_and_positive(what: str, value: float) -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        layer = where(net.NET) + net.NET_BYTES
        at = {
            "s_in": layer + 16, "s_w": layer + 20, "s_out": layer + 24,
            "input scale": where(net.INPUT), "multiplier": where(net.ROWS) + 4 * 9,
            "step": where(net.LEARNER) + net.LEARNER_BYTES,
        }[what]  # fmt: skip
        struct.pack_into("<f", d, at, value)

    assert _refused(_changed(LEARNING, change)) == SCALE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_center_that_is_not_finite(value: float) -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        struct.pack_into("<f", d, where(net.INPUT) + 4 * 7, value)

    assert _refused(_changed(TABLE, change)) == SCALE


def test_index_out_of_range() -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        struct.pack_into("<H", d, where(net.INDICES) + 6, 24)

    assert _refused(_changed(LEARNING, change)) == INDEX


def test_index_twice_in_a_row() -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        at = where(net.INDICES)
        d[at + 2 : at + 4] = d[at : at + 2]

    assert _refused(_changed(LEARNING, change)) == DUPLICATE


@pytest.mark.parametrize("network", [LEARNING, BLOCKS], ids=["b1", "b4"])
def test_spare_bit_of_an_index_that_holds_nothing(network: Network) -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        at = where(net.INDICES)
        spare = 1 << network.layers[0].index_bits
        struct.pack_into("<H", d, at, struct.unpack_from("<H", d, at)[0] | spare)

    assert _refused(_changed(network, change)) == INDEX


@pytest.mark.parametrize("bias", [2**31 - 1, -(2**31), -(2**31) + 1])
def test_bias_with_which_a_sum_could_overflow(bias: int) -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        struct.pack_into("<i", d, where(net.ROWS), bias)

    assert _refused(_changed(PLAIN, change)) == SCALE


def test_weight_of_minus_128() -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        d[where(net.WEIGHTS) + 3] = 128

    assert _refused(_changed(PLAIN, change)) == SCALE


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [(36, "<I", 9), (40, "<f", 0.0), (40, "<f", 8.5), (40, "<f", float("nan")), (44, "<H", 3),
     (46, "<H", 5), (46, "<H", 6), (49, "<B", 2), (50, "<H", 0), (50, "<H", 4097),
     (52, "<I", 2**31), (56, "<I", 4), (60, "<I", 1), (60, "<I", 2**32 - 1)],
    ids=["cursor", "rate-0", "rate-8.5", "rate-nan", "learn", "traces-missing", "strategy",
         "keep", "gather-0", "gather-4097", "gathered", "filled", "activity", "activity-most"],
)  # fmt: skip
def test_learner_state_that_means_nothing(at: int, form: str, value: float) -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        struct.pack_into(form, d, where(net.LEARNER) + at, value)

    assert _refused(_changed(LEARNING, change)) == STATE


@pytest.mark.parametrize("most", [3 * 255 * 127, -3 * 255 * 127])
def test_gradient_larger_than_what_was_gathered(most: int) -> None:
    hidden = LEARNING.layers[1].inputs

    def change(by: int) -> Callable[[bytearray, Callable[[int], int]], None]:
        def change(d: bytearray, where: Callable[[int], int]) -> None:
            struct.pack_into("<I", d, where(net.LEARNER) + 52, 3)
            at = where(net.SCRATCH) + 4 * hidden * LEARNING.batch + 4 * 23
            struct.pack_into("<i", d, at, most + by)

        return change

    Model(nets.buffer(bytes(_changed(LEARNING, change(0)))))
    assert _refused(_changed(LEARNING, change(1 if most > 0 else -1))) == STATE


@pytest.mark.parametrize(
    ("at", "form", "value", "status"),
    [(0, "<H", 0, SECTION), (0, "<H", 2, SECTION), (0, "<H", 4, SECTION), (0, "<H", 65, SECTION),
     (2, "<H", 4, STATE), (2, "<H", 1, STATE), (4, "<H", 1, STATE), (4, "<H", 3, STATE),
     (6, "<H", 1, STATE), (8, "<i", 1, STATE), (8, "<i", -(2**31), STATE),
     (-1, "<b", -128, STATE)],
    ids=["none", "fewer", "more", "too-many", "held", "next-behind", "next-before", "next-past",
         "zero", "query", "query-least", "key-128"],
)  # fmt: skip
def test_traces_that_mean_nothing(at: int, form: str, value: int, status: int) -> None:
    traced = replace(LEARNING, traces=3)

    def change(d: bytearray, where: Callable[[int], int]) -> None:
        size = len(arena.Arena(nets.buffer(bytes(d))).section(net.TRACES))
        struct.pack_into(form, d, where(net.TRACES) + at % size, value)

    Model(nets.buffer(nets.file(traced)))
    assert _refused(_changed(traced, change)) == status


def test_traces_of_a_file_that_cannot_use_them() -> None:
    plain = nets.network((1, 10, 1), (dense(10, 6),), 3)
    assert replace(plain, traces=3).section_bytes() == plain.section_bytes()
    parameters = nets.parameters(plain)
    parameters.learner = arena.LearnerParameters(strategy="attention")
    with pytest.raises(ZgedgeError, match="traces"):
        arena.write(plain, parameters)


@pytest.mark.parametrize("label", [0, 4, 255])
def test_replay_that_contradicts_its_counts(label: int) -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        struct.pack_into("<I", d, where(net.LEARNER) + 56, 1)
        d[where(net.REPLAY) + 8] = label  # counts all say 0

    assert _refused(_changed(LEARNING, change)) == STATE


@pytest.mark.parametrize("names", [b"0\x001\x002\x003", b"0\x001\x002\x00\0\0", b"0123456\0"])
def test_names_that_are_too_few_or_too_many(names: bytes) -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        at = where(net.NAMES)
        d[at : at + 8] = (names + b"x" * 8)[:8]

    assert _refused(_changed(LEARNING, change)) == STATE


def test_names_that_are_not_utf8() -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        d[where(net.NAMES)] = 0xFF

    assert _refused(_changed(LEARNING, change)) == STATE


def _called(*names: str) -> bytes:
    """A file that says its classes are integers and calls them so."""
    p = nets.parameters(PLAIN)
    p.class_names = names
    return arena.write(replace(PLAIN, names_bytes=len(arena.names_blob(names))), p)


@pytest.mark.parametrize(
    "name",
    ["x", "", "-", "--5", "1.0", "1e3", "0x1", "1_000", "+1", " 1", "1\n", "²", "٣", "9" * 5000],
)
def test_integer_names_that_are_none(name: str) -> None:
    assert _refused(_called("7", "8", name)) == STATE


def test_integer_names_of_one_number() -> None:
    assert _refused(_called("7", "8", "07")) == STATE


@pytest.mark.parametrize("name", ["-1", "0", "-9223372036854775808", "007"])
def test_integer_names(name: str) -> None:
    model = Model(nets.buffer(_called("7" * 9, "8", name)))
    assert model.classes.tolist() == [777777777, 8, int(name)]


def test_accuracy_that_is_none() -> None:
    def change(d: bytearray, where: Callable[[int], int]) -> None:
        struct.pack_into("<f", d, where(net.NET) + 52, 1.5)

    assert _refused(_changed(PLAIN, change)) == STATE


def test_arena_that_is_not_aligned() -> None:
    data = nets.file(PLAIN)
    room = arena.aligned(len(data) + 8)
    buffer = room[4 : 4 + len(data)]
    buffer[:] = np.frombuffer(data, np.uint8)
    with pytest.raises(ModelError) as e:
        Model(buffer)
    assert e.value.status == ALIGN


def test_message_names_section_layer_and_byte() -> None:
    network = nets.network((1, 24, 1), (sparse(24, 9, 5), sparse(9, 7, 3)), 4)

    def change(d: bytearray, where: Callable[[int], int]) -> None:
        struct.pack_into("<H", d, where(net.INDICES) + 2 * 45, 9)

    with pytest.raises(ModelError, match=r"section indices, layer 1, byte \d+"):
        Model(nets.buffer(bytes(_changed(network, change))))


# ---- what two pieces of code must agree on ----


def test_every_status_has_its_own_text_and_python_knows_the_numbers() -> None:
    header = (CORE / "zge.h").read_text()
    enum = header[header.index("typedef enum zge_status") : header.index("} zge_status;")]
    codes = {name: int(n) for name, n in re.findall(r"(ZGE_\w+) = (-?\d+)", enum)}
    assert len(codes) == 22
    texts = {name: core.status_text(n) for name, n in codes.items()}
    assert len(set(texts.values())) == len(codes)
    assert "unknown status" not in texts.values()
    assert core.status_text(-99) == core.status_text(1) == "unknown status"
    for name in (
        "OK",
        "E_ARGUMENT",
        "E_INPUT",
        "E_LABEL",
        "E_NO_LEARNING",
        "E_VARIANT",
        "E_ROOM",
        "E_NAME",
        "E_ID",
    ):
        assert getattr(core, name) == codes[f"ZGE_{name}"], name
    meaning = {
        "MAGIC": "not a zge file", "CHECKSUM": "checksum", "INDEX": "outside", "KIND": "kind",
        "DUPLICATE": "twice", "INPUT": "NaN", "LABEL": "label", "ALIGN": "8 bytes",
        "VERSION": "version", "SIZE": "cut", "NO_LEARNING": "learning", "SCALE": "scale",
    }  # fmt: skip
    for name, word in meaning.items():
        assert word in texts[f"ZGE_E_{name}"], name


def test_layouts_of_core_and_python_are_one(tmp_path: Path, cc: str) -> None:
    names = {
        "ZGE_H_SIZE": net.HEADER_BYTES, "ZGE_T_SIZE": net.ENTRY_BYTES, "ZGE_N_SIZE": net.NET_BYTES,
        "ZGE_L_SIZE": net.LAYER_BYTES, "ZGE_K_SIZE": net.LEARNER_BYTES,
        "ZGE_KL_SIZE": net.LEARNER_LAYER_BYTES, "ZGE_A_SIZE": net.TRACES_BYTES,
        "ZGE_MAX_PARTS": net.MAX_TRACES, "ZGE_RESIDUAL_BITS": net.RESIDUAL_BITS,
        "ZGE_MAX_INPUTS": net.MAX_INPUTS, "ZGE_MAX_CLASSES": net.MAX_CLASSES,
        "ZGE_MAX_LAYERS": net.MAX_LAYERS, "ZGE_MAX_BATCH": net.MAX_BATCH,
        "ZGE_MAX_TRUNK": net.MAX_TRUNK, "ZGE_MAX_CHANNELS": net.MAX_CHANNELS,
        "ZGE_MAX_TAPS": net.MAX_TAPS,
        "ZGE_FORMAT_VERSION": arena.FORMAT_VERSION,
        **{f"ZGE_L_{name.upper().replace('-', '_')}": n for name, n in arena.KINDS.items()},
        "ZGE_R_INDEX": arena.RESIDUAL_INDEX, "ZGE_R_SECTION": arena.RESIDUAL_SECTION,
        **{f"ZGE_S_{name.upper()}": kind for kind, name in net.SECTION_NAMES.items()
           if name != "network"},
        "ZGE_S_NET": net.NET,
        **{f"ZGE_REWIRE_{name.upper().replace('-', '_')}": number
           for number, name in enumerate(arena.STRATEGIES)},
        **{f"ZGE_LEARN_{name.upper()}": i for i, name in enumerate(arena.LEARN)},
        **{f"ZGE_L_{name.upper()}": number for number, name in arena.RESERVED_KINDS.items()},
    }  # fmt: skip
    probe = tmp_path / "probe.c"
    lines = "".join(f'    printf("{name} %d\\n", (int)({name}));\n' for name in names)
    probe.write_text(f'#include <stdio.h>\n#include "zge_impl.h"\nint main(void) {{\n{lines}}}\n')
    program = tmp_path / "probe"
    subprocess.run([cc, "-std=c11", f"-I{CORE}", str(probe), "-o", str(program)], check=True)
    found = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert dict(line.split() for line in found.splitlines()) == {
        n: str(v) for n, v in names.items()
    }


def test_checksum_is_zlibs() -> None:
    # Python signs with zlib, the core with its own table: a sealed arena opens, and so does a
    # file signed here.
    model = Model(nets.buffer(nets.file(LEARNING)))
    model.seal()
    sealed = bytearray(model.arena.buffer.tobytes())
    again = bytearray(sealed)
    arena.sign(memoryview(again))
    assert sealed == again
