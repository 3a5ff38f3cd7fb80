"""The training loop."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from zgedge.arena import LayerParameters
from zgedge.data.dataset import Dataset
from zgedge.errors import DataError, UsageError
from zgedge.network import DENSE, Network
from zgedge.train.augment import warp
from zgedge.train.inputs import choose_coding
from zgedge.train.log import TrainingLog
from zgedge.train.pack import choose_memories, pack, unknown_threshold
from zgedge.train.quantized import QuantizedLayer, QuantizedNetwork, logits
from zgedge.train.result import Epoch, TrainResult
from zgedge.train.rewiring import STRATEGIES, Connections, Strategy, rewire
from zgedge.train.rewiring.base import clear
from zgedge.train.wiring import local_start, random_start

VALIDATION_SHARE, VALIDATION_MOST = 0.1, 5000

# Adam at this rate, warmed up over a fiftieth of the steps, then a cosine to 0.
RATE = 6e-3
WARM_UP = 0.02
# Activation scales follow the weights up to here; then they stay, and the weights settle to them.
OBSERVE_UNTIL = 0.6
OBSERVE_EVERY, OBSERVE_FIRST = 10, 50

# Epochs, where they are not given: as many as make the wanted steps, fewer where a step is costly.
WANTED_STEPS = 18_000
MOST_OPERATIONS = 6e12
FEWEST_EPOCHS, MOST_EPOCHS = 10, 200
# Operations of a step from which a second thread gains more than it costs.
THREADS_FROM = 4e9
# Pictures smaller than this have no room to be moved.
WARP_FROM = 8


@dataclass
class _Snapshot:
    """The network at the end of an epoch: its integers, and the shadow weights behind them."""

    epoch: int
    accuracy: float
    layers: list[LayerParameters]
    shadow: list[tuple[Tensor, Tensor, Tensor | None]]


def fit(
    dataset: Dataset,
    network: Network,
    *,
    strategy: str,
    seed: int,
    epochs: int | None,
    progress: Callable[[Epoch], None] | None,
    log: str | os.PathLike[str] | None,
    unknown: bool,
) -> TrainResult:
    """See `zgedge.train.train`."""
    if strategy not in STRATEGIES:
        raise UsageError(
            f"{strategy!r} is not a way of rewiring.", f"Choose from {', '.join(STRATEGIES)}."
        )
    if epochs is not None and epochs < 1:
        raise UsageError(f"{epochs} epochs are too few.", "Train for at least 1.")
    _check(dataset, network)
    writer = TrainingLog(log)
    try:
        training = _Training(dataset, network, STRATEGIES[strategy](), seed, epochs)
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
    steps = min(WANTED_STEPS, MOST_OPERATIONS / operations(network, batch))
    wanted = math.ceil(steps / (samples // batch))
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS, wanted))


def operations(network: Network, batch: int) -> int:
    """Multiplications and additions of one training step, layers as dense products."""
    return 6 * batch * sum(layer.inputs * layer.outputs for layer in network.layers)


class _Training:
    def __init__(
        self, dataset: Dataset, network: Network, strategy: Strategy, seed: int, epochs: int | None
    ) -> None:
        self.dataset, self.network, self.strategy, self.seed = dataset, network, strategy, seed
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.coding = choose_coding(dataset, network.groups)
        codes = self.coding.encode(dataset.x_train)
        kept, held = split_validation(dataset.y_train, self.rng)
        self.held_codes, self.held_labels = codes[held], dataset.y_train[held]
        self.codes = torch.from_numpy(codes[kept])
        self.labels = torch.from_numpy(dataset.y_train[kept])
        wiring = [self._start(i) for i in range(len(network.layers))]
        self.net = QuantizedNetwork(network, self.coding, wiring, self.generator)
        self.batch = batch_size(len(kept))
        self.epochs = epochs or default_epochs(len(kept), network)
        self.per_epoch = len(kept) // self.batch
        self.total = self.per_epoch * self.epochs
        work = operations(network, self.batch)
        self.threads = 1 if work < THREADS_FROM else torch.get_num_threads()
        self.warps = dataset.kind == "picture" and min(dataset.shape[:2]) >= WARP_FROM
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=RATE, foreach=True)
        self.step = 0
        self.history: list[Epoch] = []
        self.best: _Snapshot | None = None
        self.top_accuracy = 0.0
        self.began = time.monotonic()

    def _start(self, i: int) -> npt.NDArray[np.int64] | None:
        layer = self.network.layers[i]
        if layer.kind == DENSE:
            return None
        if i == 0 and self.dataset.kind != "table":
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
            batch=self.batch,
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
        best = self.best or self._snapshot(0)
        self._log_wires(log, "end", best.layers[0])
        return self._result(best, strategy, log, unknown, interrupted)

    def _epoch(
        self, number: int, progress: Callable[[Epoch], None] | None, log: TrainingLog
    ) -> None:
        codes = self.codes
        if self.warps:
            codes = warp(codes, self.dataset.shape, self.rng)
        order = torch.from_numpy(self.rng.permutation(len(codes)))
        rewired = [0] * len(self.net.layers)
        total_loss = 0.0
        rate = 0.0
        period = self.strategy.period(self.total)
        for i in range(self.per_epoch):
            at = self.step / self.total
            rate = RATE * min(1.0, (self.step + 1) / (WARM_UP * self.total + 1))
            rate *= 0.5 * (1.0 + math.cos(math.pi * at))
            chosen = order[i * self.batch : (i + 1) * self.batch]
            moves = self.step > 0 and self.step % period == 0 and self.strategy.fraction(at) > 0.0
            observe = self.step < OBSERVE_FIRST or (
                at < OBSERVE_UNTIL and self.step % OBSERVE_EVERY == 0
            )
            for layer in self.net.layers:
                layer.tap.open = moves and self.strategy.uses_gradient
            loss = functional.cross_entropy(
                self.net.forward(codes[chosen], observe=observe), self.labels[chosen]
            )
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
            total_loss += float(loss.detach())
            self.step += 1
        snapshot = self._snapshot(number)
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
            total_loss / self.per_epoch,
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
        return places.numel() * spec.block

    def _snapshot(self, epoch: int) -> _Snapshot:
        layers = self.net.integers()
        found = logits(self.network, layers, self.held_codes).argmax(axis=1)
        shadow = [
            (
                layer.values.detach().clone(),
                layer.bias.detach().clone(),
                None if layer.indices is None else layer.indices.clone(),
            )
            for layer in self.net.layers
        ]
        return _Snapshot(epoch, float((found == self.held_labels).mean()), layers, shadow)

    def _log_wires(self, log: TrainingLog, when: str, first: LayerParameters) -> None:
        layer = self.network.layers[0]
        if first.indices is None:
            counts = np.full(layer.inputs, layer.outputs)
        else:
            blocks = np.bincount(first.indices.reshape(-1), minlength=layer.inputs // layer.block)
            counts = np.repeat(blocks, layer.block)
        log.write("wires", when=when, shape=list(self.dataset.shape), counts=counts.tolist())

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
            found = logits(self.network, best.layers, codes).argmax(axis=1)
            accuracy = float((found == self.dataset.y_test).mean())
            for layer, (values, bias, indices) in zip(self.net.layers, best.shadow, strict=True):
                layer.values, layer.bias, layer.indices = values, bias, indices
            right = 0
            for at in range(0, len(codes), 4096):
                part = self.net.shadow(torch.from_numpy(codes[at : at + 4096])).argmax(dim=1)
                right += int((part.numpy() == self.dataset.y_test[at : at + 4096]).sum())
            shadow_accuracy = right / len(codes)
        threshold = 0
        if unknown:
            held = logits(self.network, best.layers, self.held_codes)
            threshold = unknown_threshold(held, self.held_labels, best.layers[-1])
        memories = None
        if self.network.learning and self.network.replay_samples:
            y = self.labels.numpy()
            room = self.network.replay_samples
            chosen = choose_memories(y, self.network.classes, room, self.rng)
            memories = (self.codes.numpy()[chosen], y[chosen])
        steps = best.epoch * self.per_epoch if best.epoch else self.step
        parameters = pack(
            self.dataset,
            self.network,
            best.layers,
            self.coding,
            strategy=strategy,
            seed=self.seed,
            steps=steps,
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
            steps=steps,
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
            steps=steps,
            seconds=seconds,
            interrupted=interrupted,
        )
