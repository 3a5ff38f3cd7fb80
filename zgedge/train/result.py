"""What training reports and returns: plain data, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zgedge.arena import Parameters
from zgedge.network import Network


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows.

    epoch     1..epochs
    accuracy  of the integer network on the held-out rows, 0..1; on the training rows where none is
    loss      mean cross-entropy of the training steps, in nats
    rate      learning rate at the end of the epoch
    rewired   connections (weights) replaced in this epoch, for each layer
    seconds   since training began, without the time between two processes where it was interrupted
    rewired_so_far  connections replaced in this epoch and all before it, in all layers
    held_out  rows that are held out
    """

    epoch: int
    epochs: int
    accuracy: float
    loss: float
    rate: float
    rewired: tuple[int, ...]
    seconds: float
    rewired_so_far: int
    held_out: int


@dataclass(frozen=True)
class TrainResult:
    """A trained network.

    parameters           what `zgedge.arena.write(network, parameters)` writes
    accuracy             of the integer network on the test rows; None where there are none
    validation_accuracy  of the same on the held-out rows
    validation_loss      its mean cross-entropy on them, in nats
    held_out             how many these are; 0: so few rows were given that none is held out, and
                         both figures are of the rows that were trained on
    shadow_accuracy      of the float network behind it on the test rows
    history              every epoch that was completed
    best_epoch           the epoch whose network this is, the latest of those that the held-out rows
                         cannot tell from the best; 0: none was completed
    steps                optimizer steps up to the end of that epoch
    planned_steps        steps of the whole schedule: `steps=planned_steps` trains the same bytes
    threads              threads that torch summed with; another number may give other bytes
    interrupted          True where Ctrl-C ended training early
    no_guard             why the network has no anchors that guard what it learns (docs/guard.md);
                         None where it has some, or learns nothing
    """

    network: Network
    parameters: Parameters
    accuracy: float | None
    validation_accuracy: float
    validation_loss: float
    held_out: int
    shadow_accuracy: float | None
    history: Sequence[Epoch]
    best_epoch: int
    steps: int
    planned_steps: int
    threads: int
    seconds: float
    interrupted: bool
    no_guard: str | None

    @property
    def rewired(self) -> int:
        """Connections replaced in all of training."""
        return sum(sum(epoch.rewired) for epoch in self.history)
