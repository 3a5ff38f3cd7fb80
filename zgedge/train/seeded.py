"""An analytic head over features that were never trained: a network for streams of which little is
known beforehand (docs/heads.md).

Pictures go through one convolution and max pools down to some 3 x 3 places, everything else through
one layer of random units. Filters of grey pictures are smooth noise, of colour pictures whitened
patches of the first ones, and means take the place of the last pool there; the seed makes all else.
The training data choose the scales and fill the head's statistics, in one pass and with the core
itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zgedge import network as net
from zgedge.arena import (
    LayerParameters,
    LearnerParameters,
    Parameters,
    TrunkParameters,
    in_memory,
    names_blob,
    weight_shape,
    write,
)
from zgedge.budget import Task, with_columns
from zgedge.data.dataset import Dataset
from zgedge.errors import BudgetError, UsageError
from zgedge.network import Layer, Network, TrunkLayer, conv, dense, max_pool, sparse
from zgedge.runtime import Learner, Model
from zgedge.train.fixed import TOP, means_of, smooth_noise, whitened_patches, with_means
from zgedge.train.inputs import InputCoding, choose_coding

FAN_IN = 32
PLACES = 3  # of a picture, along a side, that the head looks at
THRESHOLD = 0.25  # of a grey filter's root mean square answer
CALIBRATION = 256  # samples that scales are chosen on
ROUNDS = 64

Float = npt.NDArray[np.float64]


def seeded(
    dataset: Dataset, budget: int, *, spare: int = 0, pending: int = 0, seed: int = 0
) -> tuple[Network, Parameters, bytes]:
    """The network with as many features as fit, its parameters, and its file, the training data
    learned in one pass. `spare` classes get their name on the device, `pending` samples can wait
    for their label.

    Raises BudgetError where not even a few features fit.
    """
    network = planned(dataset, budget, spare=spare, pending=pending)
    coding = choose_coding(dataset, network.groups)
    rng = np.random.default_rng(seed)
    codes = coding.encode(dataset.x_train[:CALIBRATION])
    trunk, layers = _features(network, coding, codes, rng)
    width = network.layers[-1].inputs
    s_in = trunk[-1].s_out if trunk else layers[-1].s_out
    known = len(dataset.classes)
    columns = network.names_bytes > _class_names(dataset, spare)
    layers.append(
        LayerParameters(
            np.zeros((known, width), np.int8), None, np.zeros(known, np.int32),
            np.full(known, s_in, np.float32), s_in, 1.0,
        )
    )  # fmt: skip
    parameters = Parameters(
        coding.scale, coding.center, layers, dataset.classes, int_classes=dataset.int_classes,
        feature_names=dataset.column_names if columns else None, seed=seed,
        samples=len(dataset.x_train), budget=budget, trunk=trunk,
        learner=LearnerParameters(key=seed, strategy="static"),
    )  # fmt: skip
    model = Model(in_memory(write(network, parameters)), dataset.name)
    learner = Learner(model)
    labels = model.classes[dataset.y_train]
    learner.learn_many(dataset.x_train, labels)
    learner.solve(ROUNDS)
    if len(dataset.x_test):
        right = model.predict(dataset.x_test) == model.classes[dataset.y_test]
        parameters.accuracy = float(right.mean())
        model.arena.set_accuracy(parameters.accuracy)
    return network, parameters, model.to_bytes()


def planned(dataset: Dataset, budget: int, *, spare: int = 0, pending: int = 0) -> Network:
    """The network with as many features as a file of `budget` bytes holds, at most 511, beside the
    names of the columns where these keep to their share."""
    task = Task.of(dataset)
    classes = task.classes + spare
    if classes > net.MAX_ANALYTIC_CLASSES:
        raise UsageError(
            f"{classes} classes are more than the {net.MAX_ANALYTIC_CLASSES} of an analytic head."
        )
    options = {
        "groups": task.groups, "task": task.kind, "batch": 1,
        "head": net.ANALYTIC_HEAD, "known": task.classes if spare else 0, "pending": pending,
    }  # fmt: skip

    def of(count: int, named: int) -> Network:
        trunk: tuple[TrunkLayer, ...] = ()
        hidden: tuple[Layer, ...] = ()
        if task.kind == "picture":
            trunk = _trunk(task.shape, count)
            width = trunk[-1].outputs
        else:
            width = count
            fan_in = min(task.inputs, FAN_IN)
            wide = 3 * fan_in >= task.inputs
            hidden = (dense(task.inputs, width) if wide else sparse(task.inputs, width, fan_in),)
        layers = (*hidden, dense(width, classes))
        return Network(task.shape, classes, layers, trunk=trunk, names_bytes=named, **options)  # type: ignore[arg-type]

    best: Network | None = None
    bare = _class_names(dataset, spare)
    smallest = of(1, bare)
    named = bare + with_columns(task, budget).names_bytes - task.names_bytes
    if of(1, named).file_bytes > budget:
        named = bare
    for count in range(1, net.MAX_ANALYTIC + 1):
        try:
            network = of(count, named)
        except ValueError:  # more than 511 features
            break
        if network.file_bytes > budget:
            break
        best = network
    if best is None:
        raise BudgetError(
            f"{budget:,} bytes are too few for an analytic head on {dataset.name}.",
            f"The smallest budget that works is {smallest.file_bytes:,} bytes.",
            smallest=smallest.file_bytes,
        )
    return best


def _class_names(dataset: Dataset, spare: int) -> int:
    """Bytes that the names of the classes take."""
    return len(names_blob(dataset.classes, spare=spare or None))


def _trunk(shape: tuple[int, int, int], channels: int) -> tuple[TrunkLayer, ...]:
    """One convolution, then pools down to some 3 x 3 places; of colours the last takes means."""
    kernel = next(k for k in (7, 5, 3, 1) if k == 1 or min(shape[:2]) >= 3 * k - 3)
    trunk = [conv(shape, channels, kernel, same=False)]
    while min(trunk[-1].out_shape[:2]) > 5 * PLACES:
        trunk.append(max_pool(trunk[-1].out_shape))
    means = means_of(trunk[-1].out_shape, PLACES) if shape[2] > 1 else None
    if means is not None:
        return (*trunk, means)
    side = min(trunk[-1].out_shape[:2])
    stride = min(net.MAX_STRIDE, side // PLACES)
    window = min(side - (PLACES - 1) * stride, stride + 1)
    if stride > 0 and 2 <= window <= net.MAX_POOL_KERNEL:
        trunk.append(max_pool(trunk[-1].out_shape, window, stride))
    return tuple(trunk)


def _features(
    network: Network, coding: InputCoding, codes: npt.NDArray[np.uint8], rng: np.random.Generator
) -> tuple[list[TrunkParameters], list[LayerParameters]]:
    x = (codes.astype(np.float64) - coding.zero) * coding.step
    if network.trunk:
        return _filters(network, codes, x, coding.step, rng), []
    layer = network.layers[0]
    rows, width = layer.outputs, layer.width
    real = rng.standard_normal((rows, width))
    step = np.abs(real).max() / 127
    weights = np.rint(real / step).astype(np.int8)
    indices = None
    if layer.kind == net.SPARSE:
        picked = [np.sort(rng.choice(layer.inputs, width, replace=False)) for _ in range(rows)]
        indices = np.stack(picked).astype(np.uint16)
        answers = np.stack([x[:, i] @ w for i, w in zip(indices, weights * step, strict=True)], 1)
    else:
        answers = x @ (weights * step).T
    # Each unit answers to a share of the samples that is its own.
    quiet = np.array(
        [np.quantile(a, q) for a, q in zip(answers.T, rng.uniform(0.2, 0.8, rows), strict=True)]
    )
    s_out = _top(np.maximum(answers - quiet, 0))
    bias = np.rint(-quiet / (coding.step * step)).astype(np.int32)
    multiplier = np.full(rows, coding.step * step / s_out, np.float32)
    return [], [
        LayerParameters(
            weights, indices, bias, multiplier, coding.step, float(step), s_out, coding.zero
        )
    ]


def _filters(
    network: Network,
    codes: npt.NDArray[np.uint8],
    x: Float,
    s_in: float,
    rng: np.random.Generator,
) -> list[TrunkParameters]:
    first = network.trunk[0]
    k, (height, width, incoming) = first.kernel, first.shape
    windows = np.lib.stride_tricks.sliding_window_view(
        x.reshape(-1, height, width, incoming), (k, k), axis=(1, 2)
    )
    flat = windows[:, :: max(1, k // 2), :: max(1, k // 2)].transpose(0, 1, 2, 4, 5, 3)
    flat = flat.reshape(-1, first.taps)
    threshold = THRESHOLD if incoming == 1 else 0.0
    if incoming > 1:
        filters = whitened_patches(rng, flat, first.channels)
    else:
        filters = smooth_noise(rng, first.channels, k)
    steps = np.abs(filters).max(axis=1) / 127
    weights = np.rint(filters / steps[:, None]).astype(np.int8)
    answers = flat @ (weights * steps[:, None]).T
    size = np.sqrt((answers**2).mean(axis=0)) + 1e-9
    s_out = _top(np.maximum(answers / size - threshold, 0))
    bias = np.rint(-threshold * size / (s_in * steps)).astype(np.int32)
    multiplier = (s_in * steps / (size * s_out)).astype(np.float32)
    weights = weights.reshape(weight_shape(first))
    trunk = [TrunkParameters(s_in, s_out, weights, bias, multiplier)]
    trunk += [TrunkParameters(s_out, s_out) for x in network.trunk[1:] if x.kind == net.MAX_POOL]
    return trunk if len(trunk) == len(network.trunk) else with_means(network, trunk, codes)


def _top(answers: Float) -> float:
    """The real value of one of 255 steps."""
    top = float(np.quantile(answers, TOP))
    return float(np.float32((top if top > 0 else 1.0) / 255))
