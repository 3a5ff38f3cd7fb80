"""From a file to a board that serves: each step, each fault, and that what served goes on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import zgedge
from tests import nets
from tests.devices.desks import NET, Desk, bundle_of, make_desk, rows
from tests.devices.local import Poller, cut_off, local
from tests.waiting import until
from zgedge.devices import bundle, cross, deploy, keys, profiles, wheels
from zgedge.devices import desk as desks
from zgedge.devices.agent import _PUT as PUT
from zgedge.devices.agent import SCRIPT, Agent, DeployError, words_of
from zgedge.errors import MissingExtraError, RemoteError, UsageError, ZgedgeError
from zgedge.runtime import Model

# What the agent is asked for in a deployment, in this order.
WORDS = ("facts", "lock", "begin", "offset", "receive", "unpack", "install", "golden", "put",
         "state", "change", "unlock")  # fmt: skip
BEFORE_SWITCH = WORDS[: WORDS.index("change")]


def agent(desk: Desk) -> Agent:
    return Agent(desk.board, "/opt/zgedge", "m")


def take_place(version: Path, script: str) -> None:
    """Put a shell's script in the place of a version's program, which may be running."""
    program = version / "bin" / "zgedge-native"
    program.unlink()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.fixture
def served(desk: Desk) -> Desk:
    """A board that serves version 1, the model of seed 0."""
    assert desk.deploy()["outcome"] == "healthy"
    desk.board.words.clear()
    return desk


# ---- what should be ----


def test_a_file_becomes_a_service_that_answers_as_the_model(desk: Desk) -> None:
    found = desk.deploy()
    assert found["outcome"] == "healthy"
    assert found["state"] == "fresh"
    assert found["version"].startswith("1-")
    assert found["golden"]["ok"]
    assert found["golden"]["samples"] >= 8
    assert [s["step"] for s in found["steps"]] == [
        "connect", "check", "lock", "build", "copy", "verify", "install", "golden", "state",
        "switch",
    ]  # fmt: skip
    assert set(desk.board.words) == {*WORDS, "login", "trust"}
    model = Model.open(desk.model())
    for x in rows(8):
        reply = desk.board.ask({"op": "predict", "x": x})
        assert reply["label"] == model.predict_one(np.asarray(x, np.float32))
    status = desks.status(agent(desk))
    assert status["version"] == found["version"]
    assert status["runtime"] == "native"
    assert status["service"]["uptime"] > 0
    assert status["last"].endswith("healthy")
    assert not list((desk.board.root / "m" / "incoming").glob("*.zgb"))
    # Again, nothing is copied and nothing switched.
    again = desk.deploy()
    assert (again["outcome"], again["copied_bytes"]) == ("unchanged", 0)
    assert again["version"] == found["version"]


@pytest.mark.slow
def test_busybox_alone_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busybox: Callable[[], str]
) -> None:
    with local((busybox(), "ash")) as board:
        desk = make_desk(board, tmp_path, monkeypatch)
        assert desk.deploy()["outcome"] == "healthy"
        assert desk.deploy(1)["outcome"] == "healthy"
        desk.program = desk.wrapped({"run": "exit 3"})
        assert desk.deploy(2)["outcome"] == "rolled-back"


def test_an_update_of_the_runtime_keeps_what_was_learned(served: Desk) -> None:
    folder = served.board.root / "m" / "versions" / served.board.current()
    x = [json.loads(line)["x"] for line in (folder / "requests").read_text().splitlines()]
    names = Model.open(served.model()).classes.tolist()
    # The world is another than the one of the golden samples: the service shall answer otherwise.
    for row in x * 10:
        assert served.board.ask({"op": "learn", "x": row, "y": names[0]})["ok"]
    golden = [json.loads(line) for line in (folder / "answers").read_text().splitlines()]
    assert [served.board.ask({"op": "predict", "x": row})["label"] for row in x] != golden
    assert served.board.ask({"op": "control", "do": "commit"})["ok"]
    until(lambda: served.board.ask({"op": "status"})["store"]["commits"] > 0)
    labels = [served.board.ask({"op": "predict", "x": r})["label"] for r in rows(16)]
    served.program = served.real + b"\0"  # another runtime, the same model
    found = served.deploy()
    assert (found["outcome"], found["state"]) == ("healthy", "kept")
    assert found["version"].startswith("2-")
    status = served.board.ask({"op": "status"})
    assert status["started_from"].startswith("commit ")
    assert labels == [served.board.ask({"op": "predict", "x": r})["label"] for r in rows(16)]
    # The first version began from nothing, and is not held to what it answered then.
    back = desks.rollback(agent(served), None, 1, served.said.append)
    assert back["outcome"] == "healthy"
    assert labels == [served.board.ask({"op": "predict", "x": r})["label"] for r in rows(16)]
    # Another model: what was learned stays on the board, comes home by its name, and is there
    # again after a rollback.
    found = served.deploy(1)
    assert (found["outcome"], found["state"]) == ("healthy", "archived")
    states = desks.states(agent(served))
    old = next(s["state"] for s in states if not s["current"])
    out = served.folder / "old.zge"
    pulled = desks.pull(agent(served), old, str(out), served.said.append)
    assert pulled["bytes"] == served.model().stat().st_size
    assert Model.open(out).arena.learner()["samples"] == len(x) * 10
    back = desks.rollback(agent(served), None, 1, served.said.append)
    assert back["outcome"] == "healthy"
    assert served.board.ask({"op": "status"})["started_from"].startswith("commit ")
    assert served.board.current().startswith("1-")


@pytest.mark.slow
def test_a_state_that_does_not_come_out_the_same_is_kept_and_not_used(served: Desk) -> None:
    x, y = nets.samples(NET, 4)
    names = Model.open(served.model()).classes.tolist()
    for row, number in zip(x, y, strict=True):
        served.board.ask({"op": "learn", "x": row.tolist(), "y": names[number]})
    served.board.ask({"op": "control", "do": "commit"})
    time.sleep(0.5)
    served.program = served.wrapped({"digest": 'echo \'{"from": "?", "logits": "0"}\'; exit 0'})
    found = served.deploy()
    assert (found["outcome"], found["state"]) == ("healthy", "archived")
    assert served.board.ask({"op": "status"})["started_from"] == "the deployed model"
    assert [s["current"] for s in desks.states(agent(served))].count(False) == 1


def test_nothing_was_learned_and_so_nothing_comes_home(served: Desk) -> None:
    out = served.folder / "home.zge"
    for state in (None, desks.states(agent(served))[0]["state"]):
        with pytest.raises(DeployError, match="has learned nothing that is kept yet") as e:
            desks.pull(agent(served), state, str(out), served.said.append)
        assert e.value.hint
    assert not out.exists()
    assert not [line for line in served.said if "committed" in line]


def test_what_a_service_committed_comes_home_when_it_no_longer_runs(served: Desk) -> None:
    x, y = nets.samples(NET, 4)
    names = Model.open(served.model()).classes.tolist()
    for row, number in zip(x, y, strict=True):
        assert served.board.ask({"op": "learn", "x": row.tolist(), "y": names[number]})["ok"]
    out = served.folder / "home.zge"
    assert desks.pull(agent(served), None, str(out), served.said.append)["commit"] == 1
    assert not [line for line in served.said if "No service answers" in line]
    kept = out.read_bytes()
    out.unlink()
    served.board.kill_all()
    pulled = desks.pull(agent(served), None, str(out), served.said.append)
    assert [line for line in served.said if "No service answers" in line]
    assert pulled["commit"] == 1
    assert out.read_bytes() == kept


# ---- the connection is cut ----


@pytest.mark.parametrize(
    ("word", "when"),
    [("unpack", "after"), ("change", "before")],
)
def test_cut_and_again(served: Desk, word: str, when: str) -> None:
    cut_and_again(served, word, when, seed=1)


@pytest.mark.slow
def test_cut_before_and_after_each_step_in_turn(served: Desk) -> None:
    seed = 1
    for word in WORDS:
        for when in ("before", "after"):
            cut_and_again(served, word, when, seed)
            seed = 1 - seed


def cut_and_again(desk: Desk, word: str, when: str, seed: int) -> None:
    before = desk.board.current()

    def cut(w: str, at: str) -> None:
        if (w, at) == (word, when):
            desk.board.cut = lambda _word, _when: None
            raise cut_off()

    desk.board.cut = cut
    with Poller(desk.board, rows(1)[0]) as poll:
        if word == "unlock":
            desk.deploy(seed)  # there is nothing left that could be cut
        else:
            with pytest.raises(RemoteError, match="cut") as e:
                desk.deploy(seed)
            assert e.value.exit_code == 7
        poll.see(4)
    if word in BEFORE_SWITCH or (word, when) == ("change", "before"):
        assert poll.failed == 0, f"{word} {when}"
        assert desk.board.current() == before
    found = desk.deploy(seed)
    assert found["outcome"] in ("healthy", "unchanged")
    assert desk.board.ask({"op": "status"})["ok"]
    assert desk.board.current() == found["version"]


def test_a_copy_that_was_cut_goes_on_where_it_stopped(served: Desk) -> None:
    served.board.take = 100_000
    with pytest.raises(RemoteError):
        served.deploy(1)
    served.board.take = None
    found = served.deploy(1)
    assert found["outcome"] == "healthy"
    assert found["copied_bytes"] == found["bundle_bytes"] - 100_000
    assert any("100,000" in text for text in served.said)


@pytest.mark.slow
def test_a_copy_of_something_else_is_begun_anew(served: Desk) -> None:
    served.board.take = 50_000
    with pytest.raises(RemoteError):
        served.deploy(1)
    served.board.take = None
    (part,) = (served.board.root / "m" / "incoming").glob("*.part")
    data = bytearray(part.read_bytes())
    data[1000] ^= 1
    part.write_bytes(data)
    found = served.deploy(1)
    assert (found["outcome"], found["copied_bytes"]) == ("healthy", found["bundle_bytes"])


def test_a_switch_goes_on_and_back_without_the_desk(served: Desk) -> None:
    before = served.board.current()
    served.program = served.wrapped({"run": "exit 3"})
    served.board.env["ZGEDGE_START"] = "2"
    served.board.drop["change"] = 0.5
    with pytest.raises(RemoteError):
        served.deploy(1)
    history = served.board.root / "m" / "history"
    until(lambda: "rolled back" in history.read_text())
    assert served.board.current() == before
    assert served.board.ask({"op": "status"})["ok"]
    until(lambda: not (served.board.root / "m" / "pending").exists())


def test_the_lock_stays_while_the_board_is_at_work_without_its_desk(served: Desk) -> None:
    served.board.drop["change"] = 0.5
    with pytest.raises(RemoteError):
        served.deploy(1, watch=4)
    # The desk is gone, and could say so: another one is still kept out.
    assert "unlock" in served.board.words
    said = served.board.agent("lock", "elsewhere.1.00000000").text
    assert re.fullmatch(r"error locked \S+ 0\n", said)
    hint = words_of("locked", said.removeprefix("error locked ")).hint
    assert hint == "Try again when it has ended."
    assert words_of("locked", "elsewhere.1.00000000 57").hint == "Try again in 57 s."
    # One from here waits for it by itself.
    assert served.deploy(1)["outcome"] == "unchanged"
    assert not (served.board.root / "m" / "lock").exists()


@pytest.mark.parametrize("after", [pytest.param(0.15, marks=pytest.mark.slow), 1.2])
def test_the_board_restarts_during_the_switch(served: Desk, after: float) -> None:
    served.board.crash["change"] = after
    with pytest.raises(RemoteError):
        served.deploy(1, watch=5)
    # What `current` points at is whole, old or new, and starts as at any start of the board.
    assert served.board.current()[:2] in ("1-", "2-")
    found = served.deploy(1)
    assert found["outcome"] in ("healthy", "unchanged")
    assert served.board.current() == found["version"]
    assert not (served.board.root / "m" / "pending").exists()


@pytest.mark.parametrize("good", [True, False])
def test_the_board_judges_by_itself_a_switch_that_its_end_cut_off(served: Desk, good: bool) -> None:
    old = served.board.current()
    assert served.deploy(1)["outcome"] == "healthy"
    new = served.board.current()
    served.board.kill_all()
    folder = served.board.root / "m"
    pending = folder / "pending"
    pending.write_text(f"{new} {old} an-earlier-boot 1 - -\n")
    os.chown(pending, served.board.owner(), -1)
    if not good:
        (folder / "versions" / new / "bin" / "zgedge-native").write_text("#!/bin/sh\nexit 3\n")
    served.board.env["ZGEDGE_START"] = "3"
    served.board.start("m")
    if good:  # a deployment waits for the verdict
        assert served.deploy(1)["outcome"] == "unchanged"
        assert any("switch that was cut off" in line or "switch was cut off" in line
                   for line in served.said)  # fmt: skip
    until(lambda: not pending.exists())
    assert served.board.current() == (new if good else old)
    until(lambda: served.board.answers("m"))
    # The board notes it once nothing is pending any more.
    said = f"{new} healthy" if good else f"{new} rolled back to {old}: "
    until(lambda: (folder / "history").read_text().splitlines()[-1].startswith(said))


@pytest.mark.slow
def test_a_version_with_which_the_board_does_not_stay_up_is_taken_back(served: Desk) -> None:
    old = served.board.current()
    assert served.deploy(1)["outcome"] == "healthy"
    new = served.board.current()
    folder = served.board.root / "m"
    pending = folder / "pending"
    pending.write_text(f"{new} {old} an-earlier-boot 30 - - 0\n")
    os.chown(pending, served.board.owner(), -1)
    for boots in (1, 2):
        served.board.kill_all()
        shutil.rmtree(folder / "lock", ignore_errors=True)  # of an earlier boot
        served.board.start("m")
        until(lambda n=boots: pending.read_text().split()[6:] == [str(n)])  # type: ignore[misc]
        assert served.board.current() == new
    served.board.kill_all()
    shutil.rmtree(folder / "lock")
    served.board.start("m")
    until(lambda: not pending.exists())
    assert served.board.current() == old
    said = f"{new} rolled back to {old}: the board started again 3 times with it"
    until(lambda: (folder / "history").read_text().splitlines()[-1] == said)
    until(lambda: served.board.answers("m"))


def test_a_boot_is_counted_on_the_disk_before_the_version_is_judged(served: Desk) -> None:
    folder = served.board.root / "m"
    version = served.board.current()
    pending = folder / "pending"
    pending.write_text(f"{version} - an-earlier-boot 1 - - 1\n")
    os.chown(pending, served.board.owner(), -1)
    synced = served.board.home / "synced"
    served.board.tool("sync", f"cat {pending} >>{synced} || echo gone >>{synced}")
    assert served.board.agent("boot").text == "ok\n"
    assert synced.read_text().splitlines()[0] == f"{version} - an-earlier-boot 1 - - 2"


def test_a_switch_that_goes_on_is_not_judged_by_a_start(served: Desk) -> None:
    folder = served.board.root / "m"
    version = served.board.current()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (folder / "pending").write_text(f"{version} - {boot} 1 - -\n")
    assert served.board.agent("boot").text == "ok\n"
    assert (folder / "pending").exists()


def test_a_switch_that_never_came_about_leaves_the_old_version_whole(served: Desk) -> None:
    """The power went between the new start script and the link: the old one has to come back."""
    folder = served.board.root / "m"
    version = served.board.current()
    served.board.kill_all()
    (folder / "pending").write_text(f"2-0123abcd {version} an-earlier-boot 1 - -\n")
    (folder / "init").write_text("#!/bin/sh\nexit 1\n")
    assert served.board.agent("boot").text == "ok\n"
    assert not (folder / "pending").exists()
    assert served.board.current() == version
    until(lambda: served.board.answers("m"))


# ---- a board that is damaged, or a stranger ----


def test_answers_that_make_no_sense_are_said(served: Desk) -> None:
    for word, said in (
        ("facts", "version x-y a b c d\nok\n"), ("facts", "free \u00b2\nok\n"),
        ("lock", "error locked  \n"), ("offset", "ok\n"), ("offset", "have many\nok\n"),
        ("golden", "golden nan\nok\n"), ("golden", "golden {}\nok\n"),
        ("golden", f"golden {'[' * 100_000}\nok\n"), ("state", "state archived\nok\n"),
        ("change", "end rolled-back\nok\n"), ("change", "rows x y\nend healthy 1\nok\n"),
    ):  # fmt: skip
        served.board.says = {word: said}
        with pytest.raises(DeployError, match="makes no sense") as e:
            served.deploy(1)
        assert e.value.exit_code == 1
        assert e.value.code == "senseless"
    served.board.says = {"ask": f'{{"a": {"[" * 100_000}\nok\n'}
    assert deploy.service_status(agent(served)) is None
    served.board.says = {}
    assert served.deploy(1)["outcome"] == "healthy"


def test_a_line_ends_where_the_board_ends_it(desk: Desk) -> None:
    desk.board.says = {"logs": "log one\u2028and\x0cthe same\nlog two\nok\n"}
    found = desks.write_logs(agent(desk), 5)
    assert found["log"] == ["one\u2028and\x0cthe same", "two"]


# ---- what falls short ----


def test_a_service_that_crashes_after_its_start_is_taken_back(served: Desk) -> None:
    before = served.board.current()
    served.board.env["ZGEDGE_START"] = "3"
    served.program = served.wrapped({"run": "exit 3"})
    with Poller(served.board, rows(1)[0]) as poll:
        found = served.deploy(1)
    assert found["outcome"] == "rolled-back"
    assert found["back_to"] == before == served.board.current()
    assert "did not answer" in found["reason"]
    with pytest.raises(DeployError, match="serves again") as e:
        deploy.raise_for(found)
    assert e.value.exit_code == 1
    assert poll.answered > 10
    assert "rolled back" in (served.board.root / "m" / "history").read_text()
    served.program = None
    assert served.deploy(1)["outcome"] == "healthy"


@pytest.mark.slow
def test_a_version_that_fails_anew_makes_room_for_the_one_before(served: Desk) -> None:
    old = served.board.current()
    assert served.deploy(1)["outcome"] == "healthy"
    served.board.env["ZGEDGE_START"] = "2"
    take_place(served.board.root / "m" / "current", "exit 3")
    version = served.board.current()
    served.board.kill_all()
    one = agent(served)
    with one.locked(print):
        end = one.step("change", version, "1", "-").get("end")
    assert end == f"rolled-back {old} answers"
    assert served.board.current() == old
    assert served.board.ask({"op": "status"})["ok"]


@pytest.mark.slow
def test_nothing_is_said_to_serve_that_does_not_answer(served: Desk) -> None:
    served.board.env["ZGEDGE_START"] = "2"
    served.program = served.wrapped({"run": "exit 3"})
    take_place(served.board.root / "m" / "current", "exit 3")
    found = served.deploy(1)
    assert (found["outcome"], found["serves"]) == ("rolled-back", False)
    with pytest.raises(DeployError, match="is back, and does not answer"):
        deploy.raise_for(found)


def test_a_disk_that_was_filled_meanwhile_holds_no_way_back_up(served: Desk) -> None:
    """Copies and lists cannot be written any more, links and removals can."""
    before = served.board.current()
    served.board.env["ZGEDGE_START"] = "2"
    served.program = served.wrapped({"run": "exit 3"})
    full = served.board.home / "full"
    for tool in ("cp", "tail"):
        served.board.tool(tool, f"[ -e {full} ] || exec /usr/bin/{tool} \"$@\"\n"
                          'echo part; echo "No space left on device" >&2; exit 1')  # fmt: skip
    # It is full once the new version is in place, and stays so.
    served.board.tool("ln", f'case "$*" in *current.new*) : >{full} ;; esac; exec /usr/bin/ln "$@"')
    with pytest.raises(ZgedgeError):
        served.deploy(1)
    until(lambda: not (served.board.root / "m" / "pending").exists())
    assert served.board.current() == before
    until(lambda: served.board.answers("m"))
    # What starts it is whole, and so is the list of what was deployed.
    assert (served.board.root / "m" / "init").read_text().endswith("esac\n")
    assert (served.board.root / "m" / "history").read_text() == f"{before} healthy\n"


def test_what_starts_the_service_can_be_started_from_its_first_moment(served: Desk) -> None:
    bare = served.board.home / "bare"
    served.board.tool("mv", f'case "$*" in *init.new*) '
                      f"[ -x {served.board.root}/m/init.new ] || : >{bare} ;; esac\n"
                      'exec /usr/bin/mv "$@"')  # fmt: skip
    assert served.deploy(1)["outcome"] == "healthy"
    assert os.access(served.board.root / "m" / "init", os.X_OK)
    assert not bare.exists()


def test_a_program_that_does_not_end_is_ended(served: Desk) -> None:
    script = served.board.home / "limits.sh"
    text = Path(SCRIPT).read_text()
    names = ("line_of() {", "uptime_now() {"), ("runtime() {", "do_install() {")
    parts = [text[text.index(first) : text.index(after)] for first, after in names]
    call = 'within 1 runtime "$1" version || echo "code $?"\n'
    script.write_text("set -eu\n" + "".join(parts) + call)
    folder = served.board.root / "m" / "current"
    mark = served.board.home / "hangs"
    take_place(folder, f"echo $$ >{mark}; exec sleep 31")
    said = served.board._run(["sh", str(script), str(folder)], b"", 20).text
    assert said == "code 137\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


@pytest.mark.slow
def test_versions_that_stay(served: Desk) -> None:
    """The one that serves, the one before, and two more."""
    for seed in (1, 2, 3, 4, 0):
        assert served.deploy(seed)["outcome"] == "healthy"
    folder = served.board.root / "m" / "versions"
    assert sorted(int(p.name.split("-")[0]) for p in folder.iterdir()) == [3, 4, 5, 6]
    one = agent(served)
    third = next(p.name for p in folder.iterdir() if p.name.startswith("3-"))
    with one.locked(print):
        assert one.step("rollback", third, "1").get("end") == f"healthy {third}"
    # 3 serves and 6 was before it: 4 and 5 are the two more.
    assert sorted(int(p.name.split("-")[0]) for p in folder.iterdir()) == [3, 4, 5, 6]


def test_a_version_that_came_in_part_is_nothing_to_go_back_to(served: Desk) -> None:
    def cut(word: str, when: str) -> None:
        if (word, when) == ("put", "before") and served.board.words.count("put") == 2:
            raise cut_off()

    served.board.cut = cut
    with pytest.raises(RemoteError):
        served.deploy(1)
    served.board.cut = lambda _word, _when: None
    folder = served.board.root / "m" / "versions"
    part = next(p.name for p in folder.iterdir() if p.name.startswith("2-"))
    one = agent(served)
    with one.locked(print), pytest.raises(DeployError, match="only in part"):
        one.step("rollback", part, "1")
    assert served.board.current().startswith("1-")
    # It takes no place of those that can be gone back to.
    assert served.deploy(2)["outcome"] == "healthy"
    assert not (folder / part).exists()


def test_rows_that_came_in_part_are_not_asked(served: Desk, tmp_path: Path) -> None:
    x, _ = nets.samples(NET, 20)
    y = Model.open(served.model()).predict(x)
    np.savez(tmp_path / "rows.npz", x=x, y=y, x_test=x, y_test=y)
    puts = ("service", "service.kind", "requests", "answers", "answers.ascii", "rows")

    def cut(word: str, when: str) -> None:
        if (word, when) == ("put", "after") and served.board.words.count("put") == len(puts):
            raise cut_off()

    served.board.cut = cut
    with pytest.raises(RemoteError):
        served.deploy(1, data=str(tmp_path / "rows.npz"))
    served.board.cut = lambda _word, _when: None
    (rows_there,) = (served.board.root / "m" / "versions").glob("*/rows")
    assert not (rows_there.parent / "labels").exists()
    found = served.deploy(1)
    assert (found["outcome"], found["rows"]) == ("healthy", None)


def test_a_step_may_take_as_long_as_it_watches(
    served: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, float | None] = {}
    run = served.board.run

    def timed(command: list[str], *, input: bytes | None = None, timeout: float | None = 60) -> Any:
        given[command[4] if len(command) > 4 else ""] = timeout
        return run(command, input=input, timeout=timeout)

    monkeypatch.setattr(served.board, "run", timed)
    served.board.says = {"rollback": "end healthy 1-00000000\nok\n", "resolve": "ok\n"}
    assert desks.rollback(agent(served), None, 2000, served.said.append)["outcome"] == "healthy"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    pending = served.board.root / "m" / "pending"
    pending.write_text(f"{served.board.current()} - {boot} 2000 - - 0\n")
    assert served.deploy()["outcome"] == "unchanged"
    assert given["rollback"] == 2000 + deploy.BESIDE_WATCH
    assert given["resolve"] is None


# ---- as root, with systemd ----


def as_root(tmp_path: Path, call: str) -> None:
    """Call functions of the agent as root, with a service's folder S, and a folder of systemd's
    own; only where this is root, since nothing else may give files away."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    units = tmp_path / "units"
    for folder in (units, tmp_path / "s" / "run", tmp_path / "s" / "state", tmp_path / "tools"):
        folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / "tools" / "systemctl").write_text("#!/bin/sh\n")
    (tmp_path / "tools" / "systemctl").chmod(0o755)
    text = Path(SCRIPT).read_text().replace("/etc/systemd/system", str(units))
    part = text[text.index("unit() {") : text.index("control() {")]
    script = tmp_path / "part.sh"
    settings = f"set -eu\nS={tmp_path}/s ROOT=/r NAME=m\n"
    script.write_text(settings + "say() { printf '%s\\n' \"$*\"; }\n" + part + call)
    subprocess.run(
        ["dash", str(script)], check=True,
        env={**os.environ, "PATH": f"{tmp_path}/tools:{os.environ['PATH']}"},
    )  # fmt: skip


