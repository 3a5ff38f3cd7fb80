"""How long training takes: steps, a time, an interruption, and what goes on after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from click.testing import CliRunner

from zgedge import UsageError, ZgedgeError, arena, data
from zgedge.arena import names_blob
from zgedge.cli import main
from zgedge.data import Dataset
from zgedge.interrupts import Interrupts
from zgedge.network import Network, conv, dense, max_pool, sparse
from zgedge.train import TrainResult, checkpoint, search, train
from zgedge.train.duration import format_duration, parse_duration
from zgedge.train.fit import check_checkpoint, run_length

PLAIN = Network((8, 8, 1), 10, (sparse(64, 40, 16, 4), dense(40, 10)), 20, task="picture")
TRUNK = Network(
    (8, 8, 1), 10, (sparse(4 * 4 * 8, 24, 16, 4), dense(24, 10)), 20, task="picture",
    trunk=(conv((8, 8, 1), 8), conv((8, 8, 8), 8, add=1), max_pool((8, 8, 8))),
)  # fmt: skip
NETWORKS = {"plain": PLAIN, "trunk": TRUNK}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    found = data.load("digits")
    assert len(names_blob(found.classes)) == PLAIN.names_bytes
    return found


def _bytes(result: TrainResult) -> bytes:
    return arena.write(result.network, result.parameters)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_time_becomes_steps_that_give_the_same_bytes(digits: Dataset, name: str) -> None:
    timed = train(digits, NETWORKS[name], seed=4, train_time=2.0)
    again = train(digits, NETWORKS[name], seed=4, steps=timed.planned_steps)
    assert _bytes(timed) == _bytes(again)
    assert timed.planned_steps == again.planned_steps >= 1
    assert timed.parameters.steps == timed.steps <= timed.planned_steps


def test_more_time_is_more_steps(digits: Dataset) -> None:
    short, long = (train(digits, PLAIN, train_time=t).planned_steps for t in (1.5, 6.0))
    assert long > short


@pytest.mark.parametrize("steps", [1, 5, 45, 90])
def test_steps_are_as_many_as_were_asked_for(digits: Dataset, steps: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    result = train(digits, TRUNK, steps=steps, log=log)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[0]["steps"] == steps == result.planned_steps
    assert events[0]["threads"] == result.threads
    assert len(result.history) == result.history[-1].epochs == -(-steps // 40)
    assert result.steps <= steps


class _StopError(Exception):
    """Stands for a kill: nothing in training knows it."""


def _killed_in(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Save at every step, and end without warning at `step` of this process."""
    saves = 0
    save = checkpoint.Checkpoint.save

    def counted(self: checkpoint.Checkpoint, state: dict[str, Any]) -> None:
        nonlocal saves
        save(self, state)
        saves += 1
        if saves == step:
            raise _StopError

    monkeypatch.setattr(checkpoint.Checkpoint, "due", lambda self: True)
    monkeypatch.setattr(checkpoint.Checkpoint, "save", counted)


