"""From trained integers to what a file holds: names, coding, threshold, first memories."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from zgedge.arena import (
    LayerParameters,
    LearnerParameters,
    Parameters,
    TrunkParameters,
    UInt8,
    names_blob,
    pack_codes,
    pool_codes,
    spread_codes,
    unpack_codes,
)
from zgedge.budget import MAX_REPLAY_SAMPLES
from zgedge.data.dataset import Dataset
from zgedge.network import REPLAY_BITS, REPLAY_POOLS, SOFTMAX, SPARSE, Network
from zgedge.train.inputs import InputCoding
from zgedge.train.quantized import logits
from zgedge.train.trunk import features

SCORE_ONE = 32_768
# Parts of the sketches of the attention strategy; more gain nothing (docs/strategies/attention.md).
TRACES = 8
# Share of rightly classified held-out samples that the threshold may call unknown.
UNKNOWN_SHARE = 0.02
# Accuracy that coarser memories may cost, on so many rows.
CODING_COST = 0.01
# Of the replay's bytes what guards the learner may take, and how many samples it wants at least and
# at most (docs/guard.md).
GUARD_SHARE = 0.5
FEWEST, MOST_ANCHORS = 136, 512
CODING_ROWS = 2048

# A network with the room for what comes later that its file is to have.
Grown = Callable[[Network], Network]


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
    anchors: tuple[UInt8, npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None = None,
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
        anchors=anchors,
    )


def unknown_threshold(
    found: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], head: LayerParameters
) -> int:
    """The score, of 32,768, that all but `UNKNOWN_SHARE` of the rightly classified samples reach.

    found   int64 logits [n, classes] and labels [n] of samples that were not trained on.
    """
    real = found * head.multiplier.astype(np.float64)
    share = np.exp(real - real.max(axis=1, keepdims=True))
    best = 1.0 / share.sum(axis=1)
    right = best[found.argmax(axis=1) == labels]
    if len(right) == 0:
        return 0
    return int(np.floor(SCORE_ONE * np.quantile(right, UNKNOWN_SHARE)))


def remembered_codes(codes: UInt8, network: Network) -> UInt8:
    """Features [n, features] as the replay of `network` gives them back."""
    held = pool_codes(codes, network.shape) if network.replay_pool else codes
    bits = network.sample_bits
    held = unpack_codes(pack_codes(held, bits), bits, network.replay_values)
    return spread_codes(held, network.shape) if network.replay_pool else held


def as_it_is(network: Network) -> Network:
    """Room for nothing."""
    return network


def fitted_replay(
    network: Network,
    layers: Sequence[LayerParameters],
    codes: UInt8,
    labels: npt.NDArray[np.int64],
    grown: Grown = as_it_is,
) -> Network:
    """The network with a replay that holds more samples, coded no finer than they must be.

    In the bytes of the planned replay: the most samples whose coding costs the trained `layers` at
    most `CODING_COST` of their accuracy on `codes` [n, inputs] of `labels` [n]. Behind a trunk the
    planned bits stay: features coded coarsely cost little until the layers learn from them
    (docs/decisions.md). Bytes are counted of what `grown` makes of a network.
    """
    if network.trunk or not network.replay_samples:
        return network
    whole = grown(network)
    room = network.replay_samples * whole.replay_sample_bytes
    most = max(network.replay_samples, min(MAX_REPLAY_SAMPLES, len(codes)))
    pools = REPLAY_POOLS if network.task == "picture" and network.groups == 1 else (0,)
    picked = codes[:CODING_ROWS]

    def right(seen: UInt8) -> float:
        found = logits(network, layers, seen).argmax(axis=1)
        return float((found == labels[: len(picked)]).mean())

    needed = right(picked) - CODING_COST
    best = network
    for bits, pool in itertools.product(sorted(REPLAY_BITS, reverse=True), pools):
        one = replace(network, replay_bits=bits, replay_pool=pool)
        each = grown(one).replay_sample_bytes
        if room < each:
            continue  # of a single sample, which a replay of none has no bits for
        sized = replace(one, replay_samples=min(most, room // each))
        if not sized.replay_samples > best.replay_samples:
            continue
        if (
            grown(sized).file_bytes <= whole.file_bytes
            and right(remembered_codes(picked, sized)) >= needed
        ):
            best = sized
    return best


def with_guard(network: Network, held: int, grown: Grown = as_it_is) -> Network:
    """The network with a watch, and with anchors where the replay has the bytes for them to spare.

    `held` are the samples that training held out. Anchors, and the state that goes with them, take
    at most `GUARD_SHARE` of what the replay has; where that gives fewer than `FEWEST` anchors there
    are none. The network itself gives up nothing. An analytic head is not guarded: it has no step
    that could be taken back. Bytes are counted of what `grown` makes of a network: an accepted
    state holds the rows of spare classes too.
    """
    softmax = network.head == SOFTMAX
    if network.watch or not (network.learning and network.replay_samples and softmax):
        return network
    whole = grown(network)
    each = whole.replay_sample_bytes
    most = min(MOST_ANCHORS, held)
    for anchors in (*range(most, FEWEST - 1, -16), 0):
        guarded = replace(network, watch=True, anchors=anchors)
        over = grown(guarded).file_bytes - whole.file_bytes
        share = GUARD_SHARE if anchors else 1.0
        if over > share * network.replay_samples * each:
            continue
        left = network.replay_samples - -(-max(0, over) // each)
        while left >= network.classes:
            sized = replace(guarded, replay_samples=left)
            if grown(sized).file_bytes <= whole.file_bytes:
                return sized
            left -= 1
    return network


def why_no_guard(
    network: Network, guarded: Network, held: int, grown: Grown = as_it_is, *, fitted: bool = True
) -> str | None:
    """Why `with_guard` gives a network no anchors; None where it gives some, or nothing is learned.

    network  as `with_guard` takes it, and what makes it grow
    guarded  what `with_guard` made of it
    fitted   false where a person said how the replay is, which then stays as it is
    """
    if not network.learning or guarded.anchors:
        return None
    if not network.replay_samples:
        return "the budget leaves no bytes for a replay to take some from"
    if not fitted:
        return "the replay was named, and stays as it is"
    if held < FEWEST:
        rows = "1 row is" if held == 1 else f"{held or 'no'} rows are"
        return f"{rows} held out, {FEWEST} are needed"
    few = FEWEST + (min(MOST_ANCHORS, held) - FEWEST) % 16
    whole = grown(network)
    takes = grown(replace(network, watch=True, anchors=few)).file_bytes - whole.file_bytes
    room = network.replay_samples * whole.replay_sample_bytes
    return (
        f"{few} anchors and the state beside them would take {takes:,} bytes, more than half of "
        f"the replay's {room:,}"
    )


def choose_anchors(
    network: Network,
    layers: Sequence[LayerParameters],
    trunk: Sequence[TrunkParameters],
    codes: UInt8,
    labels: npt.NDArray[np.int64],
    seed: int,
) -> tuple[UInt8, npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None:
    """Anchors of a trained network, of samples that training held out, codes [n, inputs]: features,
    labels, and whether the network, which reads them as they are packed, has each right."""
    if not network.anchors:
        return None
    chosen = np.random.default_rng(seed).permutation(len(labels))[: network.anchors]
    codes, labels = codes[chosen], labels[chosen].astype(np.int64)
    if network.trunk:
        codes = features(network, trunk, codes)
    behind = replace(network, shape=(1, network.features, 1), trunk=(), replay_pool=0)
    found = logits(behind, layers, remembered_codes(codes, network))
    return codes, labels, found.argmax(axis=1) == labels


def with_traces(network: Network, grown: Grown = as_it_is) -> Network:
    """The network with room for the sketches of the attention strategy, which its replay gives up.

    As it is where it learns nothing, has no sparse layer, or a replay too small to hold a sample of
    each class then. Bytes are counted of what `grown` makes of a network.
    """
    sparse = any(layer.kind == SPARSE for layer in network.layers)
    if network.traces or not (network.learning and sparse and network.replay_samples):
        return network
    traced = replace(network, traces=TRACES)
    most = grown(network).file_bytes
    while (over := grown(traced).file_bytes - most) > 0:
        left = traced.replay_samples - -(-over // grown(traced).replay_sample_bytes)
        if left < network.classes:
            return network
        traced = replace(traced, replay_samples=left)
    return traced


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
