"""The commands of a service: `run` serves a model that goes on learning, `learn` and `top` speak
to a service that runs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import click

from zgedge.budget import parse_size
from zgedge.cli_common import (
    ENDS,
    Command,
    close_output,
    file_argument,
    json_option,
    optional_file_argument,
    print_json,
)
from zgedge.cli_deploy import Asker, asker_of, far_options
from zgedge.errors import UsageError, ZgedgeError, refused
from zgedge.report.screen import Screen, clean, counted, screen
from zgedge.runtime import Model

ACTIONS = ("on", "freeze", "status", "accept", "rollback", "commit", "class")
DONE = {
    "accept": "The state as it is now is the accepted one.",
    "rollback": "It is back at the state that was accepted last.",
}

state_option = click.option(
    "--state", metavar="DIR", help="Folder of learned state [default: FILE.state]."
)
socket_option = click.option(
    "--socket", metavar="PATH", help="Socket of the service [default: socket in that folder]."
)


def register(main: click.Group) -> None:
    """Add the commands of this module."""
    for command in (run, learn, top):
        main.add_command(command)


def _places(file: str, state: str | None, socket: str | None) -> tuple[str, str]:
    state = state or f"{file}.state"
    return state, socket or os.path.join(state, "socket")


# ---- run ----


@click.command(cls=Command, epilog=ENDS)
@file_argument
@click.option(
    "--source", "sources", multiple=True, metavar="SOURCE",
    help="Rows: - for standard input, a file to follow, a folder to watch, mqtt://HOST/TOPIC.",
)  # fmt: skip
@state_option
@socket_option
@click.option(
    "--form", type=click.Choice(("csv", "json")), help="Of rows [default: as the first looks]."
)
@click.option("--label", metavar="NAME", help="Column or key of the label [default: label].")
@click.option("--id", "name", metavar="NAME", help="Column or key of a row's name [default: id].")
@click.option("--from-start", is_flag=True, help="Take what files and folders hold already.")
@click.option("--answers", is_flag=True, help="Print a JSON line for each row of a source.")
@click.option("--freeze", is_flag=True, help="Start frozen: predict and score, learn nothing.")
@click.option(
    "--commit-every", default=60.0, show_default=True, metavar="SECONDS",
    help="Least time between two commits.",
)  # fmt: skip
@click.option(
    "--erase-block", default="128KB", show_default=True, metavar="SIZE",
    help="What the disk erases at once.",
)  # fmt: skip
@click.option(
    "--queue", type=click.IntRange(1, 65536), metavar="N",
    help="Learning samples that may wait [default: 1 MB of them, 1,024 at most].",
)  # fmt: skip
@click.option("--metrics-file", metavar="PATH", help="Write metrics there, for node_exporter.")
@json_option
def run(
    file: str,
    sources: tuple[str, ...],
    state: str | None,
    socket: str | None,
    form: str | None,
    label: str | None,
    name: str | None,
    from_start: bool,
    answers: bool,
    freeze: bool,
    commit_every: float,
    erase_block: str,
    queue: int | None,
    metrics_file: str | None,
    as_json: bool,
) -> None:
    """Serve FILE, and let it go on learning from its sources inside the same bytes. FILE is not
    changed: what is learned is kept in a folder, and survives a power cut."""
    from zgedge.runtime.service import Service, StopSignals

    if answers and as_json:
        raise UsageError("--answers prints a line for each row, --json one for all: give one.")
    model = Model.open(file)
    folder, path = _places(file, state, socket)
    if not model.arena.network.learning:
        folder = ""  # there is nothing to keep
        if socket is None and state is None:
            path = f"{file}.socket"
        elif socket is None:
            try:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            except OSError as e:
                raise ZgedgeError(
                    f"Cannot make the folder {os.path.dirname(path)}: {e.strerror}.",
                    "Name a folder that this user may write to with --state.",
                ) from e
    made = _sources(model, sources, form, label, name, from_start)
    say: Callable[[dict[str, Any]], None] | None = _answer if answers else None
    with StopSignals() as signals:
        service = Service(
            file, state=folder or None, socket=path, sources=made, answers=say,
            commit_every=commit_every, queue=queue, erase=parse_erase(erase_block),
            metrics_file=metrics_file, say=None if as_json else _tell,
        )  # fmt: skip
        signals.stop(service)
        if freeze and service.learner is not None:
            service.control("freeze")
        del model
        if not as_json:
            _tell(_hello(service, path))
        found = service.run()
    if as_json:
        print_json(found)
    else:
        _tell(_goodbye(found))
        try:
            sys.stderr.flush()
        except OSError:
            close_output(sys.stderr)
    if found["store"] is not None and found["store"]["failure"] is not None:
        raise ZgedgeError(found["store"]["failure"], "What was learned since is lost.")


def parse_erase(text: str) -> int:
    """Bytes of an erase block; the store knows what is one."""
    size = text.strip()
    return int(size) if size.isascii() and size.isdigit() else parse_size(size)


def _sources(
    model: Model,
    specs: tuple[str, ...],
    form: str | None,
    label: str | None,
    name: str | None,
    from_start: bool,
) -> list[Any]:
    from zgedge.runtime.sources import Awaited, Followed, Pipe, Reader, Watched

    network = model.arena.network
    window = network.shape[0] if network.task == "series" else None
    made: list[Any] = []
    try:
        for spec in specs:
            reader = Reader(model.inputs, form, label, name, model.arena.feature_names, window)
            if spec == "-":
                if any(isinstance(other, Pipe) for other in made):
                    raise UsageError("Standard input can be one source, not two.")
                made.append(Pipe(sys.stdin.fileno(), reader))
            elif spec.startswith(("mqtt://", "mqtts://")):
                from zgedge.runtime.mqtt import Mqtt

                made.append(Mqtt(spec, reader))
            elif os.path.isdir(spec):
                made.append(Watched(spec, model.inputs, _loader(model, label), begin=from_start))
            elif os.path.exists(spec):
                made.append(Followed(spec, reader, begin=from_start))
            elif os.path.isdir(os.path.dirname(spec.rstrip("/")) or "."):
                made.append(Awaited(
                    spec, partial(Followed, spec, reader, begin=True),
                    partial(Watched, spec, model.inputs, _loader(model, label), begin=True),
                ))  # fmt: skip
            else:
                raise UsageError(f"There is no {spec} to follow, and no folder for it.")
    except BaseException:
        for source in made:
            source.close()
        raise
    return made


def _loader(model: Model, label: str | None) -> Any:
    """Reads a file of samples as the data package reads it."""
    from zgedge import data

    network = model.arena.network
    shape = network.shape if network.task == "picture" else None
    window = network.shape[0] if network.task == "series" else None

    def load(path: str) -> Any:
        return data.load_inputs(
            path, features=model.inputs, shape=shape, window=window, label=label,
            names=model.arena.feature_names,
        )  # fmt: skip

    return load


def _answer(told: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def _tell(line: str) -> None:
    """A line for a person. One that cannot be written, to a log on a full disk, ends no service; it
    is tried again with the next one."""
    with suppress(OSError):
        click.echo(clean(line), err=True)


def _hello(service: Any, path: str) -> str:
    told = f"Serving {service.path} at {path}, from {service.started_from}"
    if service.learner is None:
        return f"{told}; it was written to predict only."
    told = "; ".join([told, *service.store.damages])
    if service.store.damages:
        told += (
            "; learning begins anew" if service.store.loaded is None
            else "; the other slot's state is taken"
        ) + ", and the next commits mend it"  # fmt: skip
    failure = service.store.failure
    told = f"{told}." + (f" {failure} Learning goes on in memory." if failure else "")
    return told if service.store.log.failure is None else f"{told} {service.store.log.failure}"


def _goodbye(found: dict[str, Any]) -> str:
    kept = ""
    if found["store"] is not None:
        commits = counted(found["store"]["commits"], "commit")
        kept = f"; {commits} in {found['store']['folder']}"
    told = f"Stopped ({found['stopped']}): "
    scored, learned = found["scored"], found["samples"] - found["scored"]
    if learned or not scored:
        told += f"{counted(learned, 'sample')} learned, "
    if scored:
        told += f"{counted(scored, 'sample')} scored while it was frozen, "
    told += f"{found['predictions']:,} predicted"
    bad = sum(found["refused"].values())
    if bad:
        told += f", {bad:,} refused"
        kept += f". The last that was refused: {found['last_refused'].rstrip('.')}"
    return clean(f"{told}{kept}.")


# ---- learn ----


@click.command(cls=Command, epilog=ENDS)
@click.argument("action", type=click.Choice(ACTIONS))
@optional_file_argument
@click.argument("label", required=False, metavar="[NAME]")
@state_option
@socket_option
@far_options
@json_option
def learn(
    action: str,
    file: str | None,
    label: str | None,
    state: str | None,
    socket: str | None,
    host: str | None,
    port: int | None,
    ssh_config: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Steer the service that runs FILE, or the one on a board: let it learn, freeze it, see what it
    does, accept what it has learned, go back to what was accepted last, commit what it has learned
    to the disk now, or give it a class NAME where the file has room for one."""
    if action == "class":
        if host is not None and label is None:
            file, label = None, file
        if label is None:
            raise UsageError("Missing argument 'NAME'.", "Write: zgedge learn class FILE NAME.")
        request = {"op": "class", "name": label}
    elif label is not None:
        raise UsageError(f"{label} is one word too many.", "A NAME belongs to class.")
    else:
        request = {"op": "status"} if action == "status" else {"op": "control", "do": action}
    with _service(file, state, socket, (host, port, ssh_config, name)) as ask:
        told = ask(request)
        reply = told if action == "status" else ask({"op": "status"})
        if as_json:
            print_json(reply)
            return
        if action == "class":
            click.echo(clean(f"It has the class {told['label']} now, with room for "
                             f"{told['spare']:,} more."))  # fmt: skip
        elif action == "commit":
            store = reply["store"]
            click.echo(clean(f"Commit {store['generation']:,} in {store['folder']} has all that "
                             "it has learned."))  # fmt: skip
        elif action in DONE:
            click.echo(DONE[action])
        _say_learning(screen(), reply)


