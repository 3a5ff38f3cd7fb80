"""The commands of deploying: `deploy` brings a model to a board, `key` says whom boards trust,
and `status`, `logs`, `rollback`, `pull` and `remove` ask a board from the desk."""

from __future__ import annotations

import getpass
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from zgedge.cli_common import ENDS, Command, Group, json_option, print_json
from zgedge.cli_device import building
from zgedge.errors import UsageError
from zgedge.report.screen import clean, screen, table

if TYPE_CHECKING:
    from zgedge.devices.agent import Agent
    from zgedge.devices.deploy import Request, Target

host_option = click.option(
    "--host", metavar="HOST", help="Board, as ssh takes it or by its name [default: used last]."
)
board_option = click.option("--host", metavar="HOST", help="Ask the service on this board.")
device_option = click.option("--device", metavar="KIND", help="What the board is (device list).")
port_option = click.option(
    "--port", type=click.IntRange(1, 65535), metavar="N", help="Port of its SSH server."
)
config_option = click.option(
    "--ssh-config", metavar="FILE", help="Configuration of ssh instead of your own."
)
name_option = click.option(
    "--name", metavar="NAME", help="Name of the service [default: the only one there]."
)


def register(main: click.Group) -> None:
    """Add the commands of this module."""
    for command in (deploy, key, status, logs, rollback, pull, remove):
        main.add_command(command)


def _note(text: str) -> None:
    click.echo(clean(text), err=True)


def _copying() -> Callable[[int, int], None]:
    """Progress of a copy on standard error: one line on a terminal, each quarter elsewhere."""
    live = sys.stderr.isatty()
    told = [-1, 0.0]

    def progress(done: int, total: int) -> None:
        share = 100 * done // max(total, 1)
        if live and (time.monotonic() - told[1] > 0.1 or done == total):
            told[1] = time.monotonic()
            end = "\n" if done == total else ""
            click.echo(f"\r{share:3d} % of {total:,} bytes{end}", err=True, nl=False)
        elif not live and share // 25 > told[0]:
            told[0] = share // 25
            click.echo(f"{share} % of {total:,} bytes", err=True)

    return progress


# ---- deploy ----


@click.command(cls=Command, epilog=ENDS)
@click.argument("model", required=False, type=click.Path(dir_okay=False), metavar="[MODEL]")
@device_option
@host_option
@port_option
@config_option
@click.option("--name", metavar="NAME", help="Name of the service [default: from the file's name].")
@click.option(
    "--runtime", type=click.Choice(("python", "native")),
    help="What serves there [default: by the profile, and by the board's Python].",
)  # fmt: skip
@click.option(
    "--watch", default=20.0, show_default=True, metavar="SECONDS", type=click.FloatRange(1, 86400),
    help="How long the board watches the new version.",
)  # fmt: skip
@click.option(
    "--data", metavar="DATA", help="Labelled rows that it must answer as well as what ran before."
)
@click.option(
    "--at-least", type=click.FloatRange(0, 100), metavar="PERCENT",
    help="Share of these rows that it must answer rightly.",
)  # fmt: skip
@click.option("--trust", is_flag=True, help="On first contact: the board learns this desk's keys.")
@click.option("--key", metavar="FILE", help="Sign with this key [default: the desk's own].")
@click.option(
    "--desk-verifies", is_flag=True,
    help="Go on where the board cannot verify signatures: this desk alone does then.",
)  # fmt: skip
@click.option("--allow-downgrade", is_flag=True, help="Take a lower counter than what runs.")
@click.option(
    "--counter", type=click.IntRange(1, 999_999_999), metavar="N",
    help="Counter of the bundle [default: one more than what is there].",
)  # fmt: skip
@click.option(
    "--offline/--online", default=True, show_default=True,
    help="Bring the wheels along, or let the board's pip fetch them.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say each step, and do none.")
