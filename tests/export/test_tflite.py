"""TFLite: the core's integers under XNNPACK, a step away in other kernels, readable everywhere."""

from __future__ import annotations

import io
import json
import re
import sys
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import zgedge
from tests import nets
from tests.core import reference
from tests.export import models
from tests.export.models import NETWORKS, opened
from zgedge import arena
from zgedge.errors import MissingExtraError, UsageError, ZgedgeError
from zgedge.export import tflite as exporter
from zgedge.export import to_tflite
from zgedge.export.check import check, compare
from zgedge.export.source import check_inputs, dense_rows
from zgedge.export.tflite import BLOCK, FORMS, OPERATORS, open_in_litert, pair, runner
from zgedge.network import (
    MEAN_POOL,
    Network,
    TrunkLayer,
    conv,
    dense,
    depthwise,
    mean_pool,
    sparse,
)
from zgedge.runtime import Model

t = pytest.importorskip("tflite")
pytest.importorskip("ai_edge_litert")

# Of these no layer is smaller in blocks of 16.
DENSE_ONLY = [name for name in NETWORKS if not name.startswith("sparse-b")]
PICTURE = nets.network(
    (28, 28, 1), (sparse(784, 64, 32, 16),), 10, task="picture", learning=False, batch=1
)
CODE_NAMES = {v: k for k, v in vars(t.BuiltinOperator).items() if isinstance(v, int)}
TYPE_NAMES = {v: k for k, v in vars(t.TensorType).items() if isinstance(v, int)}


class Read:
    """What a file says, by the schema's own reader."""

    def __init__(self, data: bytes) -> None:
        assert t.Model.ModelBufferHasIdentifier(data, 0)
        self.model = t.Model.GetRootAs(data, 0)
        self.graph = self.model.Subgraphs(0)
        self.tensors = {
            self.graph.Tensors(i).Name().decode(): self.graph.Tensors(i)
            for i in range(self.graph.TensorsLength())
        }
        codes = [self.model.OperatorCodes(i) for i in range(self.model.OperatorCodesLength())]
        self.operators = [
            (CODE_NAMES[codes[op.OpcodeIndex()].BuiltinCode()], codes[op.OpcodeIndex()].Version())
            for op in map(self.graph.Operators, range(self.graph.OperatorsLength()))
        ]
        self.metadata = {
            entry.Name().decode(): bytes(self.model.Buffers(entry.Buffer()).DataAsNumpy())
            for entry in map(self.model.Metadata, range(self.model.MetadataLength()))
        }

    def kind(self, name: str) -> str:
        return TYPE_NAMES[self.tensors[name].Type()]

    def scales(self, name: str) -> npt.NDArray[np.float32]:
        return self.tensors[name].Quantization().ScaleAsNumpy()  # type: ignore[no-any-return]

    def content(self, name: str) -> npt.NDArray[np.uint8]:
        return self.model.Buffers(self.tensors[name].Buffer()).DataAsNumpy()  # type: ignore[no-any-return]


@cache
def exported(name: str, **options: Any) -> tuple[Model, bytes]:
    model = opened(NETWORKS[name])
    return model, to_tflite(model, **options)


def plain(network: Network = PICTURE, seed: int = 0) -> Model:
    """A model whose raw values are its codes, as pixels in 0 .. 255 are."""
    p = nets.parameters(network, seed)
    return opened(network, replace(p, input_scale=np.ones(1, np.float32)))


# ---- the same integers ----


@pytest.mark.parametrize("name", NETWORKS)
def test_dense_gives_the_cores_logits(name: str) -> None:
    model, data = exported(name)
    found = check(model, "tflite", data)
    assert found.identical, found
    assert found.compared == sum(found.sources.values()) * NETWORKS[name].classes
    assert found.sources == {"random": 64, "extreme": 25}


