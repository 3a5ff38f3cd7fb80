"""A float classifier from an ONNX file, pruned, quantized and fine-tuned into a byte budget."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zgedge.budget import Plan, Task
from zgedge.data.dataset import Dataset
from zgedge.errors import DataError, UsageError
from zgedge.network import DEPTHWISE
from zgedge.train.fit import default_epochs, fit, split_validation
from zgedge.train.float_network import FloatNetwork
from zgedge.train.inputs import InputCoding, choose_coding
from zgedge.train.prune import (
    Body,
    Candidate,
    Filter,
    Row,
    fitting,
    measure,
    start_of,
)
from zgedge.train.quantized import QuantizedNetwork
from zgedge.train.read_onnx import read_onnx
from zgedge.train.result import Epoch, TrainResult
from zgedge.train.start import Start
from zgedge.train.trunk import pictures

Floats = npt.NDArray[np.float32]

# Training rows on which scalings and cuts are compared, and on which moments are taken.
ROWS = 2000
# Of the usual learning rate, connections replaced, and passes, which begin at random weights.
RATE, REWIRE = 0.25, 0.25
EPOCHS_SHARE, FEWEST_EPOCHS = 0.3, 5
# Standard errors above the largest class from which an answer is more than a guess.
SURE = 3.0
# Means and deviations of the pictures of ImageNet in 0 .. 1, as torchvision has them.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Scaling:
    """What the network takes: (x - mean) / std of raw values x.

    mean, std  float64 [1], [channels] of a picture, or [inputs]
    """

    name: str
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]

    def of(self, x: npt.NDArray[Any]) -> Floats:
        """Rows [n, inputs] as the network takes them."""
        values = np.asarray(x, np.float64).reshape(len(x), -1, len(self.mean))
        return ((values - self.mean) / self.std).reshape(len(x), -1).astype(np.float32)


@dataclass(frozen=True)
class Imported:
    """What came of an import.

    result           of the fine-tuning
    plan             the network that fits
    scaling          of the inputs, and `scaling_accuracy` of the float network with it on
                     training rows
    float_accuracy   of the float network on the test rows; None where there are none
    pruned_accuracy  of what was cut from it, before it was trained again
    channels         share of the trunk's channels that is left
    moved            trunk layers whose windows begin elsewhere than in the file's network
    float_bytes      of the ONNX file and its data
    """

    result: TrainResult
    plan: Plan
    scaling: Scaling
    scaling_accuracy: float
    float_accuracy: float | None
    pruned_accuracy: float | None
    channels: float
    moved: tuple[int, ...]
    float_bytes: int


def import_onnx(
    path: str | os.PathLike[str],
    dataset: Dataset,
    budget: int,
    *,
    learning: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    strategy: str = "rigl",
    seed: int = 0,
    epochs: int | None = None,
    steps: int | None = None,
    train_time: float | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[Epoch], None] | None = None,
    log: str | os.PathLike[str] | None = None,
) -> Imported:
    """See `zgedge.train.import_onnx`."""
    network = read_onnx(path, dataset.shape if dataset.kind == "picture" else None)
    _match(network, dataset, str(path))
    rng = np.random.default_rng(seed)
    kept, _ = split_validation(dataset.y_train, np.random.default_rng(seed))
    some = np.sort(rng.permutation(kept)[:ROWS])
    rows, labels = dataset.x_train[some], dataset.y_train[some]
    task = Task.of(dataset)
    coding = choose_coding(dataset, task.groups)
    codes = coding.encode(rows)  # refuses what is no number
    choices = (_stated(dataset, mean, std),) if mean or std else _usual(dataset)
    scaling, accuracy = _best(network, choices, rows, labels)
    if say is not None:
        say(f"input: {scaling.name}; the float network has {accuracy:.2%} of training rows right")
    body = _body(network, scaling, coding, dataset.shape)
    candidate, start = _cut(body, task, budget, learning, coding, codes, labels)
    own = candidate.plan.network
    if epochs is None and steps is None and train_time is None:
        usual = default_epochs(len(kept), own)
        epochs = max(FEWEST_EPOCHS, math.ceil(EPOCHS_SHARE * usual))
    float_accuracy = pruned_accuracy = None
    if len(dataset.x_test):
        given = scaling.of(dataset.x_test)
        float_accuracy = _right(network.logits(given), dataset.y_test)
        test_codes = coding.encode(dataset.x_test)
        pruned_accuracy = _accuracy(candidate, start, coding, test_codes, dataset.y_test)
    if say is not None and float_accuracy is not None and pruned_accuracy is not None:
        say(f"test accuracy: float {float_accuracy:.2%}, cut to fit {pruned_accuracy:.2%}")
    result = fit(
        dataset, own, strategy=strategy, seed=seed, epochs=epochs, steps=steps,
        train_time=train_time, teacher=False, checkpoint=None, progress=progress, log=log,
        unknown=False, start=start,
    )  # fmt: skip
    return Imported(
        result=result,
        plan=candidate.plan,
        scaling=scaling,
        scaling_accuracy=accuracy,
        float_accuracy=float_accuracy,
        pruned_accuracy=pruned_accuracy,
        channels=candidate.channels,
        moved=tuple(i for i, step in enumerate(network.trunk) if step.moved),
        float_bytes=network.file_bytes,
    )


def _match(network: FloatNetwork, dataset: Dataset, path: str) -> None:
    """Refuse data that are not what the network was made for."""
    dims = " x ".join(map(str, network.dims))
    if network.inputs != dataset.features:
        raise DataError(
            f"{path} takes {dims} = {network.inputs:,} values, {dataset.name} has "
            f"{dataset.features:,}.",
            "Give the data that it was trained for, in their size then.",
        )
    if network.trunk and dataset.kind != "picture":
        raise DataError(f"{path} takes pictures, and {dataset.name} is a {dataset.kind}.")
    wanted = network.picture
    if wanted is not None and dataset.kind == "picture" and wanted != dataset.shape:
        raise DataError(
            f"{path} takes pictures of {wanted} (height, width, channels), {dataset.name} has "
            f"{dataset.shape}."
        )
    if network.classes != len(dataset.classes):
        raise DataError(
            f"{path} has {network.classes:,} outputs, {dataset.name} has "
            f"{len(dataset.classes):,} classes.",
            "The outputs are the classes in the order of the data's: as numbers, or by name.",
        )
    if len(dataset.x_train) < 2:
        raise DataError(f"{dataset.name} has {len(dataset.x_train)} training rows; 2 are needed.")


# ---- what the network takes ----


def _stated(dataset: Dataset, mean: Sequence[float] | None, std: Sequence[float] | None) -> Scaling:
    found = {}
    channels = dataset.shape[2] if dataset.kind == "picture" else dataset.features
    for name, given, usual in (("mean", mean, 0.0), ("std", std, 1.0)):
        values = np.array(given or [usual], np.float64)
        if len(values) not in (1, channels):
            what = "channel" if dataset.kind == "picture" else "input"
            raise UsageError(
                f"--{name} has {len(values)} numbers.",
                f"Give one, or one for each {what} of {dataset.name}: {channels}.",
            )
        if not np.isfinite(values).all() or (name == "std" and not (values > 0).all()):
            above = ", above 0." if name == "std" else "."
            raise UsageError(f"--{name} must be finite numbers{above}")
        found[name] = values
    count = max(len(values) for values in found.values())
    wide = {
        name: values if len(values) == count else np.resize(values, count)
        for name, values in found.items()
    }
    return Scaling("as stated", wide["mean"], wide["std"])


def _usual(dataset: Dataset) -> tuple[Scaling, ...]:
    """How networks are commonly fed."""
    x = dataset.x_train
    top = 255.0 if x.dtype == np.uint8 else float(np.abs(x).max()) or 1.0
    one = np.ones(1)
    channels = dataset.shape[2] if dataset.kind == "picture" else dataset.features
    values = x.reshape(-1, channels)
    mean, deviation = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    still = deviation < 1e-9
    deviation[still] = 1.0
    low, high = values.min(0).astype(np.float64), values.max(0).astype(np.float64)
    spread = np.where(high > low, high - low, 1.0)
    found = [
        Scaling(f"x / {top:g}", 0.0 * one, top * one),
        Scaling("mean 0 and deviation 1", mean, deviation),
        Scaling(f"x / {top:g}, from -1 to 1", 0.5 * top * one, 0.5 * top * one),
    ]
    if dataset.kind != "picture":
        found.append(Scaling("0 to 1, column by column", low, spread))
    elif channels == 3:
        scaled = (top * np.array(part) for part in IMAGENET)
        found.append(Scaling("the mean and deviation of ImageNet", *scaled))
    found.append(Scaling("values as they are", 0.0 * one, one))
    return tuple(found)


def _best(
    network: FloatNetwork,
    choices: Sequence[Scaling],
    rows: npt.NDArray[Any],
    labels: npt.NDArray[np.int64],
) -> tuple[Scaling, float]:
    """The scaling under which the network has most rows right.

    Of several the first, which are the small ones: a network hardly minds larger inputs than its
    own, for they only drown its biases.
    """
    found = [_right(network.logits(scaling.of(rows)), labels) for scaling in choices]
    right = max(found)
    scaling = choices[found.index(right)]
    share = float(np.bincount(labels).max()) / len(labels)
    least = share + SURE * math.sqrt(share * (1.0 - share) / len(labels))
    if right <= least:
        tried = ", ".join(one.name for one in choices)
        raise DataError(
            f"The float network has at most {right:.1%} of {len(labels):,} training rows right, "
            f"and the largest class alone is {share:.1%}. Inputs tried: {tried}.",
            "Say with --mean and --std what it was trained on, (x - mean) / std of values as they "
            "are in the data; or its outputs are in another order than the classes.",
        )
    return scaling, right


def _right(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Share of rows whose largest logit is the label's."""
    return float((logits.argmax(axis=1) == labels).mean())


