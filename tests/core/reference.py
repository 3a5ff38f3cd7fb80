"""A second learner, in plain numpy and Python integers, written from docs/arithmetic.md.

Slow and simple: every weight one by one where that is clearer, and a trunk by whole pictures. The
core must leave the very bytes that this leaves. It shares no code with the core and reads its
settings from the file's sections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.core.reference_analytic import AnalyticHead
from tests.core.reference_guard import Guard
from tests.core.reference_rewiring import Traces, centred, sampled
from zgedge import arena as files
from zgedge import network as net
from zgedge.arena import Arena, TrunkParameters
from zgedge.network import TrunkLayer

M32 = 0xFFFFFFFF
EXP = [round(32768 * math.exp(-i / 16)) for i in range(256)]
DRAW, KEEP, SOFTMAX, GROW, SKETCH, LAYER = 0, 1, 2, 3, 4, 8
WEIGHT, BIAS, ERROR = 0, 1, 2
V_MAX = 127 * 16

Ints = npt.NDArray[np.int64]


def out_and_pad(size: int, layer: TrunkLayer) -> tuple[int, int]:
    """Places of a window along a side, and how far the first one begins before the picture."""
    k, stride = layer.kernel, layer.stride
    if not layer.same:
        return (size - k) // stride + 1, 0
    out = (size + stride - 1) // stride
    return out, max(0, (out - 1) * stride + k - size) // 2


def _windows(q: Ints, layer: TrunkLayer, outside: int) -> list[list[Ints]]:
    """[k][k] of what comes in [n, height, width, channels]: the values that all windows have at one
    of their places, [n, out height, out width, channels]."""
    k, stride = layer.kernel, layer.stride
    (out_h, top), (out_w, left) = (out_and_pad(size, layer) for size in q.shape[1:3])
    below = max(0, (out_h - 1) * stride + k - top - q.shape[1])
    behind = max(0, (out_w - 1) * stride + k - left - q.shape[2])
    q = np.pad(q, ((0, 0), (top, below), (left, behind), (0, 0)), constant_values=outside)
    rows = [slice(i, i + (out_h - 1) * stride + 1, stride) for i in range(k)]
    columns = [slice(j, j + (out_w - 1) * stride + 1, stride) for j in range(k)]
    return [[q[:, r, c] for c in columns] for r in rows]


def picture(layer: TrunkLayer, p: TrunkParameters, q: Ints, added: Ints | None) -> Ints:
    """What a trunk layer makes of pictures [n, height, width, channels]: whole pictures again."""
    if layer.kind == net.MEAN_POOL:
        s_w = np.float32(1 / (q.shape[1] * q.shape[2]))
        multiplier = np.float32(np.float32(p.s_in) * s_w) / np.float32(p.s_out)
        mean = q.sum((1, 2), keepdims=True).astype(np.float32) * multiplier
        return np.rint(np.clip(mean, 0, 255)).astype(np.int64)
    if layer.kind == net.MAX_POOL:
        return np.max([place for row in _windows(q, layer, -1) for place in row], axis=0)
    assert p.weights is not None
    assert p.bias is not None
    assert p.multiplier is not None
    acc: Ints = np.zeros(1, np.int64) + p.bias
    for i, row in enumerate(_windows(q, layer, 0)):
        for j, place in enumerate(row):
            if layer.kind == net.CONV:  # in float64, which holds these sums exactly
                part = place.astype(np.float64) @ p.weights[:, i, j, :].T.astype(np.float64)
                acc = acc + part.astype(np.int64)
            else:
                acc = acc + place * p.weights[i, j].astype(np.int64)
    with np.errstate(over="ignore"):
        y = acc.astype(np.float32) * p.multiplier
    if added is None:
        return np.rint(np.clip(y, 0, 255)).astype(np.int64)
    return np.clip(np.rint(np.clip(y, -128, 127)).astype(np.int64) + added, 0, 255)


def features(
    network: net.Network, trunk: Sequence[TrunkParameters], codes: Ints
) -> npt.NDArray[np.int64]:
    """Inputs of the first layer [n, features] from input codes [n, inputs]."""
    pictures = [codes.reshape(-1, *network.shape)]
    for layer, p in zip(network.trunk, trunk, strict=True):
        added = None if layer.add is None else pictures[layer.add]
        pictures.append(picture(layer, p, pictures[-1], added))
    return pictures[-1].reshape(len(codes), -1)


def rows_read(network: net.Network) -> int:
    """Rows of the picture that come in: those below depend on nothing."""
    heights = [network.shape[0]]
    for layer in network.trunk:
        last = layer.kind == net.MEAN_POOL
        heights.append(1 if last else out_and_pad(heights[-1], layer)[0])
    need = heights[-1]
    for height, layer in zip(heights[-2::-1], network.trunk[::-1], strict=True):
        if layer.kind == net.MEAN_POOL:
            need = height
        else:
            top = out_and_pad(height, layer)[1]
            need = min(height, (need - 1) * layer.stride - top + layer.kernel)
    return need


def trunk_of(a: Arena) -> list[TrunkParameters]:
    """The numbers of a file's trunk."""
    out = []
    for i, (layer, (s_in, s_out)) in enumerate(zip(a.network.trunk, a.trunk_scales, strict=True)):
        weights = a.trunk_weights(i)
        bias, multiplier = a.trunk_rows(i) if layer.has_weights else (None, None)
        out.append(TrunkParameters(s_in, s_out, weights, bias, multiplier))
    return out


def mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D & M32
    x ^= x >> 15
    return x * 0x846CA68B & M32


def random(base: int, i: int) -> int:
    return mix((base + i * 0x9E3779B9) & M32)


def stream(key: int, step: int, number: int) -> int:
    x = mix(key ^ (step & M32))
    x = mix(x ^ (x >> 16) ^ (step >> 32))
    return mix(x ^ (x >> 15) ^ (number * 0x9E3779B9 & M32))


def below(value: int, n: int) -> int:
    return value * n >> 32


def rate_of(coefficient: np.float32, doublings: int) -> tuple[int, int]:
    """Mantissa 0..255 and shift 0..30 of coefficient * 2^doublings."""
    bits = int(np.float32(coefficient).view(np.uint32))
    mantissa = (bits & 0x7FFFFF | 0x800000) >> 16
    shift = 7 - ((bits >> 23) - 127) - doublings
    if bits < 0x00800000 or shift > 38:
        return 0, 0
    if shift > 30:
        return mantissa >> (shift - 30), 30
    return (255, 0) if shift < 0 else (mantissa, shift)


def step_of(g: int, rate: tuple[int, int], noise: int) -> int:
    mantissa, shift = rate
    up = noise >> (32 - shift) if shift else 0
    return (g * mantissa + up) >> shift


def gathered(a: Arena) -> int:
    """Samples gathered for the row under the cursor."""
    return int(a.section(net.LEARNER)[52:56].view("<u4")[0])


def activity(a: Arena) -> int:
    """Sum of the activity of the unit under the cursor over the samples gathered."""
    return int(a.section(net.LEARNER)[60:64].view("<u4")[0])


@dataclass
class Layer:
    spec: net.Layer
    inputs_of: Ints  # [outputs, width] the input that each weight looks at
    v: Ints  # [outputs, width] 16 * weight + residual
    bias: Ints
    multiplier: npt.NDArray[np.float32]
    z: int
    coef: tuple[np.float32, np.float32]
    x: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # [inputs, samples]
    delta: Ints = field(default_factory=lambda: np.zeros(0, np.int64))  # [outputs, samples]

    @property
    def w(self) -> Ints:
        return (self.v + 8) >> 4

    def dense(self) -> Ints:
        full = np.zeros((self.spec.outputs, self.spec.inputs), np.int64)
        np.put_along_axis(full, self.inputs_of, self.w, 1)
        return full


