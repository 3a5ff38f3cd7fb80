"""A model as TFLite: int8 operators for LiteRT, Android and TFLite Micro.

Codes are int8 with zero point -128, which are the core's uint8 codes less 128. Every activation
counts in its own steps: its scale is 1, and the scale of a weight is the core's multiplier. So the
float32 product of scales by which XNNPACK requantizes is that multiplier to the last bit. Real
scales are in the metadata.

The head is computed in float32 on whole numbers whose sums stay below 2^24, where float32 is exact
in any order: the logits are the core's own, in every runtime that gives the core's codes before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import zgedge
from zgedge import network as net
from zgedge.arena import Arena
from zgedge.errors import UsageError, ZgedgeError
from zgedge.export import tflite_metadata
from zgedge.export.check import Pair
from zgedge.export.naming import (
    CODES,
    INPUT,
    LOGITS,
    PROBABILITIES,
    input_shape,
    layer_name,
    trunk_name,
)
from zgedge.export.source import (
    Float32,
    InputCoding,
    dense_rows,
    input_coding,
    mean_multiplier,
    metadata,
    named,
    need,
)
from zgedge.export.tflite_file import (
    INT8_FULLY_CONNECTED,
    NONE,
    RELU,
    ROWS_FULLY_CONNECTED,
    SPARSE_FULLY_CONNECTED,
    Blocks,
    TfliteFile,
)
from zgedge.network import TrunkLayer
from zgedge.runtime import Model

FORMS = ("dense", "sparse")
INPUTS = ("float32", "uint8", "int8")
# All that an export may have; TFLite Micro has each of them.
OPERATORS = (
    "ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "DEQUANTIZE", "FULLY_CONNECTED", "MAXIMUM",
    "MAX_POOL_2D", "MINIMUM", "MUL", "QUANTIZE", "ROUND", "SOFTMAX", "SUB",
)  # fmt: skip
BLOCK = 16  # of LiteRT's sparse kernel for int8
_ZERO = -128  # zero point of codes
_EXACT = 1 << 24  # float32 holds every whole number up to here
# A multiplier beyond these gives what the bound gives: 255 cuts off every sum but 0, and half of
# 2^-31 rounds every sum to 0. XNNPACK takes none outside 2^-32 .. 256.
_LEAST, _MOST = np.float32(2.0**-32), np.float32(255)
# Versions of the other operators, the first that take the types used here.
_INT8_CONV, _INT8_POOL, _INT8_ADD, _INT8_DEQUANTIZE, _UINT8_QUANTIZE = 3, 2, 2, 2, 2
_SAME, _VALID = 0, 1
_INPUT_TEXTS = {
    "float32": "Raw values, as the training data had them.",
    "uint8": "Raw values, as the training data had them.",
    "int8": "Codes of raw values, less 128.",
}
_OUTPUT_TEXTS = {
    LOGITS: "Integer logits; the step is logit_scale in the metadata.",
    PROBABILITIES: "Softmax of the logits.",
}


def to_tflite(
    model: Model, form: str = "dense", softmax: bool = False, *, input_type: str | None = None
) -> bytes:
    """The model as the bytes of a .tflite file.

    Its signature `serving_default` takes `input` [1, ...], which may be resized to more samples,
    and gives `logits` float32 [1, classes]: the core's integers. With `softmax` it gives
    `probabilities` float32 as well, which are the first output then.

    `form` is `dense`, or `sparse`: layers whose connections lie in few enough blocks of 16
    neighbouring inputs keep only those, in TFLite's own sparse encoding.

    `input_type`: `float32` are raw values, coded in the graph by the core's own operations;
    `uint8` are raw values that are codes as they come, as pixels in 0..255 are; `int8` are codes
    less 128. None is `uint8` where that can be, else `float32`.

    Raises UsageError for an unknown form or input type, and one that the model cannot have,
    ZgedgeError where the format cannot hold the model, MissingExtraError without tflite and
    flatbuffers.
    """
    if form not in FORMS:
        raise UsageError(f"{form!r} is no form of TFLite.", f"There are {', '.join(FORMS)}.")
    model = named(model)
    kind = _input_type(input_coding(model.arena), input_type)
    return _Export(model.arena, form == "sparse", kind).build(softmax)


def _input_type(coding: InputCoding, wanted: str | None) -> str:
    """The type of the input, or UsageError where the model cannot have the one wanted."""
    plain = bool(coding.zero == 0 and (coding.scale == 1).all() and (coding.center == 0).all())
    if wanted is None:
        return "uint8" if plain else "float32"
    if wanted not in INPUTS:
        raise UsageError(f"{wanted!r} is no type of an input.", f"There are {', '.join(INPUTS)}.")
    if wanted == "uint8" and not plain:
        raise UsageError(
            "The raw values of this model are no codes, so its input cannot be uint8.",
            "Take float32 for raw values, or int8 for codes less 128.",
        )
    return wanted


class _Export:
    def __init__(self, arena: Arena, sparse: bool, input_type: str) -> None:
        self.arena = arena
        self.network = arena.network
        self.input_type = input_type
        self.f = TfliteFile()
        self.blocks = sparse_blocks(arena) if sparse else {}

    def build(self, softmax: bool) -> bytes:
        arena, f = self.arena, self.f
        given, q = self.coded()
        incoming = []
        for i, layer in enumerate(self.network.trunk):
            incoming.append(q)
            q = self.trunk(i, layer, q, incoming)
        last = len(self.network.layers) - 1
        for i in range(last):
            q = self.hidden(i, q)
        logits = self.head(last, q)
        outputs = {LOGITS: logits}
        if softmax:
            outputs = {PROBABILITIES: self.softmax(logits), LOGITS: logits}
        facts = {**metadata(arena), "form": "sparse" if self.blocks else "dense"}
        entries = {name: text.encode() for name, text in facts.items()}
        entries[tflite_metadata.ENTRY] = self.about(list(outputs))
        model = f.finish(
            {INPUT: given},
            outputs,
            description=f"zgedge {zgedge.__version__}",
            metadata=entries,
        )
        return tflite_metadata.with_labels(model, arena.class_names)

    def about(self, outputs: list[str]) -> bytes:
        """The metadata that Android's tools read."""
        arena, coding = self.arena, input_coding(self.arena)
        shape = input_shape(arena)
        # Raw values are normalized in the graph; codes, where one scale serves all, before it.
        mean, std = 0.0, 1.0
        if self.input_type == "int8":
            mean, std = float(coding.center[0]), float(1 / coding.scale[0])
        given = tflite_metadata.About(
            INPUT,
            _INPUT_TEXTS[self.input_type],
            shape if arena.network.task == "picture" and len(shape) == 3 else None,
            mean if len(coding.scale) == 1 else None,
            std,
        )
        made = [
            tflite_metadata.About(name, _OUTPUT_TEXTS[name], labels=tflite_metadata.LABELS)
            for name in outputs
        ]
        return tflite_metadata.entry(
            "zgedge", f"A classifier of {arena.network.classes} classes in int8.",
            zgedge.__version__, [given], made,
        )  # fmt: skip

    def codes(self, name: str, *shape: int, zero: int = _ZERO) -> int:
        """A tensor of activations, of one sample."""
        return self.f.tensor(name, (1, *shape), scale=1.0, zero=zero, batch=True)

    def floats(self, name: str, *shape: int) -> int:
        return self.f.tensor(name, (1, *shape), "FLOAT32", batch=True)

    def constant(self, name: str, value: npt.ArrayLike) -> int:
        content = np.asarray(value, np.float32)
        return self.f.tensor(name, content.shape, "FLOAT32", content)

    def coded(self) -> tuple[int, int]:
        """The input, and the first layer's codes."""
        f, coding, shape = self.f, input_coding(self.arena), input_shape(self.arena)
        zero = coding.zero + _ZERO
        if self.input_type == "int8":
            q = self.codes(INPUT, *shape, zero=zero)
            return q, q
        q = self.codes(f"{INPUT}/{CODES}", *shape, zero=zero)
        if self.input_type == "uint8":
            given = f.tensor(INPUT, (1, *shape), "UINT8", scale=1.0, zero=0, batch=True)
            return given, f.operator(
                "QUANTIZE", [given], q, _UINT8_QUANTIZE, table="QuantizeOptions"
            )
        given = x = self.floats(INPUT, *shape)

        def step(code: str, role: str, value: npt.ArrayLike | None = None, **options: Any) -> int:
            name = f"{INPUT}/{role}"
            operands = [x] if value is None else [x, self.constant(f"{name}_by", value)]
            return f.operator(code, operands, self.floats(name, *shape), **options)

        def along(values: Float32) -> Float32:
            return values if len(values) == 1 else values.reshape(shape)

        if coding.center.any():
            x = step("SUB", "centered", along(coding.center), table="SubOptions")
        if (coding.scale != 1).any():
            x = step("MUL", "scaled", along(coding.scale), table="MulOptions")
        # Bounded as the core does, and before a runtime casts: what int32 cannot hold is undefined.
        x = step("MAXIMUM", "at_least", [-512], table="MaximumMinimumOptions")
        x = step("MINIMUM", "at_most", [512], table="MaximumMinimumOptions")
        # QUANTIZE alone rounds halves up in some runtimes, ROUND to even in all.
        x = step("ROUND", "rounded")
        return given, f.operator("QUANTIZE", [x], q, table="QuantizeOptions")

    def trunk(self, i: int, layer: TrunkLayer, q: int, incoming: list[int]) -> int:
        """Codes of trunk layer i, of codes q; `incoming` are those of the layers up to it."""
        f, name, shape = self.f, trunk_name(self.arena, i), layer.out_shape
        window = {
            "Padding": _SAME if layer.same else _VALID,
            "StrideH": layer.stride,
            "StrideW": layer.stride,
        }
        if layer.kind == net.MAX_POOL:
            sides = {"FilterHeight": layer.kernel, "FilterWidth": layer.kernel}
            return f.operator(
                "MAX_POOL_2D", [q], self.codes(f"{name}/{CODES}", *shape), _INT8_POOL,
                table="Pool2DOptions", **window, **sides,
            )  # fmt: skip
        if layer.kind == net.MEAN_POOL:
            ones = np.ones((1, *layer.shape), np.int8)
            multiplier = np.full(layer.channels, mean_multiplier(self.arena, i))
            bias = np.zeros(layer.channels, np.int32)
            out = self.codes(f"{name}/{CODES}", *shape)
            return self.depthwise(name, q, ones, bias, multiplier, out, Padding=_VALID)
        weights = self.arena.trunk_weights(i)
        assert weights is not None
        bias, multiplier = self.arena.trunk_rows(i)
        added = layer.add is not None
        # What is added to is not a code yet: -128 .. 127 around 0.
        out = self.codes(
            f"{name}/{'rounded' if added else CODES}", *shape, zero=0 if added else _ZERO
        )
        relu = NONE if added else RELU
        if layer.kind == net.DEPTHWISE:
            q = self.depthwise(name, q, weights[None], bias, multiplier, out, relu, **window)
        else:
            floor = _ZERO if added else 0
            operands = [q, *self.weighted(name, weights, bias, multiplier, floor=floor)]
            q = f.operator(
                "CONV_2D", operands, out, _INT8_CONV, table="Conv2DOptions",
                FusedActivationFunction=relu, DilationHFactor=1, DilationWFactor=1, **window,
            )  # fmt: skip
        if layer.add is None:
            return q
        return f.operator(
            "ADD", [q, incoming[layer.add]], self.codes(f"{name}/{CODES}", *shape), _INT8_ADD,
            table="AddOptions", FusedActivationFunction=RELU,
        )  # fmt: skip

    def depthwise(
        self,
        name: str,
        q: int,
        weights: npt.NDArray[np.int8],
        bias: npt.NDArray[np.int32],
        multiplier: Float32,
        out: int,
        relu: int = RELU,
        **window: int,
    ) -> int:
        """weights [1, rows, columns, channels]"""
        options = {"StrideH": 1, "StrideW": 1, "DepthMultiplier": 1, **window}
        floor = 0 if relu else _ZERO
        operands = self.weighted(name, weights, bias, multiplier, axis=3, floor=floor)
        return self.f.operator(
            "DEPTHWISE_CONV_2D", [q, *operands], out, _INT8_CONV, table="DepthwiseConv2DOptions",
            FusedActivationFunction=relu, DilationHFactor=1, DilationWFactor=1, **options,
        )  # fmt: skip

    def weighted(
        self,
        name: str,
        weights: npt.NDArray[np.int8] | Blocks,
        bias: npt.NDArray[np.int32],
        multiplier: Float32,
        axis: int = 0,
        shape: tuple[int, ...] | None = None,
        floor: int = 0,
    ) -> list[int]:
        """Weights and bias as constants, with one scale for each output of `axis`, or one where all
        are equal and the operator is a layer of rows. What is rounded and lies below `floor` gives
        the least code."""
        f, scale = self.f, np.clip(multiplier, _LEAST, _MOST)
        if not isinstance(weights, Blocks):
            bias, scale = _raised(np.moveaxis(weights, axis, 0), bias, scale, floor)
        if shape is not None and (scale == scale[0]).all():
            scale = scale[:1]
        dense = weights.shape if not isinstance(weights, Blocks) else shape
        assert dense is not None
        return [
            f.tensor(f"{name}/weights", dense, "INT8", weights, scale=scale, axis=axis),
            f.tensor(f"{name}/bias", bias.shape, "INT32", bias, scale=scale),
        ]

    def hidden(self, i: int, q: int) -> int:
        """Codes of layer i, which is not the last."""
        layer, name = self.network.layers[i], layer_name(self.arena, i)
        bias, multiplier = self.arena.rows(i)
        blocks = self.blocks.get(i)
        weights = dense_rows(self.arena, i) if blocks is None else blocks
        shape = (layer.outputs, layer.inputs)
        operands = self.weighted(name, weights, bias, multiplier, shape=shape)
        version = INT8_FULLY_CONNECTED if blocks is None else SPARSE_FULLY_CONNECTED
        if (multiplier != multiplier[0]).any():
            version = ROWS_FULLY_CONNECTED
        return self.f.operator(
            "FULLY_CONNECTED", [q, *operands], self.codes(f"{name}/{CODES}", layer.outputs),
            version, table="FullyConnectedOptions", FusedActivationFunction=RELU,
        )  # fmt: skip

    def head(self, i: int, q: int) -> int:
        """The logits, whole numbers in float32, of codes q."""
        f, layer, name = self.f, self.network.layers[i], layer_name(self.arena, i)
        weights, bias = dense_rows(self.arena, i), self.arena.rows(i)[0]
        _check_exact(weights, bias, self.arena.scales[i][3], layer.width)
        shape: tuple[int, ...] = (layer.inputs,)
        if i == 0:
            trunk = self.network.trunk
            shape = trunk[-1].out_shape if trunk else input_shape(self.arena)
        real = f.operator(
            "DEQUANTIZE", [q], self.floats(f"{name}/steps", *shape), _INT8_DEQUANTIZE,
            table="DequantizeOptions",
        )  # fmt: skip
        stored = f.tensor(f"{name}/weights", weights.shape, "INT8", weights, scale=1.0)
        wide = f.operator(
            "DEQUANTIZE", [stored], f.tensor(f"{name}/weights_real", weights.shape, "FLOAT32"),
            _INT8_DEQUANTIZE, table="DequantizeOptions",
        )  # fmt: skip
        return f.operator(
            "FULLY_CONNECTED", [real, wide, self.constant(f"{name}/bias", bias)],
            self.floats(LOGITS, layer.outputs), table="FullyConnectedOptions",
        )  # fmt: skip

    def softmax(self, logits: int) -> int:
        f, classes = self.f, self.network.classes
        s_in, s_w, _, _ = self.arena.scales[-1]
        step = self.constant("softmax/step", [np.float32(s_in) * np.float32(s_w)])
        real = f.operator(
            "MUL", [logits, step], self.floats("softmax/scaled", classes), table="MulOptions"
        )
        return f.operator(
            "SOFTMAX", [real], self.floats(PROBABILITIES, classes), table="SoftmaxOptions", Beta=1.0
        )