def test_a_link_in_a_service_gives_nothing_else_away(tmp_path: Path) -> None:
    state = tmp_path / "s" / "state"
    state.mkdir(parents=True)
    own = tmp_path / "of-root"
    own.write_text("")
    (state / "slot-a").symlink_to(own)
    (tmp_path / "service.kind").write_text("systemd nobody\n")
    as_root(tmp_path, f"owners {tmp_path}")
    assert own.stat().st_uid == 0
    assert (state / "slot-a").lstat().st_uid == state.stat().st_uid != 0


def test_the_units_take_their_place_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "service.kind").write_text("systemd -\n")
    (tmp_path / "service").write_text("new\n")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "agent.sh").write_text("old\n")
    units = tmp_path / "units"
    as_root(tmp_path, f"place_service {tmp_path}")
    names = ["zgedge-m-judge.service", "zgedge-m.service"]
    assert sorted(p.name for p in units.iterdir()) == names
    before = {p.name: p.read_text() for p in units.iterdir()}
    assert before["zgedge-m.service"] == "new\n"
    assert f"ExecStart=/bin/sh {tmp_path}/s/agent.sh /r m boot" in before["zgedge-m-judge.service"]
    (tmp_path / "service").write_text("newer\n")
    cp = tmp_path / "tools" / "cp"
    cp.write_text('#!/bin/sh\nfor to; do :; done\necho part >"$to"; exit 1\n')
    cp.chmod(0o755)
    as_root(tmp_path, f"! place_service {tmp_path}")
    assert {p.name: p.read_text() for p in units.iterdir()} == before


