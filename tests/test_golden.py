"""Golden files are read by this version, by every kernel variant, with the answers of old.

A failure here means that files in the field would be read, or would learn, differently. The files
and pins are made by tools/make_golden.py, which never changes what exists.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests import nets
from tools import make_golden
from tools.make_golden import GOLDEN
from zgedge import arena
from zgedge.runtime import Model
from zgedge.runtime import core_library as core

FOLDER = Path(__file__).resolve().parent / "golden"
PINS = json.loads((FOLDER / "golden.json").read_text())
# A new golden file changes this line. No other change may: see the text above.
PINNED = "64f1512017fafd24b937d76ef380db7373bdb3289d2d1c560647d1fc42b2242e"
VARIANTS = [name for name, usable in core.variants().items() if usable]


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    before = core.variant()
    core.select_variant(request.param)
    yield request.param
    core.select_variant(before)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of some golden files and of the page that the tool works on instead."""
    some = {*make_golden.LISTED, "v1-names", "v1-trunk-no-learning"}
    (tmp_path / "golden").mkdir()
    for name in some:
        shutil.copy(FOLDER / f"{name}.zge", tmp_path / "golden")
    pins = {name: pin for name, pin in PINS.items() if name in some}
    (tmp_path / "golden" / "golden.json").write_text(make_golden.as_json(pins))
    shutil.copy(make_golden.FORMAT, tmp_path)
    few = {name: golden for name, golden in GOLDEN.items() if name in some}
    monkeypatch.setattr(make_golden, "GOLDEN", few)
    monkeypatch.setattr(make_golden, "FOLDER", tmp_path / "golden")
    monkeypatch.setattr(make_golden, "PINS", tmp_path / "golden" / "golden.json")
    monkeypatch.setattr(make_golden, "FORMAT", tmp_path / "format.md")
    return tmp_path


def tool(*arguments: str) -> tuple[int, str]:
    before = core.variant()
    try:
        done = CliRunner().invoke(make_golden.main, arguments)
    finally:
        core.select_variant(before)
    return done.exit_code, done.output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def read(name: str) -> bytes:
    return (FOLDER / f"{name}.zge").read_bytes()


def test_pins_are_those_of_old() -> None:
    digest = hashlib.sha256((FOLDER / "golden.json").read_bytes()).hexdigest()
    assert digest == PINNED, "golden answers changed: files in the field would be read differently"
    assert set(PINS) == {p.stem for p in FOLDER.glob("*.zge")}
    assert len(PINS) >= 20


@pytest.mark.parametrize("name", PINS)
def test_bytes_are_those_of_old(name: str) -> None:
    blob = read(name)
    assert hashlib.sha256(blob).hexdigest() == PINS[name]["sha256"]
    assert len(blob) == PINS[name]["bytes"] < 6 * 1024


@pytest.mark.parametrize("name", PINS)
def test_same_answers(name: str, variant: str) -> None:
    golden = GOLDEN[name]
    model = Model(nets.buffer(read(name)), name)
    x, _ = make_golden.stream(golden, make_golden.SAMPLES, seed=2)
    pinned = np.array(PINS[name]["logits"])
    assert np.array_equal(model.logits(x), pinned)
    for i in range(len(x)):  # one sample at a time runs other kernels
        assert np.array_equal(model.logits(x[i : i + 1])[0], pinned[i])
    classes, scores = model.predict_index(x.astype(np.uint8) if golden.values else x)
    assert np.array_equal(classes, np.where(scores < golden.unknown, -1, pinned.argmax(axis=1)))


def test_a_golden_file_knows_and_does_not_know() -> None:
    golden = GOLDEN["v1-sparse-b16-unknown"]
    x, _ = make_golden.stream(golden, make_golden.SAMPLES, seed=2)
    classes, _ = Model(nets.buffer(read("v1-sparse-b16-unknown"))).predict_index(x)
    assert set(classes < 0) == {True, False}


