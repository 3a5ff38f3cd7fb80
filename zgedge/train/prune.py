"""From a float network to a smaller one of ours that computes nearly the same.

Behind the trunk a row keeps the blocks of inputs whose weights, times the deviation of what they
multiply, are largest (Sun et al., ICLR 2024); channels of the trunk go by the L1 norm of their
filters (Li et al., ICLR 2017), those that a residual layer adds together as one. What was cut away
changes the mean and the deviation of what is left; both are set back to what they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from zgedge import network as net
from zgedge.budget import REPLAY_SHARE, SMALLEST, Plan, Task, named
from zgedge.errors import BudgetError, ModelError
from zgedge.network import DENSE, DEPTHWISE, MAX_POOL, Layer, Network, TrunkLayer
from zgedge.space import CHANNELS
from zgedge.spec import spec_of
from zgedge.train.start import ConvStart, LayerStart, Start
from zgedge.train.trunk import BATCH_NORM_EPSILON, convolve, max_pool

Floats = npt.NDArray[np.float32]

# Channels are cut by steps of this share.
CHANNEL_STEPS = 32
# A row keeps at least so many inputs.
FEWEST_INPUTS = 8
# Ways of sharing the bytes between channels and rows that are compared.
COMPARED = 8
# What is cut away may not be made up for by weights more than so many times as large.
MOST_GAIN = 2.0
BISECTIONS = 40


@dataclass(frozen=True)
class Filter:
    """Weights float32 [channels, incoming, k, k] of a trunk layer, and biases."""

    weights: Floats
    bias: Floats


@dataclass(frozen=True)
class Row:
    """A layer behind the trunk: weights float32 [outputs, inputs], and biases."""

    weights: Floats
    bias: Floats


@dataclass(frozen=True)
class Body:
    """A float network with our geometry and our input; filters are None for a pool."""

    shape: tuple[int, int, int]
    trunk: tuple[TrunkLayer, ...]
    filters: tuple[Filter | None, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Moments:
    """Mean and deviation of what a layer gives before its ReLU, for each channel or output."""

    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class Candidate:
    """A network that fits, cut from another one.

    channels  share of the trunk's channels that is left
    kept      for each trunk tensor, the picture first, which channels are left
    """

    plan: Plan
    channels: float
    kept: tuple[npt.NDArray[np.int64], ...]


# ---- channels ----


def _groups(trunk: Sequence[TrunkLayer]) -> list[int]:
    """Number of the group of each trunk tensor, the picture first: its channels go together."""
    root = list(range(len(trunk) + 1))
    for i, layer in enumerate(trunk):
        tied = [i] if layer.kind != net.CONV else []
        tied += [layer.add] if layer.add is not None else []
        for other in tied:
            old, new = sorted((root[i + 1], root[other]), reverse=True)
            root = [new if r == old else r for r in root]
    return root


def _counts(body: Body, share: float) -> dict[int, int]:
    """Channels that each group which may be cut keeps."""
    groups = _groups(body.trunk)
    counts = {}
    for layer, group in zip(body.trunk, groups[1:], strict=True):
        if group != groups[0]:
            # The kernels take four at a time.
            wanted = round(share * layer.channels / CHANNELS) * CHANNELS
            counts[group] = min(layer.channels, max(CHANNELS, wanted))
    return counts


def _kept_channels(body: Body, counts: dict[int, int]) -> tuple[npt.NDArray[np.int64], ...]:
    """Channels of each trunk tensor that are left, ascending; all of the picture's."""
    groups = _groups(body.trunk)
    scores: dict[int, npt.NDArray[np.float64]] = {}
    for filters, group in zip(body.filters, groups[1:], strict=True):
        if filters is not None:
            norms = np.abs(filters.weights).sum(axis=(1, 2, 3), dtype=np.float64)
            norms /= max(float(norms.mean()), 1e-30)
            scores[group] = scores[group] + norms if group in scores else norms
    kept = []
    for t, group in enumerate(groups):
        count = body.shape[2] if t == 0 else body.trunk[t - 1].channels
        if group in counts:
            best = np.argsort(-scores[group], kind="stable")[: counts[group]]
            kept.append(np.sort(best))
        else:
            kept.append(np.arange(count))
    return tuple(kept)