@pytest.mark.slow
def test_a_service_that_dies_while_it_is_watched_is_taken_back(served: Desk) -> None:
    served.program = served.wrapped({"run": 'timeout 2 $REAL "$@"; exit 3'})
    found = served.deploy(1, watch=8)
    assert found["outcome"] == "rolled-back"
    assert "started again" in found["reason"] or "does not answer" in found["reason"]
    assert served.board.ask({"op": "status"})["ok"]


def test_a_service_that_answers_otherwise_than_the_model_is_taken_back(served: Desk) -> None:
    other = served.board.home / "other.zge"
    other.write_bytes(served.model(7).read_bytes())
    state = served.board.home / "other-state"
    socket = served.board.root / "m" / "run" / "socket"
    served.program = served.wrapped(
        {"run": f"exec $REAL run {other} --state {state} --socket {socket}"}
    )
    since = time.monotonic()
    with Poller(served.board, rows(1)[0]) as poll:
        found = served.deploy(1)
    assert found["outcome"] == "rolled-back", found
    assert "answers differ" in found["reason"]
    assert time.monotonic() - since < 120
    assert poll.longest < 10
    # A plain rollback still leads away from what runs, or nowhere.
    links = served.board.root / "m"
    assert not (links / "previous").exists() or (
        (links / "previous").readlink() != (links / "current").readlink()
    )


