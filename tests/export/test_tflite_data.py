"""TFLite on all test samples of real data: trained networks, in every kernel that there is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import nets
from zgedge import arena
from zgedge.data import Dataset, load
from zgedge.errors import ZgedgeError
from zgedge.export import to_tflite
from zgedge.export.tflite import feeder, runner
from zgedge.network import Network, sparse
from zgedge.runtime import Model
from zgedge.spec import parse

pytest.importorskip("torch")
pytest.importorskip("tflite")
pytest.importorskip("ai_edge_litert")

STEPS = 300  # digits
LONGER = 1000  # MNIST: of networks that know their classes, not of guesses between two
DIGITS = (
    "s48:16", "s48:16/4", "s48:16/8", "s48:16/16 d32", "d32", "c3x8 c3x8+ p2 c3x16 m",
    "c3x8 dw3/2 c1x16 p2",
)  # fmt: skip
MNIST = (
    "s64:32", "s64:32/4", "s64:32/8", "s256:32/16 s64:32/16", "d32", "c5/2x8 c3/2x16 c3x16+ m",
    "c3/2x8 dw3/2 c1x16 p2 s32:32/4",
)  # fmt: skip


def trained(dataset: Dataset, text: str, steps: int = STEPS) -> Model:
    from zgedge.train import train

    spec = parse(text, dataset.shape, len(dataset.classes))
    network = Network(
        dataset.shape, len(dataset.classes), spec.layers,
        len(arena.names_blob(dataset.classes)), task="picture", learning=False, batch=1,
        trunk=spec.trunk,
    )  # fmt: skip
    result = train(dataset, network, steps=steps, seed=0)
    return Model(arena.in_memory(arena.write(result.network, result.parameters)))


def compared(model: Model, dataset: Dataset) -> None:
    x = np.asarray(dataset.x_test, np.float32).reshape(len(dataset.x_test), -1)
    ours = model.logits(x)
    data = to_tflite(model)
    assert np.array_equal(runner(model, data)(x), ours)
    answers = {"optimized": runner(model, data, "optimized")(x)}
    with suppress(ZgedgeError):  # no layer is smaller in that encoding
        answers["sparse"] = runner(model, to_tflite(model, "sparse"))(x)
    for kernels, theirs in answers.items():
        same = float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
        assert same >= 0.999, (kernels, same)
        # A step of a hidden unit or two, in logits: far below what separates classes.
        assert np.abs(ours - theirs).max() < 0.02 * np.ptp(ours, axis=1).mean(), kernels


@pytest.mark.parametrize("text", DIGITS)
def test_all_digits(text: str) -> None:
    dataset = load("digits")
    compared(trained(dataset, text), dataset)


@pytest.mark.parametrize("block", [1, 4, 8, 16])
def test_all_pictures_of_mnist(block: int, mnist_dir: Path) -> None:
    """Random weights, and pixels as they are: the input is uint8."""
    x = np.asarray(load("mnist", data_dir=mnist_dir.parent).x_test, np.float32).reshape(-1, 784)
    network = nets.network((28, 28, 1), (sparse(784, 64, 32, block),), 10, task="picture")
    p = replace(nets.parameters(network), input_scale=np.ones(1, np.float32))
    model = Model(arena.in_memory(arena.write(network, p)))
    assert len(x) == 10_000
    assert np.array_equal(runner(model, to_tflite(model))(x), model.logits(x))


@pytest.mark.slow
@pytest.mark.parametrize("text", MNIST)
def test_networks_trained_on_mnist(text: str, mnist_dir: Path) -> None:
    dataset = load("mnist", data_dir=mnist_dir.parent)
    model = trained(dataset, text, LONGER)
    compared(model, dataset)
    micro(model, dataset)


def micro(model: Model, dataset: Dataset) -> None:
    """The same class in TFLite Micro's own interpreter."""
    runtime: Any = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    x = np.asarray(dataset.x_test, np.float32).reshape(len(dataset.x_test), -1)
    interpreter = runtime.Interpreter.from_bytes(to_tflite(model), arena_size=1 << 20)
    details = interpreter.get_input_details(0)
    rows = feeder(model.arena, details["dtype"], tuple(details["shape"][1:]))(x)
    classes = []
    for row in rows:
        interpreter.set_input(row[None], 0)
        interpreter.invoke()
        classes.append(int(interpreter.get_output(0).argmax()))
    assert (np.array(classes) == model.logits(x).argmax(axis=1)).mean() >= 0.999
