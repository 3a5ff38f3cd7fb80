"""The commands of boards: which kinds there are, which a person has, and whether one will do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from zgedge.cli_common import ENDS, Command, Commands, json_option, print_json
from zgedge.errors import UsageError, ZgedgeError
from zgedge.report.screen import Screen, screen, table

if TYPE_CHECKING:
    from zgedge.devices.boards import Board
    from zgedge.devices.check import Facts, Finding
    from zgedge.devices.profiles import Profile
    from zgedge.devices.ssh import Remote

port_option = click.option(
    "--port", type=click.IntRange(1, 65535), metavar="N", help="Port of its SSH server."
)
config_option = click.option(
    "--ssh-config", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="Configuration of ssh instead of your own.",
)  # fmt: skip
STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def register(main: click.Group) -> None:
    """Add the commands of this module."""
    main.add_command(device)


@click.group(cls=Commands, epilog=ENDS)
def device() -> None:
    """List kinds of boards, add yours, check one, emulate one."""


# ---- list, show ----


@device.command("list", cls=Command, epilog=ENDS)
@json_option
def list_(as_json: bool) -> None:
    """Kinds of boards that are known, and the boards that you added."""
    from zgedge.devices import boards, profiles

    kinds = [profiles.load(name) for name in profiles.names()]
    mine = boards.load()
    if as_json:
        print_json({
            "devices": [
                {"name": k.name, "title": k.title, "machine": k.machine, "runtime": k.runtime}
                for k in kinds
            ],
            "boards": [asdict(board) for board in mine],
        })  # fmt: skip
        return
    to = screen()
    table(
        to, ("device", "machine", "runtime", "is"),
        [(k.name, k.machine, k.runtime, k.title) for k in kinds],
    )  # fmt: skip
    to.line()
    if not mine:
        to.line("You added no boards. zgedge device add user@host does.")
        return
    table(
        to, ("board", "device", "host"),
        [(b.name, b.device, b.host + (f" port {b.port}" if b.port else "")) for b in mine],
    )  # fmt: skip
    to.line(f"The one that was used last is {mine[0].name}.")


@device.command("show", cls=Command, epilog=ENDS)
@click.argument("name", metavar="DEVICE")
@json_option
def show(name: str, as_json: bool) -> None:
    """Everything that is known of a kind of board."""
    from zgedge.devices import profiles

    profile = profiles.load(name)
    if as_json:
        print_json(profile.as_dict())
        return
    to = screen()
    to.line(f"{profile.name}: {profile.title}", "bold")
    rows = []
    for field, value in profile.as_dict().items():
        if field in ("name", "title", "estimated"):
            continue
        text = ", ".join(value) if isinstance(value, list) else _shown(value)
        rows.append((field, (text or "-") + (" (estimated)" * (field in profile.estimated))))
    table(to, ("", ""), rows)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


# ---- add, scan ----


@device.command("add", cls=Command, epilog=ENDS)
@click.argument("host", required=False)
@click.option("--device", "kind", metavar="KIND", help="What it is [default: what it says].")
@click.option("--name", metavar="NAME", help="What to call it [default: its host's name].")
@port_option
@config_option
@click.option("--profile", metavar="FILE", help="Add a kind of board: a TOML file.")
@click.option("--forget", is_flag=True, help="Forget this board instead.")
@json_option
def add(
    host: str | None,
    kind: str | None,
    name: str | None,
    port: int | None,
    ssh_config: str | None,
    profile: str | None,
    forget: bool,
    as_json: bool,
) -> None:
    """Remember a board, HOST as ssh takes it, so that it has a name. Without --device it is asked
    what it is."""
    import os

    from zgedge.devices import boards, profiles

    added = None if profile is None else profiles.add(profile)
    if host is None:
        if added is None:
            raise UsageError("Give the board: zgedge device add user@host, or --profile FILE.")
        if as_json:
            print_json({"board": None, "profile": added.name})
        else:
            screen().line(f"Added the device {added.name}: {added.title}.", "bold green")
        return
    if forget:
        known = boards.find(host)
        if known is None:
            raise UsageError(f"There is no board {host!r}.", "zgedge device list shows yours.")
        boards.remove(known.name)
        if as_json:
            print_json({"board": None, "profile": None})
        else:
            screen().line(f"Forgot {known.name}.")
        return
    if kind is None and added is not None:
        kind = added.name
    config = None if ssh_config is None else os.path.abspath(ssh_config)
    if kind is None:
        from zgedge.devices.ssh import Remote

        with (
            _said(f"asking {host} what it is", as_json),
            Remote(host, port=port, config=config) as remote,
        ):
            kind = _kind_of(remote).name
    kind = profiles.load(kind).name
    made = boards.add(
        boards.Board(
            name or host.rpartition("@")[2].removesuffix(".local"), host, kind, config, port
        )
    )
    if as_json:
        print_json({"board": asdict(made), "profile": None if added is None else added.name})
        return
    to = screen()
    to.line(f"Added {made.name}: {made.host}, a {profiles.load(kind).title}.", "bold green")
    to.line(f"  zgedge device check {made.name}")


def _kind_of(remote: Remote) -> Profile:
    """The kind of board that answers, by what it says of itself."""
    from zgedge.devices import check, profiles

    facts = check.look(remote, profiles.load("aarch64"))
    named = None if facts.model is None else profiles.of_model(facts.model)
    if named is not None and named.machine == facts.machine:
        return named
    for name in ("aarch64", "armv7", "x86-64"):
        if profiles.load(name).machine == facts.machine:
            return profiles.load(name)
    raise ZgedgeError(
        f"{remote.host} has a processor that zgedge has no device for: {facts.machine}.",
        "It runs on aarch64, armv7 and x86-64.",
    )


@device.command("scan", cls=Command, epilog=ENDS)
@json_option
def scan(as_json: bool) -> None:
    """Look for boards that this machine knows of or that announce themselves. No addresses are
    tried out, and nobody logs in."""
    from zgedge.devices.scan import scan as look

    with _said("looking for boards", as_json):
        found, missing = look()
    if as_json:
        print_json({"hosts": [asdict(one) for one in found], "not_asked": missing})
        return
    to = screen()
    answering = [one for one in found if one.greeting is not None]
    if answering:
        table(
            to, ("host", "port", "known by", "answers"),
            [(one.host, str(one.port), one.source, one.greeting or "") for one in answering],
        )  # fmt: skip
    else:
        to.line("No board was found.", "bold")
    silent = len(found) - len(answering)
    if silent:
        to.line(f"{silent} more have an address here and do not answer.")
    for why in missing:
        to.line(f"Not asked: {why}.", "yellow")
    to.line(
        "A board that nothing here names is not seen. Look for its address in your router, then:"
    )
    to.line("  zgedge device add user@address")


# ---- check ----


@device.command("check", cls=Command, epilog=ENDS)
@click.argument("board", required=False)
@click.option("--device", "kind", metavar="KIND", help="What it should be [default: as added].")
@click.option(
    "--runtime", type=click.Choice(("python", "native")),
    help="Program that shall run there [default: the one that suits].",
)  # fmt: skip
@port_option
@config_option
@json_option
def check(
    board: str | None,
    kind: str | None,
    runtime: str | None,
    port: int | None,
    ssh_config: str | None,
    as_json: bool,
) -> None:
    """Log in to BOARD (a name, or a host as ssh takes it; else the one that was used last), compare
    it with what it should be, and say what will not work and how to mend it."""
    from zgedge.devices import boards, profiles
    from zgedge.devices import check as checks
    from zgedge.devices.ssh import Remote

    known = _board(board, kind)
    host = known.host if known is not None else board
    if host is None:
        raise UsageError("You added no board.", "Name one: zgedge device check user@host.")
    if known is not None:
        kind, port = kind or known.device, port or known.port
        ssh_config = ssh_config or known.ssh_config
    with Remote(host, port=port, config=ssh_config) as remote, _said(f"asking {host}", as_json):
        profile = profiles.load(kind) if kind is not None else _kind_of(remote)
        facts = checks.look(remote, profile)
    findings = checks.judge(facts, profile, runtime)
    ok = all(finding.level != checks.FAULT for finding in findings)
    if known is not None:
        boards.used(known.name)
    if as_json:
        print_json({
            "host": host, "device": profile.name, "ok": ok,
            "runtime": runtime or checks.choose(facts, profile),
            "findings": [asdict(finding) for finding in findings],
            "board": checks.as_dict(facts),
        })  # fmt: skip
    else:
        _say_check(screen(), host, profile, facts, findings)
    if not ok:
        click.get_current_context().exit(ZgedgeError.exit_code)


def _board(name: str | None, kind: str | None) -> Board | None:
    from zgedge.devices import boards

    return boards.last_used(kind) if name is None else boards.find(name)


def _say_check(
    to: Screen, host: str, profile: Profile, facts: Facts, findings: list[Finding]
) -> None:
    to.line(f"{host}: {facts.system or 'a system without a name'}", "bold")
    to.line(f"compared with {profile.name}, {profile.title}")
    to.line()
    for finding in findings:
        to.spans([
            (f"  {finding.level:<8}", STYLES[finding.level]), (f"{finding.name:<12}", "bold"),
            (finding.what, ""),
        ])  # fmt: skip
        if finding.mend:
            to.line(f"{'':22}{finding.mend}")
    to.line()
    counts = {level: sum(f.level == level for f in findings) for level in STYLES}
    if counts["fault"]:
        to.line(f"{_count(counts['fault'], 'fault')}: it will not run there as it is.", "bold red")
    elif counts["warning"]:
        to.line(f"It will run there, with {_count(counts['warning'], 'warning')}.", "bold green")
    else:
        to.line("Good to deploy to.", "bold green")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number > 1 else "")


# ---- emulate ----


@device.command("emulate", cls=Command, epilog=ENDS)
@click.argument("kind", default="emulated", metavar="[KIND]")
@click.option("--name", metavar="NAME", help="What to call it [default: KIND].")
@click.option("--new", is_flag=True, help="Begin with an empty disk.")
@click.option("--stop", is_flag=True, help="Pull its plug. Its disk is kept.")
@json_option
def emulate(kind: str, name: str | None, new: bool, stop: bool, as_json: bool) -> None:
    """Start a board that is emulated on this machine (emulated, or emulated-armv7: an old one
    without Python), and add it to your boards. It goes on until --stop."""
    from zgedge.devices import emulated

    if stop:
        name = emulated.pull_plug(kind, name)
        if as_json:
            print_json({"name": name, "host": name, "port": None, "running": False})
        else:
            screen().line(f"Stopped {name}. Its disk is kept for the next start.")
        return
    there, fresh = emulated.bring_up(kind, name, new=new, progress=building(quiet=as_json))
    name = there.host
    if as_json:
        print_json({"name": name, "host": name, "port": there.port, "running": True})
        return
    to = screen()
    told = "runs" if fresh else "runs already"
    to.line(
        f"{name} {told}: a {there.kind.title} at port {there.port} of this machine.", "bold green"
    )
    to.line(f"  ssh -F {there.ssh_config} {there.host}")
    to.line(f"  zgedge device check {name}")
    to.line(f"  zgedge device emulate {kind}{'' if name == kind else f' --name {name}'} --stop")


# ---- progress ----


@contextmanager
def _said(what: str, quiet: bool) -> Iterator[None]:
    """A line on standard error for work that takes a moment, where that is a terminal."""
    live = not quiet and sys.stderr.isatty()
    if live:
        click.echo(f"{what} ...", err=True, nl=False)
    try:
        yield
    finally:
        if live:
            click.echo("\r\x1b[K", err=True, nl=False)


def building(*, quiet: bool) -> Callable[[int, int, str], None]:
    """Progress of building an emulated board: a line for each step."""

    def progress(done: int, total: int, what: str) -> None:
        if not quiet:
            click.echo(f"building the board, {done} of {total}: {what}", err=True)

    return progress
