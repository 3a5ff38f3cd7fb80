"""What a check compares and counts, and the facts that exporters share."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests import nets
from tests.export import models
from tests.export.models import NETWORKS, opened
from zgedge import arena
from zgedge.errors import ZgedgeError
from zgedge.export import source
from zgedge.export.check import compare
from zgedge.network import conv, mean_pool


def fixed(ours: list[list[int]], theirs: list[list[int]]) -> Any:
    return lambda x: (np.array(ours), np.array(theirs))


# ---- what is counted ----


def test_equal_integers_are_identical() -> None:
    found = compare(fixed([[1, 2], [5, 4]], [[1, 2], [5, 4]]), [("a", np.zeros((2, 1)))])
    assert found.identical
    assert found.as_json() == {
        "sources": {"a": 2}, "compared": 4, "differing": 0, "largest": 0, "same_class": 1.0,
        "identical": True,
    }  # fmt: skip


def test_every_other_integer_is_counted() -> None:
    pair = fixed([[1, 2], [5, 4], [0, 9]], [[1, 3], [-2, 4], [0, 9]])
    found = compare(pair, [("a", np.zeros((3, 1))), ("b", np.zeros((3, 1)))])
    assert not found.identical
    assert (found.compared, found.differing, found.largest) == (12, 4, 7)
    assert found.same_class == pytest.approx(2 / 3)
    assert found.sources == {"a": 3, "b": 3}


def test_differences_do_not_overflow() -> None:
    ours, theirs = np.array([[2**31 - 1]], np.int32), np.array([[-(2**31)]], np.int32)
    assert compare(lambda x: (ours, theirs), [("a", np.zeros((1, 1)))]).largest == 2**32 - 1


def test_answers_of_another_shape_are_an_error() -> None:
    with pytest.raises(ZgedgeError, match=r"\(1, 3\) where \(1, 2\)"):
        compare(fixed([[1, 2]], [[1, 2, 3]]), [("a", np.zeros((1, 1)))])


# ---- what is compared on ----


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_reach_every_code_and_both_ends(name: str) -> None:
    model = opened(NETWORKS[name])
    inputs = dict(source.check_inputs(model))
    assert list(inputs) == ["random", "extreme"]
    coding = source.input_coding(model.arena)
    codes = coding.codes(inputs["random"])
    assert {0, 255, coding.zero} <= set(codes.ravel())
    assert len(np.unique(codes)) > 200
    ends = coding.codes(inputs["extreme"])
    assert (ends == 0).all(axis=1).any()
    assert (ends == 255).all(axis=1).any()
    for x in inputs.values():
        assert x.dtype == np.float32
        assert np.isfinite(x).all()
        assert len(np.unique(model.logits(x))) > len(x) // 2


def test_extremes_have_halves_between_two_codes() -> None:
    model = opened(NETWORKS["sparse-b4"])
    coding = source.input_coding(model.arena)
    steps = (dict(source.check_inputs(model))["extreme"] - coding.center) * coding.scale
    assert np.count_nonzero(steps % 1 == 0.5) > 100


def test_remembered_samples_come_first() -> None:
    model = models.remembering()
    inputs = dict(source.check_inputs(model, count=16))
    assert list(inputs) == ["remembered", "random", "extreme"]
    assert inputs["remembered"].shape == (16, 24)
    held, _ = nets.samples(model.arena.network, 40)
    coding = source.input_coding(model.arena)
    near = coding.codes(held[:16]).astype(int) - coding.codes(inputs["remembered"])
    assert np.abs(near).max() <= 1


def test_the_same_inputs_every_time() -> None:
    model = opened(NETWORKS["table"])
    first, second = (dict(source.check_inputs(model)) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


# ---- facts that exporters share ----


@pytest.mark.parametrize("name", NETWORKS)
def test_input_coding_is_the_cores(name: str) -> None:
    network = NETWORKS[name]
    p = nets.parameters(network)
    coding = source.input_coding(opened(network, p).arena)
    x = np.random.default_rng(1).normal(0, 3, (50, network.inputs)).astype(np.float32)
    assert np.array_equal(coding.codes(x), nets.reference_codes(p, x))


@pytest.mark.parametrize("name", [f"sparse-b{block}" for block in (1, 4, 8, 16)])
def test_dense_rows_have_each_weight_at_its_input(name: str) -> None:
    network = NETWORKS[name]
    p = nets.parameters(network, 3)
    rows = source.dense_rows(opened(network, p).arena, 0)
    layer, q = network.layers[0], p.layers[0]
    assert q.indices is not None
    assert rows.dtype == np.int8
    for r in range(layer.outputs):
        expected = np.zeros(layer.inputs, np.int8)
        for k, block in enumerate(q.indices[r].tolist()):
            at = block * layer.block
            expected[at : at + layer.block] = q.weights[r, k * layer.block : (k + 1) * layer.block]
        assert np.array_equal(rows[r], expected)


def test_dense_rows_of_a_learned_layer_have_no_spare_bits() -> None:
    model = models.learned(nets.network((1, 24, 1), (models.sparse(24, 12, 8, 1),)))
    raw, indices = model.arena.raw_indices(0), model.arena.indices(0)
    assert not np.array_equal(raw, indices)
    assert np.count_nonzero(source.dense_rows(model.arena, 0)) == np.count_nonzero(
        model.arena.weights(0)
    )


def test_a_dense_layers_rows_are_a_copy() -> None:
    model = opened(NETWORKS["dense"])
    source.dense_rows(model.arena, 0)[:] = 0
    assert model.arena.weights(0).any()


def test_the_mean_is_multiplied_by_single_steps_of_float32() -> None:
    trunk = (conv((7, 9, 2), 4), mean_pool((7, 9, 4)))
    network = nets.network((7, 9, 2), (), 3, trunk=trunk, task="picture")
    others = 0
    for seed in range(20):
        p = nets.parameters(network, seed)
        model = opened(network, p)
        s_in, s_out = np.float32(p.trunk[1].s_in), np.float32(p.trunk[1].s_out)
        m = source.mean_multiplier(model.arena, 1)
        assert m == s_in * np.float32(1 / 63) / s_out
        others += m != np.float32(float(s_in) / 63 / float(s_out))
    assert others  # rounding once would be another number for some


def test_metadata_are_texts_that_json_reads() -> None:
    p = nets.parameters(NETWORKS["table"])
    names = ["ä", 'quote"', "c", "d"]
    network = replace(NETWORKS["table"], names_bytes=len(arena.names_blob(names)))
    told = source.metadata(opened(network, replace(p, class_names=names, int_classes=False)).arena)
    assert all(isinstance(text, str) for text in told.values())
    assert json.loads(told["classes"]) == names
    assert told["task"] == "table"
    assert len(json.loads(told["scales"])["input"]) == 24
    assert "accuracy" not in told


def test_the_softmax_table_is_the_cores() -> None:
    table = source.exponentials()
    assert (table[0], table[16], table[255]) == (32768, 12055, 0)
    assert (np.diff(table) <= 0).all()
