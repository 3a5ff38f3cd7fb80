"""What every command has: help, --json, the same exit codes, and none missing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from tests.cli.conftest import run
from zgedge import errors
from zgedge.cli import main
from zgedge.cli_common import ENDS, INTERRUPTED, READER_GONE

VERBS = {
    "train", "plan", "info", "predict", "eval", "adapt", "prove", "report", "diff", "export",
    "import", "run", "learn", "top", "doctor", "data list", "data check", "data get",
    "device list", "device show", "device add", "device scan", "device check", "device emulate",
    "bench equal-bytes", "bench budgets", "bench continual",
    "deploy", "key new", "key show", "key trust", "status", "logs", "rollback", "pull", "remove",
}  # fmt: skip
# What the commands are documented to take, beyond --json and --help.
ARGUMENTS = {
    "train": (["[DATA]"], {"--budget", "--out", "--rewire", "--seed", "--epochs", "--no-learning",
                           "--data-dir"}),
    "plan": (["[DATA]"], {"--budget", "--network", "--latency", "--board", "--train-time"}),
    "info": (["FILE"], {"--out", "--strip-samples"}),
    "predict": (["[FILE]", "DATA"], {"--host", "--port", "--ssh-config", "--name"}),
    "eval": (["FILE", "DATA"], set()),
    "adapt": (["FILE", "DATA"], {"--out", "--rewire", "--steps", "--eval"}),
    "prove": (["FILE"], {"--steps", "--data", "--leak"}),
    "report": (["FILE"], {"--data", "--log", "--before", "--out"}),
    "diff": (["OLDER", "NEWER"], {"--data", "--picture"}),
    "export": (["FILE"], {"--to", "--out", "--form", "--softmax", "--input-type", "--learning",
                          "--samples", "--data", "--force", "--check"}),
    "import": (["MODEL.onnx"], {"--data", "--budget", "--out", "--mean", "--std", "--steps",
                                "--epochs", "--train-time", "--no-learning", "--seed"}),
    "run": (["FILE"], {"--source", "--state", "--socket", "--form", "--label", "--id",
                       "--from-start", "--answers", "--freeze", "--commit-every",
                       "--erase-block", "--queue", "--metrics-file"}),
    "learn": (["{on|freeze|status|accept|rollback|commit|class}", "[FILE]", "[NAME]"],
              {"--state", "--socket", "--host"}),
    "top": (["[FILE]"], {"--state", "--socket", "--once", "--every", "--host"}),
    "deploy": (["[MODEL]"], {"--device", "--host", "--port", "--ssh-config", "--name", "--runtime",
                             "--watch", "--trust", "--allow-downgrade", "--desk-verifies",
                             "--offline", "--online", "--dry-run", "--hosts", "--waves", "--data",
                             "--at-least", "--key", "--counter"}),
    "key trust": (["KEY.pub"], {"--host"}),
    "status": ([], {"--host", "--port", "--ssh-config", "--name"}),
    "logs": ([], {"--host", "--lines"}),
    "rollback": ([], {"--host", "--to", "--watch"}),
    "pull": ([], {"--host", "--state", "--list", "--out"}),
    "remove": ([], {"--host", "--with-state"}),
    "bench equal-bytes": ([], {"--data", "--budget", "--seeds", "--log", "--out", "--plot"}),
    "bench continual": ([], {"--stream", "--budget", "--seeds", "--rows", "--log", "--out"}),
    "device add": (["[HOST]"], {"--device", "--name", "--port", "--ssh-config", "--profile"}),
    "device check": (["[BOARD]"], {"--device", "--runtime", "--port", "--ssh-config"}),
    "device emulate": (["[KIND]"], {"--name", "--new", "--stop"}),
    "doctor": ([], set()),
}  # fmt: skip


def commands(group: click.Group = main, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def tree(kind: type[errors.ZgedgeError]) -> Iterator[type[errors.ZgedgeError]]:
    """The public errors; a benchmark may have kinds of its own."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child)


def test_no_command_is_missing_or_untested() -> None:
    assert {name for name, _ in commands()} == VERBS


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[n for n, _ in commands()])
def test_has_json_and_says_what_it_does(name: str, command: click.Command) -> None:
    options = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
    assert "--json" in options
    assert command.help
    assert command.epilog == ENDS


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[n for n, _ in commands()])
def test_options_say_what_they_are(name: str, command: click.Command) -> None:
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "seed":
            assert parameter.help, f"{name} {parameter.opts[0]}"


@pytest.mark.parametrize("name", ["", *sorted(VERBS), "bench", "data", "device", "key"])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(name: str, option: str) -> None:
    text = " ".join(run(*name.split(), option).stdout.split())
    assert "Usage:" in text
    assert "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad data" in text


@pytest.mark.parametrize("name", ARGUMENTS)
def test_takes_what_is_documented(name: str) -> None:
    command = dict(commands())[name]
    arguments, options = ARGUMENTS[name]
    context = click.Context(command)
    found = [p.make_metavar(context) for p in command.params if isinstance(p, click.Argument)]
    assert found == arguments
    assert options <= {o for p in command.params for o in (*p.opts, *p.secondary_opts)}


def test_exit_codes_in_the_help_are_those_of_the_errors() -> None:
    told = {int(n): what.strip() for n, what in re.findall(r"(\d+) ([a-z ]+)", ENDS)}
    raised = {kind.exit_code for kind in tree(errors.ZgedgeError)}
    assert set(told) == {0, *raised, INTERRUPTED, READER_GONE}
    assert (INTERRUPTED, READER_GONE) == (130, 141)


def test_exit_codes_in_the_manual_of_errors() -> None:
    rows = re.findall(r"^\| (\d) \| ([\w, ]*) \|", errors.__doc__ or "", re.MULTILINE)
    for code, names in rows:
        for name in filter(None, names.split(", ")):
            assert getattr(errors, name).exit_code == int(code)
    named = {name for _, names in rows for name in filter(None, names.split(", "))}
    assert named == {kind.__name__ for kind in tree(errors.ZgedgeError)}


def test_version() -> None:
    assert re.search(r"\d+\.\d+\.\d+", run("--version").stdout)


@pytest.mark.parametrize(
    "args",
    [
        ("nosuch",), ("train",), ("train", "--budget"), ("info",), ("predict", "m.zge"),
        ("prove", "m.zge"), ("data", "nosuch"), ("train", "--budget", "4KB", "--nosuch"),
        ("train", "--budget", "4KB", "--rewire", "nosuch"),
        ("train", "--budget", "4KB", "--seed", "-1"), ("train", "--budget", "4KB", "--seed", "x"),
        ("train", "--budget", "4KB", "--epochs", "0"), ("adapt", "m", "d", "--steps", "0"),
        ("prove", "m", "--steps", "many"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_usage_that_is_wrong(args: tuple[str, ...]) -> None:
    result = run(*args, code=2)
    assert result.stdout == ""
    assert "Error" in result.stderr
