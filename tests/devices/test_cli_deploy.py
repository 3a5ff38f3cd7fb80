"""The commands at the desk, against a board on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from tests.cli.conftest import refused, run, run_json
from tests.devices.desks import NET, Desk, served_board
from zgedge.devices import boards, desk, emulated, fleet, keys
from zgedge.errors import UsageError, ZgedgeError
from zgedge.runtime import Model


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with served_board(tmp_path_factory.mktemp("far")) as made:
        yield made


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    x, _ = nets.samples(NET, 12, 5)
    np.save(tmp_path / "rows.npy", x)
    return tmp_path / "rows.npy"


def test_status_says_what_a_person_wants_to_know(far: Desk) -> None:
    text = run("status").stdout
    for word in ("m on pi@far.local", "native runtime", "accuracy", "commits", "wear", "memory",
                 "before it 1-", "of disk free"):  # fmt: skip
        assert word in text, text
    assert run_json("status", "--host", "far")["service"]["samples"] == 20


def test_predict_asks_the_board_with_what_it_has_learned(far: Desk, rows: Path) -> None:
    found = run_json("predict", rows, "--host", "far")
    x = np.load(rows)
    asked = [far.board.ask({"op": "predict", "x": row.tolist()}) for row in x]
    assert found["labels"] == [reply["label"] for reply in asked]
    lines = run("predict", rows, "--host", "far").stdout.splitlines()
    assert len(lines) == 12
    assert "With --host" in refused("predict", far.model(), rows, "--host", "far", code=2)
    assert "DATA" in refused("predict", rows, code=2)
    assert "--host" in refused("predict", far.model(), rows, "--port", "22", code=2)


def test_learning_is_steered_and_watched_from_the_desk(far: Desk) -> None:
    assert "frozen" in run("learn", "freeze", "--host", "far").stdout
    assert run_json("learn", "on", "--host", "far")["learning"] == "on"
    assert "zgedge top" in run("top", "--host", "far", "--once").stdout
    assert run_json("top", "--host", "far")["history"]["period"] > 0
    assert "FILE" in refused("top", "--once", code=2)
    assert "with --host" in refused("learn", "status", "m.zge", "--host", "far", code=2)


def test_pull_brings_home_what_was_learned(
    far: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "home.zge"
    text = run("pull", "--out", out)
    assert "carries" not in text.stderr
    monkeypatch.setattr(desk, "carried", lambda _: {"remembered": 3, "anchors": 2, "waiting": 0})
    assert "carries 5 samples of people" in run("pull", "--out", out).stderr
    learned = Model.open(out).arena.learner()
    assert learned is not None
    assert learned["samples"] == 20
    found = run_json("diff", far.model(), out)
    assert found["learned"]["samples"] == 20
    assert run_json("pull", "--list")["states"][0]["current"] in (True, False)
    assert "There is no state" in refused("pull", "--state", "0000", "--out", out, code=2)


def test_logs_and_rollback(far: Desk) -> None:
    text = run("logs").stdout
    assert "Serving" in text
    assert "healthy" in text
    found = run_json("rollback", "--watch", "1")
    assert found["outcome"] == "healthy"
    assert found["version"].startswith("1-")
    assert "runs already" in refused("rollback", "--to", found["version"], code=1)


def test_dry_run_says_each_step_and_does_none(far: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def bring_up(*_: object, **__: object) -> None:
        raise AssertionError("a board was started")

    monkeypatch.setattr(emulated, "bring_up", bring_up)
    far.board.words.clear()
    text = run("deploy", far.model(5), "--dry-run").stdout
    assert [line.split()[1] for line in text.splitlines()] == [
        "connect:", "check:", "lock:", "build:", "copy:", "verify:", "install:", "golden:",
        "state:", "switch:", "watch:",
    ]  # fmt: skip
    assert run_json("deploy", far.model(5), "--dry-run")["outcome"] == "planned"
    assert far.board.words == []
    planned = run("deploy", far.model(5), "--device", "emulated", "--dry-run").stdout
    assert "log in to emulated with" in planned


@pytest.mark.parametrize(
    ("options", "ours", "trusts"),
    [((), True, True), ((), False, False), (("--trust",), False, True),
     (("--port", "22"), None, False), (("--ssh-config", "own"), None, False)],
)  # fmt: skip
def test_only_a_board_of_this_machine_is_trusted_without_a_word(
    far: Desk, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], ours: bool | None,
    trusts: bool,
) -> None:  # fmt: skip
    import zgedge.cli_deploy as commands
    from zgedge.devices import deploy

    def start(*_: object) -> bool:
        assert ours is not None, "it is reached in another way than this machine's board is"
        return ours

    asked: list[deploy.Request] = []

    def deployed(request: deploy.Request) -> dict[str, object]:
        asked.append(request)
        return {"outcome": "healthy", "name": "m", "version": "9-00000000", "host": "far",
                "runtime": "native", "seconds": 1.0}  # fmt: skip

    monkeypatch.setattr(deploy, "start_emulated", start)
    monkeypatch.setattr(commands, "_deployed", deployed)
    run("deploy", far.model(), "--host", "far", *options)
    assert [request.trust for request in asked] == [trusts]


def test_options_that_mean_nothing(far: Desk, tmp_path: Path) -> None:
    model = far.model()
    assert "--waves" in refused("deploy", model, "--waves", "1", code=2)
    assert "--data" in refused("deploy", model, "--at-least", "5", code=2)
    assert "cannot name" in refused("deploy", model, "--name", "A_b", code=2)
    assert "What kind" in refused("deploy", model, "--host", "unknown.local", code=2)
    assert "no device" in refused("deploy", model, "--device", "toaster", code=2)
    assert refused("deploy", tmp_path / "none.zge", code=4)


# ---- a board that is damaged, or a stranger ----

STEERS = "\x1b]0;owned\x07"  # a terminal's title


def says(desk: Desk, monkeypatch: pytest.MonkeyPatch, **answers: str) -> None:
    monkeypatch.setattr(desk.board, "says", answers)


def test_answers_that_make_no_sense_are_said(
    far: Desk, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(far, monkeypatch, status="service {bad\nok\n", states="state x\nok\n", ask="{}\nok\n",
         names="name m\nok\n")  # fmt: skip
    for command in (("status",), ("pull", "--list"), ("learn", "status", "--host", "far"),
                    ("top", "--host", "far")):  # fmt: skip
        assert "makes no sense" in refused(*command, code=1), command
    for reply in ("{}", '{"ok": true}'):
        says(far, monkeypatch, ask=f"{reply}\n" * 12 + "ok\n")
        assert "makes no sense" in refused("predict", rows, "--host", "far", code=1)
    says(far, monkeypatch, status="current 1-00000000\nservice 3\nok\n")
    assert "makes no sense" in refused("status", code=1)
    for service in ("{}", '{"learning": "on", "uptime": "long"}'):
        says(far, monkeypatch, status=f"current 1-00000000\nservice {service}\nok\n")
        assert "makes no sense" in run("status", code=1).stderr
    says(far, monkeypatch, ask='{"ok": true, "learning": "perhaps"}\nok\n')
    for command in (("learn", "status", "--host", "far"), ("top", "--host", "far", "--once")):
        assert "makes no sense" in run(*command, code=1).stderr
    says(far, monkeypatch, ask='{"ok": false, "error": ["no"], "hint": 3}\nok\n')
    assert "no" in refused("learn", "status", "--host", "far", code=1)


def test_no_answer_steers_the_terminal(far: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"a{STEERS}"
    shown = "a?]0;owned?"
    says(far, monkeypatch, status=f"error broken {text}\n")
    assert shown in run("status", "--name", "m", code=1).stderr
    says(far, monkeypatch, status=f"error untrusted {text}\n", names=f"name {text}\nname b\nok\n")
    assert f"{shown}, b" in run("status", code=2).stderr
    says(far, monkeypatch, states=f"state {text} current\nok\n")
    assert run("pull", "--list").stdout == f"{shown}  serves\n"
    says(far, monkeypatch, rollback="end healthy 1\nok\n", status=f"current {text}\nok\n")
    assert run("rollback", "--name", "m").stdout == f"{shown} serves again.\n"
    says(far, monkeypatch, names=f"name {text}\nok\n", lock="ok\n", remove="ok\n", unlock="ok\n")
    assert run("remove").stdout == f"{shown} is off pi@far.local.\n"


def test_lines_of_an_error_stay_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZgedgeError(f"It cannot be compiled:\nline 1\n{STEERS}line 2")

    monkeypatch.setattr(keys, "own", broken)
    said = run("key", "show", code=1).stderr
    assert said == "Error: It cannot be compiled:\nline 1\n?]0;owned?line 2\n"


def test_a_board_learns_keys_through_one_of_its_services(
    far: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = keys.config_folder()
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path))
    keys.new("other")
    monkeypatch.setenv("ZGEDGE_CONFIG", str(ours))
    says(far, monkeypatch, names="name m\nname n\nok\n")
    command = ("key", "trust", tmp_path / "key.pub", "--host", "far")
    assert "Name one with --name: m, n" in refused(*command, code=2)
    assert "far too" in run(*command, "--name", "m").stdout
    assert keys.public(tmp_path / "key.pub").line in (far.board.root / "trusted").read_text()


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path))
    assert "key new" in refused("key", "show", code=1)
    made = run_json("key", "new")
    assert made["key"].startswith("ssh-ed25519 ")
    assert (tmp_path / "key").stat().st_mode & 0o77 == 0
    assert "already" in refused("key", "new", code=2)
    assert run_json("key", "show")["trusted"][0]["fingerprint"] == made["fingerprint"]
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path / "b"))
    other = keys.new("b")
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path))
    assert run_json("key", "trust", tmp_path / "b" / "key.pub")["added"] is True
    assert run_json("key", "trust", tmp_path / "b" / "key.pub")["added"] is False
    assert other in keys.trusted()
    (tmp_path / "no.pub").write_text("hello\n")
    assert "no public key" in refused("key", "trust", tmp_path / "no.pub", code=2)


# ---- fleets ----


def test_waves() -> None:
    assert fleet.waves("1,10%,100%", 50) == [1, 5, 50]
    assert fleet.waves("1,10%,100%", 3) == [1, 3]
    assert fleet.waves("2", 3) == [2, 3]
    for bad in ("0", "x", "", "10%,5", "101%"):
        with pytest.raises(UsageError):
            fleet.waves(bad, 100)


def test_hosts(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# plant\npi@a device=rpi3 port=2222 name=belt\n\nb # second\n")
    assert fleet.read(str(path)) == [fleet.Line("pi@a", "rpi3", 2222, "belt"), fleet.Line("b")]
    for bad, why in (("a colour=red", "line 1"), ("-x", "line 1"), ("", "no board"),
                     ("a\na", "twice"), ("a port=x", "line 1")):  # fmt: skip
        path.write_text(bad)
        with pytest.raises(UsageError, match=why):
            fleet.read(str(path))


def test_a_fault_of_one_board_leaves_the_report_of_a_fleet() -> None:
    def deploy(line: fleet.Line) -> dict[str, object]:
        if line.host == "b":
            raise OSError("no room")
        return {"outcome": "healthy", "version": "1-00000000", "reason": None}

    report = fleet.roll_out([fleet.Line(h) for h in "abc"], [1, 3], deploy)
    assert [b["outcome"] for b in report["boards"]] == ["healthy", "failed", "untouched"]
    assert report["boards"][1]["error"] == "OSError: no room"
    assert report["stopped_at"] == "b"


def test_a_fleet_stops_at_the_first_that_falls_short(
    far: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zgedge.cli_deploy as commands

    for name in ("a", "b", "c"):
        boards.add(boards.Board(name, f"pi@{name}", boards.find("far").device))  # type: ignore[union-attr]
    touched: list[str] = []

    def deployed(request: object) -> dict[str, object]:
        host = request.target.host  # type: ignore[attr-defined]
        touched.append(host)
        good = host != "pi@b"
        return {"outcome": "healthy" if good else "rolled-back", "version": "9-00000000",
                "reason": None if good else "it did not answer"}  # fmt: skip

    monkeypatch.setattr(commands, "_deployed", deployed)
    hosts = tmp_path / "hosts"
    hosts.write_text("a\nb\nc\n")
    result = run("deploy", far.model(), "--hosts", hosts, "--waves", "1,2,3", "--json", code=1)
    report = json.loads(result.stdout)
    assert [b["outcome"] for b in report["boards"]] == ["healthy", "rolled-back", "untouched"]
    assert [b["wave"] for b in report["boards"]] == [1, 2, 3]
    assert (report["stopped_at"], report["good"], report["untouched"]) == ("b", 1, 1)
    assert touched == ["pi@a", "pi@b"]
    text = run("deploy", far.model(), "--hosts", hosts, code=1).stdout
    assert "1 good, 1 untouched; stopped at b." in text