def _narrowed(body: Body, kept: Sequence[npt.NDArray[np.int64]]) -> Body:
    """The body with the channels `kept` of each trunk tensor."""
    if not body.trunk:
        return body
    trunk: list[TrunkLayer] = []
    filters: list[Filter | None] = []
    shape = body.shape
    for i, (layer, own) in enumerate(zip(body.trunk, body.filters, strict=True)):
        trunk.append(replace(layer, shape=shape, channels=len(kept[i + 1])))
        shape = trunk[-1].out_shape
        if own is None:
            filters.append(None)
            continue
        weights = own.weights[kept[i + 1]]
        if layer.kind != DEPTHWISE:
            weights = weights[:, kept[i]]
        filters.append(Filter(weights, own.bias[kept[i + 1]]))
    first = body.rows[0]
    places = first.weights.reshape(len(first.bias), -1, body.trunk[-1].channels)
    weights = places[:, :, kept[-1]].reshape(len(first.bias), -1)
    rows = (Row(weights, first.bias), *body.rows[1:])
    return Body(body.shape, tuple(trunk), tuple(filters), rows)


# ---- rows ----


class _Energies:
    """What of a layer's output is left with so many blocks a row, for each size of block."""

    def __init__(self, row: Row, deviation: Floats) -> None:
        self.scores = (np.abs(row.weights) * deviation).astype(np.float64)
        self.inputs = row.weights.shape[1]
        self.left: dict[int, npt.NDArray[np.float64]] = {}
        for block in net.BLOCKS:
            if self.inputs % block == 0:
                powers = (self.scores**2).reshape(len(self.scores), -1, block).sum(axis=2)
                self.left[block] = np.cumsum(np.sort(powers, axis=1)[:, ::-1].sum(axis=0))

    def layer(self, share: float, learning: bool) -> Layer:
        """The layer that keeps most in `share` of the bytes that a dense one takes."""
        outputs = len(self.scores)
        if share >= 1.0:
            return net.dense(self.inputs, outputs)
        whole = self.inputs * (1.5 if learning else 1.0)
        found: list[tuple[float, Layer]] = []
        for block, left in self.left.items():
            each = net.sparse(self.inputs, outputs, block, block)
            weight = 1.0 + 2.0 / block
            if learning and not each.residual_in_index:
                weight += 0.5
            blocks = max(int(share * whole / weight) // block, math.ceil(FEWEST_INPUTS / block))
            if blocks >= len(left) or blocks * block * weight >= whole:
                continue
            layer = net.sparse(self.inputs, outputs, blocks * block, block)
            found.append((float(left[blocks - 1]), layer))
        if not found:
            return net.dense(self.inputs, outputs)
        # At the least share rows differ in bytes; the smallest that keeps most.
        return max(found, key=lambda one: (one[0], -one[1].inference_bytes))[1]

    def wires(self, layer: Layer) -> npt.NDArray[np.int64]:
        """Block numbers [outputs, per_row], ascending, of what a row keeps."""
        scores = self.scores.reshape(layer.outputs, -1, layer.block).sum(axis=2)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : layer.per_row]
        return np.sort(best, axis=1).astype(np.int64)


def _shares(rows: Sequence[Row], scale: float) -> list[float]:
    """Share of each layer that is left: small layers keep more (Mocanu et al. 2018)."""
    sizes = [row.weights.shape for row in rows]
    return [min(1.0, scale * (n + m) / (n * m)) for n, m in sizes]


# ---- what fits ----


def fitting(
    body: Body, task: Task, budget: int, learning: bool, deviations: Sequence[Floats]
) -> list[Candidate]:
    """Networks of at most `budget` bytes: from the most channels that fit down to the fewest.

    deviations  of the inputs of each layer behind the trunk, float32 [inputs]
    Raises BudgetError, with the smallest size that there is, where none fits.
    """
    whole = [layer.channels for layer in body.trunk]
    groups = _groups(body.trunk)[1:]

    def cut(counts: dict[int, int]) -> tuple[Candidate | None, int]:
        if not body.trunk:
            plan, least = _widest(body, task, budget, learning, deviations)
            return None if plan is None else Candidate(plan, 1.0, ()), least
        kept = _kept_channels(body, counts)
        last = deviations[0].reshape(-1, body.trunk[-1].channels)[:, kept[-1]].reshape(-1)
        narrow = _narrowed(body, kept)
        plan, least = _widest(narrow, task, budget, learning, [last, *deviations[1:]])
        share = sum(len(k) for k in kept[1:]) / sum(whole)
        return None if plan is None else Candidate(plan, share, kept), least

    found: list[Candidate] = []
    smallest: int | None = None
    seen: list[dict[int, int]] = []
    for n in range(CHANNEL_STEPS, 0, -1):
        counts = _counts(body, n / CHANNEL_STEPS)
        if counts in seen:
            continue
        seen.append(counts)
        candidate, least = cut(counts)
        smallest = least if smallest is None else min(smallest, least)
        if candidate is None:
            continue
        dense = all(layer.kind == DENSE for layer in candidate.plan.network.layers)
        if dense:
            # No row takes what is left over, so single groups of channels do, the last first.
            for group in sorted(counts, reverse=True):
                full = max(c for c, own in zip(whole, groups, strict=True) if own == group)
                while counts[group] < full:
                    more = {**counts, group: min(full, counts[group] + CHANNELS)}
                    wider, _ = cut(more)
                    if wider is None:
                        break
                    candidate, counts = wider, more
        found.append(candidate)
        if dense:
            break  # with fewer channels nothing is won
    if not found:
        smallest = max(smallest or 0, SMALLEST)
        raise BudgetError(
            f"{budget:,} bytes are too few for this network, cut down as far as it goes.",
            f"The smallest budget that works is {smallest:,} bytes"
            + (", or less with --no-learning." if learning else "."),
            smallest=smallest,
        )
    step = max(1, math.ceil(len(found) / COMPARED))
    return found[::step]


