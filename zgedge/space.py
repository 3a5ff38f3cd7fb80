"""The networks for pictures among which the planner chooses: their geometry, and a prior.

A `Family` says all about a trunk and what is behind it but how wide it is; `zgedge.budget` makes
each as wide as the bytes allow. Bytes are counted there; here is what fits the pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from zgedge import network as net
from zgedge.network import TrunkLayer

PLAIN, RESIDUAL, SEPARABLE = "plain", "residual", "separable"
STRIDE, POOL = "stride", "pool"
MEAN, MEAN_HIDDEN, FLAT, FLAT_HIDDEN = "mean", "mean, hidden", "flat", "flat, hidden"
HEADS = (MEAN, MEAN_HIDDEN, FLAT, FLAT_HIDDEN)

# Pictures with a smaller side have no room for windows that move.
SMALLEST_SIDE = 4
# Channels come in such numbers from the second on: rows of them start where vectors do.
CHANNELS = 4
MOST_WIDTH = 256
# Sides of the last map: a mean over less is no mean, and flat features of more are too many.
LAST_MAP = {MEAN: (2, 16), MEAN_HIDDEN: (2, 16), FLAT: (2, 8), FLAT_HIDDEN: (2, 14)}


@dataclass(frozen=True)
class Family:
    """A kind of network, of any width.

    kernel, stride  of the first convolution
    stages   parts that keep the size of their maps; each halves that of the one before
    depth    blocks of a stage
    block    plain (a convolution), residual (two, around which the input is added), separable (a
             depthwise and a 1 x 1 convolution, with the input added where it fits)
    down     what halves: the stride of a convolution, or a max pool before it
    growth   channels of a stage over those of the one before
    head     mean or flat features, before them a hidden sparse layer or the classes at once
    """

    kernel: int = 3
    stride: int = 1
    stages: int = 3
    depth: int = 1
    block: str = PLAIN
    down: str = STRIDE
    growth: float = 2.0
    head: str = MEAN

    def __str__(self) -> str:
        maps = (
            f"{self.stages} stages of {self.depth}" if self.depth > 1 else f"{self.stages} stages"
        )
        return f"{self.block}, {maps}, {self.head}"

    @property
    def hidden(self) -> bool:
        """Whether a hidden layer is between the features and the classes."""
        return self.head in (MEAN_HIDDEN, FLAT_HIDDEN)

    def channels(self, width: float) -> list[int]:
        """Channels of each stage, the first `width` wide."""
        return [
            max(CHANNELS, round(width * self.growth**i / CHANNELS) * CHANNELS)
            for i in range(self.stages)
        ]

    def trunk(self, shape: tuple[int, int, int], channels: list[int]) -> tuple[TrunkLayer, ...]:
        """Layers for pictures of `shape`. Raises ValueError where these have no room for them."""
        layers: list[TrunkLayer] = []

        def out() -> tuple[int, int, int]:
            return layers[-1].out_shape if layers else shape

        for stage, width in enumerate(channels):
            if stage and self.down == POOL:
                layers.append(net.max_pool(out()))
            stride = self.stride if not stage else 2 if self.down == STRIDE else 1
            blocks = self.depth
            if not stage:
                layers.append(net.conv(out(), width, self.kernel, stride))
                blocks -= self.block != RESIDUAL
            elif self.block != SEPARABLE:
                layers.append(net.conv(out(), width, 3, stride))
                blocks -= self.block == PLAIN
            else:
                layers.append(net.depthwise(out(), 3, stride))
                layers.append(net.conv(out(), width, 1))
                blocks -= 1
            for _ in range(blocks):
                at = len(layers)
                if self.block == SEPARABLE:
                    layers.append(net.depthwise(out(), 3))
                    layers.append(net.conv(out(), width, 1, add=at))
                    continue
                layers.append(net.conv(out(), width, 3))
                if self.block == RESIDUAL:
                    layers.append(net.conv(out(), width, 3, add=at))
        least, most = LAST_MAP[self.head]
        if not (least <= min(out()[:2]) and max(out()[:2]) <= most):
            raise ValueError(f"a last map of {out()[:2]} is outside {least}..{most}")
        if self.head in (MEAN, MEAN_HIDDEN):
            layers.append(net.mean_pool(out()))
        return tuple(layers)


def families(shape: tuple[int, int, int]) -> Iterator[Family]:
    """All families that have room in pictures of `shape`, in a fixed order."""
    side = min(shape[:2])
    if side < SMALLEST_SIDE:
        return
    kernels = [3, 5] if side < 64 else [3, 5, 7]
    strides = [s for s in (1, 2, 4) if side >= 8 * s] or [1]
    stages = [1, 2, 3, 4, 5]
    growths = [1.0, 1.5, 2.0]
    for k, s, n, depth, block, down, growth, head in itertools.product(
        kernels, strides, stages, (1, 2, 3), (PLAIN, RESIDUAL, SEPARABLE), (STRIDE, POOL), growths,
        HEADS,
    ):  # fmt: skip
        family = Family(k, s, n, depth, block, down, growth, head)
        if n == 1 and (down != STRIDE or growth != growths[0]):
            continue  # no second stage to come to
        try:
            family.trunk(shape, family.channels(CHANNELS))
        except ValueError:
            continue
        yield family


def block_of(last: TrunkLayer) -> int:
    """Features that share an index: channels of a place belong together."""
    return 4 if last.channels % 4 == 0 and last.outputs >= 16 else 1
