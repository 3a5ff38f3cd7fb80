"""Files that someone made wrong on purpose: laid out anew, signed anew, refused all the same.

Each is opened by the core alone and through `Model`; both must say the same, and the core must not
have changed a byte.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from zgedge import Model, ModelError, ZgedgeError, arena
from zgedge import network as net
from zgedge.network import Network, dense, sparse
from zgedge.runtime import core_library as core

MAGIC, VERSION, SIZE, CHECKSUM, SECTION, SHAPE, KIND, INDEX, DUPLICATE, SCALE, STATE, ALIGN = range(
    -2, -14, -1
)

LEARNING = nets.network(
    (1, 32, 1), (sparse(32, 9, 8, 4), sparse(9, 7, 3)), 4, replay_samples=3, replay_bits=4, batch=2
)
SINGLE = nets.network((1, 24, 1), (sparse(24, 9, 5),), 3, batch=2)
PLAIN = nets.network((1, 16, 1), (dense(16, 5),), 3, align=64).for_inference()
WIRED = nets.network((1, 16, 1), (sparse(16, 5, 8, 8),), 3).for_inference()
POOLED = nets.network((5, 4, 1), (), 3, replay_samples=3, replay_bits=4, replay_pool=2)
FILES = {"learning": LEARNING, "single": SINGLE, "plain": PLAIN, "wired": WIRED}
Part = tuple[int, bytes]


def status_of(data: bytes) -> int:
    """What the core says; `Model` must say it too, and nothing may have changed."""
    buffer = nets.buffer(data)
    handle = np.zeros(core.lib.zge_model_bytes() + 64, np.uint8)
    fault = core.Fault()
    status: int = core.lib.zge_model_open(
        handle.ctypes.data, buffer.ctypes.data, len(buffer), fault
    )
    assert buffer.tobytes() == data
    assert fault.status == status
    assert fault.offset <= len(data)
    if status == core.OK:
        Model(buffer)
    else:
        with pytest.raises(ModelError) as e:
            Model(buffer, "bad.zge")
        assert e.value.status == status
        assert e.value.message.startswith("bad.zge: ")
        assert core.status_text(status) in e.value.message
    return status


def parts_of(network: Network) -> list[Part]:
    data = nets.file(network)
    return [(kind, data[start : start + size]) for kind, start, size in network.sections()]


def laid_out(parts: Sequence[Part], align: int = 8, learning: bool = True) -> bytes:
    """A signed file of any sections in any order."""
    at = net.HEADER_BYTES + net.ENTRY_BYTES * len(parts)
    table, body = b"", b""
    for kind, content in parts:
        gap = -at % align
        table += struct.pack("<HHIII", kind, 0, at + gap, len(content), zlib.crc32(content))
        body += b"\0" * gap + content
        at += gap + len(content)
    head = struct.pack("<4sHHIIQII16x", arena.MAGIC, 1, len(parts), at, align, 0, 0, int(learning))
    head = bytearray(head + table)
    struct.pack_into("<I", head, 24, zlib.crc32(head))
    return bytes(head) + body


def with_part(network: Network, kind: int, change: Callable[[bytearray], object]) -> bytes:
    """A file with one section changed, of whatever length it is then."""
    parts = []
    for number, content in parts_of(network):
        new = bytearray(content)
        if number == kind:
            change(new)
        parts.append((number, bytes(new)))
    return laid_out(parts, network.align, network.learning)


def signed_head(data: bytearray) -> bytes:
    """Only header and table signed: the sections may be anywhere."""
    count = struct.unpack_from("<H", data, 6)[0]
    struct.pack_into("<I", data, 24, 0)
    end = net.HEADER_BYTES + net.ENTRY_BYTES * count
    struct.pack_into("<I", data, 24, zlib.crc32(data[:end]))
    return bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_the_tools_of_these_tests_change_nothing(name: str) -> None:
    network = FILES[name]
    data = laid_out(parts_of(network), network.align, network.learning)
    assert data == nets.file(network)
    assert status_of(data) == core.OK


@pytest.mark.parametrize("name", FILES)
def test_cut_and_signed_again(name: str) -> None:
    data = nets.file(FILES[name])
    for length in range(net.HEADER_BYTES, len(data)):
        cut = bytearray(data[:length])
        struct.pack_into("<I", cut, 8, length)
        # Where the table is whole, its checksum is good.
        assert status_of(
            signed_head(cut) if length >= 48 + 16 * struct.unpack_from("<H", cut, 6)[0] else
            bytes(cut)
        ) == SECTION, length  # fmt: skip


@pytest.mark.parametrize("more", [1, 8, 64, 4096])
def test_bytes_appended_and_signed_again(more: int) -> None:
    data = bytearray(nets.file(PLAIN) + b"\0" * more)
    struct.pack_into("<I", data, 8, len(data))
    assert status_of(signed_head(data)) == SECTION


@pytest.mark.parametrize("name", FILES)
def test_missing_section(name: str) -> None:
    network = FILES[name]
    for missing, _ in parts_of(network):
        parts = [x for x in parts_of(network) if x[0] != missing]
        assert status_of(laid_out(parts, network.align, network.learning)) == SECTION, missing


@pytest.mark.parametrize("name", FILES)
def test_section_twice(name: str) -> None:
    network = FILES[name]
    for part in parts_of(network):
        parts = [*parts_of(network), part]
        assert status_of(laid_out(parts, network.align, network.learning)) == SECTION, part[0]


@pytest.mark.parametrize("kind", [0, 15, 19, 255, 65_535])
def test_unknown_section(kind: int) -> None:
    assert status_of(laid_out([*parts_of(LEARNING), (kind, b"12345678")])) == SECTION


def test_section_that_the_network_does_not_need() -> None:
    for kind in net.LEARNING_SECTIONS:
        parts = [*parts_of(PLAIN), (kind, b"\0" * 64)]
        assert status_of(laid_out(parts, 64, learning=False)) == SECTION, kind
    assert status_of(laid_out([*parts_of(PLAIN), (net.INDICES, b"\0\0")], 64, False)) == SECTION


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("by", [-64, -8, -1, 1, 8, 64])
def test_section_of_wrong_length(name: str, by: int) -> None:
    network = FILES[name]
    for kind, content in parts_of(network):
        if len(content) + by < 0:
            continue
        longer = by > 0

        def change(b: bytearray, longer: bool = longer) -> None:
            if longer:
                b.extend(b"\0" * by)
            else:
                del b[by:]

        # More zero bytes behind the names are names too many.
        expected = STATE if kind == net.NAMES and len(content) + by > 0 else SECTION
        assert status_of(with_part(network, kind, change)) == expected, kind


def test_empty_sections() -> None:
    for kind, _ in parts_of(LEARNING):
        assert status_of(with_part(LEARNING, kind, bytearray.clear)) == SECTION, kind
    assert status_of(laid_out([*parts_of(PLAIN), (net.INDICES, b"")], 64, False)) == SECTION


def test_sections_may_stand_in_any_order() -> None:
    # The order is the writer's choice; only the table must ascend.
    assert status_of(laid_out(parts_of(LEARNING)[::-1])) == core.OK


def test_table_that_does_not_ascend() -> None:
    data = bytearray(nets.file(LEARNING))
    for i in range(len(parts_of(LEARNING)) - 1):
        at = net.HEADER_BYTES + i * net.ENTRY_BYTES
        swapped = bytearray(data)
        swapped[at : at + 16], swapped[at + 16 : at + 32] = (
            data[at + 16 : at + 32],
            data[at : at + 16],
        )
        # What then lies between two sections is not zero, or they overlap.
        assert status_of(signed_head(swapped)) in (SECTION, CHECKSUM), i


@pytest.mark.parametrize("name", FILES)
def test_sections_that_overlap(name: str) -> None:
    network = FILES[name]
    data = nets.file(network)
    entries = list(network.sections())
    for i in range(1, len(entries)):
        for offset in (0, 8, entries[i - 1][1], entries[i][1] - network.align):
            moved = bytearray(data)
            at = net.HEADER_BYTES + i * net.ENTRY_BYTES
            size = entries[i][2]
            struct.pack_into("<II", moved, at + 4, offset, size)
            struct.pack_into("<I", moved, at + 12, zlib.crc32(data[offset : offset + size]))
            if offset < entries[i - 1][1] + entries[i - 1][2]:
                assert status_of(signed_head(moved)) == SECTION, (i, offset)


@pytest.mark.parametrize("by", [1, 2, 4, 7])
def test_sections_that_are_not_aligned(by: int) -> None:
    for i, (_, start, size) in enumerate(LEARNING.sections()):
        data = bytearray(nets.file(LEARNING))
        at = net.HEADER_BYTES + i * net.ENTRY_BYTES
        struct.pack_into("<I", data, at + 4, start + by)
        struct.pack_into("<I", data, at + 12, zlib.crc32(data[start + by : start + by + size]))
        assert status_of(signed_head(data)) == SECTION, i


@pytest.mark.parametrize("field", [4, 8], ids=["offset", "bytes"])
@pytest.mark.parametrize("value", [2**31 - 8, 2**31, 2**32 - 64, 2**32 - 8, 2**32 - 1])
def test_section_that_ends_near_2_32(field: int, value: int) -> None:
    for network in FILES.values():
        for i in range(len(list(network.sections()))):
            data = bytearray(nets.file(network))
            at = net.HEADER_BYTES + i * net.ENTRY_BYTES
            struct.pack_into("<I", data, at + field, value)
            assert status_of(signed_head(data)) == SECTION, i
            # Both together, so that their sum wraps to something small.
            struct.pack_into("<II", data, at + 4, 2**32 - value & ~63 & 0xFFFFFFFF, value)
            assert status_of(signed_head(data)) in (SECTION, CHECKSUM), i


@pytest.mark.parametrize("sections", range(13))
def test_table_of_another_length(sections: int) -> None:
    if sections == len(parts_of(LEARNING)):
        return
    data = bytearray(nets.file(LEARNING))
    struct.pack_into("<H", data, 6, sections)
    assert status_of(signed_head(data)) in (SECTION, CHECKSUM)


# Where the sizes of a file stand, and those of its numbers that may be anything.
HEADER_SIZES = {"bytes": (8, SIZE), "align": (12, SECTION), "flags": (28, SECTION)}
NET_SIZES = {"inputs": 0, "groups": 8, "height": 12, "width": 16, "replay": 28, "replay_pool": 60}
NET_FREE = {"budget": 36, "seed": 40, "seed high": 44, "steps": 48, "samples": 56}
LAYER_SIZES = {"inputs": 4, "outputs": 8, "width": 12, "reserved": 28}
HUGE = [2**31 - 1, 2**31, 2**31 + 1, 2**32 - 4, 2**32 - 1]


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("name", FILES)
def test_sizes_near_2_32(name: str, value: int) -> None:
    network = FILES[name]
    for field, (at, status) in HEADER_SIZES.items():
        data = bytearray(nets.file(network))
        struct.pack_into("<I", data, at, value)
        assert status_of(signed_head(data)) == status, field

    def at(offset: int) -> Callable[[bytearray], None]:
        return lambda b: struct.pack_into("<I", b, offset, value)

    for field, offset in NET_SIZES.items():
        assert status_of(with_part(network, net.NET, at(offset))) == SHAPE, field
    for field, offset in NET_FREE.items():
        assert status_of(with_part(network, net.NET, at(offset))) == core.OK, field
    for layer in range(len(network.layers)):
        for field, offset in LAYER_SIZES.items():
            there = net.NET_BYTES + layer * net.LAYER_BYTES + offset
            assert status_of(with_part(network, net.NET, at(there))) == SHAPE, (layer, field)


def test_products_that_wrap_at_2_32() -> None:
    # 65,536 x 65,536 is 0 in 32 bits: all sections are as long as such sums would demand.
    wide = 65_536
    network = bytearray(dict(parts_of(PLAIN))[net.NET])
    struct.pack_into("<I", network, 0, wide)
    struct.pack_into("<IIH", network, 12, 1, wide, 1)
    struct.pack_into("<III", network, net.NET_BYTES + 4, wide, wide, wide)
    head = net.NET_BYTES + net.LAYER_BYTES
    struct.pack_into("<III", network, head + 4, wide, 3, wide)
    rows = b"".join(struct.pack(f"<{n}i{n}f", *[0] * n, *[1.0] * n) for n in (wide, 3))
    parts = {
        **dict(parts_of(PLAIN)), net.NET: bytes(network), net.ROWS: rows,
        net.WEIGHTS: bytes(3 * wide), net.ACTIVATIONS: bytes(2 * wide + 4 * 3),
    }  # fmt: skip
    assert status_of(laid_out(list(parts.items()), 64, False)) == SECTION


@pytest.mark.parametrize("batch", [0, 3, 5, 63, 65, 128, 65_535])
def test_batch_that_is_no_power_of_two_up_to_64(batch: int) -> None:
    change = lambda b: struct.pack_into("<H", b, 24, batch)  # noqa: E731
    assert status_of(with_part(LEARNING, net.NET, change)) == SHAPE


def test_batch_of_a_file_that_cannot_learn() -> None:
    assert status_of(with_part(PLAIN, net.NET, lambda b: b.__setitem__(24, 2))) == SHAPE


def test_learning_flag_that_lies() -> None:
    assert status_of(laid_out(parts_of(LEARNING), 8, learning=False)) == SHAPE
    assert status_of(laid_out(parts_of(PLAIN), 64, learning=True)) in (SHAPE, SECTION)


@pytest.mark.parametrize("bits", [0, 3, 5, 6, 16, 32_768])
def test_replay_of_other_bits(bits: int) -> None:
    change = lambda b: struct.pack_into("<H", b, 32, bits)  # noqa: E731
    assert status_of(with_part(LEARNING, net.NET, change)) == SHAPE


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_replay_of_bits_that_its_length_has_not(bits: int) -> None:
    change = lambda b: struct.pack_into("<H", b, 32, bits)  # noqa: E731
    assert status_of(with_part(LEARNING, net.NET, change)) == SECTION


@pytest.mark.parametrize("pool", [1, 3, 4, 255])
def test_replay_of_places_that_there_are_not(pool: int) -> None:
    assert status_of(with_part(POOLED, net.NET, lambda b: b.__setitem__(60, pool))) == SHAPE


@pytest.mark.parametrize("name", ["table", "trunk", "no-replay"])
def test_replay_of_places_where_there_is_no_picture(name: str) -> None:
    network = {
        "table": nets.network((1, 12, 1), (), 3, groups=12, replay_samples=3, replay_bits=4),
        "trunk": nets.network(
            (4, 4, 1), (), 3, trunk=(net.conv((4, 4, 1), 4),), replay_samples=3, replay_bits=4
        ),
        "no-replay": nets.network((4, 4, 1), (), 3),
    }[name]
    assert status_of(with_part(network, net.NET, lambda b: b.__setitem__(60, 2))) == SHAPE


def test_replay_of_places_of_another_length() -> None:
    assert status_of(with_part(POOLED, net.NET, lambda b: b.__setitem__(60, 0))) == SECTION


def _replay(filled: int, counts: list[int], labels: list[int]) -> bytes:
    parts = dict(parts_of(LEARNING))
    learner, replay = bytearray(parts[net.LEARNER]), bytearray(parts[net.REPLAY])
    struct.pack_into("<I", learner, 56, filled)
    struct.pack_into("<4H", replay, 0, *counts)
    replay[8:11] = bytes(labels)
    parts |= {net.LEARNER: bytes(learner), net.REPLAY: bytes(replay)}
    return laid_out(list(parts.items()))


def test_replay_that_adds_up() -> None:
    assert status_of(_replay(3, [1, 0, 2, 0], [2, 0, 2])) == core.OK


@pytest.mark.parametrize(
    ("filled", "counts", "labels"),
    [
        (4, [1, 1, 1, 1], [0, 1, 2]), (2**32 - 1, [1, 1, 1, 0], [0, 1, 2]),
        (3, [1, 1, 0, 0], [0, 1, 2]), (3, [1, 1, 2, 0], [0, 1, 2]), (2, [1, 1, 1, 0], [0, 1, 2]),
        (3, [1, 1, 0, 1], [0, 1, 2]), (3, [1, 1, 0, 0], [0, 1, 4]), (3, [1, 1, 0, 0], [0, 1, 255]),
        (0, [0, 0, 0, 1], [0, 0, 0]), (3, [65_535, 1, 1, 0], [0, 1, 2]),
    ],
    ids=["more-than-room", "filled-max", "count-low", "count-high", "filled-low", "count-of-other",
         "label-4", "label-255", "count-of-none", "count-max"],
)  # fmt: skip
def test_replay_that_does_not_add_up(filled: int, counts: list[int], labels: list[int]) -> None:
    assert status_of(_replay(filled, counts, labels)) == STATE


@pytest.mark.parametrize("value", [1, -1, 2**31 - 1, -(2**31)])
def test_gradient_larger_than_what_was_gathered(value: int) -> None:
    back = 4 * LEARNING.layers[1].inputs * LEARNING.batch
    change = lambda b: struct.pack_into("<i", b, back + 4 * 31, value)  # noqa: E731
    assert status_of(with_part(LEARNING, net.SCRATCH, change)) == STATE


def _named(names: bytes) -> bytes:
    def change(b: bytearray) -> None:
        b[:] = names

    def text(b: bytearray) -> None:
        b[34] &= 0xFE  # names are text, not integers

    parts = dict(parts_of(replace(LEARNING, names_bytes=8)))
    content = bytearray(parts[net.NET])
    text(content)
    parts |= {net.NET: bytes(content), net.NAMES: names}
    return laid_out(list(parts.items()))


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (b"a\0b\0c\0\xff\0", "names"), (b"a\0b\0c\0\xc0\x80\0", "utf-8"),
        (b"a\0b\0c\0\xed\xa0\x80\0", "utf-8"), (b"a\0b\0a\0d\0", "'a'"), (b"\0b\0\0d\0", "''"),
    ],
    ids=["byte-ff", "overlong", "surrogate", "twice", "empty-twice"],
)  # fmt: skip
def test_names_that_are_not_text_or_not_apart(names: bytes, word: str) -> None:
    with pytest.raises(ModelError, match=word) as e:
        Model(nets.buffer(_named(names)))
    assert e.value.status == STATE


def test_integer_names_of_one_value() -> None:
    parts = dict(parts_of(LEARNING))
    parts[net.NAMES] = b"0\x001\x002\x0001\0"
    with pytest.raises(ModelError, match="two classes are called 1") as e:
        Model(nets.buffer(laid_out(list(parts.items()))))
    assert e.value.status == STATE


def test_names_of_any_language() -> None:
    names = ["", "été", "猫", "🐈"]
    assert Model(nets.buffer(_named(arena.names_blob(names)))).arena.class_names == tuple(names)


def test_two_classes_of_one_name_are_not_written() -> None:
    p = nets.parameters(SINGLE)
    p.class_names = ["0", "1", "1"]
    with pytest.raises(ZgedgeError, match="'1'"):
        arena.write(SINGLE, p)


@pytest.mark.parametrize("value", [1e39, -1e39])
def test_scale_that_float32_does_not_hold_is_not_written(value: float) -> None:
    p = nets.parameters(SINGLE)
    p.layers[0].s_in = value
    with pytest.raises(ZgedgeError, match="float32"):
        arena.write(SINGLE, p)


def test_file_larger_than_any_model(tmp_path: Path) -> None:
    path = tmp_path / "huge.zge"
    with open(path, "wb") as f:
        f.write(nets.file(PLAIN))
        f.truncate(2**43)  # holds no bytes on disk, and would fill the memory
    with pytest.raises(ModelError, match=r"huge\.zge") as e:
        Model.open(path)
    assert e.value.status == SIZE


def test_limit_of_a_file_is_the_cores() -> None:
    header = (Path(core.__file__).parent / "core" / "zge.h").read_text()
    assert f"#define ZGE_MAX_ARENA {arena.MAX_FILE:#x}u" in header
    assert f"ZGE_E_SIZE = {arena.E_SIZE}," in header


@pytest.mark.parametrize("path", [".", "missing.zge"])
def test_path_that_is_no_file(tmp_path: Path, path: str) -> None:
    with pytest.raises(ModelError, match="Cannot read"):
        Model.open(tmp_path / path)
