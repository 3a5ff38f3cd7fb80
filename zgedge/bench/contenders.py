"""The rows of `zgedge bench continual`: networks of equal bytes that nothing was trained of.

Each row is a whole file of at most the budget: weights random from the seed, wires random from the
seed, and in the bytes that are left as many remembered samples as fit. Scales of activations are
taken from the first samples of the stream and stay. The core learns from there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from zgedge import arena
from zgedge.bench.streams import CLASSES, SHIFT, WORLDS, Rows, Stream, Task
from zgedge.errors import BudgetError
from zgedge.network import (
    ANALYTIC_HEAD,
    CONV,
    DENSE,
    DEPTHWISE,
    MAX_ANALYTIC,
    MAX_REPLAY,
    SOFTMAX,
    Layer,
    Network,
    TrunkLayer,
    conv,
    dense,
    max_pool,
    sparse,
)  # fmt: skip
from zgedge.train.fixed import means_of, smooth_noise, whitened_patches, with_means
from zgedge.train.inputs import STEPS_PER_DEVIATION, TABLE_ZERO

Floats = npt.NDArray[np.float64]

HEAD, WEIGHTS, REWIRED = "head only", "weights only", "rewired, "
DENSE_ROW, SEEDED, GDUMB = "dense int8", "seeded convolution", "GDumb"
GUARDED, ANALYTIC = "rewired, rigl, guarded", "analytic head"
ANCHORS = 104  # samples of the world before that a guarded row is judged by
TRUNKS = ("seeded", "analytic")
UNITS = "units"  # random ones below an analytic head, where a convolution means nothing
UNIT_FAN_IN = 32
WIDE = 2000  # inputs from which a sample at 4 bits takes too much of a budget
MANY = 400  # values of a remembered sample from which one bit each is enough in worlds that return
LOOKED_AT = 256  # samples that set the scales
HEADROOM = 3.0  # activations may grow so far beyond those of the beginning
SEEN_PICTURES = 64
THRESHOLD = 0.35  # of a seeded filter's answer, in deviations
TRACES = 4  # parts of the sketches that the attention strategy learns with


@dataclass(frozen=True)
class Settings:
    """How a stream is learned; chosen on other seeds and on held-out training rows.

    units, fan_in, block  of the sparse layer; `dense_units` of the dense one in its place
    bits, pool            what is seen of a sample, learned, remembered and tested alike: so many
                          bits of a value, and the means of 2 x 2 places where `pool` is 2
    trunk_bits            how features behind the seeded convolution are remembered
    rate, swaps, gather   of the learner; `batch` samples a step, all but one of them remembered
    trunk_rate            in place of `rate` behind the seeded convolution, where it is not 0
    keep                  which samples a full memory takes, `Learner`'s
    anneal                the rate falls to a tenth over the stream, as `Learner.anneal` has it
    maps, kernel, cells   of the seeded convolution, and of places that are left of a side
    """

    units: int = 128
    dense_units: int = 48
    fan_in: int = 64
    block: int = 1
    bits: int = 4
    pool: int = 0
    trunk_bits: int = 4
    rate: float = 0.5
    trunk_rate: float = 0.0
    batch: int = 16
    swaps: int = 4
    gather: int = 64
    maps: int = 36
    kernel: int = 7
    cells: int = 3
    keep: str = "fade"
    anneal: bool = False


def settings_of(stream: Stream) -> Settings:
    """What was chosen for streams of this kind (docs/continual.md)."""
    fan_in = min(64, max(4, stream.inputs // 4))
    if stream.kind == SHIFT:
        bits = 2 if stream.inputs > WIDE else 4
        return Settings(units=64, dense_units=32, fan_in=16, rate=0.5, anneal=True, bits=bits)
    # Means of neighbours are something where inputs have any.
    pooled = stream.picture and stream.shape[0] >= 20 and stream.neighbours
    bits = 2 if stream.picture else 8
    pool = 2 if pooled else 0
    if stream.kind == WORLDS:
        bits = 1 if stream.picture and stream.inputs >= MANY and not pooled else bits
        return Settings(
            units=256, dense_units=96, fan_in=fan_in, bits=bits, pool=pool, rate=0.25,
            keep="reservoir",
        )  # fmt: skip
    # Colours are three values for each place, all of them positive: larger steps go too far, and of
    # a dense layer nothing is left.
    rate, trunk_rate = (0.05, 0.05) if stream.colour else (0.5, 0.1)
    return Settings(fan_in=fan_in, bits=bits, pool=pool, rate=rate, trunk_rate=trunk_rate)


def coarse(stream: Stream, settings: Settings) -> Stream:
    """The stream as it is seen at `settings.bits` a value and, where pictures are pooled, by the
    means of 2 x 2 places.

    A remembered sample that is coarser than those that come gives away that it is an old one; so
    what comes, what is remembered and what is tested are coded alike.
    """
    if not stream.picture:
        return stream
    x, _ = (stream.before or stream.tasks[0]).train()
    scale = np.float32(255.0 / max(float(x[:LOOKED_AT].max()), 1e-6))
    height, width, channels = shape = stream.shape
    if settings.pool:
        shape = (-(-height // 2), -(-width // 2), channels)

    def see(rows: Rows) -> Rows:
        x, y = rows
        codes = np.clip(np.rint(x.astype(np.float32) * scale), 0, 255).astype(np.uint8)
        if settings.pool:
            codes = arena.pool_codes(codes, stream.shape)
        packed = arena.pack_codes(codes, settings.bits)
        return arena.unpack_codes(packed, settings.bits, codes.shape[1]), y

    def task(task: Task) -> Task:
        return replace(
            task, train=lambda: see(task.train()), test=functools.cache(lambda: see(task.test()))
        )

    return replace(
        stream,
        shape=shape,
        tasks=tuple(task(t) for t in stream.tasks),
        before=stream.before and task(stream.before),
    )


@dataclass(frozen=True)
class Row:
    """What learns: its name in the tables, its strategy, and which layers."""

    name: str
    strategy: str = "static"
    learn: str = "all"
    network: str = "sparse"


# All rows that there are, by their names.
ROWS = (
    HEAD, WEIGHTS, *(REWIRED + name for name in arena.STRATEGIES if name != "static"), DENSE_ROW,
    SEEDED, ANALYTIC, GUARDED, GDUMB,
)  # fmt: skip


def rows_of(stream: Stream) -> tuple[Row, ...]:
    """The rows that mean something for a stream; all strategies that the core has."""
    rows = [Row(HEAD, learn="head"), Row(WEIGHTS)]
    rows += [Row(REWIRED + name, name) for name in arena.STRATEGIES if name != "static"]
    rows.append(Row(DENSE_ROW, network="dense"))
    if stream.picture and stream.neighbours and min(stream.shape[:2]) >= 20:
        rows += [Row(SEEDED, network="seeded"), Row(ANALYTIC, network="analytic")]
    else:
        rows.append(Row(ANALYTIC, network=UNITS))
    if stream.kind == SHIFT:
        rows.append(Row(GUARDED, "rigl", network="guarded"))
    if stream.kind == CLASSES:
        rows.append(Row(GDUMB, network="gdumb"))
    return tuple(rows)


def network_of(stream: Stream, row: Row, budget: int, settings: Settings) -> Network:
    """The network of a row, its replay as large as the budget lets it be.

    Raises BudgetError where not a sample for each class fits.
    """
    k = settings
    classes = len(stream.classes)
    layers: tuple[Layer, ...]
    if row.network in TRUNKS:
        return _behind_trunk(stream, row, budget, settings)
    if row.network == UNITS:
        return _on_units(stream, budget)
    if row.network == "dense":
        layers = (dense(stream.inputs, k.dense_units), dense(k.dense_units, classes))
    else:
        layers = (
            sparse(stream.inputs, k.units, k.fan_in, k.block), dense(k.units, classes),
        )  # fmt: skip
    network = Network(
        shape=stream.shape, classes=classes, layers=layers, names_bytes=_names(classes),
        groups=1 if stream.picture else stream.inputs,
        task="picture" if stream.picture else "table",
        batch=k.batch, replay_samples=classes, replay_bits=k.bits,
        traces=TRACES if row.strategy == "attention" else 0,
        watch=row.network == "guarded",
        anchors=ANCHORS if row.network == "guarded" else 0,
    )  # fmt: skip
    return filled(network, budget)


def _names(classes: int) -> int:
    return len(arena.names_blob(str(c) for c in range(classes)))


def _behind_trunk(stream: Stream, row: Row, budget: int, settings: Settings) -> Network:
    """A seeded convolution, and behind it a learned head with remembered features, or an analytic
    one on as many features as the budget holds: it needs no memory of samples."""
    k = settings
    classes = len(stream.classes)

    def of(maps: int, analytic: bool) -> Network:
        first = conv(stream.shape, maps, k.kernel, same=False)
        halved = max_pool(first.out_shape)
        means = means_of(halved.out_shape, k.cells) if analytic and stream.colour else None
        trunk = (first, halved, means or _cells(halved.out_shape, k.cells))
        return Network(
            shape=stream.shape, classes=classes, layers=(dense(trunk[-1].outputs, classes),),
            names_bytes=_names(classes), task="picture", trunk=trunk,
            batch=1 if analytic else k.batch, head=ANALYTIC_HEAD if analytic else SOFTMAX,
            replay_samples=0 if analytic else classes, replay_bits=0 if analytic else k.trunk_bits,
        )  # fmt: skip

    if row.network == "seeded":
        return filled(of(k.maps, False), budget)
    maps = MAX_ANALYTIC // k.cells**2
    while maps > 1 and of(maps, True).file_bytes > budget:
        maps -= 1
    return _checked(of(maps, True), budget)


def _on_units(stream: Stream, budget: int) -> Network:
    """An analytic head on as many random units as the budget holds."""
    classes, fan_in = len(stream.classes), min(stream.inputs, UNIT_FAN_IN)

    def of(units: int) -> Network:
        wide = fan_in == stream.inputs
        first = dense(fan_in, units) if wide else sparse(stream.inputs, units, fan_in)
        return Network(
            shape=stream.shape, classes=classes, layers=(first, dense(units, classes)),
            names_bytes=_names(classes), groups=1 if stream.picture else stream.inputs,
            task="picture" if stream.picture else "table", batch=1, head=ANALYTIC_HEAD,
        )  # fmt: skip

    units = MAX_ANALYTIC
    while units > 1 and of(units).file_bytes > budget:
        units -= 1
    return _checked(of(units), budget)


def _checked(network: Network, budget: int) -> Network:
    if network.file_bytes > budget:
        raise BudgetError(
            f"A file of {budget:,} bytes holds no such network.",
            f"The smallest takes {network.file_bytes:,} bytes.",
            smallest=network.file_bytes,
        )
    return network


def _cells(shape: tuple[int, int, int], cells: int) -> TrunkLayer:
    """A max pool of which `cells` windows cover a side of the picture."""
    step = shape[0] // cells
    return max_pool(shape, shape[0] - (cells - 1) * step, step)


def filled(network: Network, budget: int) -> Network:
    """The network with the most remembered samples that a file of `budget` bytes holds.

    Raises BudgetError where fewer fit than there are classes.
    """
    _checked(network, budget)
    low, high = network.replay_samples, MAX_REPLAY
    while low < high:
        middle = (low + high + 1) // 2
        if replace(network, replay_samples=middle).file_bytes <= budget:
            low = middle
        else:
            high = middle - 1
    return replace(network, replay_samples=low)


def begin(
    network: Network, x: npt.NDArray[np.generic], row: Row, settings: Settings, seed: int
) -> arena.Parameters:
    """Random numbers for a network, its scales from samples x [n, inputs] that have come."""
    rng = np.random.default_rng([seed, 11])
    rate = settings.rate
    if row.network in TRUNKS and settings.trunk_rate:
        rate = settings.trunk_rate
    first: Floats = x[:LOOKED_AT].astype(np.float64)
    scale, center, zero, step = _coding(network, first)
    codes = np.clip(np.rint((first - center) * scale) + zero, 0, 255)
    seen = (codes - zero) * step
    trunk: list[arena.TrunkParameters] = []
    s_in = step
    for layer in network.trunk:
        if layer.kind == CONV:
            trunk.append(_seeded(rng, layer, seen, s_in))
        elif layer.kind == DEPTHWISE:
            trunk = with_means(network, trunk, codes.astype(np.uint8))
        else:
            trunk.append(arena.TrunkParameters(s_in, s_in))
        s_in = trunk[-1].s_out
    layers = []
    for number, shape in enumerate(network.layers):
        last = number + 1 == len(network.layers)
        indices = None
        if shape.kind != DENSE:
            blocks = shape.inputs // shape.block
            chosen = [
                np.sort(rng.permutation(blocks)[: shape.per_row]) for _ in range(shape.outputs)
            ]
            indices = np.array(chosen, np.uint16)
        deviation = (0.1 if last else 2.0**0.5) / shape.width**0.5
        # Weights end where 8 bits end: a head's far from where they begin.
        s_w = (1.0 if last else 6 * deviation) / 127
        weights = np.clip(
            np.rint(rng.standard_normal((shape.outputs, shape.width)) * deviation / s_w), -127, 127
        ).astype(np.int8)  # fmt: skip
        s_out = 1.0
        if not last:
            sums = seen @ _whole(shape, weights, indices).T * s_w
            seen = np.maximum(sums, 0.0)
            s_out = HEADROOM * max(float(np.quantile(seen, 0.999)), 1e-3) / 255
        layers.append(
            arena.LayerParameters(
                weights=weights, indices=indices, bias=np.zeros(shape.outputs, np.int32),
                multiplier=np.full(shape.outputs, s_in * s_w / s_out, np.float32),
                s_in=s_in, s_w=s_w, s_out=s_out,
                z_in=zero if number == 0 and not network.trunk else 0,
            )
        )  # fmt: skip
        s_in = s_out
    return arena.Parameters(
        input_scale=scale.astype(np.float32), input_center=center.astype(np.float32),
        layers=layers, trunk=trunk,
        class_names=[str(c) for c in range(network.classes)], int_classes=True, seed=seed,
        learner=arena.LearnerParameters(
            key=seed, rate=rate, learn=row.learn, strategy=row.strategy,
            swaps=min(settings.swaps, *(layer.per_row or 255 for layer in network.layers)),
            gather=settings.gather, keep=settings.keep,
        ),
    )  # fmt: skip


def _coding(network: Network, x: Floats) -> tuple[Floats, Floats, int, float]:
    """Scale, center, zero point and step of the inputs' codes, of samples that have come."""
    if network.groups == 1:
        top = max(float(x.max()), 1e-6)
        return np.full(1, 255.0 / top), np.zeros(1), 0, 1.0 / 255
    deviation = x.std(axis=0)
    deviation[deviation < 1e-6] = 1.0
    return STEPS_PER_DEVIATION / deviation, x.mean(axis=0), TABLE_ZERO, 1.0 / STEPS_PER_DEVIATION


