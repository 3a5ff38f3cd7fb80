"""How a network is trained: the figures of a recipe, chosen by the data and the network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zgedge.data.dataset import Dataset
from zgedge.network import Network

# Pictures smaller than this have no room to be moved.
MOVE_FROM = 8
GREY, COLOURS = 1, 3
# Passes from which a small network may learn its pictures by heart, so that a square of a quarter
# of their side is blanked, and from which of half of it; in fewer it has more to learn from whole
# ones.
CUTOUT_FROM, WIDE_CUTOUT_FROM = 60, 120


@dataclass(frozen=True)
class Recipe:
    """Rate and regularization of a training.

    rate       highest learning rate
    warm_up    share of the steps in which the rate rises to it; then a cosine leads to 0
    decay      of weights, a step and unit of rate (Loshchilov & Hutter, ICLR 2019)
    smoothing  share of a label that goes to all classes alike (Szegedy et al., CVPR 2016)
    averaging  share of the steps that the averaged weights remember; 0: none are kept
    warps      moves, turns and stretches pictures a little (`augment.warp`)
    shifts     moves pictures by up to this many pixels, and mirrors every other (`augment.jitter`)
    cutout     side in pixels of a square that is blanked (DeVries & Taylor 2017)
    """

    rate: float
    warm_up: float
    decay: float = 0.0
    smoothing: float = 0.0
    averaging: float = 0.0
    warps: bool = False
    shifts: int = 0
    cutout: int = 0

    def rate_at(self, step: int, total: int) -> float:
        """Learning rate of a step of 0..total-1."""
        rate = self.rate * min(1.0, (step + 1) / (self.warm_up * total + 1))
        return rate * (0.5 * (1.0 + math.cos(math.pi * (step / total))))


def choose_recipe(dataset: Dataset, network: Network, passes: int) -> Recipe:
    """The recipe for a network on data that it sees so many times.

    Grey pictures may be digits or letters, whose mirror images are others or none: they are warped,
    never mirrored. Pictures in colour are of things: they are mirrored and moved.
    """
    small = min(dataset.shape[:2]) < MOVE_FROM
    picture = dataset.kind == "picture" and not small
    if not network.trunk:
        return Recipe(rate=6e-3, warm_up=0.02, warps=picture)
    colour = dataset.shape[2] == COLOURS
    return Recipe(
        rate=2e-2,
        warm_up=0.05,
        decay=0.02,
        smoothing=0.05,
        averaging=0.02,
        warps=picture and not colour,
        shifts=min(dataset.shape[:2]) // 8 if picture and colour else 0,
        cutout=_cutout(min(dataset.shape[:2]), passes) if picture and colour else 0,
    )


def _cutout(side: int, passes: int) -> int:
    if passes < CUTOUT_FROM:
        return 0
    return side // 4 if passes < WIDE_CUTOUT_FROM else side // 2
