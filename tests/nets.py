"""Networks that tests make: random but fixed by their seed, over the shapes of the format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from zgedge import arena
from zgedge.network import DENSE, Layer, Network, dense, sparse


def network(
    shape: tuple[int, int, int] = (1, 24, 1),
    hidden: tuple[Layer, ...] | None = None,
    classes: int = 4,
    **options: object,
) -> Network:
    """A network with the given hidden layers and a dense head."""
    inputs = shape[0] * shape[1] * shape[2]
    layers = hidden if hidden is not None else (sparse(inputs, 12, 8, 4),)
    last = layers[-1].outputs if layers else inputs
    names = arena.names_blob(str(i) for i in range(classes))
    base = Network(shape, classes, (*layers, dense(last, classes)), len(names))
    return replace(base, **options)  # type: ignore[arg-type]


def parameters(net: Network, seed: int = 0, scale: float = 1.0) -> arena.Parameters:
    """Random parameters under which every layer is alive."""
    rng = np.random.default_rng(seed)
    layers = []
    s_in, z_in = (1 / 255, 0) if net.groups == 1 else (1 / 32, 128)
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
    return arena.Parameters(
        input_scale=rng.uniform(200, 300, net.groups).astype(np.float32)
        if net.groups == 1
        else rng.uniform(20, 40, net.groups).astype(np.float32),
        input_center=np.zeros(net.groups, np.float32)
        if net.groups == 1
        else rng.normal(0, 1, net.groups).astype(np.float32),
        layers=layers,
        class_names=[str(i) for i in range(net.classes)],
        int_classes=True,
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
    y = rng.integers(0, net.classes, n)
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
    q = reference_codes(p, x)
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
