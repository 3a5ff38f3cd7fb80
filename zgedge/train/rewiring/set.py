"""SET: drop the smallest, grow at random (Mocanu et al., Nature Communications 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from zgedge.train.rewiring.base import Connections, Strategy


class Set(Strategy):
    def drop(self, connections: Connections) -> Tensor:
        return connections.values.norm(dim=2)

    def grow(self, connections: Connections) -> Tensor:
        rows = len(connections.indices)
        return torch.rand(rows, connections.blocks, generator=connections.generator)
