"""Analytic heads over seeded features, and room for classes and samples that come later."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from zgedge import data, network
from zgedge.arena import in_memory, names_blob
from zgedge.budget import Task
from zgedge.data import Dataset
from zgedge.errors import BudgetError, MissingExtraError, UsageError
from zgedge.network import Network, dense, sparse
from zgedge.runtime import Learner, Model
from zgedge.train import fixed
from zgedge.train.fixed import whitened_patches
from zgedge.train.pack import with_guard, with_traces
from zgedge.train.seeded import planned, seeded
from zgedge.train.spare import room_for, roomy, within
from zgedge.train.trunk import features


def test_digits_in_40_kilobytes() -> None:
    digits = data.load("digits")
    made, parameters, blob = seeded(digits, 40_960, spare=2, pending=4)
    assert len(blob) == made.file_bytes <= 40_960
    assert parameters.accuracy is not None
    assert parameters.accuracy > 0.93
    model = Model(in_memory(blob))
    assert model.arena.accuracy == pytest.approx(parameters.accuracy)
    assert (model.predict(digits.x_test) == model.classes[digits.y_test]).mean() > 0.93
    assert made.file_bytes > 40_960 - 9 * 8 * made.layers[-1].inputs  # the next channel is too much
    learner = Learner(model)
    learner.hold("a", digits.x_test[0])
    learner.settle("a", model.classes[0])
    assert learner.add_class(10) == 10


def _blurred(rng: np.random.Generator, n: int) -> np.ndarray:
    """Patches [n, 5 x 5 x 3] whose neighbours are alike, as those of pictures."""
    noise = rng.standard_normal((n, 9, 9, 3)) + 2 * rng.standard_normal((n, 9, 9, 1))
    for axis in (1, 2):
        noise = np.lib.stride_tricks.sliding_window_view(noise, 5, axis=axis).mean(-1)
    return np.asarray(0.5 + 0.1 * noise.reshape(n, -1))


def test_whitened_patches_answer_to_different_things() -> None:
    rng = np.random.default_rng(3)
    patches = _blurred(rng, 6000)
    filters = whitened_patches(np.random.default_rng(1), patches, 20)
    assert np.allclose(np.linalg.norm(filters, axis=1), 1)
    assert np.allclose(filters.mean(axis=1), 0)
    plain = patches[:20] - patches[:20].mean(axis=1, keepdims=True)

    def alike(kernels: np.ndarray) -> float:
        correlation = np.corrcoef(kernels @ (patches - patches.mean(axis=0)).T)
        return float(np.abs(correlation[np.triu_indices(20, 1)]).mean())

    assert alike(filters) < 0.75 * alike(plain)


def test_filters_of_noise_are_little_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    def closest(drawn: int) -> float:
        monkeypatch.setattr(fixed, "DRAWN", drawn)
        found = []
        for seed in range(5):
            filters = fixed.smooth_noise(np.random.default_rng(seed), 37, 7)
            assert filters.shape == (37, 49)
            assert np.allclose(np.linalg.norm(filters, axis=1), 1)
            assert np.allclose(filters.mean(axis=1), 0)
            found.append(float((filters @ filters.T - 2 * np.eye(37)).max(axis=1).mean()))
        return max(found)

    kept = fixed.DRAWN
    assert closest(kept) < closest(1) - 0.05
    assert np.allclose(np.abs(fixed.smooth_noise(np.random.default_rng(0), 5, 1)), 1)


def test_pictures_in_one_colour_give_filters_too() -> None:
    for taps in (3, 75):
        filters = whitened_patches(np.random.default_rng(1), np.full((30, taps), 0.5), 40)
        assert filters.shape == (40, taps)
        assert np.allclose(np.linalg.norm(filters, axis=1), 1)


def test_features_of_pictures_in_colour_are_means_over_their_places() -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(0, 256, (300, 13 * 13 * 3), np.uint8)
    made = Dataset(
        "made", x, np.arange(300) % 3, x[:0], np.zeros(0, np.int64), ("a", "b", "c"), False,
        (13, 13, 3), "picture",
    )  # fmt: skip
    network, parameters, _ = seeded(made, 65_536)
    first, means = network.trunk
    assert (first.kernel, means.kernel, means.stride) == (5, 3, 3)
    alone = Network(
        first.shape, 3, (dense(first.outputs, 3),), names_bytes=0, trunk=(first,), learning=False
    )
    answers = features(alone, parameters.trunk[:1], x[:256])
    real = answers.reshape(256, 9, 9, -1) * parameters.trunk[0].s_out
    places = real.reshape(256, 3, 3, 3, 3, -1).mean(axis=(2, 4)).reshape(256, -1)
    found = features(network, parameters.trunk, x[:256]) * parameters.trunk[1].s_out
    top = 255 * parameters.trunk[1].s_out
    assert np.abs(found - np.minimum(places, top)).max() < 0.51 * parameters.trunk[1].s_out
    # All codes are in use, and only the rarest are cut off.
    assert np.quantile(places, 0.9999) == pytest.approx(top, rel=0.02)


def test_colours_without_torch_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zgedge.train.trunk", None)
    x = np.random.default_rng(4).integers(0, 256, (30, 13 * 13 * 3), np.uint8)
    made = Dataset(
        "made", x, np.arange(30) % 3, x[:0], np.zeros(0, np.int64), ("a", "b", "c"), False,
        (13, 13, 3), "picture",
    )  # fmt: skip
    with pytest.raises(MissingExtraError, match="torch"):
        seeded(made, 65_536)


def test_the_seed_alone_makes_the_bytes() -> None:
    digits = data.load("digits")
    assert seeded(digits, 12_288)[2] == seeded(digits, 12_288)[2]
    assert seeded(digits, 12_288)[2] != seeded(digits, 12_288, seed=1)[2]


def test_a_budget_that_is_too_small_says_which_is_enough() -> None:
    digits = data.load("digits")
    with pytest.raises(BudgetError) as error:
        planned(digits, 500)
    assert error.value.smallest is not None
    assert planned(digits, error.value.smallest).file_bytes == error.value.smallest
    with pytest.raises(UsageError, match="256"):
        planned(digits, 1 << 20, spare=250)


def test_room_is_counted_before_training() -> None:
    task = Task.of(data.load("digits"))
    names = tuple(str(i) for i in range(10))
    plain = network.Network(
        task.shape, 10, (sparse(64, 30, 8), network.dense(30, 10)), task.names_bytes,
        replay_samples=5, replay_bits=4,
    )  # fmt: skip
    assert room_for(plain, names, 0, 0) == 0
    made = roomy(plain, names, 3, 7)
    assert (made.classes, made.known, made.pending) == (13, 10, 7)
    assert made.file_bytes <= plain.file_bytes + room_for(plain, names, 3, 7)
    assert np.isclose(room_for(plain, names, 3, 7), made.file_bytes - plain.file_bytes + 7 * 32)


@pytest.mark.parametrize("spare", [0, 3, 100, 1000])
def test_a_guard_leaves_the_room_for_classes(spare: int) -> None:
    names = tuple(str(i) for i in range(10))
    plain = network.Network(
        (1, 64, 1), 10, (sparse(64, 30, 8), network.dense(30, 10)), len(names_blob(names)),
        replay_samples=1500, replay_bits=4,
    )  # fmt: skip
    size = roomy(plain, names, spare, 9).file_bytes
    for made in (
        with_guard(plain, 500, lambda x: roomy(x, names, spare, 9)),
        with_traces(plain, lambda x: roomy(x, names, spare, 9)),
    ):
        assert roomy(made, names, spare, 9).file_bytes <= size
        assert made.replay_samples >= 10
    # Fewer anchors where classes take the bytes, and none where these would take the replay.
    guarded = with_guard(plain, 500, lambda x: roomy(x, names, spare, 9))
    assert guarded.watch
    assert (guarded.anchors == 0) == (spare == 1000)
    assert guarded.anchors <= with_guard(plain, 500).anchors


def test_samples_give_way_where_room_for_classes_takes_more() -> None:
    plain = network.Network(
        (1, 40, 1), 6, (sparse(40, 30, 8), network.dense(30, 6)), 100, known=4,
        replay_samples=50, replay_bits=4,
    )  # fmt: skip
    assert within(plain, plain.file_bytes) is plain
    less = within(plain, plain.file_bytes - 100)
    assert plain.file_bytes - 200 < less.file_bytes <= plain.file_bytes - 100
    assert replace(less, replay_samples=50) == plain
    with pytest.raises(BudgetError, match="too few"):
        within(plain, 1000)
