"""Hebbian: drop the smallest, grow where input and unit are active together (Hebb 1949; the
covariance rule is Sejnowski's, Journal of Mathematical Biology 1977).

Each unit needs to know its inputs and itself, no error: the rule is local.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from zgedge.train.rewiring.base import Connections, SmallestGo


class Hebbian(SmallestGo):
    device: ClassVar[str] = "hebbian"
    uses_batch: ClassVar[bool] = True

    def grow(self, connections: Connections) -> Tensor:
        batch = connections.batch
        assert batch is not None
        # Units of a last layer are as active as their class is right: the loss pulls at them alone.
        active = (batch.errors < 0).float() if batch.last else batch.outputs.relu()
        return connections.product(active - active.mean(dim=0))