@click.option("--hosts", metavar="FILE", help="Deploy to all boards of this file, in waves.")
@click.option("--waves", metavar="SIZES", help="Sizes of the waves [default: 1,10%,100%].")
@json_option
def deploy(
    model: str | None,
    device: str | None,
    host: str | None,
    port: int | None,
    ssh_config: str | None,
    name: str | None,
    runtime: str | None,
    watch: float,
    data: str | None,
    at_least: float | None,
    trust: bool,
    key: str | None,
    desk_verifies: bool,
    allow_downgrade: bool,
    counter: int | None,
    offline: bool,
    dry_run: bool,
    hosts: str | None,
    waves: str | None,
    as_json: bool,
) -> None:
    """Bring MODEL to a board over ssh, test it there, switch to it, and watch it. Where a step
    fails, what served before goes on; where the new version falls short, the board goes back by
    itself."""
    from zgedge.devices import deploy as steps
    from zgedge.devices import fleet, keys

    if waves is not None and hosts is None:
        raise UsageError("--waves is for a fleet: give --hosts too.")
    if hosts is not None and host is not None:
        raise UsageError("--host is one board, --hosts a file of them: give one.")
    if at_least is not None and data is None:
        raise UsageError("--at-least is a share of the rows of --data: give both.")
    path = steps.find_model(model, _note)
    ours = False

    def request(line: fleet.Line | None) -> Request:
        target = steps.find_target(
            line.host if line else host, line.device or device if line else device,
            line.port or port if line else port, ssh_config, _note,
        )  # fmt: skip
        from zgedge.devices.bundle import check_name, name_of

        chosen = (line.name if line else None) or name
        # This machine made the emulated board, its keys and the login: there is nobody to ask.
        return steps.Request(
            path, target, steps.needs_device(target),
            check_name(chosen) if chosen else name_of(path), runtime, watch, key, counter,
            allow_downgrade, desk_verifies, trust or ours, offline, data, at_least,
        )  # fmt: skip

    if hosts is not None:
        lines = fleet.read(hosts)
        sizes = fleet.waves(waves or fleet.WAVES, len(lines))
        requests = {line: request(line) for line in lines}
        if dry_run:
            for line in lines:
                _say_plan(steps.plan(requests[line]), to_error=as_json)
            report = fleet.planned(lines, sizes)
        else:
            keys.make_own(_note, key)
            report = fleet.roll_out(lines, sizes, lambda line: _deployed(requests[line]), _note)
        if as_json:
            print_json(report)
        else:
            _say_fleet(report)
        if report["stopped_at"] is not None:
            raise SystemExit(1)
        return
    if not dry_run and port is None and ssh_config is None:
        ours = steps.start_emulated(host, device, _note, building(quiet=as_json))
    asked = request(None)
    if dry_run:
        found = steps.Deployment(asked).found
        found["outcome"] = "planned"
        found["steps"] = [{"step": s, "seconds": None} for s, _ in steps.STEPS]
        _say_plan(steps.plan(asked), to_error=as_json)
    else:
        keys.make_own(_note, key)
        found = _deployed(asked)
        steps.raise_for(found)
    if as_json:
        print_json(found)
    elif not dry_run:
        click.echo(
            f"{found['name']} {found['version']} serves on {found['host']} "
            f"({found['runtime']} runtime, {found['seconds']:.0f} s)."
        )


def _deployed(request: Request) -> dict[str, Any]:
    from zgedge.devices import deploy as steps

    found = steps.Deployment(request, _note, _copying()).run()
    if found["outcome"] in ("healthy", "unchanged"):
        steps.remember(request.target, request.profile)
    return found


def _say_plan(lines: list[str], *, to_error: bool) -> None:
    for number, line in enumerate(lines, 1):
        click.echo(f"{number:2d} {clean(line)}", err=to_error)


def _say_fleet(report: dict[str, Any]) -> None:
    out = screen()
    table(
        out, ("board", "wave", "outcome", "version", "why"),
        [(clean(b["host"]), str(b["wave"]), b["outcome"], b["version"] or "-", b["error"] or "")
         for b in report["boards"]],
    )  # fmt: skip
    end = f"; stopped at {report['stopped_at']}." if report["stopped_at"] else "."
    out.line(f"{report['good']} good, {report['untouched']} untouched{end}")


# ---- keys ----


@click.group(cls=Group, epilog=ENDS)
def key() -> None:
    """Keys that bundles are signed with, and whom boards trust."""


@key.command("new", cls=Command, epilog=ENDS)
@json_option
def key_new(as_json: bool) -> None:
    """Make this desk's key."""
    from zgedge.devices import keys

    made = keys.new(f"{getpass.getuser()}@{socket.gethostname()}")
    found = {"path": str(keys.own_path()), "key": made.line, "fingerprint": keys.fingerprint(made)}
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['fingerprint']} in {found['path']}")


@key.command("show", cls=Command, epilog=ENDS)
@json_option
def key_show(as_json: bool) -> None:
    """Show this desk's key, and all keys that it trusts."""
    from zgedge.devices import keys

    own = keys.own()
    trusted = [{"key": k.line, "fingerprint": keys.fingerprint(k)} for k in keys.trusted()]
    if as_json:
        print_json({"path": str(keys.own_path()), "key": own.line,
                    "fingerprint": keys.fingerprint(own), "trusted": trusted})  # fmt: skip
        return
    click.echo(own.line)
    for k in trusted:
        click.echo(
            f"trusts {k['fingerprint']} {clean(k['key'].partition(' ')[2].partition(' ')[2])}"
        )


