"""Deployments to emulated boards: real ssh, another processor, start scripts, users.

What can go wrong on the way is tried against boards on this machine (test_deploy.py); here is what
only a board shows.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import nets
from tests.cli.conftest import refused
from tests.devices.conftest import CACHE, prepared
from tests.devices.desks import NET, native_program
from tests.platform import builds
from tests.platform.needed import or_skip
from tests.waiting import until
from zgedge.devices import boards, bundle, deploy, desk, emulated, keys, profiles
from zgedge.devices.agent import DeployError
from zgedge.devices.deploy import Deployment, Request, Target
from zgedge.devices.emulated import Emulated
from zgedge.errors import RemoteError
from zgedge.runtime import Model


@pytest.fixture
def to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Deploys a model to a board, with the native program for it unless another is given."""
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path / "config"))
    keys.new("desk")
    said: list[str] = []

    def run(
        board: Emulated,
        seed: int = 0,
        *,
        program: bytes | None = None,
        progress: Callable[[int, int], None] | None = None,
        **more: Any,
    ) -> Any:
        kind = board.kind.name
        if more.get("runtime", "native") == "native":
            arm = builds.AARCH64 if kind == "emulated" else builds.ARMV7
            data = native_program(arm) if program is None else program
            monkeypatch.setattr(deploy, "runtime_files", lambda *_, **__: {bundle.PROGRAM: data})
        model = tmp_path / f"{seed}.zge"
        model.write_bytes(nets.file(NET, seed))
        options = {"runtime": "native", "trust": True, "watch": 2.0, **more}
        request = Request(
            str(model), Target(board.host, kind, None, str(board.ssh_config)),
            options.pop("profile", profiles.load(kind)), "m", **options,
        )  # fmt: skip
        run.last = Deployment(request, said.append, progress)  # type: ignore[attr-defined]
        return run.last.run()  # type: ignore[attr-defined]

    run.said = said  # type: ignore[attr-defined]
    return run


def target(board: Emulated) -> Target:
    return Target(board.host, board.kind.name, None, str(board.ssh_config))


def predicts_as(board: Emulated, seed: int) -> bool:
    """Whether the service answers as the model does, through its socket and over ssh."""
    x, _ = nets.samples(NET, 8)
    with desk.service(target(board), "m") as agent:
        replies = desk.predict(agent, desk.served_model(agent), x)
    want = Model(nets.buffer(nets.file(NET, seed))).predict(x).tolist()
    return [reply["label"] for reply in replies] == want


def test_a_model_gets_to_another_processor_and_serves_there(
    board: Emulated, to: Callable[..., Any]
) -> None:
    board.start()

    # The connection is lost in the middle of the copy; the next deployment goes on.
    def cut(done: int, _: int) -> None:
        if done > 300_000:
            to.last.transport._master.kill()  # type: ignore[attr-defined]

    with pytest.raises(RemoteError):
        to(board, progress=cut)
    found = to(board)
    assert found["outcome"] == "healthy"
    assert found["root"] == "/opt/zgedge"
    assert found["golden"]["ok"]
    assert predicts_as(board, 0)
    with desk.service(target(board), None) as agent:
        status = desk.status(agent)
    assert status["service"]["learning"] == "on"
    # The service has a user of its own, and its socket is for its group alone.
    with target(board).remote() as remote:
        owner = remote.check("stat -c '%U %a' /opt/zgedge/m/run/socket").split()
    assert owner == ["zgedge", "660"]


def test_a_deployment_starts_the_board_of_this_machine_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared("emulated")
    monkeypatch.setattr(emulated, "default_cache", lambda: CACHE)
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path))
    said: list[str] = []
    for host, device in (("pi@pi4.local", "rpi4"), (None, "rpi4"), ("emulated", "rpi4")):
        assert not deploy.start_emulated(host, device, said.append)
    assert said == []
    try:
        assert deploy.start_emulated(None, "emulated", said.append)
        assert said == ["Starting the emulated board emulated ..."]
        made = emulated.running_board("emulated")
        assert made is not None
        assert made.running
        assert deploy.start_emulated("emulated", None, said.append)
        assert len(said) == 1
        # One that only has the name is not trusted as this machine's own.
        boards.add(boards.Board("emulated", "pi@real.local", "emulated"))
        assert not deploy.start_emulated("emulated", None, said.append)
    finally:
        if (made := emulated.running_board("emulated")) is not None:
            made.stop()
        shutil.rmtree(CACHE / "running" / "emulated", ignore_errors=True)


def test_no_such_host(to: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "m.zge").write_bytes(nets.file(NET))
    said = refused("deploy", tmp_path / "m.zge", "--device", "rpi4", "--host", "pi@no.invalid",
                   code=7)  # fmt: skip
    assert "no host" in said


@pytest.mark.slow
def test_python_serves_there_too(board: Emulated, to: Callable[..., Any]) -> None:
    board.start()
    found = to(board, runtime="python")
    assert (found["outcome"], found["runtime"]) == ("healthy", "python")
    assert predicts_as(board, 0)
    # The native program takes over what the Python service learned.
    x, y = nets.samples(NET, 10)
    names = Model(nets.buffer(nets.file(NET))).classes.tolist()
    with desk.service(target(board), "m") as agent:
        desk.ask(agent, [{"op": "learn", "x": r.tolist(), "y": names[n]}
                         for r, n in zip(x, y, strict=True)])  # fmt: skip
        desk.commit(agent, print)
    found = to(board, watch=5.0)
    assert (found["outcome"], found["state"]) == ("healthy", "kept")


