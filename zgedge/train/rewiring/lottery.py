"""Lottery tickets: train wider, keep the largest weights, go back to the early ones, train again.

Iterative magnitude pruning with rewinding (Frankle & Carbin, ICLR 2019; to early weights instead
of the first ones: Frankle, Dziugaite, Roy & Carbin, ICML 2020). Each round keeps, of every unit,
the connections whose weights became largest, and gives them back the weights that they had early
in the first round. The last round has the fan-in that the file has room for. No wire moves within
a round. All rounds together take the steps of one training.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from zgedge.train.rewiring.static import Static

REWIND = 0.1  # of the first round: then the weights are kept that later rounds begin with
ROUND_SHARE = 0.15  # of all steps, for each round but the last


class Lottery(Static):
    device: ClassVar[str] = "rigl"
    from_start: ClassVar[bool] = False
    rounds: ClassVar[tuple[float, ...]] = (4.0, 2.5, 1.6)


def survivors(values: Tensor, indices: Tensor, per_row: int) -> Tensor:
    """Places int64 [rows, per_row], in the order of their inputs, of the connections of values
    [rows, more, block] and indices [rows, more] whose weights are largest."""
    size = torch.linalg.vector_norm(values, dim=2)
    places = torch.argsort(size, dim=1, descending=True, stable=True)[:, :per_row]
    order = torch.argsort(indices.gather(1, places), dim=1)
    return places.gather(1, order)
