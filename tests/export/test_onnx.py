"""ONNX: the core's integers in two forms, int8 pairs for TensorRT in the third."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

import zgedge
from tests import nets
from tests.export import models
from tests.export.models import NETWORKS, opened
from zgedge import arena
from zgedge.errors import DataError, MissingExtraError, UsageError, ZgedgeError
from zgedge.export import onnx as onnx_export
from zgedge.export import to_onnx
from zgedge.export.check import check
from zgedge.export.onnx import pair
from zgedge.export.source import check_inputs
from zgedge.network import Network, conv, dense, sparse
from zgedge.runtime import Model

EXACT = ("sparse", "qoperator")
FORMS = (*EXACT, "qdq")
BASIC = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
NONE = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def session(data: bytes, level: Any = None, optimized: Path | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if level is not None:
        options.graph_optimization_level = level
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def outputs(data: bytes, x: npt.NDArray[np.float32], level: Any = None) -> list[Any]:
    run = session(data, level)
    (given,) = run.get_inputs()
    return run.run(None, {given.name: x.reshape(len(x), *given.shape[1:])})  # type: ignore[no-any-return]


EXPORTS = [pytest.param(name, form, id=f"{name}:{form}") for name in NETWORKS for form in FORMS]


# ---- the same integers ----


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_cores(name: str, form: str) -> None:
    model = opened(NETWORKS[name])
    found = check(model, "onnx", to_onnx(model, form))
    assert found.identical, found
    assert found.compared == sum(found.sources.values()) * NETWORKS[name].classes
    assert found.sources == {"random": 64, "extreme": 25}


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("name", ["sparse-b4", "table", "residual"])
def test_logits_are_those_of_plain_numpy_too(name: str, form: str) -> None:
    network = NETWORKS[name]
    p = nets.parameters(network, 7)
    x, _ = nets.samples(network, 50)
    logits = outputs(to_onnx(opened(network, p), form), x)[0]
    assert np.array_equal(logits, nets.reference_logits(network, p, x))
    assert len(np.unique(logits)) > 50


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("name", NETWORKS)
def test_softmax_is_the_cores(name: str, form: str) -> None:
    network = NETWORKS[name]
    model = opened(network, replace(nets.parameters(network), unknown=20_000))
    data = to_onnx(model, form, softmax=True)
    for _, x in check_inputs(model):
        logits, probabilities, label = outputs(data, x)
        classes, scores = model.predict_index(x)
        assert np.array_equal(logits, model.logits(x))
        assert np.array_equal(label, classes)
        shares = probabilities.max(axis=1) * 32768
        assert np.array_equal(shares, scores.astype(np.float32))
        assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-3


def test_a_threshold_calls_samples_unknown() -> None:
    network = NETWORKS["table"]
    x, _ = nets.samples(network, 200)
    found = {}
    for threshold in (0, 20_000):
        model = opened(network, replace(nets.parameters(network), unknown=threshold))
        found[threshold] = outputs(to_onnx(model, softmax=True), x)[2]
    assert found[0].min() == 0
    assert 0 < np.count_nonzero(found[20_000] == -1) < 200


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("level", [NONE, BASIC], ids=["unoptimized", "basic"])
def test_the_same_at_every_level_of_optimization(form: str, level: Any) -> None:
    for name in ("sparse-b8", "residual"):
        model = opened(NETWORKS[name])
        for _, x in check_inputs(model):
            logits = outputs(to_onnx(model, form), x, level)[0]
            assert np.array_equal(logits, model.logits(x))


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("block", [1, 4])
def test_a_learned_file_exports_the_same(block: int, form: str) -> None:
    network = nets.network((1, 24, 1), (sparse(24, 12, 8, block),))
    model = models.learned(network)
    before = opened(network)
    assert not np.array_equal(model.arena.weights(0), before.arena.weights(0))
    assert check(model, "onnx", to_onnx(model, form)).identical


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("sign", [1, -1, 0])
@pytest.mark.parametrize(
    "name", ["sparse-b16", "head-only", "convolution", "depthwise", "residual"]
)
def test_largest_products_do_not_saturate(name: str, sign: int, form: str) -> None:
    """255 * 127 * 2 is more than 16 bits hold: what a processor without VNNI adds pairs in."""
    network = NETWORKS[name]
    model = opened(network, models.extreme(network, sign))
    x = np.full((2, network.inputs), 2, np.float32)
    x[1] = np.arange(network.inputs) % 2 * 2
    ours, theirs = pair(model, to_onnx(model, form))(x)
    assert np.array_equal(ours, theirs)
    if sign == 1 or name == "head-only":
        assert np.abs(ours).max() > 2 * 255 * 127


@pytest.mark.parametrize("form", EXACT)
def test_sums_that_leave_31_bits_on_the_way(form: str) -> None:
    """uint8 times uint8, before the zero point's share is taken off: more than int32 holds."""
    network = nets.network((1, 40_000, 1), (), 2, learning=False, batch=1)
    model = opened(network, models.extreme(network))
    ours, theirs = pair(model, to_onnx(model, form))(np.full((1, 40_000), 2, np.float32))
    assert np.array_equal(ours, theirs)
    assert ours.min() > 40_000 * 254 * 127
    assert 40_000 * 254 * 255 > 2**31


