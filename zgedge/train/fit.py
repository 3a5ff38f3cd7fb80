"""The training loop."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from zgedge.arena import LayerParameters, TrunkParameters
from zgedge.data.dataset import Dataset
from zgedge.errors import DataError, UsageError
from zgedge.network import DENSE, Network
from zgedge.train.augment import jitter, warp
from zgedge.train.inputs import choose_coding
from zgedge.train.log import TrainingLog
from zgedge.train.pack import choose_memories, pack, unknown_threshold
from zgedge.train.quantized import QuantizedLayer, QuantizedNetwork, logits
from zgedge.train.recipe import choose_recipe
from zgedge.train.result import Epoch, TrainResult
from zgedge.train.rewiring import STRATEGIES, Connections, Strategy, rewire
from zgedge.train.rewiring.base import clear
from zgedge.train.trunk import features
from zgedge.train.wiring import local_start, random_start

VALIDATION_SHARE, VALIDATION_MOST = 0.1, 5000

# Activation scales follow the weights up to here; then they stay, and the weights settle to them.
OBSERVE_UNTIL = 0.6
OBSERVE_EVERY, OBSERVE_FIRST = 10, 50

# Epochs, where they are not given: as many as make the wanted steps, fewer where a step is costly.
WANTED_STEPS = 18_000
MOST_OPERATIONS = 6e12
# A trunk's products run near the peak of a processor, and are worth more.
MOST_TRUNK_OPERATIONS = 3e13
FEWEST_EPOCHS, MOST_EPOCHS = 10, 200
# Operations of a step from which a second thread gains more than it costs.
THREADS_FROM = 4e9
TRUNK_THREADS_FROM = 2e8
# Batches over which batch norm's statistics are taken for a snapshot.
MEASURED_BATCHES = 16


@dataclass
class _Snapshot:
    """The network at the end of an epoch: its integers, and the shadow weights behind them."""

    epoch: int
    step: int
    accuracy: float
    layers: list[LayerParameters]
    trunk: list[TrunkParameters]
    shadow: list[Tensor]


def fit(
    dataset: Dataset,
    network: Network,
    *,
    strategy: str,
    seed: int,
    epochs: int | None,
    steps: int | None,
    train_time: float | None,
    teacher: bool,
    checkpoint: str | os.PathLike[str] | None,
    progress: Callable[[Epoch], None] | None,
    log: str | os.PathLike[str] | None,
    unknown: bool,
) -> TrainResult:
    """See `zgedge.train.train`."""
    if strategy not in STRATEGIES:
        raise UsageError(
            f"{strategy!r} is not a way of rewiring.", f"Choose from {', '.join(STRATEGIES)}."
        )
    if sum(length is not None for length in (epochs, steps, train_time)) > 1:
        raise UsageError("Epochs, steps and a training time are three ways to say one length.")
    if epochs is not None and epochs < 1:
        raise UsageError(f"{epochs} epochs are too few.", "Train for at least 1.")
    if steps is not None and steps < 1:
        raise UsageError(f"{steps} steps are too few.", "Train for at least 1.")
    _check(dataset, network)
    writer = TrainingLog(log)
    try:
        training = _Training(dataset, network, STRATEGIES[strategy](), seed, epochs, steps)
        with _threads(training.threads):
            return training.run(strategy, progress, writer, unknown)
    finally:
        writer.close()


def _check(dataset: Dataset, network: Network) -> None:
    if dataset.features != network.inputs or len(dataset.classes) != network.classes:
        raise DataError(
            f"{dataset.name} has {dataset.features:,} inputs and {len(dataset.classes):,} classes, "
            f"the network {network.inputs:,} and {network.classes:,}.",
            "Plan a network for these data.",
        )
    if len(dataset.x_train) < 2:
        raise DataError(f"{dataset.name} has {len(dataset.x_train)} training rows; 2 are needed.")


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Fix torch's threads: another number sums in another order and would train other bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def split_validation(
    labels: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions to train on and positions held out, of every class the same share.

    Where the data are so few that nothing would be held out, both are all positions.
    """
    share = min(VALIDATION_SHARE, VALIDATION_MOST / len(labels))
    train, held = [], []
    for c in np.unique(labels):
        mine = rng.permutation(np.flatnonzero(labels == c))
        count = int(share * len(mine))
        held.append(mine[:count])
        train.append(mine[count:])
    held_out = np.sort(np.concatenate(held))
    kept = np.sort(np.concatenate(train))
    return kept, held_out if len(held_out) else kept