@pytest.mark.parametrize("name", ["sparse-b4", "table", "residual"])
def test_logits_are_those_of_plain_numpy_too(name: str) -> None:
    network = NETWORKS[name]
    p = nets.parameters(network, 7)
    x, _ = nets.samples(network, 50)
    model = opened(network, p)
    logits = runner(model, to_tflite(model))(x)
    assert np.array_equal(logits, nets.reference_logits(network, p, x))
    assert len(np.unique(logits)) > 50


@pytest.mark.parametrize("seed", range(12))
def test_trunks_of_any_kind_give_the_cores_logits(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    shape = (int(rng.integers(1, 17)), int(rng.integers(1, 17)), int(rng.choice([1, 3])))
    trunk = nets.random_trunk(rng, shape, int(rng.integers(1, 6)))
    model = opened(nets.network(shape, (), 4, trunk=trunk, task="picture"), seed=seed)
    assert check(model, "tflite", to_tflite(model)).identical, trunk


@pytest.mark.parametrize("sign", [1, -1, 0])
@pytest.mark.parametrize(
    "name", ["sparse-b16", "head-only", "convolution", "depthwise", "residual"]
)
def test_largest_products_do_not_saturate(name: str, sign: int) -> None:
    """255 * 127 * 2 is more than 16 bits hold: what a processor without VNNI adds pairs in."""
    network = NETWORKS[name]
    model = opened(network, models.extreme(network, sign))
    x = np.full((2, network.inputs), 2, np.float32)
    x[1] = np.arange(network.inputs) % 2 * 2
    for kernels in ("xnnpack", "optimized"):
        ours, theirs = model.logits(x), runner(model, to_tflite(model), kernels)(x)
        if kernels == "xnnpack" or not network.trunk:
            assert np.array_equal(ours, theirs)
        if sign == 1 or name == "head-only":
            assert np.abs(theirs).max() > 2 * 255 * 127


@pytest.mark.parametrize("seed", range(4))
def test_multipliers_that_no_runtime_takes_round_the_same(seed: int) -> None:
    """Multipliers far outside what XNNPACK takes, and sums at the ends of int32."""
    rng = np.random.default_rng(seed)
    trunk = nets.random_trunk(rng, (8, 8, 2), 3)
    network = nets.network((8, 8, 2), (), 4, trunk=trunk, task="picture")
    p = nets.parameters(network, seed)
    p = replace(p, trunk=nets.trunk_parameters(trunk, rng, 1 / 255, extreme=True))
    model = opened(network, p)
    assert check(model, "tflite", to_tflite(model)).identical
    layers = (dense(20, 12),)
    network = nets.network((1, 20, 1), layers, 3)
    p = nets.parameters(network, seed)
    most = 2**31 - 1 - 20 * 255 * 127
    wild = replace(
        p.layers[0],
        multiplier=rng.choice([1e-45, 2.9e38, 1e-7, 255 / 2**31], 12).astype(np.float32),
        bias=rng.choice([-most, most, 0], 12).astype(np.int32),
    )
    model = opened(network, replace(p, layers=[wild, p.layers[1]]))
    assert check(model, "tflite", to_tflite(model)).identical


def test_means_that_lie_between_two_codes_round_to_even() -> None:
    network = nets.network((2, 4, 3), (), 4, task="picture", trunk=(mean_pool((2, 4, 3)),))
    p = nets.parameters(network)
    (pool,) = p.trunk
    p = replace(p, trunk=[replace(pool, s_out=pool.s_in)], input_scale=np.ones(1, np.float32))
    p = replace(p, layers=[replace(p.layers[0], s_in=pool.s_in)])
    model = opened(network, p)
    x = np.random.default_rng(0).integers(0, 256, (200, 24)).astype(np.float32)
    assert np.count_nonzero(x.reshape(200, 8, 3).sum(1) % 8 == 4) > 50
    assert np.array_equal(runner(model, to_tflite(model))(x), model.logits(x))


@pytest.mark.parametrize("block", [1, 4])
def test_a_learned_file_exports_the_same(block: int) -> None:
    network = nets.network((1, 24, 1), (sparse(24, 12, 8, block),))
    model = models.learned(network)
    assert not np.array_equal(model.arena.weights(0), opened(network).arena.weights(0))
    assert check(model, "tflite", to_tflite(model)).identical


def test_rows_with_multipliers_of_their_own() -> None:
    network = NETWORKS["dense"]
    p = nets.parameters(network)
    own = p.layers[0].multiplier * np.linspace(0.5, 2, 17, dtype=np.float32)
    model = opened(
        network, replace(p, layers=[replace(p.layers[0], multiplier=own), *p.layers[1:]])
    )
    data = to_tflite(model)
    assert check(model, "tflite", data).identical
    read = Read(data)
    assert np.array_equal(read.scales("dense0/weights"), own)
    assert len(read.scales("dense1/weights")) == 1
    assert [v for name, v in read.operators if name == "FULLY_CONNECTED"] == [12, 4, 1]


def test_many_samples_at_once_are_the_same() -> None:
    for name in ("sparse-b8", "residual", "table"):
        model, data = exported(name)
        x, _ = nets.samples(NETWORKS[name], 33)
        interpreter = open_in_litert(data)
        (given,) = interpreter.get_input_details()
        interpreter.resize_tensor_input(given["index"], [33, *given["shape"][1:]])
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x.reshape(33, *given["shape"][1:]))
        interpreter.invoke()
        (made,) = interpreter.get_output_details()
        assert np.array_equal(interpreter.get_tensor(made["index"]), model.logits(x))


