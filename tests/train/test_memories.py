"""What a trained file remembers: coded no finer than it must be, in the planned bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from tests import nets
from zgedge import arena, data
from zgedge import network as net
from zgedge.budget import Task, named, plan
from zgedge.data import Dataset
from zgedge.errors import UsageError
from zgedge.network import KB, Network, dense
from zgedge.runtime import Model, memory
from zgedge.train import TrainResult, train
from zgedge.train.pack import CODING_COST, fitted_replay, remembered_codes
from zgedge.train.quantized import logits


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def planned(digits: Dataset) -> Network:
    return named(Task.of(digits), 4 * KB, "s23:20/4 b4 r12:8").network


@pytest.fixture(scope="module")
def trained(digits: Dataset, planned: Network) -> TrainResult:
    return train(digits, planned, epochs=30, fit_replay=True)


def test_more_samples_fit_into_the_bytes_of_the_planned_replay(
    planned: Network, trained: TrainResult
) -> None:
    fitted = trained.network
    assert fitted.replay_bits < planned.replay_bits
    assert fitted.watch  # and half of the replay's bytes may be the guard's
    assert fitted.replay_samples > planned.replay_samples
    assert fitted.file_bytes <= planned.file_bytes
    assert len(arena.write(fitted, trained.parameters)) == fitted.file_bytes


def test_the_network_still_tells_them_apart(digits: Dataset, trained: TrainResult) -> None:
    codes = _codes(digits, trained)
    right = [
        (
            logits(trained.network, trained.parameters.layers, seen).argmax(1) == digits.y_train
        ).mean()
        for seen in (codes, remembered_codes(codes, trained.network))
    ]
    assert right[0] - right[1] <= CODING_COST + 0.005  # other rows than those it was judged by
    # Half the bytes again would cost a tenth of its accuracy: that was not taken.
    coarser = remembered_codes(codes, replace(trained.network, replay_bits=1))
    assert right[0] - (_classes(trained, coarser) == digits.y_train).mean() > CODING_COST


def _classes(trained: TrainResult, codes: arena.UInt8) -> npt.NDArray[np.int64]:
    return logits(trained.network, trained.parameters.layers, codes).argmax(axis=1)


def _codes(digits: Dataset, trained: TrainResult) -> arena.UInt8:
    p = trained.parameters
    codes = np.rint((digits.x_train.astype(np.float32) - p.input_center) * p.input_scale)
    return np.clip(codes, 0, 255).astype(np.uint8)


def test_the_samples_in_the_file_are_training_rows_so_coded(
    digits: Dataset, trained: TrainResult
) -> None:
    model = Model(nets.buffer(arena.write(trained.network, trained.parameters)), "model")
    x, y = memory.remembered(model, 10_000)
    assert len(x) == trained.network.replay_samples
    coded = remembered_codes(_codes(digits, trained), trained.network)
    rows = {
        (*row, label) for row, label in zip(coded.tolist(), digits.y_train.tolist(), strict=True)
    }
    scale, center = model.arena.input_coding()
    seen = np.rint((x - center) * scale).astype(int)
    assert {(*row, label) for row, label in zip(seen.tolist(), y, strict=True)} <= rows


def test_a_replay_that_a_person_coded_stays(digits: Dataset) -> None:
    task = Task.of(digits)
    assert plan(task, 4 * KB).fit_replay
    assert named(task, 4 * KB, "s20:16/4").fit_replay
    asked = named(task, 8 * KB, "s20:16/4 r20:1/2")
    assert not asked.fit_replay
    assert (asked.network.replay_bits, asked.network.replay_pool) == (1, 2)
    assert asked.network.replay_stride == 2


@pytest.mark.parametrize("spec", ["c3x8 m s8:4 r20:4/2", "r20:3", "r20/3", "r20:4/2/2"])
def test_a_replay_that_cannot_be(digits: Dataset, spec: str) -> None:
    with pytest.raises(UsageError):
        named(Task.of(digits), 64 * KB, spec)


def test_features_of_a_trunk_keep_their_bits(digits: Dataset) -> None:
    network = plan(Task.of(digits), 16 * KB).network
    assert network.trunk
    assert fitted_replay(network, [], np.zeros((1, 64), np.uint8), np.zeros(1, np.int64)) is network


def test_a_replay_smaller_than_a_sample_of_8_bits() -> None:
    few = Network(
        (1, 64, 1), 3, (dense(64, 3),), 20, groups=64, replay_samples=1, replay_bits=4
    )  # fmt: skip
    rng = np.random.default_rng(0)
    layers = [
        arena.LayerParameters(
            rng.integers(-9, 9, (3, 64)).astype(np.int8), None, np.zeros(3, np.int32),
            np.full(3, 1e-3, np.float32), 1.0, 1.0,
        )
    ]  # fmt: skip
    codes = rng.integers(0, 256, (30, 64)).astype(np.uint8)
    found = fitted_replay(few, layers, codes, np.arange(30) % 3)
    assert found.replay_samples >= 1
    assert found.file_bytes <= few.file_bytes


@pytest.mark.parametrize("shape", [(4, 6, 1), (5, 7, 2), (1, 9, 3), (1, 1, 1)])
def test_places_have_the_mean_of_those_that_there_are(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    height, width, channels = shape
    pictures = rng.integers(0, 256, (3, *shape)).astype(np.uint8)
    pooled = arena.pool_codes(pictures.reshape(3, -1), shape)
    back = arena.spread_codes(pooled, shape).reshape(3, *shape)
    for n, y, x, c in np.ndindex(3, height, width, channels):
        places = pictures[n, y // 2 * 2 : y // 2 * 2 + 2, x // 2 * 2 : x // 2 * 2 + 2, c].astype(
            int
        )
        assert back[n, y, x, c] == (places.sum() + places.size // 2) // places.size


@pytest.mark.parametrize("bits", net.REPLAY_BITS)
def test_every_code_comes_back_as_the_nearest_level(bits: int) -> None:
    codes = np.arange(256, dtype=np.uint8)[None]
    packed = arena.pack_codes(codes, bits)
    assert packed.shape == (1, 32 * bits)
    back = arena.unpack_codes(packed, bits, 256)[0].astype(int)
    levels = np.arange(2**bits) * (255 // (2**bits - 1))
    assert (np.abs(back - codes[0]) == np.abs(levels[:, None] - codes[0]).min(0)).all()
