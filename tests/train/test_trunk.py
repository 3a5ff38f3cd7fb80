"""Trunks in training: the integers are the core's, and batch norm folds without a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from zgedge import Model, arena, data
from zgedge.arena import TrunkParameters, names_blob
from zgedge.data import Dataset
from zgedge.network import (
    DEPTHWISE,
    MAX_POOL,
    MEAN_POOL,
    Layer,
    Network,
    TrunkLayer,
    conv,
    dense,
    depthwise,
    max_pool,
    mean_pool,
    sparse,
)  # fmt: skip
from zgedge.train import TrainResult, train
from zgedge.train.augment import jitter
from zgedge.train.inputs import choose_coding
from zgedge.train.quantized import QuantizedNetwork, logits
from zgedge.train.recipe import choose_recipe
from zgedge.train.teacher import teacher_of
from zgedge.train.trunk import QuantizedTrunk, convolve, features, pictures, shared_scales


def _network(
    shape: tuple[int, int, int], *makers: Any, layers: tuple[Layer, ...] = (), **options: Any
) -> Network:
    """A network whose trunk layers are made one after the other, each for what comes before."""
    trunk: list[TrunkLayer] = []
    for make in makers:
        trunk.append(make(shape))
        shape = trunk[-1].out_shape
    first = trunk[0].shape
    width = layers[-1].outputs if layers else trunk[-1].outputs
    return Network(
        first, 10, (*layers, dense(width, 10)), len(names_blob([str(i) for i in range(10)])),
        task="picture", trunk=tuple(trunk), **{"learning": False, "batch": 1, **options},
    )  # fmt: skip


def _conv(channels: int, *geometry: int, **options: Any) -> Any:
    return lambda shape: conv(shape, channels, *geometry, **options)


def _depthwise(*geometry: int, **options: Any) -> Any:
    return lambda shape: depthwise(shape, *geometry, **options)


RESIDUAL = _network(
    (8, 8, 1), _conv(6, 3, 1), _conv(6, 3, 1, add=1), _depthwise(3, 2), _conv(9, 1), mean_pool
)
# Uneven sides, strides and kernels: every way of padding.
ODD = _network(
    (11, 7, 3), _conv(5, 5, 2), _depthwise(3, 1, add=1),
    lambda shape: max_pool(shape, 3, 2, same=True), _conv(4, 3, 3), _conv(4, 1, add=4),
)  # fmt: skip
VALID = _network(
    (12, 9, 1), _conv(4, 3, 2, same=False), max_pool, lambda shape: depthwise(shape, 1),
    _conv(7, 1, same=False),
)  # fmt: skip
# The picture itself is added: the sum has to keep the picture's scale.
PICTURE = _network((6, 6, 2), _conv(2, 3, add=0), lambda shape: max_pool(shape, 2, 2), mean_pool)
NETWORKS = {"residual": RESIDUAL, "odd": ODD, "valid": VALID, "picture": PICTURE}


@pytest.fixture(params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


def _codes(network: Network, count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, network.inputs)).astype(np.uint8)


def _settled(network: Network, seed: int = 0) -> QuantizedTrunk:
    """A trunk with scales, statistics and batch norms as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    trunk = QuantizedTrunk(network, float(np.float32(1 / 255)), generator)
    with torch.no_grad():
        for made in trunk.convs:
            if made is not None:
                made.gamma.copy_(torch.randn(made.gamma.shape, generator=generator))
                made.beta.copy_(torch.randn(made.beta.shape, generator=generator) / 2)
    batches = [torch.from_numpy(_codes(network, 32, seed=s)) for s in range(4)]
    with torch.no_grad():
        for batch in batches:
            trunk.forward(batch, observe=True)
    trunk.measure(batches, rounds=True)
    return trunk


