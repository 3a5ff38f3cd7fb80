"""Networks that tests make: random but fixed by their seed, over the shapes of the format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tests.core import reference
from zgedge import arena
from zgedge.network import (
    CONV,
    DENSE,
    MAX_TAPS,
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
)

CHANNELS = (1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 33, 64)


def network(
    shape: tuple[int, int, int] = (1, 24, 1),
    hidden: tuple[Layer, ...] | None = None,
    classes: int = 4,
    **options: object,
) -> Network:
    """A network with the given hidden layers, behind the trunk of the options, and a dense head."""
    trunk: tuple[TrunkLayer, ...] = options.get("trunk", ())  # type: ignore[assignment]
    inputs = trunk[-1].outputs if trunk else shape[0] * shape[1] * shape[2]
    layers = hidden if hidden is not None else (sparse(inputs, 12, 8, 4),)
    last = layers[-1].outputs if layers else inputs
    known: int = options.get("known", 0)  # type: ignore[assignment]
    names = [str(i) for i in range(known or classes)]
    blob = arena.names_blob(names, spare=classes - known if known else None)
    options.setdefault("names_bytes", len(blob))
    return Network(shape, classes, (*layers, dense(last, classes)), **options)  # type: ignore[arg-type]


def random_trunk(
    rng: np.random.Generator, shape: tuple[int, int, int], depth: int, most: int = 2048
) -> tuple[TrunkLayer, ...]:
    """A trunk of up to `depth` layers of any kind that the format has, none of which gives more
    than `most` values."""

    def one(*of: int) -> int:
        return of[int(rng.integers(len(of)))]

    trunk: list[TrunkLayer] = []
    while len(trunk) < depth:
        height, width, incoming = shape
        kind, keep = rng.random(), rng.random() < 0.4
        same = keep or rng.random() < 0.5
        stride = 1 if keep else one(1, 1, 2, 2, 3, 4)
        kernel = one(*(k for k in (1, 3, 5, 7) if same or k <= min(height, width)))
        if kind < 0.5:
            fits = [c for c in CHANNELS if c * height * width <= most * stride**2]
            channels = incoming if keep else one(*(fits or [1]))
            if kernel * kernel * incoming > MAX_TAPS:
                kernel = 1
            layer = conv(shape, channels, kernel, stride, same=same)
        elif kind < 0.75:
            layer = depthwise(shape, kernel, stride, same=same)
        elif kind < 0.93 or len(trunk) + 1 < depth:
            window = int(rng.integers(2, 9))
            whole = same or window > min(height, width)
            layer = max_pool(shape, window, stride, same=whole)
        else:
            layer = mean_pool(shape)
        if layer.has_weights and rng.random() < 0.7:
            equal = [i for i, x in enumerate((*trunk, layer)) if x.shape == layer.out_shape]
            layer = replace(layer, add=one(*equal) if equal else None)
        if layer.outputs > most:
            continue
        trunk.append(layer)
        shape = layer.out_shape
    return tuple(trunk)


def trunk_parameters(
    trunk: tuple[TrunkLayer, ...], rng: np.random.Generator, s_in: float, extreme: bool = False
) -> list[arena.TrunkParameters]:
    """Random parameters under which every channel of a trunk is alive. Extreme ones have weights of
    127 and -127 and biases at their bound, and the sums that these give."""
    out: list[arena.TrunkParameters] = []
    for layer in trunk:
        if not layer.has_weights:
            s_out = s_in * rng.uniform(0.4, 1) if layer.kind == MEAN_POOL else s_in
            out.append(arena.TrunkParameters(s_in, s_out))
            s_in = s_out
            continue
        shape = arena.weight_shape(layer)
        w = rng.integers(-100, 101, shape)
        if layer.taps == 1:
            w = abs(w) + 1
        else:  # no channel that is bright or dark all over
            axes = (1, 2, 3) if layer.kind == CONV else (0, 1)
            w = np.clip(w - w.mean(axes, keepdims=True).round().astype(np.int64), -127, 127)
        size = 80 / (58 * 56 * layer.taps**0.5)  # of ReLUs' outputs that stay of one size
        multiplier = size * rng.uniform(0.5, 1.5, layer.channels)
        bias = rng.integers(-20, 21, layer.channels) / multiplier
        if extreme:
            w = rng.choice([-127, 127], shape) if rng.random() < 0.5 else np.full(shape, 127)
            most = 2**31 - 1 - layer.taps * 255 * 127
            bias = rng.choice([-most, most, 0], layer.channels)
            multiplier = rng.choice([1e-45, 2.9e38, 1e-7, 255 / 2**31], layer.channels)
        earlier = [s_in] if layer.add is None else [*(x.s_in for x in out), s_in]
        s_out = float(rng.uniform(0.004, 0.02)) if layer.add is None else earlier[layer.add]
        out.append(
            arena.TrunkParameters(
                s_in, s_out, w.astype(np.int8), bias.astype(np.int32),
                multiplier.astype(np.float32),
            )
        )  # fmt: skip
        s_in = s_out
    return out


def parameters(net: Network, seed: int = 0, scale: float = 1.0) -> arena.Parameters:
    """Random parameters under which every layer is alive."""
    rng = np.random.default_rng(seed)
    layers = []
    s_in, z_in = (1 / 255, 0) if net.groups == 1 else (1 / 32, 128)
    trunk = trunk_parameters(net.trunk, np.random.default_rng((seed, 1)), s_in)
    s_in = trunk[-1].s_out if trunk else s_in
    for i, layer in enumerate(net.layers):
        w = rng.integers(-100, 101, (layer.outputs, layer.width)).astype(np.int8)
        blocks = layer.inputs // layer.block
        indices = None
        if layer.kind != DENSE:
            indices = np.stack(
                [np.sort(rng.permutation(blocks)[: layer.per_row]) for _ in range(layer.outputs)]
            ).astype(np.uint16)
        last = i + 1 == len(net.layers)
        s_w = scale / (58 * layer.width**0.5)
        s_out = 1.0 if last else 2 / 255
        layers.append(
            arena.LayerParameters(
                weights=w,
                indices=indices,
                bias=rng.integers(-2000, 2001, layer.outputs).astype(np.int32),
                multiplier=np.full(layer.outputs, s_in * s_w / s_out, np.float32),
                s_in=s_in, s_w=s_w, s_out=s_out, z_in=z_in,
            )
        )  # fmt: skip
        s_in, z_in = s_out, 0
    if net.known:
        head = layers[-1]
        layers[-1] = replace(
            head,
            weights=head.weights[: net.known],
            indices=None if head.indices is None else head.indices[: net.known],
            bias=head.bias[: net.known],
            multiplier=head.multiplier[: net.known],
        )
    return arena.Parameters(
        input_scale=rng.uniform(200, 300, net.groups).astype(np.float32)
        if net.groups == 1
        else rng.uniform(20, 40, net.groups).astype(np.float32),
        input_center=np.zeros(net.groups, np.float32)
        if net.groups == 1
        else rng.normal(0, 1, net.groups).astype(np.float32),
        layers=layers,
        class_names=[str(i) for i in range(net.known or net.classes)],
        int_classes=True,
        trunk=trunk,
        learner=arena.LearnerParameters(key=seed, rate=0.1),
    )


def file(net: Network, seed: int = 0) -> bytes:
    return arena.write(net, parameters(net, seed))


def buffer(data: bytes) -> npt.NDArray[np.uint8]:
    """The file's bytes in aligned memory of their own."""
    out = arena.aligned(len(data))
    out[:] = np.frombuffer(data, np.uint8)
    return out


