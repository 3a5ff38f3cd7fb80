"""The Python service and the native program are one service: same replies, same arena, one
folder."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import zgedge
from tests import nets
from tests.core import test_guard as guarded
from tests.runtime.native_program import PYTHON, Served, newest
from tests.runtime.test_store import flip
from tests.waiting import until
from tests.worlds import start, worlds
from zgedge import Learner, Model, arena
from zgedge.runtime import sockets
from zgedge.runtime.board import make_golden

NET = nets.network(replay_samples=16, replay_bits=4, batch=4)
LATE = nets.network(replay_samples=16, replay_bits=4, batch=4, pending=20)
X, Y = nets.samples(NET, 1000)
Serve = Callable[..., Served]


def named() -> bytes:
    """A model whose classes have names: one of several words, one that is a number."""
    names = ["north", 'ost \N{SNOWMAN} "q"', "3", "west"]
    net = nets.network(names_bytes=len(arena.names_blob(names)), replay_samples=8, replay_bits=4)
    p = nets.parameters(net)
    p.class_names, p.int_classes, p.unknown = names, False, 12000
    return arena.write(net, p)


def spare(names: list[str], int_classes: bool) -> bytes:
    """A model with room for three more classes."""
    net = nets.network(classes=6, known=3, replay_samples=8, replay_bits=4, batch=4)
    p = nets.parameters(net)
    p.class_names, p.int_classes = names, int_classes
    return arena.write(net, p)


MODELS: dict[str, Callable[[], bytes]] = {
    "integers": lambda: nets.file(NET),
    "names": named,
    "pending": lambda: nets.file(LATE),
    "guard": lambda: start(guarded.NETWORKS["sparse-b1"]).to_bytes(),
    "spare": lambda: spare(["a", "b", 'c "q"'], int_classes=False),
    "spare-integers": lambda: spare(["0", "1", "7"], int_classes=True),
    "analytic": lambda: nets.file(nets.network(head="analytic", batch=4)),
    "predict-only": lambda: nets.file(nets.network(learning=False, batch=1)),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.zge"
    path.write_bytes(MODELS["integers"]())
    return path


NAMES: dict[str, Any] = {
    "names": ["north", 'ost ☃ "q"', 3, "west"],
    "spare": ["a", "b", 'c "q"', "a"],
    "spare-integers": [0, 1, 7, 0],
}


def lines(kind: str, inputs: int) -> list[bytes]:
    """Requests, good and bad ones."""
    rng = np.random.default_rng(3)
    row = json.dumps([0.25] * inputs)
    rest = ", 1" * (inputs - 1)
    out = []
    for i in range(40):
        x = rng.normal(0.5, 0.3, inputs).astype(np.float32).tolist()
        out.append(json.dumps({"op": "predict", "x": x}))
        label: Any = NAMES.get(kind, range(4))[i % 4]
        out.append(json.dumps({"op": "learn", "x": x, "y": label}))
        if i % 3 == 0:
            out.append(json.dumps({"op": "predict", "x": x, "id": f"r{i}"}))
            out.append(json.dumps({"op": "label", "id": f"r{i}", "y": label}))
    labels = [
        '"3"',
        '"03"',
        "3.0",
        "3.5",
        "-1",
        "4",
        '"west"',
        "true",
        "null",
        "[1]",
        "{}",
        "1e400",
    ]
    labels += ['"\\u2603"', '"\\ud83d"', '""', "-0", '" 3"', '"+3"', "99999999999999999999999999"]
    out += [f'{{"op": "learn", "x": {row}, "y": {label}}}' for label in labels]
    values = ["NaN", "-Infinity", "1e39", "null", "true", "[1]", "{}", "1e-50", "0.1e1", "-0.0"]
    values += ["123456789012345678901234567890", "0.30000001192092896", "3.4028235e38", "1" * 400]
    values += ["01", "1.", ".5", "+1", "1e", "0x1", "1_0", "--1", "nan"]
    out += [f'{{"op": "predict", "x": [{value}{rest}]}}' for value in values]
    for watch in ("false", "true", "null", "0", "0.5", '""', '"no"', "[]", "[0]", "{}", "-0.0"):
        out.append(f'{{"op": "predict", "x": {row}, "watch": {watch}}}')
    ids = ['"a"', "7", "-1", "1.5", "[1]", "true", "null", "18446744073709551615", '"\\u2603"']
    ids += ["18446744073709551616", '"\\ud83d"', "{}"]
    for key in ids:
        out.append(f'{{"op": "predict", "x": {row}, "id": {key}}}')
        out.append(f'{{"op": "label", "id": {key}, "y": 1}}')
    for name in (
        "null", "true", "1.5", "[1]", '""', '"a"', "1", '"007"', '"-1"', '"unknown"', '"a\\u0000b"',
        '"\\ud83d"', '"' + "n" * 25 + '"', "1" * 25, '"' + "n" * 300 + '"', '"W\\u00e4sche"', "-0",
        "00", '"08"', "-12", "5", "5", '"one more"', "6",
    ):  # fmt: skip
        out.append(f'{{"op": "class", "name": {name}}}')
        out.append(f'{{"op": "learn", "x": {row}, "y": {name}}}')
    out.append('{"op": "class"}')
    out += [
        "garbage", "{}", "[]", "5", "", " ", "null", '"op"', '{"op": "fly"}', '{"op": ["predict"]}',
        '{"op": "predict"}', '{"op": "predict", "x": [1, 2]}', '{"op": "predict", "x": "abc"}',
        '{"op": "learn", "y": 1}', '{"op": "control"}',
        '{"op": "control", "do": "explode"}',
        '{"op": "control", "do": {}}', '{"op": "label"}', "[" * 60_000, '{"a":' * 5000,
        f'{{"op": "predict", "x": {row}, "x": {row}}}',
        f'{{"x": [1], "op": "predict", "x": {row}}}',
        f'{{"op": "fly", "op": "predict", "x": {row}}}', '{"op": "predict",}', '{"op" "predict"}',
        f'{{"op": "predict", "x": {row[:-1]},]}}', f'{{"op": "predict", "x": {row}}} x',
        f'\t{{ "op" : "predict" , "x" : {row} , "y": [1, {{"z": [null, true, "\\n"]}}] }}\r',
        '{"op": "pre\\u0064ict", "x": ' + row + "}", '{"op": "predict\\q"}', '{"op": "a\tb"}',
        '{"op": "control", "do": "freeze"}', f'{{"op": "learn", "x": {row}, "y": 1}}',
        f'{{"op": "predict", "x": {row}, "id": "f"}}', '{"op": "control", "do": "on"}',
        '{"op": "control", "do": "accept"}', '{"op": "control", "do": "rollback"}',
        '{"op": "control", "do": "commit"}',
    ]  # fmt: skip
    return [line.encode() for line in out] + [b"\xff\xfe{}", b'{"op": "\xc3\x28"}', b"x" * 70_000]


def settled(reply: dict[str, Any]) -> Any:
    """What of a reply must be the same: of an error its kind, of a queue nothing that is timing."""
    if not reply["ok"]:
        assert reply["error"]
        return ("error", reply["exit_code"], set(reply))
    return {name: value for name, value in reply.items() if name not in ("waiting",)}


VOLATILE = {"model", "uptime", "ticks", "memory", "queue", "events", "sources", "clients"}


@pytest.mark.parametrize("kind", MODELS)
def test_same_replies_same_arena(kind: str, tmp_path: Path, native: str, serve: Serve) -> None:
    path = tmp_path / "m.zge"
    path.write_bytes(MODELS[kind]())
    inputs = Model.open(path).inputs
    asked = lines(kind, inputs)
    replies, finals, states, texts = [], [], [], []
    for what in (PYTHON, native):
        name = "p" if what == PYTHON else "n"
        run = serve(what, path, name, "--commit-every", "1e9")
        replies.append(run.send(asked))
        run.wait(lambda status: status["queue"]["waiting"] == 0)
        texts.append(run.ask(op="metrics")["text"])
        finals.append(run.stop())
        states.append(newest(run.state, path))
    for line, one, other in zip(asked, *replies, strict=True):
        assert settled(one) == settled(other), (line[:200], one, other)
        if not one["ok"]:
            assert (one["hint"] is None) == (other["hint"] is None), (line[:200], one, other)
        if not one["ok"] and "is not a class of" in one["error"]:
            assert one["hint"] == other["hint"]
            assert "np." not in one["error"]
        if b'"watch"' in line:
            assert one["ok"] == line.endswith((b"true}", b"false}"))
        if b"rollback" in line and not one["ok"]:
            assert one["hint"] == other["hint"]
            assert ("analytic" in (one["hint"] or "")) == (kind == "analytic")
    assert states[0] == states[1]
    python, own = finals
    assert set(python) == set(own)
    for name in set(python) - VOLATILE - {"store", "refused", "last_refused", "learner"}:
        assert python[name] == own[name], name
    assert (python["last_refused"] is None) == (own["last_refused"] is None)
    assert python["refused"] == own["refused"]
    assert _close(python["learner"], own["learner"])
    assert python["queue"] == own["queue"]
    if python["store"] is not None:
        assert set(python["store"]) == set(own["store"])
        for name in ("slots", "generation", "loaded", "commits", "interval", "written", "failure"):
            assert python["store"][name] == own["store"][name], name
        told = [[(e["kind"], e["step"], e["value"]) for e in f["events"]] for f in finals]
        assert told[0] == told[1]
        assert [set(e) for e in python["events"]] == [set(e) for e in own["events"]]
    heads = [[line for line in text.splitlines() if line.startswith("#")] for text in texts]
    assert sorted(heads[0]) == sorted(heads[1])


def _close(a: Any, b: Any) -> bool:
    """Equal, floats to their last bits: pow may differ there."""
    if isinstance(a, dict):
        return set(a) == set(b) and all(_close(a[k], b[k]) for k in a)
    if isinstance(a, float) or isinstance(b, float):
        return bool(a == pytest.approx(b, rel=1e-12))
    return bool(a == b)


def test_one_folder_for_both(model: Path, native: str, serve: Serve) -> None:
    """One goes on where the other stopped, by turns, and each learns what the learner learns."""
    learner = Learner(model)
    for turn, what in enumerate((native, PYTHON, native, native, PYTHON)):
        run = serve(what, model)
        status = run.ask(op="status")
        assert status["learner"] == learner.status()
        assert status["started_from"] == (f"commit {turn}" if turn else "the deployed model")
        assert status["store"]["commits"] == turn
        numbers = [event["number"] for event in status["events"]]
        assert numbers == list(range(1, len(numbers) + 1))
        part = slice(40 * turn, 40 * turn + 40)
        run.learn(X[part], Y[part])
        for x, y in zip(X[part], Y[part], strict=True):
            learner.learn_one(x, int(y))
        last = run.stop()
        learner.seal()
        assert newest(run.state, model) == learner.model.arena.buffer.tobytes()
        assert last["stopped"] == "SIGTERM"
        kinds = [event["kind"] for event in last["events"]]
        assert kinds == ["started", "stopped"] * (turn + 1)
    assert last["store"]["written"] == 5 * (4096 + 4096) + 10 * 4096


def test_killed_it_starts_from_its_last_commit(
    runtime: str, model: Path, native: str, serve: Serve
) -> None:
    """Whichever runtime is started after the one that was killed."""
    run = serve(runtime, model, "a", "--commit-every", "0")
    run.learn(X[:100], Y[:100])
    run.wait(lambda status: status["store"]["generation"] > 0)
    done = run.ask(op="status")["store"]["generation"]
    run.kill()
    other = native if runtime == PYTHON else PYTHON
    again = serve(other, model)
    status = again.ask(op="status")
    assert status["store"]["loaded"] >= done
    steps = status["learner"]["steps"]
    assert 0 < steps <= 100
    learner = Learner(model)
    for x, y in zip(X[:steps], Y[:steps], strict=True):
        learner.learn_one(x, int(y))
    assert status["learner"] == learner.status()
    again.stop()


def test_state_of_another_model_is_refused_and_left_alone(
    runtime: str, model: Path, tmp_path: Path, serve: Serve
) -> None:
    run = serve(runtime, model)
    run.learn(X[:3], Y[:3])
    run.stop()
    before = {p.name: p.read_bytes() for p in run.state.iterdir()}
    other = tmp_path / "other.zge"
    other.write_bytes(nets.file(NET, seed=5))
    failed = serve(runtime, other, start=False).ended(4)
    assert "holds the state of another model" in failed["error"]
    assert {p.name: p.read_bytes() for p in run.state.iterdir()} == before


def test_a_damaged_slot_and_both(runtime: str, model: Path, serve: Serve) -> None:
    for i in range(2):
        run = serve(runtime, model)
        run.learn(X[i : i + 1], Y[i : i + 1])
        run.stop()
    flip(run.state / "slot-b", 5000)
    run = serve(runtime, model, as_json=False)
    status = run.ask(op="status")
    assert status["started_from"] == "commit 1"
    assert "slot-b is damaged: its state is torn" in [e["text"] for e in status["events"]]
    assert status["store"]["slots"] == ["whole", "damaged: its state is torn"]
    run.process.kill()
    assert (
        "from commit 1; slot-b is damaged: its state is torn; the other slot's state is"
        in (run.process.communicate()[1])
    )
    flip(run.state / "slot-a", 5000)
    flip(run.state / "slot-b", 10)
    run = serve(runtime, model, as_json=False)
    status = run.ask(op="status")
    run.process.kill()
    assert (
        run.process.communicate()[1]
        .strip()
        .endswith(
            "from the deployed model; slot-a is damaged: its state is torn; "
            "slot-b is damaged: its header is torn; learning begins anew, and the next "
            "commits mend it."
        )
    )
    assert [e["text"] for e in status["events"] if e["kind"] == "slot damaged"][-2:] == [
        "slot-a is damaged: its state is torn", "slot-b is damaged: its header is torn",
    ]  # fmt: skip
    assert status["started_from"] == "the deployed model"
    assert status["store"]["slots"] == [
        "damaged: its state is torn", "damaged: its header is torn",
    ]  # fmt: skip
    assert status["learner"]["steps"] == 0


def test_a_slot_of_a_later_version(model: Path, native: str, serve: Serve) -> None:
    from zgedge.runtime.store import digest

    run = serve(native, model)
    run.learn(X[:1], Y[:1])
    run.stop()
    raw = bytearray((run.state / "slot-a").read_bytes())
    raw[4] = 2
    raw[112:128] = digest(bytes(raw[:112]))
    (run.state / "slot-a").write_bytes(raw)
    assert "written by a later zgedge" in serve(native, model, start=False).ended(4)["error"]


def test_a_full_disk_stops_no_learning(runtime: str, model: Path, serve: Serve) -> None:
    """A limit on the length of files is EFBIG: one of the disk's troubles."""
    run = serve(runtime, model, "a", "--commit-every", "0", file_limit=8192)
    run.learn(X[:50], Y[:50])
    status = run.wait(lambda status: status["store"]["failure"] is not None)
    assert "Learned state is not kept in" in status["store"]["failure"]
    assert status["samples"] == 50
    assert not run.ask(op="control", do="commit")["ok"]
    resource.prlimit(
        run.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    assert run.ask(op="control", do="commit")["ok"]
    status = run.ask(op="status")
    assert status["store"]["failure"] is None
    assert {"commit failed", "committed"} <= {event["kind"] for event in status["events"]}
    run.stop()
    learner = Learner(model)
    for x, y in zip(X[:50], Y[:50], strict=True):
        learner.learn_one(x, int(y))
    assert Learner(Model(nets.buffer(newest(run.state, model)))).status() == learner.status()


@contextlib.contextmanager
def mounted(disk: Path, system: str, *options: str) -> Iterator[None]:
    """A file system of its own at `disk` while this is entered; needs to be root."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root mounts a disk")
    disk.mkdir()
    if subprocess.run(["mount", "-t", system, *options, "none", disk]).returncode:
        pytest.skip(f"this machine lets nobody mount a {system}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("made", [True, False], ids=["a folder", "none yet"])
def test_a_disk_that_is_read_only_from_the_start(
    runtime: str, model: Path, tmp_path: Path, serve: Serve, made: bool
) -> None:
    """Whether the folder is there or not: the socket must lie elsewhere, and the reason is told."""
    disk = tmp_path / "disk"
    with mounted(disk, "tmpfs"):
        state = disk / "state"
        if made:
            state.mkdir()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        where = ("--state", str(state))
        failed = serve(
            runtime, model, "a", *where, "--socket", str(state / "socket"), start=False
        ).ended(1)
        assert "Read-only file system" in failed["error"]
        assert "No such file" not in failed["error"].partition("Learned state")[2]
        assert "--socket" in failed["hint"]
        run = serve(runtime, model, "a", *where)
        run.learn(X[:5], Y[:5])
        failure = run.ask(op="status")["store"]["failure"]
        assert failure == f"Learned state is not kept in {state}: Read-only file system."
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        run.wait(lambda status: run.ask(op="control", do="commit")["ok"])
        assert newest(state, model) is not None
        run.stop()


@pytest.mark.parametrize("kind", ["full", "promises no room"])
@pytest.mark.parametrize("program", [PYTHON, "native", "native_deployed"])
def test_disks_that_give_no_room_ahead(
    program: str, kind: str, model: Path, tmp_path: Path, serve: Serve,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """A full one is told of, and has the state once there is room; ramfs has no `fallocate`."""
    runtime = program if program == PYTHON else request.getfixturevalue(program)
    disk = tmp_path / "disk"
    system = ("tmpfs", "-o", "size=100k") if kind == "full" else ("ramfs",)
    with mounted(disk, *system):
        run = serve(runtime, model, "a", "--state", str(disk / "state"))
        run.learn(X[:5], Y[:5])
        failure = run.ask(op="status")["store"]["failure"]
        if kind == "full":
            assert failure.endswith(": No space left on device.")
            subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
            run.wait(lambda status: run.ask(op="control", do="commit")["ok"])
        else:
            assert failure is None
            assert run.ask(op="control", do="commit")["ok"]
        assert newest(disk / "state", model) is not None
        run.stop()


def test_a_hang_up_is_a_clean_stop_but_where_it_is_ignored(
    runtime: str, model: Path, serve: Serve
) -> None:
    run = serve(runtime, model, "a")
    run.learn(X[:5], Y[:5])
    run.process.send_signal(signal.SIGHUP)
    assert run.ended()["stopped"] == "SIGHUP"
    run = serve(runtime, model, "b", ignored=signal.SIGHUP)
    run.process.send_signal(signal.SIGHUP)
    run.learn(X[:5], Y[:5])
    assert run.stop()["stopped"] == "SIGTERM"


def test_what_was_never_kept_is_said_at_the_end(native: str, model: Path, serve: Serve) -> None:
    run = serve(native, model, file_limit=8192)
    run.learn(X[:5], Y[:5])
    run.process.terminate()
    out, _ = run.process.communicate(timeout=60)
    assert run.process.returncode == 1
    assert json.loads(out.splitlines()[1])["hint"] == "What was learned since is lost."


def last_words(run: Served) -> str:
    """What a service says to a person when it is stopped."""
    run.process.terminate()
    _, error = run.process.communicate(timeout=60)
    assert run.process.returncode == 0, error
    return str(error.splitlines()[-1])


def test_a_class_is_named_learned_and_kept(
    runtime: str, model: Path, native: str, serve: Serve
) -> None:
    """Also by the other runtime, which goes on; and it is learned as the learner learns it."""
    model.write_bytes(MODELS["spare"]())
    run = serve(runtime, model)
    x = X[0].tolist()
    assert not run.ask(op="learn", x=x, y="humming")["ok"]
    reply = run.ask(op="class", name="humming")
    assert reply == {"ok": True, "label": "humming", "spare": 2, "failure": None}
    assert run.ask(op="learn", x=x, y="humming")["ok"]
    run.wait(lambda status: status["samples"] == 1)
    status = run.stop()
    assert [e["text"] for e in status["events"]][-2] == "a new class: humming"
    learner = Learner(model)
    learner.add_class("humming")
    learner.seal()  # a name is committed at once
    learner.learn_one(X[0], "humming")
    learner.seal()
    assert newest(run.state, model) == learner.model.arena.buffer.tobytes()
    other = serve(native if runtime == PYTHON else PYTHON, model)
    assert other.ask(op="learn", x=x, y="humming")["ok"]
    reply = other.ask(op="class", name="humming")
    assert (reply["ok"], reply["exit_code"]) == (False, 3)
    assert reply["hint"] == 'Its classes are a, b, c "q", humming.'
    reply = other.ask(op="class", name=5)
    assert reply == {"ok": True, "label": "5", "spare": 1, "failure": None}
    assert other.ask(op="class", name="x")["spare"] == 0
    reply = other.ask(op="class", name="one more")
    assert (reply["exit_code"], reply["hint"]) == (2, "Train it with --spare-classes N.")
    other.stop()


def test_what_was_refused_is_said_at_the_end(runtime: str, model: Path, serve: Serve) -> None:
    run = serve(runtime, model, as_json=False)
    run.learn(X[:2], Y[:2])
    run.send([b"\x1b[2J", b'{"op": "predict", "x": [1, 2]}'])
    said = last_words(run)
    assert said.startswith("Stopped (SIGTERM): 2 samples learned, 0 predicted, 2 refused; 1 commit")
    assert said.endswith(". The last that was refused: socket: 2 values; the model takes 24.")
    run = serve(runtime, model, "b", as_json=False)
    assert " refused" not in last_words(run)


def test_a_signal_as_soon_as_it_can_be_reached_stops_it_cleanly(model: Path, serve: Serve) -> None:
    """The first moment at which anyone outside sees the Python service is its socket."""
    main = (
        "import os, signal, sys; from zgedge.cli import main; sys.addaudithook(lambda event, _: "
        "event == 'socket.bind' and os.kill(os.getpid(), signal.SIGTERM)); main()"
    )
    run = serve([sys.executable, "-c", main], model, start=False)
    status = run.ended()
    assert status["stopped"] == "SIGTERM"
    assert not Path(run.path).exists()


def test_a_frozen_one_does_not_say_that_it_learned(runtime: str, model: Path, serve: Serve) -> None:
    """Neither where it was started so, nor where it has kept it; and what was learned is told."""
    run = serve(runtime, model, "a", "--freeze", as_json=False)
    run.learn(X[:3], Y[:3])
    assert ": 3 samples scored while it was frozen, 0 predicted" in last_words(run)
    run = serve(runtime, model, "a", as_json=False)
    run.learn(X[:2], Y[:2])
    assert run.ask(op="status")["scored"] == 2
    run.ask(op="control", do="on")
    run.learn(X[:4], Y[:4])
    assert ": 4 samples learned, 2 samples scored while it was frozen, 0" in last_words(run)


def test_a_service_beside_whose_name_is_alike_is_not_in_the_way(
    runtime: str, model: Path, tmp_path: Path, serve: Serve
) -> None:
    """The longest path that a socket can have, and one that differs in its last sign."""
    name = "n" * (107 - len(f"{tmp_path}//socket"))
    folder = tmp_path / name
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "socke~"))
        other.listen()
        run = serve(runtime, model, name)
        assert len(run.path) == 107
        assert run.ask(op="status")["ok"]
        assert sorted(p.name for p in folder.iterdir() if p.is_socket()) == ["socket", "socke~"]


def test_one_owner_of_a_folder_and_of_a_socket(native: str, model: Path, serve: Serve) -> None:
    for first, second in ((native, PYTHON), (PYTHON, native)):
        run = serve(first, model)
        failed = serve(second, model, start=False).ended(1)
        assert "Another service learns in" in failed["error"]
        run.kill()
    run = serve(native, model)  # the socket that was left is replaced
    mode = os.stat(run.path).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660
    failed = serve(native, model, "a", "--state", str(run.state) + "2", start=False).ended(1)
    assert "Another service answers at" in failed["error"]
    run.stop()
    assert not os.path.exists(run.path)


def test_a_flood_is_counted_and_a_clean_stop_learns_what_waits(
    native: str, model: Path, serve: Serve
) -> None:
    run = serve(native, model, "a", "--queue", "64")
    data = b"".join(
        json.dumps({"op": "learn", "x": x.tolist(), "y": int(y)}).encode() + b"\n"
        for x, y in zip(X[:640], Y[:640], strict=True)
    )
    waited = 0
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(run.path)
        # It is asked to stop while samples wait.
        sock.sendall(data + b'{"op": "control", "do": "stop"}\n')
        with sock.makefile("rb") as replies:
            for _ in range(641):
                reply = json.loads(replies.readline())
                assert reply["ok"]
                waited = reply.get("waiting", 0) or waited
    assert waited > 10
    last = run.ended()
    assert last["stopped"] == "asked to"
    assert last["queue"]["waiting"] == 0
    assert last["queue"]["dropped"] + last["samples"] == 640
    assert last["queue"]["dropped"] > 100


def test_clients_that_are_too_many_or_never_read(native: str, model: Path, serve: Serve) -> None:
    run = serve(native, model)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(run.path)
        sock.setblocking(False)
        line = b'{"op": "status"}\n'
        sent, quiet = 0, time.monotonic()
        while time.monotonic() - quiet < 0.3:
            try:
                sent += sock.send((line * 100)[sent % len(line) :])
                quiet = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
            assert sent < 10_000_000
        assert run.ask(op="predict", x=X[0].tolist())["ok"]
        sock.setblocking(True)
        sock.settimeout(60)
        with sock.makefile("rb") as replies:  # none is lost
            assert all(json.loads(replies.readline())["ok"] for _ in range(sent // len(line)))
    held = []
    for _ in range(16):
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].connect(run.path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(run.path)
        refusal = json.loads(sock.recv(1000))
        assert refusal == sockets.TOO_MANY
    for sock in held:
        sock.close()
    for _ in range(3000):
        with contextlib.suppress(Exception):
            assert run.ask(op="status")["clients"] == 1
            return
        time.sleep(0.02)
    raise AssertionError("clients that have gone are still counted")


def test_pieces_of_lines(native: str, model: Path, serve: Serve) -> None:
    """Requests that come byte by byte, or many in one piece, have their replies in order."""
    run = serve(native, model)
    plain = Model.open(model)
    data = [json.dumps({"op": "predict", "x": x.tolist()}).encode() for x in X[:300]]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(run.path)
        for i in range(len(data[0])):
            sock.sendall(data[0][i : i + 1])
        sock.sendall(b"\n" + b"\n".join(data[1:]) + b"\n" + b'{"op": "half')
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as replies:
            got = [json.loads(line)["label"] for line in replies]
    assert got == plain.predict(X[:300]).tolist()


def test_metrics_file_and_options(native: str, model: Path, tmp_path: Path, serve: Serve) -> None:
    target = tmp_path / "zgedge.prom"
    run = serve(native, model, "a", "--freeze", f"--metrics-file={target}", "--erase-block", "4KB")
    assert run.ask(op="status")["learning"] == "frozen"
    until(target.exists)
    assert "zgedge_learning 0\n" in target.read_text()
    assert (run.state / "slot-a").stat().st_size == 8192
    run.stop()
    assert not list(tmp_path.glob("zgedge.prom.*"))
    for words, code in (
        ([], 2), (["run"], 2), (["run", model, "--fly"], 2), (["run", model, "--queue", "0"], 2),
        (["run", model, "--erase-block", "5000"], 2), (["run", model, "--commit-every", "x"], 2),
        (["run", tmp_path / "none"], 4), (["run", tmp_path], 4), (["golden", model], 2),
        (["run", model, "--socket", "/" + "x" * 200], 2), (["run", model, "--state"], 2),
        (["run", model, "--socket", model], 2), (["run", model, "--state", "/proc/x"], 1),
        (["help"], 0),
    ):  # fmt: skip
        done = subprocess.run([native, *map(str, words)], capture_output=True, timeout=60)
        assert done.returncode == code, (words, done)
        assert done.stderr or code == 0 or words[:1] == ["golden"]


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_systemd_is_told(
    runtime: str, abstract: bool, model: Path, tmp_path: Path, serve: Serve
) -> None:
    """Ready, alive as long as the loop goes round, and stopping."""
    name = f"@zgedge-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if abstract else name)
        sock.settimeout(60)
        run = serve(runtime, model, env={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "300000"})
        assert sock.recv(100) == b"READY=1"
        for _ in range(3):
            assert sock.recv(100) == b"WATCHDOG=1"
        if not abstract:
            os.kill(run.process.pid, 19)  # SIGSTOP: it hangs
            until(psutil.Process(run.process.pid).status, psutil.STATUS_STOPPED.__eq__)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while sock.recv(100):  # what was said before
                    pass
            sock.settimeout(0.6)
            with pytest.raises(TimeoutError):
                sock.recv(100)
            os.kill(run.process.pid, 18)
            sock.settimeout(60)
        run.process.terminate()
        while (said := sock.recv(100)) != b"STOPPING=1":
            assert said == b"WATCHDOG=1"
        run.ended()


def test_only_accepted_states_are_committed_while_the_guard_judges(
    runtime: str, tmp_path: Path, serve: Serve
) -> None:
    path = tmp_path / "judged.zge"
    path.write_bytes(MODELS["guard"]())
    run = serve(runtime, path, "a", "--commit-every", "0")
    network = guarded.NETWORKS["sparse-b1"]
    world, rng = worlds(network)[0], np.random.default_rng(2)
    learned = []

    def commits() -> int:
        learned.append(world.draw(rng, 20))
        run.learn(*learned[-1])
        return int(run.ask(op="status")["store"]["commits"])

    # A state that came late is kept as it is, so nothing waits here for the disk alone.
    until(commits, (2).__le__)
    status = run.ask(op="status")
    assert status["store"]["commits"] <= status["learner"]["accepted"]
    run.kill()
    kept = Learner(Model(nets.buffer(newest(run.state, path))))
    learner = Learner(path)
    accepted = set()
    x, y = map(np.concatenate, zip(*learned, strict=True))
    for row, label in zip(x, y, strict=True):
        learner.learn_one(row, int(label))
        if learner.tick.guard == 1:
            accepted.add(learner.status()["steps"])
    assert kept.status()["steps"] in accepted


def test_what_a_person_decides_is_on_the_disk_at_once(
    runtime: str, tmp_path: Path, serve: Serve
) -> None:
    """Also where a guard judges, and whatever the interval: it is there after a SIGKILL."""
    path = tmp_path / "m.zge"
    path.write_bytes(MODELS["guard"]())
    options = ("--commit-every", "1e9")
    for i, (do, learning) in enumerate(
        (("freeze", "frozen"), ("on", "on"), ("accept", "on"), ("rollback", "on"))
    ):
        run = serve(runtime, path, "a", *options)
        told = run.ask(op="control", do=do)
        assert told == {"ok": True, "learning": learning, "failure": None}
        status = run.ask(op="status")
        assert status["store"]["commits"] == i + 1
        run.ask(op="control", do="on" if learning == "on" else do)  # as it is already
        assert run.ask(op="status")["store"]["commits"] == i + 1
        run.kill()
        run = serve(runtime, path, "a", *options)
        again = run.ask(op="status")
        assert again["learning"] == learning
        assert again["learner"] == status["learner"]
        run.kill()
    path.write_bytes(MODELS["spare"]())
    run = serve(runtime, path, "b", *options)
    assert run.ask(op="class", name="new")["ok"]
    run.kill()
    run = serve(runtime, path, "b", *options)
    assert run.ask(op="learn", x=[0.5] * Model.open(path).inputs, y="new")["ok"]


def test_a_decision_that_no_disk_takes_is_told(runtime: str, model: Path, serve: Serve) -> None:
    model.write_bytes(MODELS["spare"]())
    run = serve(runtime, model, "a", "--commit-every", "1e9", file_limit=8192)
    for request in ({"op": "control", "do": "freeze"}, {"op": "class", "name": "new"}):
        told = run.ask(**request)
        assert told["ok"]
        assert told["failure"].startswith(f"Learned state is not kept in {run.state}: ")
    assert run.ask(op="status")["learning"] == "frozen"
    resource.prlimit(
        run.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    assert run.ask(op="control", do="freeze")["failure"] is None  # nothing new, but never kept
    run.kill()
    run = serve(runtime, model, "a")
    assert run.ask(op="status")["learning"] == "frozen"
    assert not run.ask(op="class", name="new")["ok"]


def test_a_few_labels_and_then_silence(runtime: str, tmp_path: Path, serve: Serve) -> None:
    """No state is accepted any more: they are committed as they are, once, and a SIGKILL leaves
    them."""
    path = tmp_path / "judged.zge"
    path.write_bytes(MODELS["guard"]())
    run = serve(runtime, path, "a", "--commit-every", "1")
    x, y = worlds(guarded.NETWORKS["sparse-b1"])[0].draw(np.random.default_rng(2), 7)
    began = time.monotonic()
    run.learn(x, y)
    assert run.ask(op="status")["uncommitted"] == 7
    status = run.wait(lambda status: status["uncommitted"] == 0)
    assert time.monotonic() - began > 8
    assert status["store"]["commits"] == 1
    run.kill()
    run = serve(runtime, path, "a", "--commit-every", "1")
    status = run.ask(op="status")
    learner = Learner(path)
    for row, label in zip(x, y, strict=True):
        learner.learn_one(row, int(label))
    assert _close(status["learner"], learner.status())
    assert status["started_from"] == "commit 1"


def test_how_much_no_commit_has_yet(runtime: str, model: Path, serve: Serve) -> None:
    run = serve(runtime, model, "a", "--commit-every", "1e9")
    assert run.ask(op="status")["uncommitted"] == 0
    run.learn(X[:5], Y[:5])
    assert run.ask(op="status")["uncommitted"] == 5
    assert run.ask(op="control", do="commit")["ok"]
    assert run.ask(op="status")["uncommitted"] == 0
    run.learn(X[:2], Y[:2])
    run.ask(op="control", do="freeze")
    run.learn(X[:2], Y[:2])
    assert run.stop()["uncommitted"] == 0
    model.write_bytes(MODELS["predict-only"]())
    if runtime != PYTHON:
        assert serve(runtime, model, "b").ask(op="status")["uncommitted"] is None


def test_an_unknown_id_is_told_as_it_was_given_and_hides_no_other_fault(
    runtime: str, model: Path, serve: Serve
) -> None:
    model.write_bytes(MODELS["pending"]())
    run = serve(runtime, model)
    word = "w\u00e4sche \u2603"  # of 11 bytes
    for key, said in (
        ("r7", '"r7"'),
        ("12345678" + word * 9, f'"12345678{word * 2}w\u00e4sche "'),  # no half of a character
        ("", str(arena.id_number(""))),
        (12, "12"),
    ):
        before = run.ask(op="status")["refused"].get("unknown id", 0)
        assert run.ask(op="label", id=key, y=1)["ok"]
        status = run.wait(lambda s, n=before: s["refused"].get("unknown id", 0) == n + 1)
        told = f"a label: No sample with the id {said} waits for its label."
        assert status["last_refused"] == told
    run.ask(op="predict", x=[1, 2])
    bad = [e["text"] for e in run.ask(op="status")["events"] if e["kind"] == "bad input"]
    assert bad == [
        'a label: No sample with the id "r7" waits for its label.',
        "socket: 2 values; the model takes 24.",
    ]


@pytest.mark.parametrize("lost", [0, 1], ids=["slot-a", "slot-b"])
@pytest.mark.parametrize("how", ["zeros", "removed", "empty"])
def test_a_slot_that_lost_its_state(
    runtime: str, model: Path, serve: Serve, lost: int, how: str
) -> None:
    """Two commits were in two slots: that one is empty now is no fresh folder."""
    for i in range(3):
        run = serve(runtime, model)
        run.learn(X[i : i + 1], Y[i : i + 1])
        status = run.stop()
        assert not [e for e in status["events"] if e["kind"] == "slot damaged"]
    slot = run.state / ("slot-a", "slot-b")[lost]
    size = slot.stat().st_size
    slot.unlink()
    if how != "removed":
        slot.write_bytes(bytes(size) if how == "zeros" else b"")
    run = serve(runtime, model, as_json=False)
    status = run.ask(op="status")
    told = "damaged: it is empty, and held a state"
    assert status["started_from"] == ("commit 3" if lost else "commit 2")
    assert status["store"]["slots"][lost] == told
    assert [e["text"] for e in status["events"] if e["kind"] == "slot damaged"] == [
        f"{slot.name} is {told}"
    ]
    run.process.kill()
    said = f"{status['started_from']}; {slot.name} is {told}; the other slot's state is taken"
    assert said in run.process.communicate()[1]


@pytest.mark.slow
def test_killed_again_and_again(native: str, model: Path, serve: Serve) -> None:
    """Whatever moment it is: a whole state, no older than the last commit that was seen to end."""
    rng = np.random.default_rng(0)
    learner = Learner(model)
    done, seen = 0, 0
    for _ in range(150):
        run = serve(native, model, "a", "--commit-every", "0")
        status = run.ask(op="status")
        assert (status["store"]["loaded"] or 0) >= seen
        steps = status["learner"]["steps"]
        if steps < done:  # what came after the commit is lost
            learner, done = Learner(model), 0
        while done < steps:
            learner.learn_one(X[done % 1000], int(Y[done % 1000]))
            done += 1
        assert status["learner"] == learner.status()
        until = time.monotonic() + rng.uniform(0, 0.05)
        with contextlib.suppress(Exception):
            at = steps
            while time.monotonic() < until:
                run.learn(X[at % 1000 : at % 1000 + 1], Y[at % 1000 : at % 1000 + 1])
                at += 1
            seen = run.ask(op="status")["store"]["generation"]
        run.kill()


# ---- what whoever deploys asks ----


def test_board_answers_are_the_same(
    model: Path, native: str, tmp_path: Path, serve: Serve, capsys: Any
) -> None:
    from zgedge.runtime import board

    (tmp_path / "g").write_bytes(make_golden(model, X[:20], Y[:20]))
    bad = bytearray((tmp_path / "g").read_bytes())
    bad[60] ^= 1
    (tmp_path / "bad").write_bytes(bad)
    golden = board.Golden.read(tmp_path / "g")
    golden.logits[3, 1] += 1
    (tmp_path / "differs").write_bytes(golden.to_bytes())
    (tmp_path / "crc").write_bytes(
        board.Golden(golden.x, Model.open(model).logits(golden.x), golden.labels, 20, 5).to_bytes()
    )
    other = tmp_path / "other.zge"
    other.write_bytes(nets.file(nets.network(shape=(1, 32, 1))))
    run = serve(native, model)
    run.learn(X[:7], Y[:7])
    assert run.ask(op="control", do="commit")["ok"]
    g = str(tmp_path / "g")
    questions = [
        ["golden", str(model), g], ["golden", str(model), str(tmp_path / "bad")],
        ["golden", str(model), str(tmp_path / "differs")], ["golden", str(other), g],
        ["golden", str(model), str(tmp_path / "crc")],
        ["golden", "/nowhere", g], ["golden", str(model), "/nowhere"], ["golden", str(model), g, g],
        ["digest", str(model), "--state", str(tmp_path / "none"), g],
        ["digest", str(model), "--state", str(run.state), g],
        ["digest", str(model), g], ["ask", str(tmp_path / "none")], ["fly"], ["version"],
    ]  # fmt: skip
    for words in questions:
        code = board.main(words)
        (line,) = capsys.readouterr().out.splitlines()
        done = subprocess.run(
            [native, *words], capture_output=True, text=True, timeout=60, input=""
        )
        python, own = json.loads(line), json.loads(done.stdout)
        assert done.returncode == code, (words, done)
        assert set(python) == set(own), words
        if words[0] == "digest" and code == 0:
            assert python == own
        for name in ("ok", "samples", "learned", "sample", "exit_code", "arena_bytes", "zgedge"):
            assert python.get(name) == own.get(name), (words, name)
        if words[1:] in (
            [str(model), str(tmp_path / "differs")],
            [str(model), str(tmp_path / "crc")],
        ):
            assert python["error"] == own["error"]
    asked = json.dumps({"op": "predict", "x": X[0].tolist()}) + "\nno"
    done = subprocess.run(
        [native, "ask", run.path, "--timeout", "10"], capture_output=True, timeout=60,
        input=asked.encode(),
    )  # fmt: skip
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [r["ok"] for r in replies]) == (0, [True, False])
    assert zgedge.__version__ == own["zgedge"]


# ---- other processors ----


def test_other_processors_leave_the_same_bytes(
    model: Path, native: str, native_aarch64: list[str], native_armv7: list[str],
    tmp_path: Path, serve: Serve,
) -> None:  # fmt: skip
    golden = tmp_path / "g"
    golden.write_bytes(make_golden(model, X[:200], Y[:200]))
    states = []
    for name, command in (("x", [native]), ("a", native_aarch64), ("v", native_armv7)):
        done = subprocess.run(
            [*command, "golden", model, golden], capture_output=True, text=True, timeout=60
        )
        assert json.loads(done.stdout)["ok"], done
        run = serve(command, model, name, "--commit-every", "1e9")
        run.learn(X[:150], Y[:150])
        run.ask(op="predict", x=X[0].tolist())
        run.stop()
        states.append(newest(run.state, model))
    assert states[0] == states[1] == states[2]
    learner = Learner(model)
    for x, y in zip(X[:150], Y[:150], strict=True):
        learner.learn_one(x, int(y))
    learner.seal()
    assert states[0] == learner.model.arena.buffer.tobytes()
