"""The core's trunk gives what whole pictures give in numpy, over geometry and variants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import nets
from tests.core import reference
from tests.core.test_learning import run_both
from zgedge import arena
from zgedge import network as net
from zgedge.network import (
    Network,
    TrunkLayer,
    conv,
    dense,
    depthwise,
    max_pool,
    mean_pool,
    sparse,
)
from zgedge.runtime import Learner, Model

Trunk = tuple[TrunkLayer, ...]


def _long() -> Trunk:
    """As many layers as a trunk may have, adders of tensors near and far among them."""
    trunk: list[TrunkLayer] = [conv((5, 6, 2), 4)]
    while len(trunk) < net.MAX_TRUNK:
        i = len(trunk)
        add = (None, i, i - 1 or None, 1, 1)[i % 5]
        trunk.append(depthwise((5, 6, 4), add=add) if i % 2 else conv((5, 6, 4), 4, 1, add=add))
    return tuple(trunk)


# One name for each geometry; a failure's id replays it.
TRUNKS: dict[str, Trunk] = {
    "one-pixel": (conv((1, 1, 3), 4, 3), depthwise((1, 1, 4), 7), conv((1, 1, 4), 4, 1, add=1)),
    "one-row": (conv((1, 19, 2), 5, 3), max_pool((1, 19, 5), 2, 2, same=True)),
    "one-column": (conv((23, 1, 2), 3, 5), depthwise((23, 1, 3), 3, 2), mean_pool((12, 1, 3))),
    "whole-windows": (
        conv((11, 9, 1), 6, 5, same=False), conv((7, 5, 6), 7, 3, 2, same=False),
        depthwise((3, 2, 7), 1, 1, same=False),
    ),
    "window-as-large-as-the-picture": (conv((7, 7, 3), 9, 7, 4, same=False),),
    "stride-beyond-the-kernel": (conv((14, 13, 2), 4, 1, 4), max_pool((4, 4, 4), 2, 3)),
    "rows-that-nothing-needs": (conv((12, 11, 1), 3, 3, 4, same=False), conv((3, 3, 3), 4, 1, 4)),
    "pool-alone": (max_pool((9, 9, 5), 8, 1, same=True),),
    "mean-alone": (mean_pool((6, 5, 17)),),
    "mean-of-one-row": (mean_pool((1, 33, 3)),),
    "added-by-several": (
        conv((6, 6, 3), 8), conv((6, 6, 8), 8, add=1), conv((6, 6, 8), 8, add=1),
        depthwise((6, 6, 8), 5, add=1), conv((6, 6, 8), 8, 1, add=4),
    ),
    "own-input": (conv((7, 5, 3), 3, 7, add=0), depthwise((7, 5, 3), 7, add=1)),
    "blocks": (
        conv((12, 12, 3), 16), conv((12, 12, 16), 16), conv((12, 12, 16), 16, add=1),
        conv((12, 12, 16), 32, 3, 2), conv((6, 6, 32), 32, add=4), mean_pool((6, 6, 32)),
    ),
    "channels-around-vectors": (
        conv((5, 5, 1), 33), conv((5, 5, 33), 31, 1), depthwise((5, 5, 31)), conv((5, 5, 31), 17),
        conv((5, 5, 17), 64, 1), depthwise((5, 5, 64), 3, 2), conv((3, 3, 64), 15, 3, same=False),
    ),
    "taps-at-the-limit": (conv((2, 2, 4096), 3, 1),),
    "channels-at-the-limit": (conv((2, 1, 1), 4096, 1), depthwise((2, 1, 4096), 3)),
    "thirty-two-layers": _long(),
}  # fmt: skip


def _network(trunk: Trunk, **options: Any) -> Network:
    return nets.network(trunk[0].shape, (), 3, trunk=trunk, **options)


def _random(seed: int) -> tuple[Network, arena.Parameters]:
    rng = np.random.default_rng((seed, 77))
    shape = (int(rng.integers(1, 15)), int(rng.integers(1, 15)), int(rng.choice(nets.CHANNELS)))
    trunk = nets.random_trunk(rng, shape, int(rng.choice([1, 2, 3, 4, 6, 9, 32])))
    learning = rng.random() < 0.5
    network = _network(
        trunk, learning=learning, batch=int(2 ** rng.integers(0, 7)) if learning else 1,
        align=int(rng.choice([8, 16, 32, 64])),
    )  # fmt: skip
    p = nets.parameters(network, seed)
    if seed % 4 == 0:
        p.trunk = nets.trunk_parameters(trunk, rng, 1 / 255, extreme=True)
    return network, p


CASES = (*(f"{name}-{batch}" for name in TRUNKS for batch in (1, 8)), *map(str, range(60)))


def _case(case: str) -> tuple[Network, arena.Parameters]:
    if case.isdigit():
        return _random(int(case))
    name, batch = case.rsplit("-", 1)
    network = _network(TRUNKS[name], batch=int(batch), learning=batch != "1")
    return network, nets.parameters(network, len(name))


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_whole_pictures(case: str, variant: str) -> None:
    network, p = _case(case)
    model = Model(nets.buffer(arena.write(network, p)))
    assert model.arena.network == network
    n = 2 * network.batch + 3
    x, _ = nets.samples(network, n)
    x[1] = 9  # codes of 255 all over
    expected = nets.reference_logits(network, p, x)
    assert np.array_equal(model.logits(x), expected)
    assert np.array_equal(np.concatenate([model.logits(row[None]) for row in x[:3]]), expected[:3])
    raw = np.random.default_rng(0).integers(0, 256, x.shape).astype(np.uint8)
    p.input_scale[:] = 1
    model = Model(nets.buffer(arena.write(network, p)))
    expected = nets.reference_logits(network, p, raw.astype(np.float32))
    assert np.array_equal(model.predict_index(raw)[0], expected.argmax(axis=1))


def test_networks_of_these_tests_are_alive() -> None:
    """Else the test above would compare zeros."""
    alive = []
    for case in CASES:
        network, p = _case(case)
        x, _ = nets.samples(network, 20)
        q = reference.features(network, p.trunk, nets.reference_codes(p, x))
        alive.append(bool(q.any()) and len(np.unique(q, axis=0)) > 1)
    assert sum(alive) > 0.8 * len(alive)


@pytest.mark.parametrize("name", TRUNKS)
def test_arena_gives_back_what_was_written(name: str) -> None:
    network = _network(TRUNKS[name], batch=2)
    p = nets.parameters(network, 4)
    data = arena.write(network, p)
    assert len(data) == network.file_bytes
    view = arena.Arena(nets.buffer(data))
    assert view.network == network
    for i, (layer, one) in enumerate(zip(network.trunk, p.trunk, strict=True)):
        assert view.trunk_scales[i] == (np.float32(one.s_in), np.float32(one.s_out))
        weights = view.trunk_weights(i)
        bias, multiplier = view.trunk_rows(i)
        if not layer.has_weights:
            assert weights is None
            assert len(bias) == len(multiplier) == 0
            continue
        assert weights is not None
        assert one.weights is not None
        assert weights.shape == one.weights.shape
        for found, written in (
            (weights, one.weights), (bias, one.bias), (multiplier, one.multiplier)
        ):  # fmt: skip
            assert np.array_equal(found, written)
    for i, q in enumerate(p.layers):
        assert np.array_equal(view.weights(i), q.weights)
        assert np.array_equal(view.rows(i)[0], q.bias)


@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize("name", ["one-pixel", "blocks", "mean-alone", "rows-that-nothing-needs"])
def test_learning_leaves_what_the_reference_leaves(name: str, batch: int, variant: str) -> None:
    trunk = TRUNKS[name]
    features = trunk[-1].outputs
    network = nets.network(
        trunk[0].shape, (sparse(features, 6, min(features, 4)), dense(6, 5)), 3, trunk=trunk,
        batch=batch, replay_samples=5, replay_bits=4 if batch == 2 else 8,
    )  # fmt: skip
    p = nets.parameters(network, batch)
    p.learner = arena.LearnerParameters(key=9, rate=0.3, gather=8, swaps=1)
    buffer = nets.buffer(arena.write(network, p))
    twin = reference.Learner(buffer)
    model = Model(buffer)
    run_both(model, twin, 12)
    model.seal()
    Model(nets.buffer(model.arena.buffer.tobytes()))
    for i, one in enumerate(p.trunk):  # it is frozen
        if one.weights is not None:
            assert np.array_equal(model.arena.trunk_weights(i), one.weights)
            assert np.array_equal(model.arena.trunk_rows(i)[0], one.bias)


@pytest.mark.parametrize("seed", range(20))
def test_any_trunk_learns_as_the_reference_does(seed: int, variant: str) -> None:
    rng = np.random.default_rng((seed, 5))
    shape = (int(rng.integers(1, 12)), int(rng.integers(1, 12)), int(rng.choice([1, 3, 4])))
    trunk = nets.random_trunk(rng, shape, int(rng.integers(1, 7)), most=300)
    features, samples = trunk[-1].outputs, int(rng.integers(0, 20))
    network = nets.network(
        shape, (sparse(features, 7, int(rng.integers(1, min(features, 20) + 1))),), 3,
        trunk=trunk, batch=int(2 ** rng.integers(0, 6)), replay_samples=samples,
        replay_bits=int(rng.choice([4, 8])) if samples else 0,
    )  # fmt: skip
    p = nets.parameters(network, seed)
    p.learner = arena.LearnerParameters(
        key=seed, rate=0.2, gather=int(rng.integers(1, 30)), swaps=2,
        strategy=("rigl", "set")[seed % 2],
    )  # fmt: skip
    buffer = nets.buffer(arena.write(network, p))
    twin = reference.Learner(buffer)
    model = Model(buffer)
    run_both(model, twin, 10, np.uint8 if seed % 3 == 0 else np.float32)


def test_values_below_the_last_row_that_counts_are_no_clamped_ones(variant: str) -> None:
    trunk = TRUNKS["rows-that-nothing-needs"]
    network = _network(trunk, batch=4)
    read = reference.rows_read(network)
    assert read < network.shape[0]
    model = Model(nets.buffer(nets.file(network)))
    learner = Learner(model)
    x, y = nets.samples(network, 2)
    x[:] = 0.5
    pictures = x.reshape(2, *network.shape)
    pictures[:, read:] = 99
    learner.learn_many(x, y)
    assert learner.status()["clamped"] == 0
    pictures[0, read - 1, 0, 0] = 99
    learner.learn_many(x, y)
    assert learner.status()["clamped"] == 1
