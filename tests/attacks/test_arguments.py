"""Arguments that mean nothing get an error of ours, and the arena keeps every byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests import nets
from zgedge import DataError, Learner, Model, ZgedgeError
from zgedge.errors import UsageError
from zgedge.network import sparse

NETWORK = nets.network((1, 24, 1), (sparse(24, 9, 5),), 4, replay_samples=3, replay_bits=4, batch=4)
GOOD = np.linspace(0, 1, 24, dtype=np.float32)
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def learner() -> Learner:
    out = Learner(Model(nets.buffer(nets.file(NETWORK)), "a.zge"))
    x, y = nets.samples(NETWORK, 6)
    out.learn_many(x, y)
    return out


def _refused(learner: Learner, call: Callable[[], Any], error: type[ZgedgeError]) -> None:
    before = learner.model.arena.buffer.copy()
    with pytest.raises(error):
        call()
    assert np.array_equal(learner.model.arena.buffer, before)
    # And it goes on working.
    learner.configure(rate=0.2)
    learner.learn_one(GOOD, 1)


BAD_SAMPLES: dict[str, Any] = {
    "nan": GOOD * NAN, "inf": GOOD + INF, "minus-inf": GOOD - INF,
    "above-float32": GOOD.astype(np.float64) + 1e300, "complex": GOOD + 1j,
    "text": np.array(["a"] * 24), "bytes": np.array([b"a"] * 24), "none": np.array([None] * 24),
    "ragged": [[1, 2], [3]], "too-few": GOOD[:23], "too-many": np.zeros(25), "empty": np.zeros(0),
    "scalar": 3.0, "nothing": None, "dictionary": {"a": 1}, "int-beyond": [10**400] * 24,
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_sample_that_is_none(learner: Learner, name: str) -> None:
    x = BAD_SAMPLES[name]
    many: Any = x if name in ("scalar", "nothing", "dictionary", "ragged") else [x]
    _refused(learner, lambda: learner.learn_one(x, 1), DataError)
    _refused(learner, lambda: learner.learn_many(many, [1]), DataError)
    _refused(learner, lambda: learner.remember(many, [1]), DataError)
    with pytest.raises(DataError):
        learner.model.predict_one(x)
    for call in (learner.model.predict, learner.model.predict_proba, learner.model.logits):
        with pytest.raises(DataError):
            call(many)


BAD_LABELS: dict[str, Any] = {
    "4": 4, "-1": -1, "1.5": 1.5, "nan": NAN, "none": None, "text": "x", "text-4": "4",
    "superscript": "²", "minus-minus": "--1", "arabic-4": "٤", "list": [1, 2], "dictionary": {},
    "max": 2**64 - 1, "huge": 10**30, "65537": 65_537, "array": np.array([1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LABELS)
def test_label_that_is_none(learner: Learner, name: str) -> None:
    y = BAD_LABELS[name]
    _refused(learner, lambda: learner.learn_one(GOOD, y), DataError)
    if name not in ("list", "array"):
        _refused(learner, lambda: learner.learn_many([GOOD], [y]), DataError)
        _refused(learner, lambda: learner.remember([GOOD], [y]), DataError)


@pytest.mark.parametrize("y", [1, True, 1.0, np.int8(1), np.uint64(1), "1", np.array(1)])
def test_label_in_any_form(learner: Learner, y: Any) -> None:
    before = learner.status()["samples"]
    learner.learn_one(GOOD, y)
    learner.learn_many([GOOD], [y])
    assert learner.status()["samples"] == before + 2


def test_samples_and_labels_of_two_lengths(learner: Learner) -> None:
    for y in ([], [1], [1, 1, 1]):
        _refused(learner, lambda y=y: learner.learn_many([GOOD, GOOD], y), DataError)  # type: ignore[misc]
        _refused(learner, lambda y=y: learner.remember([GOOD, GOOD], y), DataError)  # type: ignore[misc]


def test_label_that_is_none_stops_a_run_before_it_starts(learner: Learner) -> None:
    x = np.tile(GOOD, (9, 1))
    _refused(learner, lambda: learner.learn_many(x, [1] * 8 + [4]), DataError)


@pytest.mark.parametrize(
    "replay", [-1, 4, 99, 2**31, 2**32, 2**32 + 1, 2**64, 1.5, "1", NAN], ids=str
)
def test_replay_that_does_not_fit(learner: Learner, replay: Any) -> None:
    _refused(learner, lambda: learner.learn_one(GOOD, 1, replay=replay), UsageError)
    _refused(learner, lambda: learner.learn_many([GOOD], [1], replay=replay), UsageError)


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0}, {"rate": -1}, {"rate": 9}, {"rate": NAN}, {"rate": INF}, {"rate": 1e300},
        {"rate": "x"}, {"swaps": -1}, {"swaps": 256}, {"swaps": 2**32}, {"swaps": 2**32 + 1},
        {"swaps": 1.5}, {"swaps": "1"}, {"gather": 0}, {"gather": 4097}, {"gather": -1},
        {"gather": 2**32 + 1}, {"strategy": "best"}, {"strategy": 1}, {"learn": "some"},
        {"rate": 1, "swaps": 300},
    ],
    ids=str,
)  # fmt: skip
def test_setting_that_means_nothing(learner: Learner, options: dict[str, Any]) -> None:
    # _refused goes on with another setting: one that failed is not remembered.
    _refused(learner, lambda: learner.configure(**options), UsageError)


def test_nothing_to_learn_is_nothing_learned(learner: Learner) -> None:
    before = learner.model.arena.buffer.copy()
    for x in (np.zeros((0, 24)), np.zeros((0, 24), np.uint8), np.zeros((0, 1, 24))):
        assert len(learner.learn_many(x, [])) == 0
        assert len(learner.model.predict(x)) == 0
        learner.remember(x, [])
    assert np.array_equal(learner.model.arena.buffer, before)


def _strided() -> Any:
    return nets.buffer(nets.file(NETWORK))[::-1]


BUFFERS: dict[str, Callable[[], Any]] = {
    "float64": lambda: nets.buffer(nets.file(NETWORK)).astype(np.float64),
    "int8": lambda: nets.buffer(nets.file(NETWORK)).view(np.int8),
    "backwards": _strided,
    "every-other": lambda: np.repeat(nets.buffer(nets.file(NETWORK)), 2)[::2],
    "read-only": lambda: np.frombuffer(nets.file(NETWORK), np.uint8),
    "two-dimensional": lambda: nets.buffer(nets.file(NETWORK)).reshape(1, -1),
    "bytes": lambda: nets.file(NETWORK), "none": lambda: None,
}  # fmt: skip


@pytest.mark.parametrize("name", BUFFERS)
def test_memory_that_a_model_cannot_live_in(name: str) -> None:
    with pytest.raises(UsageError, match="writable array of bytes"):
        Model(BUFFERS[name]())
