"""TFLite on all test samples of real data: trained networks, in every kernel that there is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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


def differing(model: Model, x: npt.NDArray[np.float32]) -> dict[str, int]:
    """Samples whose class is another, by where the export runs without XNNPACK. With it the logits
    are the core's."""
    ours, data = model.logits(x), to_tflite(model)
    assert np.array_equal(runner(model, data)(x), ours)
    answers = {"optimized": runner(model, data, "optimized")(x)}
    with suppress(ZgedgeError):  # no layer is smaller in that encoding
        answers["sparse"] = runner(model, to_tflite(model, "sparse"))(x)
    for kernels, theirs in answers.items():
        # A step of a hidden unit or two, in logits: far below what separates classes.
        assert np.abs(ours - theirs).max() < 0.02 * np.ptp(ours, axis=1).mean(), kernels
    return {
        kernels: int(np.count_nonzero(ours.argmax(axis=1) != theirs.argmax(axis=1)))
        for kernels, theirs in answers.items()
    }


def rows(x: npt.ArrayLike) -> npt.NDArray[np.float32]:
    found = np.asarray(x, np.float32)
    return found.reshape(len(found), -1)


def test_all_digits() -> None:
    """All 1,797, on which one sample is more than 1 in 2,000: so the networks count together."""
    dataset = load("digits")
    x = np.concatenate([rows(dataset.x_train), rows(dataset.x_test)])
    assert len(x) == 1797
    found = {text: differing(trained(dataset, text), x) for text in DIGITS}
    for kernels in ("optimized", "sparse"):
        counts = [counted[kernels] for counted in found.values() if kernels in counted]
        assert len(counts) >= 3
        assert sum(counts) <= 0.001 * len(x) * len(counts), found


@pytest.mark.parametrize("block", [1, 4, 8, 16])
def test_all_pictures_of_mnist(block: int, mnist_dir: Path) -> None:
    """Random weights, and pixels as they are: the input is uint8."""
    x = rows(load("mnist", data_dir=mnist_dir.parent).x_test)
    network = nets.network((28, 28, 1), (sparse(784, 64, 32, block),), 10, task="picture")
    p = replace(nets.parameters(network), input_scale=np.ones(1, np.float32))
    model = Model(arena.in_memory(arena.write(network, p)))
    assert len(x) == 10_000
    assert np.array_equal(runner(model, to_tflite(model))(x), model.logits(x))


@pytest.mark.slow
@pytest.mark.parametrize("text", MNIST)
def test_networks_trained_on_mnist(text: str, mnist_dir: Path) -> None:
    dataset = load("mnist", data_dir=mnist_dir.parent)
    model, x = trained(dataset, text, LONGER), rows(dataset.x_test)
    assert max(differing(model, x).values()) <= 0.001 * len(x)
    micro(model, x)


def micro(model: Model, x: npt.NDArray[np.float32]) -> None:
    """The same class in TFLite Micro's own interpreter."""
    runtime: Any = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    interpreter = runtime.Interpreter.from_bytes(to_tflite(model), arena_size=1 << 20)
    details = interpreter.get_input_details(0)
    classes = []
    for row in feeder(model.arena, details["dtype"], tuple(details["shape"][1:]))(x):
        interpreter.set_input(row[None], 0)
        interpreter.invoke()
        classes.append(int(interpreter.get_output(0).argmax()))
    other = np.array(classes) != model.logits(x).argmax(axis=1)
    assert np.count_nonzero(other) <= 0.001 * len(x)
