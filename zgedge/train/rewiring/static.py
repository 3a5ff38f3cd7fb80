"""No rewiring: the wiring of the start stays. The baseline of the others."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zgedge.train.rewiring.base import Connections, Strategy


class Static(Strategy):
    device: ClassVar[str] = "static"

    def fraction(self, progress: float) -> float:
        return 0.0

    def drop(self, connections: Connections) -> Tensor:
        return torch.zeros(connections.indices.shape)

    def grow(self, connections: Connections) -> Tensor:
        return torch.zeros(len(connections.indices), connections.blocks)
