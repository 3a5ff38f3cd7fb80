"""Networks that exporters are tried on, by name: random, fixed, over the shapes of the format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests import nets
from zgedge import arena
from zgedge.network import (
    KB,
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


def _pictures(*trunk: TrunkLayer, classes: int = 5) -> Network:
    out = trunk[-1].outputs
    return nets.network(trunk[0].shape, (dense(out, 9),), classes, task="picture", trunk=trunk)


_SHAPE = (9, 7, 3)
NETWORKS: dict[str, Network] = {
    **{
        f"sparse-b{block}": nets.network(
            (8, 8, 1), (sparse(64, 48, 16, block), sparse(48, 32, 16, block)), 10, task="picture"
        )
        for block in (1, 4, 8, 16)
    },
    "dense": nets.network((1, 30, 1), (dense(30, 17), dense(17, 11)), 6),
    "head-only": nets.network((1, 24, 1), (), 3),
    "table": nets.network((1, 24, 1), (sparse(24, 12, 8, 4), dense(12, 7)), 4, groups=24),
    "series": nets.network((6, 4, 1), (sparse(24, 12, 8, 4),), 4, groups=24, task="series"),
    "convolution": _pictures(conv(_SHAPE, 8), conv((9, 7, 8), 5, 3, 2), max_pool((5, 4, 5))),
    "depthwise": _pictures(
        conv(_SHAPE, 16, 1), depthwise((9, 7, 16), 5, 2), depthwise((5, 4, 16), same=False)
    ),
    "residual": _pictures(
        conv(_SHAPE, 8), conv((9, 7, 8), 8, add=1), conv((9, 7, 8), 8, 1, add=1),
        mean_pool((9, 7, 8)),
    ),
}  # fmt: skip
for _seed in range(6):
    _rng = np.random.default_rng(_seed)
    _shape = (int(_rng.integers(5, 14)), int(_rng.integers(5, 14)), int(_rng.integers(1, 4)))
    NETWORKS[f"random-trunk-{_seed}"] = _pictures(*nets.random_trunk(_rng, _shape, 5))


def opened(network: Network, parameters: arena.Parameters | None = None, seed: int = 0) -> Model:
    """A model in memory of its own."""
    data = arena.write(network, parameters or nets.parameters(network, seed))
    return Model(nets.buffer(data), "the test's model")


def extreme(network: Network, sign: int = 1) -> arena.Parameters:
    """Parameters with weights of 127 alone, times a sign, or of both signs where that is 0: of raw
    inputs 1 every product is the largest that there is."""
    rng = np.random.default_rng(abs(sign))
    p = nets.parameters(network)

    def weights(shape: tuple[int, ...]) -> np.ndarray:
        return (rng.choice([-127, 127], shape) if sign == 0 else np.full(shape, 127 * sign)).astype(
            np.int8
        )

    # Multipliers that keep sums of the largest products, and small ones, apart.
    layers = [
        replace(
            q, weights=weights(q.weights.shape),
            multiplier=np.full(layer.outputs, 200 / (layer.width * 255 * 127), np.float32),
        )
        for layer, q in zip(network.layers, p.layers, strict=True)
    ]  # fmt: skip
    trunk = [
        t if t.weights is None else replace(
            t, weights=weights(t.weights.shape),
            multiplier=np.full(layer.channels, 200 / (layer.taps * 255 * 127), np.float32),
        )
        for layer, t in zip(network.trunk, p.trunk, strict=True)
    ]  # fmt: skip
    return replace(p, layers=layers, trunk=trunk)


def learned(network: Network, steps: int = 60) -> Model:
    """A model that has learned and rewired."""
    model = opened(network)
    learner = Learner(model)
    x, y = nets.samples(network, 16 * steps)
    learner.learn_many(x, y)
    assert learner.status()["rewired"] > 0
    return model


def remembering(room: int = 2 * KB) -> Model:
    """A model with samples in its replay."""
    network = nets.network((1, 24, 1), replay_samples=room // 24, replay_bits=8)
    model = opened(network)
    x, y = nets.samples(network, 40)
    Learner(model).remember(x, y)
    return model
