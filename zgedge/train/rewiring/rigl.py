"""RigL: drop the smallest, grow where the gradient is largest (Evci et al., ICML 2020)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zgedge.train.rewiring.base import Connections, SmallestGo


class RigL(SmallestGo):
    device: ClassVar[str] = "rigl"
    uses_gradient: ClassVar[bool] = True

    def grow(self, connections: Connections) -> Tensor:
        assert connections.gradient is not None
        score: Tensor = torch.linalg.vector_norm(connections.gradient, dim=2)
        return score