def batch_size(samples: int) -> int:
    """Samples of a training step."""
    return min(samples, 32 if samples < 5000 else 64 if samples < 20_000 else 128)


def default_epochs(samples: int, network: Network) -> int:
    """Epochs for a task of that many training samples."""
    batch = batch_size(samples)
    most = MOST_TRUNK_OPERATIONS if network.trunk else MOST_OPERATIONS
    steps = min(WANTED_STEPS, most / operations(network, batch))
    wanted = math.ceil(steps / (samples // batch))
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS, wanted))


def operations(network: Network, batch: int) -> int:
    """Multiplications and additions of one training step, layers as dense products."""
    trunk = sum(layer.operations for layer in network.trunk)
    return 6 * batch * (trunk + sum(layer.inputs * layer.outputs for layer in network.layers))


def device_for(network: Network) -> torch.device:
    """A GPU where torch sees one and there is a trunk: other networks are too small to gain."""
    gpu = bool(network.trunk) and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


class _Training:
    def __init__(
        self,
        dataset: Dataset,
        network: Network,
        strategy: Strategy,
        seed: int,
        epochs: int | None,
        steps: int | None,
    ) -> None:
        self.dataset, self.network, self.strategy, self.seed = dataset, network, strategy, seed
        self.began = time.monotonic()
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.coding = choose_coding(dataset, network.groups)
        codes = self.coding.encode(dataset.x_train)
        kept, held = split_validation(dataset.y_train, self.rng)
        self.held_codes, self.held_labels = codes[held], dataset.y_train[held]
        self.codes = torch.from_numpy(codes[kept])
        self.labels = torch.from_numpy(dataset.y_train[kept])
        wiring = [self._start(i) for i in range(len(network.layers))]
        self.device = device_for(network)
        self.net = QuantizedNetwork(network, self.coding, wiring, self.generator, self.device)
        self.batch = batch_size(len(kept))
        self.per_epoch = len(kept) // self.batch
        epochs = epochs or default_epochs(len(kept), network)
        self.total = steps or self.per_epoch * epochs
        self.epochs = math.ceil(self.total / self.per_epoch)
        work = operations(network, self.batch)
        enough = TRUNK_THREADS_FROM if network.trunk else THREADS_FROM
        self.threads = 1 if work < enough else torch.get_num_threads()
        self.recipe = choose_recipe(dataset, network)
        parameters = self.net.parameters()
        if self.recipe.decay:
            groups: list[dict[str, Any]] = [
                {"params": [p for p in parameters if p.dim() > 1]},
                {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
            ]
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                groups, lr=self.recipe.rate, weight_decay=self.recipe.decay, foreach=True
            )
        else:
            self.optimizer = torch.optim.Adam(parameters, lr=self.recipe.rate, foreach=True)
        self.averages = [p.detach().clone() for p in parameters] if self.recipe.averaging else []
        self.step = 0
        self.history: list[Epoch] = []
        self.best: _Snapshot | None = None
        self.top_accuracy = 0.0

    def _start(self, i: int) -> npt.NDArray[np.int64] | None:
        layer = self.network.layers[i]
        if layer.kind == DENSE:
            return None
        if i == 0 and self.dataset.kind != "table" and not self.network.trunk:
            return local_start(layer, self.dataset.shape, self.rng)
        return random_start(layer, self.rng)

    def run(
        self,
        strategy: str,
        progress: Callable[[Epoch], None] | None,
        log: TrainingLog,
        unknown: bool,
    ) -> TrainResult:
        log.write(
            "start",
            data=self.dataset.name,
            strategy=strategy,
            seed=self.seed,
            epochs=self.epochs,
            steps=self.total,
            batch=self.batch,
            threads=self.threads,
            trunk=[
                {
                    "kind": layer.kind,
                    "shape": list(layer.shape),
                    "channels": layer.channels,
                    "kernel": layer.kernel,
                    "stride": layer.stride,
                }
                for layer in self.network.trunk
            ],
            layers=[
                {
                    "kind": layer.kind,
                    "inputs": layer.inputs,
                    "outputs": layer.outputs,
                    "fan_in": layer.width,
                    "block": layer.block,
                }
                for layer in self.network.layers
            ],
        )
        self._log_wires(log, "start", self.net.integers()[0])
        interrupted = False
        try:
            for number in range(1, self.epochs + 1):
                self._epoch(number, progress, log)
        except KeyboardInterrupt:
            interrupted = True
        best = self.best or self._snapshot(0, [self.codes[: self.batch]])
        self._log_wires(log, "end", best.layers[0])
        return self._result(best, strategy, log, unknown, interrupted)

    def _epoch(
        self, number: int, progress: Callable[[Epoch], None] | None, log: TrainingLog
    ) -> None:
        codes = self.codes
        if self.recipe.warps:
            codes = warp(codes, self.dataset.shape, self.rng)
        order = torch.from_numpy(self.rng.permutation(len(codes)))
        rewired = [0] * len(self.net.layers)
        total_loss = 0.0
        rate = 0.0
        period = self.strategy.period(self.total)
        steps = min(self.per_epoch, self.total - self.step)
        for i in range(steps):
            at = self.step / self.total
            rate = self.recipe.rate_at(self.step, self.total)
            chosen = order[i * self.batch : (i + 1) * self.batch]
            moves = self.step > 0 and self.step % period == 0 and self.strategy.fraction(at) > 0.0
            observe = self.step < OBSERVE_FIRST or (
                at < OBSERVE_UNTIL and self.step % OBSERVE_EVERY == 0
            )
            for layer in self.net.layers:
                layer.tap.open = moves and self.strategy.uses_gradient
            loss = self._loss(codes[chosen], self.labels[chosen], observe)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if moves:
                # As in RigL, such a step moves wires instead of weights.
                for k, layer in enumerate(self.net.layers):
                    rewired[k] += self._rewire(layer, at)
            else:
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
            self._average()
            total_loss += float(loss.detach())
            self.step += 1
        batches = [
            codes[order[k * self.batch : (k + 1) * self.batch]] for k in range(MEASURED_BATCHES)
        ]
        snapshot = self._snapshot(number, [b for b in batches if len(b)])
        self.top_accuracy = max(self.top_accuracy, snapshot.accuracy)
        # The latest epoch within one standard error of the highest accuracy: the held-out rows
        # cannot tell these apart, and the rate falls to 0, so the later one is the more settled.
        error = math.sqrt(
            self.top_accuracy * (1.0 - self.top_accuracy) / max(1, len(self.held_labels))
        )
        if snapshot.accuracy >= self.top_accuracy - error:
            self.best = snapshot
        epoch = Epoch(
            number,
            self.epochs,
            snapshot.accuracy,
            total_loss / steps,
            rate,
            tuple(rewired),
            time.monotonic() - self.began,
        )
        self.history.append(epoch)
        log.write(
            "epoch",
            epoch=number,
            accuracy=epoch.accuracy,
            loss=epoch.loss,
            rate=rate,
            rewired=rewired,
            seconds=epoch.seconds,
        )
        if progress is not None:
            progress(epoch)

    def _loss(self, codes: Tensor, labels: Tensor, observe: bool) -> Tensor:
        if self.recipe.shifts:
            rng = np.random.default_rng((self.seed, self.step))
            codes = jitter(codes, self.dataset.shape, self.recipe.shifts, self.recipe.cutout, rng)
        found = self.net.forward(codes.to(self.device), observe=observe)
        return functional.cross_entropy(
            found, labels.to(self.device), label_smoothing=self.recipe.smoothing
        )

    def _average(self) -> None:
        """Move the averaged weights towards the present ones, fast at first."""
        if self.averages:
            share = max(1.0 / (self.step + 1), 1.0 / (1.0 + self.recipe.averaging * self.total))
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.net.parameters(), share)

    def _rewire(self, layer: QuantizedLayer, at: float) -> int:
        """Replace connections of a layer; how many weights were replaced."""
        gradient, layer.tap.gradient = layer.tap.gradient, None
        if layer.indices is None:
            return 0
        spec = layer.layer
        connections = Connections(
            layer.values.detach(),
            layer.indices,
            spec.inputs // spec.block,
            gradient,
            self.generator,
        )
        places = rewire(self.strategy, connections, at)
        if places is None:
            return 0
        # What the optimizer remembers is of the weights that went.
        for moment in self.optimizer.state[layer.values].values():
            if isinstance(moment, Tensor) and moment.shape == layer.values.shape:
                clear(moment, places)
        for own, average in zip(self.net.parameters(), self.averages, strict=False):
            if own is layer.values:
                clear(average, places)
        return places.numel() * spec.block

    def _snapshot(self, epoch: int, batches: list[Tensor]) -> _Snapshot:
        """The network as it is now, with averaged weights where these are kept.

        batches  codes that batch norm's statistics are taken from
        """
        present = self.net.state() if self.averages else None
        with torch.no_grad():
            for own, average in zip(self.net.parameters(), self.averages, strict=False):
                own.copy_(average)
        if self.net.trunk is not None:
            self.net.trunk.measure((b.to(self.device) for b in batches), rounds=True)
        layers, trunk = self.net.integers(), self.net.trunk_integers()
        found = logits(self.network, layers, self.held_codes, trunk).argmax(axis=1)
        accuracy = float((found == self.held_labels).mean())
        snapshot = _Snapshot(epoch, self.step, accuracy, layers, trunk, self.net.state())
        if present is not None:
            self.net.restore(present)
        return snapshot

    def _log_wires(self, log: TrainingLog, when: str, first: LayerParameters) -> None:
        if self.network.trunk:
            return  # its wires look at features, not at the picture
        layer = self.network.layers[0]
        if first.indices is None:
            counts = np.full(layer.inputs, layer.outputs)
        else:
            blocks = np.bincount(first.indices.reshape(-1), minlength=layer.inputs // layer.block)
            counts = np.repeat(blocks, layer.block)
        log.write("wires", when=when, shape=list(self.dataset.shape), counts=counts.tolist())

    def _shadow_accuracy(self, codes: npt.NDArray[np.uint8]) -> float:
        """Accuracy of the float network on the test rows, whose codes are given."""
        right, chunk = 0, 500 if self.network.trunk else 4096
        for at in range(0, len(codes), chunk):
            part = torch.from_numpy(codes[at : at + chunk]).to(self.device)
            found = self.net.shadow(part).argmax(dim=1).cpu().numpy()
            right += int((found == self.dataset.y_test[at : at + chunk]).sum())
        return right / len(codes)

    def _result(
        self,
        best: _Snapshot,
        strategy: str,
        log: TrainingLog,
        unknown: bool,
        interrupted: bool,
    ) -> TrainResult:
        accuracy = shadow_accuracy = None
        if len(self.dataset.x_test):
            codes = self.coding.encode(self.dataset.x_test)
            found = logits(self.network, best.layers, codes, best.trunk).argmax(axis=1)
            accuracy = float((found == self.dataset.y_test).mean())
            self.net.restore(best.shadow)
            shadow_accuracy = self._shadow_accuracy(codes)
        threshold = 0
        if unknown:
            held = logits(self.network, best.layers, self.held_codes, best.trunk)
            threshold = unknown_threshold(held, self.held_labels, best.layers[-1])
        memories = None
        if self.network.learning and self.network.replay_samples:
            y = self.labels.numpy()
            room = self.network.replay_samples
            chosen = choose_memories(y, self.network.classes, room, self.rng)
            remembered = self.codes.numpy()[chosen]
            if self.network.trunk:
                remembered = features(self.network, best.trunk, remembered)
            memories = (remembered, y[chosen])
        parameters = pack(
            self.dataset,
            self.network,
            best.layers,
            best.trunk,
            self.coding,
            strategy=strategy,
            seed=self.seed,
            steps=best.step,
            accuracy=accuracy,
            unknown=threshold,
            replay=memories,
        )
        seconds = time.monotonic() - self.began
        log.write(
            "end",
            best_epoch=best.epoch,
            accuracy=accuracy,
            validation_accuracy=best.accuracy,
            shadow_accuracy=shadow_accuracy,
            steps=best.step,
            seconds=seconds,
            interrupted=interrupted,
        )
        return TrainResult(
            network=self.network,
            parameters=parameters,
            accuracy=accuracy,
            validation_accuracy=best.accuracy,
            shadow_accuracy=shadow_accuracy,
            history=self.history,
            best_epoch=best.epoch,
            steps=best.step,
            planned_steps=self.total,
            threads=self.threads,
            seconds=seconds,
            interrupted=interrupted,
        )
