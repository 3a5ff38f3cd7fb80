"""SET: drop the smallest, grow at random (Mocanu et al., Nature Communications 2018)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zgedge.train.rewiring.base import Connections, SmallestGo


class Set(SmallestGo):
    device: ClassVar[str] = "set"

    def grow(self, connections: Connections) -> Tensor:
        rows = len(connections.indices)
        drawn = torch.rand(rows, connections.blocks, generator=connections.generator)
        return drawn.to(connections.indices.device)
