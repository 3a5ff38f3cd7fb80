"""The core learns, rewires and remembers as the reference does, over geometry and variants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests import nets
from tests import sparse as sparse_asserts
from tests.core import reference
from tests.core.conftest import VARIANTS
from zgedge import arena
from zgedge import network as net
from zgedge.network import Network, conv, dense, depthwise, max_pool, mean_pool, sparse
from zgedge.runtime import Learner, Model
from zgedge.runtime import core_library as core

CONVOLVED = (
    conv((8, 7, 1), 5), depthwise((8, 7, 5)), conv((8, 7, 5), 5, 1, add=1),
    max_pool((8, 7, 5), 3, 2, same=True),
)  # fmt: skip
MEANT = (conv((8, 7, 1), 5, 3, 2), conv((4, 4, 5), 5, add=1), mean_pool((4, 4, 5)))

# One name for each geometry; a failure's id replays it.
NETWORKS: dict[str, Network] = {
    "one-sparse-b1": nets.network((1, 24, 1), (sparse(24, 9, 5),), 4),
    "one-sparse-b1-wide": nets.network((1, 300, 1), (sparse(300, 20, 32),), 5),
    "one-sparse-b4": nets.network((1, 24, 1), (sparse(24, 12, 8, 4),), 4),
    "one-sparse-b8": nets.network((1, 64, 1), (sparse(64, 7, 24, 8),), 3),
    "one-sparse-b16": nets.network((1, 64, 1), (sparse(64, 17, 32, 16),), 3),
    "odd-everything": nets.network((1, 33, 1), (sparse(33, 17, 5), sparse(17, 9, 3)), 3, batch=8),
    "two-hidden-mixed": nets.network((1, 32, 1), (sparse(32, 24, 12, 4), dense(24, 11)), 6),
    "dense-only": nets.network((1, 10, 1), (dense(10, 6),), 3),
    "no-hidden": nets.network((1, 12, 1), (), 4),
    "no-hidden-sparse": Network((1, 40, 1), 4, (sparse(40, 4, 8),), 8),
    "table": nets.network((1, 21, 1), (sparse(21, 18, 6),), 4, groups=21, task="table"),
    "table-b4-batch-4": nets.network((1, 28, 1), (sparse(28, 9, 8, 4),), 4, groups=28, batch=4),
    "batch-1": nets.network((1, 24, 1), (sparse(24, 12, 6),), 4, batch=1),
    "batch-2": nets.network((1, 24, 1), (sparse(24, 12, 6),), 4, batch=2),
    "batch-32": nets.network((1, 24, 1), (sparse(24, 12, 6),), 4, batch=32),
    "batch-64": nets.network((1, 20, 1), (sparse(20, 8, 8, 4),), 4, batch=64),
    "replay-4-bit": nets.network(
        (1, 25, 1), (sparse(25, 12, 6),), 4, replay_samples=13, replay_bits=4
    ),
    "replay-8-bit": nets.network(
        (1, 24, 1), (sparse(24, 12, 8, 4),), 4, replay_samples=9, replay_bits=8, batch=8
    ),
    "replay-1-bit": nets.network(
        (1, 27, 1), (sparse(27, 12, 6),), 4, replay_samples=13, replay_bits=1
    ),
    "replay-2-bit": nets.network(
        (1, 35, 1), (sparse(35, 12, 6),), 4, replay_samples=13, replay_bits=2, batch=4
    ),
    "replay-of-places": nets.network(
        (5, 7, 2), (sparse(70, 12, 6),), 4, replay_samples=13, replay_bits=4, replay_pool=2
    ),
    "replay-of-places-1-bit": nets.network(
        (6, 6, 1),
        (sparse(36, 8, 8, 4),),
        4,
        replay_samples=9,
        replay_bits=1,
        replay_pool=2,
        batch=2,
    ),
    "replay-of-places-8-bit": nets.network(
        (4, 5, 3),
        (sparse(60, 8, 8, 4),),
        4,
        replay_samples=9,
        replay_bits=8,
        replay_pool=2,
        batch=8,
    ),
    "labels-of-two-bytes": nets.network(
        (1, 9, 1), (sparse(9, 7, 3),), 300, replay_samples=11, replay_bits=4, batch=4
    ),
    "trunk": nets.network((8, 7, 1), (sparse(80, 9, 12, 4),), 4, trunk=CONVOLVED, batch=8),
    "trunk-replay-4-bit": nets.network(
        (8, 7, 1), (sparse(80, 9, 7),), 4, trunk=CONVOLVED, replay_samples=11, replay_bits=4
    ),
    "trunk-replay-8-bit-head": nets.network(
        (8, 7, 1), (), 5, trunk=MEANT, replay_samples=9, replay_bits=8, batch=4
    ),
    "trunk-batch-1": nets.network((8, 7, 1), (sparse(80, 12, 20),), 4, trunk=CONVOLVED, batch=1),
    "trunk-batch-64": nets.network((8, 7, 1), (sparse(5, 7, 3),), 4, trunk=MEANT, batch=64),
}


def _start(name: str, **learner: Any) -> tuple[Model, reference.Learner]:
    network = NETWORKS[name]
    if learner.get("strategy") == "attention":
        network = replace(network, traces=5)
    parameters = nets.parameters(network, seed=len(name))
    options = {"rate": 0.3, "swaps": 2, "gather": 16, "strategy": "rigl", **learner}
    parameters.learner = arena.LearnerParameters(key=0xC0FFEE + len(name), **options)
    buffer = nets.buffer(arena.write(network, parameters))
    return Model(buffer, name), reference.Learner(buffer)


def run_both(model: Model, twin: reference.Learner, steps: int, dtype: type = np.float32) -> None:
    """Steps of every size with all of the replay that fits, compared after each few."""
    network = model.arena.network
    learner = Learner(model)
    x, y = nets.samples(network, 4 * network.batch, seed=5)
    x = x * np.float32(1.3) - np.float32(0.1)  # some values outside what the coding expresses
    if dtype is np.uint8:
        x = np.clip(x * 2, 0, 255).astype(np.uint8)
    rng = np.random.default_rng(7)
    for step in range(steps):
        n = int(rng.integers(1, network.batch + 1))
        chosen = rng.integers(0, len(x), n)
        replay = network.batch - n
        learner._y[:n] = y[chosen]
        learner._step(x[chosen], n, replay)
        twin.step(x[chosen], y[chosen].tolist(), replay)
        if step % 5 == 0 or step == steps - 1:
            twin.check(model.arena.buffer)


@pytest.mark.parametrize("name", NETWORKS)
def test_core_leaves_what_the_reference_leaves(name: str, variant: str) -> None:
    model, twin = _start(name)
    run_both(model, twin, 30)
    assert twin.rewired > 0 or all(x.kind != net.SPARSE for x in model.arena.network.layers)
    model.seal()
    Model(nets.buffer(model.arena.buffer.tobytes()))


def _random_case(seed: int) -> tuple[Network, int, dict[str, Any], type]:
    """Any network, zero point and settings that the format holds, as small as the twin is slow."""
    rng = np.random.default_rng(seed)

    def one(*of: Any) -> Any:
        return of[int(rng.integers(len(of)))]

    block = one(1, 4, 8, 16)
    inputs = width = block * int(rng.integers(2, 80 // block + 2))
    layers = []
    for _ in range(int(rng.integers(1, 4))):
        block = block if width % block == 0 else 1
        units = one(1, block) * int(rng.integers(1, 20))
        fan_in = block * int(rng.integers(1, min(width, 40) // block + 1))
        layers.append(sparse(width, units, fan_in, block) if rng.random() < 0.8
                      else dense(width, units))  # fmt: skip
        width = units
    samples = int(rng.integers(0, 24))
    network = nets.network(
        (1, inputs, 1), tuple(layers), int(rng.integers(2, 9)), batch=2 ** int(rng.integers(0, 6)),
        groups=one(1, inputs), traces=one(0, 1, 3, 16), replay_samples=samples,
        replay_bits=one(4, 8) if samples else 0, align=one(8, 16, 32, 64),
    )  # fmt: skip
    strategies = [
        x for x in arena.STRATEGIES if x != "attention" or network.section_bytes().get(net.TRACES)
    ]
    settings = {
        "rate": float(10 ** rng.uniform(-4, 0.9)), "strategy": one(*strategies),
        "swaps": int(rng.integers(0, 9)), "gather": int(rng.integers(1, 60)),
        "learn": one("all", "all", "all", "head"), "keep": one(*arena.KEEP),
    }  # fmt: skip
    return network, one(0, 128, 255), settings, one(np.float32, np.uint8)


@pytest.mark.parametrize("seed", range(25))
def test_any_network_learns_as_the_reference_does(seed: int, variant: str) -> None:
    network, z_in, settings, dtype = _random_case(seed)
    parameters = nets.parameters(network, seed)
    parameters.layers[0].z_in = z_in
    parameters.learner = arena.LearnerParameters(key=seed * 0x9E3779B9 % 2**32, **settings)
    buffer = nets.buffer(arena.write(network, parameters))
    twin = reference.Learner(buffer)
    model = Model(buffer)
    run_both(model, twin, 16, dtype)
    model.seal()
    Model(nets.buffer(model.arena.buffer.tobytes()))


def test_random_networks_cover_what_they_should() -> None:
    cases = [_random_case(seed) for seed in range(25)]
    layers = [layer for network, *_ in cases for layer in network.layers]
    assert {x.block for x in layers if x.kind == net.SPARSE} == {1, 4, 8, 16}
    assert {network.batch for network, *_ in cases} >= {1, 2, 4, 8, 16, 32}
    assert {network.replay_bits for network, *_ in cases} == {0, 4, 8}
    assert {settings["strategy"] for _, _, settings, _ in cases} == set(arena.STRATEGIES)
    assert {z_in for _, z_in, _, _ in cases} == {0, 128, 255}


@pytest.mark.parametrize(
    "name", ["replay-4-bit", "replay-8-bit", "labels-of-two-bytes", "replay-1-bit"]
)
def test_a_reservoir_is_the_references(name: str, variant: str) -> None:
    model, twin = _start(name, keep="reservoir")
    run_both(model, twin, 60)
    assert twin.samples > 3 * model.arena.network.replay_samples
    assert Learner(model).status()["keep"] == "reservoir"


def test_each_sample_of_a_stream_is_as_likely_to_stay_in_a_reservoir() -> None:
    room, length = 64, 4096
    held = {}
    for keep in arena.KEEP:
        network = nets.network((1, 2, 1), (net.dense(2, 2),), 2, batch=1,
                               replay_samples=room, replay_bits=8)  # fmt: skip
        ages = []
        for seed in range(20):
            parameters = nets.parameters(network, 1)
            parameters.input_scale[:] = 255
            parameters.learner = arena.LearnerParameters(key=seed, keep=keep)
            model = Model(nets.buffer(arena.write(network, parameters)))
            learner = Learner(model)
            for i in range(length):
                learner._y[0] = i % 2
                learner._step(np.array([[i // 256, i % 256]], np.float32) / 255, 1, 0)
            packed = model.arena.section(net.REPLAY)[4 + room :].reshape(room, 2).astype(int)
            ages.append(packed @ [256, 1])
        held[keep] = np.concatenate(ages) / length
    # 1,280 numbers that are uniform have a mean of 0.5 with a deviation of 0.008.
    assert abs(held["reservoir"].mean() - 0.5) < 0.03
    assert (held["reservoir"] < 0.25).mean() == pytest.approx(0.25, abs=0.05)
    assert held["fade"].mean() > 0.95


def test_a_rare_class_keeps_its_share_of_a_reservoir() -> None:
    network = nets.network((1, 2, 1), (net.dense(2, 4),), 4, batch=1,
                           replay_samples=40, replay_bits=8)  # fmt: skip
    parameters = nets.parameters(network, 1)
    parameters.learner = arena.LearnerParameters(key=1, keep="reservoir")
    model = Model(nets.buffer(arena.write(network, parameters)))
    learner = Learner(model)
    for i in range(3000):  # class 3 comes last, and once in twenty
        y = 3 if i > 2000 and i % 20 == 0 else i % 3
        learner._y[0] = y
        learner._step(np.zeros((1, 2), np.float32), 1, 0)
    counts = model.arena.section(net.REPLAY)[:8].view(np.uint16)
    assert counts.sum() == 40
    assert counts.min() == 10


@pytest.mark.parametrize("name", ["replay-4-bit", "replay-8-bit", "labels-of-two-bytes", "table"])
def test_samples_stored_without_learning(name: str, variant: str) -> None:
    model, twin = _start(name)
    learner = Learner(model)
    x, y = nets.samples(model.arena.network, 30, seed=9)
    for at in (0, 7, 20):
        learner.remember(x[at : at + 10], y[at : at + 10])
        twin.store(x[at : at + 10], y[at : at + 10].tolist())
        twin.check(model.arena.buffer)
    run_both(model, twin, 6)


def test_step_answers_what_a_prediction_would_have(variant: str) -> None:
    network = NETWORKS["batch-64"]
    parameters = nets.parameters(network, seed=4)
    x, y = nets.samples(network, 64)
    _, scores = Model(nets.buffer(arena.write(network, parameters))).predict_index(x)
    parameters.unknown = int(np.sort(scores)[32])  # one sample's own score: not unknown
    model = Model(nets.buffer(arena.write(network, parameters)))
    expected, _ = model.predict_index(x)
    assert np.array_equal(expected == -1, scores < parameters.unknown)
    learner = Learner(model)
    learner._y[:] = y
    learner._step(x, 64, 0)
    assert np.array_equal(learner._was, expected)


@pytest.mark.parametrize("name", ["replay-4-bit", "replay-8-bit", "labels-of-two-bytes"])
def test_what_is_forgotten_leaves_no_byte(name: str) -> None:
    model, _ = _start(name)
    learner = Learner(model)
    learner.remember(*nets.samples(model.arena.network, 40))
    assert model.arena.section(net.REPLAY).any()
    learner.forget()
    assert not model.arena.section(net.REPLAY).any()
    assert learner.status()["remembered"] == 0


@pytest.mark.parametrize("name", ["one-sparse-b1", "two-hidden-mixed", "replay-4-bit", "no-hidden"])
@pytest.mark.parametrize("strategy", [x for x in arena.STRATEGIES if x != "static"])
def test_sealed_read_and_continued_is_as_if_never_stopped(name: str, strategy: str) -> None:
    network = NETWORKS[name]
    if strategy == "attention" and all(layer.kind != net.SPARSE for layer in network.layers):
        strategy = "rigl"  # there is nothing to sketch
    x, y = nets.samples(network, 40)
    left = []
    for stops in ((), (3, 11, 12, 30)):
        model, _ = _start(name, strategy=strategy, gather=40)
        for i in range(40):
            if i in stops:
                model.seal()
                model = Model(nets.buffer(model.arena.buffer.tobytes()))
            Learner(model).learn_one(x[i], str(y[i]))
        assert model.arena.generation == len(stops)
        model.arena.buffer[16:24] = 0  # the generation
        model.seal()
        left.append(model.arena.buffer.tobytes())
    assert left[0] == left[1]


@pytest.mark.parametrize("fault", ["nan", "infinity", "label", "replay", "count"])
def test_step_that_is_refused_changes_no_byte(fault: str, variant: str) -> None:
    model, _ = _start("replay-4-bit")
    learner = Learner(model)
    x, y = nets.samples(model.arena.network, 16)
    learner.learn_many(x, y)
    before = model.arena.buffer.copy()
    n, replay = 4, 2
    learner._y[:n] = y[:n]
    if fault == "nan":
        x[3, -1] = np.nan
    elif fault == "infinity":
        x[3, 0] = -np.inf
    elif fault == "label":
        learner._y[3] = 4
    elif fault == "replay":
        replay = learner.batch - n + 1
    else:
        n = 0
    status = {
        "nan": core.E_INPUT, "infinity": core.E_INPUT, "label": core.E_LABEL,
        "replay": core.E_ARGUMENT, "count": core.E_ARGUMENT,
    }[fault]  # fmt: skip
    learner._x_f32[:4] = x[:4]
    assert status == core.lib.zge_learner_step_f32(
        model._handle, learner._x_f32_at, learner._y_at, n, replay, None, None
    )
    assert np.array_equal(model.arena.buffer, before)


SHAPES = (
    "one-sparse-b1", "one-sparse-b4", "one-sparse-b8", "one-sparse-b16", "two-hidden-mixed",
    "odd-everything", "no-hidden-sparse", "trunk", "trunk-replay-4-bit", "batch-1", "batch-64",
    "replay-4-bit",
)  # fmt: skip


@pytest.mark.parametrize("name", ["one-sparse-b4", "two-hidden-mixed", "no-hidden-sparse"])
@pytest.mark.parametrize("strategy", arena.STRATEGIES)
def test_strategies(name: str, strategy: str, variant: str) -> None:
    model, twin = _start(name, strategy=strategy, gather=8, swaps=3)
    run_both(model, twin, 20)
    assert (twin.rewired > 0) == (strategy != "static")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("strategy", arena.STRATEGIES)
def test_strategies_through_three_thousand_steps(name: str, strategy: str, variant: str) -> None:
    model, twin = _start(name, strategy=strategy, gather=24, swaps=3, rate=0.05)
    run_both(model, twin, 3000)


@pytest.mark.parametrize("learn", ["head", "none"])
def test_frozen_parts_stay(learn: str, variant: str) -> None:
    model, twin = _start("replay-4-bit", learn=learn)
    before = model.arena.weights(0).copy(), model.arena.raw_indices(0)
    run_both(model, twin, 20)
    assert np.array_equal(before[0], model.arena.weights(0))
    assert twin.rewired == 0


@pytest.mark.parametrize("rate", [8.0, 1e-3, 1e-6, 3e-7, 1e-9, 1e-40])
def test_rates_at_the_ends_of_their_range(rate: float, variant: str) -> None:
    model, twin = _start("one-sparse-b4", rate=rate)
    run_both(model, twin, 20)


@pytest.mark.parametrize("sign", [1, -1])
def test_steps_without_bound_end_at_the_bounds(sign: int, variant: str) -> None:
    # Coefficients that are no float any more once the rate is multiplied in. All biases of the head
    # are at one end: the errors of a sample add up to about 0, so some of them push outwards.
    network = NETWORKS["one-sparse-b1"]
    parameters = nets.parameters(network, seed=2)
    parameters.learner = arena.LearnerParameters(key=2, rate=8.0, strategy="set", gather=8)
    bound = 2**31 - 1 - network.layers[-1].width * 255 * 127
    parameters.layers[-1].bias[:] = sign * bound
    data = bytearray(arena.write(network, parameters))
    at = arena.Arena(nets.buffer(bytes(data))).offsets[net.LEARNER][0] + net.LEARNER_BYTES
    np.frombuffer(data, "<f4", 2 * len(network.layers), at)[:] = 2.9e38
    arena.sign(memoryview(data))
    buffer = nets.buffer(bytes(data))
    twin = reference.Learner(buffer)
    model = Model(buffer)
    with np.errstate(over="ignore"):
        run_both(model, twin, 12)
    assert int(np.abs(twin.layers[-1].v).max()) == 127 * 16
    model.seal()
    Model(nets.buffer(model.arena.buffer.tobytes()))


def test_zero_swaps_rewire_nothing(variant: str) -> None:
    model, twin = _start("one-sparse-b1", swaps=0)
    run_both(model, twin, 20)
    assert twin.rewired == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_equals_dense_integers(name: str, variant: str) -> None:
    network = NETWORKS[name]
    parameters = nets.parameters(network, seed=3)
    model = Model(nets.buffer(arena.write(network, parameters)))
    x, _ = nets.samples(network, 150)
    expected = nets.reference_logits(network, parameters, x)
    assert np.array_equal(model.logits(x), expected)
    found, _ = model.predict_index(x)
    assert np.array_equal(found, expected.argmax(axis=1))
    one = [model.predict_one(row) for row in x[:20]]
    assert one == model.predict(x[:20]).tolist()


@pytest.mark.parametrize("strategy", [x for x in arena.STRATEGIES if x != "static"])
@pytest.mark.parametrize("name", ["one-sparse-b1-wide", "one-sparse-b16", "odd-everything"])
def test_invariants_hold_through_two_thousand_steps(name: str, strategy: str) -> None:
    # One sample alone has no covariance.
    gather = 4 if strategy == "hebbian" else 1
    model, _ = _start(name, strategy=strategy, gather=gather, swaps=3)
    learner = Learner(model)
    network = model.arena.network
    x, y = nets.samples(network, 64)
    for i in range(2000):
        learner.learn_one(x[i % 64], int(y[i % 64]))
    sparse_asserts.assert_arena(model.arena, network)
    assert learner.status()["rewired"] > 0
    model.seal()
    Model(nets.buffer(model.arena.buffer.tobytes()))


def test_new_wire_starts_at_weight_zero_and_leaves_the_answer_but_for_the_dropped() -> None:
    model, _ = _start("one-sparse-b1-wide", gather=1, swaps=1, rate=1e-9)
    learner = Learner(model)
    x, y = nets.samples(model.arena.network, 8)
    before = [model.arena.raw_indices(0).copy(), model.arena.weights(0).copy()]  # type: ignore[union-attr]
    learner.learn_many(x[:1], y[:1])
    indices, weights = model.arena.indices(0), model.arena.weights(0)
    mask = np.uint16((1 << model.arena.network.layers[0].index_bits) - 1)
    moved = np.argwhere(indices != before[0] & mask)
    assert len(moved) <= 1
    for row, place in moved:
        assert weights[row, place] == 0
        others = np.delete(np.arange(weights.shape[1]), place)
        assert np.array_equal(weights[row, others], before[1][row, others])


@pytest.mark.parametrize("name", NETWORKS)
def test_variants_leave_the_same_bytes_after_thousands_of_steps(name: str) -> None:
    left = {}
    before = core.variant()
    try:
        for variant in VARIANTS:
            core.select_variant(variant)
            model, _ = _start(name, gather=4)
            learner = Learner(model)
            x, y = nets.samples(model.arena.network, 50)
            for i in range(60):
                learner.learn_many(x, y)
                learner.learn_one(x[i % 50], int(y[i % 50]))
            model.seal()
            left[variant] = model.arena.buffer.tobytes()
    finally:
        core.select_variant(before)
    assert len(set(left.values())) == 1, f"variants differ: {list(left)}"