def _raised(
    weights: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], scale: Float32, floor: int
) -> tuple[npt.NDArray[np.int32], Float32]:
    """Bias and scale [outputs] that give the same codes, of weights [outputs, ...].

    XNNPACK's kernels for VNNI add the zero point to a rounded product in 32 bits: one below -2^31
    comes out as the largest code. A sum that lies so low for all inputs is raised to one that
    still gives the least code for all of them. One that does so for some has a multiplier that
    nothing but the least and the largest code comes of; it is left to the check.
    """
    rows = 255 * weights.reshape(len(bias), -1).astype(np.int64)
    low = bias + np.minimum(rows, 0).sum(axis=1)
    high = bias + np.maximum(rows, 0).sum(axis=1)
    real = scale.astype(np.float64)
    top = floor - (floor < 0)
    always = (low * real < 256 - 2.0**31) & (high * real <= top)
    raised = np.where(always, bias + (top - high), bias).astype(np.int32)
    return raised, np.where(always, np.float32(1), scale)


def _check_exact(
    weights: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], zero: int, width: int
) -> None:
    """Raise ZgedgeError where sums of the head, in whatever order, may leave float32's integers."""
    low, high = -zero, 255 - zero
    wide = weights.astype(np.int64)
    ends = np.stack([wide * low, wide * high, np.zeros_like(wide)])
    most = ends.max(0).sum(1) + np.maximum(bias, 0)
    least = ends.min(0).sum(1) + np.minimum(bias, 0)
    row = int(np.maximum(most, -least).argmax())
    # What the core gives a class without a sample, so that it is never the answer.
    if not weights[row].any() and bias[row] == -(2**31 - 1 - width * 255 * 127):
        raise ZgedgeError(
            f"The head cannot be written as TFLite: class {row} has had no sample yet, and float32 "
            "does not hold what stands for that.",
            "Let the model learn a sample of each class that has a name, or export to ONNX or C.",
        )
    if max(most[row], -least[row]) > _EXACT:
        raise ZgedgeError(
            f"The head cannot be written as TFLite: sums of its row {row} may reach "
            f"{max(most[row], -least[row]):,}, and float32 is exact up to {_EXACT:,}.",
            "Choose a network with fewer connections in its last layer, or export to ONNX or C.",
        )


