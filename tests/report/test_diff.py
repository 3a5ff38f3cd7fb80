"""What `zgedge diff` says is what two files really differ in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests import nets
from zgedge import arena as files
from zgedge.errors import UsageError, ZgedgeError
from zgedge.network import Network, conv, sparse
from zgedge.report import diff
from zgedge.runtime import Learner, Model

TRUNK = (conv((6, 6, 1), 4, 3, 2),)  # 3 x 3 places of 4 channels: as many features as pixels


def network(trunk: bool = False) -> Network:
    layers = (sparse(36, 12, 8, 4),)
    return nets.network(
        (6, 6, 1), layers, 3, trunk=TRUNK if trunk else (), learning=True, batch=4,
        replay_samples=8, replay_bits=8, task="picture",
    )  # fmt: skip


def models(net: Network, learned: int) -> tuple[Model, Model]:
    """A network of random parameters, and the same after learning so many samples."""
    blob = nets.file(net)
    older, newer = (Model(nets.buffer(blob), name) for name in ("older.zge", "newer.zge"))
    learner = Learner(newer)
    for x, y in zip(*nets.samples(net, learned), strict=True):
        learner.learn_one(x, y)
    return older, newer


def matrix(model: Model, i: int) -> npt.NDArray[np.float64]:
    """Layer i as a matrix, written out connection by connection; NaN where there is none."""
    layer, indices = model.arena.network.layers[i], model.arena.indices(i)
    whole = np.full((layer.outputs, layer.inputs), np.nan)
    weights = model.arena.weights(i)
    for row in range(layer.outputs):
        for k in range(layer.width):
            block = k // layer.block
            column = k if indices is None else int(indices[row, block]) * layer.block
            whole[row, column + (0 if indices is None else k % layer.block)] = weights[row, k]
    return whole


@pytest.mark.parametrize("trunk", [False, True])
def test_layers_are_what_the_matrices_say(trunk: bool) -> None:
    older, newer = models(network(trunk), 200)
    found = diff.compare_layers(older.arena, newer.arena)
    for i, one in enumerate(found):
        old, new = matrix(older, i), matrix(newer, i)
        there, now = ~np.isnan(old), ~np.isnan(new)
        assert one.layer == i + 1 + (len(TRUNK) if trunk else 0)
        assert one.connections == there.sum() == now.sum()
        assert (one.kept, one.dropped, one.grown) == (
            (there & now).sum(), (there & ~now).sum(), (now & ~there).sum()
        )  # fmt: skip
        step = np.abs(old - new)[there & now]
        assert one.moved == (step > 0).sum() > 0
        assert one.mean_step == pytest.approx(step.mean())
        biases = older.arena.rows(i)[0] != newer.arena.rows(i)[0]
        assert one.biases == biases.sum() > 0
    assert found[0].dropped > 0  # something was rewired, so the test above means something
    assert found[1].dropped == 0
    assert diff.same_trunk(older.arena, newer.arena)
    assert diff.learned(older.arena, newer.arena)["samples"] == 200


def test_a_file_does_not_differ_from_itself() -> None:
    older, _ = models(network(), 0)
    for one in diff.compare_layers(older.arena, older.arena):
        assert (one.kept, one.moved, one.biases, one.mean_step) == (one.connections, 0, 0, 0.0)


def test_another_trunk_is_seen() -> None:
    older, newer = models(network(trunk=True), 0)
    weights = newer.arena.trunk_weights(0)
    assert weights is not None
    weights[0, 0, 0, 0] ^= 1
    assert not diff.same_trunk(older.arena, newer.arena)


def test_answers_are_those_of_the_models() -> None:
    older, newer = models(network(), 300)
    x, y = nets.samples(older.arena.network, 50, 2)
    seen: list[tuple[int, int]] = []
    found = diff.compare_answers(older, newer, x, y, lambda *each: seen.append(each))
    old, new = older.predict_index(x)[0], newer.predict_index(x)[0]
    assert found.before == (old == y).mean()
    assert found.after == (new == y).mean()
    assert found.agreement == (old == new).mean() < 1.0
    for i, (name, rows, before, after) in enumerate(found.classes):
        assert name == newer.arena.class_names[i]
        assert (rows, before, after) == (
            (y == i).sum(), (old[y == i] == i).sum(), (new[y == i] == i).sum()
        )  # fmt: skip
    assert seen[-1] == (100, 100)


def test_files_of_two_networks_are_refused() -> None:
    older, _ = models(network(), 0)
    other, _ = models(network(trunk=True), 0)
    with pytest.raises(UsageError, match="different"):
        diff.check_same(older, other)
    renamed = nets.parameters(network())
    renamed.class_names = ["0", "1", "3"]
    strange = Model(nets.buffer(files.write(network(), renamed)), "strange.zge")
    with pytest.raises(UsageError, match="know different classes"):
        diff.check_same(older, strange)


@pytest.mark.parametrize("trunk", [False, True])
@pytest.mark.parametrize("with_answers", [False, True])
def test_it_is_drawn(tmp_path: Path, trunk: bool, with_answers: bool) -> None:
    older, newer = models(network(trunk), 50)
    x, y = nets.samples(older.arena.network, 50, 2)
    answers = diff.compare_answers(older, newer, x, y) if with_answers else None
    diff.draw(older, newer, answers, tmp_path / "d.svg")
    text = (tmp_path / "d.svg").read_text()
    assert "<svg" in text
    with pytest.raises(ZgedgeError, match="Name it"):
        diff.draw(older, newer, answers, tmp_path / "d.gifx")


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = (r"$\frac{$", "US$ to C$", "1")
    classes = tuple((name, 2, 1, 1) for name in names)
    model, _ = models(network(), 0)
    model.name = "$a_b$.zge"
    diff.draw(model, model, diff.Answers(6, 0.5, 0.5, 1.0, classes), tmp_path / "d.svg")
    text = (tmp_path / "d.svg").read_text()
    assert all(f"<!-- {name} -->" in text for name in names)
    assert "$a_b$.zge -->" in text
