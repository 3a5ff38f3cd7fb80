"""A dense int8 multilayer perceptron as TFLite bytes, and the integers it must give.

The file is what a converter writes for a post-training quantized network: int8 activations,
int8 weights with one scale per output channel, int32 biases, FULLY_CONNECTED with the ReLU
fused. `reference` computes the same integers in numpy (the requantization that XNNPACK's
`fp32` kernels use: float32 multiply, round half to even, clamp).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.bench.need import need

_SCHEMA_VERSION = 3
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


class _Writer:
    """Appends the parts of a TFLite model to a flatbuffer, children before parents."""

    def __init__(self) -> None:
        self.builder: Any = need("flatbuffers", "export").Builder(1 << 16)
        self.t: Any = need("tflite", "export")
        self.buffers: list[bytes] = [b""]  # TFLite wants the first buffer empty
        self.tensors: list[int] = []
        self.operators: list[int] = []

    def vector(self, offsets: list[int]) -> int:
        """A vector of tables."""
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def ints(self, *values: int) -> int:
        """A vector of int32."""
        return int(self.builder.CreateNumpyVector(np.asarray(values, np.int32)))

    def tensor(
        self,
        name: str,
        content: npt.NDArray[Any] | None,
        *,
        shape: tuple[int, ...],
        scale: npt.ArrayLike,
        zero: npt.ArrayLike = 0,
        kind: int | None = None,
    ) -> int:
        """Append a tensor, int8 unless `kind` says otherwise; returns its index.

        Constants have `content`. `scale` is a number, or one for each row of the tensor.
        """
        t, builder = self.t, self.builder
        buffer = 0
        if content is not None:
            self.buffers.append(np.ascontiguousarray(content).tobytes())
            buffer = len(self.buffers) - 1
        scales = np.atleast_1d(np.asarray(scale, np.float32))
        zeros = np.broadcast_to(np.asarray(zero, np.int64), scales.shape).copy()
        scale_at, zero_at = builder.CreateNumpyVector(scales), builder.CreateNumpyVector(zeros)
        t.QuantizationParametersStart(builder)
        t.QuantizationParametersAddScale(builder, scale_at)
        t.QuantizationParametersAddZeroPoint(builder, zero_at)
        t.QuantizationParametersAddQuantizedDimension(builder, 0)
        quantization_at = t.QuantizationParametersEnd(builder)
        name_at, shape_at = builder.CreateString(name), self.ints(*shape)
        t.TensorStart(builder)
        t.TensorAddShape(builder, shape_at)
        t.TensorAddType(builder, t.TensorType.INT8 if kind is None else kind)
        t.TensorAddBuffer(builder, buffer)
        t.TensorAddName(builder, name_at)
        t.TensorAddQuantization(builder, quantization_at)
        self.tensors.append(int(t.TensorEnd(builder)))
        return len(self.tensors) - 1

    def fully_connected(self, x: int, weights: int, bias: int, y: int, relu: bool) -> None:
        """Append an operator that reads and writes the tensors of these indices."""
        t, builder = self.t, self.builder
        activation = t.ActivationFunctionType.RELU if relu else t.ActivationFunctionType.NONE
        t.FullyConnectedOptionsStart(builder)
        t.FullyConnectedOptionsAddFusedActivationFunction(builder, activation)
        options_at = t.FullyConnectedOptionsEnd(builder)
        inputs_at, outputs_at = self.ints(x, weights, bias), self.ints(y)
        t.OperatorStart(builder)
        t.OperatorAddOpcodeIndex(builder, 0)
        t.OperatorAddInputs(builder, inputs_at)
        t.OperatorAddOutputs(builder, outputs_at)
        t.OperatorAddBuiltinOptionsType(builder, t.BuiltinOptions.FullyConnectedOptions)
        t.OperatorAddBuiltinOptions(builder, options_at)
        self.operators.append(int(t.OperatorEnd(builder)))

    def _subgraph(self, x: int, y: int) -> int:
        t, builder = self.t, self.builder
        tensors_at, operators_at = self.vector(self.tensors), self.vector(self.operators)
        inputs_at, outputs_at = self.ints(x), self.ints(y)
        t.SubGraphStart(builder)
        t.SubGraphAddTensors(builder, tensors_at)
        t.SubGraphAddInputs(builder, inputs_at)
        t.SubGraphAddOutputs(builder, outputs_at)
        t.SubGraphAddOperators(builder, operators_at)
        return int(t.SubGraphEnd(builder))

    def _signature(self, x: int, y: int) -> int:
        t, builder = self.t, self.builder
        maps = []
        for name, index in (("x", x), ("y", y)):
            name_at = builder.CreateString(name)
            t.TensorMapStart(builder)
            t.TensorMapAddName(builder, name_at)
            t.TensorMapAddTensorIndex(builder, index)
            maps.append(self.vector([int(t.TensorMapEnd(builder))]))
        key_at = builder.CreateString("serving_default")
        t.SignatureDefStart(builder)
        t.SignatureDefAddInputs(builder, maps[0])
        t.SignatureDefAddOutputs(builder, maps[1])
        t.SignatureDefAddSignatureKey(builder, key_at)
        return int(t.SignatureDefEnd(builder))

    def _operator_code(self) -> int:
        t, builder = self.t, self.builder
        code = t.BuiltinOperator.FULLY_CONNECTED
        t.OperatorCodeStart(builder)
        t.OperatorCodeAddDeprecatedBuiltinCode(builder, code)
        t.OperatorCodeAddBuiltinCode(builder, code)
        # Version 5 is the first that allows one weight scale per output channel.
        t.OperatorCodeAddVersion(builder, 5)
        return int(t.OperatorCodeEnd(builder))

    def _buffer(self, content: bytes) -> int:
        t, builder = self.t, self.builder
        data_at = 0
        if content:
            # CreateByteVector would align to 1 byte; the runtime wants weights at 16.
            builder.StartVector(1, len(content), 16)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data_at = builder.EndVector()
        t.BufferStart(builder)
        if content:
            t.BufferAddData(builder, data_at)
        return int(t.BufferEnd(builder))

    def finish(self, x: int, y: int) -> bytes:
        """The whole file; `x` and `y` are the indices of its input and output tensor."""
        t, builder = self.t, self.builder
        subgraphs_at = self.vector([self._subgraph(x, y)])
        signatures_at = self.vector([self._signature(x, y)])
        codes_at = self.vector([self._operator_code()])
        buffers_at = self.vector([self._buffer(content) for content in self.buffers])
        t.ModelStart(builder)
        t.ModelAddVersion(builder, _SCHEMA_VERSION)
        t.ModelAddOperatorCodes(builder, codes_at)
        t.ModelAddSubgraphs(builder, subgraphs_at)
        t.ModelAddBuffers(builder, buffers_at)
        t.ModelAddSignatureDefs(builder, signatures_at)
        builder.Finish(t.ModelEnd(builder), b"TFL3")
        return bytes(builder.Output())


def build_tflite(model: DenseModel) -> bytes:
    """The model as a TFLite flatbuffer with one signature, `serving_default` (`x` to `y`).

    Raises MissingExtraError when `tflite` or `flatbuffers` is not installed.
    """
    writer = _Writer()
    scale = np.float32(model.input_scale)
    first = at = writer.tensor(
        "x", None, shape=(1, model.inputs), scale=scale, zero=model.input_zero
    )
    for number, layer in enumerate(model.layers):
        outputs = len(layer.weights)
        weights = writer.tensor(
            f"weights{number}",
            layer.weights,
            shape=layer.weights.shape,
            scale=layer.weight_scale,
        )
        bias = writer.tensor(
            f"bias{number}",
            layer.bias.astype("<i4"),
            shape=(outputs,),
            scale=scale * layer.weight_scale,
            kind=writer.t.TensorType.INT32,
        )
        y = writer.tensor(
            f"y{number}", None, shape=(1, outputs), scale=layer.scale, zero=layer.zero
        )
        writer.fully_connected(at, weights, bias, y, layer.relu)
        at, scale = y, np.float32(layer.scale)
    return writer.finish(first, at)
