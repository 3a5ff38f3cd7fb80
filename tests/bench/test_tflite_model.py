"""The dense int8 network that LiteRT is timed with computes what numpy says."""

from __future__ import annotations

import numpy as np
import pytest

from zgedge.bench import peers
from zgedge.bench.tflite_model import build_tflite, random_dense, reference, usual_bytes

pytest.importorskip("ai_edge_litert")
pytest.importorskip("tflite")


@pytest.mark.parametrize("widths", [(784, 256, 10), (784, 10), (17, 33, 5, 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_litert_gives_the_integers_of_the_reference(widths: tuple[int, ...], seed: int) -> None:
    model = random_dense(widths, seed)
    x = np.random.default_rng(seed).integers(-128, 128, (50, widths[0])).astype(np.int8)
    expected = reference(model, x)
    assert len(np.unique(expected)) > 20, "outputs that say nothing about the arithmetic"
    np.testing.assert_array_equal(peers.litert_python(model, x).check(), expected)


def test_same_seed_gives_the_same_file() -> None:
    assert build_tflite(random_dense(seed=3)) == build_tflite(random_dense(seed=3))
    assert build_tflite(random_dense(seed=3)) != build_tflite(random_dense(seed=4))


def test_usual_path_takes_a_byte_for_each_weight() -> None:
    weights = 784 * 256 + 256 * 10
    # A row has a bias, and a scale and zero point of its own for both.
    assert weights < usual_bytes((784, 256, 10)) < weights + 28 * 266 + 2000


@pytest.mark.parametrize("make", [peers.litert_invoke, peers.litert_compiled])
def test_litert_called_from_c_gives_the_same_integers(make: object) -> None:
    model = random_dense()
    x = np.random.default_rng(2).integers(-128, 128, (16, model.inputs)).astype(np.int8)
    try:
        runner = make(model, x)  # type: ignore[operator]
    except peers.PeerUnavailableError as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(runner.check(), reference(model, x))
