"""SET: drop the smallest, grow at random (Mocanu et al., Nature Communications 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from zgedge.train.rewiring.base import Connections, Strategy


class Set(Strategy):
    def drop(self, connections: Connections) -> Tensor:
        score: Tensor = torch.linalg.vector_norm(connections.values, dim=2)
        return score

    def grow(self, connections: Connections) -> Tensor:
        rows = len(connections.indices)
        drawn = torch.rand(rows, connections.blocks, generator=connections.generator)
        return drawn.to(connections.indices.device)