def samples(
    net: Network, n: int, seed: int = 1
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Samples of clustered classes, in the raw units that the parameters expect."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(0, 1, (net.classes, net.inputs))
    y = rng.integers(0, net.known or net.classes, n)
    x = centers[y] + rng.normal(0, 0.15, (n, net.inputs))
    return x.astype(np.float32), y


def reference_codes(p: arena.Parameters, x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Input codes [n, inputs], by numpy's own float32 arithmetic."""
    v = (np.asarray(x, np.float32) - p.input_center).astype(np.float32) * p.input_scale
    return np.clip(np.rint(v.astype(np.float32)).astype(np.int64) + p.layers[0].z_in, 0, 255)


def reference_logits(
    net: Network, p: arena.Parameters, x: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """Integer logits [n, classes] by dense numpy integers: a second, independent forward pass."""
    q = reference.features(net, p.trunk, reference_codes(p, x))
    for i, (layer, w) in enumerate(zip(net.layers, p.layers, strict=True)):
        full = np.zeros((layer.outputs, layer.inputs), np.int64)
        if w.indices is None:
            full[:] = w.weights
        else:
            at = w.indices.astype(np.int64)[:, :, None] * layer.block + np.arange(layer.block)
            np.put_along_axis(full, at.reshape(layer.outputs, -1), w.weights.astype(np.int64), 1)
        acc = (q - w.z_in) @ full.T + w.bias
        if i + 1 == len(net.layers):
            return acc
        v = acc.astype(np.float32) * w.multiplier
        q = np.clip(np.rint(v), 0, 255).astype(np.int64)
    raise AssertionError("a network has a head")