def test_a_model_that_answers_worse_than_what_ran_is_taken_back(
    served: Desk, tmp_path: Path
) -> None:
    # Both are whole and compute as they should; the rows of --data tell which is the better one.
    x, _ = nets.samples(NET, 60)
    y = Model.open(served.model()).predict(x)
    np.savez(tmp_path / "rows.npz", x=x, y=y, x_test=x, y_test=y)
    worse = next(s for s in range(1, 50) if same(Model.open(served.model(s)).predict(x), y) < 0.6)
    found = served.deploy(worse, data=str(tmp_path / "rows.npz"))
    assert found["outcome"] == "rolled-back"
    assert found["before"] == [60, 60]
    assert found["rows"][0] < 36
    assert served.board.current().startswith("1-")


def same(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> float:
    return float((a == b).mean())


@pytest.mark.slow
def test_a_first_version_that_falls_short_leaves_nothing_that_serves(desk: Desk) -> None:
    desk.program = desk.wrapped({"run": "exit 3"})
    desk.board.env["ZGEDGE_START"] = "2"
    found = desk.deploy()
    assert found["outcome"] == "withdrawn"
    assert not (desk.board.root / "m" / "current").exists()
    with pytest.raises(OSError, match=r"."):
        desk.board.ask({"op": "status"})
    desk.program = None
    assert desk.deploy()["outcome"] == "healthy"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("kill -ILL $$", "instruction"),
        ('echo \'{"ok": false, "error": "Sample 3 differs"}\'; exit 1', "golden"),
        ("exit 77", "program"),
    ],
)
def test_a_build_that_computes_wrongly_never_serves(served: Desk, script: str, code: str) -> None:
    before = served.board.current()
    served.program = served.wrapped({"golden": script})
    with Poller(served.board, rows(1)[0]) as poll, pytest.raises(DeployError) as e:
        served.deploy(1)
    assert e.value.code == code
    assert poll.failed == 0
    assert served.board.current() == before


