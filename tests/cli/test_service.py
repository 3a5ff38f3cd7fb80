"""zgedge run, learn and top, as processes and as a person sees them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests import nets
from tests.cli.conftest import process, refused, run, run_json
from tests.conftest import ROOT
from tests.core import test_guard as guarded
from tests.waiting import until
from tests.worlds import start, worlds
from zgedge import cli_service
from zgedge.network import sparse
from zgedge.report.top import bar, frame, spark
from zgedge.runtime import Learner, Model
from zgedge.runtime.sockets import ask
from zgedge.runtime.store import Store

X, Y = load_digits(return_X_y=True)


def rows(n: int, start: int = 0) -> str:
    """Digits as CSV rows without a header, the label last."""
    part = np.column_stack([X, Y])[np.arange(start, start + n) % len(X)].astype(int)
    return "\n".join(",".join(map(str, row)) for row in part) + "\n"


class Served:
    """`zgedge run` as a process."""

    def __init__(self, model: Path, *args: object, **options: Any) -> None:
        self.model = model
        self.socket = f"{model}.state/socket"
        self.child = process("run", model, *args, **options)
        until(lambda: os.path.exists(self.socket) or self.child.poll() is not None)

    def ask(self, **request: Any) -> dict[str, Any]:
        (reply,) = ask(self.socket, iter([request]))
        return reply  # type: ignore[no-any-return]

    def wait(self, when: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """A status once it is so."""
        return until(lambda: self.ask(op="status"), when)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.child.send_signal(number)
        out, err = self.child.communicate(timeout=60)
        return self.child.returncode, out, err


@pytest.fixture
def served(model: Path) -> Iterator[Served]:
    made = Served(model)
    yield made
    if made.child.poll() is None:
        made.child.kill()
    made.child.communicate()


# ---- run ----


def test_run_learns_a_pipe_and_keeps_it(model: Path) -> None:
    for turn in range(2):
        done = process("run", model, "--source", "-", "--json", stdin=subprocess.PIPE)
        out, err = done.communicate(rows(300, 300 * turn))
        assert done.returncode == 0, err
        assert err == ""
        found = json.loads(out)
        assert found["samples"] == 300
        assert found["learner"]["samples"] == 300 * (turn + 1)
        assert found["started_from"] == ("commit 1" if turn else "the deployed model")
    learner = Learner(model)
    for x, y in zip(X[:600], Y[:600], strict=True):
        learner.learn_one(x, int(y))
    with Store.open(f"{model}.state", model.read_bytes()) as store:
        kept = store.load()
    assert kept is not None
    assert Learner(Model(kept)).status() == learner.status()


@pytest.mark.parametrize("where", ["nobody", "/dev/full"])
def test_what_was_learned_stays_where_answers_cannot_go(model: Path, where: str) -> None:
    """No reader, or no room: it ends as at a signal, and the codes are those of any command."""
    reader, writer = os.pipe()
    os.close(reader)
    out = writer if where == "nobody" else os.open(where, os.O_WRONLY)
    made = Served(model, "--source", "-", "--answers", stdin=subprocess.PIPE, stdout=out)
    for fd in {out, writer}:
        os.close(fd)
    _, error = made.child.communicate(rows(200), timeout=60)
    assert made.child.returncode == (141 if where == "nobody" else 1), error
    assert ("No space left on device" in error) == (where != "nobody")
    with Store.open(f"{model}.state", model.read_bytes()) as store:
        kept = store.load()
    assert kept is not None
    assert Learner(Model(kept)).status()["samples"] > 0


def test_a_log_on_a_full_disk_ends_no_service(model: Path) -> None:
    with open("/dev/full", "w") as full:
        # Buffered, as for a person: what found no room is tried again at the very end.
        made = Served(model, stderr=full, env={"PYTHONUNBUFFERED": ""})
    status = made.ask(op="status")
    assert status["learning"] == "on"
    assert made.end()[0] == 0


def test_what_cannot_be_written_beside_the_state_is_shown(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "none" / "zgedge.prom"
    made = Served(model, "--metrics-file", target)
    made.wait(lambda status: status["metrics_failure"])
    said = f"Metrics are not written to {target}: No such file or directory."
    assert said in " ".join(run("learn", "status", model).stdout.split())
    assert "METRICS" in run("top", model, "--once").stdout
    assert made.end()[0] == 0


def test_run_answers_each_row(model: Path) -> None:
    plain = Model.open(model)
    text = "".join(",".join(map(str, x.astype(int))) + "\n" for x in X[:20])
    done = process("run", model, "--source", "-", "--answers", stdin=subprocess.PIPE)
    out, err = done.communicate(text)
    assert done.returncode == 0, err
    told = [json.loads(line) for line in out.splitlines()]
    assert [t["predicted"] for t in told] == plain.predict(X[:20]).tolist()
    assert [t["row"] for t in told] == list(range(1, 21))
    assert "20 predicted" in err


def test_an_answer_has_the_number_of_its_line(model: Path) -> None:
    """Whatever stands between: a header, empty lines, and lines that are refused in any way."""
    good = rows(1).strip()
    text = [
        ",".join([*(f"p{i}" for i in range(64)), "label"]), good, "", "1,2,3", good, "x" * 70_000,
        good[:-1] + "never seen", good.replace(",", ",nan,", 1).rsplit(",", 1)[0], good[:-1], good,
    ]  # fmt: skip
    done = process("run", model, "--source", "-", "--answers", stdin=subprocess.PIPE)
    out, err = done.communicate("\n".join(text))
    assert done.returncode == 0, err
    assert [json.loads(line)["row"] for line in out.splitlines()] == [2, 5, 9, 10]


def test_run_says_how_many_were_refused_and_why_the_last_was(model: Path) -> None:
    good = rows(2)
    text = good + "1,2,3\n" * 9 + good + "x" * 130 + "\n"
    for as_json in ((), ("--json",)):
        done = process("run", model, "--source", "-", *as_json, stdin=subprocess.PIPE)
        out, err = done.communicate(text)
        assert done.returncode == 0, err
        if as_json:
            found = json.loads(out)
            assert found["refused"] == {"width": 10}
            assert found["last_refused"].startswith("-, line 14: A row has 1 values")
            (event,) = [e for e in found["events"] if e["kind"] == "bad input"][-1:]
            assert event["text"].startswith("-, line 3: A row has 3 values")
        else:
            last = err.splitlines()[-1]
            assert "4 samples learned, 0 predicted, 10 refused; " in last
            assert last.endswith("refused: -, line 14: A row has 1 values; the model takes 64.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_commit(model: Path, served: Served, number: int) -> None:
    assert served.ask(op="learn", x=X[0].tolist(), y=int(Y[0]))["ok"]
    code, out, err = served.end(number)
    assert (code, out) == (0, "")
    assert f"Stopped ({signal.Signals(number).name}): 1 sample learned" in err
    assert not os.path.exists(served.socket)
    assert run_json("info", model)["learner"]["steps"] == 0  # the deployed file
    again = Served(model)
    assert again.ask(op="status")["learner"]["steps"] == 1
    again.end()


def test_a_signal_ends_it_while_samples_pour_in(model: Path) -> None:
    made = Served(model, "--source", "-", "--json", stdin=subprocess.PIPE)
    assert made.child.stdin is not None
    text = rows(1000)
    os.set_blocking(made.child.stdin.fileno(), False)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        try:
            os.write(made.child.stdin.fileno(), text.encode())
        except BlockingIOError:
            time.sleep(0.001)
    made.child.send_signal(signal.SIGTERM)
    out, err = made.child.communicate(timeout=60)
    assert made.child.returncode == 0, err
    found = json.loads(out)
    assert found["samples"] == found["learner"]["samples"] > 0
    with Store.open(f"{model}.state", model.read_bytes()) as store:
        kept = store.load()
    assert kept is not None
    assert Learner(Model(kept)).status()["samples"] == found["samples"]


def test_run_follows_a_file_and_watches_a_folder(model: Path, tmp_path: Path) -> None:
    log, folder = tmp_path / "log.csv", tmp_path / "new"
    folder.mkdir()
    log.write_text(rows(10))
    made = Served(model, "--source", log, "--source", folder, "--from-start")
    np.savez(folder / "a.npz", x=X[10:30], y=Y[10:30])
    with log.open("a") as f:
        f.write(rows(5, 50))
    status = made.wait(lambda status: status["samples"] == 35)
    assert [s["rows"] for s in status["sources"]] == [15, 20]
    assert made.end()[0] == 0


def test_a_file_that_is_not_there_yet_is_waited_for_and_that_is_said(
    model: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.csv"
    made = Served(model, "--source", log)
    status = made.wait(lambda status: len(status["events"]) > 1)
    assert status["events"][-1]["text"].startswith(f"{log} is not there yet"[:80])
    assert status["sources"][0]["state"] == "waits for it"
    log.write_text(rows(3))
    status = made.wait(lambda status: status["samples"] == 3)
    assert status["sources"][0]["state"] is None
    code, _, err = made.end()
    assert code == 0
    assert f"{log} is not there yet, and is waited for.\n{log} is there now.\n" in err


def test_a_folder_that_comes_later_is_watched(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    made = Served(model, "--source", f"{folder}/")
    made.wait(lambda status: len(status["events"]) > 1)
    folder.mkdir()
    np.savez(folder / "a.npz", x=X[:20], y=Y[:20])
    status = made.wait(lambda status: status["samples"] == 20)
    assert status["sources"][0]["rows"] == 20
    code, _, err = made.end()
    assert code == 0
    assert f"{folder}/ is not there yet, and is waited for.\n{folder}/ is there now.\n" in err


def test_the_end_of_one_source_of_two_is_said(model: Path, tmp_path: Path) -> None:
    made = Served(model, "--source", "-", "--source", tmp_path, stdin=subprocess.PIPE)
    made.child.stdin.write(rows(3))
    made.child.stdin.close()
    made.wait(lambda status: status["sources"][0]["ended"])
    made.child.stdin = None
    code, _, err = made.end()
    assert code == 0
    assert "- has ended.\n" in err


def test_a_bad_file_of_a_folder_is_told_once_and_whole(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a folder with a name of some length" / "inbox"
    folder.mkdir(parents=True)
    (folder / "bad.npz").write_text("no array at all")
    made = Served(model, "--source", folder, "--from-start")
    status = made.wait(lambda status: status["refused"])
    said = "inbox, bad.npz: is neither an .npy nor an .npz file. Python objects are not loaded"
    assert status["last_refused"].startswith(said)
    (text,) = [e["text"] for e in status["events"] if e["kind"] == "bad input"]
    assert said.startswith(text[:60])
    np.savez(folder / "half.npz", x=np.vstack([X[:2], np.full((1, 64), 17.0)]), y=[1, 99, 2])
    status = made.wait(lambda status: len(status["refused"]) > 1)
    assert status["last_refused"].startswith("inbox, half.npz, row 2: The label '99' is not a")
    made.end()


def test_the_memory_of_a_large_file_goes_back(model: Path, tmp_path: Path) -> None:
    """Of the second too, which the C library would keep: by then it maps no block so small."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    made = Served(model, "--source", folder)
    before = made.ask(op="status")["memory"]["rss"]
    rows = 0
    for name, n in (("a.npz", 36_000), ("b.npz", 30_000)):
        np.savez(tmp_path / name, x=X[np.arange(n) % len(X)])
        (tmp_path / name).rename(folder / name)
        rows += n
        status = made.wait(lambda status, rows=rows: status["predictions"] == rows)
    assert status["predictions"] == rows
    time.sleep(1.5)  # it is measured each second
    memory = made.ask(op="status")["memory"]
    assert memory["rss"] < before + 6e6, (before, memory)
    made.end()