def test_such_products_saturate_where_nothing_avoids_it() -> None:
    """The same weights as int8: on this processor the sums are wrong, or it has VNNI."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx2" not in flags or "vnni" in flags:
        pytest.skip("this processor does not add pairs in 16 bits")
    h = onnx.helper
    graph = h.make_graph(
        [h.make_node("MatMulInteger", ["x", "w"], ["y"])], "g",
        [h.make_tensor_value_info("x", onnx.TensorProto.UINT8, [1, 64])],
        [h.make_tensor_value_info("y", onnx.TensorProto.INT32, [1, 10])],
        [onnx.numpy_helper.from_array(np.full((64, 10), 127, np.int8), "w")],
    )  # fmt: skip
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=7)
    y = session(made.SerializeToString()).run(None, {"x": np.full((1, 64), 255, np.uint8)})[0]
    assert y.max() < 64 * 255 * 127


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_of_uint8_alone(name: str, form: str) -> None:
    """The avoidance itself, on every processor: no integer product takes int8 weights."""
    graph = onnx.shape_inference.infer_shapes(
        onnx.load_model_from_string(to_onnx(opened(NETWORKS[name]), form)), data_prop=True
    ).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    kinds |= {t.name: t.data_type for t in graph.initializer}
    weights = {"MatMulInteger": 1, "ConvInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3}
    found = [n.input[weights[n.op_type]] for n in graph.node if n.op_type in weights]
    assert found
    assert {kinds[name] for name in found} == {onnx.TensorProto.UINT8}


# ---- the file ----


@pytest.mark.parametrize(("name", "form"), EXPORTS)
def test_checker_and_strict_shape_inference(name: str, form: str) -> None:
    made = onnx.load_model_from_string(to_onnx(opened(NETWORKS[name]), form))
    onnx.checker.check_model(made, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(
        made, check_type=True, strict_mode=True, data_prop=True
    )
    known = {v.name for v in (*inferred.graph.value_info, *inferred.graph.output)}
    assert {name for node in made.graph.node for name in node.output} <= known


@pytest.mark.parametrize("form", FORMS)
def test_versions_are_those_that_old_runtimes_read(form: str) -> None:
    made = onnx.load_model_from_string(to_onnx(opened(NETWORKS["residual"]), form))
    assert made.ir_version == 7
    assert [(x.domain, x.version) for x in made.opset_import] == [("", 13)]
    assert {node.domain for node in made.graph.node} == {""}


@pytest.mark.parametrize(("name", "form"), EXPORTS)
def test_names_say_layer_and_role(name: str, form: str) -> None:
    network = NETWORKS[name]
    graph = onnx.load_model_from_string(to_onnx(opened(network), form)).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    layers = {f"{x.kind.replace('-', '_')}{i}" for i, x in enumerate(network.trunk)}
    layers |= {f"{x.kind}{i}" for i, x in enumerate(network.layers[:-1])} | {"head"}
    assert {n.partition("/")[0] for n in names} == layers | {"input", "logits"} | (
        {"features"} if network.trunk else set()
    )
    for node in graph.node:
        assert list(node.output) == [node.name]


def test_metadata_say_what_the_model_is() -> None:
    network = NETWORKS["residual"]
    p = replace(nets.parameters(network), budget=12_345, accuracy=0.5, unknown=16_384)
    made = onnx.load_model_from_string(to_onnx(opened(network, p), "sparse"))
    told = {x.key: x.value for x in made.metadata_props}
    assert json.loads(told["classes"]) == ["0", "1", "2", "3", "4"]
    assert told["zgedge_version"] == zgedge.__version__ == made.producer_version
    assert json.loads(told["budget"]) == 12_345
    assert json.loads(told["accuracy"]) == 0.5
    assert json.loads(told["unknown_threshold"]) == 0.5
    assert json.loads(told["shape"]) == [9, 7, 3]
    assert told["form"] == "sparse"
    scales = json.loads(told["scales"])
    assert np.float32(scales["input"][0]) == p.input_scale[0]
    assert np.allclose([s[:2] for s in scales["layers"]], [(q.s_in, q.s_w) for q in p.layers])
    step = np.float32(p.layers[-1].s_in) * np.float32(p.layers[-1].s_w)
    assert np.float32(json.loads(told["logit_scale"])) == step


@pytest.mark.parametrize(
    ("name", "shape"),
    [("residual", [9, 7, 3]), ("sparse-b1", [8, 8, 1]), ("table", [24]), ("series", [6, 4])],
)
def test_input_is_raw_pictures_or_features_of_any_batch(name: str, shape: list[int]) -> None:
    model = opened(NETWORKS[name])
    run = session(to_onnx(model))
    (given,), (made,) = run.get_inputs(), run.get_outputs()
    assert (given.name, given.type, given.shape) == ("input", "tensor(float)", ["batch", *shape])
    assert (made.name, made.type) == ("logits", "tensor(int32)")
    assert made.shape == ["batch", model.arena.network.classes]
    for n in (1, 3, 17):
        x, _ = nets.samples(model.arena.network, n)
        (logits,) = run.run(None, {"input": x.reshape(n, *shape)})
        assert np.array_equal(logits, model.logits(x))


@pytest.mark.parametrize("name", [f"sparse-b{block}" for block in (1, 4, 8, 16)])
def test_weights_and_indices_are_as_stored(name: str) -> None:
    model = opened(NETWORKS[name])
    made = onnx.load_model_from_string(to_onnx(model)).graph
    held = {t.name: onnx.numpy_helper.to_array(t) for t in made.initializer}
    for i in range(2):
        indices = model.arena.indices(i)
        assert indices is not None
        assert held[f"sparse{i}/indices"].dtype == np.uint16
        assert held[f"sparse{i}/weights"].dtype == np.int8
        assert held[f"sparse{i}/indices"].tobytes() == indices.tobytes()
        assert held[f"sparse{i}/weights"].tobytes() == model.arena.weights(i).tobytes()


def test_a_connection_takes_what_it_takes_in_the_file() -> None:
    network = nets.network((28, 28, 1), (sparse(784, 256, 64),), 10, learning=False, batch=1)
    model = opened(network)
    sparse_form, dense_form = (len(to_onnx(model, form)) for form in EXACT)
    assert sparse_form < 3.4 * network.connections
    assert sparse_form < 1.1 * len(model.arena.buffer)
    assert dense_form > 3.5 * sparse_form


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_rebuilt_once_when_a_session_loads(name: str, tmp_path: Path) -> None:
    model = opened(NETWORKS[name])
    session(to_onnx(model), BASIC, tmp_path / "optimized.onnx")
    graph = onnx.load(tmp_path / "optimized.onnx").graph
    left = Counter(node.op_type for node in graph.node)
    assert not {"ScatterElements", "ConstantOfShape", "Expand", "Reshape"} & set(left)
    constants = {t.name for t in graph.initializer}
    for node in graph.node:
        if node.op_type in ("MatMulInteger", "ConvInteger"):
            assert node.input[1] in constants, node.name


def test_same_model_same_bytes() -> None:
    for form in FORMS:
        assert to_onnx(opened(NETWORKS["residual"]), form) == to_onnx(
            opened(NETWORKS["residual"]), form
        )


def test_no_sample_leaves_with_it() -> None:
    model = models.remembering()
    emptied = models.remembering()
    zgedge.Learner(emptied).forget()
    for form in EXACT:
        assert to_onnx(model, form) == to_onnx(emptied, form)


def test_what_is_remembered_is_compared() -> None:
    model = models.remembering()
    assert check(model, "onnx", to_onnx(model)).sources == {
        "remembered": 40, "random": 64, "extreme": 25,
    }  # fmt: skip


# ---- QLinearMatMul ----


def test_layers_without_bias_are_a_matmul() -> None:
    network = NETWORKS["dense"]
    p = nets.parameters(network)
    p.layers[0].bias[:] = 0  # type: ignore[index]
    model = opened(network, p)
    data = to_onnx(model, "qoperator")
    kinds = Counter(n.op_type for n in onnx.load_model_from_string(data).graph.node)
    assert (kinds["QLinearMatMul"], kinds["QLinearConv"]) == (1, 1)
    assert check(model, "onnx", data).identical


# ---- qdq ----


@pytest.mark.parametrize("name", NETWORKS)
def test_pairs_are_symmetric_int8(name: str) -> None:
    graph = onnx.load_model_from_string(to_onnx(opened(NETWORKS[name]), "qdq")).graph
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    before = {out: node for node in graph.node for out in node.output}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert held[node.input[2]].dtype == np.int8
            assert not held[node.input[2]].any()
            assert (held[node.input[1]] > 0).all()
        if node.op_type in ("Conv", "MatMul"):  # what TensorRT runs in int8 stands behind pairs
            for given in node.input[:2]:
                while before[given].op_type in ("Flatten", "Transpose"):
                    given = before[given].input[0]
                assert before[given].op_type == "DequantizeLinear"
                assert before[before[given].input[0]].op_type == "QuantizeLinear"


@pytest.mark.parametrize("name", NETWORKS)
def test_pairs_hold_the_files_own_weights(name: str) -> None:
    model = opened(NETWORKS[name])
    graph = onnx.load_model_from_string(to_onnx(model, "qdq")).graph
    coded = [n for n in graph.node if n.name == "head/weights_int8"]
    held = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    real, step, _ = (held[x] for x in coded[0].input)
    last = len(model.arena.network.layers) - 1
    assert np.array_equal(np.rint(real / step), model.arena.weights(last).T)


@pytest.mark.parametrize("name", NETWORKS)
def test_pairs_find_nearly_the_same_classes(name: str) -> None:
    """Of random networks, whose classes are close to each other."""
    model = opened(NETWORKS[name])
    found = check(model, "onnx", to_onnx(model, "qdq"))
    assert 0.93 <= found.same_class <= 1
    assert found.differing > 0.5 * found.compared  # they are other integers, as is said of them


def test_pairs_cut_a_residual_off_where_the_core_does() -> None:
    """What is added stays within -128 .. 127 steps: without that, half the classes are others."""
    model = opened(NETWORKS["random-trunk-2"])
    assert check(model, "onnx", to_onnx(model, "qdq")).same_class == 1


def test_pairs_take_their_scales_from_given_samples() -> None:
    network = NETWORKS["table"]
    model = opened(network)
    x, _ = nets.samples(network, 100)
    near = to_onnx(model, "qdq", samples=x * np.float32(0.1) + model.arena.input_coding()[1])
    far = to_onnx(model, "qdq", samples=x * np.float32(10))

    def input_scale(data: bytes) -> float:
        held = onnx.load_model_from_string(data).graph.initializer
        return float(
            next(onnx.numpy_helper.to_array(t) for t in held if t.name == "input/codes_scale")
        )

    assert input_scale(near) < input_scale(far) / 5


# ---- trained networks ----


@pytest.fixture(scope="module")
def digits() -> Any:
    from zgedge.data import load

    return load("digits")


def _network(digits: Any, kind: str) -> Network:
    names = len(arena.names_blob(digits.classes))
    if kind == "mlp":
        layers, trunk = (sparse(64, 96, 16, 4), dense(96, 10)), ()
    else:
        trunk = (conv((8, 8, 1), 8), conv((8, 8, 8), 8, add=1), conv((8, 8, 8), 12, 3, 2))
        layers = (dense(192, 10),)
    return Network(
        (8, 8, 1), 10, layers, names, task="picture", learning=False, batch=1, trunk=trunk
    )


@pytest.fixture(scope="module", params=["mlp", "trunk"])
def trained(request: pytest.FixtureRequest, digits: Any) -> Model:
    pytest.importorskip("torch")
    from zgedge.train import train

    result = train(digits, _network(digits, request.param), steps=300)
    return Model(nets.buffer(arena.write(result.network, result.parameters)))


def test_trained_networks_give_the_cores_integers_on_all_digits(
    trained: Model, digits: Any
) -> None:
    x = trained.rows(digits.x_test).astype(np.float32)
    for form in EXACT:
        logits = outputs(to_onnx(trained, form), x)[0]
        assert np.array_equal(logits, trained.logits(x))
    assert (trained.predict_index(x)[0] == digits.y_test).mean() > 0.85


def test_pairs_are_as_accurate(trained: Model, digits: Any) -> None:
    x = trained.rows(digits.x_test).astype(np.float32)
    data = to_onnx(trained, "qdq", samples=digits.x_train[:256])
    ours = (trained.predict_index(x)[0] == digits.y_test).mean()
    theirs = (outputs(data, x)[0].argmax(axis=1) == digits.y_test).mean()
    assert abs(theirs - ours) <= 0.005


@pytest.fixture(scope="module")
def mnist(mnist_dir: Path) -> npt.NDArray[np.float32]:
    from zgedge.data import load

    return load("mnist", data_dir=mnist_dir.parent).x_test.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("block", [1, 4, 8, 16])
def test_all_pictures_of_mnist(block: int, mnist: npt.NDArray[np.float32]) -> None:
    """Real pictures through random weights: their rows of zeros and of 255 are as they are."""
    network = nets.network((28, 28, 1), (sparse(784, 64, 32, block),), 10, task="picture")
    model = opened(network)
    assert len(mnist) == 10_000
    ours = model.logits(mnist)
    for form in EXACT:
        assert np.array_equal(outputs(to_onnx(model, form), mnist)[0], ours)


# ---- what is refused ----


def test_a_form_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="sparse, qoperator, qdq"):
        to_onnx(opened(NETWORKS["table"]), "dense")


@pytest.mark.parametrize(("form", "bytes_of_a_weight"), [("qoperator", 1), ("qdq", 4)])
def test_a_layer_that_a_file_cannot_hold_dense(
    form: str, bytes_of_a_weight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(NETWORKS["sparse-b4"])
    most = bytes_of_a_weight * (64 * 48 + 48 * 32 + 32 * 10)
    monkeypatch.setattr(onnx_export, "MOST_BYTES", most)
    to_onnx(model, form)
    monkeypatch.setattr(onnx_export, "MOST_BYTES", most - 1)
    with pytest.raises(ZgedgeError, match="sparse0 of 64 x 48 .*Take the form sparse"):
        to_onnx(model, form)
    to_onnx(model)


def test_pairs_end_at_the_logits() -> None:
    with pytest.raises(UsageError, match="ends at the logits"):
        to_onnx(opened(NETWORKS["table"]), "qdq", softmax=True)


@pytest.mark.parametrize("shape", [(0, 24), (3, 23)])
def test_samples_that_are_none(shape: tuple[int, int]) -> None:
    with pytest.raises(DataError):
        to_onnx(opened(NETWORKS["table"]), "qdq", samples=np.zeros(shape))


@pytest.mark.parametrize(("package", "form"), [("onnx", "sparse"), ("onnxruntime", "qdq")])
def test_a_missing_package_is_named(
    package: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(NETWORKS["table"])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package} is not.*zgedge\[export\]"):
        to_onnx(model, form)