def _whole(
    layer: Layer, weights: npt.NDArray[np.int8], indices: npt.NDArray[np.uint16] | None
) -> Floats:
    """Weights [outputs, inputs] with zeros where no wire is."""
    if indices is None:
        return weights.astype(np.float64)
    out = np.zeros((layer.outputs, layer.inputs))
    at = indices.astype(np.int64)[:, :, None] * layer.block + np.arange(layer.block)
    np.put_along_axis(out, at.reshape(layer.outputs, -1), weights.astype(np.float64), axis=1)
    return out


def _seeded(
    rng: np.random.Generator, layer: TrunkLayer, seen: Floats, s_in: float
) -> arena.TrunkParameters:
    """Filters, and their scale from pictures `seen` [n, inputs]. Of grey pictures smooth noise
    without a mean, which answers to edges and spots where it is stronger than a threshold; of
    colour pictures whitened patches, each of which answers as strongly."""
    k, incoming = layer.kernel, layer.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(
        seen[:SEEN_PICTURES].reshape(-1, *layer.shape), (k, k), axis=(1, 2)
    )[:, :: layer.stride, :: layer.stride]
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, k * k * incoming)
    if incoming == 1:
        filters = smooth_noise(rng, layer.channels, k)
    else:
        filters = whitened_patches(rng, patches, layer.channels)
    s_w = np.abs(filters).max(axis=1) / 127
    weights = np.rint(filters / s_w[:, None])
    sums = patches @ filters.T
    threshold, gain = THRESHOLD * float(sums.std()), np.ones(layer.channels)
    if incoming > 1:
        spread = sums.std(axis=0)
        threshold, gain = 0.0, spread.mean() / spread
    s_out = max(float(np.quantile((sums - threshold) * gain, 0.9999)), 1e-3) / 255
    return arena.TrunkParameters(
        s_in, s_out,
        weights=weights.astype(np.int8).reshape(arena.weight_shape(layer)),
        bias=np.rint(-threshold / (s_in * s_w)).astype(np.int32),
        multiplier=(s_in * s_w * gain / s_out).astype(np.float32),
    )  # fmt: skip
