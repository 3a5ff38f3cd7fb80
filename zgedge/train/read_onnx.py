"""Reads a float classifier from an ONNX file, or says which operator cannot be taken, and where.

A file of ours has a ReLU behind every convolution, whose outputs are codes from 0 up, and its
layers stand in a row, across which only a residual layer adds. What is read is therefore walked in
the graph's order, and each tensor is either known beforehand, as weights and shapes are, or where
the row has got to so far. Nothing outside the file's own folder is opened.
"""

from __future__ import annotations

import math
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge import network as net
from zgedge.errors import ModelError
from zgedge.extras import need
from zgedge.network import TrunkLayer
from zgedge.train.float_network import DenseStep, FloatNetwork, PictureStep

MOST_BYTES = 1 << 30  # float32 weights of the largest file of ours are far fewer
OLDEST_OPSET = 7
# Stands for the number of samples, which a file may leave open, where a graph computes shapes.
ANY_BATCH = 2**31 - 1
# Operators that are computed beforehand where all that goes in is known.
KNOWN = (
    "Add", "Cast", "Concat", "Constant", "Div", "Gather", "Identity", "Mul", "Reshape", "Shape",
    "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze",
)  # fmt: skip
TO_CHANNELS_FIRST, TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


@dataclass(frozen=True)
class _Flow:
    """A tensor that depends on the input.

    at              steps of the row that came before it
    linear          whether what makes it is a sum that no ReLU has cut off yet
    picture         (height, width, channels), None where there is none
    size            values of a sample
    flat            whether it is [batch, size]
    channels_first  whether it is, or was before it became flat, [batch, channels, height, width]
    """

    at: int
    linear: bool
    picture: tuple[int, int, int] | None
    size: int
    flat: bool
    channels_first: bool
    probabilities: bool = False


@dataclass
class _Step:
    """A layer of the row while it is read; `cut` once a ReLU is behind it."""

    where: str
    layer: TrunkLayer | None = None
    padding: tuple[int, int] = (0, 0)
    weights: npt.NDArray[np.float64] | None = None
    bias: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    cut: bool = False


def read_onnx(
    path: str | os.PathLike[str], shape: tuple[int, int, int] | None = None
) -> FloatNetwork:
    """The network of an ONNX file. Three dimensions of its input are channels, height and width,
    unless they are `shape`, a (height, width, channels).

    Raises ModelError, with node, operator and number, for what is no ONNX file, is damaged, or
    cannot be had in a file of ours; MissingExtraError without onnx.
    """
    onnx = need("onnx", "export")
    return _Reader(Path(path), shape, onnx).read()


def _where(number: int, node: Any) -> str:
    """A node as messages name it, counted from 1."""
    return f"node {number}, {node.op_type} {node.name or next(iter(node.output), '')!r}"