def sparse_blocks(arena: Arena) -> dict[int, Blocks]:
    """The layers that are smaller in TFLite's sparse encoding, by number: the blocks of 16 inputs
    that hold a weight. Raises ZgedgeError where there is none, with each layer's reason.
    """
    found, reasons = {}, []
    for i, layer in enumerate(arena.network.layers[:-1]):
        name = layer_name(arena, i)
        if layer.inputs % BLOCK:
            reasons.append(f"{name} has {layer.inputs} inputs, no multiple of {BLOCK}")
            continue
        dense = dense_rows(arena, i)
        rows = dense.reshape(layer.outputs, -1, BLOCK)
        held = rows.any(axis=2)
        starts = np.concatenate([[0], held.sum(axis=1).cumsum()])
        places = np.nonzero(held)[1]
        width = 1 if rows.shape[1] <= 256 else 2
        size = places.size * (BLOCK + width) + 4 * starts.size
        if not places.size:  # a constant without bytes would be none
            reasons.append(f"{name} holds no weight")
            continue
        if size >= dense.size:
            reasons.append(f"{name} would take {size:,} bytes, dense {dense.size:,}")
            continue
        found[i] = Blocks(rows[held], starts, places)
    if not found:
        raise ZgedgeError(
            f"No layer is smaller in TFLite's sparse encoding of blocks of {BLOCK}: "
            f"{'; '.join(reasons) or 'there is none but the head, which stays dense'}.",
            "Take the form dense.",
        )
    return found


