"""Three factors: input, activity, and an error that arrives through wires of its own.

An eligibility (the input, where the unit is active) times a third factor that says whether that was
good (Frémaux & Gerstner, Frontiers in Neural Circuits 2016). The third factor reaches each unit
through fixed random signs instead of the network's own weights (Lillicrap et al., Nature
Communications 2016), straight from the last layer (Nøkland, NeurIPS 2016).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zgedge.train.rewiring.base import Batch, Connections, SmallestGo


class ThreeFactor(SmallestGo):
    device: ClassVar[str] = "three-factor"
    uses_batch: ClassVar[bool] = True

    def grow(self, connections: Connections) -> Tensor:
        batch = connections.batch
        assert batch is not None
        if batch.last:
            return connections.product(batch.errors)
        error = batch.head @ self._signs(batch)
        return connections.product(error * (batch.outputs > 0))

    @staticmethod
    def _signs(batch: Batch) -> Tensor:
        """-1 or 1 for each class and unit, [classes, rows], the same at every call."""
        shape = (batch.head.shape[1], batch.outputs.shape[1])
        fixed = torch.Generator().manual_seed(shape[0] * 65_537 + shape[1])
        signs = torch.randint(0, 2, shape, generator=fixed) * 2 - 1
        return signs.to(batch.head)
