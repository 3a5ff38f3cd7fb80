"""What exporters read from a model: each fact that two of them need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

import zgedge
from zgedge import extras
from zgedge.arena import (
    Arena,
    LayerParameters,
    Parameters,
    TrunkParameters,
    in_memory,
    names_blob,
    write,
)
from zgedge.runtime import Model
from zgedge.runtime.memory import remembered

Float32 = npt.NDArray[np.float32]


def need(package: str) -> ModuleType:
    """The imported package. Raises MissingExtraError where it is not installed."""
    return extras.need(package, "export")


def dense_rows(arena: Arena, i: int) -> npt.NDArray[np.int8]:
    """Weights of layer i as int8 [outputs, inputs], 0 where a sparse layer has no connection."""
    layer, weights = arena.network.layers[i], arena.weights(i)
    indices = arena.indices(i)
    if indices is None:
        return weights.copy()
    full = np.zeros((layer.outputs, layer.inputs // layer.block, layer.block), np.int8)
    blocks = weights.reshape(layer.outputs, layer.per_row, layer.block)
    full[np.arange(layer.outputs)[:, None], indices] = blocks
    return full.reshape(layer.outputs, layer.inputs)


def named(model: Model) -> Model:
    """The model as one that predicts the classes which have a name now; itself where all have."""
    a = model.arena
    known = len(a.class_names)
    if not a.network.known:
        return model
    layers = []
    for i, (s_in, s_w, s_out, z_in) in enumerate(a.scales):
        rows = known if i + 1 == len(a.scales) else a.network.layers[i].outputs
        indices, (bias, multiplier) = a.indices(i), a.rows(i)
        layers.append(
            LayerParameters(
                a.weights(i)[:rows], None if indices is None else indices[:rows], bias[:rows],
                multiplier[:rows], s_in, s_w, s_out, z_in,
            )
        )  # fmt: skip
    trunk = []
    for i, (t, (s_in, s_out)) in enumerate(zip(a.network.trunk, a.trunk_scales, strict=True)):
        numbers = (a.trunk_weights(i), *a.trunk_rows(i)) if t.has_weights else ()
        trunk.append(TrunkParameters(s_in, s_out, *numbers))
    scale, center = a.input_coding()
    network = replace(
        a.network.for_inference(), classes=known, known=0,
        layers=(*a.network.layers[:-1], replace(a.network.layers[-1], outputs=known)),
        names_bytes=len(names_blob(a.class_names, a.feature_names)),
    )  # fmt: skip
    data = write(
        network,
        Parameters(
            scale, center, layers, a.class_names, int_classes=a.int_classes,
            feature_names=a.feature_names, unknown=a.unknown, accuracy=a.accuracy, seed=a.seed,
            steps=a.steps, samples=a.samples, budget=a.budget, trunk=trunk,
        ),
    )  # fmt: skip
    return Model(in_memory(data), model.name)


def mean_multiplier(arena: Arena, i: int) -> np.float32:
    """What a mean pool's sum is multiplied by: trunk layer i, which is one."""
    s_in, s_out = arena.trunk_scales[i]
    s_w = np.float32(arena.trunk_steps[i])
    return np.float32(np.float32(np.float32(s_in) * s_w) / np.float32(s_out))


@dataclass(frozen=True)
class InputCoding:
    """code = clamp(rne(clamp((x - center) * scale, -512, 512)) + zero, 0, 255), in float32.

    `scale` and `center` are float32 [1] where one serves all inputs, else [inputs].
    """

    scale: Float32
    center: Float32
    zero: int

    def codes(self, x: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Codes [n, inputs] of raw samples [n, inputs]."""
        with np.errstate(over="ignore"):
            v = (np.asarray(x, np.float32) - self.center) * self.scale
        steps = np.rint(np.clip(v, -512, 512)) + np.float32(self.zero)
        codes: npt.NDArray[np.uint8] = np.clip(steps, 0, 255).astype(np.uint8)
        return codes

    def raw(self, codes: npt.NDArray[np.uint8]) -> Float32:
        """Raw values whose codes are these, up to rounding."""
        steps = codes.astype(np.float32) - np.float32(self.zero)
        return (steps / self.scale + self.center).astype(np.float32)


def input_coding(arena: Arena) -> InputCoding:
    """How raw values become the first layer's codes."""
    scale, center = arena.input_coding()
    zero = 0 if arena.network.trunk else arena.scales[0][3]
    return InputCoding(scale.astype(np.float32), center.astype(np.float32), zero)


def exponentials() -> npt.NDArray[np.int64]:
    """The softmax's table: 32,768 * exp(-i / 16), rounded, for i = 0 .. 255."""
    table: npt.NDArray[np.int64] = np.rint(32768 * np.exp(-np.arange(256) / 16)).astype(np.int64)
    return table


def metadata(arena: Arena) -> dict[str, str]:
    """What an export says of itself, as text, in a fixed order."""
    s_in, s_w, _, _ = arena.scales[-1]
    found: dict[str, Any] = {
        "zgedge_version": zgedge.__version__,
        "budget": arena.budget,
        "task": arena.network.task,
        "shape": list(arena.network.shape),
        "classes": list(arena.class_names),
        "logit_scale": float(np.float32(np.float32(s_in) * np.float32(s_w))),
        "unknown_threshold": arena.unknown / 32768,
        "scales": {
            "input": [float(v) for v in arena.input_coding()[0]],
            "trunk": [list(pair) for pair in arena.trunk_scales],
            "layers": [list(scales[:3]) for scales in arena.scales],
        },
    }
    if arena.feature_names:
        found["features"] = list(arena.feature_names)
    if arena.accuracy is not None:
        found["accuracy"] = round(arena.accuracy, 6)
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in found.items()
    }


def check_inputs(model: Model, count: int = 64, seed: int = 0) -> Iterator[tuple[str, Float32]]:
    """Raw samples float32 [n, inputs] that an export is compared on, by where they come from.

    `remembered`: what the model's replay holds, none behind a trunk (it holds features there).
    `random`: raw values of random codes. `extreme`: the lowest and highest codes, in all inputs and
    in every second, values far outside the range, and halves between two codes.
    """
    own, _ = remembered(model, count)
    if len(own):
        yield "remembered", own
    coding, inputs = input_coding(model.arena), model.inputs
    rng = np.random.default_rng(seed)
    # Half of them mostly dark, as pictures are: units that bright noise would saturate stay alive.
    codes = rng.integers(0, 256, (count, inputs))
    codes[count // 2 :] = np.where(
        rng.random((count - count // 2, inputs)) < 0.8, coding.zero, codes[count // 2 :]
    )
    yield "random", coding.raw(codes.astype(np.uint8))
    even = np.arange(inputs) % 2 == 0
    rows = [np.full(inputs, c) for c in (0, 255, coding.zero)]
    rows += [np.where(even, 0, 255), np.where(even, 255, 0)]
    rows += [np.full(inputs, c) for c in (-1e6, 1e6, -513 - coding.zero, 513)]
    rows += list(rng.integers(0, 256, (8, inputs)) + 0.5)
    rows += list(rng.choice([0, 255], (8, inputs)))
    steps = np.stack(rows).astype(np.float32) - np.float32(coding.zero)
    yield "extreme", (steps / coding.scale + coding.center).astype(np.float32)
