"""Hostile files: each number of anchors, watch and snapshot is checked when one is opened."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest

from tests import nets
from tests.attacks.test_files import (
    DUPLICATE,
    INDEX,
    LEARNING,
    SCALE,
    SECTION,
    STATE,
    laid_out,
    status_of,
)
from zgedge import arena
from zgedge import network as net
from zgedge.network import Network
from zgedge.runtime import core_library as core

ROOM = 128
GUARDED = replace(LEARNING, anchors=ROOM, watch=True)
FEW = replace(LEARNING, anchors=40, watch=True)
WATCHED = replace(LEARNING, watch=True)
WIDE = replace(
    nets.network((1, 8, 1), (), 300, batch=2), anchors=36, watch=True
)  # labels of two bytes, no replay
FILES = {"guarded": GUARDED, "watched": WATCHED, "wide": WIDE}
FILLED = 30  # of the anchors
SPARE = 96  # of the anchors a trial takes the slots from here on
NAN = struct.unpack("<I", struct.pack("<f", float("nan")))[0]


def data_of(network: Network) -> bytes:
    parameters = nets.parameters(network)
    if network.anchors:
        rng = np.random.default_rng(2)
        codes = rng.integers(0, 256, (FILLED, network.features), dtype=np.uint8)
        labels = rng.integers(0, network.classes, FILLED)
        parameters.anchors = (codes, labels, np.arange(FILLED) % 3 > 0)
    return arena.write(network, parameters)


def changed(network: Network, *changes: tuple[int, int, str, int | float]) -> bytes:
    """The file with numbers of its sections (kind, offset, format, value) changed, signed anew."""
    buffer = nets.buffer(data_of(network))
    file = arena.Arena(buffer)
    for kind, at, form, value in changes:
        struct.pack_into(form, file.section(kind).data, at, value)
    arena.sign(buffer.data)
    return buffer.tobytes()


@pytest.mark.parametrize("name", FILES)
def test_as_written(name: str) -> None:
    assert status_of(data_of(FILES[name])) == core.OK


@pytest.mark.parametrize("name", FILES)
def test_a_section_missing_or_too_much(name: str) -> None:
    network = FILES[name]
    data = data_of(network)
    parts = [(kind, data[at : at + size]) for kind, at, size in network.sections()]
    for kind in (net.ANCHORS, net.WATCH, net.SNAPSHOT):
        fewer = [x for x in parts if x[0] != kind]
        alone = name == "watched" and kind == net.WATCH  # what is left is a whole file
        if len(fewer) < len(parts):
            assert status_of(laid_out(fewer)) == (core.OK if alone else SECTION), kind
        else:
            more = (kind, b"\1\0\0\0" * 36)
            assert status_of(laid_out([*parts, more])) == SECTION, kind
        for by in (-1, 1):
            other = [
                (k, c[:by] if by < 0 else c + b"\0") if k == kind else (k, c) for k, c in parts
            ]
            if other != parts:
                assert status_of(laid_out(other)) == SECTION, (kind, by)


@pytest.mark.parametrize("kind", [net.ANCHORS, net.WATCH, net.SNAPSHOT])
def test_in_a_file_that_cannot_learn(kind: int) -> None:
    network = GUARDED.for_inference()
    data = nets.file(network)
    parts = [(k, data[at : at + size]) for k, at, size in network.sections()]
    for size in (1, 16, 144, 600):
        assert status_of(laid_out([*parts, (kind, b"\1" * size)], learning=False)) == SECTION


@pytest.mark.parametrize("room", [0, 1, 127, 129, 65535, 65536, 1 << 31, (1 << 32) - 1])
def test_room_for_anchors_that_there_is_not(room: int) -> None:
    assert status_of(changed(GUARDED, (net.ANCHORS, 0, "<I", room))) in (SECTION, STATE)


# Offset in the watch, format, values that are good, values that are not.
WATCH = {
    "trial": (4, "<H", [0], [3, 65535]),
    "caution": (6, "<H", [0, 6], [7, 65535]),
    "age": (8, "<I", [2000], [1999, 2001, 1 << 31]),  # a rate goes with an age below 2,000
    "rate": (12, "<I", [0], [1 << 31, 1, NAN, 0x3F000000, 0xBF000000, 0x7F800000]),
    "best": (16, "<I", [0, 30], [31, 129, 1 << 31]),
    "limit": (20, "<I", [0, 128], [129, 1 << 31]),
    "scored": (24, "<I", [0, 65535], [65536, 1 << 31]),
    "patience": (28, "<I", [0, 4], [5, 1 << 31]),
    "certainty": (32, "<I", [0, 65536], [65537, 1 << 31]),
    "recent": (36, "<I", [0, 65536], [65537, 1 << 31]),
    "usual": (88, "<I", [0, 65536], [65537, 1 << 31]),
    "calm": (92, "<I", [0, 6], [7, 1 << 31]),
    "errors seen": (96, "<I", [100, 1 << 24], [(1 << 24) + 1, 0, 1 << 31]),
    "errors held": (100, "<I", [0, 256], [257, 1 << 31]),
    "errors total": (104, "<Q", [0, 100 * 4 * 65536], [100 * 4 * 65536 + 1, 1 << 63]),
    "errors sum": (112, "<I", [0, 15 * 65536], [15 * 65536 + 1, 1 << 31]),
    "errors zero": (116, "<I", [0], [1, 1 << 31]),
    "doubts seen": (120, "<I", [100, 1 << 24], [(1 << 24) + 1, 0, 1 << 31]),
    "doubts held": (124, "<I", [0, 256], [257, 1 << 31]),
    "doubts total": (128, "<Q", [0, 100 * 4 * 65536], [100 * 4 * 65536 + 1, 1 << 63]),
    "doubts sum": (136, "<I", [0, 15 * 65536], [15 * 65536 + 1, 1 << 31]),
    "doubts zero": (140, "<I", [0], [1, 1 << 31]),
}


@pytest.mark.parametrize("field", WATCH)
def test_each_field_of_the_watch(field: str) -> None:
    at, form, good, bad = WATCH[field]
    for value in good:
        assert status_of(changed(GUARDED, (net.WATCH, at, form, value))) == core.OK, value
    for value in bad:
        assert status_of(changed(GUARDED, (net.WATCH, at, form, value))) == STATE, value


@pytest.mark.parametrize("age", [0, 1, 1999])
def test_age_and_rate_belong_together(age: int) -> None:
    for rate, status in ((0.5, core.OK), (1e-30, core.OK), (0.0, STATE), (0.6, STATE)):
        fields = (net.WATCH, 8, "<I", age), (net.WATCH, 12, "<f", rate)
        assert status_of(changed(GUARDED, *fields)) == status, rate


@pytest.mark.parametrize("network", [WATCHED, FEW], ids=["none", "few"])
def test_trial_without_anchors_enough(network: Network) -> None:
    assert status_of(changed(network, (net.WATCH, 4, "<H", 1))) == STATE


@pytest.mark.parametrize(
    ("filled", "cursor", "tried", "trial", "status"),
    [
        (30, 29, 0, 0, core.OK), (30, 30, 0, 0, STATE), (128, 127, 0, 0, core.OK),
        (129, 0, 0, 0, STATE), (30, 0, 1, 0, STATE), (97, 0, 0, 1, STATE),
        (SPARE, 0, 0, 1, core.OK), (SPARE, 1, 1, 1, STATE), (SPARE, 31, 32, 1, core.OK),
        (SPARE, 31, 32, 2, core.OK), (SPARE, 31, 32, 3, STATE), (SPARE, 0, 33, 2, STATE),
        (SPARE, 0, 33, 1, STATE), (SPARE + 1, 0, 32, 1, STATE), (1 << 31, 0, 1 << 31, 1, STATE),
        (0, 0, 0, 0, core.OK), (0, 1, 0, 0, STATE), (0, 0, (1 << 32) - 96, 1, STATE),
    ],
)  # fmt: skip
def test_counts_of_anchors(filled: int, cursor: int, tried: int, trial: int, status: int) -> None:
    data = changed(
        GUARDED, (net.ANCHORS, 4, "<I", filled), (net.ANCHORS, 8, "<I", cursor),
        (net.ANCHORS, 12, "<I", tried), (net.WATCH, 4, "<H", trial),
        (net.WATCH, 16, "<I", 0),
    )  # fmt: skip
    assert status_of(data) == status


def test_more_right_than_there_are() -> None:
    for filled, best, status in ((20, 20, core.OK), (20, 21, STATE), (0, 1, STATE)):
        fields = (net.ANCHORS, 4, "<I", filled), (net.WATCH, 16, "<I", best)
        assert status_of(changed(GUARDED, *fields)) == status


def test_labels_and_flags_of_anchors() -> None:
    assert status_of(changed(GUARDED, (net.ANCHORS, 16 + 29, "<B", 4))) == STATE
    assert status_of(changed(GUARDED, (net.ANCHORS, 16 + 30, "<B", 4))) == core.OK  # not filled
    assert status_of(changed(WIDE, (net.ANCHORS, 16 + 58, "<H", 300))) == STATE
    assert status_of(changed(WIDE, (net.ANCHORS, 16 + 58, "<H", 299))) == core.OK
    for flags in (4, 128, 255):
        assert status_of(changed(GUARDED, (net.ANCHORS, 16 + ROOM + 29, "<B", flags))) == STATE
    # In a trial those of its samples count too.
    trial = (
        (net.ANCHORS, 4, "<I", SPARE), (net.ANCHORS, 12, "<I", 2), (net.WATCH, 4, "<H", 1),
        (net.WATCH, 16, "<I", 0),
    )  # fmt: skip
    assert status_of(changed(GUARDED, *trial)) == core.OK
    assert status_of(changed(GUARDED, *trial, (net.ANCHORS, 16 + SPARE + 1, "<B", 4))) == STATE
    assert status_of(changed(GUARDED, *trial, (net.ANCHORS, 16 + ROOM + SPARE, "<B", 4))) == STATE


def test_snapshot_that_could_not_be_gone_back_to() -> None:
    """What a rollback would put in place is checked as what is in place."""
    outputs = sum(x.outputs for x in GUARDED.layers)
    indices = 4 * outputs
    weights = indices + 2 * sum(x.indices for x in GUARDED.layers)
    first = arena.Arena(nets.buffer(data_of(GUARDED))).section(net.SNAPSHOT)
    again = int(first[indices : indices + 2].view("<u2")[0])
    for at, form, value, status in (
        (0, "<i", 2**31 - 1, SCALE), (0, "<i", -(2**31), SCALE), (indices, "<H", 8, INDEX),
        (indices, "<H", 0x1000, INDEX), (indices + 2, "<H", again, DUPLICATE),
        (weights, "<b", -128, SCALE), (weights, "<b", -127, core.OK),
    ):  # fmt: skip
        assert status_of(changed(GUARDED, (net.SNAPSHOT, at, form, value))) == status, (at, value)
