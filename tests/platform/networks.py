"""Small networks over the shapes of the format, and the streams that they learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tests import nets
from tests.platform import builds
from zgedge import arena
from zgedge.network import Layer, Network, conv, dense, depthwise, max_pool, mean_pool, sparse

SEED = 11


@dataclass(frozen=True)
class Case:
    """A network and how it learns: new samples of a step (the most), remembered ones, rewiring."""

    name: str
    network: Network
    new: int
    replayed: int
    strategy: str = "rigl"
    raw: str = "f32"

    def file(self) -> bytes:
        p = nets.parameters(self.network, SEED)
        learner = arena.LearnerParameters(
            key=SEED, rate=0.1, strategy=self.strategy, swaps=2, gather=64
        )
        return arena.write(self.network, replace(p, learner=learner))

    def stream(self) -> bytes:
        """300 samples of clustered classes."""
        x, y = nets.samples(self.network, 300, SEED)
        if self.raw == "u8":
            return builds.stream(np.clip(x * 255, 0, 255).astype(np.uint8), y)
        return builds.stream(x, y)


def _net(
    inputs: int, *hidden: Layer, classes: int = 4, batch: int = 16, replay: int = 20, bits: int = 4,
    groups: int = 1, align: int = 8, traces: int = 0,
) -> Network:  # fmt: skip
    return nets.network(
        (1, inputs, 1), hidden, classes, batch=batch, replay_samples=replay, replay_bits=bits,
        groups=groups, align=align, traces=traces,
    )  # fmt: skip


def _linear() -> Network:
    blob = arena.names_blob(str(i) for i in range(5))
    return Network(
        (1, 40, 1), 5, (sparse(40, 5, 8, 4),), len(blob), replay_samples=16, replay_bits=4
    )


def _added() -> Network:
    """Additions near and far, a pool with windows over the edge, sparse units on its features."""
    trunk = (
        conv((4, 5, 1), 5), conv((4, 5, 5), 5, add=1), depthwise((4, 5, 5), 3, add=1),
        max_pool((4, 5, 5), 3, 2, same=True),
    )  # fmt: skip
    return nets.network(
        (4, 5, 1), (sparse(30, 11, 8),), trunk=trunk, batch=8, replay_samples=20, replay_bits=4
    )


def _averaged() -> Network:
    """Strides, channels that fill no register, a mean at the end."""
    trunk = (depthwise((5, 6, 3), 5, 2), conv((3, 3, 3), 17, 1), mean_pool((3, 3, 17)))
    return nets.network(
        (5, 6, 3), (sparse(17, 9, 6),), trunk=trunk, batch=16, replay_samples=9, replay_bits=8
    )


def _whole_windows() -> Network:
    """No padding, rows that nothing needs, a step of one sample."""
    trunk = (conv((8, 7, 2), 16, 3, 2, same=False), conv((3, 3, 16), 4, 3, same=False))
    return nets.network(
        (8, 7, 2), (dense(4, 8),), trunk=trunk, batch=1, replay_samples=7, replay_bits=8
    )


def _residual_blocks() -> Network:
    """The blocks of a ResNet for 8 x 8."""
    trunk = (
        conv((8, 8, 3), 16), conv((8, 8, 16), 16), conv((8, 8, 16), 16, add=1),
        conv((8, 8, 16), 32, 3, 2), conv((4, 4, 32), 32, add=4), mean_pool((4, 4, 32)),
    )  # fmt: skip
    return nets.network(
        (8, 8, 3), (sparse(32, 20, 12),), 10, trunk=trunk, batch=16, replay_samples=40,
        replay_bits=4,
    )  # fmt: skip


# Few units, so that 10,000 steps on an emulated processor take seconds; widths and counts that
# leave every kind of rest to the vector loops.
SMALL = (
    Case("index-residuals", _net(24, sparse(24, 17, 7, 1), classes=3), 4, 12),
    Case("blocks-of-4", _net(32, sparse(32, 18, 12, 4), align=64), 4, 12, "set", "u8"),
    Case("blocks-of-8", _net(40, sparse(40, 9, 16, 8), batch=4), 2, 2, "hebbian"),
    Case("blocks-of-16", _net(48, sparse(48, 5, 32, 16), batch=16, traces=5), 3, 13, "attention"),
    Case("dense", _net(13, dense(13, 11), replay=7, bits=8), 5, 11, "static"),
    Case(
        "two-hidden",
        _net(21, sparse(21, 19, 5, 1), sparse(19, 10, 6, 1), batch=4, traces=3),
        1,
        3,
        "attention",
    ),
    Case("table", _net(19, sparse(19, 16, 5, 1), groups=19), 4, 12, "three-factor"),
    Case("linear", _linear(), 16, 0, "hebbian"),
    Case("trunk-added", _added(), 2, 6, "rigl", "u8"),
    Case("trunk-averaged", _averaged(), 2, 14, "set"),
    Case("trunk-whole-windows", _whole_windows(), 1, 0, "static"),
)

# Sizes as people use them.
LARGE = (
    Case("wide", _net(4_200, sparse(4_200, 20, 33, 1), replay=30), 4, 12),
    Case("digits", _net(64, sparse(64, 136, 20, 4), classes=10, replay=99, align=64), 4, 12),
    Case("mnist", _net(784, sparse(784, 100, 32, 1), classes=10, bits=8), 4, 12),
    Case("many-classes", _net(32, sparse(32, 40, 8, 8), classes=300), 4, 12),
    Case("large-batch", _net(64, sparse(64, 33, 32, 16), batch=64), 16, 48),
    Case("one-by-one", _net(48, dense(48, 30), groups=48, batch=1), 1, 0),
    Case("residual-blocks", _residual_blocks(), 2, 14),
)