# ---- kernels that requantize with a fixed-point multiplier ----


def _one_layer(*trunk: TrunkLayer) -> Network:
    return nets.network(trunk[0].shape, (), 4, task="picture", trunk=trunk)


_SHAPE = (12, 10, 6)
ONE_LAYER = {
    "sparse0": nets.network((12, 60, 1), (sparse(720, 64, 32, 16),), 10, task="picture"),
    "conv0": _one_layer(conv(_SHAPE, 16)),
    "depthwise0": _one_layer(depthwise(_SHAPE, 5, 2)),
    "mean_pool0": _one_layer(mean_pool(_SHAPE)),
    "residual": _one_layer(conv(_SHAPE, 6, add=0)),
}


def codes_of_the_layer(model: Model, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Codes [n, outputs] of the one layer before the head, by numpy."""
    network, q = model.arena.network, codes.astype(np.int64)
    if network.trunk:
        return reference.features(network, reference.trunk_of(model.arena), q)
    bias, multiplier = model.arena.rows(0)
    acc = q @ dense_rows(model.arena, 0).T.astype(np.int64) + bias
    return np.rint(np.clip(acc.astype(np.float32) * multiplier, 0, 255)).astype(np.int64)


@pytest.mark.parametrize(
    ("name", "form", "kernels"),
    [
        *((name, "dense", kernels) for name in ONE_LAYER for kernels in ("optimized", "reference")),
        ("sparse0", "sparse", "optimized"),
    ],
)
def test_codes_are_at_most_one_step_away(name: str, form: str, kernels: str) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    model = plain(ONE_LAYER[name])
    kind = {
        "optimized": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "reference": OpResolverType.BUILTIN_REF,
    }[kernels]
    interpreter = Interpreter(
        None, to_tflite(model, form), experimental_op_resolver_type=kind,
        experimental_preserve_all_tensors=True, num_threads=1,
    )  # fmt: skip
    interpreter.allocate_tensors()
    at = {d["name"]: d["index"] for d in interpreter.get_tensor_details()}
    (given,) = interpreter.get_input_details()
    layer = "conv0" if name == "residual" else name
    codes = np.random.default_rng(0).integers(0, 256, (200, model.inputs)).astype(np.uint8)
    theirs = []
    for row in codes:
        interpreter.set_tensor(given["index"], row.reshape(given["shape"]))
        interpreter.invoke()
        theirs.append(interpreter.get_tensor(at[f"{layer}/codes"]).astype(np.int64).ravel() + 128)
    ours = codes_of_the_layer(model, codes)
    apart = np.abs(ours - np.array(theirs))
    assert apart.max() <= 1
    assert np.count_nonzero(apart) < 0.03 * apart.size
    assert len(np.unique(ours)) > 10


def test_the_head_is_exact_in_every_kernel() -> None:
    network = nets.network((1, 300, 1), (), 7)
    model = opened(network)
    for kernels in ("xnnpack", "optimized"):
        run = runner(model, to_tflite(model), kernels)
        assert compare(lambda x, run=run: (model.logits(x), run(x)), check_inputs(model)).identical


# ---- the sparse encoding ----


@pytest.mark.parametrize("block", [1, 4, 8, 16])
def test_sparse_gives_the_integers_of_dense_without_xnnpack(block: int) -> None:
    network = nets.network(
        (28, 28, 1), (sparse(784, 48, 32, block), sparse(48, 32, 16, block)), 10, task="picture"
    )
    model = opened(network)
    data = to_tflite(model, "sparse")
    run, other = (runner(model, d, "optimized") for d in (data, to_tflite(model)))
    for _, x in check_inputs(model):
        assert np.array_equal(run(x), other(x))
    found = check(model, "tflite", data)
    assert found.same_class >= 0.95, found


@pytest.mark.parametrize("block", [1, 4, 8, 16])
def test_blocks_hold_every_weight_and_no_more(block: int) -> None:
    network = nets.network((28, 28, 1), (sparse(784, 48, 32, block),), 10, task="picture")
    model = opened(network)
    (blocks,) = exporter.sparse_blocks(model.arena).values()
    full = np.zeros((48, 784 // BLOCK, BLOCK), np.int8)
    rows = np.repeat(np.arange(48), np.diff(blocks.starts))
    full[rows, blocks.places] = blocks.values
    assert np.array_equal(full.reshape(48, 784), dense_rows(model.arena, 0))
    assert blocks.values.any(axis=1).all()
    if block == BLOCK:
        assert blocks.values.size == network.layers[0].weights
    read = Read(to_tflite(model, "sparse"))
    assert read.content("sparse0/weights").tobytes() == blocks.values.tobytes()
    assert ("FULLY_CONNECTED", 8) in read.operators


def test_sparse_file_is_a_fraction_of_the_dense_one() -> None:
    network = nets.network(
        (28, 28, 1), (sparse(784, 896, 32, 16), sparse(896, 64, 32, 16)), 10, task="picture",
        learning=False, batch=1,
    )  # fmt: skip
    model = opened(network)
    ours = len(model.arena.buffer)
    dense_bytes, sparse_bytes = (len(to_tflite(model, form)) for form in FORMS)
    assert dense_bytes > 750_000
    assert sparse_bytes < 1.1 * ours
    assert sparse_bytes < 0.065 * dense_bytes


@pytest.mark.parametrize("name", DENSE_ONLY)
def test_what_the_encoding_does_not_make_smaller_is_refused(name: str) -> None:
    with pytest.raises(ZgedgeError, match="No layer is smaller") as caught:
        to_tflite(opened(NETWORKS[name]), "sparse")
    assert caught.value.hint == "Take the form dense."
    for i, layer in enumerate(NETWORKS[name].layers[:-1]):
        reason = f"{layer.kind}{i} has {layer.inputs} inputs" if layer.inputs % BLOCK else "bytes"
        assert reason in caught.value.message


def test_sparse_rows_with_multipliers_of_their_own_and_many_blocks() -> None:
    network = nets.network((1, 8192, 1), (sparse(8192, 16, 64, 16),), 3)
    p = nets.parameters(network)
    own = p.layers[0].multiplier * np.linspace(0.5, 2, 16, dtype=np.float32)
    model = opened(network, replace(p, layers=[replace(p.layers[0], multiplier=own), p.layers[1]]))
    data = to_tflite(model, "sparse")
    assert Read(data).operators[-4] == ("FULLY_CONNECTED", 12)
    run, other = (runner(model, d, "optimized") for d in (data, to_tflite(model)))
    for _, x in check_inputs(model):
        assert np.array_equal(run(x), other(x))


def test_a_layer_without_weights_stays_dense() -> None:
    network = nets.network(
        (8, 8, 1), (sparse(64, 48, 16, 16), sparse(48, 32, 16, 16)), 4, task="picture"
    )
    p = nets.parameters(network)
    p.layers[1].weights[:] = 0
    model = opened(network, p)
    data = to_tflite(model, "sparse")
    assert [v for name, v in Read(data).operators if name == "FULLY_CONNECTED"] == [8, 4, 1]
    assert check(model, "tflite", data).compared
    p.layers[0].weights[:] = 0
    with pytest.raises(ZgedgeError, match="sparse0 holds no weight; sparse1 holds no weight"):
        to_tflite(opened(network, p), "sparse")


def test_layers_that_gain_nothing_stay_dense() -> None:
    network = nets.network((8, 8, 1), (sparse(64, 48, 16, 16), dense(48, 16)), 4, task="picture")
    model = opened(network)
    read = Read(to_tflite(model, "sparse"))
    assert [v for name, v in read.operators if name == "FULLY_CONNECTED"] == [8, 4, 1]


# ---- the input ----


@pytest.mark.parametrize("kind", ["float32", "uint8", "int8"])
def test_every_type_of_input_gives_the_cores_logits(kind: str) -> None:
    model = plain()
    data = to_tflite(model, input_type=kind)
    (given,) = open_in_litert(data).get_input_details()
    assert given["dtype"] == np.dtype(kind)
    assert check(model, "tflite", data).identical


def test_pixels_are_uint8_and_all_else_float32() -> None:
    assert Read(to_tflite(plain())).kind("input") == "UINT8"
    for name in ("sparse-b1", "table", "series", "residual"):
        assert Read(exported(name)[1]).kind("input") == "FLOAT32"


@pytest.mark.parametrize("kernels", ["xnnpack", "optimized"])
@pytest.mark.parametrize("groups", [1, 24], ids=["zero-0", "zero-128"])
def test_float_input_rounds_halves_to_even_and_takes_anything(groups: int, kernels: str) -> None:
    network = nets.network((1, 24, 1), (), 3, groups=groups)
    p = replace(
        nets.parameters(network),
        input_scale=np.full(groups, 2, np.float32), input_center=np.zeros(groups, np.float32),
    )  # fmt: skip
    model = opened(network, p)
    x = np.full((8, 24), 0, np.float32)
    x[0] = np.arange(24) / 4  # steps of a half
    x[1] = -np.arange(24) / 4
    x[2:] = np.array([3e38, -3e38, 1e9, -1e9, 256.24, -0.26])[:, None]
    assert np.array_equal(runner(model, to_tflite(model), kernels)(x), model.logits(x))


@pytest.mark.parametrize("name", ["table", "sparse-b1", "residual"])
def test_raw_values_that_are_no_codes_are_not_uint8(name: str) -> None:
    with pytest.raises(UsageError, match="no codes"):
        to_tflite(opened(NETWORKS[name]), input_type="uint8")


def test_operations_that_do_nothing_are_left_out() -> None:
    def before_codes(model: Model) -> list[str]:
        names = [name for name, _ in Read(to_tflite(model, input_type="float32")).operators]
        return names[: names.index("QUANTIZE") + 1]

    rest = ["MAXIMUM", "MINIMUM", "ROUND", "QUANTIZE"]
    assert before_codes(plain()) == rest
    assert before_codes(opened(NETWORKS["sparse-b1"])) == ["MUL", *rest]
    assert before_codes(opened(NETWORKS["table"])) == ["SUB", "MUL", *rest]


# ---- the head ----


@pytest.mark.parametrize("name", ["sparse-b4", "table", "residual"])
def test_softmax_is_that_of_the_logits(name: str) -> None:
    model, data = exported(name, softmax=True)
    interpreter = open_in_litert(data)
    run = interpreter.get_signature_runner("serving_default")
    shape = interpreter.get_input_details()[0]["shape"]
    assert [d["name"] for d in interpreter.get_output_details()] == ["probabilities", "logits"]
    s_in, s_w, _, _ = model.arena.scales[-1]
    for row in nets.samples(NETWORKS[name], 20)[0]:
        found = run(input=row.reshape(shape))
        logits = model.logits(row[None])
        assert np.array_equal(found["logits"], logits)
        e = np.exp((logits - logits.max()) * (s_in * s_w))
        assert np.abs(found["probabilities"] - e / e.sum()).max() < 1e-5
    assert check(model, "tflite", data).identical


def test_a_head_whose_sums_float32_would_round_is_refused() -> None:
    network = nets.network((1, 700, 1), (), 3)
    p = nets.parameters(network)
    p.layers[0].weights[:] = 1
    p.layers[0].weights[1] = 127
    with pytest.raises(ZgedgeError, match="row 1 may reach 22,6"):
        to_tflite(opened(network, p))
    wide = nets.network((1, 1200, 1), (), 3)
    q = nets.parameters(wide)
    q.layers[0].weights[:] = 1
    q.layers[0].weights[2] = np.where(np.arange(1200) % 2, 127, -127)
    with pytest.raises(ZgedgeError, match="row 2 may reach 19,4"):
        to_tflite(opened(wide, q))
    p.layers[0].weights[1, ::2] = -127  # what is added and what is taken away are looked at apart
    model = opened(network, p)
    assert check(model, "tflite", to_tflite(model)).identical


# ---- the file ----


@pytest.mark.parametrize("name", NETWORKS)
def test_names_say_layer_and_role(name: str) -> None:
    network = NETWORKS[name]
    read = Read(exported(name)[1])
    assert len(read.tensors) == read.graph.TensorsLength(), "two tensors have one name"
    layers = {f"{x.kind.replace('-', '_')}{i}" for i, x in enumerate(network.trunk)}
    layers |= {f"{x.kind}{i}" for i, x in enumerate(network.layers[:-1])} | {"head"}
    assert {n.partition("/")[0] for n in read.tensors} == layers | {"input", "logits"}


def test_signature_names_input_and_outputs() -> None:
    for softmax, names in ((False, ["logits"]), (True, ["probabilities", "logits"])):
        interpreter = open_in_litert(exported("residual", softmax=softmax)[1])
        (key,) = interpreter.get_signature_list()
        assert key == "serving_default"
        assert interpreter.get_signature_list()[key]["inputs"] == ["input"]
        assert sorted(interpreter.get_signature_list()[key]["outputs"]) == sorted(names)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("residual", [9, 7, 3]), ("sparse-b1", [8, 8, 1]), ("table", [24]), ("series", [6, 4])],
)
def test_input_is_a_picture_or_a_row_of_features(name: str, shape: list[int]) -> None:
    (given,) = open_in_litert(exported(name)[1]).get_input_details()
    assert given["shape"].tolist() == [1, *shape]
    assert given["shape_signature"].tolist() == [-1, *shape]


def test_weights_are_as_stored_and_scales_are_the_multipliers() -> None:
    model, data = exported("residual")
    read = Read(data)
    for i, layer in enumerate(NETWORKS["residual"].trunk):
        if layer.kind == MEAN_POOL:
            continue
        weights, (bias, multiplier) = model.arena.trunk_weights(i), model.arena.trunk_rows(i)
        assert weights is not None
        assert read.content(f"conv{i}/weights").tobytes() == weights.tobytes()
        assert read.content(f"conv{i}/bias").tobytes() == bias.tobytes()
        assert np.array_equal(read.scales(f"conv{i}/weights"), multiplier)
        assert np.array_equal(read.scales(f"conv{i}/bias"), multiplier)
    for name, tensor in read.tensors.items():
        if name.endswith("/codes"):
            assert read.kind(name) == "INT8"
            assert (read.scales(name), tensor.Quantization().ZeroPoint(0)) == ([1], -128)


def test_metadata_say_what_the_model_is() -> None:
    network = NETWORKS["residual"]
    p = replace(nets.parameters(network), budget=12_345, accuracy=0.5, unknown=16_384)
    read = Read(to_tflite(opened(network, p)))
    told = {name: text.decode() for name, text in read.metadata.items() if name.islower()}
    assert json.loads(told["classes"]) == ["0", "1", "2", "3", "4"]
    assert told["zgedge_version"] == zgedge.__version__
    assert json.loads(told["budget"]) == 12_345
    assert json.loads(told["accuracy"]) == 0.5
    assert told["form"] == "dense"
    step = np.float32(p.layers[-1].s_in) * np.float32(p.layers[-1].s_w)
    assert np.float32(json.loads(told["logit_scale"])) == step
    assert read.model.Description().decode() == f"zgedge {zgedge.__version__}"


def test_labels_lie_behind_the_model() -> None:
    network = nets.network(
        (1, 24, 1), (), 3, names_bytes=len(arena.names_blob(["ä b", "c\nd", "e"]))
    )
    p = replace(nets.parameters(network), class_names=["ä b", "c\nd", "e"], int_classes=False)
    data = to_tflite(opened(network, p))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == ["ä b", "c d", "e"]


def flat(table: Any, field: int) -> Any:
    """The table in a field of a flatbuffers table."""
    import flatbuffers

    offset = table.Offset(4 + 2 * field)
    return flatbuffers.table.Table(table.Bytes, table.Indirect(offset + table.Pos))


def first(table: Any, field: int) -> Any:
    """The first table of a vector in a field."""
    import flatbuffers

    start = table.Vector(table.Offset(4 + 2 * field))
    return flatbuffers.table.Table(table.Bytes, table.Indirect(start))


def text(table: Any, field: int) -> str:
    return table.String(table.Offset(4 + 2 * field) + table.Pos).decode()  # type: ignore[no-any-return]


def test_androids_metadata_name_input_output_and_labels() -> None:
    import flatbuffers

    raw = Read(to_tflite(plain(), softmax=True)).metadata["TFLITE_METADATA"]
    assert raw[4:8] == b"M001"
    root = flatbuffers.table.Table(raw, int.from_bytes(raw[:4], "little"))
    assert (text(root, 0), text(root, 2), text(root, 7)) == ("zgedge", zgedge.__version__, "1.0.0")
    subgraph = first(root, 3)
    given, made = first(subgraph, 2), first(subgraph, 3)
    assert (text(given, 0), text(made, 0)) == ("input", "probabilities")
    labels = first(made, 6)
    assert text(labels, 0) == "labels.txt"
    assert raw[labels.Pos + labels.Offset(8)] == 2  # TENSOR_AXIS_LABELS
    image = flat(flat(given, 3), 1)
    assert raw[image.Pos + image.Offset(4)] == 2  # GRAYSCALE


def test_same_model_same_bytes() -> None:
    for form in FORMS:
        first, second = (to_tflite(opened(NETWORKS["sparse-b4"]), form) for _ in range(2))
        assert first == second


def test_no_sample_leaves_with_it() -> None:
    model, emptied = models.remembering(), models.remembering()
    zgedge.Learner(emptied).forget()
    assert to_tflite(model) == to_tflite(emptied)
    assert check(model, "tflite", to_tflite(model)).sources["remembered"] == 40


# ---- TFLite Micro ----

# Of the operators that MicroMutableOpResolver of tensorflow/tflite-micro registers
# (tensorflow/lite/micro/micro_mutable_op_resolver.h), those whose kernels take these types: int8
# for all that compute codes, float32 for those before and behind them.
MICRO = {
    "ADD": "int8",
    "CONV_2D": "int8",
    "DEPTHWISE_CONV_2D": "int8",
    "DEQUANTIZE": "int8 to float32",
    "FULLY_CONNECTED": "int8 and float32",
    "MAXIMUM": "float32",
    "MAX_POOL_2D": "int8",
    "MINIMUM": "float32",
    "MUL": "float32",
    "QUANTIZE": "float32 and uint8 to int8",
    "ROUND": "float32",
    "SOFTMAX": "float32",
    "SUB": "float32",
}


def test_every_operator_is_one_of_tflite_micros() -> None:
    found = set()
    for name in NETWORKS:
        found |= {op for op, _ in Read(exported(name, softmax=True)[1]).operators}
    found |= {op for op, _ in Read(to_tflite(plain())).operators}
    assert found == set(OPERATORS) <= set(MICRO)


def test_the_page_lists_these_operators(root: Path) -> None:
    section = (root / "docs" / "export.md").read_text().partition("### TFLite Micro\n")[2]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(OPERATORS)


def test_tflite_micro_takes_blocks_for_rows() -> None:
    """Why the page warns of the sparse form there: where this fails, it reads the encoding now."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    model = plain()
    micro = runtime.Interpreter.from_bytes(to_tflite(model, "sparse"), arena_size=1 << 20)
    x = np.random.default_rng(0).integers(0, 256, (20, 784)).astype(np.uint8)
    classes = []
    for row in x:
        micro.set_input(row.reshape(1, 28, 28, 1), 0)
        micro.invoke()
        classes.append(int(micro.get_output(0).argmax()))
    assert (np.array(classes) == model.logits(x).argmax(axis=1)).mean() < 0.9


@pytest.mark.parametrize("name", [*NETWORKS, "uint8", "int8"])
def test_tflite_micro_runs_it(name: str) -> None:
    """The real interpreter, with its reference kernels: the logits of LiteRT's own kernels."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    if name in NETWORKS:
        model, data = exported(name)
    else:
        model = plain()
        data = to_tflite(model, input_type=name)
    micro = runtime.Interpreter.from_bytes(data, arena_size=1 << 20)
    details = micro.get_input_details(0)
    feed = exporter.feeder(model.arena, details["dtype"], tuple(details["shape"][1:]))

    def run(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        out = []
        for row in feed(x):
            micro.set_input(row[None], 0)
            micro.invoke()
            out.append(micro.get_output(0)[0].astype(np.int64))
        return np.array(out)

    found = compare(lambda x: (model.logits(x), run(x)), check_inputs(model))
    assert found.same_class >= 0.95, found
    if not model.arena.network.trunk:
        other = runner(model, data, "optimized")
        for _, x in check_inputs(model):
            assert np.array_equal(run(x), other(x))


# ---- what is refused ----


def test_unknown_options_are_refused() -> None:
    model = opened(NETWORKS["table"])
    with pytest.raises(UsageError, match="'qdq' is no form"):
        to_tflite(model, "qdq")
    with pytest.raises(UsageError, match="'int16' is no type"):
        to_tflite(model, input_type="int16")


@pytest.mark.parametrize("package", ["tflite", "flatbuffers"])
def test_missing_packages_are_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"{package} is not installed") as caught:
        to_tflite(opened(NETWORKS["table"]))
    assert "zgedge[export]" in str(caught.value)


def test_a_check_without_litert_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = exported("table")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingExtraError, match="ai_edge_litert is not installed"):
        pair(model, data)


def test_what_litert_does_not_take_is_an_error_that_says_so() -> None:
    model, data = exported("table")
    with pytest.raises(ZgedgeError, match="LiteRT does not take the export") as caught:
        pair(model, data[:8])
    assert "zgedge[export]" in str(caught.value)
