"""A dense int8 multilayer perceptron as TFLite bytes, and the integers it must give.

The file is what a converter writes for a post-training quantized network: int8 activations,
int8 weights with one scale per output channel, int32 biases, FULLY_CONNECTED with the ReLU
fused. `reference` computes the same integers in numpy (the requantization that XNNPACK's
`fp32` kernels use: float32 multiply, round half to even, clamp).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from zgedge.export.tflite_file import NONE, RELU, ROWS_FULLY_CONNECTED, TfliteFile

# int8 with zero point -128 is uint8 with zero point 0, the way pixels come.
_INPUT_ZERO = -128


@dataclass(frozen=True)
class DenseLayer:
    """One fully connected layer in integers.

    `weights` int8 (outputs, inputs), -127..127; `bias` int32 (outputs,) in units of the
    accumulator; `weight_scale` float32 (outputs,); `scale` and `zero` of the int8 output;
    `relu` clamps the output at its zero point.
    """

    weights: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    weight_scale: npt.NDArray[np.float32]
    scale: float
    zero: int
    relu: bool


@dataclass(frozen=True)
class DenseModel:
    """Layers in order, and the scale and zero point of the int8 input."""

    input_scale: float
    input_zero: int
    layers: tuple[DenseLayer, ...]

    @property
    def inputs(self) -> int:
        """Number of input features."""
        return int(self.layers[0].weights.shape[1])

    @property
    def outputs(self) -> int:
        """Number of output values."""
        return int(self.layers[-1].weights.shape[0])


def random_dense(widths: tuple[int, ...] = (784, 256, 10), seed: int = 0) -> DenseModel:
    """A network of these widths with seeded random weights; the last layer has no ReLU.

    Scales are chosen so that for inputs spread over the whole range few outputs clamp.
    """
    rng = np.random.default_rng(seed)
    layers: list[DenseLayer] = []
    for inputs, outputs in pairwise(widths):
        last = len(layers) == len(widths) - 2
        weights = rng.integers(-127, 128, (outputs, inputs)).astype(np.int8)
        bias = rng.integers(-2000, 2001, outputs).astype(np.int32)
        spread = 1.0 / (73.0 * np.sqrt(inputs))
        weight_scale = (spread * rng.uniform(0.5, 1.5, outputs)).astype(np.float32)
        out_scale = float(np.float32(4.0 / 255.0))
        out_zero = 0 if last else -128
        layers.append(DenseLayer(weights, bias, weight_scale, out_scale, out_zero, not last))
    return DenseModel(float(np.float32(1.0 / 255.0)), _INPUT_ZERO, tuple(layers))


def reference(model: DenseModel, x: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """The integers the model gives: x int8 (n, inputs) to int8 (n, outputs)."""
    q = x.astype(np.int32)
    scale, zero = np.float32(model.input_scale), model.input_zero
    for layer in model.layers:
        # int64 sums, so that the check does not depend on the bound that int32 sums need.
        acc = (q.astype(np.int64) - zero) @ layer.weights.T.astype(np.int64) + layer.bias
        multiplier = scale * layer.weight_scale / np.float32(layer.scale)
        y = np.rint(acc.astype(np.float32) * multiplier).astype(np.int64) + layer.zero
        q = np.clip(y, layer.zero if layer.relu else -128, 127).astype(np.int32)
        scale, zero = np.float32(layer.scale), layer.zero
    return q.astype(np.int8)


def build_tflite(model: DenseModel) -> bytes:
    """The model as a TFLite flatbuffer with one signature, `serving_default` (`x` to `y`).

    Raises MissingExtraError when `tflite` or `flatbuffers` is not installed.
    """
    f = TfliteFile()
    scale = np.float32(model.input_scale)
    first = at = f.tensor("x", (1, model.inputs), scale=scale, zero=model.input_zero)
    for number, layer in enumerate(model.layers):
        outputs = len(layer.weights)
        weights = f.tensor(
            f"weights{number}", layer.weights.shape, "INT8", layer.weights,
            scale=layer.weight_scale,
        )  # fmt: skip
        bias = f.tensor(
            f"bias{number}", (outputs,), "INT32", layer.bias, scale=scale * layer.weight_scale
        )
        y = f.tensor(f"y{number}", (1, outputs), scale=layer.scale, zero=layer.zero)
        at = f.operator(
            "FULLY_CONNECTED", [at, weights, bias], y, ROWS_FULLY_CONNECTED,
            table="FullyConnectedOptions", FusedActivationFunction=RELU if layer.relu else NONE,
        )  # fmt: skip
        scale = np.float32(layer.scale)
    return f.finish({"x": first}, {"y": at})


def usual_bytes(widths: tuple[int, ...]) -> int:
    """Bytes of the file that the usual path, float to int8 after training, makes of a dense network
    of these widths: what `build_tflite` writes, whatever the weights."""
    return len(build_tflite(random_dense(widths)))