def test_a_build_for_another_processor_never_serves(served: Desk) -> None:
    served.program = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\xf3\0" + bytes(100)
    with pytest.raises(DeployError) as e:
        served.deploy(1)
    assert e.value.code in ("machine-program", "program")
    assert served.board.ask({"op": "status"})["ok"]


# ---- who may ----


def refused(desk: Desk, data: bytes, *options: str) -> str:
    """Send a bundle to the board as it is; the code that it is refused with. Nothing changes."""

    def tree() -> list[tuple[str, bytes | None]]:
        base = desk.board.root
        return sorted(
            (str(p.relative_to(base)), p.read_bytes() if p.is_file() else None)
            for p in base.rglob("*")
            if "lock" not in p.parts and "run" not in p.parts and not p.is_socket()
            and "state" not in p.parts
        )  # fmt: skip

    before = tree()
    a = agent(desk)
    digest = hashlib.sha256(data).hexdigest()
    with a.locked(desk.said.append):
        a.step("receive", digest, str(len(data)), "0", source=io.BytesIO(data), size=len(data))
        with pytest.raises(DeployError) as e:
            a.step("unpack", digest, *(options or ("-", "-")))
    assert tree() == before
    return e.value.code


def test_bundles_that_a_board_refuses(served: Desk, tmp_path: Path) -> None:
    good = bundle_of(served, 1, 5)
    data = good.data
    assert refused(served, data[:-1]) == "bundle"
    assert refused(served, data + b"\n") == "bundle"
    assert refused(served, b"hello\n") == "bundle"
    assert refused(served, data[:-1] + bytes([data[-1] ^ 1])) == "tampered"
    at = data.index(b"counter 5")
    assert refused(served, data[:at] + b"counter 6" + data[at + 9 :]) == "untrusted"
    assert refused(served, bundle_of(served, 1, 5, device="rpi4").data) == "device"
    assert refused(served, bundle_of(served, 1, 5, name="other").data) == "name"
    other = "armv7l" if good.manifest.machine != "armv7l" else "x86_64"
    assert refused(served, bundle_of(served, 1, 5, machine=other).data) == "machine"
    unsigned = deploy.bundle.pack(good.manifest, deploy.bundle.read(data).contents)
    assert refused(served, unsigned) == "unsigned"
    # Signed by a key that the board does not know; the desk believes it.
    os.environ["ZGEDGE_CONFIG"] = str(tmp_path / "stranger")
    keys.new("stranger")
    assert refused(served, bundle_of(served, 1, 5).data) == "untrusted"


