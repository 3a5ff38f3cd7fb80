"""A model as ONNX, in one of three forms.

- `sparse`: weights and block numbers as the file has them, rebuilt by standard operators when a
  session loads, which folds constants; then MatMulInteger, and the requantization in plain sight.
- `qoperator`: dense, with QLinearConv and QLinearMatMul.
- `qdq`: dense, with symmetric int8 QuantizeLinear and DequantizeLinear pairs, as TensorRT takes
  them. Its scales are found anew, so its integers are others.

The first two give the core's very integers on every processor. One that adds products of uint8 and
int8 in pairs of 16 bits would saturate, so weights take part as uint8 with zero point 128, which
onnxruntime widens before it multiplies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge import network as net
from zgedge.arena import Arena
from zgedge.errors import DataError, UsageError, ZgedgeError
from zgedge.export.check import Pair
from zgedge.export.naming import CODES, INPUT, LOGITS, input_shape, layer_name, trunk_name
from zgedge.export.onnx_graph import (
    Graph,
    add_softmax,
    code_input,
    flatten,
    scale_input,
    taps,
    window,
)
from zgedge.export.source import (
    Float32,
    check_inputs,
    dense_rows,
    mean_multiplier,
    named,
    need,
)
from zgedge.runtime import Model

FORMS = ("sparse", "qoperator", "qdq")
MOST_BYTES = 2_000_000_000  # of weights: a file stays below 2 GiB
_ZERO = 128  # zero point of weights as uint8
_ABOUT = {
    "sparse": "Integers identical to the zgedge core; sparse weights are rebuilt at load.",
    "qoperator": "Integers identical to the zgedge core; dense weights.",
    "qdq": "Symmetric int8 for TensorRT; recalibrated, so its integers are not the core's.",
}


def to_onnx(
    model: Model, form: str = "sparse", softmax: bool = False, samples: Any = None
) -> bytes:
    """The model as the bytes of an .onnx file.

    It takes raw values float32 `input` [batch, ...] and gives `logits` [batch, classes], int32
    (of `qdq` float32, in real units); with `softmax` also `probabilities` float32 and `label`
    int64, the class's number or -1 for unknown. `samples` [n, inputs] are what `qdq` finds its
    scales on; without them, those that the model remembers, and random ones.

    Raises UsageError for an unknown form, MissingExtraError without onnx (and, for `qdq`,
    onnxruntime), DataError for samples of a wrong shape, ZgedgeError where a dense form is too
    large for a file.
    """
    if form not in FORMS:
        raise UsageError(f"{form!r} is no form of ONNX.", f"There are {', '.join(FORMS)}.")
    model = named(model)
    _check_room(model.arena, form)
    if form == "qdq":
        if softmax:
            raise UsageError("The form qdq ends at the logits.", "Leave softmax out.")
        return _Pairs(model, samples).build()
    builder = _Sparse if form == "sparse" else _QOperator
    return builder(model.arena).build(form, softmax)


def _check_room(arena: Arena, form: str) -> None:
    """Raises ZgedgeError where the weights of a dense form are more than a file can hold."""
    size = {"sparse": 0, "qoperator": 1, "qdq": 4}[form]  # bytes of a weight, zeros included
    layers = arena.network.layers
    taken = [size * layer.inputs * layer.outputs for layer in layers]
    if sum(taken) > MOST_BYTES:
        i = taken.index(max(taken))
        raise ZgedgeError(
            f"{layer_name(arena, i)} of {layers[i].inputs:,} x {layers[i].outputs:,} takes "
            f"{taken[i]:,} bytes in the form {form}; an ONNX file holds {MOST_BYTES:,}.",
            "Take the form sparse.",
        )


class _Exact:
    """The core's arithmetic by standard operators; convolutions and layers are a form's own."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.network = arena.network
        self.g = Graph()

    def conv(self, i: int, q: str) -> str:
        """Trunk layer i, which has weights, of codes q: its codes, or, where it adds the input of
        another layer, what comes before that: whole numbers -128 .. 127, float32."""
        raise NotImplementedError

    def hidden(self, i: int, q: str) -> str:
        """Codes of layer i, which is not the last."""
        raise NotImplementedError

    def dense_weights(self, i: int) -> str:
        """Weights of layer i as uint8 [inputs, outputs] with zero point 128."""
        raise NotImplementedError

    def build(self, form: str, softmax: bool) -> bytes:
        g = self.g
        q = code_input(g, self.arena)
        incoming = []
        for i, layer in enumerate(self.network.trunk):
            incoming.append(q)
            name = trunk_name(self.arena, i)
            if layer.kind == net.MAX_POOL:
                q = g.node("MaxPool", f"{name}/{CODES}", q, **window(layer))
            elif layer.kind == net.MEAN_POOL:
                q = self.mean(i, q)
            elif layer.add is None:
                q = self.conv(i, q)
            else:
                other = g.cast(f"{name}/added", incoming[layer.add], np.float32)
                total = g.node("Add", f"{name}/total", self.conv(i, q), other)
                q = g.cast(f"{name}/{CODES}", g.clip(f"{name}/cut", total, 0, 255), np.uint8)
        if self.network.trunk:
            q = flatten(g, q)
        last = len(self.network.layers) - 1
        for i in range(last):
            q = self.hidden(i, q)
        self.sums(last, q, LOGITS)
        outputs = [(LOGITS, np.int32, [self.network.classes])]
        if softmax:
            outputs += add_softmax(g, self.arena)
        return g.finish(self.arena, outputs, form, _ABOUT[form])

    def mean(self, i: int, q: str) -> str:
        g, name = self.g, trunk_name(self.arena, i)
        total = g.node(
            "ReduceSum", f"{name}/sum", g.cast(f"{name}/wide", q, np.int32),
            g.constant("mean_pool/axes", [2, 3], np.int64), keepdims=1,
        )  # fmt: skip
        m = g.constant(f"{name}/multiplier", mean_multiplier(self.arena, i))
        return self.requantized(name, total, m)

    def sums(self, i: int, q: str, out: str) -> str:
        """int32 sums of layer i with the bias, into the tensor `out`."""
        g, name = self.g, layer_name(self.arena, i)
        products = g.node(
            "MatMulInteger", f"{name}/products", q, self.dense_weights(i),
            g.number(self.arena.scales[i][3], np.uint8), g.number(_ZERO, np.uint8),
        )  # fmt: skip
        return g.node("Add", out, products, g.constant(f"{name}/bias", self.arena.rows(i)[0]))

    def requantized(self, name: str, sums: str, multiplier: str) -> str:
        """Codes of int32 sums."""
        return self.g.cast(
            f"{name}/{CODES}", self.rounded(name, sums, multiplier, 0, 255), np.uint8
        )

    def rounded(self, name: str, sums: str, multiplier: str, low: int, high: int) -> str:
        """Sums times their multiplier, bounded and rounded to even: float32."""
        g = self.g
        real = g.node("Mul", f"{name}/scaled", g.cast(f"{name}/real", sums, np.float32), multiplier)
        return g.node("Round", f"{name}/rounded", g.clip(f"{name}/bounded", real, low, high))


