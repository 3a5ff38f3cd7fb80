"""Strategies of rewiring. A new one is a file beside these and a line in `STRATEGIES`."""

from __future__ import annotations

from zgedge.train.rewiring.attention import Attention
from zgedge.train.rewiring.base import Batch, Connections, SmallestGo, Strategy, rewire
from zgedge.train.rewiring.deepr import DeepR
from zgedge.train.rewiring.hebbian import Hebbian
from zgedge.train.rewiring.lottery import Lottery
from zgedge.train.rewiring.rigl import RigL
from zgedge.train.rewiring.set import Set
from zgedge.train.rewiring.static import Static
from zgedge.train.rewiring.three_factor import ThreeFactor

STRATEGIES: dict[str, type[Strategy]] = {
    "rigl": RigL,
    "set": Set,
    "hebbian": Hebbian,
    "three-factor": ThreeFactor,
    "attention": Attention,
    "deepr": DeepR,
    "lottery": Lottery,
    "static": Static,
}

__all__ = ["STRATEGIES", "Batch", "Connections", "SmallestGo", "Strategy", "rewire"]
