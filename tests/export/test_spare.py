"""Exports of files with classes that have no name yet: they know those that have one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests import nets
from zgedge import arena
from zgedge.errors import ZgedgeError
from zgedge.export import check, onnx, tflite
from zgedge.export.c import to_c
from zgedge.network import Network, conv, max_pool, sparse
from zgedge.runtime import Learner, Model

NETWORKS = {
    "softmax": nets.network(
        (1, 24, 1), (sparse(24, 12, 8, 4),), 6, known=3, pending=2, replay_samples=4, replay_bits=4
    ),
    "sparse-head": Network((1, 40, 1), 5, (sparse(40, 5, 8),), names_bytes=5 * 25, known=3),
    "analytic": nets.network(
        (8, 7, 1), (), 5, known=3, head="analytic", batch=4, pending=2,
        trunk=(conv((8, 7, 1), 3, same=False), max_pool((6, 5, 3))),
    ),
}  # fmt: skip


@pytest.fixture(params=NETWORKS)
def model(request: pytest.FixtureRequest) -> Model:
    network = NETWORKS[request.param]
    model = Model(nets.buffer(nets.file(network)), request.param)
    learner = Learner(model)
    x, y = nets.samples(network, 40)
    learner.learn_many(x, y)
    learner.add_class(77)
    learner.learn_many(x[:3], [77] * 3)
    if network.head == "analytic":
        learner.solve(4)
    return model


def test_onnx_gives_the_named_classes(model: Model) -> None:
    pytest.importorskip("onnxruntime")
    export = onnx.to_onnx(model)
    found = check.check(model, "onnx", export)
    assert found.identical
    import onnx as library

    graph = library.load_model_from_string(export)
    assert graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 4
    named = {x.key: x.value for x in graph.metadata_props}
    assert json.loads(named["classes"]) == ["0", "1", "2", "77"]


def test_tflite_says_that_a_class_has_had_no_sample(model: Model) -> None:
    learner = Learner(model)
    learner.add_class(78)
    if model.arena.network.head == "analytic":
        learner.solve(4)
    with pytest.raises(ZgedgeError, match="class 4 has had no sample yet"):
        tflite.to_tflite(model)


def test_tflite_gives_the_named_classes(model: Model) -> None:
    pytest.importorskip("ai_edge_litert")
    assert check.check(model, "tflite", tflite.to_tflite(model)).identical


@pytest.mark.parametrize("learning", [False, True])
def test_c_gives_the_named_classes(model: Model, learning: bool, cc: str) -> None:
    export = to_c(model, "nn", learning, samples=True)
    assert check.check(model, "c", export).identical
    assert '"77"' in export.source
    assert export.classes == (model.arena.network.classes if learning else 4)
    # What a network does not need stays away.
    assert ("zge_analytic_learn" in export.source) == (
        learning and model.arena.network.head == "analytic"
    )
    assert ("zge_pending_check" in export.source) == (
        learning and bool(model.arena.network.pending)
    )


def test_a_learner_in_c_learns_what_the_core_learns(model: Model, cc: str) -> None:
    from zgedge.export import c_run

    export = to_c(model, "nn", True, samples=True)
    x, y = nets.samples(model.arena.network, 60, seed=4)
    program = c_run.Program(export, optimize="-O1")
    batch = model.arena.network.batch
    begun, was, sealed = program.run(
        c_run.start(), c_run.learn(export, x, y, batch - 1), c_run.seal(export)
    )
    assert begun["result"].tolist() == [0]
    model.seal()
    copy = Model(arena.in_memory(model.arena.buffer.tobytes()))
    learner = Learner(copy)
    classes = copy.classes.tolist()
    expected = [classes.index(learner.learn_one(a, classes[b])) for a, b in zip(x, y, strict=True)]
    assert was["result"].tolist() == expected
    copy.seal()
    mine, theirs = copy.arena.buffer.copy(), np.array(sealed["arena"][0])
    mine[16:28] = theirs[16:28]  # generation and the checksum over it
    assert np.array_equal(mine, theirs)