class _Sparse(_Exact):
    def shifted(self, name: str, weights: str) -> str:
        """int8 weights as uint8 with zero point 128."""
        g = self.g
        wide = g.cast(f"{name}/weights_wide", weights, np.int32)
        moved = g.node("Add", f"{name}/weights_moved", wide, g.number(_ZERO, np.int32))
        return g.cast(f"{name}/weights_uint8", moved, np.uint8)

    def dense_weights(self, i: int) -> str:
        g, arena, name = self.g, self.arena, layer_name(self.arena, i)
        layer, indices = self.network.layers[i], self.arena.indices(i)
        if indices is None:
            rows = self.shifted(name, g.constant(f"{name}/weights", arena.weights(i)))
        else:
            blocks = (layer.outputs, layer.inputs // layer.block, layer.block)
            held = (layer.outputs, layer.per_row, layer.block)
            weights = g.constant(f"{name}/weights", arena.weights(i).reshape(held))
            place = g.constant(f"{name}/indices", indices[:, :, None])
            place = g.cast(f"{name}/places", place, np.int64)
            if layer.block > 1:
                shape = g.constant(f"{name}/held_shape", held, np.int64)
                place = g.node("Expand", f"{name}/places_in_block", place, shape)
            empty = g.node(
                "ConstantOfShape", f"{name}/no_weights",
                g.constant(f"{name}/blocks_shape", blocks, np.int64),
                value=g.helper.make_tensor("zero_point", g.types.UINT8, [1], [_ZERO]),
            )  # fmt: skip
            rows = g.node(
                "ScatterElements", f"{name}/weights_blocks", empty, place,
                self.shifted(name, weights), axis=1,
            )  # fmt: skip
            shape = g.constant(f"{name}/dense_shape", (layer.outputs, layer.inputs), np.int64)
            rows = g.node("Reshape", f"{name}/weights_dense", rows, shape)
        return g.node("Transpose", f"{name}/weights_inputs_first", rows)

    def hidden(self, i: int, q: str) -> str:
        name = layer_name(self.arena, i)
        m = self.g.constant(f"{name}/multiplier", self.arena.rows(i)[1])
        return self.requantized(name, self.sums(i, q, f"{name}/sums"), m)

    def conv(self, i: int, q: str) -> str:
        g, layer, name = self.g, self.network.trunk[i], trunk_name(self.arena, i)
        bias, multiplier = (row[:, None, None] for row in self.arena.trunk_rows(i))
        products = g.node(
            "ConvInteger", f"{name}/products", q,
            self.shifted(name, g.constant(f"{name}/weights", taps(self.arena, i))),
            g.number(0, np.uint8), g.number(_ZERO, np.uint8),
            group=layer.channels if layer.kind == net.DEPTHWISE else 1, **window(layer),
        )  # fmt: skip
        sums = g.node("Add", f"{name}/sums", products, g.constant(f"{name}/bias", bias))
        m = g.constant(f"{name}/multiplier", multiplier)
        if layer.add is None:
            return self.requantized(name, sums, m)
        return self.rounded(name, sums, m, -128, 127)


class _QOperator(_Exact):
    """Activations have scale 1, so that an operator multiplies by a layer's multiplier itself: a
    quotient of three real scales would round to a neighbour of it."""

    def dense_weights(self, i: int) -> str:
        return self.uint8(layer_name(self.arena, i), dense_rows(self.arena, i).T)

    def uint8(self, name: str, weights: npt.NDArray[np.int8]) -> str:
        return self.g.constant(f"{name}/weights", (weights.astype(np.int16) + _ZERO), np.uint8)

    def hidden(self, i: int, q: str) -> str:
        g, layer, name = self.g, self.network.layers[i], layer_name(self.arena, i)
        bias, multiplier = self.arena.rows(i)
        one, zero = g.number(1, np.float32), g.number(0, np.uint8)
        z = g.number(self.arena.scales[i][3], np.uint8)
        m = g.constant(f"{name}/multiplier", multiplier)
        zeros = g.constant(f"{name}/weights_zero", np.full(layer.outputs, _ZERO, np.uint8))
        if not bias.any():
            return g.node(
                "QLinearMatMul", f"{name}/{CODES}", q, one, z, self.dense_weights(i), m, zeros,
                one, zero,
            )  # fmt: skip
        # QLinearMatMul has no bias; a convolution of one place has.
        weights = self.uint8(name, dense_rows(self.arena, i)[:, :, None, None])
        places = g.constant("one_place/axes", [2, 3], np.int64)
        codes = g.node(
            "QLinearConv", f"{name}/codes_of_one_place",
            g.node("Unsqueeze", f"{name}/one_place", q, places), one, z, weights, m, zeros,
            one, zero, g.constant(f"{name}/bias", bias), kernel_shape=[1, 1],
        )  # fmt: skip
        return g.node("Squeeze", f"{name}/{CODES}", codes, places)

    def conv(self, i: int, q: str) -> str:
        g, layer, name = self.g, self.network.trunk[i], trunk_name(self.arena, i)
        bias, multiplier = self.arena.trunk_rows(i)
        one = g.number(1, np.float32)
        role, zero = (CODES, 0) if layer.add is None else ("apart", _ZERO)
        codes = g.node(
            "QLinearConv", f"{name}/{role}", q, one, g.number(0, np.uint8),
            self.uint8(name, taps(self.arena, i)), g.constant(f"{name}/multiplier", multiplier),
            g.constant(f"{name}/weights_zero", np.full(layer.channels, _ZERO, np.uint8)),
            one, g.number(zero, np.uint8), g.constant(f"{name}/bias", bias),
            group=layer.channels if layer.kind == net.DEPTHWISE else 1, **window(layer),
        )  # fmt: skip
        if layer.add is None:
            return codes
        wide = g.cast(f"{name}/apart_wide", codes, np.float32)
        return g.node("Sub", f"{name}/rounded", wide, g.number(_ZERO, np.float32))


class _Pairs:
    """Real numbers between pairs of QuantizeLinear and DequantizeLinear, int8 with zero point 0."""

    def __init__(self, model: Model, samples: Any) -> None:
        self.arena = model.arena
        self.network = model.arena.network
        self.largest = _largest_codes(model, samples)
        self.g = Graph()

    def pair(self, name: str, x: str, scale: Any, axis: int | None = None) -> str:
        """x rounded to int8 and back; scales are one, or one for each place of an axis."""
        g = self.g
        scale = np.asarray(scale, np.float32)
        step = g.constant(f"{name}_scale", scale)
        zero = (
            g.number(0, np.int8)
            if axis is None
            else g.constant(f"{name}_zero", np.zeros(scale.shape, np.int8))
        )
        along = {} if axis is None else {"axis": axis}
        coded = g.node("QuantizeLinear", f"{name}_int8", x, step, zero, **along)
        return g.node("DequantizeLinear", f"{name}_real", coded, step, zero, **along)

    def activations(self, name: str, x: str, step: float) -> str:
        """x as int8, whose largest number is the largest code that was seen, of this step."""
        return self.pair(f"{name}/{CODES}", x, self.largest[f"{name}/{CODES}"] * step / 127)

    def weights(self, name: str, weights: npt.NDArray[Any], steps: Float32, axis: int) -> str:
        """Real weights, whose int8 numbers are the file's."""
        along = [1] * weights.ndim
        along[axis] = -1
        real = weights.astype(np.float32) * steps.reshape(along)
        return self.pair(f"{name}/weights", self.g.constant(f"{name}/weights", real), steps, axis)

    def build(self) -> bytes:
        g = self.g
        s_in = self.arena.trunk_scales[0][0] if self.network.trunk else self.arena.scales[0][0]
        x = self.activations("input", scale_input(g, self.arena, s_in), s_in)
        incoming = []
        for i in range(len(self.network.trunk)):
            incoming.append(x)
            x = self.trunk(i, x, incoming)
        if self.network.trunk:
            x = flatten(g, x)
        for i in range(len(self.network.layers)):
            x = self.layer(i, x)
        outputs = [(LOGITS, np.float32, [self.network.classes])]
        return g.finish(self.arena, outputs, "qdq", _ABOUT["qdq"])

    def trunk(self, i: int, x: str, incoming: list[str]) -> str:
        g, layer, name = self.g, self.network.trunk[i], trunk_name(self.arena, i)
        s_in, s_out = self.arena.trunk_scales[i]
        if layer.kind == net.MAX_POOL:
            x = g.node("MaxPool", f"{name}/largest", x, **window(layer))
        elif layer.kind == net.MEAN_POOL:
            x = g.node("GlobalAveragePool", f"{name}/mean", x)
        else:
            bias, multiplier = self.arena.trunk_rows(i)
            steps = _steps(multiplier, s_in, s_out)
            x = g.node(
                "Conv", f"{name}/sums", x, self.weights(name, taps(self.arena, i), steps, 0),
                g.constant(f"{name}/bias", _real_bias(bias, steps, s_in)),
                group=layer.channels if layer.kind == net.DEPTHWISE else 1, **window(layer),
            )  # fmt: skip
            if layer.add is not None:
                # One step of the sum, so that what is added is cut off where the core does it.
                x = self.pair(f"{name}/apart", x, s_out)
                x = g.node("Add", f"{name}/total", x, incoming[layer.add])
            x = g.node("Relu", f"{name}/relu", x)
        return self.activations(name, x, s_out)

    def layer(self, i: int, x: str) -> str:
        g, name = self.g, layer_name(self.arena, i)
        s_in, s_w, s_out, _ = self.arena.scales[i]
        bias, multiplier = self.arena.rows(i)
        last = i + 1 == len(self.network.layers)
        steps = np.full(len(bias), s_w, np.float32) if last else _steps(multiplier, s_in, s_out)
        weights = self.weights(name, dense_rows(self.arena, i).T, steps, 1)
        x = g.node("MatMul", f"{name}/products", x, weights)
        real_bias = g.constant(f"{name}/bias", _real_bias(bias, steps, s_in))
        x = g.node("Add", LOGITS if last else f"{name}/sums", x, real_bias)
        if last:
            return x
        return self.activations(name, g.node("Relu", f"{name}/relu", x), s_out)


def _steps(multiplier: Float32, s_in: float, s_out: float) -> Float32:
    """Real value of one step of the weights of each row."""
    return (multiplier.astype(np.float64) * s_out / s_in).astype(np.float32)


def _real_bias(bias: npt.NDArray[np.int32], steps: Float32, s_in: float) -> Float32:
    return (bias * (steps.astype(np.float64) * s_in)).astype(np.float32)


def _largest_codes(model: Model, samples: Any) -> dict[str, int]:
    """Largest activation of each layer, and how far the input gets from its zero point, by the name
    of the tensor; on samples, or on what a check takes."""
    onnx = need("onnx")
    if samples is None:
        parts = [x for name, x in check_inputs(model) if name != "extreme"]
    else:
        parts = [np.asarray(model.rows(samples), np.float32)]
        if not len(parts[0]):
            raise DataError("There are no samples to find scales on.")
    graph = onnx.load_model_from_string(_Sparse(model.arena).build("sparse", softmax=False))
    names = [node.name for node in graph.graph.node if node.name.endswith(f"/{CODES}")]
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    run = _session(graph.SerializeToString(), model.arena)
    zero = model.arena.scales[0][3] if not model.arena.network.trunk else 0
    largest = dict.fromkeys(names, 1)
    for x in parts:
        for name, codes in zip(names, run(x, names), strict=True):
            away = codes.astype(np.int64) - (zero if name == f"input/{CODES}" else 0)
            largest[name] = max(largest[name], int(np.abs(away).max(initial=0)))
    return largest


def _session(data: bytes, arena: Arena) -> Callable[[Float32, list[str]], list[Any]]:
    """A function of raw samples [n, inputs] and names of outputs that gives the outputs."""
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    shape = input_shape(arena)

    def run(x: Float32, names: list[str]) -> list[Any]:
        found: list[Any] = session.run(names, {INPUT: x.reshape(len(x), *shape)})
        return found

    return run


def pair(model: Model, export: bytes) -> Pair:
    """For `zgedge.export.check`: integer logits; those of `qdq` in steps of the core's."""
    run = _session(export, model.arena)
    s_in, s_w, _, _ = model.arena.scales[-1]

    def both(x: Float32) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        (theirs,) = run(x, [LOGITS])
        if theirs.dtype != np.int32:
            theirs = np.rint(theirs.astype(np.float64) / (s_in * s_w)).astype(np.int64)
        return model.logits(x), theirs

    return both