class Learner:
    """Reads a file; `step` does what zge_learner_step does; `check` compares with an arena."""

    def __init__(self, buffer: npt.NDArray[np.uint8]) -> None:
        a = Arena(buffer.copy())
        self.arena = a
        self.network = a.network
        self.trunk = trunk_of(a)
        state = a.learner()
        assert state is not None
        self.key, self.now = state["key"], state["steps"]
        self.cursor, self.gathered = state["cursor"], gathered(a)
        self.activity, self.traces = activity(a), Traces.of(a)
        self.rate = np.float32(state["rate"])
        self.strategy, self.swaps, self.gather = state["strategy"], state["swaps"], state["gather"]
        self.reservoir = state["keep"] == "reservoir"
        self.learn = state["learn"]
        tail = a.section(net.LEARNER)[net.LEARNER_BYTES :].view("<f4").reshape(-1, 2)
        nibbles = a.section(net.RESIDUAL)
        at = 0
        self.layers: list[Layer] = []
        for i, spec in enumerate(self.network.layers):
            raw, indices = a.raw_indices(i), a.indices(i)
            if raw is None or indices is None:
                inputs_of = np.tile(np.arange(spec.inputs), (spec.outputs, 1))
            else:
                inputs_of = (
                    indices.astype(np.int64)[:, :, None] * spec.block + np.arange(spec.block)
                ).reshape(spec.outputs, spec.width)
            if not self.network.steps:
                e = np.zeros((spec.outputs, spec.width), np.int64)
            elif spec.residual_in_index:
                assert raw is not None
                e = raw.view(np.int16).astype(np.int64) >> 12
            else:
                part = nibbles[at : at + (spec.weights + 1) // 2]
                at += len(part)
                both = np.stack([part & 15, part >> 4], 1).reshape(-1)[: spec.weights]
                e = ((both.astype(np.int64) ^ 8) - 8).reshape(spec.outputs, spec.width)
            bias, multiplier = a.rows(i)
            self.layers.append(
                Layer(
                    spec, inputs_of, a.weights(i).astype(np.int64) * 16 + e,
                    bias.astype(np.int64), multiplier.copy(), a.scales[i][3],
                    (tail[i][0], tail[i][1]),
                )
            )  # fmt: skip
        widest = max((x.spec.inputs for x in self.layers if x.spec.kind == net.SPARSE), default=0)
        self.analytic = None if a.analytic() is None else AnalyticHead(a)
        self.known = len(a.class_names)
        # Samples that wait for their label: place -> (order, id, codes).
        self.waiting: dict[int, tuple[int, int, Ints]] = {}
        self.came = self.dropped = self.unknown_ids = 0
        hidden = max((x.spec.inputs for x in self.layers[1:]), default=0)
        grad = a.section(net.SCRATCH)[4 * hidden * self.network.batch :]
        self.grad = grad[: 4 * widest].view("<i4").astype(np.int64)
        self.labels: list[int] = []
        self.memory: list[Ints] = []  # codes as the replay holds them
        self._read_replay(a, state["remembered"])
        self.rewired, self.clamped = state["rewired"], state["clamped"]
        self.correct, self.samples = state["correct"], state["samples"]
        self.held: list[int] = []  # columns of this step that are held back
        self.tick = (0, 0)  # drift and guard of the last step
        self.guard = Guard(self, a)

    def _read_replay(self, a: Arena, filled: int) -> None:
        n = self.network
        if not filled:
            return
        wide = 2 if n.classes > 256 else 1
        section = a.section(net.REPLAY)[(2 * n.classes + 3) // 4 * 4 :]
        labels = section[: wide * n.replay_samples].view("<u2" if wide == 2 else np.uint8)
        packed = section[wide * n.replay_samples :].reshape(-1, n.replay_stride)[:filled]
        codes = files.unpack_codes(packed, n.replay_bits, n.replay_values)
        if n.replay_pool:
            codes = files.spread_codes(codes, n.shape)
        self.labels = [int(x) for x in labels[:filled]]
        self.memory = list(codes.astype(np.int64))

    def codes(self, x: npt.NDArray[Any]) -> Ints:
        """Features [samples, features]: the codes of raw values where there is no trunk."""
        scale, center = self.arena.input_coding()
        v = ((x.astype(np.float32) - center).astype(np.float32) * scale).astype(np.float32)
        code = np.rint(np.clip(v, -512, 512)).astype(np.int64) + self.layers[0].z
        read = rows_read(self.network) * self.network.shape[1] * self.network.shape[2]
        self.clamped += int(((code < 0) | (code > 255))[:, :read].sum())
        return features(self.network, self.trunk, np.clip(code, 0, 255))

    def forward(self, codes: Ints) -> Ints:
        """Logits [classes, samples] of features [features, samples]; keeps every layer's input."""
        for i, layer in enumerate(self.layers):
            layer.x = codes
            acc = layer.dense() @ (codes - layer.z) + layer.bias[:, None]
            if i + 1 == len(self.layers):
                return acc
            y = acc.astype(np.float32) * layer.multiplier[:, None]
            codes = np.rint(np.clip(y, 0, 255)).astype(np.int64)
        raise AssertionError("a network has a head")

    def winners(self, logits: Ints) -> list[tuple[int, int]]:
        """Class and score, of 32,768, of each column of logits."""
        s_in, s_w, _, _ = self.arena.scales[-1]
        to_table = np.float32(np.float32(16) * np.float32(s_in)) * np.float32(s_w)
        out = []
        for column in logits.T:
            below_top = np.float32(column.max() - column) * to_table
            total = sum(EXP[int(np.rint(np.float32(min(b, 255))))] for b in below_top)
            out.append((int(np.argmax(column)), (32768 * 32768 + total // 2) // total))
        return out

    def answers(self, codes: Ints) -> list[tuple[int, int]]:
        """Class and score of features [features, samples]."""
        return self.winners(self.forward(codes))

    def watch(self, x: npt.NDArray[Any]) -> tuple[int, int]:
        """What zge_learner_watch does with one sample: the class, and whether a warning begins."""
        clamped = self.clamped
        ((winner, score),) = self.answers(self.codes(x[None]).T)
        clamped, self.clamped = self.clamped - clamped, clamped
        return winner, self.guard.watch(score, clamped)

    def head_error(self, logits: Ints, labels: list[int], fresh: int) -> None:
        head = self.layers[-1]
        s_in, s_w, _, _ = self.arena.scales[-1]
        to_table = np.float32(np.float32(16) * np.float32(s_in)) * np.float32(s_w)
        base = stream(self.key, self.now, SOFTMAX)
        classes = self.network.classes
        head.delta = np.zeros(logits.shape, np.int64)
        for c, label in enumerate(labels):
            column = logits[: self.known, c]
            below_top = np.float32(column.max() - column) * to_table
            weights = [EXP[int(np.rint(np.float32(min(b, 255))))] for b in below_top]
            total = sum(weights)
            for j in range(self.known):
                noise = below(random(base, c * classes + j), total)
                e = (weights[j] * 127 + noise) // total
                head.delta[j, c] = e - 127 if j == label else e
            if c < fresh:
                self.correct += int(np.argmax(column)) == label

    def hidden_error(self, above: int) -> int:
        upper = self.layers[above]
        back = upper.dense().T @ upper.delta
        back[upper.x == 0] = 0
        most = int(np.abs(back).max())
        shift = 0
        while most >> shift > 126:
            shift += 1
        base = stream(self.key, self.now, LAYER + 4 * (above - 1) + ERROR)
        side = self._side(back.shape[1])
        delta = np.zeros(back.shape, np.int64)
        for i in range(back.shape[0]):
            for c in range(back.shape[1]):
                noise = random(base, i * side + c) >> (32 - shift) if shift else 0
                delta[i, c] = (int(back[i, c]) + noise) >> shift
        self.layers[above - 1].delta = delta
        return shift

    def _side(self, n: int) -> int:
        side = 1
        while side < n:
            side *= 2
        return side

    def update(self, i: int, scale: np.float32, doublings: int) -> None:
        layer = self.layers[i]
        weight = rate_of(layer.coef[0] * scale, doublings)
        bias = rate_of(layer.coef[1] * scale, doublings)
        noise = stream(self.key, self.now, LAYER + 4 * i + WEIGHT)
        bias_noise = stream(self.key, self.now, LAYER + 4 * i + BIAS)
        most = 2**31 - 1 - layer.spec.width * 255 * 127
        for r in range(layer.spec.outputs):
            d = layer.delta[r]
            if not d.any():
                continue
            seen = layer.x[layer.inputs_of[r]] - layer.z
            for k, g in enumerate((seen @ d).tolist()):
                moved = step_of(g, weight, random(noise, r * layer.spec.width + k))
                layer.v[r, k] = min(V_MAX, max(-V_MAX, int(layer.v[r, k]) - moved))
            b = int(layer.bias[r]) - step_of(int(d.sum()), bias, random(bias_noise, r))
            layer.bias[r] = min(most, max(-most, b))

    def under_cursor(self) -> tuple[int, int] | None:
        left = self.cursor
        for i, layer in enumerate(self.layers):
            if layer.spec.kind == net.SPARSE:
                if left < layer.spec.outputs:
                    return i, left
                left -= layer.spec.outputs
        return None

    def visit(self, i: int, row: int, swaps: int) -> None:
        layer = self.layers[i]
        block, per_row = layer.spec.block, layer.spec.per_row
        blocks = layer.spec.inputs // block
        wired = (layer.inputs_of[row, ::block] // block).tolist()
        if self.strategy == "attention":
            assert self.traces is not None
            gathered = self.grad[: layer.spec.inputs]
            gathered[:] = self.traces.close(gathered, layer.spec.outputs, row)
        score = np.abs(self.grad[: layer.spec.inputs].reshape(blocks, block)).astype(np.int64)
        score[wired] = 0
        steep = score.sum(1)
        base = stream(self.key, self.now, GROW)
        taken: set[int] = set()
        for swap in range(min(swaps, blocks - per_row, per_row)):
            if self.strategy == "set":
                grown = self.anywhere(wired, blocks, random(base, swap))
            else:
                if not steep.any():
                    return
                grown = int(np.argmax(steep))
                if self.strategy == "attention":
                    grown = sampled(steep, EXP, random(base, swap))
                steep[grown] = 0
            size = np.abs(layer.v[row].reshape(per_row, block)).sum(1)
            place = min((k for k in range(per_row) if k not in taken), key=lambda k: (size[k], k))
            taken.add(place)
            wired[place] = grown
            at = slice(place * block, (place + 1) * block)
            layer.v[row, at] = 0
            layer.inputs_of[row, at] = grown * block + np.arange(block)
            self.rewired += block

    def anywhere(self, wired: list[int], blocks: int, seed: int) -> int:
        index = 0
        for i in range(16):
            index = below(random(seed, i), blocks)
            if index not in wired:
                return index
        while index in wired:
            index = (index + 1) % blocks
        return index

    def as_remembered(self, codes: Ints) -> Ints:
        """Features [features] as the replay gives them back."""
        if self.network.replay_pool:
            picture = codes.reshape(self.network.shape).copy()
            for y in range(0, picture.shape[0], 2):
                for x in range(0, picture.shape[1], 2):
                    places = picture[y : y + 2, x : x + 2]
                    n = places.shape[0] * places.shape[1]
                    places[:] = (places.sum((0, 1)) + n // 2) // n
            codes = picture.reshape(-1)
        step = 255 // (2**self.network.sample_bits - 1)
        return (codes + step // 2) // step * step

    def keep(self, codes: Ints, labels: list[int]) -> None:
        base = stream(self.key, self.now, KEEP)
        room = self.network.replay_samples
        for c, label in enumerate(labels):
            packed = self.as_remembered(codes[:, c])
            if c in self.held:
                self.guard.add(packed, c)
                continue
            if not room:
                continue
            if len(self.labels) < room:
                self.labels.append(label)
                self.memory.append(packed)
                continue
            counts = [self.labels.count(k) for k in range(self.network.classes)]
            fullest = counts.index(max(counts))
            victim = fullest if counts[label] < counts[fullest] else label
            share = room // len({*self.labels, label})
            if self.reservoir and counts[label] >= max(share, 1):
                seen = min(self.samples + c + 1, 2**32 - 1)
                if seen > room and below(random(base, 64 + c), seen) >= room:
                    continue
                victim = label
            slot = below(random(base, c), room)
            while self.labels[slot] != victim:
                slot = (slot + 1) % room
            self.labels[slot], self.memory[slot] = label, packed

    def store(self, x: npt.NDArray[np.float32], y: list[int]) -> None:
        """What zge_replay_store_f32 does: each sample a step of its own that keeps and no more."""
        clamped = self.clamped
        for row, label in zip(x, y, strict=True):
            if self.network.replay_samples:
                self.keep(self.codes(row[None]).T, [label])
                self.now += 1
        self.clamped = clamped

    def hold(self, key: int, x: npt.NDArray[Any]) -> None:
        clamped = self.clamped
        codes = self.as_remembered(self.codes(x[None])[0])
        self.clamped = clamped
        place = next((p for p, (_, k, _) in self.waiting.items() if k == key), None)
        if place is None:
            free = [p for p in range(self.network.pending) if p not in self.waiting]
            if free:
                place = free[0]
            else:
                place = min(self.waiting, key=lambda p: self.waiting[p][0])
                self.dropped += 1
        self.came += 1
        self.waiting[place] = (self.came, key, codes)

    def settle(self, key: int, label: int, replay: int) -> bool:
        place = next((p for p, (_, k, _) in self.waiting.items() if k == key), None)
        if place is None:
            self.unknown_ids += 1
            return False
        self._step(self.waiting.pop(place)[2][:, None], [label], replay)
        return True

    def add_class(self) -> None:
        self.known += 1

    def step(self, x: npt.NDArray[Any], y: list[int], replay: int) -> None:
        clamped = self.clamped
        new = self.codes(x).T
        self._step(new, y, replay, self.clamped - clamped)

    def _step(self, new: Ints, y: list[int], replay: int, clamped: int = 0) -> None:
        labels, columns = list(y), [new]
        if self.labels and self.learn != "none":
            base = stream(self.key, self.now, DRAW)
            for c in range(len(y), len(y) + replay):
                slot = below(random(base, c), len(self.labels))
                columns.append(self.memory[slot][:, None])
                labels.append(self.labels[slot])
        if self.network.known and self.analytic is None and self.learn != "none":
            self.wake(y)
        logits = self.forward(np.concatenate(columns, 1))
        answers = self.winners(logits[:, : len(y)])
        self.head_error(logits, labels, len(y))
        self.tick = (0, 0)
        if self.analytic is not None and self.learn != "none":
            for c, label in enumerate(y):
                self.analytic.add(self.layers[-1].x[:, c] - self.layers[-1].z, label)
            self.analytic.solve(self.analytic.pace)
            self._take_head()
        elif self.learn != "none":
            self.held = self.guard.hold(list(y))
            self.layers[-1].delta[:, self.held] = 0
            self._learn(labels)
            if self.network.replay_samples or self.held:
                self.keep(new, y)
            self.tick = self.guard.tick(answers, y, self.held, new, clamped)
            self.held = []
        self.now += 1
        self.samples += len(y)

    def restart(self) -> None:
        """Forget what was gathered for the row under the cursor."""
        self.grad[:] = 0
        self.gathered = self.activity = 0
        if self.traces is not None:
            self.traces.forget()

    def _take_head(self) -> None:
        """What the analytic head last published is what predicts."""
        head, analytic = self.layers[-1], self.analytic
        if analytic is not None and analytic.weights is not None:
            head.v = analytic.weights * 16
            head.bias = np.array(analytic.bias, np.int64)

    def wake(self, labels: list[int]) -> None:
        """A class that has its first sample starts beside the least likely one."""
        bias = self.layers[-1].bias
        floor = -(2**31 - 1 - self.layers[-1].spec.width * 255 * 127)
        for label in labels:
            if bias[label] == floor:
                bias[label] = min((b for b in bias.tolist() if b != floor), default=0)

    def _learn(self, labels: list[int]) -> None:
        total = len(labels)
        last = len(self.layers) - 1
        lowest = last if self.learn == "head" else 0
        rate, swaps, gather = self.guard.pace()
        scale = np.float32(rate / np.float32(total))
        doublings = [0] * (last + 1)
        for i in range(last, lowest, -1):
            doublings[i - 1] = doublings[i] + self.hidden_error(i)
        moves = lowest == 0 and self.strategy != "static" and swaps > 0
        under = self.under_cursor() if moves else None
        if under is not None and self.strategy != "set":
            layer = self.layers[under[0]]
            signal = self.signal(*under, labels).copy()
            signal[self.held] = 0
            self.grad[: layer.spec.inputs] += (layer.x - layer.z) @ signal
        for i in range(lowest, last + 1):
            self.update(i, scale, doublings[i])
        if under is None:
            return
        self.gathered += total
        if self.gathered >= gather:
            self.visit(*under, swaps)
            self.grad[:] = 0
            rows = sum(x.spec.outputs for x in self.layers if x.spec.kind == net.SPARSE)
            self.cursor = (self.cursor + 1) % rows
            self.gathered = self.activity = 0
            after = self.under_cursor()
            if self.traces is not None and after is not None and after[0] != under[0]:
                self.traces.forget()

    def signal(self, i: int, row: int, labels: list[int]) -> Ints:
        """What the unit under the cursor makes of each sample; times the inputs: growth."""
        layer, head = self.layers[i], i + 1 == len(self.layers)
        if self.strategy == "hebbian":
            if head:
                y = np.array([255 if label == row else 0 for label in labels])
            else:
                y = self.layers[i + 1].x[row]
            found, self.activity = centred(y, self.activity, self.gathered + len(labels))
            return found
        if self.strategy == "three-factor" and not head:
            base = stream(self.key, 2**64 - 1, SKETCH)
            signs = [
                -1 if random(base, self.cursor * self.network.classes + j) >> 31 else 1
                for j in range(self.network.classes)
            ]
            error = np.clip(np.array(signs) @ self.layers[-1].delta, -127, 127)
            return np.where(self.layers[i + 1].x[row] > 0, error, 0)
        if self.strategy == "attention":
            assert self.traces is not None
            base = stream(self.key, self.now, SKETCH)
            signs = [-1 if random(base, c) >> 31 else 1 for c in range(len(labels))]
            self.traces.query[: layer.spec.outputs] += layer.delta @ np.array(signs)
            return np.array(signs)
        return layer.delta[row]

    def check(self, buffer: npt.NDArray[np.uint8]) -> None:
        """Assert that an arena holds what this learner holds."""
        a = Arena(buffer)
        nibbles = a.section(net.RESIDUAL)
        at = 0
        for i, layer in enumerate(self.layers):
            spec = layer.spec
            assert np.array_equal(a.weights(i), layer.w), f"weights of layer {i}"
            assert np.array_equal(a.rows(i)[0], layer.bias), f"biases of layer {i}"
            indices = a.indices(i)
            if indices is not None:
                assert np.array_equal(indices, layer.inputs_of[:, :: spec.block] // spec.block)
            e = (layer.v - 16 * layer.w).reshape(-1)
            if not self.network.steps:
                continue
            if spec.residual_in_index:
                raw = a.raw_indices(i)
                assert raw is not None
                assert np.array_equal(raw.reshape(-1).view(np.int16) >> 12, e), "residual bits"
            else:
                part = nibbles[at : at + (spec.weights + 1) // 2]
                at += len(part)
                both = np.stack([part & 15, part >> 4], 1).reshape(-1)[: spec.weights]
                assert np.array_equal((both.astype(np.int64) ^ 8) - 8, e), f"residuals of layer {i}"
        self.guard.check(a)
        if self.analytic is not None:
            self.analytic.check(a)
            self.grad = self.grad[:0]
        hidden = max((x.spec.inputs for x in self.layers[1:]), default=0)
        start = 4 * hidden * self.network.batch
        grad = a.section(net.SCRATCH)[start : start + 4 * len(self.grad)].view("<i4")
        assert np.array_equal(grad, self.grad), "the gathered gradient"
        state = a.learner()
        assert state is not None
        found = {
            k: state[k]
            for k in ("steps", "samples", "rewired", "clamped", "cursor", "correct", "remembered")
        }
        assert found == {
            "steps": self.now, "samples": self.samples, "rewired": self.rewired,
            "clamped": self.clamped, "cursor": self.cursor, "correct": self.correct,
            "remembered": len(self.labels),
        }  # fmt: skip
        assert gathered(a) == self.gathered
        assert activity(a) == self.activity
        under = self.under_cursor()
        if self.traces is not None and under is not None:
            expected = self.traces.section(a, self.layers[under[0]].spec)
            assert a.section(net.TRACES).tobytes() == expected, "the traces"
        self._check_waiting(a)
        if self.network.replay_samples and self.labels:
            codes = np.stack(self.memory).astype(np.uint8)
            if self.network.replay_pool:
                codes = files.pool_codes(codes, self.network.shape)
            packed = files.pack_codes(codes, self.network.replay_bits)
            room = self.network.replay_samples
            classes = self.network.classes
            head = (2 * classes + 3) // 4 * 4
            section = a.section(net.REPLAY)
            counts = np.bincount(self.labels, minlength=classes)
            assert np.array_equal(section[: 2 * classes].view("<u2"), counts), "counts"
            wide = 2 if classes > 256 else 1
            labels = section[head : head + wide * room].view(f"<u{wide}")
            assert labels[: len(self.labels)].tolist() == self.labels
            held = section[head + wide * room :].reshape(room, -1)[: len(packed)]
            assert np.array_equal(held, packed), "the replay"

    def _check_waiting(self, a: Arena) -> None:
        room = self.network.pending
        if not room:
            return
        table = a.section(net.PENDING)
        assert table[:24].view("<u8").tolist() == [self.dropped, self.unknown_ids, self.came]
        entries = table[32 : 32 + 16 * room].view("<u8").reshape(room, 2)
        packed = table[32 + 16 * room :].reshape(room, -1)
        for place in range(room):
            order, key, codes = self.waiting.get(place, (0, 0, None))
            assert entries[place].tolist() == [order, key]
            if codes is None:
                assert not packed[place].any(), "a free place holds nothing"
                continue
            codes = codes[None].astype(np.uint8)
            if self.network.replay_pool:
                codes = files.pool_codes(codes, self.network.shape)
            assert np.array_equal(
                packed[place], files.pack_codes(codes, self.network.sample_bits)[0]
            )