@pytest.mark.slow
def test_an_older_bundle_needs_a_word_and_a_rollback_does_not(served: Desk) -> None:
    assert served.deploy(1, counter=7)["outcome"] == "healthy"
    with pytest.raises(DeployError, match="older than what runs") as e:
        served.deploy(2, counter=6)
    assert e.value.code == "older"
    assert served.deploy(2, counter=6, allow_downgrade=True)["outcome"] == "healthy"
    assert served.board.current().startswith("6-")
    back = desks.rollback(agent(served), None, 1, served.said.append)
    assert back["outcome"] == "healthy"
    assert served.board.current().startswith("7-")
    with pytest.raises(DeployError):
        desks.rollback(agent(served), "99-00000000", 1, served.said.append)


def test_a_board_learns_its_first_keys_once(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="trusts no key") as e:
        desk.deploy(trust=False)
    assert "--trust" in (e.value.hint or "")
    assert not (desk.board.root / "m").exists()
    desk.deploy()
    before = (desk.board.root / "trusted").read_bytes()
    first = os.environ["ZGEDGE_CONFIG"]
    os.environ["ZGEDGE_CONFIG"] = str(tmp_path / "second")
    second = keys.new("second desk")
    with pytest.raises(DeployError, match="does not trust the key"):
        desk.deploy(1)
    a = agent(desk)
    with a.locked(desk.said.append):
        with pytest.raises(DeployError, match="trusts other keys"):
            a.step("trust", input=keys.allowed_signers(keys.trusted()))
        with pytest.raises(DeployError, match="does not trust the key"):
            desks.teach_keys(a)
    assert (desk.board.root / "trusted").read_bytes() == before
    # Who set it up lets the second in; the list that was replaced cannot come back.
    os.environ["ZGEDGE_CONFIG"] = first
    keys.trust(second)
    a = agent(desk)
    with a.locked(desk.said.append):
        desks.teach_keys(a)
    os.environ["ZGEDGE_CONFIG"] = str(tmp_path / "second")
    assert desk.deploy(1)["outcome"] == "healthy"


