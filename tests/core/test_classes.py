"""Classes that get their name on the device, and samples that wait for their label."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from tests import nets
from tests.core import reference
from zgedge import arena
from zgedge import network as net
from zgedge.errors import DataError, ModelError, UsageError, ZgedgeError
from zgedge.network import Network, conv, max_pool, sparse
from zgedge.runtime import Learner, Model
from zgedge.runtime import core_library as core

TRUNK = (conv((8, 7, 1), 3, same=False), max_pool((6, 5, 3)))
REPLAY: dict[str, Any] = {"replay_samples": 9, "replay_bits": 4}
NETWORKS: dict[str, Network] = {
    "replay": nets.network((1, 24, 1), (sparse(24, 12, 8, 4),), 6, known=3, pending=4, **REPLAY),
    "no-replay": nets.network((1, 24, 1), (sparse(24, 12, 6),), 5, known=2, pending=3, batch=4),
    "sparse-head": Network(
        (1, 40, 1), 5, (sparse(40, 5, 8),), names_bytes=5 * 25, known=3, pending=2
    ),
    "analytic": nets.network((1, 16, 1), (), 5, known=2, pending=3, batch=2, head="analytic"),
    "places": nets.network(
        (5, 7, 2), (sparse(70, 12, 6),), 4, known=3, pending=3, replay_pool=2, **REPLAY
    ),
    "two-byte-labels": nets.network(
        (1, 9, 1), (sparse(9, 7, 3),), 300, known=298, pending=2, batch=4, **REPLAY
    ),
    "trunk": nets.network((8, 7, 1), (), 5, trunk=TRUNK, known=3, pending=3, **REPLAY),
    "all-named": nets.network((1, 9, 1), (), 4, pending=1, batch=2),
    "guarded": nets.network(
        (1, 24, 1), (sparse(24, 12, 6),), 5, known=3, pending=3, watch=True, anchors=110, **REPLAY
    ),
    "guarded-sparse-head": Network(
        (1, 40, 1), 5, (sparse(40, 5, 8),), names_bytes=5 * 25, known=3, pending=2, watch=True,
        anchors=104,
    ),
}  # fmt: skip


def start(name: str, **options: Any) -> Model:
    network = NETWORKS[name]
    parameters = nets.parameters(network, seed=len(name))
    parameters.learner = arena.LearnerParameters(key=9, rate=0.3, swaps=2, gather=16)
    for key, value in options.items():
        setattr(parameters, key, value)
    return Model(nets.buffer(arena.write(network, parameters)), name)


def _run(model: Model, twin: reference.Learner, steps: int, seed: int = 0) -> None:
    learner = Learner(model)
    network = model.arena.network
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (40, network.inputs)).astype(np.float32)
    for step in range(steps):
        known = len(model.classes)
        kind, i = int(rng.integers(8)), int(rng.integers(len(x)))
        key, label = int(rng.integers(2 * network.pending)), int(rng.integers(known))
        if kind < 3:
            learner.learn_one(x[i], label)
            twin.step(x[i][None], [label], network.batch - 1)
        elif kind < 6:
            learner.hold(key, x[i])
            twin.hold(key, x[i])
        elif kind == 6:
            if twin.settle(key, label, network.batch - 1):
                learner.settle(key, label)
            else:
                with pytest.raises(DataError, match=f"the id {key} waits"):
                    learner.settle(key, label)
        elif step % 3 == 0 and known < network.classes:
            learner.add_class(known)
            twin.add_class()
        if step % 9 == 0 or step == steps - 1:
            twin.check(model.arena.buffer)


@pytest.mark.parametrize("name", NETWORKS)
def test_core_leaves_what_the_reference_leaves(name: str, variant: str) -> None:
    model = start(name)
    twin = reference.Learner(model.arena.buffer)
    _run(model, twin, 110)
    assert twin.dropped > 0
    assert twin.unknown_ids > 0
    status = Learner(model).status()
    assert status["pending"] == len(twin.waiting)
    assert status["pending_dropped"] == twin.dropped
    assert status["pending_unknown"] == twin.unknown_ids
    model.seal()
    again = Model(nets.buffer(model.arena.buffer.tobytes()))
    assert again.classes.tolist() == model.classes.tolist()
    assert len(again.classes) == twin.known


@pytest.mark.parametrize("name", NETWORKS)
def test_nobody_waits_in_a_stripped_file(name: str) -> None:
    model = start(name)
    learner = Learner(model)
    x = np.random.default_rng(0).uniform(0, 1, (2, model.inputs)).astype(np.float32)
    learner.hold("a", x[0])
    held = model.arena.section(net.PENDING)[net.PENDING_BYTES :]
    assert held.any()
    learner.strip()
    assert not held.any()
    assert learner.status()["pending"] == 0
    model.seal()
    again = Learner(Model(nets.buffer(model.arena.buffer.tobytes())))
    again.hold("b", x[1])
    assert again.status()["pending"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_thousands_of_steps_are_the_references(name: str) -> None:
    for seed in range(3):
        model = start(name)
        _run(model, reference.Learner(model.arena.buffer), 1500, seed)


# ---- classes ----


def test_a_class_is_named_learned_and_predicted() -> None:
    model = start("replay")
    learner = Learner(model)
    x, y = nets.samples(nets.network((1, 24, 1), (), 4), 400, seed=3)
    assert set(model.predict(x).tolist()) <= {0, 1, 2}
    assert model.predict_proba(x).shape == model.logits(x).shape == (400, 3)
    with pytest.raises(DataError, match="not a class"):
        learner.learn_one(x[0], 3)
    assert learner.add_class(3) == 3
    assert model.classes.tolist() == [0, 1, 2, 3]
    # Named, but without a sample it is predicted for nothing.
    for i in np.flatnonzero(y != 3)[:100]:
        learner.learn_one(x[i], int(y[i]))
    assert 3 not in model.predict(x)
    for i in [*range(300)] * 3:
        learner.learn_one(x[i], int(y[i]))
    assert (model.predict(x[300:]) == y[300:]).mean() > 0.8


def test_an_analytic_head_learns_a_new_class() -> None:
    model = start("analytic")
    learner = Learner(model)
    x, y = nets.samples(nets.network((1, 16, 1), (), 3), 300, seed=3)
    learner.learn_many(x[y < 2], y[y < 2])
    learner.solve()
    assert set(model.predict(x).tolist()) == {0, 1}
    learner.add_class(2)
    learner.solve()
    assert set(model.predict(x).tolist()) == {0, 1}
    learner.learn_many(x[y == 2], y[y == 2])
    learner.solve()
    assert (model.predict(x) == y).mean() > 0.95


def test_names_that_a_class_cannot_have() -> None:
    model = start("replay", class_names=["a", "b", "ü"], int_classes=False)
    learner = Learner(model)
    before = model.arena.buffer.copy()
    for name, error in (
        ("a", "already"), ("ü", "already"), ("", "empty"), ("x\0y", "no text"), ("\ud800", "text"),
        ("unknown", "already"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=error):
            learner.add_class(name)
    with pytest.raises(UsageError, match="so long"):
        learner.add_class("n" * 25)
    assert np.array_equal(before, model.arena.buffer)
    learner.add_class("n" * 24)
    learner.add_class("Wäsche")
    learner.add_class("é" * 12)
    assert Learner(model).model.classes.tolist()[-2:] == ["Wäsche", "é" * 12]
    with pytest.raises(UsageError, match="room for 6 classes"):
        learner.add_class("one more")
    with pytest.raises(DataError, match="whole number"):
        Learner(start("replay")).add_class("x")
    with pytest.raises(UsageError, match="spare-classes"):
        Learner(start("all-named")).add_class(4)


def test_names_are_as_long_as_the_longest_class_of_training() -> None:
    long = "a" * 30
    blob = arena.names_blob([long, "b"], spare=1)
    assert blob == b"a" * 30 + b"\0b" + b"\xff" * 29 + b"\0" + b"\xff" * 30 + b"\0"
    with pytest.raises(ZgedgeError, match="empty"):
        arena.names_blob([""], spare=0)


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (62, struct.pack("<H", 7)),  # more names than classes
        (62, struct.pack("<H", 4)),  # one more than there is
        (62, struct.pack("<H", 2)),  # one fewer
        (61, b"\2"),  # a head that is none
    ],
)
def test_counts_that_lie_are_refused(offset: int, data: bytes) -> None:
    model = start("replay")
    model.arena.section(net.NET)[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
    model.seal()
    with pytest.raises(ModelError):
        Model(nets.buffer(model.arena.buffer.tobytes()))


def test_names_that_lie_are_refused() -> None:
    for at, byte in ((0, 0xFF), (3, ord("x")), (25 * 3, ord("x")), (25 * 4 + 23, ord("x"))):
        model = start("replay")
        model.arena.section(net.NAMES)[at] = byte
        model.seal()
        with pytest.raises(ModelError, match="names"):
            Model(nets.buffer(model.arena.buffer.tobytes()))


# ---- samples that wait ----


def test_labels_come_late() -> None:
    model, twin = start("no-replay"), start("no-replay")
    x, y = nets.samples(NETWORKS["no-replay"], 60, seed=2)
    late, prompt = Learner(model), Learner(twin)
    for i in range(0, 60, 3):
        for k in range(3):
            assert late.hold(f"order-{i + k}", x[i + k]) == model.predict_one(x[i + k])
        for k in range(3):
            late.settle(f"order-{i + k}", int(y[i + k]))
            prompt.learn_one(x[i + k], int(y[i + k]))
    # Without a replay samples wait as they are: nothing is lost by waiting.
    for i in range(2):
        assert np.array_equal(model.arena.weights(i), twin.arena.weights(i))
    assert late.status()["pending"] == 0
    assert not model.arena.section(net.PENDING)[32:].any(), "what was settled is gone"


def test_the_oldest_goes_and_an_id_twice_replaces() -> None:
    learner = Learner(start("no-replay"))
    x, _ = nets.samples(NETWORKS["no-replay"], 8, seed=2)
    for i in range(3):
        learner.hold(i, x[i])
    learner.hold(0, x[3])  # replaces, and is the newest now
    assert learner.status()["pending"] == 3
    assert learner.status()["pending_dropped"] == 0
    learner.hold(7, x[4])
    assert learner.status()["pending_dropped"] == 1
    with pytest.raises(DataError, match="the id 1 waits"):
        learner.settle(1, 0)
    for key in (0, 2, 7):
        learner.settle(key, 1)
    assert learner.status()["pending_unknown"] == 1


def test_a_label_that_is_none_leaves_the_sample_waiting() -> None:
    learner = Learner(start("no-replay"))
    x, _ = nets.samples(NETWORKS["no-replay"], 2, seed=2)
    learner.hold(5, x[0])
    with pytest.raises(DataError, match="not a class"):
        learner.settle(5, 17)
    assert learner.status()["pending"] == 1
    with pytest.raises(DataError):
        learner.hold(6, [float("nan")] * 24)
    with pytest.raises(DataError, match="shape"):
        learner.hold(6, [1.0])
    assert learner.status()["pending"] == 1


def test_bytes_are_held_as_floats_are() -> None:
    one, two = start("no-replay"), start("no-replay")
    x = np.arange(24, dtype=np.uint8)
    assert Learner(one).hold("a", x) == Learner(two).hold("a", x.astype(np.float32))
    assert np.array_equal(one.arena.section(net.PENDING), two.arena.section(net.PENDING))


def test_ids() -> None:
    # FNV-1a, 64 bits: the values are those of its authors' own table.
    assert arena.id_number("") == 0xCBF29CE484222325
    assert arena.id_number("a") == 0xAF63DC4C8601EC8C
    assert arena.id_number("foobar") == 0x85944171F73967E8
    assert arena.id_number(2**64 - 1) == 2**64 - 1
    learner = Learner(start("no-replay"))
    for bad in (-1, 2**64, 1.5, None, b"x"):
        with pytest.raises(UsageError, match="id"):
            learner.hold(bad, np.zeros(24))  # type: ignore[arg-type]
    plain = Learner(Model(nets.buffer(nets.file(nets.network()))))
    with pytest.raises(UsageError, match="--pending"):
        plain.hold(1, np.zeros(24))


@pytest.mark.parametrize(
    ("offset", "data"),
    [
        (24, struct.pack("<I", 0)), (24, struct.pack("<I", 4)), (24, struct.pack("<I", 2**32 - 1)),
        (28, b"\1"),
        (32, struct.pack("<Q", 3)),  # newer than what came in
        (32, struct.pack("<QQ", 2, 9)),  # the order of another
        (32, struct.pack("<QQ", 1, 8)),  # the id of another
        (32 + 32, struct.pack("<QQ", 0, 3)),  # a free place with an id
    ],
)  # fmt: skip
def test_a_table_that_lies_is_refused(offset: int, data: bytes) -> None:
    model = start("no-replay")
    learner = Learner(model)
    learner.hold(7, np.zeros(24))
    learner.hold(8, np.zeros(24))
    model.arena.section(net.PENDING)[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
    model.seal()
    with pytest.raises(ModelError, match="pending"):
        Model(nets.buffer(model.arena.buffer.tobytes()))


def test_arguments_of_the_calls(variant: str) -> None:
    model = start("no-replay")
    lib, handle = core.lib, model._handle
    x = np.zeros(24, np.float32)
    assert lib.zge_learner_hold_f32(None, 1, x.ctypes.data, None) == core.E_ARGUMENT
    assert lib.zge_learner_hold_f32(handle, 1, None, None) == core.E_ARGUMENT
    assert lib.zge_learner_hold_f32(handle, 1, x.ctypes.data, None) == core.OK
    assert lib.zge_learner_settle(None, 1, 0, 0, None, None) == core.E_ARGUMENT
    assert lib.zge_learner_settle(handle, 1, 0, 4, None, None) == core.E_ARGUMENT
    assert lib.zge_learner_settle(handle, 1, 2, 0, None, None) == core.E_LABEL
    assert lib.zge_learner_settle(handle, 1, 0, 3, None, None) == core.OK
    assert lib.zge_learner_settle(handle, 1, 0, 3, None, None) == core.E_ID
    assert lib.zge_learner_add_class(None, b"9", 1, None) == core.E_ARGUMENT
    assert lib.zge_learner_add_class(handle, None, 1, None) == core.E_ARGUMENT
    assert lib.zge_learner_add_class(handle, b"", 0, None) == core.E_NAME
    assert lib.zge_learner_add_class(handle, b"0", 1, None) == core.E_NAME
    assert lib.zge_learner_add_class(handle, b"a\xff", 2, None) == core.E_NAME
    assert lib.zge_learner_add_class(handle, b"9" * 25, 25, None) == core.E_ROOM
    for name in (b"91", b"92", b"93"):
        assert lib.zge_learner_add_class(handle, name, 2, None) == core.OK
    assert lib.zge_learner_add_class(handle, b"94", 2, None) == core.E_ROOM
    assert lib.zge_learner_solve(None, 1) == core.E_ARGUMENT
    assert lib.zge_learner_solve(handle, 1) == core.E_ARGUMENT
    bare = Model(nets.buffer(nets.file(NETWORKS["no-replay"].for_inference())))
    for status in (
        lib.zge_learner_hold_f32(bare._handle, 1, x.ctypes.data, None),
        lib.zge_learner_settle(bare._handle, 1, 0, 0, None, None),
        lib.zge_learner_add_class(bare._handle, b"9", 1, None),
        lib.zge_learner_solve(bare._handle, 1),
    ):
        assert status == core.E_NO_LEARNING