def _widest(
    body: Body, task: Task, budget: int, learning: bool, deviations: Sequence[Floats]
) -> tuple[Plan | None, int]:
    """The plan that keeps most of the rows in `budget`, if any, and the bytes of the least."""
    energies = [_Energies(r, d) for r, d in zip(body.rows, deviations, strict=True)]
    reserve = _reserve(task, budget) if learning else 0

    def layers(scale: float) -> tuple[Layer, ...]:
        shares = _shares(body.rows, scale)
        return tuple(e.layer(s, learning) for e, s in zip(energies, shares, strict=True))

    def planned(scale: float, reserve: int) -> tuple[Plan | None, int]:
        try:
            bare = Network(
                task.shape, task.classes, layers(scale), task.names_bytes, task.groups, task.kind,
                learning=False, batch=1, trunk=body.trunk,
            )  # fmt: skip
        except ValueError as e:
            raise ModelError(f"The network is none that a file can hold: {e}.") from e
        try:
            plan = named(task, budget, spec_of(bare), learning=learning)
        except BudgetError as e:
            return None, e.smallest or bare.file_bytes
        own = replace(plan.network, replay_samples=0, replay_bits=0).file_bytes
        return (plan if own <= budget - reserve else None), own

    low, high = 1e-3, float(max(row.weights.size for row in body.rows))
    plan, _ = planned(high, reserve)
    if plan is not None:
        return plan, plan.network.file_bytes
    plan, least = planned(low, reserve)
    if plan is None:  # without room to remember samples
        reserve = 0
        plan, least = planned(low, reserve)
    if plan is None:
        return None, least
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        wider, _ = planned(middle, reserve)
        if wider is None:
            high = middle
        else:
            plan, low = wider, middle
    return plan, least


