"""Trunks that someone made wrong on purpose: refused with the statuses of docs/format.md."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests import nets
from tests.attacks.test_files import (
    KIND,
    SCALE,
    SECTION,
    SHAPE,
    laid_out,
    parts_of,
    status_of,
    with_part,
)
from zgedge import network as net
from zgedge.network import Network, conv, depthwise, max_pool, mean_pool, sparse
from zgedge.runtime import core_library as core

PICTURE = nets.network(
    (6, 5, 2), (sparse(12, 5, 4),), 3, batch=4, replay_samples=3, replay_bits=4,
    trunk=(
        conv((6, 5, 2), 4), depthwise((6, 5, 4), 3, add=1), conv((6, 5, 4), 4, 1, add=1),
        max_pool((6, 5, 4)), conv((3, 2, 4), 2),
    ),
)  # fmt: skip
MEAN = nets.network(
    (4, 4, 1), (), 3, learning=False, batch=1, align=64,
    trunk=(conv((4, 4, 1), 5, 3, same=False), mean_pool((2, 2, 5))),
)  # fmt: skip
FILES = {"picture": PICTURE, "mean": MEAN}
# Fields of a trunk record: place and form.
FIELDS = {
    "kind": (0, "<B"), "kernel": (1, "<B"), "residual": (2, "<B"), "z_in": (3, "<B"),
    "inputs": (4, "<I"), "outputs": (8, "<I"), "taps": (12, "<I"), "s_in": (16, "<f"),
    "s_w": (20, "<f"), "s_out": (24, "<f"), "stride": (28, "<B"), "same": (29, "<B"),
    "add": (30, "<B"), "zero": (31, "<B"),
}  # fmt: skip
CONV, DEPTHWISE, PLUS, POOL, LAST = range(5)  # records of PICTURE
HUGE = (2**31 - 1, 2**31, 2**32 - 4, 2**32 - 1)


def record(number: int) -> int:
    """Where a record starts in section NET."""
    return net.NET_BYTES + number * net.LAYER_BYTES


def changed(network: Network, number: int, **fields: Any) -> bytes:
    def change(b: bytearray) -> None:
        for name, value in fields.items():
            at, form = FIELDS[name]
            struct.pack_into(form, b, record(number) + at, value)

    return with_part(network, net.NET, change)


@pytest.mark.parametrize("name", FILES)
def test_files_open_as_they_are(name: str) -> None:
    network = FILES[name]
    assert status_of(laid_out(parts_of(network), network.align, network.learning)) == core.OK


@pytest.mark.parametrize(
    ("number", "field", "values"),
    [
        (CONV, "kernel", (0, 2, 4, 6, 8, 9, 255)), (CONV, "kernel", (1, 5, 7)),  # taps of 3
        (DEPTHWISE, "kernel", (0, 2, 4, 9, 255)), (DEPTHWISE, "kernel", (1, 5, 7)),
        (POOL, "kernel", (0, 1, 9, 255)), (POOL, "kernel", (6, 7, 8)),  # larger than the picture
        (CONV, "residual", (1, 2, 255)), (POOL, "residual", (1,)), (CONV, "z_in", (1, 128)),
        (POOL, "z_in", (1,)), (CONV, "zero", (1, 255)), (POOL, "zero", (1,)),
        (CONV, "stride", (0, 5, 128, 255)), (POOL, "stride", (0, 5, 255)),
        (CONV, "stride", (2, 3, 4)),  # outputs of 1
        (CONV, "same", (2, 255)), (POOL, "same", (2, 255)), (CONV, "same", (0,)),
        (CONV, "inputs", (0, 59, 61, *HUGE)), (LAST, "inputs", (0, 23, 25, *HUGE)),
        (CONV, "outputs", (0, 119, 121, 30 * 4097, 65_537, 65_520 + 30, *HUGE)),
        (DEPTHWISE, "outputs", (0, 90, 150, 60)), (POOL, "outputs", (0, 18, 30)),
        (CONV, "taps", (0, 2, 17, 19, 4096, *HUGE)), (DEPTHWISE, "taps", (0, 36, *HUGE)),
        (POOL, "taps", (1, 4, *HUGE)),
    ],
)  # fmt: skip
def test_number_outside_its_range(number: int, field: str, values: tuple[int, ...]) -> None:
    for value in values:
        assert status_of(changed(PICTURE, number, **{field: value})) == SHAPE, value


@pytest.mark.parametrize(
    ("field", "values"),
    [("kernel", (0, 2, 3, 255)), ("stride", (0, 2, 4)), ("same", (0, 2)), ("add", (1, 2, 3)),
     ("taps", (1, 4)), ("outputs", (4, 6, 20))],
)  # fmt: skip
def test_mean_pool_that_is_something_else(field: str, values: tuple[int, ...]) -> None:
    for value in values:
        assert status_of(changed(MEAN, 1, **{field: value})) == SHAPE, value


@pytest.mark.parametrize("kind", [0, 3, 16, 21, 22, 32, 33, 255])
@pytest.mark.parametrize("number", range(5))
def test_kind_that_there_is_none_of(number: int, kind: int) -> None:
    assert status_of(changed(PICTURE, number, kind=kind)) == KIND


@pytest.mark.parametrize("kind", [17, 18, 19, 20])
def test_trunk_layer_behind_a_layer(kind: int) -> None:
    assert status_of(changed(PICTURE, 6, kind=kind)) == KIND
    assert status_of(changed(nets.network(), 1, kind=kind)) == KIND


@pytest.mark.parametrize("kind", [17, 18, 19, 20])
def test_layer_that_calls_itself_one_of_the_trunk(kind: int) -> None:
    assert status_of(changed(PICTURE, 5, kind=kind)) == SHAPE
    assert status_of(changed(nets.network(), 0, kind=kind)) == SHAPE


def test_one_kind_of_the_trunk_for_another() -> None:
    for number, kinds in ((CONV, (18, 19, 20)), (DEPTHWISE, (17, 19, 20)), (POOL, (17, 18, 20))):
        for kind in kinds:
            assert status_of(changed(PICTURE, number, kind=kind)) == SHAPE
    for kind in (17, 18, 19):
        assert status_of(changed(MEAN, 1, kind=kind)) == SHAPE


@pytest.mark.parametrize(
    ("number", "add"),
    [(CONV, 1), (CONV, 2), (CONV, 255), (DEPTHWISE, 1), (DEPTHWISE, 3), (DEPTHWISE, 4),
     (DEPTHWISE, 6), (PLUS, 1), (PLUS, 4), (PLUS, 5), (PLUS, 33), (PLUS, 255), (POOL, 1),
     (POOL, 4), (LAST, 1), (LAST, 2), (LAST, 5), (LAST, 6), (LAST, 7)],
)  # fmt: skip
def test_addition_of_what_comes_later_or_has_another_shape(number: int, add: int) -> None:
    assert status_of(changed(PICTURE, number, add=add)) == SHAPE


@pytest.mark.parametrize("number", [DEPTHWISE, PLUS])
def test_addition_in_another_scale(number: int) -> None:
    (s_out,) = struct.unpack_from("<f", dict(parts_of(PICTURE))[net.NET], record(number) + 24)
    assert status_of(changed(PICTURE, number, s_out=s_out)) == core.OK
    for other in (s_out * (1 + 2**-22), s_out * (1 - 2**-22), 1.0):
        assert status_of(changed(PICTURE, number, s_out=other)) == SCALE
    # A layer that nobody adds and that adds nothing may have any scale.
    assert status_of(changed(PICTURE, LAST, s_out=1.0)) == core.OK


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, -0.0, 3.3e38])
@pytest.mark.parametrize("field", ["s_in", "s_w", "s_out"])
def test_scale_that_is_not_finite_and_positive(field: str, value: float) -> None:
    for number in range(5):
        assert status_of(changed(PICTURE, number, **{field: value})) == SCALE
    assert status_of(changed(MEAN, 1, **{field: value})) == SCALE


@pytest.mark.parametrize(
    ("s_in", "s_w", "s_out"),
    [(3e38, 1.0, 1e-3), (1e20, 1e20, 1e20), (1e-38, 1e-38, 1e-38), (1e-45, 1.0, 1e30),
     (2e38, 1.0, 0.5)],
)  # fmt: skip
def test_mean_pool_whose_multiplier_is_none(s_in: float, s_w: float, s_out: float) -> None:
    assert status_of(changed(MEAN, 1, s_in=s_in, s_w=s_w, s_out=s_out)) == SCALE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 3.3e38])
def test_multiplier_that_is_not_finite_and_positive(value: float) -> None:
    at = 0
    for layer in PICTURE.trunk:
        for channel in (0, layer.rows - 1) if layer.rows else ():
            place = at + 4 * layer.rows + 4 * channel
            change = lambda b, place=place: struct.pack_into("<f", b, place, value)  # noqa: E731
            assert status_of(with_part(PICTURE, net.ROWS, change)) == SCALE
        at += 8 * layer.rows


@pytest.mark.parametrize("sign", [1, -1])
def test_bias_with_which_a_sum_could_overflow(sign: int) -> None:
    at = 0
    for layer in PICTURE.trunk:
        for channel in (0, layer.rows - 1) if layer.rows else ():
            most = 2**31 - 1 - layer.taps * 255 * 127
            for over, status in ((0, core.OK), (1, SCALE)):

                def change(b: bytearray, bias: int = sign * (most + over), at: int = at) -> None:
                    struct.pack_into("<i", b, at + 4 * channel, bias)  # noqa: B023

                assert status_of(with_part(PICTURE, net.ROWS, change)) == status
        at += 8 * layer.rows
    change_all = lambda b: struct.pack_into("<i", b, 0, -(2**31))  # noqa: E731
    assert status_of(with_part(PICTURE, net.ROWS, change_all)) == SCALE


def test_weight_of_minus_128() -> None:
    at = 0
    for layer in PICTURE.trunk:
        for place in (at, at + layer.weights - 1) if layer.weights else ():
            change = lambda b, place=place: b.__setitem__(place, 128)  # noqa: E731
            assert status_of(with_part(PICTURE, net.WEIGHTS, change)) == SCALE
        at += layer.weights


def test_zero_point_and_inputs_of_the_layer_behind() -> None:
    first = record(len(PICTURE.trunk))
    for at, form, values in ((3, "<B", (1, 128, 255)), (4, "<I", (0, 11, 13, 60, *HUGE))):
        for value in values:
            change = lambda b, f=form, at=at, v=value: struct.pack_into(f, b, first + at, v)  # noqa: E731
            assert status_of(with_part(PICTURE, net.NET, change)) == SHAPE


def _with_records(network: Network, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """The file with other records in its network section, counted right."""
    parts = dict(parts_of(network))
    head, tail = parts[net.NET][: net.NET_BYTES], parts[net.NET][net.NET_BYTES :]
    size = net.LAYER_BYTES
    records = change([tail[at : at + size] for at in range(0, len(tail), size)])
    out = bytearray(head) + b"".join(records)
    struct.pack_into("<H", out, 6, len(records))
    parts[net.NET] = bytes(out)
    return laid_out(list(parts.items()), network.align, network.learning)


def test_more_layers_than_there_may_be() -> None:
    plain = conv((3, 3, 2), 2)
    for count, status in ((32, core.OK), (33, SHAPE), (40, SHAPE)):
        network = nets.network((3, 3, 2), (), 2, trunk=(plain,) * min(count, 32), batch=1)
        data = _with_records(network, lambda r, n=count: [r[0]] * n + r[-1:])  # type: ignore[misc]
        assert status_of(data) == status, count
    for count, status in ((8, core.OK), (9, SHAPE)):
        hidden = tuple(net.dense(18, 18) for _ in range(7))
        network = nets.network((3, 3, 2), hidden, 18, trunk=(plain,), learning=False, batch=1)
        data = _with_records(network, lambda r, n=count: r[:1] + [r[1]] * (n - 1) + r[-1:])  # type: ignore[misc]
        assert status_of(data) == status, count


def test_trunk_without_a_layer_behind_it() -> None:
    assert status_of(_with_records(PICTURE, lambda r: r[:5])) == SHAPE
    assert status_of(_with_records(MEAN, lambda r: r[:2])) == SHAPE


def test_mean_pool_in_the_middle() -> None:
    assert status_of(_with_records(MEAN, lambda r: [r[0], r[1], r[1], r[2]])) == SHAPE
    for kernel, kind, taps in ((1, 17, 5), (3, 18, 9), (2, 19, 0)):
        after = struct.pack(
            "<BBBBIIIfffBBBx", kind, kernel, 0, 0, 5, 5, taps, 0.01, 1.0, 0.01, 1, 1, 0
        )
        data = _with_records(MEAN, lambda r, after=after: [r[0], r[1], after, r[2]])  # type: ignore[misc]
        assert status_of(data) == SHAPE


def test_trunk_with_a_scale_for_each_input() -> None:
    parts = dict(parts_of(MEAN))
    head = bytearray(parts[net.NET])
    struct.pack_into("<I", head, 8, MEAN.inputs)
    one = parts[net.INPUT]
    parts |= {net.NET: bytes(head), net.INPUT: one[:4] * MEAN.inputs + one[4:] * MEAN.inputs}
    assert status_of(laid_out(list(parts.items()), 64, False)) == SHAPE


@pytest.mark.parametrize("by", [-64, -4, -3, -1, 1, 3, 4, 64])
@pytest.mark.parametrize("name", FILES)
def test_memory_of_another_length_than_the_rows_need(name: str, by: int) -> None:
    network = FILES[name]
    for kind in (net.ACTIVATIONS, net.WEIGHTS, net.ROWS):

        def change(b: bytearray) -> None:
            b[:] = (bytes(b) + bytes(64))[: len(b) + by]

        assert status_of(with_part(network, kind, change)) == SECTION, kind


def test_largest_trunk_whose_sections_are_missing() -> None:
    # 32 x 4,096 channels of 4,096 taps are 2^29 weights, and every product below fits 32 bits; the
    # outputs of 65,536 x 65,536 do not.
    largest = struct.pack(
        "<BBBBIIIfffBBBx", 17, 1, 0, 0, 65_536, 65_536, 4096, 0.1, 1.0, 0.1, 1, 1, 0
    )
    parts = dict(parts_of(MEAN))
    head = bytearray(parts[net.NET][: net.NET_BYTES])
    struct.pack_into("<I", head, 0, 65_536)
    struct.pack_into("<IIH", head, 12, 4, 4, 4096)
    tail = bytearray(parts[net.NET][-net.LAYER_BYTES :])
    struct.pack_into("<I", tail, 4, 65_536)
    struct.pack_into("<I", tail, 12, 65_536)
    struct.pack_into("<H", head, 6, 33)
    parts[net.NET] = bytes(head) + largest * 32 + bytes(tail)
    assert status_of(laid_out(list(parts.items()), 64, False)) == SECTION
    for field, value in (("outputs", 0), ("outputs", 2**32 - 65_536), ("taps", 0)):
        at, form = FIELDS[field]
        wrong = bytearray(largest)
        struct.pack_into(form, wrong, at, value)
        parts[net.NET] = bytes(head) + bytes(wrong) + largest * 31 + bytes(tail)
        assert status_of(laid_out(list(parts.items()), 64, False)) == SHAPE, field
