"""What all strategies share: how much is replaced and when, the budget, ties, fresh weights.

A strategy gives two scores and nothing else: of the connections that are there (the lowest go) and
of those that could be (the highest come). Every row keeps its number of connections, so no strategy
can leave the byte budget.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Connections:
    """One sparse layer as a strategy sees it. A connection is a block of neighbouring inputs.

    values     float32 [rows, per_row, block], shadow weights
    indices    int64 [rows, per_row], block numbers, no two alike in a row
    blocks     how many blocks of inputs there are
    gradient   float32 [rows, blocks, block], of the loss with respect to every possible weight;
               None unless the strategy has `uses_gradient`
    generator  the only source of chance
    """

    values: Tensor
    indices: Tensor
    blocks: int
    gradient: Tensor | None
    generator: torch.Generator


class Strategy(ABC):
    """Two scores and a schedule.

    The schedule is RigL's (Evci et al. 2020): of each row's connections a fraction of `alpha` at
    the start, falling as a cosine to nothing at `stop` of the training, every `every` steps.

    share    of that fraction which is replaced
    settled  whether the wires were found before: then a short training moves them no more often
    """

    uses_gradient: ClassVar[bool] = False
    alpha: ClassVar[float] = 0.3
    stop: ClassVar[float] = 0.75
    every: ClassVar[int] = 100

    def __init__(self, share: float = 1.0, *, settled: bool = False) -> None:
        self.share = share
        self.settled = settled

    def fraction(self, progress: float) -> float:
        """Share of a row's connections to replace at `progress`, 0..1 of the training."""
        if progress >= self.stop:
            return 0.0
        return self.share * self.alpha * 0.5 * (1.0 + math.cos(math.pi * progress / self.stop))

    def period(self, steps: int) -> int:
        """Steps between two replacements in a training of `steps` steps: fewer in a short one."""
        if self.settled:
            return self.every
        return max(1, min(self.every, steps // 50))

    @abstractmethod
    def drop(self, connections: Connections) -> Tensor:
        """Score [rows, per_row] of the connections that are there; the lowest go."""

    @abstractmethod
    def grow(self, connections: Connections) -> Tensor:
        """Score [rows, blocks] of all possible connections; the highest that are not there come."""


def rewire(strategy: Strategy, connections: Connections, progress: float) -> Tensor | None:
    """Replace connections in place and return their places, int64 [rows, replaced]; None for none.

    `values` and `indices` are changed. A new connection starts at weight 0. One that was just
    dropped does not come back at once. Equal scores are settled by the lower place, or the lower
    input.
    """
    per_row = connections.indices.shape[1]
    share = strategy.fraction(progress) * per_row
    # Rows of few connections would stop early if a share below one half were rounded to none.
    count = max(int(share + 0.5), 1 if share >= 0.25 else 0)
    count = min(count, connections.blocks - per_row)
    if count <= 0:
        return None
    with torch.no_grad():
        places = torch.argsort(strategy.drop(connections), dim=1, stable=True)[:, :count]
        score = strategy.grow(connections).scatter(1, connections.indices, -math.inf)
        fresh = torch.argsort(score, dim=1, descending=True, stable=True)[:, :count]
        connections.indices.scatter_(1, places, fresh)
        clear(connections.values, places)
    return places


def clear(values: Tensor, places: Tensor) -> None:
    """Set the blocks at `places` int64 [rows, n] of `values` [rows, per_row, block] to 0."""
    values.scatter_(1, places.unsqueeze(-1).expand(-1, -1, values.shape[2]), 0.0)
