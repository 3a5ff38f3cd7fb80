"""Worlds that a watched learner lives in: the one that it knows, and others that come after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests import nets
from tests.core import reference
from zgedge import arena
from zgedge import network as net
from zgedge.network import Network
from zgedge.runtime import Model


@dataclass
class World:
    """Clusters, one a class; where a stream comes from. `wrong`: the share of random labels."""

    centers: npt.NDArray[np.float64]
    wrong: float = 0.0

    def draw(
        self, rng: np.random.Generator, n: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        classes, inputs = self.centers.shape
        used = min(classes, 4)
        y = rng.integers(0, used, n)
        x = self.centers[y] + rng.normal(0, 0.08, (n, inputs))
        bad = rng.random(n) < self.wrong
        y = np.where(bad, (y + 1 + rng.integers(0, used - 1, n)) % used, y)
        return x.astype(np.float32), y


def worlds(network: Network) -> list[World]:
    """The one that a file's anchors are of, another one, that one with wrong labels, and so on."""
    rng = np.random.default_rng(3)
    old = World(rng.uniform(0, 1, (network.classes, network.inputs)))
    new = World(1.4 * rng.uniform(0, 1, (network.classes, network.inputs)))
    return [old, new, replace(new, wrong=0.4), replace(new, wrong=1.0), replace(old, wrong=0.1)]


def start(network: Network, lacks: int | None = None, **learner: Any) -> Model:
    """A file of random weights whose anchors, three quarters of the room, are the old world's; all
    of the room where they lack a class.

    What begins at random has all to learn, so it begins without caution.
    """
    parameters = nets.parameters(network, seed=7)
    options = {"rate": 0.2, "swaps": 2, "gather": 16, "strategy": "rigl", **learner}
    parameters.learner = arena.LearnerParameters(key=0xBEEF, **options)
    if network.anchors:
        x, y = worlds(network)[0].draw(np.random.default_rng(1), 3 * network.anchors)
        chosen = np.flatnonzero(y != lacks)
        chosen = chosen[: network.anchors * 3 // 4 if lacks is None else network.anchors]
        x, y = x[chosen], y[chosen]
        plain = replace(network, anchors=0, watch=False)
        right = Model(nets.buffer(arena.write(plain, parameters))).predict_index(x)[0] == y
        codes = nets.reference_codes(parameters, x)
        codes = reference.features(network, parameters.trunk, codes).astype(np.uint8)
        parameters.anchors = (codes, y, right)
    buffer = nets.buffer(arena.write(network, parameters))
    arena.Arena(buffer).section(net.WATCH)[6:8] = 0
    arena.sign(buffer.data)
    return Model(buffer)


def stream(network: Network, lengths: list[int]) -> list[tuple[npt.NDArray[np.float32], list[int]]]:
    """Steps of one to three samples, one world after the other."""
    rng = np.random.default_rng(11)
    steps = []
    for world, length in zip(worlds(network), lengths, strict=False):
        for _ in range(length):
            n = int(rng.integers(1, min(3, network.batch) + 1))
            x, y = world.draw(rng, n)
            steps.append((x, y.tolist()))
    return steps
