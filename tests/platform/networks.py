"""Small networks over the shapes of the format, and the streams that they learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tests import nets
from tests.platform import builds
from zgedge import arena
from zgedge.network import Layer, Network, dense, sparse

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
    groups: int = 1, align: int = 8,
) -> Network:  # fmt: skip
    return nets.network(
        (1, inputs, 1), hidden, classes, batch=batch, replay_samples=replay, replay_bits=bits,
        groups=groups, align=align,
    )  # fmt: skip


def _linear() -> Network:
    blob = arena.names_blob(str(i) for i in range(5))
    return Network(
        (1, 40, 1), 5, (sparse(40, 5, 8, 4),), len(blob), replay_samples=16, replay_bits=4
    )


# Few units, so that 10,000 steps on an emulated processor take seconds; widths and counts that
# leave every kind of rest to the vector loops.
SMALL = (
    Case("index-residuals", _net(24, sparse(24, 17, 7, 1), classes=3), 4, 12),
    Case("blocks-of-4", _net(32, sparse(32, 18, 12, 4), align=64), 4, 12, "set", "u8"),
    Case("blocks-of-8", _net(40, sparse(40, 9, 16, 8), batch=4), 2, 2),
    Case("blocks-of-16", _net(48, sparse(48, 5, 32, 16), batch=16), 3, 13),
    Case("dense", _net(13, dense(13, 11), replay=7, bits=8), 5, 11, "static"),
    Case("two-hidden", _net(21, sparse(21, 19, 5, 1), sparse(19, 10, 6, 1), batch=4), 1, 3),
    Case("table", _net(19, sparse(19, 16, 5, 1), groups=19), 4, 12),
    Case("linear", _linear(), 16, 0),
)

# Sizes as people use them.
LARGE = (
    Case("wide", _net(4_200, sparse(4_200, 20, 33, 1), replay=30), 4, 12),
    Case("digits", _net(64, sparse(64, 136, 20, 4), classes=10, replay=99, align=64), 4, 12),
    Case("mnist", _net(784, sparse(784, 100, 32, 1), classes=10, bits=8), 4, 12),
    Case("many-classes", _net(32, sparse(32, 40, 8, 8), classes=300), 4, 12),
    Case("large-batch", _net(64, sparse(64, 33, 32, 16), batch=64), 16, 48),
    Case("one-by-one", _net(48, dense(48, 30), groups=48, batch=1), 1, 0),
)