@key.command("trust", cls=Command, epilog=ENDS)
@click.argument("public", metavar="KEY.pub", type=click.Path(dir_okay=False))
@click.option("--host", metavar="HOST", help="Let this board trust it too; it must trust ours.")
@port_option
@config_option
@name_option
@json_option
def key_trust(
    public: str,
    host: str | None,
    port: int | None,
    ssh_config: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Take bundles that are signed with this key, here and on boards that are set up from here."""
    from zgedge.devices import keys

    other = keys.public(
        public, "Give the file that ends in .pub, which the other desk's `zgedge key new` wrote."
    )
    added = keys.trust(other)
    if host is not None:
        from zgedge.devices import deploy as steps
        from zgedge.devices import desk

        target = steps.find_target(host, None, port, ssh_config, _note)
        with desk.service(target, name) as agent, agent.locked(_note):
            desk.teach_keys(agent)
    found = {"key": other.line, "fingerprint": keys.fingerprint(other), "added": added,
             "host": host}  # fmt: skip
    if as_json:
        print_json(found)
    else:
        click.echo(f"{found['fingerprint']} is trusted" + (f" on {host} too." if host else "."))


# ---- a board, from the desk ----


def remote_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--host, --port, --ssh-config and --name."""
    for option in (name_option, config_option, port_option, host_option):
        command = option(command)
    return command


@contextmanager
def service(
    host: str | None, port: int | None, ssh_config: str | None, name: str | None
) -> Iterator[tuple[Target, Agent]]:
    """The service on a board that is meant."""
    from zgedge.devices import deploy as steps
    from zgedge.devices import desk

    target = steps.find_target(host, None, port, ssh_config, _note)
    with desk.service(target, name) as agent:
        yield target, agent


Asker = Callable[[dict[str, Any]], dict[str, Any]]


def far_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same, for commands that by themselves ask a service on this machine."""
    for option in (name_option, config_option, port_option, board_option):
        command = option(command)
    return command


@contextmanager
def asker_of(
    host: str | None, port: int | None, ssh_config: str | None, name: str | None
) -> Iterator[Asker]:
    """Asks the service on a board one thing at a time."""
    from zgedge.devices import desk

    with service(host, port, ssh_config, name) as (_, agent):
        yield lambda request: desk.ask(agent, [request])[0]


@click.command(cls=Command, epilog=ENDS)
@remote_options
@json_option
def status(
    host: str | None, port: int | None, ssh_config: str | None, name: str | None, as_json: bool
) -> None:
    """What runs on a board, how well it answers, and how the board is."""
    from zgedge.devices import desk

    with service(host, port, ssh_config, name) as (target, agent):
        found = {"host": target.host, **desk.status(agent)}
        if as_json:
            print_json(found)
        else:
            _say_status(found)


def _say_status(found: dict[str, Any]) -> None:
    out = screen()
    out.line(f"{found['name']} on {found['host']}, a {found['device']}", "bold")
    rows = [("version", f"{found['version']}, {found['runtime']} runtime, zgedge {found['zgedge']}"
             + (f"; before it {found['previous']}" if found["previous"] else ""))]  # fmt: skip
    if found["pending"]:
        rows.append(("switch", f"to {found['pending']}, not yet judged"))
    s = found["service"]
    if s is None:
        rows.append(("service", "does not answer; see zgedge logs"))
    else:
        rows += _service_rows(s)
    if found["last"]:
        rows.append(("deployed", found["last"]))
    board = []
    if found["temperature"] is not None:
        board.append(f"{found['temperature']:.1f} C")
    if found["throttled"] is not None:
        board.append(", ".join(found["throttled"]) or "not throttled")
    if found["free_bytes"] is not None:
        board.append(f"{found['free_bytes'] >> 20:,} MB of disk free")
    rows.append(("board", "; ".join(board) or "tells nothing of itself"))
    table(out, ("", ""), rows)


def _service_rows(s: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("service", f"{s['learning']}, up {s['uptime']:,.0f} s, from {s['started_from']}")]
    accuracy = "no labelled sample yet"
    if s["accuracy"] is not None:
        accuracy = f"{s['accuracy']:.1%} of the last {s['window']:,} labelled samples"
    rows.append(("accuracy", accuracy))
    learner = s["learner"]
    if learner is not None and learner.get("drift"):
        rows.append(("drift", f"{learner['drift']['level']}; {s['drifts']:,} confirmed"))
    store = s["store"]
    if store is not None:
        ago = store.get("since_commit")
        when = "none yet" if ago is None else f"the last {ago:,.0f} s ago"
        rows.append(("commits", f"{store['commits']:,}, {when}"))
        rows.append(("wear", f"{store['written'] >> 10:,} KB written"))
        if store["failure"] is not None:
            rows.append(("disk", store["failure"]))
    memory = s["memory"]
    rows.append(("memory", f"{memory['rss']:,} bytes, {memory['rss'] - memory['first']:+,} since "
                 "the start"))  # fmt: skip
    return rows


@click.command(cls=Command, epilog=ENDS)
@remote_options
@click.option("--lines", default=50, show_default=True, type=click.IntRange(1, 100_000),
              metavar="N", help="How many.")  # fmt: skip
@json_option
def logs(
    host: str | None,
    port: int | None,
    ssh_config: str | None,
    name: str | None,
    lines: int,
    as_json: bool,
) -> None:
    """The last lines of a service's log, and what was deployed there."""
    from zgedge.devices import desk

    with service(host, port, ssh_config, name) as (_, agent):
        found = desk.write_logs(agent, lines)
    if as_json:
        print_json(found)
        return
    for line in found["log"]:
        click.echo(clean(line))
    for line in found["history"]:
        click.echo(clean(f"deployed: {line}"))


@click.command(cls=Command, epilog=ENDS)
@remote_options
@click.option("--to", "version", metavar="VERSION", help="Installed version [default: before].")
@click.option("--watch", default=5.0, show_default=True, type=click.FloatRange(1, 86400),
              metavar="SECONDS", help="How long the board watches it.")  # fmt: skip
@json_option
def rollback(
    host: str | None,
    port: int | None,
    ssh_config: str | None,
    name: str | None,
    version: str | None,
    watch: float,
    as_json: bool,
) -> None:
    """Go back to the version that ran before; what it had learned is there again."""
    from zgedge.devices import deploy as steps
    from zgedge.devices import desk

    with service(host, port, ssh_config, name) as (_, agent):
        found = {**desk.rollback(agent, version, watch, _note)}
        found["version"] = desk.status(agent)["version"]
    steps.raise_for(found)
    if as_json:
        print_json(found)
    else:
        click.echo(clean(f"{found['version']} serves again."))


@click.command(cls=Command, epilog=ENDS)
@remote_options
@click.option("--state", metavar="STATE", help="An older learned state, by its name there.")
@click.option("--list", "only_list", is_flag=True, help="List the states, and bring none.")
@click.option("--out", default="pulled.zge", show_default=True, metavar="FILE",
              help="File to write.")  # fmt: skip
@json_option
def pull(
    host: str | None,
    port: int | None,
    ssh_config: str | None,
    name: str | None,
    state: str | None,
    only_list: bool,
    out: str,
    as_json: bool,
) -> None:
    """Bring home what a service has learned, as a model file for eval, diff and export."""
    from zgedge.devices import desk

    with service(host, port, ssh_config, name) as (_, agent):
        if only_list:
            found: dict[str, Any] = {
                "path": None, "bytes": None, "state": None, "commit": None, "carried": None,
                "states": desk.states(agent),
            }  # fmt: skip
        else:
            found = desk.pull(agent, state, out, _note)
    if as_json:
        print_json(found)
        return
    if only_list:
        for s in found["states"]:
            click.echo(clean(f"{s['state']}  {'serves' if s['current'] else 'kept'}"))
        return
    click.echo(f"{found['path']}: {found['bytes']:,} bytes, commit {found['commit']}")
    if carried := sum(found["carried"].values()):
        _note(f"It carries {carried:,} samples of people; zgedge info --strip-samples takes them "
              "out of a copy.")  # fmt: skip
    for s in found["states"]:
        if s["state"] != found["state"]:
            _note(f"The board keeps the state {s['state']} too (--state brings it).")


@click.command(cls=Command, epilog=ENDS)
@remote_options
@click.option("--with-state", is_flag=True, help="Remove what it learned, too.")
@json_option
def remove(
    host: str | None,
    port: int | None,
    ssh_config: str | None,
    name: str | None,
    with_state: bool,
    as_json: bool,
) -> None:
    """Stop a service and take it off the board. What it learned stays there until --with-state."""
    from zgedge.devices import desk

    with service(host, port, ssh_config, name) as (target, agent):
        kept = desk.remove(agent, with_state=with_state, say=_note)
        found = {"host": target.host, "name": agent.name, "kept_state": kept}
    if as_json:
        print_json(found)
    else:
        end = "; what it learned is still there." if kept else "."
        click.echo(clean(f"{found['name']} is off {found['host']}{end}"))