def _body(
    network: FloatNetwork, scaling: Scaling, coding: InputCoding, shape: tuple[int, int, int]
) -> Body:
    """The network on our input, its scaling folded into the first layer's weights.

    A place of a convolution's window beside the picture is 0 for both, which is not the same
    value where the scaling has a mean: there the first layer's sums differ until it is trained.
    """
    filters = [
        None if s.weights is None or s.bias is None else Filter(s.weights, s.bias)
        for s in network.trunk
    ]
    rows = [Row(layer.weights, layer.bias) for layer in network.layers]
    # A raw value is r * span + center, r being what our first layer takes.
    span = 1.0 / (coding.scale.astype(np.float64) * coding.step)
    center = coding.center.astype(np.float64)
    count = max(len(a) for a in (span, center, scaling.mean, network.scale))
    if not network.trunk:
        count = network.inputs
    span, center, mean, std, scale, offset = (
        np.resize(np.asarray(a, np.float64), count)
        for a in (span, center, scaling.mean, scaling.std, network.scale, network.offset)
    )
    slope = span / std * scale
    shift = (center - mean) / std * scale + offset
    if not network.trunk:
        weights = rows[0].weights.astype(np.float64)
        bias = (rows[0].bias + weights @ shift).astype(np.float32)
        rows[0] = Row((weights * slope).astype(np.float32), bias)
    else:
        first = next(i for i, own in enumerate(filters) if own is not None)
        own = filters[first]
        assert own is not None
        weights = own.weights.astype(np.float64)
        if network.trunk[first].layer.kind == DEPTHWISE:
            each = (-1, 1, 1, 1)
            added = weights.sum(axis=(1, 2, 3)) * shift
        else:
            each = (1, -1, 1, 1)
            added = weights.sum(axis=(2, 3)) @ np.resize(shift, weights.shape[1])
        scaled = (weights * slope.reshape(each)).astype(np.float32)
        filters[first] = Filter(scaled, (own.bias + added).astype(np.float32))
    trunk = tuple(step.layer for step in network.trunk)
    return Body(shape, trunk, tuple(filters), tuple(rows))