def _slow_features(
    network: Network, trunk: list[TrunkParameters], picture: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    """docs/arithmetic.md place by place, in Python's integers and numpy's float32."""
    f32 = np.float32
    kept = [picture.reshape(network.shape).astype(np.int64)]
    for layer, p in zip(network.trunk, trunk, strict=True):
        x = kept[-1]
        out = np.zeros(layer.out_shape, np.int64)
        top, left = layer.padding
        if layer.kind == MEAN_POOL:
            s_w = f32(1 / (layer.shape[0] * layer.shape[1]))
            m = f32(f32(p.s_in) * s_w) / f32(p.s_out)
            sums = x.sum(axis=(0, 1)).astype(f32)
            out[0, 0] = np.rint(np.clip(sums * m, f32(0), f32(255)))
            kept.append(out)
            continue
        for r, y, c in np.ndindex(out.shape):
            places = [
                (ky, kx, r * layer.stride - top + ky, y * layer.stride - left + kx)
                for ky in range(layer.kernel)
                for kx in range(layer.kernel)
            ]
            inside = [
                (ky, kx, v, h) for ky, kx, v, h in places
                if 0 <= v < layer.shape[0] and 0 <= h < layer.shape[1]
            ]  # fmt: skip
            if layer.kind == MAX_POOL:
                out[r, y, c] = max(x[v, h, c] for _, _, v, h in inside)
                continue
            assert p.weights is not None
            assert p.bias is not None
            assert p.multiplier is not None
            total = int(p.bias[c])
            for ky, kx, v, h in inside:
                if layer.kind == DEPTHWISE:
                    total += int(p.weights[ky, kx, c]) * int(x[v, h, c])
                else:
                    total += int(p.weights[c, ky, kx].astype(np.int64) @ x[v, h])
            scaled = f32(total) * p.multiplier[c]
            if layer.add is None:
                out[r, y, c] = np.rint(np.clip(scaled, f32(0), f32(255)))
            else:
                part = int(np.rint(np.clip(scaled, f32(-128), f32(127))))
                out[r, y, c] = min(255, max(0, part + int(kept[layer.add][r, y, c])))
        kept.append(out)
    return kept[-1].reshape(-1)


def _opened(result: TrainResult) -> Model:
    blob = arena.write(result.network, result.parameters)
    buffer = arena.aligned(len(blob))
    buffer.data[:] = blob
    return Model(buffer, "trained")


def test_exact_pass_is_the_arithmetic_of_the_page(network: Network) -> None:
    trunk = _settled(network).integers()
    codes = _codes(network, 6, seed=9)
    found = features(network, trunk, codes)
    assert found.any()
    for row, picture in zip(found, codes, strict=True):
        assert np.array_equal(row, _slow_features(network, trunk, picture))


def test_exact_pass_holds_sums_that_float32_does_not() -> None:
    network = _network((3, 3, 96), _conv(4, 3, same=False))
    weights = np.full((4, 3, 3, 96), 127, np.int8)
    weights[1::2, 1, 1, 0] = 126
    codes = np.full((1, network.inputs), 255, np.uint8)
    codes[0, ::7] = 254
    sums = weights.reshape(4, -1).astype(np.int64) @ codes[0].astype(np.int64)
    assert sums.min() > 2**24
    bias = (np.array([17, 100, 101, 254]) - sums).astype(np.int32)
    trunk = [TrunkParameters(1 / 255, 1.0, weights, bias, np.ones(4, np.float32))]
    assert features(network, trunk, codes).tolist() == [[17, 100, 101, 254]]
    assert _slow_features(network, trunk, codes[0]).tolist() == [17, 100, 101, 254]


def test_batch_norm_is_folded_into_the_integers(network: Network) -> None:
    trunk = _settled(network)
    for layer, made, p in zip(network.trunk, trunk.convs, trunk.integers(), strict=True):
        if made is None:
            continue
        codes = np.random.default_rng(1).integers(0, 256, (40, layer.inputs)).astype(np.uint8)
        x = pictures(torch.from_numpy(codes), layer.shape).double()
        with torch.no_grad():
            rounded = (torch.round(made.values / made.steps()) * made.steps()).double()
            z = convolve(layer, x * p.s_in, rounded)
            sigma = torch.sqrt(made.var.double() + 1e-5)
            wanted = (z.movedim(1, 3) - made.mean) / sigma * made.gamma + made.beta
        assert p.weights is not None
        assert p.bias is not None
        assert p.multiplier is not None
        order = (2, 0, 1) if layer.kind == DEPTHWISE else (0, 3, 1, 2)
        weights = torch.from_numpy(p.weights).double().permute(order)
        sums = convolve(layer, x, weights.reshape(made.values.shape)).movedim(1, 3)
        multiplier = torch.from_numpy(p.multiplier).double()
        given = (sums + torch.from_numpy(p.bias)) * multiplier
        # Half a unit of the sum is what rounding the bias may cost, and nothing else is lost.
        apart = (given - wanted / p.s_out).abs() - 0.5 * multiplier
        assert float((apart - 1e-5 * given.abs()).max()) < 1e-3


def test_weights_are_the_integers_that_were_trained() -> None:
    trunk = _settled(RESIDUAL)
    made, packed = trunk.convs[0], trunk.integers()[0]
    assert made is not None
    assert packed.weights is not None
    steps = torch.round(made.values.detach() / made.steps()).numpy()
    signs = np.where(made.gamma.detach().numpy() < 0, -1, 1)
    assert np.array_equal(packed.weights[..., 0], signs[:, None, None] * steps[:, 0])
    assert set(signs) == {-1, 1}


def test_channel_that_batch_norm_switched_off_has_finite_numbers() -> None:
    trunk = _settled(RESIDUAL)
    made = trunk.convs[0]
    assert made is not None
    with torch.no_grad():
        made.gamma[0], made.gamma[1], made.values[2] = 0.0, 1e-12, 0.0
        made.beta[:3] = torch.tensor([0.7, 1e30, -0.4])
    packed = trunk.integers()[0]
    assert packed.weights is not None
    assert packed.bias is not None
    assert packed.multiplier is not None
    assert np.isfinite(packed.multiplier).all()
    assert (packed.multiplier > 0).all()
    room = 2**31 - 1 - 9 * 255 * 127
    assert (np.abs(packed.bias.astype(np.int64)) <= room).all()
    assert not packed.weights[0].any()
    codes = np.zeros((1, RESIDUAL.inputs), np.uint8)
    flat = replace(RESIDUAL, trunk=RESIDUAL.trunk[:1], layers=(dense(8 * 8 * 6, 10),))
    given = features(flat, [packed], codes).reshape(8, 8, 6)
    assert (given[..., 0] == round(0.7 / packed.s_out)).all()
    assert (given[..., 1] == 255).all()
    assert (given[..., 2] == 0).all()


def test_tensors_of_a_residual_chain_share_their_scale(network: Network) -> None:
    packed = _settled(network).integers()
    for i, (layer, p) in enumerate(zip(network.trunk, packed, strict=True)):
        assert p.s_in == (packed[i - 1].s_out if i else float(np.float32(1 / 255)))
        if layer.add is not None:
            assert p.s_out == packed[layer.add].s_in
        if layer.kind == MAX_POOL:
            assert p.s_out == p.s_in


def test_chains_that_meet_are_one() -> None:
    trunk = _network(
        (4, 4, 2), _conv(3, 3), _conv(3, 3, add=1), _conv(3, 3, add=2),
        lambda shape: max_pool(shape, 2, 2), _conv(3, 1), mean_pool,
    ).trunk  # fmt: skip
    assert shared_scales(trunk) == [0, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_padding_gives_the_shape_that_the_network_has(size: int, kernel: int, stride: int) -> None:
    network = _network((size, 10 - size, 2), _conv(3, kernel, stride))
    trunk = QuantizedTrunk(network, 1 / 255, torch.Generator())
    given = trunk.forward(torch.from_numpy(_codes(network, 2)))
    assert given.shape == (2, network.trunk[0].outputs)


def test_gradients_pass_where_nothing_is_clamped() -> None:
    trunk = _settled(RESIDUAL)
    for tensor in trunk.parameters():
        tensor.grad = None
    trunk.forward(torch.from_numpy(_codes(RESIDUAL, 16))).sum().backward()
    for tensor in trunk.parameters():
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


SPARSE_BEHIND = _network(
    (8, 8, 1), _conv(8, 3, 1), _conv(12, 3, 2), layers=(sparse(4 * 4 * 12, 24, 16, 4),),
    learning=True, batch=4, replay_samples=40, replay_bits=4,
)  # fmt: skip


@pytest.mark.parametrize("name", ["residual", "sparse"])
def test_core_gives_the_very_logits_of_a_trained_trunk(digits: Dataset, name: str) -> None:
    network = {"residual": RESIDUAL, "sparse": SPARSE_BEHIND}[name]
    result = train(digits, network, steps=120, seed=2)
    codes = choose_coding(digits, 1).encode(digits.x_test)
    p = result.parameters
    expected = logits(network, p.layers, codes, p.trunk)
    model = _opened(result)
    assert np.array_equal(model.logits(digits.x_test), expected)
    assert result.accuracy == float((expected.argmax(axis=1) == digits.y_test).mean())
    assert result.accuracy > {"residual": 0.1, "sparse": 0.6}[name]
    assert result.shadow_accuracy is not None
    assert abs(result.accuracy - result.shadow_accuracy) < 0.03


def test_float_forward_has_the_classes_of_the_integers(digits: Dataset) -> None:
    network = RESIDUAL
    coding = choose_coding(digits, 1)
    net = QuantizedNetwork(network, coding, [None], torch.Generator().manual_seed(1))
    codes = coding.encode(digits.x_train[:256])
    with torch.no_grad():
        net.forward(torch.from_numpy(codes), observe=True)
        assert net.trunk is not None
        net.trunk.measure([torch.from_numpy(codes)], rounds=True)
        real = net.forward(torch.from_numpy(codes), learns=False).numpy()
    layers = net.integers()
    found = logits(network, layers, codes, net.trunk_integers()) * layers[-1].multiplier
    # Features may lie a step apart (see above); a step is this much of a logit.
    step = layers[-1].s_in * np.abs(layers[-1].weights * layers[-1].s_w).max()
    assert np.abs(real - found).max() <= 3 * step
    sure = np.sort(real, axis=1)
    clear = sure[:, -1] - sure[:, -2] > 6 * step
    assert clear.mean() > 0.5
    assert np.array_equal(real.argmax(axis=1)[clear], found.argmax(axis=1)[clear])


def test_memories_are_what_the_trunk_gives(digits: Dataset) -> None:
    result = train(digits, replace(SPARSE_BEHIND, replay_bits=8), steps=20)
    assert result.parameters.replay is not None
    codes, labels = result.parameters.replay
    assert codes.shape == (40, SPARSE_BEHIND.features)
    assert np.bincount(labels).tolist() == [4] * 10
    everything = features(
        SPARSE_BEHIND, result.parameters.trunk, choose_coding(digits, 1).encode(digits.x_train)
    )
    known = {row.tobytes() for row in everything}
    assert all(row.tobytes() in known for row in codes)


def test_wires_behind_a_trunk_move(digits: Dataset) -> None:
    result = train(digits, SPARSE_BEHIND, steps=120)
    assert result.rewired > 0
    assert train(digits, SPARSE_BEHIND, strategy="static", steps=20).rewired == 0


def _dataset(shape: tuple[int, int, int], kind: str = "picture") -> Dataset:
    inputs = shape[0] * shape[1] * shape[2]
    x = np.ones((20, inputs), np.uint8)
    y = np.arange(20) % 10
    names = tuple(str(i) for i in range(10))
    return Dataset("made", x, y, x[:0], y[:0], names, True, shape, kind)


def test_only_pictures_in_colour_are_mirrored() -> None:
    grey = choose_recipe(_dataset((28, 28, 1)), RESIDUAL, 100)
    assert grey.warps
    assert (grey.shifts, grey.cutout) == (0, 0)
    colour = choose_recipe(_dataset((32, 32, 3)), ODD, 100)
    assert (colour.shifts, colour.cutout, colour.warps) == (4, 8, False)
    assert choose_recipe(_dataset((32, 32, 3)), ODD, 59).cutout == 0
    assert choose_recipe(_dataset((32, 32, 3)), ODD, 119).cutout == 8
    assert choose_recipe(_dataset((32, 32, 3)), ODD, 120).cutout == 16
    tiny = choose_recipe(_dataset((5, 32, 3)), ODD, 100)
    assert (tiny.warps, tiny.shifts, tiny.cutout) == (False, 0, 0)


def test_jitter_moves_mirrors_and_blanks() -> None:
    height, width = 9, 7
    y, x = np.mgrid[1 : height + 1, 1 : width + 1]
    picture = np.stack([y * 20, x * 20], axis=2).astype(np.uint8)
    codes = torch.from_numpy(np.repeat(picture.reshape(1, -1), 200, axis=0))
    moved = jitter(codes, (height, width, 2), 2, 0, np.random.default_rng(0)).numpy()
    seen = set()
    for one in moved.reshape(200, height, width, 2).astype(int):
        inside = one[..., 0] > 0
        assert np.array_equal(inside, one[..., 1] > 0)
        v, h = np.nonzero(inside)
        down = set((one[v, h, 0] // 20 - 1 - v).tolist())
        across = one[v, h, 1] // 20 - 1
        mirrored = bool(np.diff(one[v[0], h[v == v[0]], 1])[0] < 0)
        aside = set((across - (width - 1 - h if mirrored else h)).tolist())
        assert len(down) == len(aside) == 1
        seen.add((down.pop(), aside.pop(), mirrored))
    assert {s[0] for s in seen} == {-2, -1, 0, 1, 2} == {s[1] for s in seen}
    assert {s[2] for s in seen} == {False, True}
    cut = jitter(codes, (height, width, 2), 0, 3, np.random.default_rng(0)).numpy()
    blank = (cut.reshape(200, -1, 2) == 0).all(axis=2).sum(axis=1)
    assert blank.max() == 9
    assert blank.min() >= 4


def test_statistics_are_of_pictures_as_training_moves_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm over pictures that stand still is not what the weights have learned with."""
    seen: list[torch.Tensor] = []
    measure = QuantizedTrunk.measure

    def keep(self: QuantizedTrunk, batches: Any, rounds: bool) -> None:
        batches = list(batches)
        seen.extend(batches)
        measure(self, batches, rounds)

    monkeypatch.setattr(QuantizedTrunk, "measure", keep)
    rng = np.random.default_rng(0)
    x = rng.integers(100, 256, (60, 16 * 16 * 3), dtype=np.uint8)
    names = tuple(str(i) for i in range(10))
    y = np.arange(60) % 10
    made = Dataset("made", x, y, x[:4], y[:4], names, True, (16, 16, 3), "picture")
    train(made, _network((16, 16, 3), _conv(4, 3, 2)), strategy="static", seed=0, steps=3)
    assert seen
    # What moves in is black, as nothing in these pictures is.
    assert all(bool((batch == 0).any()) for batch in seen)


def test_teacher_is_wider_and_of_the_same_form() -> None:
    teacher = teacher_of(SPARSE_BEHIND)
    assert [x.channels for x in teacher.trunk] == [16, 24]
    assert teacher.classes == 10
    assert teacher_of(ODD).trunk[1].add == 1
    # Twice its channels would be beyond the format.
    widest = _network((32, 32, 3), _conv(64, 3), mean_pool)
    assert [x.channels for x in teacher_of(widest).trunk] == [64, 64]


def test_student_of_a_teacher_learns_another_network(digits: Dataset) -> None:
    made = [
        arena.write(RESIDUAL, train(digits, RESIDUAL, steps=60, teacher=t).parameters)
        for t in (True, True, False)
    ]
    assert made[0] == made[1]
    assert made[0] != made[2]
