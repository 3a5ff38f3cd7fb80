"""What all strategies share: how much is replaced and when, the budget, ties, fresh weights.

A strategy gives two scores and little else: of the connections that are there (the lowest go) and
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
class Batch:
    """What a sparse layer did with one batch of n samples.

    inputs   float32 [n, inputs]
    outputs  float32 [n, rows], what the layer gives before its ReLU
    errors   float32 [n, rows], gradient of the loss with respect to these
    head     float32 [n, classes], gradient of the loss with respect to the network's logits
    last     whether this layer is the network's last, whose outputs are the logits
    """

    inputs: Tensor
    outputs: Tensor
    errors: Tensor
    head: Tensor
    last: bool


@dataclass(frozen=True)
class Connections:
    """One sparse layer as a strategy sees it. A connection is a block of neighbouring inputs.

    values     float32 [rows, per_row, block], shadow weights
    indices    int64 [rows, per_row], block numbers, no two alike in a row
    blocks     how many blocks of inputs there are
    gradient   float32 [rows, blocks, block], of the loss with respect to every possible weight;
               None unless the strategy has `uses_gradient`
    generator  the only source of chance
    batch      what the layer did last; None unless the strategy has `uses_batch`
    """

    values: Tensor
    indices: Tensor
    blocks: int
    gradient: Tensor | None
    generator: torch.Generator
    batch: Batch | None = None

    def product(self, signal: Tensor) -> Tensor:
        """Size [rows, blocks] of the sums of a signal [n, rows] of each unit times each input."""
        assert self.batch is not None
        rows, _, block = self.values.shape
        sums = (signal.t() @ self.batch.inputs).view(rows, self.blocks, block)
        size: Tensor = torch.linalg.vector_norm(sums, dim=2)
        return size


class Strategy(ABC):
    """Two scores and a schedule.

    The schedule is RigL's (Evci et al. 2020): of each row's connections a fraction of `alpha` at
    the start, falling as a cosine to nothing at `stop` of the training, every `every` steps.

    share    of that fraction which is replaced
    settled  whether the wires were found before: then a short training moves them no more often

    `device` is the strategy that the file goes on with on a device, a name of
    `zgedge.arena.STRATEGIES`. `rounds` are trainings before the last one, each of a network that
    is wider by this factor than what is left in the end; what they find is pruned (`lottery`).
    `from_start` tells whether it can go on from weights that were found elsewhere.
    """

    device: ClassVar[str]
    from_start: ClassVar[bool] = True
    uses_gradient: ClassVar[bool] = False
    uses_batch: ClassVar[bool] = False
    rounds: ClassVar[tuple[float, ...]] = ()
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

    def begin(self, connections: Connections) -> None:  # noqa: B027
        """Prepare a layer's values, in place, before the first step of a training."""

    def counts(self, connections: Connections, progress: float) -> Tensor:
        """How many connections of each row to replace, int64 [rows]; `rewire` limits it to what
        there is room for."""
        rows, per_row = connections.indices.shape
        share = self.fraction(progress) * per_row
        # Rows of few connections would stop early if a share below one half were rounded to none.
        count = max(int(share + 0.5), 1 if share >= 0.25 else 0)
        return torch.full((rows,), count, device=connections.indices.device)

    @abstractmethod
    def drop(self, connections: Connections) -> Tensor:
        """Score [rows, per_row] of the connections that are there; the lowest go."""

    @abstractmethod
    def grow(self, connections: Connections) -> Tensor:
        """Score [rows, blocks] of all possible connections; the highest that are not there come."""


class SmallestGo(Strategy):
    """A strategy that drops the connections of the smallest weights."""

    def drop(self, connections: Connections) -> Tensor:
        score: Tensor = torch.linalg.vector_norm(connections.values, dim=2)
        return score


def rewire(strategy: Strategy, connections: Connections, progress: float) -> Tensor | None:
    """Replace connections in place; which ones, bool [rows, per_row], or None for none.

    `values` and `indices` are changed. A new connection starts at weight 0. One that was just
    dropped does not come back at once. Equal scores are settled by the lower place, or the lower
    input.
    """
    per_row = connections.indices.shape[1]
    with torch.no_grad():
        counts = strategy.counts(connections, progress)
        counts = counts.clamp(0, min(per_row, connections.blocks - per_row))
        most = int(counts.max())
        if most == 0:
            return None
        places = torch.argsort(strategy.drop(connections), dim=1, stable=True)[:, :most]
        score = strategy.grow(connections).scatter(1, connections.indices, -math.inf)
        fresh = torch.argsort(score, dim=1, descending=True, stable=True)[:, :most]
        goes = torch.arange(most, device=places.device) < counts[:, None]
        kept = connections.indices.gather(1, places)
        connections.indices.scatter_(1, places, torch.where(goes, fresh, kept))
        replaced = torch.zeros_like(connections.indices, dtype=torch.bool).scatter(1, places, goes)
        clear(connections.values, replaced)
    return replaced


def clear(values: Tensor, replaced: Tensor) -> None:
    """Set the blocks of `values` [rows, per_row, block] where `replaced` [rows, per_row] to 0."""
    values.masked_fill_(replaced.unsqueeze(-1), 0.0)
