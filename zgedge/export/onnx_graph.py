"""An ONNX graph under construction, and the parts that every form of the export has.

Opset 13 and IR version 7 are old on purpose: every onnxruntime since 1.6 reads them, and so do the
TensorRT versions of a Jetson. A node, and the tensor that it makes, is called `layer/role`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import zgedge
from zgedge import network as net
from zgedge.arena import Arena
from zgedge.export.naming import CODES, INPUT, LOGITS, PROBABILITIES, input_shape
from zgedge.export.source import exponentials, input_coding, metadata, need
from zgedge.network import TrunkLayer

OPSET = 13
IR_VERSION = 7
LABEL = "label"
SHARES = 32768  # of a softmax


class Graph:
    """Nodes and constants in the order in which they are added; each constant once."""

    def __init__(self) -> None:
        onnx = need("onnx")
        self.types: Any = onnx.TensorProto
        self.helper: Any = onnx.helper
        self._from_array: Any = onnx.numpy_helper.from_array
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def constant(self, name: str, value: Any, kind: Any = None) -> str:
        """A constant tensor of this name; `kind` is a numpy type. Returns the name."""
        array = np.asarray(value, kind)
        if name not in self.constants:
            array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"))).reshape(
                array.shape
            )
            self.constants[name] = self._from_array(array, name)
        return name

    def number(self, value: float, kind: Any) -> str:
        """A scalar constant, named by its value."""
        return self.constant(f"{np.dtype(kind).name}/{value:g}", value, kind)

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output, which has its name. Returns the name."""
        self.nodes.append(self.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def kind(self, kind: Any) -> int:
        """ONNX's number of a numpy type."""
        return int(self.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def cast(self, name: str, x: str, kind: Any) -> str:
        return self.node("Cast", name, x, to=self.kind(kind))

    def clip(self, name: str, x: str, low: float, high: float, kind: Any = np.float32) -> str:
        return self.node("Clip", name, x, self.number(low, kind), self.number(high, kind))

    def finish(
        self, arena: Arena, outputs: list[tuple[str, Any, list[Any]]], form: str, about: str
    ) -> bytes:
        """The model's bytes. `outputs` are names, numpy types and shapes."""
        value = self.helper.make_tensor_value_info
        given = value(INPUT, self.kind(np.float32), ["batch", *input_shape(arena)])
        made = [value(name, self.kind(kind), ["batch", *shape]) for name, kind, shape in outputs]
        graph = self.helper.make_graph(
            self.nodes, "zgedge", [given], made, list(self.constants.values())
        )
        whole = self.helper.make_model(
            graph,
            opset_imports=[self.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="zgedge",
            producer_version=zgedge.__version__,
            doc_string=about,
        )
        self.helper.set_model_props(whole, {**metadata(arena), "form": form})
        data: bytes = whole.SerializeToString(deterministic=True)
        return data


def window(layer: TrunkLayer) -> dict[str, list[int]]:
    """Attributes of a convolution or a max pool: window, stride, and rows and columns around."""
    top, left = layer.padding
    height, width, _ = layer.shape
    out_height, out_width, _ = layer.out_shape
    # What the last window reaches beyond the picture; a stride may also leave rows unseen.
    bottom = max(0, (out_height - 1) * layer.stride + layer.kernel - height - top)
    right = max(0, (out_width - 1) * layer.stride + layer.kernel - width - left)
    return {
        "kernel_shape": [layer.kernel, layer.kernel],
        "strides": [layer.stride, layer.stride],
        "pads": [top, left, bottom, right],
    }


def taps(arena: Arena, i: int) -> npt.NDArray[np.int8]:
    """Weights of trunk layer i in ONNX's order [channels, incoming of a group, rows, columns]."""
    weights = arena.trunk_weights(i)
    assert weights is not None
    if arena.network.trunk[i].kind == net.CONV:
        return weights.transpose(0, 3, 1, 2)
    return weights.transpose(2, 0, 1)[:, None]


def scale_input(g: Graph, arena: Arena, step: float = 1.0) -> str:
    """Nodes from raw values to (x - center) * scale * step; with a trunk [batch, channels, height,
    width], else [batch, features]."""
    coding = input_coding(arena)
    x = INPUT
    if arena.network.trunk:
        x = g.node("Transpose", "input/channels_first", x, perm=[0, 3, 1, 2])
    elif len(input_shape(arena)) > 1:
        x = g.node("Flatten", "input/flat", x, axis=1)
    x = g.node("Sub", "input/centered", x, g.constant("input/center", coding.center))
    scale = coding.scale * np.float32(step)
    return g.node("Mul", "input/scaled", x, g.constant("input/scale", scale))


def code_input(g: Graph, arena: Arena) -> str:
    """Nodes from raw values to the first layer's codes, uint8."""
    x = g.clip("input/bounded", scale_input(g, arena), -512, 512)
    x = g.node("Round", "input/rounded", x)
    if zero := input_coding(arena).zero:
        x = g.node("Add", "input/shifted", x, g.number(zero, np.float32))
    return g.cast(f"input/{CODES}", g.clip("input/steps", x, 0, 255), np.uint8)


def flatten(g: Graph, x: str) -> str:
    """What a trunk gives, [batch, channels, height, width], as features [height][width][channels].
    """  # fmt: skip
    return g.node("Flatten", "features", g.node(
        "Transpose", "features/channels_last", x, perm=[0, 2, 3, 1]), axis=1)  # fmt: skip


def add_softmax(g: Graph, arena: Arena) -> list[tuple[str, Any, list[Any]]]:
    """Nodes from the logits to probabilities and the class, by the core's integers: the shares of
    32,768 that it gives, and the class number, -1 where the model says "unknown". Returns them as
    outputs.
    """
    s_in, s_w, _, _ = arena.scales[-1]
    step = np.float32(np.float32(16) * np.float32(s_in)) * np.float32(s_w)
    axis = g.constant("softmax/axis", [1], np.int64)
    wide = g.cast("softmax/logits", LOGITS, np.int64)  # a difference of two may leave int32
    top = g.node("ReduceMax", "softmax/top", wide, axes=[1], keepdims=1)
    below = g.cast("softmax/below_top", g.node("Sub", "softmax/below", top, wide), np.float32)
    steps = g.node("Mul", "softmax/scaled", below, g.constant("softmax/step", step))
    steps = g.node("Round", "softmax/steps", g.clip("softmax/bounded", steps, 0, 255))
    table = g.constant("softmax/table", exponentials().astype(np.uint16))
    e = g.node("Gather", "softmax/entry", table, g.cast("softmax/place", steps, np.int64))
    e = g.cast("softmax/exponential", e, np.int64)
    total = g.node("ReduceSum", "softmax/sum", e, axis, keepdims=1)
    half = g.node("Div", "softmax/half_sum", total, g.number(2, np.int64))
    e = g.node("Mul", "softmax/of_one", e, g.number(SHARES, np.int64))
    shares = g.node("Div", "softmax/shares", g.node("Add", "softmax/to_round", e, half), total)
    real = g.cast("softmax/real_shares", shares, np.float32)
    g.node("Mul", PROBABILITIES, real, g.number(1 / SHARES, np.float32))
    if arena.unknown:
        best = g.node("ArgMax", "label/best", LOGITS, axis=1, keepdims=0)
        share = g.node("ReduceMax", "label/share", shares, axes=[1], keepdims=0)
        unknown = g.node("Less", "label/unknown", share, g.number(arena.unknown, np.int64))
        g.node("Where", LABEL, unknown, g.number(-1, np.int64), best)
    else:
        g.node("ArgMax", LABEL, LOGITS, axis=1, keepdims=0)
    classes = arena.network.classes
    return [(PROBABILITIES, np.float32, [classes]), (LABEL, np.int64, [])]