def test_run_a_file_that_only_predicts(fixed: Path) -> None:
    done = process("run", fixed, "--source", "-", "--json", stdin=subprocess.PIPE)
    out, err = done.communicate(rows(20))
    assert done.returncode == 0, err
    found = json.loads(out)
    assert (found["predictions"], found["samples"], found["store"]) == (20, 0, None)
    assert not os.path.exists(f"{fixed}.state")


@pytest.fixture
def not_for_long() -> Iterator[None]:
    """A service that should have been refused serves for ever: let the test fail instead."""

    def fail(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("not_for_long")
def test_run_refuses(model: Path, fixed: Path, tmp_path: Path, served: Served) -> None:
    assert "Another service learns in" in refused("run", model, code=1)
    refused("run", tmp_path / "none.zge", code=4)
    (tmp_path / "bad.zge").write_bytes(b"x" * 999)
    refused("run", tmp_path / "bad.zge", code=4)
    state = ("--state", tmp_path / "other")
    assert "no folder" in refused("run", model, *state, "--source", "/none/x.csv", code=2)
    assert "no MQTT source" in refused("run", model, *state, "--source", "mqtt://x", code=2)
    assert "means nothing" in refused("run", model, *state, "--erase-block", "5000", code=2)
    said = refused("run", model, *state, "--commit-every", "-1", code=2)
    assert "means nothing" in said
    assert "0 seconds or more" in said
    assert "give one" in run_json("run", model, *state, "--answers", code=2)["error"]
    served.ask(op="learn", x=X[0].tolist(), y=int(Y[0]))
    served.end()
    assert "state of another model" in refused("run", _changed(model), "--state",
                                               f"{model}.state", code=4)  # fmt: skip
    refused("run", model, "--state", fixed, code=1)


def _changed(model: Path) -> Path:
    path = model.with_name("changed.zge")
    run("adapt", model, "digits", "--steps", 1, "--out", path)
    return path


def test_run_frozen(model: Path) -> None:
    done = process("run", model, "--source", "-", "--json", "--freeze", stdin=subprocess.PIPE)
    out, err = done.communicate(rows(50))
    assert done.returncode == 0, err
    found = json.loads(out)
    assert (found["learning"], found["samples"]) == ("frozen", 50)
    assert found["learner"]["steps"] == 0


def test_run_says_that_both_slots_are_damaged(model: Path) -> None:
    for _ in range(2):
        process("run", model, "--source", "-", stdin=subprocess.PIPE).communicate(rows(5))
    for name in ("slot-a", "slot-b"):
        path = Path(f"{model}.state", name)
        raw = bytearray(path.read_bytes())
        raw[4500] ^= 1
        path.write_bytes(raw)
    done = process("run", model, "--source", "-", stdin=subprocess.PIPE)
    _, err = done.communicate("")
    assert done.returncode == 0
    assert "from the deployed model" in err
    assert err.count("damaged: its state is torn") == 2


# ---- learn ----


def test_learn_freezes_and_lets_learn(model: Path, served: Served) -> None:
    assert "It learns." in run("learn", "status", model).stdout
    assert "It is frozen" in run("learn", "freeze", model).stdout
    served.ask(op="learn", x=X[0].tolist(), y=int(Y[0]))
    found = run_json("learn", "status", model)
    assert (found["learning"], found["learner"]["steps"]) == ("frozen", 0)
    assert run_json("learn", "on", model, "--socket", served.socket)["learning"] == "on"
    served.ask(op="learn", x=X[0].tolist(), y=int(Y[0]))
    assert run_json("learn", "status", model)["learner"]["steps"] == 1


def test_one_commit_is_one() -> None:
    store: dict[str, Any] = {"commits": 1, "folder": "s"}
    found = {"stopped": "asked", "scored": 0, "samples": 0, "predictions": 0, "refused": {},
             "store": store}  # fmt: skip
    assert cli_service._goodbye(found).endswith("; 1 commit in s.")
    store["commits"] = 2
    assert cli_service._goodbye(found).endswith("; 2 commits in s.")


def test_learn_names_a_class(tmp_path: Path) -> None:
    net = nets.network((1, 64, 1), classes=12, known=10, batch=4)
    model = tmp_path / "spare.zge"
    model.write_bytes(nets.file(net))
    assert run_json("info", model)["spare"] == 2
    assert "room for 2 more" in run("info", model).stdout
    served = Served(model)
    said = run("learn", "class", model, "10").stdout
    assert said.startswith("It has the class 10 now, with room for 1 more.\nIt learns.")
    assert served.ask(op="learn", x=X[0].tolist(), y=10)["ok"]
    assert "called '10' already" in refused("learn", "class", model, "10", code=3)
    assert "such as 11" in refused("learn", "class", model, "humming", code=3)
    assert run_json("learn", "class", model, "77")["learning"] == "on"
    assert "--spare-classes N" in refused("learn", "class", model, "78", code=2)
    assert "Missing argument 'NAME'" in refused("learn", "class", model, code=2)
    assert "one word too many" in refused("learn", "on", model, "10", code=2)
    assert served.end()[0] == 0
    served = Served(model)
    assert served.ask(op="learn", x=X[0].tolist(), y=77)["ok"]
    served.end()


def test_what_a_service_refuses_ends_with_its_exit_code(model: Path, served: Served) -> None:
    reply = served.ask(op="control", do="accept")
    assert reply["exit_code"] == 4
    assert reply["error"] in refused("learn", "accept", model, code=4)


def test_learn_commits_accepts_and_goes_back(tmp_path: Path) -> None:
    """And says what it has done."""
    model = tmp_path / "judged.zge"
    model.write_bytes(start(guarded.NETWORKS["sparse-b1"]).to_bytes())
    made = Served(model, "--commit-every", "1e9")
    x, y = worlds(guarded.NETWORKS["sparse-b1"])[0].draw(np.random.default_rng(2), 1)
    made.ask(op="learn", x=x[0].tolist(), y=int(y[0]))
    said = run("learn", "status", model).stdout
    assert "1 sample since the start, 1 not committed yet; 0 connections rewired" in said
    assert "1 sample not committed yet" in run("top", model, "--once").stdout
    said = run("learn", "commit", model).stdout
    assert said.startswith(f"Commit 1 in {model}.state has all that it has learned.\nIt learns.\n")
    assert "not committed" not in said
    assert "not committed" not in run("top", model, "--once").stdout
    said = run("learn", "accept", model).stdout
    assert said.startswith("The state as it is now is the accepted one.\n")
    assert "1 state accepted" in said
    said = run("learn", "rollback", model).stdout
    assert said.startswith("It is back at the state that was accepted last.\n")
    assert run_json("learn", "commit", model)["store"]["commits"] == 3
    code, _, err = made.end()
    assert code == 0
    assert "1 sample learned" in err


def test_one_of_each_at_the_end(model: Path) -> None:
    made = Served(model)
    made.ask(op="learn", x=X[0].tolist(), y=int(Y[0]))
    _, _, err = made.end()
    assert f": 1 sample learned, 0 predicted; 1 commit in {model}.state." in err


def test_a_folder_that_was_named_is_made_for_the_socket(fixed: Path, tmp_path: Path) -> None:
    """Also for a file that has nothing to keep in it."""
    folder = tmp_path / "new" / "state"
    child = process("run", fixed, "--state", folder)
    until((folder / "socket").exists)
    child.terminate()
    child.communicate(timeout=60)
    assert child.returncode == 0
    assert os.listdir(folder) == []


def test_a_folder_that_cannot_be_made_is_named(fixed: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refused("run", fixed, "--state", tmp_path / "file" / "state", code=1)
    assert f"Cannot make the folder {tmp_path}/file/state: Not a directory." in said
    assert "--state" in said


def test_a_service_of_a_file_that_only_predicts_is_found(fixed: Path) -> None:
    """Its socket lies beside the file: it has no folder."""
    child = process("run", fixed)
    until(lambda: os.path.exists(f"{fixed}.socket"))
    try:
        assert "written to predict only" in run("learn", "status", fixed).stdout
        assert "none: there is no folder" in run("top", fixed, "--once").stdout
    finally:
        child.terminate()
        child.communicate(timeout=60)


def test_nobody_to_speak_to(model: Path) -> None:
    assert "No service answers at" in refused("learn", "on", model, code=1)
    assert "No service answers at" in refused("top", model, "--once", code=1)
    run("learn", "fly", model, code=2)


# ---- top ----


def test_top_shows_a_frame(model: Path, served: Served) -> None:
    for x, y in zip(X[:50], Y[:50], strict=True):
        served.ask(op="learn", x=x.tolist(), y=int(y))
    served.ask(op="predict", x=[1])
    said = run("top", model, "--once").stdout
    for words in ("zgedge top", "accuracy", "50 labelled", "rewired", "memory", "budget",
                  "16,383 of 16,384 bytes", "median", "commits", "refused   1: 1 width",
                  "from the deployed model", "wear"):  # fmt: skip
        assert words in said, words
    found = run_json("top", model)
    assert set(found["history"]) == {"period", "samples", "correct", "rewired", "drift", "rss"}


def test_top_goes_on_until_it_is_interrupted(model: Path, served: Served) -> None:
    child = process("top", model, "--every", "0.1")
    assert child.stdout is not None
    heads, text = 0, ""
    while heads < 3:
        line = child.stdout.readline()
        assert line or child.poll() is None
        heads += line.startswith("zgedge top")
        text += line
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    assert "\x1b" not in text  # it is no terminal


def test_frames_fit_their_width(served: Served) -> None:
    status = served.ask(op="status", history=True)
    status["store"]["failure"] = "x" * 300
    status["sources"] = [{"source": "-", "rows": 5, "ended": False, "state": None}]
    status["history"]["samples"] = [0, 10, 10]
    status["history"]["correct"] = [0, 5, 10]
    status["history"]["rewired"] = [0, 3, 9]
    status["history"]["rss"] = [1, 1, 1]
    for width in (40, 80, 100):
        for unicode in (True, False):
            lines = ["".join(t for t, _ in spans) for spans in frame(status, width, unicode)]
            assert max(map(len, lines)) <= width
            assert any("DISK" in line for line in lines)
            if not unicode:
                assert all(line.replace("µ", "u").isascii() for line in lines)


def test_what_was_refused_most_is_told_first(served: Served) -> None:
    status = served.ask(op="status", history=True)
    status["refused"] = {f"fault {i}": i for i in range(1, 13)}
    for width, said in (
        (48, "refused   78: 12 fault 12 and 11 more"),
        (61, "refused   78: 12 fault 12, 11 fault 11 and 10 more"),
        (20, "refused   78: 12 fau"),
    ):
        lines = ["".join(t for t, _ in spans) for spans in frame(status, width)]
        assert said in lines
    status["refused"] = {"width": 2, "label": 3}
    lines = ["".join(t for t, _ in spans) for spans in frame(status, 80)]
    assert "refused   5: 3 label, 2 width" in lines


def test_small_pictures_of_numbers() -> None:
    assert spark([0.0, 0.5, 1.0, None], 0.0, 1.0, 10, True) == "▁▅█ "
    assert spark([0.0, 1.0], 0.0, 1.0, 1, False) == "#"
    assert spark([3.0], 3.0, 3.0, 5, True) == "▁"
    assert bar(0.5, False) == "#" * 15 + "." * 15
    assert bar(7.0, True) == "█" * 30


# ---- the guide ----


def test_the_examples_of_the_guide_run(model: Path, tmp_path: Path) -> None:
    """Each line of docs/service.md's shell blocks, in order, in one folder; services in the
    background are ended at the end."""
    page = (ROOT / "docs" / "service.md").read_text()
    folder = tmp_path / "guide"
    folder.mkdir()
    (folder / "digits.zge").write_bytes(model.read_bytes())
    (folder / "rows.csv").write_text(rows(50))
    (folder / "log.csv").write_text("")
    (folder / "inbox").mkdir()
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
        for line in block.replace("\\\n", " ").splitlines()
        if line.strip() and "mqtt://" not in line
    ]
    assert len(lines) >= 8
    environment = {
        **os.environ,
        "PATH": f"{Path(__import__('sys').executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    background: list[subprocess.Popen[bytes]] = []
    try:
        for line in lines:
            words, _, _ = line.partition("#")
            if words.rstrip().endswith("&"):
                argv = shlex.split(words.rstrip().removesuffix("&"))
                background.append(subprocess.Popen(argv, cwd=folder, env=environment))
                until((folder / "digits.zge.state" / "socket").exists)
                continue
            done = subprocess.run(
                ["bash", "-ec", words], cwd=folder, env=environment, capture_output=True,
                text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            assert '"ok": false' not in done.stdout, (line, done.stdout)
    finally:
        for child in background:
            child.terminate()
            child.wait(60)


def test_memory_is_taken_before_the_first_row(tmp_path: Path) -> None:
    """Rows of 784 values fill a queue of a megabyte: its pages are there from the start."""
    network = nets.network((28, 28, 1), (sparse(784, 16, 8),), 4, replay_samples=4, replay_bits=4)
    path = tmp_path / "m.zge"
    path.write_bytes(nets.file(network))
    rng = np.random.default_rng(0)
    text = "".join(
        json.dumps({"x": rng.integers(0, 256, 784).tolist(), "label": i % 4}) + "\n"
        for i in range(1500)
    )
    done = process("run", path, "--source", "-", "--json", stdin=subprocess.PIPE)
    assert done.stdin is not None
    done.stdin.write(text)
    done.stdin.flush()
    time.sleep(3)  # memory is read once a second
    out, err = done.communicate()
    assert done.returncode == 0, err
    found = json.loads(out)
    assert found["samples"] == 1500
    assert found["memory"]["most"] - found["memory"]["first"] < 400_000