def test_no_key_is_taught_without_a_word_where_the_board_changes_its_own(desk: Desk) -> None:
    told = desk.board.agent("facts").text.replace("trusted no", "trusted yes")
    desk.board.says = {"facts": told}

    def changes(word: str, when: str) -> None:
        if (word, when) == ("lock", "before"):
            desk.board.says = {}

    desk.board.cut = changes
    with pytest.raises(DeployError, match="trusts no key yet"):
        desk.deploy(trust=False)
    assert not (desk.board.root / "trusted").exists()


def test_a_board_that_cannot_verify_is_refused_without_a_word(desk: Desk) -> None:
    desk.board.tool("ssh-keygen", "echo 'unknown option -- Y' >&2; exit 1")
    with pytest.raises(DeployError, match="cannot verify"):
        desk.deploy()
    found = desk.deploy(desk_verifies=True)
    assert found["outcome"] == "healthy"
    assert any("could not verify" in text for text in desk.said)


def test_what_the_board_is_must_fit(desk: Desk) -> None:
    other = "armv7" if desk.request().profile.machine != "armv7l" else "aarch64"
    with pytest.raises(DeployError, match="runs programs for"):
        desk.deploy(profile=profiles.load(other))
    desk.board.tool("python3", "echo 3.6")
    for minor in range(10, 15):
        desk.board.tool(f"python3.{minor}", "exit 1")
    with pytest.raises(DeployError, match="Python 3.6") as e:
        desk.deploy(runtime="python")
    assert "--runtime native" in (e.value.hint or "")
    found = desk.deploy(runtime=None)
    assert found["runtime"] == "native"
    assert any("too old" in text for text in desk.said)


# ---- two at once, a full disk, a wrong clock ----


def test_an_agent_that_came_in_part_is_put_anew(desk: Desk) -> None:
    assert desk.deploy()["outcome"] == "healthy"
    (script,) = desk.board.root.glob("agent-*.sh")
    whole = script.read_bytes()
    script.write_bytes(whole[:20000])  # as a connection or a power that was cut leaves it
    assert desk.deploy()["outcome"] == "unchanged"
    assert script.read_bytes() == whole
    # One that is cut while it is put takes no place.
    script.unlink()
    put = ["sh", "-c", PUT, "sh", str(script.parent), str(script), str(len(whole))]
    assert desk.board.run(put, input=whole[:20000]).code == 1
    assert not list(script.parent.glob("agent-*"))


def test_no_service_is_called_as_the_file_of_keys(desk: Desk) -> None:
    with pytest.raises(UsageError, match="cannot name"):
        bundle.check_name("trusted")
    assert bundle.name_of("trusted.zge") == "model"
    assert "error usage" in desk.board.agent("facts", name="trusted").text


def test_two_deployments_at_once(served: Desk) -> None:
    first, second = agent(served), agent(served)
    with first.locked(served.said.append):
        # Another desk.
        second.token = "elsewhere.1.00000000"
        with pytest.raises(DeployError, match="Another deployment") as e, second.locked(print):
            pass
        assert e.value.code == "locked"
    results: list[str] = []

    def run(seed: int) -> None:
        try:
            results.append(served.deploy(seed)["outcome"])
        except DeployError as e:
            results.append(e.code)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) in (["healthy", "healthy"], ["healthy", "locked"])
    assert served.board.ask({"op": "status"})["ok"]


@pytest.mark.parametrize(
    ("seed", "outcome", "version"),
    [pytest.param(1, "unchanged", "2-", marks=pytest.mark.slow), (2, "healthy", "3-")],
)
def test_what_another_deployed_until_the_lock_was_taken_counts(
    served: Desk, seed: int, outcome: str, version: str
) -> None:
    def meanwhile(word: str, when: str) -> None:
        if (word, when) == ("lock", "before"):
            served.board.cut = lambda _word, _when: None
            assert served.deploy(1)["outcome"] == "healthy"

    served.board.cut = meanwhile
    found = served.deploy(seed)
    assert (found["outcome"], found["version"][:2]) == (outcome, version)
    assert served.board.current() == found["version"]


def test_a_stale_lock_is_taken_over(served: Desk) -> None:
    lock = served.board.root / "m" / "lock"
    lock.mkdir()
    (lock / "owner").write_text("elsewhere.1.00000000 another-boot 5 1 1\n")
    os.chown(lock, served.board.owner(), -1)
    assert served.deploy(1)["outcome"] == "healthy"
    assert any("Took over" in text for text in served.said)


def test_a_full_disk_stops_before_the_switch(served: Desk) -> None:
    before = served.board.current()
    # The program is the first file that does not fit any more.
    served.board.tool(
        "head",
        '[ "${2:-0}" -lt 100000 ] && exec /usr/bin/head "$@"\n'
        'echo "head: No space left on device" >&2; exit 1',
    )
    with Poller(served.board, rows(1)[0]) as poll, pytest.raises(DeployError, match="no room"):
        served.deploy(1)
    assert poll.failed == 0
    assert served.board.current() == before
    assert not list((served.board.root / "m" / "incoming").glob("*.zgb"))
    (served.board.home / "tools" / "head").unlink()
    served.board.tool("df", "echo 'Filesystem 1024-blocks Used Available Capacity Mounted'; "
                      "echo '/dev/x 100 90 10 90% /'")  # fmt: skip
    with pytest.raises(DeployError, match="10,240 bytes free"):
        served.deploy(1)
    (served.board.home / "tools" / "df").unlink()
    assert served.deploy(1)["outcome"] == "healthy"


@pytest.mark.slow
def test_the_clock_has_no_say(served: Desk) -> None:
    served.board.tool("date", "echo 60")
    assert served.deploy(1)["outcome"] == "healthy"