@pytest.mark.parametrize("strategy", ["rigl", "set"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_run_that_was_killed_ends_with_the_same_bytes(
    digits: Dataset, name: str, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"strategy": strategy, "seed": 3, "steps": 100}
    whole = train(digits, NETWORKS[name], **options)
    file = tmp_path / "run.state"
    for step in (17, 40, 12):
        with monkeypatch.context() as patch:
            _killed_in(patch, step)
            with pytest.raises(_StopError):
                train(digits, NETWORKS[name], checkpoint=file, **options)
    result = train(digits, NETWORKS[name], checkpoint=file, **options)
    assert _bytes(result) == _bytes(whole)
    assert [e.loss for e in result.history] == [e.loss for e in whole.history]
    assert [e.rewired for e in result.history] == [e.rewired for e in whole.history]
    # Once more: all is done already.
    assert _bytes(train(digits, NETWORKS[name], checkpoint=file, **options)) == _bytes(whole)


@pytest.mark.parametrize("step", [9, 70])
def test_a_run_that_was_killed_beside_its_teacher_goes_on(
    digits: Dataset, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"steps": 50, "teacher": True}
    whole = train(digits, TRUNK, **options)
    file = tmp_path / "run.state"
    with monkeypatch.context() as patch:
        _killed_in(patch, step)
        with pytest.raises(_StopError):
            train(digits, TRUNK, checkpoint=file, **options)
    assert _bytes(train(digits, TRUNK, checkpoint=file, **options)) == _bytes(whole)


def _events(log: Path) -> list[dict[str, Any]]:
    """What a log tells, but for times."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [{key: e[key] for key in e if key != "seconds"} for e in events]


@pytest.mark.parametrize("options", [{}, {"teacher": True}, {"strategy": "lottery"}], ids=str)
def test_log_of_a_run_that_was_killed_is_whole(
    digits: Dataset, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"steps": 160, **options}
    whole, part, file = (tmp_path / name for name in ("whole.jsonl", "part.jsonl", "run.state"))
    told: list[int] = []
    train(digits, PLAIN, log=whole, progress=lambda e: told.append(e.rewired_so_far), **options)
    again: list[int] = []
    for step in (90, 50, None):
        with monkeypatch.context() as patch:
            if step is not None:
                _killed_in(patch, step)
            with pytest.raises(_StopError) if step is not None else nullcontext():
                train(
                    digits, PLAIN, log=part, checkpoint=file,
                    progress=lambda e: again.append(e.rewired_so_far), **options,
                )  # fmt: skip
    assert _events(part) == _events(whole)
    assert [e["when"] for e in _events(part) if e["event"] == "wires"] == ["start", "end"]
    assert list(dict.fromkeys(again)) == list(dict.fromkeys(told))


COMMAND = ("train", "digits", "--budget", "4KB", "--no-learning", "--epochs", "15", "--json")
# The command, saving at once and then at every step, so that there is something to go on from.
QUICK = """
from zgedge.train import checkpoint
checkpoint.EVERY_SECONDS = 0.0
from zgedge.cli import main
main()
"""


def _run(*arguments: str) -> dict[str, Any]:
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 0, found.output
    printed: dict[str, Any] = json.loads(found.stdout)
    return printed


@pytest.mark.parametrize(
    "by",
    [
        pytest.param(signal.SIGINT, id="ctrl-c", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, id="kill"),
    ],
)
def test_the_same_command_goes_on_after_a_real_interruption(
    by: signal.Signals, tmp_path: Path
) -> None:
    whole, part, state = (tmp_path / name for name in ("whole.zge", "part.zge", "run.state"))
    command = (*COMMAND, "--out", str(part), "--checkpoint", str(state))
    running = subprocess.Popen([sys.executable, "-c", QUICK, *command], stdout=subprocess.DEVNULL)
    while not state.exists():
        assert running.poll() is None
        time.sleep(0.01)
    os.kill(running.pid, by)
    assert running.wait() in (0, 130, -signal.SIGKILL)
    _run(*COMMAND, "--out", str(whole))
    assert not part.exists() or part.read_bytes() != whole.read_bytes()
    told = _run(*command)
    assert not told["interrupted"]
    assert part.read_bytes() == whole.read_bytes()


def test_checkpoint_of_another_run(digits: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "run.state"
    train(digits, PLAIN, steps=5, checkpoint=file)
    before = file.read_bytes()
    others: list[tuple[str, Dataset, Network, dict[str, Any]]] = [
        ("seed", digits, PLAIN, {"steps": 5, "seed": 1}),
        ("length", digits, PLAIN, {"steps": 6}),
        ("length", digits, PLAIN, {"train_time": 2.0}),
        ("strategy", digits, PLAIN, {"steps": 5, "strategy": "set"}),
        ("teacher", digits, PLAIN, {"steps": 5, "teacher": True}),
        ("network", digits, replace(PLAIN, batch=8), {"steps": 5}),
        ("data", replace(digits, x_train=digits.x_train[::-1]), PLAIN, {"steps": 5}),
    ]
    for what, dataset, network, options in others:
        with pytest.raises(UsageError, match=f"another run: its {what}"):
            train(dataset, network, checkpoint=file, **options)
        length = run_length(None, options.get("steps"), options.get("train_time"))
        known = {"strategy": options.get("strategy", "rigl"), "seed": options.get("seed", 0),
                 "length": length, "teacher": options.get("teacher", False)}  # fmt: skip
        if what == "network":  # that alone is not known before a network is chosen
            check_checkpoint(file, dataset, **known)
            continue
        with pytest.raises(UsageError, match=f"another run: its {what}"):
            check_checkpoint(file, dataset, **known)
    assert file.read_bytes() == before


def test_another_run_is_refused_before_a_network_is_searched(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "run.state"
    train(digits, PLAIN, steps=5, checkpoint=state)
    monkeypatch.setattr(search, "choose", None)  # nothing is searched
    out = tmp_path / "model.zge"
    command = ("train", "digits", "--budget", "12KB", "--steps", "6", "--out", str(out))
    found = CliRunner().invoke(main, [*command, "--checkpoint", str(state)])
    assert (found.exit_code, out.exists()) == (2, False)
    assert "another run: its length" in found.stderr
    monkeypatch.setitem(sys.modules, "torch", None)
    found = CliRunner().invoke(main, [*command, "--checkpoint", str(state)])
    assert "torch is not installed" in found.stderr


def test_an_interrupted_search_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "choose", interrupted)
    command = ("train", "digits", "--budget", "12KB", "--out", str(tmp_path / "model.zge"))
    found = CliRunner().invoke(main, [*command, "--checkpoint", str(tmp_path / "run.state")])
    assert found.exit_code == 130
    assert "The same command goes on where the search stopped." in found.stderr
    assert "goes on" not in CliRunner().invoke(main, command).stderr


@pytest.mark.parametrize(
    "held", [b"", b"not a checkpoint", bytes(1000)], ids=["empty", "text", "zeros"]
)
def test_file_that_is_no_checkpoint(digits: Dataset, held: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.state"
    file.write_bytes(held)
    with pytest.raises(ZgedgeError, match="not a checkpoint"):
        train(digits, PLAIN, steps=5, checkpoint=file)
    assert file.read_bytes() == held


def test_checkpoint_of_another_version(digits: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "run.state"
    torch.save({"mark": "zgedge checkpoint 2", "run": {}, "state": {}}, file)
    before = file.read_bytes()
    with pytest.raises(UsageError, match="of another version of zgedge"):
        train(digits, PLAIN, steps=5, checkpoint=file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "held",
    [
        {"mark": "another program's"}, {"mark": "zgedge checkpoints are this"},
        {"mark": checkpoint.MARK}, {"mark": checkpoint.MARK, "run": {}},
        {"mark": checkpoint.MARK, "state": {}}, {"mark": checkpoint.MARK, "run": [], "state": {}},
        {"mark": checkpoint.MARK, "run": {}, "state": 3}, ["zgedge checkpoint 3"],
    ],
    ids=str,
)  # fmt: skip
def test_what_holds_no_run_is_no_checkpoint(digits: Dataset, held: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.state"
    torch.save(held, file)
    with pytest.raises(ZgedgeError, match="not a checkpoint, or is damaged"):
        train(digits, PLAIN, steps=5, checkpoint=file)


def test_checkpoint_that_was_cut_short(digits: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "run.state"
    train(digits, PLAIN, steps=5, checkpoint=file)
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ZgedgeError, match="not a checkpoint"):
        train(digits, PLAIN, steps=5, checkpoint=file)


def test_checkpoint_in_no_folder(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ZgedgeError, match="Cannot write"):
        train(digits, PLAIN, steps=5, checkpoint=tmp_path / "nowhere" / "run.state")
    with pytest.raises(ZgedgeError, match="Cannot read"):
        train(digits, PLAIN, steps=5, checkpoint=tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"train_time": 0.0}, {"train_time": -1.0}, {"train_time": float("nan")},
     {"train_time": float("inf")}, {"steps": 5, "epochs": 1}, {"steps": 5, "train_time": 1.0}],
    ids=str,
)  # fmt: skip
def test_length_that_means_nothing(digits: Dataset, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        train(digits, PLAIN, **options)


def test_ctrl_c_before_the_first_epoch_leaves_a_network(digits: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "run.state"
    asked = iter([False] * 3 + [True])

    class Soon(Interrupts):
        def asked(self) -> bool:
            return next(asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zgedge.train.fit.Interrupts", Soon)
        result = train(digits, TRUNK, steps=80, checkpoint=file)
    assert result.interrupted
    assert result.best_epoch == 0
    assert np.isfinite(result.validation_accuracy)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert _bytes(train(digits, TRUNK, steps=80, checkpoint=file)) == _bytes(
        train(digits, TRUNK, steps=80)
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("10m", 600.0),
        ("10 min", 600.0),
        ("2h", 7200.0),
        ("45", 45.0),
        ("1.5m", 90.0),
    ],
)
def test_times_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "ten", "-5m", "0", "1e5s", "10 parsecs", "999h", "1" * 400]
)
def test_time_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


def test_times_are_written_as_people_do() -> None:
    given = [format_duration(s) for s in (1.5, 90, 600, 7200)]
    assert given == ["1.5 s", "90 s", "10 min", "2 h"]


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_that_wait_take_no_core_from_others(given: dict[str, str], found: str) -> None:
    """It is set before torch is there, whose library reads it once; what a person sets stays."""
    code = (
        "import os, sys; import zgedge.train; assert 'torch' not in sys.modules;"
        " print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    env = {key: value for key, value in os.environ.items() if key not in unset}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**env, **given}, capture_output=True, text=True
    )
    assert done.stdout.strip() == found, done.stderr