# ---- what fits ----


def _cut(
    body: Body,
    task: Task,
    budget: int,
    learning: bool,
    coding: InputCoding,
    codes: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
) -> tuple[Candidate, Start]:
    """Of all cuts that fit, the one that has most of the rows right as it is."""
    x = (torch.from_numpy(codes).float() - coding.zero) * coding.step
    if body.trunk:
        x = pictures(x, body.shape)
    measured = measure(body, x)
    found = []
    for candidate in fitting(body, task, budget, learning, measured.deviations):
        start = start_of(body, measured, candidate, x, RATE, REWIRE)
        right = _accuracy(candidate, start, coding, codes, labels)
        found.append((right, candidate, start))
    _, candidate, start = max(found, key=lambda one: one[0])
    return candidate, start


def _accuracy(
    candidate: Candidate,
    start: Start,
    coding: InputCoding,
    codes: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
) -> float:
    """Of a start as it is, in float."""
    wiring = [layer.indices for layer in start.layers]
    net = QuantizedNetwork(
        candidate.plan.network, coding, wiring, torch.Generator().manual_seed(0), start=start
    )
    chunks = [
        net.shadow(torch.from_numpy(codes[at : at + 500])).numpy()
        for at in range(0, len(codes), 500)
    ]
    return _right(np.concatenate(chunks), labels)