@pytest.mark.slow
def test_an_old_board_gets_the_native_program(old_board: Emulated, to: Callable[..., Any]) -> None:
    old_board.start()
    with pytest.raises(DeployError, match="cannot verify"):
        to(old_board, runtime=None)
    found = to(old_board, runtime=None, desk_verifies=True)
    assert (found["outcome"], found["runtime"]) == ("healthy", "native")
    assert predicts_as(old_board, 0)


def trapping(folder: Path) -> bytes:
    """A program with an instruction that a Cortex-A76 has, and a Cortex-A72 has not."""
    source = folder / "trap.c"
    source.write_text('int main(void) { __asm__ volatile("sdot v0.4s, v1.16b, v2.16b"); }\n')
    zig = or_skip(builds.zig)
    builds.run_tool([zig, "cc", "-target", builds.AARCH64, "-mcpu=cortex_a76", "-static",
                     source, "-o", folder / "trap"])  # fmt: skip
    return (folder / "trap").read_bytes()


@pytest.mark.slow
def test_a_build_for_a_newer_processor_never_serves(
    board: Emulated, to: Callable[..., Any], tmp_path: Path
) -> None:
    board.start()
    to(board)
    with pytest.raises(DeployError) as e:
        to(board, 1, program=trapping(tmp_path))
    assert e.value.code == "instruction"
    assert predicts_as(board, 0)
    # Where the profile asks for the instruction, the check says it before anything is copied.
    newer = replace(profiles.load("emulated"), features=("asimd", "asimddp"))
    with pytest.raises(DeployError, match="asimddp") as e:
        to(board, 1, profile=newer)
    assert e.value.code == "processor"
    assert predicts_as(board, 0)


@pytest.mark.slow
def test_a_model_that_answers_wrongly_is_taken_back(
    board: Emulated, to: Callable[..., Any], tmp_path: Path
) -> None:
    board.start()
    to(board)
    x, _ = nets.samples(NET, 40)
    y = Model(nets.buffer(nets.file(NET))).predict(x)
    np.savez(tmp_path / "rows.npz", x=x, y=y, x_test=x, y_test=y)
    assert to(board, 2, data=str(tmp_path / "rows.npz"))["outcome"] == "rolled-back"
    assert predicts_as(board, 0)


@pytest.mark.slow
def test_a_full_disk_on_a_board(board: Emulated, to: Callable[..., Any]) -> None:
    board.start(disks={"/opt": 16})
    to(board)
    with target(board).remote() as remote:
        remote.run("dd if=/dev/zero of=/opt/filler bs=1k count=99999 2>/dev/null; true")
    with pytest.raises(DeployError) as e:
        to(board, 1)
    assert e.value.code == "full", e.value
    assert predicts_as(board, 0)
    with target(board).remote() as remote:
        remote.check("rm /opt/filler")
    assert to(board, 1)["outcome"] == "healthy"


@pytest.mark.slow
def test_a_board_whose_clock_says_1970(board: Emulated, to: Callable[..., Any]) -> None:
    board.start(clock="1970-01-01 00:01:00")
    assert to(board)["outcome"] == "healthy"
    assert predicts_as(board, 0)


@pytest.mark.slow
def test_a_board_that_restarts_during_the_switch(board: Emulated, to: Callable[..., Any]) -> None:
    board.start()
    to(board)
    results: list[str] = []

    def deploying() -> None:
        try:
            results.append(to(board, 1, watch=60.0)["outcome"])
        except RemoteError as e:
            results.append(e.reason)

    thread = threading.Thread(target=deploying)
    thread.start()
    until((board.root / "opt/zgedge/m/pending").exists, seconds=120)
    board.reboot()
    thread.join()
    assert results[0] in ("cut", "timeout", "refused")
    # The board judges by itself what it was in the middle of, or a deployment does that.
    found = to(board, 1)
    assert found["outcome"] in ("healthy", "unchanged")
    assert not (board.root / "opt/zgedge/m/pending").exists()
    assert predicts_as(board, 1)


@pytest.mark.slow
def test_a_board_goes_back_by_itself_after_its_power_went(
    board: Emulated, to: Callable[..., Any]
) -> None:
    board.start()
    to(board)
    to(board, 1)
    # As the power leaves it in the middle of a switch to a program that then does not start.
    folder = board.root / "opt/zgedge/m"
    new = os.readlink(folder / "current").removeprefix("versions/")
    (old,) = (v.name for v in (folder / "versions").iterdir() if v.name != new)
    (folder / "pending").write_text(f"{new} {old} an-earlier-boot 2 - -\n")
    (folder / "versions" / new / "bin" / "zgedge-native").write_text("#!/bin/sh\nexit 3\n")
    board.reboot()
    until(lambda: not (board.root / "opt/zgedge/m/pending").exists(), seconds=240)
    assert predicts_as(board, 0)


@pytest.mark.slow
def test_who_has_no_root_rights_gets_a_service_in_the_home(
    board: Emulated, to: Callable[..., Any]
) -> None:
    board.start()
    board.host = f"guest@{board.host}"
    found = to(board)
    assert (found["outcome"], found["root"]) == ("healthy", "/home/guest/.zgedge")