def runner(
    model: Model, export: bytes, kernels: str = "xnnpack"
) -> Callable[[Float32], npt.NDArray[np.int64]]:
    """A function of raw samples float32 [n, inputs] that gives the export's logits [n, classes],
    run in LiteRT one sample at a time.

    `kernels`: `xnnpack` is what LiteRT takes by itself, `optimized` and `reference` are its own.
    """
    interpreter = open_in_litert(export, kernels)
    given = interpreter.get_input_details()[0]
    feed = feeder(model.arena, given["dtype"], tuple(given["shape"][1:]))
    logits = interpreter.get_signature_runner().get_output_details()[LOGITS]["index"]

    def run(x: Float32) -> npt.NDArray[np.int64]:
        rows = feed(x)
        out = np.empty((len(x), len(model.classes)), np.float32)
        for i in range(len(rows)):
            interpreter.set_tensor(given["index"], rows[i : i + 1])
            interpreter.invoke()
            out[i] = interpreter.get_tensor(logits)[0]
        return out.astype(np.int64)

    return run


def open_in_litert(export: bytes, kernels: str = "xnnpack") -> Any:
    """LiteRT's interpreter of an export, with memory allocated, on one thread.

    Raises ZgedgeError where it does not take the file, MissingExtraError where it is not installed.
    """
    litert = need("ai_edge_litert.interpreter")
    kinds = litert.OpResolverType
    resolver = {
        "xnnpack": kinds.AUTO,
        "optimized": kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "reference": kinds.BUILTIN_REF,
    }[kernels]
    try:
        interpreter = litert.Interpreter(
            model_content=export, num_threads=1, experimental_op_resolver_type=resolver
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ZgedgeError(
            f"LiteRT does not take the export: {' '.join(str(error).split())}",
            "It may be older than those that zgedge[export] names.",
        ) from error
    return interpreter


def feeder(
    arena: Arena, dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> Callable[[Float32], npt.NDArray[Any]]:
    """A function of raw samples [n, inputs] that gives what an export's input of this type and
    shape of a sample takes."""
    coding, kind = input_coding(arena), np.dtype(dtype)

    def feed(x: Float32) -> npt.NDArray[Any]:
        rows: npt.NDArray[Any] = np.asarray(x, np.float32)
        if kind != np.float32:
            rows = coding.codes(rows)
        if kind == np.int8:
            rows = (rows ^ 0x80).view(np.int8)
        return rows.reshape(len(rows), *shape)

    return feed


def pair(model: Model, export: bytes) -> Pair:
    """For `zgedge.export.check`: integer logits, the export's as LiteRT runs it by default."""
    run = runner(model, export)

    def both(x: Float32) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return model.logits(x), run(x)

    return both
