"""Reading float networks from ONNX files: the same numbers as onnxruntime's, or a refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from tests.float_nets import Residual, save, write_graph
from zgedge.errors import ModelError
from zgedge.train.read_onnx import read_onnx

node = helper.make_node


class Shaped(nn.Module):
    """Rows in another shape, the number of samples computed."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.size(0), *self.shape)


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Scaled(nn.Module):
    """What torchvision's Normalize does, inside the network."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
        return (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)


def conv(*args: Any, **options: Any) -> list[nn.Module]:
    return [nn.Conv2d(*args, **options), nn.BatchNorm2d(args[1]), nn.ReLU()]


NETWORKS: dict[str, tuple[tuple[int, ...], Callable[[], list[nn.Module]]]] = {
    "rows": ((64,), lambda: [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)]),
    "rows, batch norm, softmax": ((64,), lambda: [
        nn.BatchNorm1d(64), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(),
        nn.Linear(32, 10), nn.Softmax(1),
    ]),
    "colours to rows": ((3, 8, 8), lambda: [
        nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10), nn.LogSoftmax(1),
    ]),
    "residual": ((3, 9, 9), lambda: [
        *conv(3, 16, 3, padding=1), Residual(16), nn.MaxPool2d(2), Residual(16),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ]),
    "strided, scaled inside": ((3, 8, 8), lambda: [
        Scaled(), *conv(3, 16, 3, stride=2, padding=1), Residual(16), Mean(), nn.Linear(16, 10),
    ]),
    "pool before its ReLU": ((1, 12, 12), lambda: [
        nn.Conv2d(1, 6, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 16, 3), nn.ReLU(),
        nn.AvgPool2d(2), Shaped(-1), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 7),
    ]),
    "windows of all kinds": ((2, 13, 11), lambda: [
        nn.BatchNorm2d(2), *conv(2, 8, 2, stride=2), *conv(8, 8, 3, padding=1, groups=8),
        *conv(8, 8, (1, 3), padding=(0, 1)), nn.MaxPool2d(3, 2, padding=1), *conv(8, 12, 1),
        nn.MaxPool2d(2, 2, ceil_mode=True), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3),
    ]),
    "rows to pictures": ((144,), lambda: [
        Shaped(1, 12, 12), *conv(1, 6, 7, padding=3, stride=2), nn.AvgPool2d(3, 1, 1), Shaped(-1),
        nn.Linear(216, 4),
    ]),
}  # fmt: skip
OPEN = {"dynamic_axes": {"in": {0: "batch"}}}
FORMS: dict[str, dict[str, Any]] = {
    "one sample": {},
    "any number": OPEN,
    "nothing folded": {"training": torch.onnx.TrainingMode.PRESERVE, **OPEN},
    "opset 11": {"opset_version": 11, **OPEN},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_computes_what_onnxruntime_does(name: str, form: str, tmp_path: Path) -> None:
    shape, make = NETWORKS[name]
    torch.manual_seed(3)
    network = nn.Sequential(*make())
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    path = save(network.eval(), tmp_path / "net.onnx", shape, **FORMS[form])
    found = read_onnx(path)
    count = 1 if form == "one sample" else 7
    x = np.random.default_rng(0).normal(size=(count, found.inputs)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, {"in": found.feed(x)})
    logits = torch.from_numpy(found.logits(x))
    last = network[-1]
    ours = logits if isinstance(last, nn.Linear) else last(logits)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)
    assert found.file_bytes == path.stat().st_size


def test_windows_that_begin_elsewhere_are_told(tmp_path: Path) -> None:
    for side, moved in ((8, [True, False]), (9, [False, False])):
        layers = [*conv(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3), nn.ReLU()]
        places = ((side + 1) // 2 - 2) ** 2
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * places, 2)).eval()
        found = read_onnx(save(network, tmp_path / "net.onnx", (1, side, side)))
        assert [step.moved for step in found.trunk] == moved
        assert {step.layer.kernel for step in found.trunk} == {3}


def test_channels_last(tmp_path: Path) -> None:
    """As tools of TensorFlow write it: turned around before and after."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
        "head": rng.normal(size=(4 * 5 * 6, 2)).astype(np.float32),
        "shape": np.array([-1, 120], np.int64),
    }
    nodes = [
        node("Transpose", ["in"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w", "b"], ["c"], auto_pad="SAME_UPPER"),
        node("Relu", ["c"], ["r"]),
        node("Transpose", ["r"], ["u"], perm=[0, 2, 3, 1]),
        node("Reshape", ["u", "shape"], ["flat"]),
        node("MatMul", ["flat", "head"], ["out"]),
    ]
    path = write_graph(tmp_path / "net.onnx", nodes, constants, ("n", 5, 6, 3))
    found = read_onnx(path)
    assert (found.picture, found.channels_first) == ((5, 6, 3), False)
    x = rng.normal(size=(3, 90)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, {"in": found.feed(x)})
    np.testing.assert_allclose(found.logits(x), expected, atol=1e-4)


def test_pictures_whose_channels_come_last_where_the_data_say_so(tmp_path: Path) -> None:
    constants = {"w": np.random.default_rng(0).normal(size=(48, 2)).astype(np.float32)}
    nodes = [node("Flatten", ["in"], ["f"]), node("MatMul", ["f", "w"], ["out"])]
    path = write_graph(tmp_path / "net.onnx", nodes, constants, ("n", 4, 4, 3))
    x = np.random.default_rng(1).normal(size=(2, 48)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, {"in": x.reshape(2, 4, 4, 3)})
    np.testing.assert_allclose(read_onnx(path, (4, 4, 3)).logits(x), expected, atol=1e-4)


# ---- external data ----


def external(path: Path, **about: str) -> Path:
    """A file whose weights lie elsewhere."""
    weights = TensorProto(
        name="w", dims=[4, 2], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
    )
    for key, value in about.items():
        weights.external_data.add(key=key, value=value)
    return write_graph(
        path, [node("MatMul", ["in", "w"], ["out"], name="head")], {"w": weights}, ("n", 4)
    )


def test_data_beside_the_file(tmp_path: Path) -> None:
    weights = np.arange(8, dtype="<f4").reshape(4, 2)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"1234" + weights.tobytes())
    path = external(tmp_path / "net.onnx", location="sub/w.bin", offset="4", length="32")
    found = read_onnx(path)
    np.testing.assert_array_equal(found.layers[0].weights, weights.T)
    assert found.file_bytes == path.stat().st_size + 32


@pytest.mark.parametrize(
    "where", ["../w.bin", "absolute", "link", "sub/../../w.bin", "", "w.bin\0"]
)
def test_data_outside_the_folder_are_never_opened(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    outside = tmp_path / "w.bin"
    outside.write_bytes(bytes(32))
    (folder / "link").symlink_to(outside)
    location = str(outside) if where == "absolute" else where
    path = external(folder / "net.onnx", location=location)
    with pytest.raises(ModelError, match="outside the file's folder"):
        read_onnx(path)


@pytest.mark.parametrize(
    "about",
    [{"location": "none"}, {"location": "w.bin", "length": "40"}, {"location": "."},
     {"location": "w.bin", "offset": "-4"}, {"location": "w.bin", "offset": "x"}],
    ids=str,
)  # fmt: skip
def test_data_that_are_not_there(about: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(32))
    with pytest.raises(ModelError, match="not there or too short"):
        read_onnx(external(tmp_path / "net.onnx", **about))


def test_data_of_another_length(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    with pytest.raises(ModelError):
        read_onnx(external(tmp_path / "net.onnx", location="w.bin"))


# ---- what cannot be taken ----


def weights(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


W = {"w": weights(64, 10), "v": weights(64, 64), "k": weights(4, 1, 3, 3), "h": weights(64 * 4, 10)}
HEAD = node("MatMul", ["r", "w"], ["out"], name="head")
PICTURES = ("n", 1, 8, 8)
END = [node("Flatten", ["r"], ["f"]), node("MatMul", ["f", "h"], ["out"])]


def conv_node(**options: Any) -> Any:
    options = {"pads": [1, 1, 1, 1], **options}
    return node("Conv", ["in", "k"], ["c"], name="stem", **options)


REFUSED: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "unknown operator": ([node("Sigmoid", ["in"], ["r"], name="gate"), HEAD], {},
                         "node 1, Sigmoid 'gate'.*cannot be taken"),
    "own domain": ([node("Relu", ["in"], ["r"], domain="my.own", name="mine"), HEAD], {},
                   "node 1, Relu 'mine'.*domain 'my.own'"),
    "quantized": ([node("DequantizeLinear", ["in", "w"], ["r"], name="dq"), HEAD], {},
                  "node 1, DequantizeLinear 'dq'.*quantized already"),
    "float16 weights": ([HEAD], {"constants": {"w": weights(64, 10).astype(np.float16)}},
                        "float16|type"),
    "float16 input": ([node("MatMul", ["in", "w"], ["out"])],
                      {"kind": TensorProto.FLOAT16,
                       "constants": {"w": weights(64, 10).astype(np.float16)}},
                      "float16, not float32"),
    "float64": ([node("MatMul", ["in", "w"], ["out"])],
                {"kind": TensorProto.DOUBLE, "constants": {"w": weights(64, 10).astype(float)}},
                "double, not float32"),
    "open dimension": ([node("MatMul", ["in", "w"], ["out"])], {"shape": ("n", "wide")},
                       r"shape \['n', 'wide'\]"),
    "two inputs": ([node("MatMul", ["in", "w"], ["out"]), node("Relu", ["in2"], ["x"])],
                   {"inputs": ("in", "in2")}, "2 inputs and 1 outputs"),
    "two outputs": ([node("MatMul", ["in", "w"], ["out"]), node("Relu", ["out"], ["o2"])],
                    {"outputs": ("out", "o2")}, "1 inputs and 2 outputs"),
    "NaN": ([node("MatMul", ["in", "w"], ["out"], name="head")],
            {"constants": {"w": np.full((64, 10), np.nan, np.float32)}},
            "node 1, MatMul 'head'.*NaN"),
    "weights that are computed": ([node("MatMul", ["in", "in"], ["out"])], {}, "constants"),
    "old opset": ([node("MatMul", ["in", "w"], ["out"])], {"opset": 6}, "opset 6"),
    "rows of another width": ([HEAD], {"nodes_first": node("Relu", ["in"], ["r"])}, "cut off"),
    "ends with a ReLU": ([node("MatMul", ["in", "w"], ["p"]), node("Relu", ["p"], ["out"])], {},
                         "last Gemm or MatMul"),
    "two products": ([node("MatMul", ["in", "v"], ["r"], name="first"), HEAD], {},
                     "node 2, MatMul 'head'.*node 1, MatMul 'first'.*without a ReLU"),
    "used twice": ([node("MatMul", ["in", "v"], ["p"]), node("Relu", ["p"], ["q"]),
                    node("Add", ["p", "q"], ["r"], name="sum"), HEAD], {},
                   "node 2, Relu.*used 2 times"),
    "dilated": ([conv_node(dilations=[2, 2], pads=[2] * 4), node("Relu", ["c"], ["r"]), *END],
                {"shape": PICTURES}, "node 1, Conv 'stem'.*dilated"),
    "grouped": ([conv_node(group=2), node("Relu", ["c"], ["r"]), *END],
                {"shape": ("n", 2, 8, 8)}, "2 groups of 2"),
    "padded by 2": ([conv_node(pads=[2] * 4), node("Relu", ["c"], ["r"]), *END],
                    {"shape": PICTURES}, "cannot be had here"),
    "steps of 5": ([conv_node(strides=[5, 5]), node("Relu", ["c"], ["r"]), *END],
                   {"shape": PICTURES}, r"moves by \[5, 5\]"),
    "no ReLU behind": ([conv_node(), node("Flatten", ["c"], ["f"]), END[1]], {"shape": PICTURES},
                       "node 1, Conv 'stem' without a ReLU"),
    "batch norm behind a ReLU": (
        [conv_node(), node("Relu", ["c"], ["q"]),
         node("BatchNormalization", ["q", "s", "s", "s", "s"], ["r"], name="norm"), *END],
        {"shape": PICTURES, "constants": {**W, "s": np.ones(4, np.float32)}},
        "node 3, BatchNormalization 'norm'.*does not follow"),
    "the input added": ([conv_node(), node("Add", ["c", "in"], ["s"], name="sum"),
                         node("Relu", ["s"], ["r"]), *END], {"shape": PICTURES}, "node 2, Add"),
    "two convolutions added": (
        [conv_node(), node("Relu", ["c"], ["q"]), node("Conv", ["q", "k4"], ["x"]),
         node("Conv", ["q", "k4"], ["y"], name="shortcut"),
         node("Add", ["x", "y"], ["s"]), node("Relu", ["s"], ["r"]), *END],
        {"shape": PICTURES, "constants": {**W, "k4": weights(4, 4, 1, 1)}},
        "node 4, Conv 'shortcut'.*earlier layer"),
    "padded": ([node("Pad", ["in"], ["p"], name="edge", pads=[0, 0, 1, 1, 0, 0, 1, 1]),
                node("Conv", ["p", "k"], ["c"]), node("Relu", ["c"], ["r"]), *END],
               {"shape": PICTURES, "opset": 10}, "node 1, Pad 'edge'.*it pads"),
    **{
        f"average of {window}": (
            [conv_node(), node("Relu", ["c"], ["q"]),
             node("AveragePool", ["q"], ["r"], name="mean", kernel_shape=[window] * 2,
                  pads=[window] * 4, count_include_pad=1), *END],
            {"shape": PICTURES}, "node 3, AveragePool 'mean'.*from 1 to 7")
        for window in (0, 10**6)
    },
    "softmax inside": ([node("Softmax", ["in"], ["r"]), HEAD], {}, "must be the end"),
    "behind the softmax": ([node("MatMul", ["in", "w"], ["p"]), node("Softmax", ["p"], ["q"]),
                            node("Mul", ["q", "two"], ["out"], name="double")],
                           {"constants": {**W, "two": np.full(1, 2, np.float32)}},
                           "node 3, Mul 'double'.*behind the Softmax"),
    "one class": ([node("MatMul", ["in", "w"], ["out"])], {"constants": {"w": weights(64, 1)}},
                  "1 outputs"),
    "no path from the input": ([node("MatMul", ["v", "w"], ["out"], name="head")], {},
                               "node 1, MatMul 'head'.*does not depend"),
    "too many layers": ([node("MatMul", ["in" if i == 0 else f"r{i}", "v"], [f"p{i}"])
                         if half == 0 else node("Relu", [f"p{i}"], [f"r{i + 1}"])
                         for i in range(9) for half in (0, 1)]
                        + [node("MatMul", ["r9", "w"], ["out"])], {}, "10 behind them"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    nodes, options, said = REFUSED[case]
    options = dict(options)
    first = options.pop("nodes_first", None)
    nodes = [*([first] if first is not None else []), *nodes]
    used = {name for one in nodes for name in one.input}
    constants = {n: v for n, v in options.pop("constants", W).items() if n in used}
    shape = options.pop("shape", ("n", 64))
    path = write_graph(tmp_path / "net.onnx", nodes, constants, shape, **options)
    with pytest.raises(ModelError) as error:
        read_onnx(path)
    assert re.search(said, error.value.message, re.DOTALL), error.value.message
    assert str(path) in error.value.message


def test_no_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    for blob in (b"", b"\x89ZGE not a model", bytes(1000), np.random.default_rng(0).bytes(5000)):
        path.write_bytes(blob)
        with pytest.raises(ModelError, match="no ONNX file"):
            read_onnx(path)
    with pytest.raises(ModelError, match="cannot be read"):
        read_onnx(tmp_path / "none.onnx")
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(ModelError, match="cannot be read: it is no file"):
            read_onnx(path)


def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    """Cut off anywhere, or with any byte changed: never anything but our own error."""
    torch.manual_seed(0)
    layers = [*conv(1, 4, 3, padding=1), Residual(4), nn.MaxPool2d(2), Shaped(-1), nn.Linear(16, 3)]
    path = save(nn.Sequential(*layers).eval(), tmp_path / "net.onnx", (1, 4, 4), **OPEN)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in range(0, len(whole), 61):
        path.write_bytes(whole[:at])
        with pytest.raises(ModelError):
            read_onnx(path)
    names = len(whole) - 800
    for at in [*rng.integers(0, len(whole), 150), *rng.integers(names, len(whole), 150)]:
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            read_onnx(path)
        except ModelError as e:
            assert str(path) in e.message  # noqa: PT017


def test_newest_opset_that_onnx_knows(tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    nodes = [node("MatMul", ["in", "w"], ["out"])]
    assert read_onnx(
        write_graph(tmp_path / "net.onnx", nodes, {"w": W["w"]}, opset=newest)
    ).classes == 10  # fmt: skip
