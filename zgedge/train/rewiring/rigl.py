"""RigL: drop the smallest, grow where the gradient is largest (Evci et al., ICML 2020)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from zgedge.train.rewiring.base import Connections, Strategy


class RigL(Strategy):
    uses_gradient: ClassVar[bool] = True

    def drop(self, connections: Connections) -> Tensor:
        return connections.values.norm(dim=2)

    def grow(self, connections: Connections) -> Tensor:
        assert connections.gradient is not None
        return connections.gradient.norm(dim=2)