def _say_learning(out: Screen, s: dict[str, Any]) -> None:
    told = {
        "on": "It learns.",
        "frozen": "It is frozen: it predicts and scores, and learns nothing.",
        "never": "It was written to predict only.",
    }
    out.line(told[s["learning"]], "bold")
    if s["accuracy"] is not None:
        out.line(f"{s['accuracy']:.2%} of the last {s['window']:,} labelled samples were right.")
    if s["learner"] is not None:
        uncommitted = s.get("uncommitted")  # a service of before does not say
        learned = f"{counted(s['samples'], 'sample')} since the start"
        if uncommitted:
            learned += f", {uncommitted:,} not committed yet"
        rewired = counted(s["learner"]["rewired"], "connection")
        out.line(f"{learned}; {rewired} rewired in all.")
        if "guard" in s["learner"]:
            _say_guard(out, s["learner"])
    store = s["store"] or {}
    if store.get("failure") is not None:
        out.line(f"{store['failure']} Learning goes on in memory.", "bold red")
    for failure in (store.get("log_failure"), s["metrics_failure"]):
        if failure is not None:
            out.line(failure, "bold red")


def _say_guard(out: Screen, learner: dict[str, Any]) -> None:
    if learner["smallest_drop"] is None:
        out.line(f"The guard is off: {learner['anchors']:,} anchors are too few.", "yellow")
    else:
        out.line(f"The guard is on, and sees a drop of {learner['smallest_drop']:.1f} points: "
                 f"{counted(learner['accepted'], 'state')} accepted, "
                 f"{learner['rolled_back']:,} rolled back.")  # fmt: skip
    drift = learner["drift"]
    out.line(f"Drift: {drift['level']}; {drift['confirmed']:,} confirmed.")