class _Reader:
    def __init__(self, path: Path, shape: tuple[int, int, int] | None, onnx: Any) -> None:
        self.path, self.wanted, self.onnx = path, shape, onnx
        self.external_bytes = 0
        self.known: dict[str, npt.NDArray[Any]] = {}
        self.flows: dict[str, _Flow] = {}
        self.steps: list[_Step] = []
        self.dims: tuple[int, ...] = ()
        self.batch = ANY_BATCH
        self.opset = 0
        self.scale, self.offset = np.ones(1), np.zeros(1)
        self.picture: tuple[int, int, int] | None = None
        self.channels_first = False
        self.where = ""

    # ---- the file ----

    def read(self) -> FloatNetwork:
        model = self._load()
        graph = model.graph
        self._refuse_unknown(graph)
        for tensor in graph.initializer:
            self._fetch(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    self._fetch(attribute.t)
        try:
            self.onnx.checker.check_model(model)
        except Exception as e:  # names that are no text are not its own kind of error
            said = (str(e).strip().splitlines() or [type(e).__name__])[0]
            raise self._bad(f"it is no valid ONNX model: {said}") from e
        for tensor in graph.initializer:
            self.known[tensor.name] = self._array(tensor)
        self._read_input(graph)
        self.uses = Counter(
            name for node in graph.node if node.op_type != "Shape" for name in node.input
        )
        self.uses.update(output.name for output in graph.output)
        for number, node in enumerate(graph.node, 1):
            self.where = _where(number, node)
            self._node(node)
        return self._finished(graph)

    def _bad(self, what: str, hint: str | None = None) -> ModelError:
        return ModelError(f"{self.path}: {what}" + ("" if what.endswith(".") else "."), hint)

    def _cannot(self, what: str, hint: str | None = None) -> ModelError:
        return self._bad(f"{self.where}: {what}", hint)

    def _load(self) -> Any:
        try:
            about = self.path.stat()
            if not stat.S_ISREG(about.st_mode):  # a device may never end
                raise self._bad("it cannot be read: it is no file")
            if about.st_size > MOST_BYTES:
                raise self._bad(f"it is larger than {MOST_BYTES >> 20:,} MB")
            blob = self.path.read_bytes()
        except OSError as e:
            raise self._bad(f"it cannot be read: {e.strerror}") from e
        model = self.onnx.ModelProto()
        try:
            model.ParseFromString(blob)
        except Exception as e:  # protobuf's own kinds of errors differ between its versions
            raise self._bad("it is no ONNX file, or is cut off or damaged") from e
        if not model.graph.node:
            raise self._bad("it is no ONNX file, or is cut off or damaged: it has no operator")
        self._check_names(model)
        versions = [x.version for x in model.opset_import if x.domain in ("", "ai.onnx")]
        newest = self.onnx.defs.onnx_opset_version()
        if not versions or not OLDEST_OPSET <= max(versions) <= newest:
            raise self._bad(
                f"its operators are of opset {max(versions, default=0)}",
                f"Export it for an opset from {OLDEST_OPSET} to {newest}.",
            )
        self.opset = max(versions)
        if model.graph.sparse_initializer:
            raise self._bad("it holds sparse tensors", "Export it with dense ones.")
        return model

    def _check_names(self, model: Any) -> None:
        """Names that are no UTF-8 come as bytes, with some versions of protobuf."""
        names = [x.domain for x in model.opset_import]
        tensors = list(model.graph.initializer)
        for node in model.graph.node:
            names += [node.op_type, node.name, node.domain, *node.input, *node.output]
            names += [attribute.name for attribute in node.attribute]
            tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
        for one in (*model.graph.initializer, *model.graph.input, *model.graph.output):
            names.append(one.name)
        for tensor in tensors:
            names += [text for entry in tensor.external_data for text in (entry.key, entry.value)]
        if not all(isinstance(name, str) for name in names):
            raise self._bad("it is damaged: a name in it is no text")

    def _refuse_unknown(self, graph: Any) -> None:
        for number, node in enumerate(graph.node, 1):
            self.where = _where(number, node)
            ours = node.domain in ("", "ai.onnx")
            if ours and (node.op_type in OPERATORS or node.op_type in KNOWN):
                continue
            hint = "What can be taken: " + ", ".join(sorted(OPERATORS)) + "."
            if any(word in node.op_type.lower() for word in ("quantize", "qlinear", "integer")):
                raise self._cannot(
                    "the network is quantized already.", "Give the float network it was made from."
                )
            raise self._cannot(
                "this operator cannot be taken"
                + ("" if ours else f"; it is of the domain {node.domain!r}") + ".", hint
            )  # fmt: skip

    def _fetch(self, tensor: Any) -> None:
        """Bring in what a tensor has outside the file: from the file's own folder alone."""
        if tensor.data_location != self.onnx.TensorProto.EXTERNAL:
            return
        about = {entry.key: entry.value for entry in tensor.external_data}
        name = about.get("location", "")
        folder = os.path.realpath(self.path.parent)
        inside = bool(name) and "\0" not in name
        place = os.path.realpath(os.path.join(folder, name)) if inside else ""
        if not inside or os.path.isabs(name) or os.path.commonpath([folder, place]) != folder:
            raise self._bad(
                f"the tensor {tensor.name!r} lies in {name!r}, outside the file's folder",
                "Put the data beside the model and name them relative to it.",
            )
        try:
            start = int(about.get("offset", 0))
            size = os.stat(place).st_size
            length = int(about.get("length", size - start))
            if start < 0 or length < 0 or start + length > size or not os.path.isfile(place):
                raise ValueError
            if length > MOST_BYTES - self.external_bytes:
                raise self._bad(f"its data are larger than {MOST_BYTES >> 20:,} MB")
            with open(place, "rb") as f:
                f.seek(start)
                tensor.raw_data = f.read(length)
        except (OSError, ValueError) as e:
            if isinstance(e, ModelError):
                raise
            raise self._bad(
                f"the tensor {tensor.name!r} lies in {name!r}, which is not there or too short"
            ) from e
        self.external_bytes += length
        tensor.data_location = self.onnx.TensorProto.DEFAULT
        del tensor.external_data[:]

    def _array(self, tensor: Any) -> npt.NDArray[Any]:
        try:
            array: npt.NDArray[Any] = self.onnx.numpy_helper.to_array(tensor)
        except Exception as e:  # numpy, struct and onnx each have theirs
            raise self._bad(f"the tensor {tensor.name!r} is damaged") from e
        return array

    def _read_input(self, graph: Any) -> None:
        inputs = [x for x in graph.input if x.name not in self.known]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise self._bad(
                f"it has {len(inputs)} inputs and {len(graph.output)} outputs; a classifier has "
                "one of each"
            )
        given = inputs[0]
        kind = given.type.tensor_type.elem_type
        if kind != self.onnx.TensorProto.FLOAT:
            names = self.onnx.TensorProto.DataType
            raise self._bad(
                f"its input {given.name!r} is {names.Name(kind).lower()}, not float32",
                "Export the network in float32.",
            )
        batch, *rest = given.type.tensor_type.shape.dim or [None]
        if not rest or any(d.dim_value < 1 for d in rest):
            shape = [d.dim_param or d.dim_value or "?" for d in (batch, *rest) if d is not None]
            raise self._bad(
                f"its input {given.name!r} has the shape {shape}",
                "All but the first dimension, the samples, must be fixed numbers.",
            )
        if batch is not None and batch.dim_value > 0:
            self.batch = batch.dim_value
        self.dims = tuple(d.dim_value for d in rest)
        size = math.prod(self.dims)
        if size > net.MAX_INPUTS:
            raise self._bad(f"it has {size:,} inputs; a model takes at most {net.MAX_INPUTS:,}")
        picture = None
        if len(self.dims) == 3:
            channels, height, width = self.dims
            picture = height, width, channels
            self.channels_first = picture == self.wanted or self.dims != self.wanted
            picture = self.picture = picture if self.channels_first else self.dims
        flat = len(self.dims) == 1
        first = self.channels_first or picture is None
        self.flows[given.name] = _Flow(0, False, picture, size, flat, first)

    # ---- the graph ----

    def _node(self, node: Any) -> None:
        if node.op_type == "Shape" and node.input[0] in self.flows:
            self.known[node.output[0]] = self._shape(node, self.flows[node.input[0]])
            return
        if all(not name or name in self.known for name in node.input):
            self._compute(node)
            return
        for name in node.input:
            if name and name not in self.known and name not in self.flows:
                raise self._cannot(f"its input {name!r} comes from nowhere.")
        if node.op_type not in OPERATORS:
            raise self._cannot(
                "this operator cannot be taken where its input depends on the network's.",
                "What can be taken: " + ", ".join(sorted(OPERATORS)) + ".",
            )
        if any(node.output[1:]) and node.op_type != "Dropout":
            raise self._cannot("only its first output can be taken.")
        flows = [self.flows[name] for name in node.input if name in self.flows]
        if node.op_type != "Identity" and any(flow.probabilities for flow in flows):
            raise self._cannot("it stands behind the Softmax, which must be the end.")
        for name in node.input:
            flow_in = self.flows.get(name)
            if flow_in is not None and flow_in.linear and self.uses[name] > 1:
                raise self._cannot(
                    f"its input {name!r} has no ReLU yet and is used {self.uses[name]} times; "
                    "here only what is behind a ReLU can be.",
                )
        attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.flows[node.output[0]] = OPERATORS[node.op_type](self, node, attributes)

    def _compute(self, node: Any) -> None:
        """What a node gives whose inputs are all known, as shapes and the weights are."""
        if node.op_type not in KNOWN:
            raise self._cannot("it does not depend on the network's input.")
        given = {name: self.known[name] for name in node.input if name}
        try:
            if node.op_type == "Unsqueeze" and len(node.input) == 1:
                # The reference fails on this old form, which has its axes as an attribute.
                axes = self.onnx.helper.get_attribute_value(node.attribute[0])
                found = [np.expand_dims(given[node.input[0]], tuple(axes))]
            else:
                evaluator = import_module("onnx.reference").ReferenceEvaluator
                found = evaluator(node, opsets={"": self.opset}).run(None, given)
        except Exception as e:  # a reference of two hundred operators raises what it likes
            raise self._cannot("it cannot be computed.") from e
        self.known[node.output[0]] = np.asarray(found[0])

    def _shape(self, node: Any, flow: _Flow) -> npt.NDArray[np.int64]:
        attributes = {a.name: a.i for a in node.attribute}
        shape = np.array([self.batch, *self._dims_of(flow)], np.int64)
        return shape[attributes.get("start", 0) : attributes.get("end")]

    def _dims_of(self, flow: _Flow) -> tuple[int, ...]:
        if flow.flat:
            return (flow.size,)
        if flow.picture is None:
            return self.dims
        height, width, channels = flow.picture
        return (channels, height, width) if flow.channels_first else flow.picture

    def _weights(self, node: Any, i: int, what: str) -> npt.NDArray[np.float64]:
        """Input `i` of a node, which must be known and float32."""
        if len(node.input) <= i or node.input[i] not in self.known:
            raise self._cannot(f"its {what} must be constants.")
        array = self.known[node.input[i]]
        if array.dtype != np.float32:
            raise self._cannot(
                f"its {what} are {array.dtype}, not float32.", "Export the network in float32."
            )
        if not np.isfinite(array).all():
            raise self._cannot(f"its {what} hold NaN or infinities.")
        return array.astype(np.float64)

    def _numbers(self, node: Any, i: int) -> list[int]:
        if len(node.input) <= i or node.input[i] not in self.known:
            raise self._cannot("its shape or axes must be constants.")
        return [int(n) for n in self.known[node.input[i]].reshape(-1)]

    def _latest(self, flow: _Flow, what: str) -> None:
        """Refuse a layer that does not follow the one read last."""
        if flow.at != len(self.steps):
            raise self._cannot(
                f"{what} takes what an earlier layer gives.",
                "Layers stand in a row here, and only an Add reaches back.",
            )

    def _is_input(self, flow: _Flow) -> bool:
        """Whether no layer with weights made it."""
        return all(step.weights is None for step in self.steps[: flow.at])

    def _settled(self, flow: _Flow, what: str) -> None:
        if flow.linear:
            raise self._cannot(
                f"{what} follows {self._last().where} without a ReLU between them.",
                "Activations are 8-bit codes from 0 up here, so each layer ends with a ReLU.",
            )

    def _last(self) -> _Step:
        """The layer with weights that was read last."""
        return next(s for s in reversed(self.steps) if s.weights is not None)

    # ---- operators ----

    def _conv(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        flow = self.flows.get(node.input[0])
        if flow is None or flow.flat or flow.picture is None:
            raise self._cannot("it takes no picture [samples, channels, height, width].")
        if not flow.channels_first:
            raise self._cannot("the channels of its picture do not come first.")
        self._latest(flow, "it")
        self._settled(flow, "it")
        weights = self._weights(node, 1, "weights")
        if weights.ndim != 4:
            raise self._cannot(f"its weights have {weights.ndim} dimensions, not 4.")
        channels = len(weights)
        bias = np.zeros(channels)
        if len(node.input) > 2 and node.input[2]:
            bias = self._weights(node, 2, "biases").reshape(-1)
        groups = attributes.get("group", 1)
        incoming = flow.picture[2]
        if groups != 1 and not groups == incoming == channels:
            raise self._cannot(
                f"it has {groups} groups of {incoming} channels.",
                "One group can be taken, or a depthwise convolution that keeps its channels.",
            )
        if weights.shape[1] * groups != incoming or len(bias) != channels:
            raise self._cannot("its weights do not fit its input.")
        kind = net.DEPTHWISE if groups != 1 else net.CONV
        return self._window(node, attributes, flow, kind, weights, bias)

    def _window(
        self,
        node: Any,
        attributes: dict[str, Any],
        flow: _Flow,
        kind: str,
        weights: npt.NDArray[np.float64] | None,
        bias: npt.NDArray[np.float64],
    ) -> _Flow:
        """A layer that moves a window over the picture."""
        assert flow.picture is not None
        shape = () if weights is None else weights.shape[2:]
        kernel = list(attributes.get("kernel_shape") or shape)
        if len(kernel) != 2 or (weights is not None and list(weights.shape[2:]) != kernel):
            raise self._cannot(f"its window is {kernel}.")
        if any(d != 1 for d in attributes.get("dilations", (1, 1))):
            raise self._cannot("its window is dilated.")
        stride = self._stride(attributes)
        begin, out = self._places(attributes, kernel, stride, flow.picture[:2])
        channels = flow.picture[2] if weights is None else len(weights)
        layer, padding, shift = self._layer(
            kind, flow.picture, channels, kernel, stride, begin, out, weights is not None
        )
        if weights is not None:
            spread = np.zeros((*weights.shape[:2], layer.kernel, layer.kernel))
            y, x = shift
            spread[:, :, y : y + kernel[0], x : x + kernel[1]] = weights
            weights = spread
        self.steps.append(_Step(self.where, layer, padding, weights, bias))
        linear = flow.linear if weights is None else True
        return self._picture_flow(layer, linear)

    def _stride(self, attributes: dict[str, Any]) -> int:
        strides = attributes.get("strides", [1, 1])
        if len(strides) != 2 or strides[0] != strides[1] or not 1 <= strides[0] <= net.MAX_STRIDE:
            raise self._cannot(f"it moves by {strides}; by 1 to {net.MAX_STRIDE} both ways can be.")
        return int(strides[0])

    def _picture_flow(self, layer: TrunkLayer, linear: bool) -> _Flow:
        return _Flow(len(self.steps), linear, layer.out_shape, layer.outputs, False, True)

    def _places(
        self, attributes: dict[str, Any], kernel: Sequence[int], stride: int, size: Sequence[int]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where a window begins before the picture, and how many there are, both ways."""
        auto = attributes.get("auto_pad", b"NOTSET").decode(errors="replace")
        pads = list(attributes.get("pads", (0, 0, 0, 0)))
        if len(pads) != 4 or min(pads) < 0:
            raise self._cannot(f"its padding is {pads}.")
        begin, out = [0, 0], [0, 0]
        for i in (0, 1):
            if auto in ("SAME_UPPER", "SAME_LOWER"):
                out[i] = -(-size[i] // stride)
                total = max(0, (out[i] - 1) * stride + kernel[i] - size[i])
                begin[i] = total // 2 if auto == "SAME_UPPER" else -(-total // 2)
                continue
            around = 0 if auto == "VALID" else pads[i] + pads[i + 2]
            begin[i] = 0 if auto == "VALID" else pads[i]
            room = size[i] + around - kernel[i]
            out[i] = room // stride + 1
            # One more where `ceil_mode` asks for it, unless it would begin behind the picture.
            if attributes.get("ceil_mode") and room % stride:
                out[i] += (out[i] * stride) < size[i] + begin[i]
        if min(out) < 1:
            raise self._cannot(f"it has no place in a picture of {size[0]} x {size[1]}.")
        return (begin[0], begin[1]), (out[0], out[1])

    def _layer(
        self,
        kind: str,
        shape: tuple[int, int, int],
        channels: int,
        kernel: Sequence[int],
        stride: int,
        begin: tuple[int, int],
        out: tuple[int, int],
        embeds: bool,
    ) -> tuple[TrunkLayer, tuple[int, int], tuple[int, int]]:
        """The layer of ours with these windows: its own padding, and where in ours they lie.

        A smaller window may lie in a larger one of ours, among zeros. Where the windows step by
        more than 1 and begin a little before ours, ours are taken all the same (`moved`).
        """
        kernels = net.KERNELS if embeds else (kernel[0],)
        found = []
        for k in kernels:
            for same in (True, False):
                try:
                    layer = TrunkLayer(kind, shape, channels, k, stride, same)
                except ValueError:
                    continue
                if layer.out_shape[:2] != out:
                    continue
                y, x = layer.padding[0] - begin[0], layer.padding[1] - begin[1]
                fits = [d >= 0 and d + n <= k for d, n in zip((y, x), kernel, strict=True)]
                if all(fits):
                    found.append((k, 0, layer, layer.padding, (y, x)))
                elif [k, k] == list(kernel) and same and max(-y, -x) < stride and max(y, x) <= 0:
                    found.append((k, 1, layer, begin, (0, 0)))
        if not found:
            raise self._cannot(
                f"a window of {kernel[0]} x {kernel[1]} by steps of {stride}, {begin[0]} rows and "
                f"{begin[1]} columns before the picture, {out[0]} x {out[1]} times, of "
                f"{shape[2]} channels to {channels}, cannot be had here.",
                f"Convolutions have kernels of {', '.join(map(str, net.KERNELS))}, pools of 2 to "
                f"{net.MAX_POOL_KERNEL}, with whole windows or half a window of padding.",
            )
        _, _, layer, padding, place = min(found, key=lambda one: one[:2])
        return layer, padding, place

    def _max_pool(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        flow = self._pooled(node)
        kernel = attributes["kernel_shape"]
        if len(kernel) != 2 or kernel[0] != kernel[1]:
            raise self._cannot(f"its window is {kernel}; a square one can be.")
        if list(kernel) == [1, 1] and attributes.get("strides", [1, 1]) == [1, 1]:
            return flow
        return self._window(node, attributes, flow, net.MAX_POOL, None, np.zeros(0))

    def _pooled(self, node: Any) -> _Flow:
        flow = self.flows[node.input[0]]
        if flow.flat or flow.picture is None or not flow.channels_first:
            raise self._cannot("it takes no picture [samples, channels, height, width].")
        self._latest(flow, "it")
        return flow

    def _average_pool(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        flow = self._pooled(node)
        assert flow.picture is not None
        height, width, channels = flow.picture
        kernel = list(attributes["kernel_shape"])
        pads = attributes.get("pads", (0, 0, 0, 0))
        if len(kernel) != 2:
            raise self._cannot(f"its window is {kernel}.")
        if kernel == [height, width] and not any(pads):
            return self._mean(node, attributes)
        if not 1 <= min(kernel) <= max(kernel) <= net.KERNELS[-1]:
            raise self._cannot(f"its window is {kernel}; from 1 to {net.KERNELS[-1]} can be.")
        self._settled(flow, "it")
        if self._is_input(flow):
            raise self._cannot("the input itself cannot be averaged here.")
        stride = self._stride(attributes)
        begin, out = self._places(attributes, kernel, stride, (height, width))
        beyond = any(
            (n - 1) * stride + k - b > size + b
            for n, k, b, size in zip(out, kernel, begin, (height, width), strict=False)
        )
        if beyond or (any(begin) and not attributes.get("count_include_pad")):
            raise self._cannot("at the edges it counts only what is in the picture.")
        ones = np.full((channels, 1, *kernel), 1.0 / math.prod(kernel))
        found = self._window(node, attributes, flow, net.DEPTHWISE, ones, np.zeros(channels))
        # Nothing in it is below 0, so a ReLU changes nothing.
        self.steps[-1].cut = True
        return replace(found, linear=False)

    def _mean(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        flow = self._pooled(node)
        self._settled(flow, "it")
        if self._is_input(flow):
            raise self._cannot("the input itself cannot be averaged here.")
        assert flow.picture is not None
        layer = net.mean_pool(flow.picture)
        self.steps.append(_Step(self.where, layer, (0, 0)))
        return self._picture_flow(layer, False)

    def _reduce_mean(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        self._pooled(node)
        axes = attributes.get("axes") or self._numbers(node, 1)
        if sorted(a % 4 for a in axes) != [2, 3]:
            raise self._cannot(
                f"it takes the mean over {list(axes)}; over height and width can be."
            )
        found = self._mean(node, attributes)
        return found if attributes.get("keepdims", 1) else replace(found, flat=True)

    def _gemm(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        if node.input[0] not in self.flows or attributes.get("transA"):
            raise self._cannot("its first input must be the samples, a row each.")
        weights = self._weights(node, 1, "weights") * attributes.get("alpha", 1.0)
        if weights.ndim != 2:
            raise self._cannot(f"its weights have {weights.ndim} dimensions, not 2.")
        weights = weights if attributes.get("transB") else weights.T
        bias = np.zeros(len(weights))
        if len(node.input) > 2 and node.input[2]:
            given = self._weights(node, 2, "biases") * attributes.get("beta", 1.0)
            bias = self._for_each(given, _Flow(0, True, None, len(weights), True, True))
        return self._dense(self.flows[node.input[0]], weights, bias)

    def _mat_mul(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        if node.input[0] not in self.flows:
            raise self._cannot("its first input must be the samples, a row each.")
        weights = self._weights(node, 1, "weights")
        if weights.ndim != 2:
            raise self._cannot(f"its weights have {weights.ndim} dimensions, not 2.")
        return self._dense(self.flows[node.input[0]], weights.T, np.zeros(weights.shape[1]))

    def _dense(
        self, flow: _Flow, weights: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]
    ) -> _Flow:
        if not flow.flat or weights.shape[1] != flow.size:
            raise self._cannot(
                f"it takes rows of {weights.shape[1]:,} values, and gets "
                f"{' x '.join(map(str, self._dims_of(flow)))}."
            )
        self._latest(flow, "it")
        self._settled(flow, "it")
        if flow.picture is not None and flow.channels_first:
            height, width, channels = flow.picture
            weights = weights.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        weights = weights.reshape(len(bias), flow.size)
        if len(bias) > net.MAX_INPUTS:
            raise self._cannot(f"it gives {len(bias):,} values; {net.MAX_INPUTS:,} are the most.")
        self.steps.append(_Step(self.where, None, (0, 0), weights, bias))
        return _Flow(len(self.steps), True, None, len(bias), True, True)

    def _relu(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        flow = self.flows[node.input[0]]
        if self._is_input(flow):
            raise self._cannot("the input itself cannot be cut off here.")
        if flow.linear:
            # Pools of maxima may stand between: the largest of what was cut off is the same.
            self._last().cut = True
        return replace(flow, linear=False)

    def _add(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        flows = [self.flows.get(name) for name in node.input]
        if any(flow is None for flow in flows):
            return self._shifted(node, attributes)
        one, two = (flow for flow in flows if flow is not None)
        if one.linear == two.linear:
            what = "two sums without a ReLU" if one.linear else "two pictures behind a ReLU"
            raise self._cannot(
                f"it adds {what}.",
                "Here one must be a convolution's and the other behind a ReLU, as in a residual "
                "block that keeps its shape.",
            )
        made, kept = (one, two) if one.linear else (two, one)
        step = self.steps[-1]
        layer = step.layer
        if made.at != len(self.steps) or step.weights is None or layer is None or layer.add:
            raise self._cannot("only what one convolution gives can be added to, and once.")
        if made.picture != kept.picture or kept.flat or self._is_input(kept) or kept.at >= made.at:
            raise self._cannot(
                "what it adds must be a picture of the same shape that an earlier layer took, "
                "and not the input itself."
            )
        step.layer = replace(layer, add=kept.at)
        return replace(made, linear=True)

    def _batch_norm(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        if attributes.get("training_mode"):
            raise self._cannot("it is in training mode.", "Export the network for inference.")
        gamma, beta, mean, var = (
            self._weights(node, i, what).reshape(-1)
            for i, what in enumerate(("scales", "shifts", "means", "variances"), 1)
        )
        if not len(gamma) == len(beta) == len(mean) == len(var):
            raise self._cannot("its constants are of different lengths.")
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = gamma / np.sqrt(var + attributes.get("epsilon", 1e-5))
        if not np.isfinite(scale).all():
            raise self._cannot("its variances are below 0.")
        flow = self.flows[node.input[0]]
        wanted = flow.picture[2] if flow.picture is not None and not flow.flat else flow.size
        if (not flow.flat and not flow.channels_first) or len(scale) != wanted:
            raise self._cannot(f"it has {len(scale)} channels, its input {wanted}.")
        return self._affine(flow, scale, beta - mean * scale)

    def _shifted(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        """Add, Sub, Mul or Div with a constant."""
        first = node.input[0] in self.flows
        flow = self.flows[node.input[0 if first else 1]]
        value = self._for_each(self._weights(node, 1 if first else 0, "numbers"), flow)
        one, none = np.ones_like(value), np.zeros_like(value)
        if node.op_type == "Add":
            return self._affine(flow, one, value)
        if node.op_type == "Sub":
            return self._affine(flow, one, -value) if first else self._affine(flow, -one, value)
        if node.op_type == "Mul":
            return self._affine(flow, value, none)
        if not first or not value.all():
            raise self._cannot("only a division by constants other than 0 can be taken.")
        return self._affine(flow, 1.0 / value, none)

    def _for_each(self, value: npt.NDArray[np.float64], flow: _Flow) -> npt.NDArray[np.float64]:
        """A constant that is broadcast, as one for each channel, or feature of what is flat."""
        dims = self._dims_of(flow)
        count = flow.size if flow.flat else flow.picture[2] if flow.picture else flow.size
        axis = 0 if flow.flat or flow.channels_first else len(dims) - 1
        if value.size == 1:
            return np.full(count, value.reshape(-1)[0])
        shape = (1,) * (len(dims) + 1 - value.ndim) + value.shape
        wanted = [1] * (len(dims) + 1)
        wanted[1 + axis] = count
        if list(shape) != wanted:
            raise self._cannot(
                f"constants of {list(value.shape)} are not one for each channel of {list(dims)}."
            )
        return value.reshape(-1)

    def _affine(
        self, flow: _Flow, scale: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]
    ) -> _Flow:
        """x * scale + shift for each channel or feature, folded into what made x."""
        if self._is_input(flow):
            if (scale <= 0).any():
                raise self._cannot("it turns the input around.")
            if flow.flat and flow.picture is not None:
                raise self._cannot("it stands between Flatten and the first layer.")
            self.scale, self.offset = self.scale * scale, self.offset * scale + shift
            return flow
        step = self.steps[-1]
        added = step.layer is not None and step.layer.add is not None
        if not flow.linear or step.weights is None or added or flow.at != len(self.steps):
            raise self._cannot(
                "it does not follow a convolution or a product.",
                "Behind a ReLU or a pool it cannot be folded into weights.",
            )
        if flow.flat and flow.picture is not None:
            raise self._cannot("it stands between Flatten and a ReLU.")
        step.weights = step.weights * scale.reshape(-1, *[1] * (step.weights.ndim - 1))
        step.bias = step.bias * scale + shift
        return flow

    def _flatten(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        if attributes.get("axis", 1) != 1:
            raise self._cannot("it must keep the samples apart (axis 1).")
        return replace(self.flows[node.input[0]], flat=True)

    def _reshape(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        flow = self.flows[node.input[0]]
        dims = [self.batch, *self._dims_of(flow)]
        wanted = self._numbers(node, 1)
        if not attributes.get("allowzero"):
            wanted = [dims[i] if n == 0 and i < len(dims) else n for i, n in enumerate(wanted)]
        first, *rest = wanted or [0]
        if first == -1 and -1 not in rest:
            first = self.batch if math.prod(rest) == flow.size else 0
        if -1 in rest:
            others = -math.prod(rest)
            rest = [flow.size // others if n == -1 and others > 0 else n for n in rest]
        if first != self.batch or math.prod(rest) != flow.size:
            raise self._cannot(f"{dims[1:]} cannot become {rest} with the samples kept apart.")
        if len(rest) == 1:
            return replace(flow, flat=True)
        if tuple(rest) == self._dims_of(flow):
            return flow
        unfolds = flow.flat and (flow.picture is None or flow.channels_first)
        if len(rest) == 3 and unfolds:
            channels, height, width = rest
            if flow.picture in (None, (height, width, channels)):
                if flow.at == 0:
                    if len(self.scale) > 1:
                        raise self._cannot("it stands behind a scaling of the input's values.")
                    self.picture, self.channels_first = (height, width, channels), True
                elif flow.picture is None:
                    raise self._cannot("behind a product there are no pictures here.")
                return replace(flow, picture=(height, width, channels), flat=False)
        if len(rest) == 3 and flow.at == 0 and flow.picture is None:  # [rows, columns] of grey
            channels, height, width = rest
            if channels == 1 and self.dims == (height, width):
                self.picture, self.channels_first = (height, width, 1), True
                return replace(flow, picture=(height, width, 1))
        raise self._cannot(f"{dims[1:]} cannot become {rest} here; it can become flat.")

    def _pad(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        if any(attributes.get("pads") or self._numbers(node, 1)):
            raise self._cannot("it pads.", "Let the convolution or the pool pad instead.")
        return self.flows[node.input[0]]

    def _squeeze(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        flow = self.flows[node.input[0]]
        if flow.flat or flow.picture is None or flow.picture[:2] != (1, 1):
            raise self._cannot("only a picture of one place can lose dimensions here.")
        return replace(flow, flat=True)

    def _transpose(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        flow = self.flows[node.input[0]]
        order = list(attributes.get("perm", []))
        if flow.flat or len(self._dims_of(flow)) != 3:
            raise self._cannot("only pictures can be turned here.")
        if flow.at == 0 and order == TO_CHANNELS_FIRST and self.channels_first:
            # So what came in had its channels last.
            if len(self.scale) > 1:
                raise self._cannot("it stands behind a scaling of the input's channels.")
            height, width, channels = self.dims
            self.picture, self.channels_first = (height, width, channels), False
            return replace(flow, picture=self.picture)
        if order == (TO_CHANNELS_LAST if flow.channels_first else TO_CHANNELS_FIRST):
            return replace(flow, channels_first=not flow.channels_first)
        raise self._cannot(f"{order} is no order of pictures that can be taken.")

    def _softmax(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        flow = self.flows[node.input[0]]
        if not flow.flat or not flow.linear or attributes.get("axis", 1) not in (1, -1):
            raise self._cannot("it must be the end, over the classes.")
        return replace(flow, probabilities=True)

    def _same(self, node: Any, attributes: dict[str, Any]) -> _Flow:
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            trains = self.known.get(node.input[2])
            if trains is None or trains.any():
                raise self._cannot("it is in training mode.", "Export the network for inference.")
        return self.flows[node.input[0]]

    # ---- the end ----

    def _finished(self, graph: Any) -> FloatNetwork:
        name = graph.output[0].name
        flow = self.flows.get(name)
        self.where = f"the output {name!r}"
        if flow is None:
            raise self._cannot("it does not depend on the input.")
        self._latest(flow, "it")
        if not flow.flat or not flow.linear or self.steps[-1].layer is not None:
            raise self._cannot(
                "it is not what a last Gemm or MatMul gives.",
                "A classifier ends with a product, and a Softmax or none.",
            )
        trunk = [step for step in self.steps if step.layer is not None]
        behind = [step for step in self.steps if step.layer is None]
        for step in self.steps[:-1]:
            if step.weights is not None and not step.cut:
                raise self._bad(
                    f"{step.where}: no ReLU follows it",
                    "Activations are 8-bit codes from 0 up here, so each layer ends with a ReLU.",
                )
        if len(trunk) > net.MAX_TRUNK or len(behind) > net.MAX_LAYERS:
            raise self._bad(
                f"it has {len(trunk)} layers of pictures and {len(behind)} behind them; "
                f"{net.MAX_TRUNK} and {net.MAX_LAYERS} are the most"
            )
        classes = len(behind[-1].bias)
        if not 2 <= classes <= net.MAX_CLASSES:
            raise self._bad(f"it has {classes:,} outputs; 2 to {net.MAX_CLASSES:,} can be")
        steps: list[PictureStep] = []
        for step in trunk:
            assert step.layer is not None
            if steps and steps[-1].layer.kind == net.MEAN_POOL:
                raise self._bad(f"{step.where}: it stands behind the mean over the whole picture")
            weights = bias = None
            if step.weights is not None:
                weights, bias = step.weights.astype(np.float32), step.bias.astype(np.float32)
            steps.append(PictureStep(step.layer, step.padding, weights, bias))
        return FloatNetwork(
            dims=self.dims,
            picture=self.picture,
            channels_first=self.channels_first,
            scale=self.scale.astype(np.float32),
            offset=self.offset.astype(np.float32),
            trunk=tuple(steps),
            layers=tuple(
                DenseStep(np.ascontiguousarray(s.weights, np.float32), s.bias.astype(np.float32))
                for s in behind
            ),
            file_bytes=self.path.stat().st_size + self.external_bytes,
        )


_Operator = Callable[[_Reader, Any, dict[str, Any]], _Flow]
OPERATORS: dict[str, _Operator] = {
    "Add": _Reader._add,
    "AveragePool": _Reader._average_pool,
    "BatchNormalization": _Reader._batch_norm,
    "Conv": _Reader._conv,
    "Div": _Reader._shifted,
    "Dropout": _Reader._same,
    "Flatten": _Reader._flatten,
    "Gemm": _Reader._gemm,
    "GlobalAveragePool": _Reader._mean,
    "Identity": _Reader._same,
    "LogSoftmax": _Reader._softmax,
    "MatMul": _Reader._mat_mul,
    "MaxPool": _Reader._max_pool,
    "Mul": _Reader._shifted,
    "Pad": _Reader._pad,
    "ReduceMean": _Reader._reduce_mean,
    "Relu": _Reader._relu,
    "Reshape": _Reader._reshape,
    "Softmax": _Reader._softmax,
    "Squeeze": _Reader._squeeze,
    "Sub": _Reader._shifted,
    "Transpose": _Reader._transpose,
}
