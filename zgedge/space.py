"""The networks for pictures among which the planner chooses: their geometry, and a prior.

A `Family` says all about a trunk and what is behind it but how wide it is; `zgedge.budget` makes
each as wide as the bytes allow. Bytes are counted there; here is what fits the pictures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from zgedge import network as net
from zgedge.network import Network, TrunkLayer

PLAIN, RESIDUAL, SEPARABLE = "plain", "residual", "separable"
STRIDE, POOL = "stride", "pool"
MEAN, MEAN_HIDDEN, FLAT, FLAT_HIDDEN = "mean", "mean, hidden", "flat", "flat, hidden"
HEADS = (MEAN, MEAN_HIDDEN, FLAT, FLAT_HIDDEN)

# Pictures with a smaller side have no room for windows that move.
SMALLEST_SIDE = 4
# Channels come in such numbers from the second on: rows of them start where vectors do.
CHANNELS = 4
MOST_WIDTH = 256
# Best side of a last map, layers from which deeper trains slower; memories and features that a
# device should have to learn from, and features of which each memory is too dear.
LAST_SIDE, DEEP, FEW_MEMORIES, FEW_FEATURES, MANY_FEATURES = 6, 5, 64, 64, 256
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
    return (family for family in _families(shape) if _has_room(family, shape))


def _families(shape: tuple[int, int, int]) -> Iterator[Family]:
    side = min(shape[:2])
    if side < SMALLEST_SIDE:
        return
    kernels = [3, 5] if side < 64 else [3, 5, 7]
    strides = [s for s in (1, 2, 4) if side >= 8 * s] or [1]
    for k, s, n, depth, block, down, growth, head in itertools.product(
        kernels, strides, (1, 2, 3, 4, 5), (1, 2, 3), (PLAIN, RESIDUAL, SEPARABLE), (STRIDE, POOL),
        (1.0, 1.5, 2.0), HEADS,
    ):  # fmt: skip
        if n > 1 or (down, growth) == (STRIDE, 1.0):  # else no second stage to come to
            yield Family(k, s, n, depth, block, down, growth, head)


def _has_room(family: Family, shape: tuple[int, int, int]) -> bool:
    try:
        family.trunk(shape, family.channels(CHANNELS))
    except ValueError:
        return False
    return True


def likely(shape: tuple[int, int, int]) -> list[Family]:
    """The families among which the planner looks: those of `families` that do well at some size.

    Maps of the first stage are at most 40 wide where the pictures allow it, and those of the last
    some 3 to 8; a first stride goes with a wider window.
    """
    side = min(shape[:2])
    fine = [s for s in (1, 2, 4) if 12 <= side / s <= 40] or [1 if side < 40 else 4]
    out = []
    for family in _families(shape):
        last = side / family.stride / 2 ** (family.stages - 1)
        kernel = 3 if family.stride == 1 else 5
        fits = family.stride in fine and family.kernel == kernel and 3 <= last <= 8.5
        if fits and family.head != MEAN_HIDDEN and _sort(family) in _SORTS:
            out += [family] if _has_room(family, shape) else []
    return out


def _sort(family: Family) -> tuple[str, str, int, float, bool]:
    growth = 1.5 if family.stages == 1 else family.growth  # one stage has none
    down = POOL if family.stages == 1 and family.block == PLAIN else family.down
    return family.block, down, family.depth, growth, family.hidden


# Block, what halves, depth, growth, whether hidden units follow.
_SORTS = {
    *((PLAIN, POOL, depth, 1.5, hidden) for depth in (1, 2, 3) for hidden in (False, True)),
    *((PLAIN, STRIDE, 2, growth, False) for growth in (1.5, 2.0)),
    *((RESIDUAL, STRIDE, depth, growth, False) for depth in (1, 2) for growth in (1.5, 2.0)),
    (SEPARABLE, STRIDE, 2, 2.0, False),
}


def expected_error(network: Network, family: Family) -> float:
    """Logarithm (of 2) of the error to be expected, but for a constant of the task: the prior.

    A linear fit to trial trainings (docs/planner.md): more weights and more work at equal bytes are
    better, fewer and wider convolutions than many narrow ones; a mean wants windows that see the
    whole picture; a last map of some 6 places is best.
    """
    shapes = [layer for layer in network.trunk if layer.kind != net.MEAN_POOL]
    weights = sum(layer.weights for layer in shapes)
    windows = sum(x.kernel > 1 and x.has_weights for x in shapes)
    convolutions = sum(x.has_weights for x in shapes)
    sees, step = 1, 1
    for layer in shapes:
        sees += (layer.kernel - 1) * step
        step *= layer.stride
    side, last = min(network.shape[:2]), min(shapes[-1].out_shape[:2])
    error = -0.14 * math.log2(weights) - 0.085 * math.log2(max(1, network.operations))
    if family.head in (MEAN, MEAN_HIDDEN):
        error += 0.06 + 0.85 * max(0.0, math.log2(side / sees))
    error += 0.12 * family.hidden + 0.15 * (family.block == RESIDUAL)
    error += 0.1 * math.log2(last / LAST_SIDE) ** 2 - 0.05 * (family.down == POOL)
    error += 0.13 * max(0, 4 - windows) + 0.06 * max(0, convolutions - DEEP)
    if network.learning:  # a device learns from what it remembers, by what the trunk gives
        error += 0.1 * max(0.0, math.log2(FEW_MEMORIES / (1 + network.replay_samples)))
        error += 0.15 * max(0.0, math.log2(FEW_FEATURES / network.features))
        error += 0.2 * max(0.0, math.log2(network.features / MANY_FEATURES))
    return error


def block_of(last: TrunkLayer) -> int:
    """Features that share an index: channels of a place belong together."""
    return 4 if last.channels % 4 == 0 and last.outputs >= 16 else 1