@pytest.mark.parametrize("name", [n for n in PINS if GOLDEN[n].network.learning])
def test_same_bytes_after_learning(name: str, variant: str) -> None:
    learned = make_golden.learn(read(name), GOLDEN[name], make_golden.STEPS, seed=3)
    assert hashlib.sha256(learned).hexdigest() == PINS[name]["learned_sha256"]
    state = Model(nets.buffer(learned)).arena.learner()
    assert state is not None
    steps = make_golden.WARM + make_golden.STEPS
    # Every second sample that waited got its label, and each time a new class one sample.
    spare = GOLDEN[name].network.classes - len(GOLDEN[name].class_names)
    more = steps // 2 + spare if GOLDEN[name].network.pending else 0
    assert state["steps"] == steps + more
    careful = GOLDEN[name].calm > 0
    assert state["rewired"] > 100 or careful or GOLDEN[name].network.head == "analytic"
    if careful:
        watch = Model(nets.buffer(learned)).arena.watch()
        assert watch is not None
        assert watch["accepted"] > 5
        assert watch["caution"] == (0 if GOLDEN[name].new else GOLDEN[name].calm)
        assert watch["drift"]["confirmed"] == GOLDEN[name].new
        assert watch["epoch"] == 0


@pytest.mark.parametrize("name", PINS)
def test_names_and_flags(name: str) -> None:
    golden = GOLDEN[name]
    model = Model(nets.buffer(read(name)), name)
    assert model.arena.class_names[: len(golden.class_names)] == golden.class_names
    assert model.arena.feature_names == golden.feature_names
    assert model.arena.int_classes == golden.int_classes
    # A class got its name on the way.
    known = golden.network.known and golden.network.known + 1
    assert model.arena.network == replace(golden.network, known=known)
    assert model.arena.version == 1


def test_the_generator_is_the_one_described() -> None:
    lcg = make_golden.Lcg(1)
    assert [lcg.below(1 << 32) for _ in range(3)] == [1817669548, 2187888307, 2784682393]


def test_tool_agrees() -> None:
    code, output = tool("--check")
    assert code == 0, output


def test_check_writes_nothing(elsewhere: Path) -> None:
    (elsewhere / "golden" / "v1-tiny.zge").unlink()
    before = contents(elsewhere)
    code, output = tool("--check")
    assert code == 1
    assert "v1-tiny" in output
    assert contents(elsewhere) == before


def test_changed_file_is_refused_and_kept(elsewhere: Path) -> None:
    path = elsewhere / "golden" / "v1-names.zge"
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    before = contents(elsewhere)
    for arguments in ((), ("--check",)):
        code, output = tool(*arguments)
        assert code == 1
        assert "v1-names.zge has other bytes than those pinned" in output
        assert contents(elsewhere) == before


@pytest.mark.parametrize("key", ["logits", "learned_sha256"])
def test_changed_answer_is_refused_and_kept(elsewhere: Path, key: str) -> None:
    path = elsewhere / "golden" / "golden.json"
    pins = json.loads(path.read_text())
    pins["v1-tiny"][key] = [] if key == "logits" else "0" * 64
    path.write_text(make_golden.as_json(pins))
    before = contents(elsewhere)
    code, output = tool()
    assert code == 1
    assert f"v1-tiny.zge: {key} differs" in output
    assert contents(elsewhere) == before


def test_a_file_that_nothing_pins_is_refused(elsewhere: Path) -> None:
    shutil.copy(elsewhere / "golden" / "v1-tiny.zge", elsewhere / "golden" / "other.zge")
    code, output = tool("--check")
    assert code == 1
    assert "other.zge is in no pin" in output


def test_a_new_file_is_made_and_nothing_else_changes(elsewhere: Path) -> None:
    path = elsewhere / "golden" / "golden.json"
    before = contents(elsewhere)
    pins = json.loads(path.read_text())
    del pins["v1-trunk-no-learning"]
    path.write_text(make_golden.as_json(pins))
    (elsewhere / "golden" / "v1-trunk-no-learning.zge").unlink()
    code, output = tool()
    assert code == 0, output
    assert contents(elsewhere) == before


def test_written_file_is_the_golden_one() -> None:
    """The writer gives the bytes of old for a network that has not learned."""
    golden = GOLDEN["v1-dense-no-learning"]
    written = arena.write(golden.network, make_golden.parameters(golden))
    assert written == read("v1-dense-no-learning")
