"""What whoever deploys asks of a board, answered by Python."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zgedge
from tests import nets
from zgedge import Learner, Model
from zgedge.errors import DataError, ModelError, UsageError
from zgedge.runtime import board
from zgedge.runtime.board import Golden, make_golden, run_golden
from zgedge.runtime.store import Store

NET = nets.network(replay_samples=16, replay_bits=4, batch=4)
X, Y = nets.samples(NET, 200)
FILES = sorted((Path(__file__).parent.parent / "golden").glob("*.zge"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.zge"
    path.write_bytes(nets.file(NET))
    return path


def asked(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any]:
    code = board.main([str(a) for a in arguments])
    (line,) = capsys.readouterr().out.splitlines()
    return code, json.loads(line)


def test_golden_files_are_laid_out_as_specified(model: Path) -> None:
    data = make_golden(model, X[:5], Y[:5])
    assert data == make_golden(model, X[:5], Y[:5])
    head = struct.unpack_from("<4sIIIIIII", data)
    learner = Learner(model)
    logits = learner.model.logits(X[:5])
    for x, y in zip(X[:5], Y[:5], strict=True):
        learner.learn_one(x, int(y))
    learner.seal()
    arena = zlib.crc32(learner.model.arena.buffer.data)
    assert head[:7] == (b"ZGEG", 1, 5, 24, 4, 5, arena)
    assert head[7] == zlib.crc32(data[:28] + data[32:])
    body = X[:5].tobytes() + logits.tobytes() + Y[:5].astype("<u2").tobytes() + b"\0\0"
    assert data[32:] == body


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_kind_of_file_has_a_golden_file(path: Path, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(make_golden(path))
    before = path.read_bytes()
    found = run_golden(str(path), str(tmp_path / "g"))
    assert found["ok"], found
    assert found["samples"] >= 8
    assert found["learned"] == (found["samples"] if Model.open(path).arena.network.learning else 0)
    assert 0 < found["p50_us"] <= found["p99_us"]
    assert found["arena_bytes"] == len(before)
    assert found["rss_bytes"] > 1 << 20
    assert path.read_bytes() == before


def test_samples_come_from_the_file_where_it_has_some(tmp_path: Path) -> None:
    path = tmp_path / "m.zge"
    path.write_bytes(nets.file(NET))
    learner = Learner(path)
    learner.remember(X[:16], Y[:16])
    learner.save(path)
    x, numbers = board.own_samples(path)
    assert sorted(numbers[:16]) == sorted(Y[:16])
    # Four bits of a value are kept.
    most = 255 / learner.model.arena.input_coding()[0]
    closest = np.abs(x[:16, None] - X[None, :16].clip(0, most)).max(axis=2).min(axis=1)
    assert closest.max() < 0.1


def test_a_difference_is_found_and_named(model: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "g"
    good = Golden.read(_written(path, make_golden(model, X[:8], Y[:8])))
    good.logits[3, 1] += 1
    _written(path, good.to_bytes())
    code, found = asked(capsys, "golden", model, path)
    assert (code, found["ok"], found["sample"], found["exit_code"]) == (1, False, 3, 1)
    assert "Sample 3 differs: logit 1" in found["error"]
    good.logits[3, 1] -= 1
    _written(path, Golden(good.x, good.logits, good.labels, good.learned, 5).to_bytes())
    code, found = asked(capsys, "golden", model, path)
    assert (code, found["ok"]) == (1, False)
    assert "After learning 8 samples" in found["error"]


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_no_flipped_bit_of_a_golden_file_passes(model: Path, tmp_path: Path) -> None:
    data = make_golden(model, X[:2], Y[:2])
    path = tmp_path / "g"
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 1 << at % 8
        with pytest.raises(DataError):
            Golden.read(_written(path, bytes(bad)))
    for cut in (b"", data[:20], data[:-1], data + b"\0"):
        with pytest.raises(DataError):
            Golden.read(_written(path, cut))


def test_what_does_not_belong_together(model: Path, tmp_path: Path, capsys: Any) -> None:
    path = _written(tmp_path / "g", make_golden(model))
    other = tmp_path / "other.zge"
    other.write_bytes(nets.file(nets.network(shape=(1, 32, 1))))
    code, found = asked(capsys, "golden", other, path)
    assert (code, found["exit_code"]) == (3, 3)
    assert "is for 24 inputs" in found["error"]
    code, found = asked(capsys, "golden", tmp_path / "none.zge", path)
    assert (code, found["exit_code"]) == (4, 4)
    fixed = tmp_path / "fixed.zge"
    fixed.write_bytes(nets.file(nets.network(learning=False, batch=1)))
    assert "predict only" in asked(capsys, "golden", fixed, path)[1]["error"]
    with pytest.raises(DataError):
        make_golden(model, X[:2], [0, 9])
    with pytest.raises(DataError):
        make_golden(model, X[:0])
    with pytest.raises(UsageError):
        make_golden(model, None, [0])
    assert asked(capsys, "fly")[0] == 2


def test_version(capsys: Any) -> None:
    code, found = asked(capsys, "version")
    assert code == 0
    assert found["zgedge"] == zgedge.__version__
    assert (found["runtime"], found["python"]) == ("python", sys.version.split()[0])


def test_digest_is_of_the_newest_whole_state_and_writes_nothing(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    golden = _written(tmp_path / "g", make_golden(model, X[:8], Y[:8]))
    state = tmp_path / "state"
    ask = ("digest", model, "--state", state, golden)
    pristine = Model.open(model)
    want = {
        "from": "the deployed model",
        "logits": f"{zlib.crc32(pristine.logits(X[:8]).tobytes()):08x}",
        "state": f"{zlib.crc32(model.read_bytes()):08x}",
    }
    assert asked(capsys, *ask) == (0, want)
    assert not state.exists()
    learner = Learner(model)
    with Store.open(state, model.read_bytes()) as store:  # it is owned meanwhile
        for i in range(2):
            learner.learn_one(X[i], int(Y[i]))
            learner.seal()
            store.commit(learner.model.arena.buffer.data)
        files = {p.name: p.read_bytes() for p in state.iterdir()}
        code, found = asked(capsys, *ask)
        assert (code, found["from"]) == (0, "commit 2")
        assert found["state"] == f"{zlib.crc32(learner.model.arena.buffer.data):08x}"
        assert found["logits"] == f"{zlib.crc32(learner.model.logits(X[:8]).tobytes()):08x}"
        assert files == {p.name: p.read_bytes() for p in state.iterdir()}
    other = tmp_path / "other.zge"
    other.write_bytes(nets.file(NET, seed=3))
    with pytest.raises(ModelError, match="state of another model"):
        board.newest_state(str(other), str(state))


def test_a_conversation(model: Path, tmp_path: Path) -> None:
    from zgedge.runtime.service import Service

    path = str(tmp_path / "s")
    service = Service(str(model), socket=path)
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        out = io.BytesIO()
        lines = [json.dumps({"op": "predict", "x": x.tolist()}) for x in X[:3]]
        board.converse(path, io.BytesIO("\n".join([*lines, "no"]).encode()), out, 10)
        replies = [json.loads(line) for line in out.getvalue().splitlines()]
        assert [reply["ok"] for reply in replies] == [True, True, True, False]
        assert [r["label"] for r in replies[:3]] == Model.open(model).predict(X[:3]).tolist()
    finally:
        service.stop("the end")
        thread.join(60)


def test_as_a_command(model: Path, tmp_path: Path) -> None:
    path = _written(tmp_path / "g", make_golden(model))
    done = subprocess.run(
        [sys.executable, "-m", "zgedge.runtime.board", "golden", model, path],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["ok"]
    done = subprocess.run(
        [sys.executable, "-m", "zgedge.runtime.board", "ask", tmp_path / "none"],
        capture_output=True, text=True, timeout=60, input="{}\n",
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["exit_code"]) == (1, 1)