@pytest.mark.slow
def test_a_removed_service_leaves_what_it_learned(served: Desk) -> None:
    x, y = nets.samples(NET, 4)
    names = Model.open(served.model()).classes.tolist()
    for row, number in zip(x, y, strict=True):
        served.board.ask({"op": "learn", "x": row.tolist(), "y": names[number]})
    assert desks.remove(agent(served), with_state=False, say=served.said.append)
    assert [p.name for p in (served.board.root / "m").iterdir()] == ["state"]
    assert not list(served.board.processes())
    found = served.deploy()
    assert (found["outcome"], found["state"]) == ("healthy", "kept")
    desks.remove(agent(served), with_state=True, say=served.said.append)
    assert not (served.board.root / "m").exists()


# ---- what is taken where nothing is said ----


def test_what_is_taken_by_itself_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zgedge.devices import boards

    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    target = deploy.find_target(None, "rpi4", say=said.append)
    assert (target.host, target.device) == ("raspberrypi.local", "rpi4")
    boards.add(boards.Board("shed", "pi@shed.local", "rpi4", None, 2222))
    boards.add(boards.Board("attic", "pi@attic.local", "rpi3"))
    target = deploy.find_target(None, "rpi4", say=said.append)
    assert (target.host, target.port, target.board) == ("pi@shed.local", 2222, "shed")
    assert deploy.find_target(None, None, say=said.append).board == "attic"
    assert deploy.find_target("shed.local", None).device == "rpi4"
    with pytest.raises(UsageError, match=r"no model\.zge"):
        deploy.find_model(None)
    (tmp_path / "model.zge").write_bytes(nets.file(NET))
    assert deploy.find_model(None, said.append) == "model.zge"
    assert [bool(re.search("Takes", text)) for text in said] == [True] * 4
    # A board that this machine emulates, and that does not run yet.
    for host, device in ((None, "emulated"), ("emulated", None)):
        target = deploy.find_target(host, device)
        assert (target.host, target.device) == ("emulated", "emulated")


def test_a_configuration_of_ssh_is_found_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zgedge.devices import boards

    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given, kept in (("own", str(tmp_path / "own")), ("none", "none"), (None, None)):
        target = deploy.find_target("pi@shed.local", "rpi4", None, given)
        deploy.remember(target, profiles.load("rpi4"))
        board = boards.find("shed.local")
        assert board is not None
        assert board.ssh_config == kept
        boards.remove(board.name)


def test_only_the_board_that_this_machine_emulates_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zgedge.devices import boards, emulated

    there: list[Any] = [SimpleNamespace(running=True)]
    started: list[str] = []
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path))
    (tmp_path / "cache").symlink_to(tmp_path)  # as where a person's ~/.cache lies elsewhere
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(emulated, "running_board", lambda kind, name: there[0])
    monkeypatch.setattr(emulated, "bring_up", lambda kind, name, progress: started.append(name))
    config = emulated.Emulated(
        "emulated", name="emulated", folder=emulated._place("emulated")
    ).ssh_config
    own = boards.Board("emulated", "emulated", "emulated", str(config))
    for board, ours in (
        (own, True), (replace(own, host="pi@real.local"), False),
        (replace(own, ssh_config=None), False), (replace(own, ssh_config="/other"), False),
        (replace(own, port=2222), False),
    ):  # fmt: skip
        boards.add(board)
        assert deploy.start_emulated(None, "emulated", pytest.fail) is ours
    # Somebody emptied the cache.
    there[0] = None
    boards.add(own)
    said: list[str] = []
    assert deploy.start_emulated(None, "emulated", said.append)
    assert (said, started) == (["Starting the emulated board emulated ..."], ["emulated"])


# ---- Python on the board ----


def no_compiler() -> str:
    raise MissingExtraError("deploy", "ziglang")


def test_no_compiler_anywhere_is_said_before_anything_is_fetched_or_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def files(board_compiles: bool) -> list[str]:
        made = deploy.runtime_files(
            profiles.load("rpi4"), "python", "3.11", offline=False, board_compiles=board_compiles,
            say=said.append,
        )  # fmt: skip
        return sorted(made)

    fetched: list[str] = []
    said: list[str] = []
    monkeypatch.setattr(cross, "compiler", no_compiler)
    monkeypatch.setattr(wheels, "dependencies", lambda *_: fetched.append("") or {"pip-1.whl": b""})
    with pytest.raises(MissingExtraError, match=r"pip install 'zgedge\[deploy\]'"):
        files(board_compiles=False)
    assert (said, fetched) == ([], [])
    assert f"wheels/zgedge-{zgedge.__version__}-py3-none-any.whl" in files(board_compiles=True)
    assert "the board compiles the core" in said[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("offline", "compiled"), [(False, True), (True, False)], ids=["online", "compiled there"]
)
def test_a_board_fetches_and_compiles_what_it_is_not_brought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool, compiled: bool
) -> None:
    if not compiled and shutil.which("cc") is None:
        pytest.skip("no C compiler here that could be the board's")
    asked = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp_path, "click"]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("no index of packages can be reached from here")
    real = deploy.runtime_files
    with local() as board:
        desk = make_desk(board, tmp_path, monkeypatch)
        monkeypatch.setattr(deploy, "runtime_files", real)
        if not compiled:
            monkeypatch.setattr(cross, "compiler", no_compiler)
        # Its pip asks the index that this machine's asks.
        board.env.update({k: v for k, v in os.environ.items() if k.startswith("PIP_")})
        found = desk.deploy(runtime="python", offline=offline)
        assert (found["outcome"], found["runtime"]) == ("healthy", "python")
        version = board.root / "m" / "versions" / found["version"]
        brought = {path.name.split("-")[0] for path in (version / "wheels").iterdir()}
        if offline:
            assert "numpy" in brought
        else:
            assert brought == {"pip", "requirements.txt", "zgedge"}
        (site,) = (version / "venv" / "lib").glob("python3*/site-packages")
        assert (site / "numpy").is_dir()
        assert ("The core was compiled on the board." in desk.said) is not compiled
        model = Model.open(desk.model())
        for x in rows(8):
            reply = board.ask({"op": "predict", "x": x})
            assert reply["label"] == model.predict_one(np.asarray(x, np.float32))
