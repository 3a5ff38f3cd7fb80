"""Deep Rewiring: a connection whose weight changes its sign goes, any other comes instead.

Bellec, Kappel, Maass & Legenstein, "Deep Rewiring: Training very sparse deep networks", ICLR 2018.
Every possible connection has a sign for good. Weights move by gradient, shrink a little, and get
noise; one that crosses zero is dormant, and a random dormant one of the same unit takes its place,
so the unit's fan-in stays (the paper keeps that of the whole network). It crosses zero where its
weights, seen against their signs, add up to less than nothing. What crossed is looked for every
`period` steps, not after each.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zgedge.train.rewiring.base import Connections, Strategy

SHRINK = 0.005  # at each look, of the layer's mean weight size
NOISE = 0.02  # likewise, its deviation, falling with the schedule


class DeepR(Strategy):
    device: ClassVar[str] = "set"
    from_start: ClassVar[bool] = False

    def begin(self, connections: Connections) -> None:
        """Weights start on the side of their signs."""
        connections.values.copy_(connections.values.abs() * _signs(connections))

    def counts(self, connections: Connections, progress: float) -> Tensor:
        size = connections.values.abs().mean()
        signs = _signs(connections)
        drawn = torch.randn(connections.values.shape, generator=connections.generator)
        heat = self.fraction(progress) / self.alpha
        connections.values.add_(drawn.to(size) * (NOISE * heat * size))
        connections.values.sub_(signs * (SHRINK * size))
        return (self.drop(connections) < 0).sum(dim=1)

    def drop(self, connections: Connections) -> Tensor:
        score: Tensor = (connections.values * _signs(connections)).sum(dim=2)
        return score

    def grow(self, connections: Connections) -> Tensor:
        rows = len(connections.indices)
        drawn = torch.rand(rows, connections.blocks, generator=connections.generator)
        return drawn.to(connections.indices.device)


def _signs(connections: Connections) -> Tensor:
    """-1 or 1 of each weight [rows, per_row, block], decided by its row and its input alone."""
    rows, _, block = connections.values.shape
    unit = torch.arange(rows, device=connections.indices.device).view(-1, 1, 1)
    inside = torch.arange(block, device=connections.indices.device)
    at = unit * (connections.blocks * block) + connections.indices.unsqueeze(-1) * block + inside
    # A multiplicative hash (Knuth): its upper bits look random.
    hashed = (at * 2_654_435_761 & 0xFFFFFFFF) >> 16
    return ((hashed ^ hashed >> 7) & 1).to(connections.values) * 2 - 1
