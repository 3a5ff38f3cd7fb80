"""The analytic baseline: linear discriminants over fixed random features, solved in one go.

Nothing is trained step by step. The features come from a seed, so in a file they cost eight bytes;
the head is the closed-form LDA solution (Fisher 1936; over random features: Rahimi and Recht 2007),
rounded to int8. numpy alone, float64.

Its file is laid out as a network's is (docs/format.md): a header, a table of sections, and sections
that start at multiples of 8, among them the activations that predicting touches; only the magic
number differs, as no core reads it. The sections are

    network      u32 inputs, classes, features, groups, fan-in; u8 zero point; f32 step of an input,
                 f32 step of a weight; u64 seed of the features
    names        of the classes
    input        f32 scale, center of each group
    rows         f32 bias of each class
    weights      int8 [classes, features]
    activations  u8 of each input and feature, f32 of each class
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge import network as net
from zgedge.arena import names_blob, sign
from zgedge.data.dataset import Dataset
from zgedge.errors import BudgetError, ModelError
from zgedge.network import ENTRY_BYTES, HEADER_BYTES
from zgedge.train.inputs import InputCoding, choose_coding

FAN_IN = 32
# Shrinkage of the covariance towards a sphere of the same trace: it keeps the solve well posed.
SHRINKAGE = 1e-3
MOST_FEATURES = 4096
CHUNK = 2048

MAGIC = b"\x89ZGA"
ALIGN = 8
_HEADER = struct.Struct("<4sHHIIQII16x")
_ENTRY = struct.Struct("<HHIII")
_NET = struct.Struct("<IIIIIB3xffQ")
_ORDER = (net.NET, net.NAMES, net.INPUT, net.ROWS, net.WEIGHTS, net.ACTIVATIONS)


@dataclass(frozen=True)
class AnalyticHead:
    """A fitted baseline.

    weights     int8 [classes, features]; logits are weights @ features * step + bias
    step        real value of one step of a weight
    bias        float32 [classes]
    """

    weights: npt.NDArray[np.int8]
    step: float
    bias: npt.NDArray[np.float32]
    coding: InputCoding
    seed: int
    inputs: int
    class_names: tuple[str, ...]

    @property
    def features(self) -> int:
        return int(self.weights.shape[1])

    def predict_index(self, x: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Class numbers int64 [n] of raw values x [n, inputs]. Raises DataError for NaN."""
        codes = self.coding.encode(x)
        maps = _random_maps(self.inputs, self.features, self.seed)
        head = self.weights.astype(np.float64).T * self.step
        parts = [
            (_features(codes[at : at + CHUNK], self.coding, maps) @ head + self.bias).argmax(axis=1)
            for at in range(0, len(codes), CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def write(self) -> bytes:
        """The file: everything that predicting needs, and the room that it works in."""
        coding = self.coding
        parts = {
            net.NET: _NET.pack(
                self.inputs, len(self.class_names), self.features, len(coding.scale), FAN_IN,
                coding.zero, coding.step, self.step, self.seed,
            ),
            net.NAMES: names_blob(self.class_names),
            net.INPUT: coding.scale.astype("<f4").tobytes() + coding.center.astype("<f4").tobytes(),
            net.ROWS: self.bias.astype("<f4").tobytes(),
            net.WEIGHTS: np.ascontiguousarray(self.weights).tobytes(),
        }  # fmt: skip
        sections, size = _layout(self.inputs, self.class_names, len(coding.scale), self.features)
        out = bytearray(size)
        _HEADER.pack_into(out, 0, MAGIC, 1, len(sections), size, ALIGN, 0, 0, 0)
        for i, (kind, offset, length) in enumerate(sections):
            _ENTRY.pack_into(out, HEADER_BYTES + i * ENTRY_BYTES, kind, 0, offset, length, 0)
            part = parts.get(kind, b"")
            out[offset : offset + len(part)] = part
        sign(memoryview(out))
        return bytes(out)

    @classmethod
    def read(cls, data: bytes) -> AnalyticHead:
        """The baseline of a file. Raises ModelError for bytes that `write` did not make."""
        if data[:4] != MAGIC or len(data) < HEADER_BYTES + len(_ORDER) * ENTRY_BYTES:
            raise ModelError("These bytes are no file of an analytic head.")
        found: dict[int, bytes] = {}
        for i in range(len(_ORDER)):
            kind, _, offset, length, check = _ENTRY.unpack_from(
                data, HEADER_BYTES + i * ENTRY_BYTES
            )
            found[kind] = data[offset : offset + length]
            if len(found[kind]) != length or zlib.crc32(found[kind]) != check:
                raise ModelError("The file of an analytic head is damaged.")
        inputs, classes, features, groups, _, zero, in_step, step, seed = _NET.unpack(
            found[net.NET]
        )
        both = np.frombuffer(found[net.INPUT], "<f4")
        return cls(
            weights=np.frombuffer(found[net.WEIGHTS], np.int8).reshape(classes, features),
            step=step,
            bias=np.frombuffer(found[net.ROWS], "<f4"),
            coding=InputCoding(both[:groups], both[groups:], zero, in_step),
            seed=seed,
            inputs=inputs,
            class_names=tuple(x.decode() for x in found[net.NAMES].split(b"\0")[:-1]),
        )


def _layout(
    inputs: int, class_names: tuple[str, ...], groups: int, features: int
) -> tuple[list[tuple[int, int, int]], int]:
    """Kind, offset and bytes of each section, and the length of the file."""
    classes = len(class_names)
    sizes = {
        net.NET: _NET.size,
        net.NAMES: len(names_blob(class_names)),
        net.INPUT: 8 * groups,
        net.ROWS: 4 * classes,
        net.WEIGHTS: classes * features,
        net.ACTIVATIONS: inputs + features + 4 * classes,
    }
    at = HEADER_BYTES + ENTRY_BYTES * len(_ORDER)
    sections = []
    for kind in _ORDER:
        at = (at + ALIGN - 1) // ALIGN * ALIGN
        sections.append((kind, at, sizes[kind]))
        at += sizes[kind]
    return sections, at


def features_for(dataset: Dataset, budget: int) -> int:
    """How many features a file of `budget` bytes holds, at most 4,096.

    Raises BudgetError where it does not hold one.
    """
    groups = 1 if dataset.kind == "picture" else dataset.features
    classes = len(dataset.classes)

    def length(features: int) -> int:
        return _layout(dataset.features, dataset.classes, groups, features)[1]

    count = min(MOST_FEATURES, max(0, budget - length(0)) // (classes + 1) + 1)
    while count and length(count) > budget:
        count -= 1
    if count < 1:
        raise BudgetError(
            f"{budget:,} bytes are too few for an analytic head of {classes:,} classes.",
            f"The smallest budget that works is {length(1):,} bytes.",
            smallest=length(1),
        )
    return count


def fit_analytic(dataset: Dataset, budget: int, *, seed: int = 0) -> AnalyticHead:
    """The baseline with as many features as a file of `budget` bytes holds.

    Raises BudgetError where not one feature fits, DataError for data that cannot be coded.
    """
    count = features_for(dataset, budget)
    groups = 1 if dataset.kind == "picture" else dataset.features
    classes = len(dataset.classes)
    coding = choose_coding(dataset, groups)
    codes = coding.encode(dataset.x_train)
    maps = _random_maps(dataset.features, count, seed)
    weights, bias = _discriminants(codes, dataset.y_train, classes, coding, maps)
    step = float(np.abs(weights).max()) / 127.0 or 1.0
    return AnalyticHead(
        weights=np.rint(weights / step).astype(np.int8),
        step=step,
        bias=bias.astype(np.float32),
        coding=coding,
        seed=seed,
        inputs=dataset.features,
        class_names=dataset.classes,
    )


def _random_maps(
    inputs: int, count: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Projections float32 [inputs, count] of a few inputs each, and thresholds float32 [count]."""
    rng = np.random.default_rng(seed)
    fan_in = min(inputs, FAN_IN)
    maps = np.zeros((inputs, count), np.float32)
    for i in range(count):
        chosen = rng.choice(inputs, fan_in, replace=False)
        maps[chosen, i] = rng.standard_normal(fan_in) / np.sqrt(fan_in)
    return maps, rng.uniform(-0.5, 0.5, count).astype(np.float32)


def _features(
    codes: npt.NDArray[np.uint8],
    coding: InputCoding,
    maps: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> npt.NDArray[np.float64]:
    """ReLU features [n, count] of codes [n, inputs]."""
    x = (codes.astype(np.float32) - coding.zero) * np.float32(coding.step)
    return np.maximum(x @ maps[0] + maps[1], 0.0).astype(np.float64)


def _discriminants(
    codes: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    classes: int,
    coding: InputCoding,
    maps: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """LDA weights [classes, features] and biases [classes] from streamed moments."""
    count = maps[0].shape[1]
    sums = np.zeros((classes, count))
    second = np.zeros((count, count))
    for at in range(0, len(codes), CHUNK):
        features = _features(codes[at : at + CHUNK], coding, maps)
        one_hot = np.eye(classes)[labels[at : at + CHUNK]]
        sums += one_hot.T @ features
        second += features.T @ features
    number = np.bincount(labels, minlength=classes).astype(np.float64)
    means = sums / np.maximum(number, 1.0)[:, None]
    within = (second - means.T @ (means * number[:, None])) / len(codes)
    within[np.diag_indices(count)] += SHRINKAGE * max(np.trace(within) / count, 1e-12)
    weights = np.linalg.solve(within, means.T).T
    share = np.maximum(number, 0.5) / len(codes)
    bias = -0.5 * (weights * means).sum(axis=1) + np.log(share)
    # What all classes have in common decides nothing, and would take most of a weight's 8 bits.
    weights = weights - weights.mean(axis=0)
    return weights, bias - bias.mean()