@contextmanager
def _service(
    file: str | None,
    state: str | None,
    socket: str | None,
    far: tuple[str | None, int | None, str | None, str | None],
) -> Iterator[Asker]:
    """Asks the service of a file here, or one on a board (host, port, ssh_config, name)."""
    if far[0] is not None:
        if file is not None or state is not None or socket is not None:
            raise UsageError("FILE, --state and --socket are of a service here; with --host it is "
                             "the one on the board.")  # fmt: skip
        with asker_of(*far) as ask:
            yield ask
        return
    if file is None:
        raise UsageError("Missing argument 'FILE'.", "Or name a board with --host.")
    if any(option is not None for option in far):
        raise UsageError("--port, --ssh-config and --name are of a board: name it with --host.")
    _, path = _places(file, state, socket)
    if state is None and socket is None and not os.path.exists(path):
        beside = f"{file}.socket"  # of a file that only predicts: it has no folder
        path = beside if os.path.exists(beside) else path

    def ask_here(request: dict[str, Any]) -> dict[str, Any]:
        (reply,) = _asked(path, request)
        return reply

    yield ask_here


def _asked(path: str, *requests: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Replies of a running service. Raises ZgedgeError, that of its exit code, for one that says
    no."""
    from zgedge.runtime.sockets import ask

    for reply in ask(path, iter(requests)):
        if not reply.pop("ok"):
            raise refused(reply.get("exit_code", 1), reply["error"], reply.get("hint"))
        yield reply


# ---- top ----


@click.command(cls=Command, epilog=ENDS)
@optional_file_argument
@state_option
@socket_option
@far_options
@click.option("--once", is_flag=True, help="Print one frame and end.")
@click.option(
    "--every", default=1.0, show_default=True, type=click.FloatRange(0.1), metavar="SECONDS",
    help="Time between two frames.",
)  # fmt: skip
@json_option
def top(
    file: str | None,
    state: str | None,
    socket: str | None,
    host: str | None,
    port: int | None,
    ssh_config: str | None,
    name: str | None,
    once: bool,
    every: float,
    as_json: bool,
) -> None:
    """Watch the service that runs FILE, or the one on a board: accuracy, rewiring, memory, commits
    and wear."""
    from zgedge.report.top import frame

    live = sys.stdout.isatty() and not once
    unicode = "utf" in (sys.stdout.encoding or "").lower()
    with _service(file, state, socket, (host, port, ssh_config, name)) as ask:
        while True:
            reply = ask({"op": "status", "history": True})
            if as_json:
                print_json(reply)
                return
            out = screen()
            if live:
                sys.stdout.write("\x1b[H\x1b[2J")
            for spans in frame(reply, out.width, unicode):
                out.spans(spans)
            if once:
                return
            time.sleep(every)
