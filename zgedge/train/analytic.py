"""The analytic baseline: linear discriminants over fixed random features, solved in one go.

Nothing is trained step by step. The features come from a seed, so in a file they cost eight bytes;
the head is the closed-form LDA solution (Fisher 1936; over random features: Rahimi and Recht 2007),
rounded to int8. numpy alone, float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.arena import names_blob
from zgedge.data.dataset import Dataset
from zgedge.errors import BudgetError
from zgedge.network import ENTRY_BYTES, HEADER_BYTES, NET_BYTES
from zgedge.train.inputs import InputCoding, choose_coding

FAN_IN = 32
# Shrinkage of the covariance towards a sphere of the same trace: it keeps the solve well posed.
SHRINKAGE = 1e-3
MOST_FEATURES = 4096
SEED_BYTES = 8
CHUNK = 2048


@dataclass(frozen=True)
class AnalyticHead:
    """A fitted baseline.

    weights     int8 [classes, features]; logits are weights @ features * step + bias
    step        real value of one step of a weight
    bias        float32 [classes]
    bytes       what it would take as a file, everything that predicting touches included
    accuracy    on the test rows, 0..1; None where there are none
    """

    weights: npt.NDArray[np.int8]
    step: float
    bias: npt.NDArray[np.float32]
    coding: InputCoding
    seed: int
    inputs: int
    bytes: int
    accuracy: float | None

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


def analytic_bytes(dataset: Dataset, groups: int, features: int) -> int:
    """Bytes of a file of such a head: the same parts as a network's file, the features as a seed.

    Header, one section each for description and seed, names, input coding, head, rows (bias and
    scale) and activations: the coded inputs, one byte a feature, four a class.
    """
    classes = len(dataset.classes)
    names = len(names_blob(dataset.classes))
    rows = 8 * classes
    activations = dataset.features + features + 4 * classes
    described = HEADER_BYTES + 6 * ENTRY_BYTES + NET_BYTES + SEED_BYTES
    return described + names + 8 * groups + features * classes + rows + activations


def fit_analytic(dataset: Dataset, budget: int, *, seed: int = 0) -> AnalyticHead:
    """The baseline with as many features as `budget` bytes hold, at most 4,096.

    Raises BudgetError where not one feature fits, DataError for data that cannot be coded.
    """
    groups = 1 if dataset.kind == "picture" else dataset.features
    classes = len(dataset.classes)
    fixed = analytic_bytes(dataset, groups, 0)
    count = min(MOST_FEATURES, (budget - fixed) // (classes + 1))
    if count < 1:
        smallest = fixed + classes + 1
        raise BudgetError(
            f"{budget:,} bytes are too few for an analytic head of {classes:,} classes.",
            f"The smallest budget that works is {smallest:,} bytes.",
            smallest=smallest,
        )
    coding = choose_coding(dataset, groups)
    codes = coding.encode(dataset.x_train)
    maps = _random_maps(dataset.features, count, seed)
    weights, bias = _discriminants(codes, dataset.y_train, classes, coding, maps)
    step = float(np.abs(weights).max()) / 127.0 or 1.0
    head = AnalyticHead(
        weights=np.rint(weights / step).astype(np.int8),
        step=step,
        bias=bias.astype(np.float32),
        coding=coding,
        seed=seed,
        inputs=dataset.features,
        bytes=analytic_bytes(dataset, groups, count),
        accuracy=None,
    )
    if not len(dataset.x_test):
        return head
    accuracy = float((head.predict_index(dataset.x_test) == dataset.y_test).mean())
    return AnalyticHead(**{**head.__dict__, "accuracy": accuracy})


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
