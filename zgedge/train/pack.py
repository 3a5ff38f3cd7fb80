"""From trained integers to what a file holds: names, coding, threshold, first memories."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zgedge.arena import LayerParameters, LearnerParameters, Parameters, TrunkParameters, names_blob
from zgedge.data.dataset import Dataset
from zgedge.network import Network
from zgedge.train.inputs import InputCoding

SCORE_ONE = 32_768
# Share of rightly classified held-out samples that the threshold may call unknown.
UNKNOWN_SHARE = 0.02


def pack(
    dataset: Dataset,
    network: Network,
    layers: list[LayerParameters],
    trunk: list[TrunkParameters],
    coding: InputCoding,
    *,
    strategy: str,
    seed: int,
    steps: int,
    accuracy: float | None,
    unknown: int,
    replay: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]] | None,
) -> Parameters:
    """All numbers of the file of a trained network. `replay` are codes of features and labels."""
    # Feature names are kept where the network was planned with room for them.
    named = len(names_blob(dataset.classes)) != network.names_bytes
    return Parameters(
        input_scale=coding.scale,
        input_center=coding.center,
        layers=layers,
        trunk=trunk,
        class_names=dataset.classes,
        int_classes=dataset.int_classes,
        feature_names=dataset.feature_names if named else None,
        unknown=unknown,
        accuracy=accuracy,
        seed=seed,
        steps=steps,
        samples=len(dataset.x_train),
        learner=LearnerParameters(key=seed, strategy=strategy) if network.learning else None,
        replay=replay,
    )


def unknown_threshold(
    logits: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], head: LayerParameters
) -> int:
    """The score, of 32,768, that all but `UNKNOWN_SHARE` of the rightly classified samples reach.

    logits int64 [n, classes] and labels [n] of samples that were not trained on.
    """
    real = logits * head.multiplier.astype(np.float64)
    share = np.exp(real - real.max(axis=1, keepdims=True))
    best = 1.0 / share.sum(axis=1)
    right = best[logits.argmax(axis=1) == labels]
    if len(right) == 0:
        return 0
    return int(np.floor(SCORE_ONE * np.quantile(right, UNKNOWN_SHARE)))


def choose_memories(
    labels: npt.NDArray[np.int64], classes: int, room: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """At most `room` positions of samples, the classes as equal as they can be, in random order."""
    order = rng.permutation(len(labels))
    of_class = np.empty(len(labels), np.int64)
    for c in range(classes):
        mine = np.flatnonzero(labels[order] == c)
        of_class[mine] = np.arange(len(mine))
    # The first of every class, then the second of every class, and so on.
    chosen = order[np.argsort(of_class, kind="stable")][:room]
    return rng.permutation(chosen)
