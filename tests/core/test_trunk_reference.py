"""The trunk's reference against float64 convolutions of torch, which hold these sums exactly."""

from __future__ import annotations

import numpy as np
import pytest

from tests import nets
from tests.core import reference
from zgedge import network as net
from zgedge.arena import TrunkParameters
from zgedge.network import TrunkLayer, conv, depthwise, max_pool, mean_pool

torch = pytest.importorskip("torch")

KERNELS = (1, 3, 5, 7)
SIDES = [(1, 1), (1, 7), (2, 2), (3, 8), (7, 5), (13, 11)]


def _padded(layer: TrunkLayer, x: torch.Tensor, outside: float) -> torch.Tensor:
    """TensorFlow's padding, written from its own documentation (tf.nn, "SAME padding")."""
    if not layer.same:
        return x
    sides = []
    for size in layer.shape[:2]:
        over = size % layer.stride
        along = max(layer.kernel - (over or layer.stride), 0)
        sides.append((along // 2, along - along // 2))
    (top, below), (left, behind) = sides
    return torch.nn.functional.pad(x, (left, behind, top, below), value=outside)


def _sums(layer: TrunkLayer, p: TrunkParameters, q: reference.Ints) -> reference.Ints:
    """Sums of a convolution, or what a max pool gives, by torch."""
    x = torch.from_numpy(q).double().permute(0, 3, 1, 2)
    if layer.kind == net.MAX_POOL:
        x = _padded(layer, x, -1)
        y = torch.nn.functional.max_pool2d(x, layer.kernel, layer.stride)
        return y.permute(0, 2, 3, 1).long().numpy()
    w = torch.from_numpy(p.weights).double()
    w = w.permute(0, 3, 1, 2) if layer.kind == net.CONV else w.permute(2, 0, 1)[:, None]
    groups = 1 if layer.kind == net.CONV else layer.channels
    y = torch.nn.functional.conv2d(
        _padded(layer, x, 0), w, torch.from_numpy(p.bias).double(), layer.stride, groups=groups
    )
    return y.permute(0, 2, 3, 1).long().numpy()


def _layers() -> list[TrunkLayer]:
    out = []
    for shape in ((*side, channels) for side in SIDES for channels in (1, 3)):
        for stride in range(1, 5):
            for same in (True, False):
                for kernel in KERNELS:
                    if same or kernel <= min(shape[:2]):
                        out += [conv(shape, 4, kernel, stride, same=same),
                                depthwise(shape, kernel, stride, same=same)]  # fmt: skip
                out += [
                    max_pool(shape, kernel, stride, same=same)
                    for kernel in range(2, 9)
                    if same or kernel <= min(shape[:2])
                ]
    return out


@pytest.mark.parametrize("extreme", [False, True], ids=["usual", "extreme"])
def test_every_geometry_gives_the_sums_of_torch(extreme: bool) -> None:
    rng = np.random.default_rng(3)
    layers = _layers()
    assert len(layers) > 800
    for layer in layers:
        (p,) = nets.trunk_parameters((layer,), rng, 1 / 255, extreme)
        high = (2, *layer.shape)
        q = np.full(high, 255) if extreme else rng.integers(0, 256, high)
        sums = _sums(layer, p, q)
        if layer.kind != net.MAX_POOL:
            assert p.multiplier is not None
            assert abs(sums).max() < 2**31
            with np.errstate(over="ignore"):
                y = sums.astype(np.float32) * p.multiplier
            sums = np.rint(np.clip(y, 0, 255)).astype(np.int64)
        assert sums.shape[1:] == layer.out_shape
        assert np.array_equal(reference.picture(layer, p, q, None), sums), layer


def test_padding_is_what_the_shapes_say() -> None:
    for layer in _layers():
        (out_h, top), (out_w, left) = (reference.out_and_pad(n, layer) for n in layer.shape[:2])
        assert (out_h, out_w) == layer.out_shape[:2]
        assert (top, left) == layer.padding


def test_mean_pool_is_the_mean() -> None:
    layer = mean_pool((7, 9, 5))
    q = np.random.default_rng(0).integers(0, 256, (3, 7, 9, 5))
    y = reference.picture(layer, TrunkParameters(0.02, 0.01), q, None)
    exact = torch.from_numpy(q).double().mean((1, 2), keepdim=True).numpy() * 2
    assert abs(y - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_addition_rounds_once_and_is_cut_off(channels: int) -> None:
    layer = conv((3, 3, channels), channels, 3, add=0)
    rng = np.random.default_rng(1)
    (p,) = nets.trunk_parameters((layer,), rng, 1 / 255)
    q = rng.integers(0, 256, (4, 3, 3, channels))
    assert p.multiplier is not None
    y = np.rint(np.clip(_sums(layer, p, q).astype(np.float32) * p.multiplier, -128, 127)) + q
    assert y.min() < 0
    assert y.max() > 255
    assert np.array_equal(reference.picture(layer, p, q, q), np.clip(y, 0, 255))


def test_chain_of_layers_is_layer_after_layer() -> None:
    shape = (6, 6, 2)
    trunk = (
        conv(shape, 4), depthwise((6, 6, 4)), conv((6, 6, 4), 4, add=1), max_pool((6, 6, 4)),
        conv((3, 3, 4), 4, 1, add=4), mean_pool((3, 3, 4)),
    )  # fmt: skip
    network = nets.network(shape, (), 3, trunk=trunk, learning=False, batch=1)
    p = nets.parameters(network, 5).trunk
    codes = np.random.default_rng(2).integers(0, 256, (3, 72))
    q = [codes.reshape(3, *shape)]
    for layer, one in zip(trunk, p, strict=True):
        q.append(reference.picture(layer, one, q[-1], None if layer.add is None else q[layer.add]))
    assert np.array_equal(reference.features(network, p, codes), q[-1].reshape(3, 4))
    assert not np.array_equal(q[3], reference.picture(trunk[2], p[2], q[2], q[2]))


@pytest.mark.parametrize(
    ("trunk", "rows"),
    [
        ((conv((9, 4, 1), 2, 3),), 9),
        ((conv((10, 4, 1), 2, 3, 3, same=False),), 9),
        ((conv((9, 4, 1), 1, 1, 4),), 9),
        ((conv((10, 4, 1), 1, 1, 4),), 9),
        ((max_pool((12, 6, 1), 2, 2), conv((6, 3, 1), 3, 3, 2, same=False)), 10),
        ((max_pool((11, 4, 1), 2, 2), conv((5, 2, 1), 3, 1, 4), mean_pool((2, 1, 3))), 10),
        ((conv((12, 4, 1), 3, 1, 3), mean_pool((4, 2, 3))), 10),
    ],
)
def test_rows_that_no_feature_depends_on(trunk: tuple[TrunkLayer, ...], rows: int) -> None:
    network = nets.network(trunk[0].shape, (), 2, trunk=trunk)
    assert reference.rows_read(network) == rows
    p = nets.parameters(network).trunk
    rng = np.random.default_rng(0)
    q = rng.integers(0, 256, (40, *network.shape))
    other = q.copy()
    other[:, rows:] = rng.integers(0, 256, other[:, rows:].shape)
    flat = len(q), network.inputs
    same = reference.features(network, p, q.reshape(flat))
    assert np.array_equal(reference.features(network, p, other.reshape(flat)), same)
    other[:, rows - 1] = rng.integers(0, 256, other[:, rows - 1].shape)
    assert not np.array_equal(reference.features(network, p, other.reshape(flat)), same)


def test_random_trunks_cover_what_they_should() -> None:
    rng = np.random.default_rng(0)
    trunks = []
    for _ in range(300):
        shape = (int(rng.integers(1, 14)), int(rng.integers(1, 14)), int(rng.choice([1, 3, 4])))
        trunks.append(nets.random_trunk(rng, shape, int(rng.integers(1, 33)), 1024))
    layers = [layer for trunk in trunks for layer in trunk]
    kinds = {net.CONV, net.DEPTHWISE, net.MAX_POOL, net.MEAN_POOL}
    assert {x.kind for x in layers} == kinds
    assert {x.kernel for x in layers if x.has_weights} == set(KERNELS)
    assert {x.kernel for x in layers if x.kind == net.MAX_POOL} == set(range(2, 9))
    assert {x.channels for x in layers if x.kind == net.CONV} >= set(nets.CHANNELS)
    for kind in kinds - {net.MEAN_POOL}:
        assert {(x.stride, x.same) for x in layers if x.kind == kind} == {
            (stride, same) for stride in range(1, 5) for same in (True, False)
        }
    adders = [[x.add for x in trunk if x.add is not None] for trunk in trunks]
    assert any(len(a) > len(set(a)) for a in adders), "one tensor added by several layers"
    assert any(x.add == i for trunk in trunks for i, x in enumerate(trunk)), "its own input"
    assert any(x.add is not None and x.add < i for t in trunks for i, x in enumerate(t))
    assert {len(trunk) for trunk in trunks} == set(range(1, 33))
