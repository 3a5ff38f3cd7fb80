"""Model and Learner as a person uses them: inputs of every kind, labels, harmless errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import nets
from zgedge import DataError, Learner, Model, ModelError, UsageError, ZgedgeError, arena
from zgedge.network import Network, dense, sparse
from zgedge.runtime import core_library as core

NET = nets.network((1, 24, 1), (sparse(24, 12, 8, 4),), 4, replay_samples=9, replay_bits=4)


def _model(network: Network = NET, **changes: Any) -> Model:
    parameters = nets.parameters(network)
    for name, value in changes.items():
        setattr(parameters, name, value)
    return Model(nets.buffer(arena.write(network, parameters)), "test model")


def _bytes(model: Model) -> bytes:
    return model.to_bytes()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "?"])
def test_numbers_of_any_type_mean_the_same(dtype: str) -> None:
    model = _model()
    x = np.random.default_rng(0).integers(0, 2, (30, 24)).astype(dtype)
    assert np.array_equal(model.logits(x), model.logits(x.astype(np.float32)))
    assert model.predict(x).tolist() == [model.predict_one(row) for row in x]
    assert model.predict(x.tolist()).tolist() == model.predict(x).tolist()


def test_memory_layout_does_not_matter() -> None:
    model = _model()
    x, _ = nets.samples(NET, 20)
    whole = model.logits(x)
    assert np.array_equal(model.logits(np.asfortranarray(x)), whole)
    assert np.array_equal(model.logits(np.repeat(x, 2, axis=0)[::2]), whole)
    assert np.array_equal(model.logits(x.reshape(20, 4, 6)), whole)
    assert np.array_equal(model.logits(x.astype(">f4")), whole)


def test_proba_sums_to_one_and_agrees_with_the_class() -> None:
    model = _model()
    x, _ = nets.samples(NET, 50)
    proba = model.predict_proba(x)
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-12)
    assert np.array_equal(model.classes[proba.argmax(axis=1)], model.predict(x))
    real = model.logits(x) * model.arena.scales[-1][0] * model.arena.scales[-1][1]
    exact = np.exp(real - real.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    # The table works in sixteenths of a nat: an error of at most 1/32 of each share.
    assert np.abs(proba - exact).max() < 0.02


@pytest.mark.parametrize(
    "x",
    [np.zeros((3, 23)), np.zeros((3, 25)), np.zeros(24), np.zeros((24, 1)), [["a"] * 24],
     np.zeros((2, 24), complex), None],
    ids=["few", "many", "one-row-flat", "column", "text", "complex", "none"],
)  # fmt: skip
def test_wrong_shape_or_kind(x: Any) -> None:
    with pytest.raises(DataError) as e:
        _model().predict(x)
    assert "24" in str(e.value) or "number" in str(e.value)


def test_no_rows_is_no_labels() -> None:
    assert len(_model().predict(np.zeros((0, 24)))) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_nan_and_infinities(value: float) -> None:
    model = _model()
    x = np.zeros((5, 24))
    x[3, 7] = value
    for call in (model.predict, model.logits, model.predict_proba):
        with pytest.raises(DataError, match="NaN"):
            call(x)
    with pytest.raises(DataError, match="NaN"):
        model.predict_one(x[3])


def test_unknown_is_below_the_threshold_and_nothing_else() -> None:
    x, _ = nets.samples(NET, 200)
    plain = _model()
    scores = plain.predict_index(x)[1]
    threshold = int(np.median(scores)) + 1
    strict = _model(unknown=threshold)
    found = strict.predict_index(x)[0]
    assert 0 < (found == -1).sum() < 200
    assert np.array_equal(found == -1, scores < threshold)
    assert set(strict.predict(x)) <= {-1, 0, 1, 2, 3}
    named = _model(unknown=threshold, int_classes=False, class_names=("a", "b", "c", "d"))
    assert "unknown" in named.predict(x)


def test_class_names_are_kept() -> None:
    names = ("katze", "hund", "größe", "鳥")
    network = nets.network(names_bytes=len(arena.names_blob(names)))
    model = _model(network, class_names=names, int_classes=False)
    x, _ = nets.samples(network, 30)
    assert set(model.predict(x)) <= set(names)
    learner = Learner(model)
    assert learner.learn_one(x[0], "größe") in names
    with pytest.raises(DataError, match="fisch"):
        learner.learn_one(x[0], "fisch")


def test_file_is_not_written_by_use(tmp_path: Path) -> None:
    path = tmp_path / "m.zge"
    path.write_bytes(nets.file(NET))
    before = path.read_bytes()
    learner = Learner(path)
    x, y = nets.samples(NET, 30)
    learner.learn_many(x, y)
    learner.model.predict(x)
    assert path.read_bytes() == before
    learner.save(path)
    again = Model.open(path)
    assert again.arena.generation == 1
    assert np.array_equal(again.logits(x), learner.model.logits(x))
    assert list(tmp_path.iterdir()) == [path]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.zge"):
        Model.open(tmp_path / "nothing.zge")
    with pytest.raises(ModelError):
        Model.open(tmp_path)
    with pytest.raises(ZgedgeError, match="Cannot write"):
        _model().save(tmp_path / "no folder" / "m.zge")


def test_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.zge"
    path.write_bytes(b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ZgedgeError, match="No space left"):
        _model().save(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fault", ["shape", "label", "text label", "nan", "length"])
def test_bad_sample_teaches_nothing(fault: str) -> None:
    model = _model()
    learner = Learner(model)
    x, y = nets.samples(NET, 4)
    learner.learn_many(x, y)
    before = learner.status()
    weights = model.arena.weights(0).copy()
    bad_x, bad_y = x.copy(), y.tolist()
    if fault == "shape":
        bad_x = bad_x[:, :20]
    elif fault == "label":
        bad_y[2] = 4
    elif fault == "text label":
        bad_y[2] = "seven"
    elif fault == "nan":
        bad_x[2, 3] = np.nan
    else:
        bad_y = bad_y[:3]
    with pytest.raises(DataError):
        learner.learn_many(bad_x, bad_y)
    assert learner.status() == before
    assert np.array_equal(model.arena.weights(0), weights)


@pytest.mark.parametrize("label", [-1, 4, 65_536, 65_537, 2.5])
def test_label_outside_the_classes(label: Any) -> None:
    learner = Learner(_model())
    x, _ = nets.samples(NET, 1)
    with pytest.raises(DataError):
        learner.learn_one(x[0], label)
    with pytest.raises(DataError):
        learner.learn_many(x, np.array([label]))


def test_learning_from_a_file_without_learning() -> None:
    model = _model(NET.for_inference())
    with pytest.raises(ModelError, match="no-learning") as e:
        Learner(model)
    assert e.value.exit_code == 4
    with_learning = _model()
    x, _ = nets.samples(NET, 100)
    assert np.array_equal(model.logits(x), with_learning.logits(x))


@pytest.mark.parametrize(
    "options",
    [{"rate": 0.0}, {"rate": 8.1}, {"rate": float("nan")}, {"swaps": 256}, {"gather": 0},
     {"gather": 4097}, {"strategy": "magic"}, {"rate": -1.0}],
    ids=str,
)  # fmt: skip
def test_setting_outside_its_range(options: dict[str, Any]) -> None:
    learner = Learner(_model())
    before = learner.status()
    with pytest.raises(UsageError):
        learner.configure(**options)
    assert learner.status() == before


def test_freeze_and_unfreeze() -> None:
    model = _model()
    learner = Learner(model)
    x, y = nets.samples(NET, 64)
    start = model.arena.section(4).copy()
    learner.freeze()
    learner.learn_many(x, y)
    assert np.array_equal(start, model.arena.section(4))
    learner.freeze("but head")
    learner.learn_many(x, y)
    first = NET.layers[0].weights
    assert np.array_equal(start[:first], model.arena.section(4)[:first])
    assert not np.array_equal(start[first:], model.arena.section(4)[first:])
    learner.unfreeze()
    learner.learn_many(x, y)
    assert not np.array_equal(start[:first], model.arena.section(4)[:first])
    with pytest.raises(UsageError):
        learner.freeze("half")


def test_remember_and_forget() -> None:
    learner = Learner(_model())
    x, y = nets.samples(NET, 30)
    learner.remember(x, y)
    assert learner.status()["remembered"] == 9
    Model(nets.buffer(_bytes(learner.model)))
    learner.forget()
    assert learner.status()["remembered"] == 0
    assert not learner.model.arena.section(10).any()
    Model(nets.buffer(_bytes(learner.model)))


def test_replay_stays_balanced_when_one_class_floods() -> None:
    network = nets.network((1, 24, 1), (), 4, replay_samples=40, replay_bits=8)
    learner = Learner(_model(network))
    x, y = nets.samples(network, 400)
    learner.remember(x, y)
    learner.remember(x, np.zeros(400, int))
    section = learner.model.arena.section(10)
    counts = section[:8].view("<u2")
    assert counts.sum() == 40
    assert counts.min() >= 9


def test_learning_improves_what_was_random() -> None:
    network = nets.network((1, 64, 1), (sparse(64, 32, 12, 4),), 6)
    learner = Learner(_model(network), rate=0.3)
    x, y = nets.samples(network, 600)
    before = (learner.model.predict(x) == y).mean()
    for _ in range(10):
        learner.learn_many(x, y)
    assert before < 0.5
    assert (learner.model.predict(x) == y).mean() > 0.95


def test_anneal_ends_without_rewiring() -> None:
    learner = Learner(_model())
    learner.anneal(0.0)
    start = learner.status()
    learner.anneal(1.0)
    end = learner.status()
    assert start["swaps"] == 2  # three quarters of two blocks
    assert end["swaps"] == 0
    assert end["rate"] == pytest.approx(start["rate"] / 10)


def test_variant_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="portable"):
        core.select_variant("magic")


def test_dense_only_network_learns_without_wires() -> None:
    network = nets.network((1, 10, 1), (dense(10, 6),), 3)
    learner = Learner(_model(network), rate=0.3)
    x, y = nets.samples(network, 100)
    for _ in range(20):
        learner.learn_many(x, y)
    assert (learner.model.predict(x) == y).mean() > 0.9
    assert learner.status()["rewired"] == 0


def test_label_of_thousands_of_digits() -> None:
    learner = Learner(_model())
    x, _ = nets.samples(NET, 1)
    with pytest.raises(DataError):
        learner.learn_one(x[0], "9" * 5000)
