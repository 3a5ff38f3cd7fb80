"""Attention: drop the smallest, grow what is drawn from a softmax of sketch products.

Every input has a key, the sum of its values under random signs, every unit a query, that of its
errors under the same signs. Their product is the gradient in the mean (a random projection, as in
Achlioptas, JCSS 2003), from far fewer numbers than there are possible connections; a softmax of it
(Vaswani et al., NeurIPS 2017) says how likely each is to come.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zgedge.train.rewiring.base import Connections, SmallestGo

PARTS = 32
# How far below the likeliest a connection of no product is, in nats; as on the device.
NATS = 255 / 16


class Attention(SmallestGo):
    device: ClassVar[str] = "attention"
    uses_batch: ClassVar[bool] = True

    def grow(self, connections: Connections) -> Tensor:
        batch, generator = connections.batch, connections.generator
        assert batch is not None
        n = len(batch.inputs)
        signs = torch.randint(0, 2, (n, PARTS), generator=generator) * 2 - 1
        signs = signs.to(batch.inputs)
        keys = signs.t() @ batch.inputs  # [parts, inputs]
        queries = signs.t() @ batch.errors  # [parts, rows]
        rows, _, block = connections.values.shape
        product = (queries.t() @ keys).view(rows, connections.blocks, block)
        size: Tensor = torch.linalg.vector_norm(product, dim=2)
        size = size.scatter(1, connections.indices, 0.0)
        top = size.amax(dim=1, keepdim=True).clamp_min(1e-30)
        # The highest of logits with Gumbel noise are a draw without replacement (Kool et al. 2019).
        even = torch.rand(size.shape, generator=generator).clamp(1e-20, 1.0 - 1e-7)
        gumbel: Tensor = -torch.log(-torch.log(even)).to(size)
        return NATS * size / top + gumbel
