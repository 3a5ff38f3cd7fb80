"""Strategies of rewiring. A new one is a file beside these and a line in `STRATEGIES`."""

from __future__ import annotations

from zgedge.train.rewiring.base import Connections, Strategy, rewire
from zgedge.train.rewiring.rigl import RigL
from zgedge.train.rewiring.set import Set
from zgedge.train.rewiring.static import Static

STRATEGIES: dict[str, type[Strategy]] = {
    "rigl": RigL,
    "set": Set,
    "static": Static,
}

__all__ = ["STRATEGIES", "Connections", "Strategy", "rewire"]
