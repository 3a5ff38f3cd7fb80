"""docs/commands.md names every command, option, JSON key and exit code, and no other."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from tests.cli.conftest import process, run_json
from tests.cli.test_conformance import commands, tree
from tests.devices.desks import Desk, served_board
from tests.devices.fakes import fake_ssh
from tests.float_nets import centroids
from tests.waiting import until
from zgedge import errors
from zgedge.cli_common import INTERRUPTED, READER_GONE
from zgedge.data import load
from zgedge.report import bytemap
from zgedge.runtime import Model

COMMANDS = dict(commands())
SHORT = ("--budget", "4KB", "--seeds", "0", "--epochs", "1")
EVERYWHERE = {"--json", "--help"}


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "commands.md").read_text()


def section(page: str, name: str) -> str:
    found = re.search(rf"^##+ {name}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section {name}"
    return found[1]


def rows(text: str, head: str) -> list[list[str]]:
    """Cells of the table whose first head is `head`, without heads."""
    found = re.search(rf"^\| {head} \|.*\n\| ---.*\n((?:\|.*\n)*)", text, re.MULTILINE)
    assert found, f"no table of {head}"
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in found[1].splitlines()
    ]


def options_of(command: click.Command) -> set[str]:
    return {o for p in command.params if isinstance(p, click.Option) for o in p.opts}


def told_options(page: str, name: str) -> str:
    """The first cells of the table of options; a command without any needs none."""
    if not options_of(COMMANDS[name]) - EVERYWHERE:
        return ""
    return " ".join(row[0] for row in rows(section(page, name), "option"))


def keys(text: str) -> set[str]:
    return {key for row in rows(text, "JSON key") for key in re.findall(r"`(\w+)`", row[0])}


def test_every_command_has_a_section(page: str) -> None:
    heads = set(re.findall(r"^##+ (.*)$", page, re.MULTILINE))
    assert heads == {*COMMANDS, "bench", "data", "device", "key", "Exit codes"}


@pytest.mark.parametrize("name", COMMANDS)
def test_options(page: str, name: str) -> None:
    found = re.findall(r"`(--[\w-]+)", told_options(page, name))
    assert len(found) == len(set(found))
    assert set(found) == options_of(COMMANDS[name]) - EVERYWHERE


@pytest.mark.parametrize("name", COMMANDS)
def test_options_that_take_a_value_say_so(page: str, name: str) -> None:
    told = told_options(page, name)
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) and parameter.opts[0] not in EVERYWHERE:
            with_value = re.search(rf"`{parameter.opts[0]} [A-Z]\w*`", told) is not None
            assert with_value != parameter.is_flag, parameter.opts[0]


def test_exit_codes(page: str) -> None:
    told = rows(section(page, "Exit codes"), "code")
    kinds = {kind.__name__: kind.exit_code for kind in tree(errors.ZgedgeError)}
    assert {int(row[0]) for row in told} == {0, *kinds.values(), INTERRUPTED, READER_GONE}
    named = {n: int(row[0]) for row in told for n in re.findall(r"`(\w+)`", row[-1])}
    assert named == kinds


def piped(model: Path) -> dict[str, Any]:
    child = process("run", model, "--source", "-", "--json", stdin=subprocess.PIPE)
    out, _ = child.communicate("")
    return json.loads(out)  # type: ignore[no-any-return]


def of_a_service(model: Path, *args: str) -> dict[str, Any]:
    child = process("run", model, stderr=subprocess.DEVNULL)
    try:
        until(Path(f"{model}.state", "socket").exists)
        return run_json(*args, model)
    finally:
        child.terminate()
        child.communicate()


def emulated() -> dict[str, Any]:
    """Of a board that is started by the command, or what the page says where none can run."""
    from tests.devices.conftest import CACHE, prepared

    prepared("emulated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zgedge.devices.emulated.default_cache", lambda: CACHE)
        found = run_json("device", "emulate", "--name", "of-commands", "--new")
        run_json("device", "emulate", "--name", "of-commands", "--stop")
    return found


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with served_board(tmp_path_factory.mktemp("desk")) as made:
        yield made


FAR = ("deploy", "key new", "key show", "key trust", "status", "logs", "rollback", "pull",
       "remove")  # fmt: skip


def of_a_board(request: pytest.FixtureRequest, name: str, out: Path) -> dict[str, Any]:
    desk: Desk = request.getfixturevalue("desk")
    settings = desk.folder / ("new" if name == "key new" else "config")
    request.getfixturevalue("monkeypatch").setenv("ZGEDGE_CONFIG", str(settings))
    more: dict[str, tuple[object, ...]] = {
        "deploy": (desk.model(), "--name", "m", "--runtime", "native"),
        "key trust": (desk.folder / "config" / "key.pub",),
        "rollback": ("--watch", "1"),
        "pull": ("--out", out),
    }
    if name == "remove":
        desk.deploy(name="other")
        more["remove"] = ("--name", "other")
    return run_json(*name.split(), *more.get(name, ()))


@pytest.fixture
def calls(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> dict[str, Callable[[], dict[str, Any]]]:
    np.save(tmp_path / "set.npy", np.zeros(3))
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{fake_ssh(tmp_path)}:{os.environ['PATH']}")
    out = tmp_path / "out.zge"
    return {
        "train": lambda: run_json("train", "--budget", "4KB", "--epochs", "1", "--out", out),
        "plan": lambda: run_json("plan", "--budget", "4KB"),
        "info": lambda: run_json("info", model, "--strip-samples", "--out", out),
        "predict": lambda: run_json("predict", model, "digits"),
        "eval": lambda: run_json("eval", model, "digits"),
        "adapt": lambda: run_json("adapt", model, "digits", "--steps", "3"),
        "prove": lambda: run_json("prove", model, "--steps", "1000"),
        "run": lambda: piped(model),
        "learn": lambda: of_a_service(model, "learn", "status"),
        "top": lambda: of_a_service(model, "top"),
        "report": lambda: run_json("report", model, "--data", "digits", "--out", tmp_path / "p"),
        "diff": lambda: run_json("diff", model, model),
        "export": lambda: run_json("export", model, "--to", "onnx"),
        "import": lambda: run_json(
            "import",
            centroids(load("digits"), tmp_path / "float.onnx"),
            "--budget",
            "4KB",
            "--steps",
            "3",
        ),
        "bench equal-bytes": lambda: run_json("bench", "equal-bytes", *SHORT),
        "bench budgets": lambda: run_json("bench", "budgets", *SHORT),
        "bench continual": lambda: run_json(
            "bench", "continual", "--stream", "split-digits", "--rows", "head only", "--quick"
        ),
        "data list": lambda: run_json("data", "list"),
        "data check": lambda: run_json("data", "check", "digits"),
        "device list": lambda: run_json("device", "list"),
        "device show": lambda: run_json("device", "show", "rpi4"),
        "device add": lambda: run_json("device", "add", "pi@board", "--device", "rpi4"),
        "device scan": lambda: run_json("device", "scan"),
        "device check": lambda: run_json("device", "check", "board", "--device", "x86-64"),
        "device emulate": emulated,
        "doctor": lambda: run_json("doctor"),
        **{name: lambda name=name: of_a_board(request, name, out) for name in FAR},
    }


@pytest.mark.parametrize("name", sorted({*COMMANDS} - {"data get"}))
def test_json_keys(page: str, calls: dict[str, Callable[[], dict[str, Any]]], name: str) -> None:
    assert set(calls[name]()) == keys(section(page, name))


def test_json_keys_of_layers_and_learner(page: str, model: Path) -> None:
    arena = Model.open(model).arena
    told = set(re.findall(r"`(\w+)`", section(page, "train").split("Each of `layers`")[1]))
    assert told == set(bytemap.layer_rows(arena.network)[0])
    told = set(re.findall(r"`(\w+)`", section(page, "info").split("`learner` has")[1]))
    assert told == set(arena.learner() or {})