def _reserve(task: Task, budget: int) -> int:
    """Bytes that are left for remembered samples."""
    return min(math.floor(REPLAY_SHARE * budget), task.samples * (task.inputs + 1) // 2)


# ---- what a network computes ----


def _passed(body: Body, x: Tensor) -> Iterator[tuple[int, bool, Tensor, Tensor]]:
    """Layer by layer: number, whether of the trunk, what comes in, and its sums with biases."""
    kept = [x]
    for i, (layer, own) in enumerate(zip(body.trunk, body.filters, strict=True)):
        x = kept[-1]
        if own is None:
            pooled = max_pool(layer, x) if layer.kind == MAX_POOL else x.mean((2, 3), keepdim=True)
            kept.append(pooled)
            continue
        z = convolve(layer, x, torch.from_numpy(own.weights))
        z = z + torch.from_numpy(own.bias).view(1, -1, 1, 1)
        yield i, True, x, z
        kept.append(functional.relu(z if layer.add is None else z + kept[layer.add]))
    x = kept[-1]
    x = x.permute(0, 2, 3, 1).reshape(len(x), -1) if body.trunk else x
    for i, row in enumerate(body.rows):
        z = x @ torch.from_numpy(row.weights).t() + torch.from_numpy(row.bias)
        yield i, False, x, z
        x = functional.relu(z)


def _moments(z: Tensor) -> Moments:
    over = (0, 2, 3) if z.dim() == 4 else (0,)
    return Moments(z.mean(over), z.var(over, unbiased=False).sqrt())


@dataclass(frozen=True)
class Measured:
    """Moments of every layer with weights, and the deviations of the inputs of those behind."""

    trunk: dict[int, Moments]
    rows: list[Moments]
    deviations: list[Floats]


def measure(body: Body, x: Tensor) -> Measured:
    """What the layers of `body` make of real inputs x, pictures [n, c, h, w] or rows."""
    trunk, rows, deviations = {}, [], []
    with torch.no_grad():
        for i, of_trunk, incoming, z in _passed(body, x):
            if of_trunk:
                trunk[i] = _moments(z)
            else:
                rows.append(_moments(z))
                deviations.append(incoming.std(0, unbiased=False).numpy())
    return Measured(trunk, rows, deviations)


# ---- the start ----


def start_of(
    body: Body, measured: Measured, candidate: Candidate, x: Tensor, rate: float, rewire: float
) -> Start:
    """Weights and wires of the candidate, cut from `body`, whose layers gave `measured` on x."""
    network = candidate.plan.network
    narrow = _narrowed(body, candidate.kept)
    convs: list[ConvStart | None] = []
    with torch.no_grad():
        kept = [x]
        for i, (layer, own) in enumerate(zip(narrow.trunk, narrow.filters, strict=True)):
            x = kept[-1]
            if own is None:
                convs.append(None)
                pool = layer.kind == MAX_POOL
                kept.append(max_pool(layer, x) if pool else x.mean((2, 3), keepdim=True))
                continue
            target = measured.trunk[i]
            at = torch.from_numpy(candidate.kept[i + 1])
            conv = _conv_start(layer, own, Moments(target.mean[at], target.deviation[at]), x)
            convs.append(conv)
            z = functional.batch_norm(
                convolve(layer, x, torch.from_numpy(conv.values)),
                torch.from_numpy(conv.mean),
                torch.from_numpy(conv.var),
                torch.from_numpy(conv.gamma),
                torch.from_numpy(conv.beta),
                eps=BATCH_NORM_EPSILON,
            )
            kept.append(functional.relu(z if layer.add is None else z + kept[layer.add]))
        x = kept[-1]
        x = x.permute(0, 2, 3, 1).reshape(len(x), -1) if narrow.trunk else x
        layers = []
        for layer_of, row, target in zip(network.layers, narrow.rows, measured.rows, strict=True):
            start, z = _layer_start(layer_of, row, target, x)
            layers.append(start)
            x = functional.relu(z)
    return Start(tuple(convs), tuple(layers), rate, rewire)


def _conv_start(layer: TrunkLayer, own: Filter, target: Moments, x: Tensor) -> ConvStart:
    # Batch norm undoes any scale of a channel's weights; training expects the usual one.
    norms = np.sqrt((own.weights.astype(np.float64) ** 2).mean(axis=(1, 2, 3), keepdims=True))
    usual = math.sqrt(2.0 / layer.taps)
    values = np.where(norms > 1e-12, own.weights * (usual / np.maximum(norms, 1e-12)), own.weights)
    values = np.ascontiguousarray(values, np.float32)
    z = convolve(layer, x, torch.from_numpy(values))
    found = _moments(z)
    var = found.deviation**2
    alive = found.deviation > 1e-6
    gain = torch.where(alive, ((var + BATCH_NORM_EPSILON) / var.clamp_min(1e-12)).sqrt(), 0.0)
    return ConvStart(
        values, (target.deviation * gain).numpy(), target.mean.numpy(), found.mean.numpy(),
        var.numpy(),
    )  # fmt: skip


def _layer_start(layer: Layer, row: Row, target: Moments, x: Tensor) -> tuple[LayerStart, Tensor]:
    """The start of a layer on its inputs x, and its sums."""
    weights, indices = row.weights, None
    if layer.kind != DENSE:
        energies = _Energies(row, x.std(0, unbiased=False).numpy())
        indices = energies.wires(layer)
        blocks = row.weights.reshape(layer.outputs, -1, layer.block)
        left = np.zeros_like(blocks)
        each = indices[:, :, None]
        np.put_along_axis(left, each, np.take_along_axis(blocks, each, axis=1), axis=1)
        weights = left.reshape(row.weights.shape)
    z = x @ torch.from_numpy(weights).t()
    found = _moments(z)
    gain = torch.where(
        found.deviation > 1e-9, target.deviation / found.deviation.clamp_min(1e-9), 1.0
    ).clamp_(1.0 / MOST_GAIN, MOST_GAIN)
    bias = target.mean - found.mean * gain
    scaled = weights * gain.numpy()[:, None]
    if indices is not None:
        blocks = scaled.reshape(layer.outputs, -1, layer.block)
        scaled = np.take_along_axis(blocks, indices[:, :, None], axis=1)
    start = LayerStart(np.ascontiguousarray(scaled, np.float32), indices, bias.numpy())
    return start, z * gain + bias
