"""The command line: a command for each verb, which parses, calls one function, and prints.

With `--json` a command prints one object on standard output and nothing else; progress goes to
standard error. On a device without rich the same commands print plain text.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt

import zgedge
from zgedge import arena as files
from zgedge import network as net
from zgedge.budget import Plan, format_size, parse_size
from zgedge.cli_common import (
    ENDS,
    Command,
    Commands,
    file_argument,
    json_option,
    print_json,
)
from zgedge.cli_deploy import far_options, service
from zgedge.cli_deploy import register as register_deploy
from zgedge.cli_device import register as register_device
from zgedge.cli_service import register
from zgedge.errors import (
    BudgetError,
    DataError,
    MissingExtraError,
    ProofError,
    UsageError,
    ZgedgeError,
)
from zgedge.extras import need
from zgedge.network import SPARSE
from zgedge.report import bytemap, interval
from zgedge.report.screen import Screen, clean, screen, table
from zgedge.runtime import Learner, Model
from zgedge.spec import check_words, spec_of

if TYPE_CHECKING:
    from zgedge.report.diff import Answers, LayerDiff
    from zgedge.train import Epoch
    from zgedge.train.search import Choice

SHOWN = 12  # candidates of a plan
CALIBRATION = 1024  # rows that the scales of an export are found on
FEWEST_STEPS = 100  # of a training for a time, under which it has hardly begun
data_dir_option = click.option(
    "--data-dir", metavar="DIR", help="Folder of mnist and cifar10 [default: $ZGEDGE_DATA]."
)
label_option = click.option("--label", help="Label column of a table [default: the last].")
side_option = click.option(
    "--side", type=int, metavar="N",
    help="Longer side that pictures are scaled to [default: theirs, at most 64].",
)  # fmt: skip
hop_option = click.option("--hop", type=int, metavar="M", help="Rows between two windows.")
held_out_option = click.option(
    "--held-out", is_flag=True, help="Only rows that train kept back for testing."
)
network_option = click.option(
    "--network", metavar="SPEC", help="Take this network (docs/planner.md), not the planner's."
)
latency_option = click.option(
    "--latency", metavar="TIME", help="Most time of a prediction on this host, such as 5ms."
)


@click.group(cls=Commands, epilog=ENDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(zgedge.__version__, prog_name="zgedge")
def main() -> None:
    """Neural networks that fit a byte budget, keep learning on the device, and cannot grow."""


# ---- train ----


@main.command(epilog=ENDS)
@click.argument("data", default="digits", metavar="[DATA]")
@click.option("--budget", required=True, metavar="SIZE", help="Size of the file, such as 256KB.")
@click.option(
    "--out", default="model.zge", show_default=True, metavar="FILE", help="File to write."
)
@click.option(
    "--rewire", default="rigl", show_default=True, type=click.Choice(files.TRAINING_STRATEGIES),
    help="How connections are replaced (docs/strategies.md).",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option(
    "--epochs", type=click.IntRange(1), help="Passes over the data [default: by its size]."
)
@click.option("--steps", type=click.IntRange(1), help="Optimizer steps, instead of epochs.")
@click.option(
    "--train-time", metavar="TIME",
    help="Time that training may take, such as 10m: as many steps as fit.",
)  # fmt: skip
@click.option(
    "--teacher", is_flag=True, help="Train a larger float network first, and learn from it too."
)
@click.option(
    "--checkpoint", type=click.Path(dir_okay=False), metavar="STATE",
    help="Go on from this file where there is one; kept up to date while training.",
)  # fmt: skip
@network_option
@latency_option
@click.option("--no-learning", is_flag=True, help="Leave out what only learning on a device needs.")
@click.option(
    "--head", default="softmax", show_default=True, type=click.Choice(net.HEADS),
    help="analytic: running sums over seeded features, for classes that come one after another.",
)  # fmt: skip
@click.option(
    "--spare-classes", default=0, metavar="N", type=click.IntRange(0, net.MAX_CLASSES),
    help="Classes that get their name on the device.",
)  # fmt: skip
@click.option(
    "--pending", default=0, metavar="N", type=click.IntRange(0, net.MAX_PENDING),
    help="Samples that can wait for their label.",
)  # fmt: skip
@click.option(
    "--remember", default="fade", show_default=True, type=click.Choice(files.KEEP),
    help="Which samples of its stream it remembers: the newer, or a fair share of all.",
)  # fmt: skip
@click.option(
    "--unknown", is_flag=True, help="Store a threshold under which the answer is unknown."
)
@click.option("--window", type=int, metavar="N", help="Rows of a window, for a stream of rows.")
@hop_option
@label_option
@side_option
@click.option("--log", type=click.Path(dir_okay=False), help="Write a training log (JSON lines).")
@data_dir_option
@json_option
def train(
    data: str,
    budget: str,
    out: str,
    rewire: str,
    seed: int,
    epochs: int | None,
    steps: int | None,
    train_time: str | None,
    teacher: bool,
    checkpoint: str | None,
    network: str | None,
    latency: str | None,
    no_learning: bool,
    head: str,
    spare_classes: int,
    pending: int,
    remember: str,
    unknown: bool,
    window: int | None,
    log: str | None,
    hop: int | None,
    label: str | None,
    side: int | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Plan and train a network for DATA inside a byte budget, and write it to one file.

    DATA is digits (the default), mnist, cifar10, or yours: a .csv or .npz file, x.npy,y.npy, or a
    folder with a folder of pictures for each class.
    """
    from zgedge import data as sources
    from zgedge.train import train as run
    from zgedge.train.duration import format_duration, parse_duration

    size = parse_size(budget)
    seconds = None if train_time is None else parse_duration(train_time)
    if sum(length is not None for length in (epochs, steps, seconds)) > 1:
        raise UsageError("--epochs, --steps and --train-time: give one of them.")
    if no_learning and (head != "softmax" or spare_classes or pending):
        raise UsageError(
            "--head analytic, --spare-classes and --pending are for learning on a device.",
            "Leave out --no-learning.",
        )
    _check_words(network, latency)
    _check_writable(out)
    if checkpoint is not None:
        _check_writable(checkpoint)
    with _reading(quiet=as_json) as reading:
        dataset = sources.load(
            data, data_dir=data_dir, label=label, window=window, hop=hop, side=side,
            say=_note, progress=reading,
        )  # fmt: skip
    to = screen()
    if not as_json:
        _say_data(to, dataset)
    if len(dataset.classes) + spare_classes > net.MAX_CLASSES:
        raise UsageError(
            f"{len(dataset.classes):,} classes and {spare_classes:,} spare ones are more than the "
            f"{net.MAX_CLASSES:,} that a model can have."
        )
    if head == "analytic":
        if network or latency or teacher or unknown or checkpoint or epochs or steps or seconds:
            raise UsageError(
                "An analytic head is not trained in steps: its features come from the seed.",
                "Leave out --network, --latency, --teacher, --unknown, --checkpoint and lengths.",
            )
        _train_analytic(dataset, size, out, spare_classes, pending, seed, as_json)
        return
    if checkpoint is not None and os.path.lexists(checkpoint):
        need("torch", "train")
        from zgedge.train.fit import check_checkpoint, run_length

        check_checkpoint(
            checkpoint, dataset, strategy=rewire, seed=seed,
            length=run_length(epochs, steps, seconds), teacher=teacher,
        )  # fmt: skip
    from zgedge.train.room import with_room
    from zgedge.train.search import shrunk, text_again
    from zgedge.train.spare import roomy, within

    names = dataset.classes

    def choose(text: str | None, fast: _Latency) -> Choice:
        return with_room(
            lambda share, left, fits: _choose(
                dataset, share, not no_learning, text, fast, left, seed, rewire, fits=fits,
                trials=fits is not None,
                memory=None if checkpoint is None else checkpoint + ".search", quiet=as_json,
            ), lambda found, share: shrunk(found, dataset, share),
            size, names, spare_classes, pending, _for_search(seconds),
        )  # fmt: skip

    try:
        chosen = choose(network, _latency(latency, quiet=as_json))
    except KeyboardInterrupt:
        if checkpoint is not None:
            _note("The same command goes on where the search stopped.")
        raise
    text = text_again(chosen.plan) if network is None else network
    planned = chosen.plan
    if network is None and (spare_classes or pending):
        # The room that is left for them can differ by a sample where the network is named.
        with suppress(BudgetError):
            planned = replace(planned, network=choose(text, _Latency()).plan.network)
    asked = seconds
    if seconds is not None:
        seconds = max(1.0, seconds - chosen.seconds)
    if not as_json:
        _say_plan(to, planned)
        if teacher:
            click.echo(_teacher_line(planned.network), err=True)
    with _epochs(quiet=as_json) as progress:
        result = run(
            dataset, planned.network, strategy=rewire, seed=seed, epochs=epochs, steps=steps,
            train_time=seconds, teacher=teacher, checkpoint=checkpoint,
            progress=progress, log=log, unknown=unknown, fit_replay=planned.fit_replay,
            spare=spare_classes, pending=pending,
        )  # fmt: skip
    if result.interrupted and not result.best_epoch:
        raise KeyboardInterrupt
    made = within(roomy(result.network, names, spare_classes, pending), size)
    parameters = replace(result.parameters, budget=size)
    if parameters.learner is not None:
        parameters.learner = replace(parameters.learner, keep=remember)
    blob = files.write(made, parameters)
    files.replace_file(out, blob)
    words = _given(
        {"--budget": budget, "--network": text, "--steps": result.planned_steps, "--seed": seed,
         "--rewire": rewire, "--spare-classes": spare_classes, "--pending": pending,
         "--remember": remember, "--window": window, "--hop": hop, "--label": label,
         "--side": side},
        {"--rewire": "rigl", "--spare-classes": 0, "--pending": 0, "--remember": "fade"},
    )  # fmt: skip
    flags = {"--teacher": teacher, "--no-learning": no_learning, "--unknown": unknown}
    again = shlex.join([*words, *(flag for flag, is_on in flags.items() if is_on)])
    if as_json:
        print_json({
            "path": out, "bytes": len(blob), "budget": size, "accuracy": result.accuracy,
            "seconds": round(result.seconds, 3), "layers": bytemap.layer_rows(result.network),
            "trunk": bytemap.trunk_rows(result.network),
            "inference_bytes": result.network.inference_bytes, "saturated": planned.saturated,
            "rewired": result.rewired, "epochs": len(result.history), "steps": result.steps,
            "planned_steps": result.planned_steps, "threads": result.threads,
            "validation_accuracy": result.validation_accuracy if result.held_out else None,
            "held_out": result.held_out, "seed": seed,
            "no_guard": result.no_guard,
            "interrupted": result.interrupted, "network": spec_of(planned.network),
            "reproduce": None if result.interrupted else again,
        })  # fmt: skip
        return
    if result.interrupted:
        to.line(
            f"Interrupted: epoch {result.best_epoch} of {len(result.history)} is kept.", "yellow"
        )
        if checkpoint is not None:
            to.line("The same command goes on where it stopped.", "yellow")
    if not result.held_out:
        to.line(
            "The rows are too few to hold some out: the epoch was chosen on those that it was "
            "trained on.", "yellow",
        )  # fmt: skip
    spans = [("Wrote ", ""), (out, "bold"), (f": {len(blob):,} of {size:,} bytes", "")]
    if result.accuracy is not None:
        spans.append((f", test accuracy {result.accuracy:.2%}", "bold green"))
    to.spans([*spans, (f", {result.seconds:.1f} s.", "")])
    _say_no_guard(to, result.no_guard)
    if asked is not None and not result.interrupted:
        to.line(
            f"In {format_duration(asked)}, the choice of the network included, on {result.threads} "
            f"{'thread' if result.threads == 1 else 'threads'} there was time for "
            f"{result.planned_steps:,} {'step' if result.planned_steps == 1 else 'steps'}. "
            f"The same bytes again: {again}"
        )
        if result.planned_steps < FEWEST_STEPS:
            to.line(
                f"So few steps teach little: give more than {format_duration(asked)}"
                + (", or --network, which spares the search." if network is None else "."),
                "yellow",
            )
    to.line()
    to.line("What next:", "bold")
    given = [data, *(["--label", label] if label else []), *(["--hop", str(hop)] if hop else [])]
    source = shlex.join([*given, *(["--data-dir", data_dir] if data_dir else [])])
    path = shlex.quote(out)
    hints = [("what every byte is for", f"zgedge info {path}")]
    hints.append(("answers, one a line", f"zgedge predict {path} {source}"))
    if not no_learning:
        hints.append(("go on learning, in the same bytes", f"zgedge adapt {path} NEW_DATA"))
    if any(layer.kind == SPARSE for layer in result.network.layers) and not no_learning:
        # A proof needs connections that move.
        hints.append(("see that its memory never grows", f"zgedge prove {path} --steps 100000"))
    told = f" --log {shlex.quote(log)}" if log else ""
    what = "all of it as one page" if log else "a page of it; train with --log for more"
    # Named sets have a test part, which is what is read of them in any case.
    named_set = data in {entry.name for entry in sources.catalog(data_dir) if entry.named}
    held = "" if named_set else " --held-out"
    hints.append((what, f"zgedge report {path} --data {source}{held}{told}"))
    width = max(len(command) for _, command in hints)
    beside = 2 + width + 2 + max(len(what) for what, _ in hints) <= to.width
    for what, command in hints:
        to.line(f"  {command:<{width}}  {what}" if beside else f"  {command}")


def _say_no_guard(to: Screen, why: str | None) -> None:
    if why is not None:
        to.line(f"No guard over what it learns on a device: {why}.")


def _teacher_line(network: net.Network) -> str:
    from zgedge.train.teacher import teacher_of

    made = teacher_of(network)
    weights = sum(x.weights for x in made.trunk) + sum(x.inputs * x.outputs for x in made.layers)
    line = f"Teacher: a float network of {weights:,} weights, which trains first."
    if not made.trunk and len(made.layers) == 1:
        line += " It has no hidden units, as the network itself has none: little is to be learned."
    return line


def _for_search(seconds: float | None) -> float | None:
    """The part of a training time that the search for a network takes."""
    from zgedge.train.search import SEARCH_SHARE

    return None if seconds is None else SEARCH_SHARE * seconds


def _train_analytic(
    dataset: Any, size: int, out: str, spare: int, pending: int, seed: int, as_json: bool
) -> None:
    from zgedge.train.seeded import seeded

    began = time.monotonic()
    network, parameters, blob = seeded(dataset, size, spare=spare, pending=pending, seed=seed)
    files.replace_file(out, blob)
    seconds = time.monotonic() - began
    if as_json:
        print_json({
            "path": out, "bytes": len(blob), "budget": size, "accuracy": parameters.accuracy,
            "seconds": round(seconds, 3), "layers": bytemap.layer_rows(network),
            "trunk": bytemap.trunk_rows(network), "head": "analytic", "seed": seed,
            "features": network.layers[-1].inputs,
        })  # fmt: skip
        return
    to = screen()
    spans = [("Wrote ", ""), (out, "bold"), (f": {len(blob):,} of {size:,} bytes", "")]
    spans.append((f", {network.layers[-1].inputs} seeded features", ""))
    if parameters.accuracy is not None:
        spans.append((f", test accuracy {parameters.accuracy:.2%}", "bold green"))
    to.spans([*spans, (f", {seconds:.1f} s.", "")])
    if dataset.column_names is not None:
        kept = parameters.feature_names is not None
        told = "in any order" if kept else "in their order only: their names take too many bytes"
        to.line(f"Columns may come {told}.")


class _Latency(NamedTuple):
    """How long a network takes for a prediction here, and the most that it may; None: whatever."""

    seconds: Callable[[net.Network], float] | None = None
    most: float | None = None


def _latency(latency: str | None, quiet: bool) -> _Latency:
    """This host is measured once: a search asks for many networks."""
    if latency is None:
        return _Latency()
    from zgedge.bench.latency import of_host, parse_latency

    most = parse_latency(latency)
    with _steps("measuring this host", quiet=quiet) as measuring:
        return _Latency(of_host(measuring).seconds, most)


def _choose(
    dataset: Any,
    size: int,
    learning: bool,
    network: str | None,
    fast: _Latency,
    seconds: float | None,
    seed: int,
    rewire: str,
    *,
    memory: str | None = None,
    trials: bool = True,
    fits: Callable[[net.Network], bool] | None = None,
    quiet: bool,
) -> Choice:
    """The network to train, by the search in `zgedge.train.search`, which takes `seconds`."""
    from zgedge.train.search import choose

    with _steps("comparing networks", quiet=quiet or not trials) as comparing:
        return choose(
            dataset, size, learning=learning, network=network, latency=fast.seconds,
            most_latency=fast.most, seconds=seconds, trials=trials, fits=fits, seed=seed,
            strategy=rewire, memory=memory,
            progress=lambda done, total, what: comparing(done, total),
        )  # fmt: skip


def _check_words(network: str | None, latency: str | None) -> None:
    """Raise before the data are read what they have no say in."""
    if network is not None:
        check_words(network)
    if latency is not None:
        from zgedge.bench.latency import parse_latency

        parse_latency(latency)


def _check_writable(out: str) -> None:
    """Raise before an hour of training what would be raised after it."""
    folder = os.path.dirname(out) or "."
    if not os.path.isdir(folder):
        raise ZgedgeError(f"Cannot write {out}: there is no folder {folder}.", "Make it first.")
    if os.path.isdir(out):
        raise ZgedgeError(f"Cannot write {out}: it is a folder.", "Name a file in it.")
    import tempfile

    try:
        # What the permissions say is not all: a file system may be read-only, or not keep files.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise ZgedgeError(
            f"Cannot write {out}: {e.strerror}.", "Choose a folder that you may write to."
        ) from e


def _say_data(to: Screen, dataset: Any) -> None:
    height, width, channels = dataset.shape
    form = {
        "picture": f"pictures of {height} x {width}" + (f" x {channels}" if channels > 1 else ""),
        "table": f"rows of {width:,} values",
        "series": f"windows of {height:,} rows of {width:,} values",
    }[dataset.kind]
    to.spans([
        (dataset.name, "bold"),
        (f": {len(dataset.x_train):,} {form} to train on, {len(dataset.x_test):,} to test, "
         f"{len(dataset.classes):,} classes", ""),
    ])  # fmt: skip


def _say_plan(to: Screen, planned: Plan) -> None:
    to.spans([
        ("Plan", "bold"),
        (f" for {format_size(planned.budget)}: a file of {planned.bytes:,} bytes; "
         f"{planned.network.inference_bytes:,} would do to predict", ""),
    ])  # fmt: skip
    table(to, ("", ""), planned.reasons)
    to.line()


@contextmanager
def _epochs(quiet: bool) -> Iterator[Callable[[Epoch], None] | None]:
    """A callback that shows epochs: a bar where rich and a terminal are, else a few lines."""
    if quiet:
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        Console = None  # type: ignore[assignment,misc]  # noqa: N806
    console = None if Console is None else Console(stderr=True)
    if console is None or not console.is_terminal:
        yield _lines()
        click.echo(err=True)
        return
    columns = (
        TextColumn("training"), BarColumn(), TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, text="first epoch")

        def show(epoch: Epoch) -> None:
            text = (
                f"{epoch.epoch}/{epoch.epochs}  {_measured(epoch)} [bold]{epoch.accuracy:.2%}[/]  "
                f"loss {epoch.loss:.3f}  rewired {epoch.rewired_so_far:,}"
            )
            bar.update(task, total=epoch.epochs, completed=epoch.epoch, text=text)

        yield show


def _measured(epoch: Epoch) -> str:
    """What an epoch's accuracy is of."""
    return "accuracy" if epoch.held_out else "accuracy on training rows"


def _lines() -> Callable[[Epoch], None]:
    """A callback that prints some ten of all epochs, a line each."""

    def show(epoch: Epoch) -> None:
        if epoch.epoch in (1, epoch.epochs) or epoch.epoch % max(1, epoch.epochs // 10) == 0:
            click.echo(
                f"  epoch {epoch.epoch:>4} of {epoch.epochs}: {_measured(epoch)} "
                f"{epoch.accuracy:7.2%}, loss {epoch.loss:.3f}, "
                f"rewired so far {epoch.rewired_so_far:,}",
                err=True,
            )

    return show


# ---- plan ----


@main.command("plan", epilog=ENDS)
@click.argument("data", default="digits", metavar="[DATA]")
@click.option("--budget", required=True, metavar="SIZE", help="Size of the file, such as 256KB.")
@network_option
@latency_option
@click.option("--board", metavar="BOARD", help="Estimate latencies on a board, such as rpi4.")
@click.option(
    "--train-time", metavar="TIME",
    help="Time that training would have: a quarter of it goes into short trainings.",
)  # fmt: skip
@click.option("--no-trials", is_flag=True, help="Train nothing: by the bytes and the prior alone.")
@click.option("--no-learning", is_flag=True, help="Leave out what only learning on a device needs.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--window", type=int, metavar="N", help="Rows of a window, for a stream of rows.")
@hop_option
@label_option
@side_option
@data_dir_option
@json_option
def plan_command(
    data: str,
    budget: str,
    network: str | None,
    latency: str | None,
    board: str | None,
    train_time: str | None,
    no_trials: bool,
    no_learning: bool,
    seed: int,
    window: int | None,
    hop: int | None,
    label: str | None,
    side: int | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Show which networks fit the budget, and which one would be trained, and why."""
    from zgedge import data as sources
    from zgedge.bench import latency as cost
    from zgedge.devices.profiles import ALIASES
    from zgedge.train.duration import parse_duration

    size = parse_size(budget)
    seconds = None if train_time is None else parse_duration(train_time)
    if board is not None and ALIASES.get(board, board) not in cost.BOARDS:
        raise UsageError(f"{board!r} is no board.", f"Choose from {', '.join(cost.BOARDS)}.")
    _check_words(network, latency)
    with _reading(quiet=as_json) as reading:
        dataset = sources.load(
            data, data_dir=data_dir, label=label, window=window, hop=hop, side=side,
            say=_note, progress=reading,
        )  # fmt: skip
    chosen = _choose(
        dataset, size, not no_learning, network, _latency(latency, quiet=as_json),
        _for_search(seconds), seed, "rigl", trials=not no_trials, quiet=as_json,
    )  # fmt: skip
    with _steps("measuring this host", quiet=as_json) as measuring:
        host = cost.of_host(measuring)
    factor = cost.factor_of(board) if board is not None else None
    rows = []
    for one in chosen.considered:
        took = host.seconds(one.network)
        rows.append({
            "network": one.spec, "kind": one.name, "bytes": one.network.file_bytes,
            "operations": one.network.operations, "latency": took,
            "board_latency": None if factor is None else took * factor,
            "accuracy": one.accuracy, "steps": one.trials[-1].steps if one.trials else 0,
            "verdict": one.verdict,
        })  # fmt: skip
    if as_json:
        print_json({
            "budget": size, "network": chosen.spec, "bytes": chosen.plan.bytes,
            "saturated": chosen.plan.saturated, "reasons": [list(r) for r in chosen.plan.reasons],
            "candidates": rows, "board": board, "seconds": round(chosen.seconds, 3),
            "seed": seed,
        })  # fmt: skip
        return
    to = screen()
    _say_data(to, dataset)
    _say_plan(to, chosen.plan)
    _say_candidates(to, rows, board)


def _say_candidates(to: Screen, rows: list[dict[str, Any]], board: str | None) -> None:
    from zgedge.train.duration import format_latency

    head = ["bytes", "mult-adds", "latency", *([f"{board}, estimated"] if board else []),
            "accuracy", "network"]  # fmt: skip
    shown = rows[:SHOWN]
    table(
        to, head,
        [
            [f"{r['bytes']:,}", f"{r['operations']:,}", format_latency(r["latency"]),
             *([format_latency(r["board_latency"])] if board else []),
             "-" if r["accuracy"] is None else f"{r['accuracy']:.1%}", r["network"]]
            for r in shown
        ],
        right=range(len(head) - 1),
    )  # fmt: skip
    if len(rows) > len(shown):
        to.line(f"  and {len(rows) - len(shown):,} more (--json has all)")
    to.line()
    to.line("The first is the one that would be trained. Latency: predicted, of one prediction on")
    to.line("this host. Accuracy: of held-out rows after a short training, where there was one.")


# ---- info ----


@main.command(epilog=ENDS)
@file_argument
@click.option("--out", type=click.Path(dir_okay=False), help="Write a copy (with --strip-samples).")
@click.option(
    "--strip-samples",
    is_flag=True,
    help="Take all samples out of the copy: remembered, anchors, waiting.",
)
@json_option
def info(file: str, out: str | None, strip_samples: bool, as_json: bool) -> None:
    """Show what a model file is and what every byte of it is for."""
    if strip_samples != (out is not None):
        raise UsageError("--strip-samples and --out FILE go together: the copy is written to FILE.")
    if out is not None:
        _check_writable(out)
    model = Model.open(file)
    found = _about(model, file)
    if out is not None:
        if model.arena.network.learning:
            Learner(model).strip()
        model.save(out)
        found["copy"] = {"path": out, "remembered": 0, "anchors": 0, "waiting": 0}
    if as_json:
        print_json(found)
        return
    to = screen()
    _say_about(to, model, found)
    if out is not None:
        to.line()
        to.line(f"Wrote {out}, without samples.")


def _about(model: Model, file: str) -> dict[str, Any]:
    a, network = model.arena, model.arena.network
    learner = a.learner()
    return {
        "path": file,
        "bytes": len(a.buffer),
        "budget": a.budget,
        "inference_bytes": network.inference_bytes,
        "format": a.version,
        "generation": a.generation,
        "task": network.task,
        "shape": list(network.shape),
        "classes": model.classes.tolist(),
        "spare": network.classes - len(model.classes),
        "accuracy": a.accuracy,
        "trained": {"seed": a.seed, "steps": a.steps, "samples": a.samples},
        "unknown_below": a.unknown / 32768 if a.unknown else None,
        "connections": network.connections,
        "layers": bytemap.layer_rows(network),
        "trunk": bytemap.trunk_rows(network),
        "sections": {p.name: p.bytes for p in bytemap.parts(network)},
        "learning": network.learning,
        "remembered": learner["remembered"] if learner else 0,
        "waiting": a.pending()["pending"],
        "guard": a.watch(),
        "replay_samples": network.replay_samples,
        "replay_bits": network.replay_bits,
        "replay_pool": network.replay_pool,
        "learner": learner,
    }


def _guard_line(guard: dict[str, Any] | None) -> str:
    """What info says of anchors and drift (docs/guard.md)."""
    if guard is None:
        return "none: nothing watches what is learned"
    drift = guard["drift"]
    seen = f"epoch {guard['epoch']}; drift {drift['level']}, {drift['confirmed']:,} confirmed"
    if guard["guard"] == "off":
        return f"off: {guard['anchors']:,} anchors are too few; {seen}"
    return (
        f"on: {guard['anchors_right']:,} of {guard['anchors']:,} anchors right, sees a drop of "
        f"{guard['smallest_drop']:.1f} points; {seen}"
    )


def _say_about(to: Screen, model: Model, found: dict[str, Any]) -> None:
    network = model.arena.network
    names = [str(c) for c in found["classes"]]
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    to.spans([(found["path"], "bold"), (f": {found['bytes']:,} bytes", "")])
    room = f"; room for {found['spare']:,} more" if found["spare"] else ""
    rows = [("classes", f"{len(names):,}: {shown}{room}")]
    if found["accuracy"] is not None:
        rows.append(("test accuracy", f"{found['accuracy']:.2%} when it was trained"))
    trained = found["trained"]
    rows.append(
        ("trained", f"{trained['samples']:,} samples, {trained['steps']:,} steps, "
                    f"seed {trained['seed']}")
    )  # fmt: skip
    rows.append(("to predict", f"{found['inference_bytes']:,} bytes would do"))
    if found["unknown_below"]:
        rows.append(("unknown", f"below a score of {found['unknown_below']:.3f}"))
    if network.learning:
        learner = found["learner"]
        rows.append(
            ("remembers", f"{found['remembered']:,} samples of {network.replay_samples:,} that "
                          f"fit, {network.replay_coding}")
        )  # fmt: skip
        rows.append(
            ("has learned", f"{learner['samples']:,} samples in {learner['steps']:,} steps; "
                            f"{learner['rewired']:,} connections rewired ({learner['strategy']})")
        )  # fmt: skip
        rows.append(("guard", _guard_line(found["guard"])))
        if network.pending:
            waiting = f"{found['waiting']:,} samples of {network.pending:,} that fit"
            rows.append(("waiting", f"{waiting}, for their labels"))
    else:
        rows.append(("learning", "none: written with --no-learning"))
    table(to, ("", ""), rows)
    to.line()
    to.line("Byte map", "bold")
    bytemap.draw(to, network, found["budget"])
    to.line()
    bytemap.draw_layers(to, network)


# ---- predict, eval ----


@main.command(epilog=ENDS)
@click.argument("file", metavar="[FILE]")
@click.argument("data", metavar="DATA", required=False)
@hop_option
@label_option
@data_dir_option
@far_options
@json_option
def predict(
    file: str,
    data: str | None,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    host: str | None,
    port: int | None,
    ssh_config: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Classify every row of DATA: a label and its score a line, and of pictures the file. With
    --host and without FILE the service on that board is asked, with what it has learned."""
    if host is not None:
        if data is not None:
            raise UsageError("With --host the board has the model: give DATA alone.")
        _predict_there((host, port, ssh_config, name), file, hop, label, data_dir, as_json)
        return
    if data is None:
        raise UsageError("Missing argument 'DATA'.", "Or name a board with --host.")
    if (port, ssh_config, name) != (None, None, None):
        raise UsageError("--port, --ssh-config and --name are of a board: name it with --host.")
    if os.path.isdir(file):
        raise UsageError(f"The model file {file} is a folder.")
    model = Model.open(file)
    files: list[str] = []
    x, _ = _inputs(model, data, hop, label, data_dir, files=files)
    numbers, scores = model.predict_index(x)
    labels = model._label_array[numbers].tolist()
    shares = [int(s) / 32768 for s in scores]
    _say_predictions(labels, shares, int((numbers < 0).sum()), files, as_json)


def _predict_there(
    far: tuple[str, int | None, str | None, str | None],
    data: str,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    from zgedge.devices import desk

    with service(*far) as (_, agent):
        model = desk.served_model(agent)
        files: list[str] = []
        x, _ = _inputs(model, data, hop, label, data_dir, files=files)
        replies = desk.predict(agent, model, x)
        labels = [reply["label"] for reply in replies]
        unknown = sum(text == model._labels[-1] for text in labels)
        _say_predictions(labels, [reply["score"] for reply in replies], unknown, files, as_json)


def _say_predictions(
    labels: Sequence[Any],
    scores: Sequence[float],
    unknown: int,
    files: Sequence[str],
    as_json: bool,
) -> None:
    if as_json:
        shares = [round(score, 5) for score in scores]
        found = {"samples": len(labels), "labels": labels, "scores": shares}
        print_json({**found, "unknown": unknown, "files": list(files) or None})
        return
    ends = [f"\t{clean(path)}" for path in files] or [""] * len(labels)
    for text, score, end in zip(labels, scores, ends, strict=True):
        click.echo(f"{clean(str(text))}\t{score:.3f}{end}")


@main.command("eval", epilog=ENDS)
@file_argument
@click.argument("data")
@held_out_option
@hop_option
@label_option
@data_dir_option
@json_option
def evaluate(
    file: str,
    data: str,
    held_out: bool,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Measure the accuracy on labelled DATA. A named data set gives its test part."""
    model = Model.open(file)
    x, y = _labelled(model, data, hop, label, data_dir, held_out=held_out)
    found, _ = model.predict_index(x)
    accuracy = float((found == y).mean())
    right = Counter(y[found == y].tolist())
    each = {
        str(name): {"samples": int((y == i).sum()), "right": right[i]}
        for i, name in enumerate(model.classes.tolist())
    }
    unknown = int((found < 0).sum())
    if as_json:
        print_json({"accuracy": accuracy, "samples": len(y), "unknown": unknown, "classes": each})
        return
    to = screen()
    to.spans([
        ("accuracy ", ""), (f"{accuracy:.2%}", "bold green"),
        (f" ({interval.words(sum(right.values()), len(y))}) on {len(y):,} samples", ""),
    ])  # fmt: skip
    if unknown:
        to.line(f"{unknown:,} were called unknown")
    rows = [
        (name, f"{c['samples']:,}", f"{c['right'] / c['samples']:.1%}" if c["samples"] else "-")
        for name, c in each.items()
    ]
    table(to, ("class", "samples", "right"), rows, right=(1, 2))


def _inputs(
    model: Model,
    data: str,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    part: str = "test",
    files: list[str] | None = None,
) -> tuple[npt.NDArray[Any], list[str] | None]:
    """Rows for a model, windows where it was trained on windows."""
    from zgedge import data as sources

    network = model.arena.network
    window = network.shape[0] if network.task == "series" else None
    if hop is not None and window is None:
        raise UsageError(
            f"{model.name} was not trained on windows, so --hop means nothing.", "Leave it out."
        )
    shape = network.shape if network.task == "picture" else None
    with _reading() as progress:
        return sources.load_inputs(
            data, features=model.inputs, shape=shape, data_dir=data_dir, label=label,
            window=window, hop=hop, part=part, say=_note, progress=progress, files=files,
            names=model.arena.feature_names,
        )  # fmt: skip


def _held_out(
    model: Model,
    data: str,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    files: list[str] | None = None,
) -> tuple[npt.NDArray[Any], list[str] | None]:
    """The rows that `train` keeps back for testing."""
    from zgedge import data as sources
    from zgedge.data.dataset import find_names

    network = model.arena.network
    picture, series = (network.task == kind for kind in ("picture", "series"))
    with _reading() as progress:
        dataset = sources.load(
            data, data_dir=data_dir, label=label, hop=hop,
            window=network.shape[0] if series else None,
            side=max(network.shape[:2]) if picture and os.path.isdir(data) else None,
            say=_note, progress=progress,
        )  # fmt: skip
    if dataset.features != model.inputs:
        raise DataError(
            f"{data} has {dataset.features:,} inputs, {model.name} takes {model.inputs:,}.",
            "Give the data that it was trained on.",
        )
    if files is not None:
        files += dataset.files_test or ()
    x, names = dataset.x_test, model.arena.feature_names
    if names is not None and dataset.feature_names is not None:
        x = x[:, find_names(data, names, dataset.feature_names)]
    return x, [dataset.classes[i] for i in dataset.y_test]


def _labelled(
    model: Model,
    data: str,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    part: str = "test",
    held_out: bool = False,
    files: list[str] | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Rows and class numbers; `files` gets the path of each row that is a file of its own.

    Raises DataError for no labels, or labels the model has not.
    """
    paths: list[str] = [] if files is None else files
    if held_out:
        x, y = _held_out(model, data, hop, label, data_dir, paths)
    else:
        x, y = _inputs(model, data, hop, label, data_dir, part, paths)
    if y is None:
        raise DataError(
            f"{data} has no labels.",
            "Give a folder with a folder of pictures for each class."
            if paths
            else f"Give one column more than the model's {model.inputs:,}.",
        )
    names = model.arena.class_names
    number = {name: i for i, name in enumerate(names)}
    unseen = sorted(set(y) - set(number))
    if unseen:
        raise DataError(
            f"{data} has labels that the model has not: {', '.join(unseen[:10])}.",
            f"Its classes are {', '.join(names[:20])}; a network that cannot grow knows all its "
            "classes from the start.",
        )
    return x, np.array([number[text] for text in y], np.int64)


# ---- report ----


@main.command(epilog=ENDS)
@file_argument
@click.option("--data", metavar="DATA", help="Measure on these labelled rows; show mistakes.")
@held_out_option
@click.option("--log", metavar="TRAIN_LOG", help="Show the training that wrote this log.")
@click.option("--before", metavar="OLDER", help="Compare the wires with those of an older file.")
@click.option(
    "--out", default="report.html", show_default=True, metavar="PAGE", help="Page to write."
)
@hop_option
@label_option
@data_dir_option
@json_option
def report(
    file: str,
    data: str | None,
    held_out: bool,
    log: str | None,
    before: str | None,
    out: str,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Write one HTML page about a model file: its bytes, layers, weights and wires, and with DATA
    and TRAIN_LOG its accuracy, confusions, worst mistakes and training. It needs no network."""
    from zgedge.report import page, page_facts

    if held_out and data is None:
        raise UsageError("--held-out means nothing without --data.", "Give --data DATA.")
    _check_writable(out)
    read = [path for path in (file, log, before) if path is not None and os.path.exists(path)]
    if os.path.exists(out) and any(os.path.samefile(path, out) for path in read):
        raise UsageError(f"--out {out} would overwrite what is read.", "Name another file.")
    model = Model.open(file)
    history = None if log is None else page_facts.history(log, model.arena.network)
    older = None if before is None else Model.open(before)
    measured = None
    if data is not None:
        paths: list[str] = []
        x, y = _labelled(model, data, hop, label, data_dir, held_out=held_out, files=paths)
        with _steps("measuring", quiet=as_json) as progress:
            source = f"{data}, rows held out" if held_out else data
            measured = page_facts.measure(model, source, x, y, progress, paths)
    text = page.build(page.Subject(model, measured, history, older)).encode()
    files.replace_file(out, text)
    given = {"data": data, "log": log, "before": before}
    if as_json:
        print_json({
            "path": out, "bytes": len(text),
            "accuracy": measured.accuracy if measured else None,
            "samples": len(measured.labels) if measured else 0,
            "wrong": len(measured.mistaken) if measured else 0,
            "unknown": measured.unknown if measured else 0,
            "missing": [name for name, value in given.items() if value is None],
        })  # fmt: skip
        return
    to = screen()
    to.spans([("Wrote ", ""), (out, "bold"), (f": {len(text):,} bytes. Open it in a browser.", "")])
    for option, what in (
        ("data", "--data DATA would show its accuracy, confusions and worst mistakes."),
        ("log", "--log TRAIN_LOG would show its training, and where the wires were before."),
    ):
        if given[option] is None:
            to.line(f"  {what}")


# ---- diff ----


@main.command("diff", epilog=ENDS)
@click.argument("before", metavar="OLDER")
@click.argument("after", metavar="NEWER")
@click.option("--data", metavar="DATA", help="Compare their answers on these labelled rows.")
@click.option("--picture", metavar="FILE", help="Draw it too (.png, .svg, .pdf).")
@hop_option
@label_option
@data_dir_option
@json_option
def diff_command(
    before: str,
    after: str,
    data: str | None,
    picture: str | None,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Show what learning changed from one model file to another: connections dropped and grown,
    weights, and with DATA the answers."""
    from zgedge.report import diff

    if picture is not None:
        _check_writable(picture)
    older, newer = Model.open(before), Model.open(after)
    diff.check_same(older, newer)
    answers = None
    if data is not None:
        x, y = _labelled(newer, data, hop, label, data_dir)
        with _steps("measuring", quiet=as_json) as progress:
            answers = diff.compare_answers(older, newer, x, y, progress)
    layers = diff.compare_layers(older.arena, newer.arena)
    if picture is not None:
        diff.draw(older, newer, answers, picture)
    found = {
        "before": before, "after": after, "picture": picture,
        "trunk_changed": not diff.same_trunk(older.arena, newer.arena),
        "learned": diff.learned(older.arena, newer.arena),
        "layers": [asdict(layer) for layer in layers],
        "answers": None if answers is None else asdict(answers),
    }  # fmt: skip
    if as_json:
        print_json(found)
    else:
        _say_diff(screen(), found, layers, answers)


def _say_diff(
    to: Screen, found: dict[str, Any], layers: Sequence[LayerDiff], answers: Answers | None
) -> None:
    learned = found["learned"]
    to.line(
        f"Between them: {learned['samples']:,} samples in {learned['steps']:,} steps, "
        f"{learned['rewired']:,} weights got new connections."
    )
    if found["trunk_changed"]:
        to.line("The trunks differ: the newer file was not made from the older one.", "yellow")
    rows = [
        (f"{one.layer} {one.kind}", f"{one.kept:,}", f"{one.dropped:,}", f"{one.grown:,}",
         f"{one.moved:,}", f"{one.mean_step:.2f}", f"{one.biases:,}")
        for one in layers
    ]  # fmt: skip
    heads = ("layer", "kept", "dropped", "grown", "other weight", "mean step", "biases")
    table(to, heads, rows, right=tuple(range(1, len(heads))))
    if answers is not None:
        to.spans([
            (f"accuracy {answers.before:.2%} -> ", ""), (f"{answers.after:.2%}", "bold green"),
            (f" on {answers.samples:,} samples; {answers.agreement:.2%} answered alike", ""),
        ])  # fmt: skip
        each = [
            (clean(name), f"{n:,}", f"{old / n:.1%}" if n else "-", f"{new / n:.1%}" if n else "-")
            for name, n, old, new in answers.classes
        ]
        table(to, ("class", "samples", "before", "after"), each, right=(1, 2, 3))
    if found["picture"]:
        to.line(f"Drawn to {found['picture']}.")


# ---- export ----


@main.command("export", epilog=ENDS)
@file_argument
@click.option(
    "--to", "target", required=True, type=click.Choice(["onnx", "tflite", "c"]),
    help="What to export to.",
)  # fmt: skip
@click.option(
    "--out", metavar="PATH", help="File to write [default: beside the model, named like it]."
)
@click.option(
    "--form", metavar="FORM",
    help="Of ONNX sparse, qoperator or qdq, of TFLite dense or sparse [default: the first].",
)  # fmt: skip
@click.option("--softmax", is_flag=True, help="Give probabilities too (ONNX, TFLite).")
@click.option(
    "--input-type", type=click.Choice(["float32", "uint8", "int8"]),
    help="What goes in (TFLite): raw values, raw 8-bit ones, or codes less 128 "
    "[default: uint8 where that can be, else float32].",
)  # fmt: skip
@click.option("--learning", is_flag=True, help="Let it learn on the device too (C).")
@click.option("--samples", is_flag=True, help="Let remembered samples leave with it (C, learning).")
@click.option("--data", metavar="DATA", help="Labelled rows to compare on, and to scale qdq by.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option(
    "--check/--no-check", default=None,
    help="Run it and compare every integer [default: where its runtime is installed].",
)  # fmt: skip
@hop_option
@label_option
@data_dir_option
@json_option
def export_command(
    file: str,
    target: str,
    out: str | None,
    form: str | None,
    softmax: bool,
    input_type: str | None,
    learning: bool,
    samples: bool,
    data: str | None,
    force: bool,
    check: bool | None,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Write a model for another runtime, and check that it gives the very same integers."""
    from zgedge.export import targets

    form = targets.form_of(target, form)
    asked = {"softmax": softmax, "learning": learning, "samples": samples}
    targets.check_options(target, {**asked, "input-type": input_type is not None})
    if samples and not learning:
        raise UsageError("--samples is for a learner.", "Give --learning with it, or leave it out.")
    if out is None:
        out = os.path.splitext(file)[0] + targets.TARGETS[target].suffixes[0]
    written = targets.paths(target, out)
    if any(os.path.realpath(path) == os.path.realpath(file) for path in written):
        raise UsageError(f"{file} is the model itself.", "Give --out another name.")
    model = Model.open(file)
    for path in written:
        _check_writable(path)
    if not force:
        targets.refuse_existing(written)
    remembered = (model.arena.learner() or {"remembered": 0})["remembered"]
    rows = scaling = None
    if data is not None:
        rows = _labelled(model, data, hop, label, data_dir)
        scaling = _labelled(model, data, hop, label, data_dir, part="train")[0][:CALIBRATION]
    made = targets.make(
        model, target, form, out, softmax=softmax, learning=learning, samples=samples,
        input_type=input_type, data=scaling,
    )  # fmt: skip
    found = _compared(model, target, form, made, rows, check)
    parts = targets.contents(target, made)
    targets.write(written, parts)
    left = remembered if samples else 0
    sizes = [len(part) for part in parts]
    about = {
        "path": out, "files": dict(zip(written, sizes, strict=True)), "target": target,
        "form": form, "bytes": sum(sizes), "model_bytes": len(model.arena.buffer),
        "remembered": remembered, "samples": left, **found,
    }  # fmt: skip
    if as_json:
        print_json(about)
    else:
        _say_export(screen(), about)


def _compared(
    model: Model,
    target: str,
    form: str,
    made: Any,
    rows: tuple[npt.NDArray[Any], npt.NDArray[np.int64]] | None,
    wanted: bool | None,
) -> dict[str, Any]:
    """The check of an export: what was compared, or why nothing was.

    Raises ZgedgeError where a form that promises the core's integers gives others, and where a
    check is `wanted` and what runs the export is not here.
    """
    from zgedge.export.check import compare, pair_of
    from zgedge.export.source import check_inputs
    from zgedge.export.targets import TARGETS

    found: dict[str, Any] = {"check": None, "unchecked": None, "accuracy": None}
    if wanted is False:
        return {**found, "unchecked": "not asked for"}
    try:
        pair = pair_of(model, target, made)
    except MissingExtraError as e:
        if wanted:
            raise
        return {**found, "unchecked": str(e)}
    inputs = list(check_inputs(model))
    if rows is not None:
        x = np.asarray(model.rows(rows[0]), np.float32)
        inputs.append(("data", x))
    comparison = compare(pair, inputs)
    if form in TARGETS[target].identical and not comparison.identical:
        raise ZgedgeError(
            f"The {TARGETS[target].title} export gives other integers: {comparison.differing:,} of "
            f"{comparison.compared:,} differ, by at most {comparison.largest:,}.",
            "Nothing was written. Its runtime may be outside the versions of zgedge[export]; "
            "--no-check writes it all the same.",
        )
    found["check"] = comparison.as_json()
    if rows is not None:
        ours, theirs = (values.argmax(axis=1) == rows[1] for values in pair(x))
        found["accuracy"] = {"core": float(ours.mean()), "export": float(theirs.mean())}
    return found


def _say_export(to: Screen, about: dict[str, Any]) -> None:
    for path, size in about["files"].items():
        to.spans([("Wrote ", ""), (path, "bold"), (f": {size:,} bytes", "")])
    to.line(f"The model has {about['model_bytes']:,} bytes; the form is {about['form']}.")
    if about["remembered"]:
        left = f"{about['samples']:,}" if about["samples"] else "None"
        to.line(f"{left} of {about['remembered']:,} remembered samples left with it.")
    check = about["check"]
    if check is None:
        to.line(f"Not checked: {about['unchecked']}", "yellow")
        return
    counts = ", ".join(f"{count:,} {name}" for name, count in check["sources"].items())
    to.line(f"Checked: {check['compared']:,} integers, of samples {counts}.")
    if check["identical"]:
        to.line("All are the core's own.", "bold green")
    else:
        to.line(
            f"{check['differing']:,} differ, by at most {check['largest']:,}; "
            f"the class is the same for {check['same_class']:.2%}.", "yellow",
        )  # fmt: skip
    if about["accuracy"]:
        core, export = about["accuracy"]["core"], about["accuracy"]["export"]
        to.line(f"Accuracy on the data: {export:.2%}, the core's {core:.2%}.")


# ---- import ----


@main.command("import", epilog=ENDS)
@click.argument("model", metavar="MODEL.onnx", type=click.Path(dir_okay=False))
@click.option("--data", default="digits", show_default=True, metavar="DATA",
              help="Data that it was trained for.")  # fmt: skip
@click.option("--budget", required=True, metavar="SIZE", help="Size of the file, such as 96KB.")
@click.option(
    "--out", metavar="FILE", help="File to write [default: the model's name, ending with .zge]."
)
@click.option("--mean", metavar="NUMBERS", help="It takes (x - mean) / std of raw values x:")
@click.option(
    "--std", metavar="NUMBERS",
    help="one number, or one a channel or column with commas [default: what suits it best].",
)  # fmt: skip
@click.option(
    "--rewire", default="rigl", show_default=True, type=click.Choice(files.TRAINING_STRATEGIES),
    help="How connections are replaced (docs/strategies.md).",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option(
    "--epochs", type=click.IntRange(1), help="Passes over the data [default: by its size]."
)
@click.option("--steps", type=click.IntRange(1), help="Optimizer steps, instead of epochs.")
@click.option(
    "--train-time", metavar="TIME",
    help="Time that training may take, such as 10m: as many steps as fit.",
)  # fmt: skip
@click.option("--no-learning", is_flag=True, help="Leave out what only learning on a device needs.")
@click.option("--log", type=click.Path(dir_okay=False), help="Write a training log (JSON lines).")
@label_option
@side_option
@data_dir_option
@json_option
def import_command(
    model: str,
    data: str,
    budget: str,
    out: str | None,
    mean: str | None,
    std: str | None,
    rewire: str,
    seed: int,
    epochs: int | None,
    steps: int | None,
    train_time: str | None,
    no_learning: bool,
    log: str | None,
    label: str | None,
    side: int | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Take a float classifier from an ONNX file: prune it, quantize it and train it on, on DATA,
    into a byte budget."""
    from zgedge import data as sources
    from zgedge.train import import_onnx
    from zgedge.train.duration import parse_duration

    size = parse_size(budget)
    seconds = None if train_time is None else parse_duration(train_time)
    if sum(length is not None for length in (epochs, steps, seconds)) > 1:
        raise UsageError("--epochs, --steps and --train-time: give one of them.")
    stated = {name: _numbers(name, text) for name, text in (("mean", mean), ("std", std))}
    out = os.path.splitext(model)[0] + ".zge" if out is None else out
    for option, path in (("--out", out), ("--log", log)):
        there = os.path.exists(path or "") and os.path.exists(model)
        if path is not None and there and os.path.samefile(path, model):
            raise UsageError(
                f"{option} {path} would overwrite the model that is read.",
                f"Give {option} another name.",
            )
    _check_writable(out)
    with _reading(quiet=as_json) as reading:
        dataset = sources.load(
            data, data_dir=data_dir, label=label, side=side, say=_note, progress=reading
        )
    to = screen()
    if not as_json:
        _say_data(to, dataset)
    with _epochs(quiet=as_json) as progress:
        found = import_onnx(
            model, dataset, size, learning=not no_learning, strategy=rewire, seed=seed,
            epochs=epochs, steps=steps, train_time=seconds, progress=progress, log=log,
            say=None if as_json else lambda line: click.echo(f"  {line}", err=True), **stated,
        )  # fmt: skip
    result = found.result
    if result.interrupted and not result.best_epoch:
        raise KeyboardInterrupt
    blob = files.write(result.network, replace(result.parameters, budget=size))
    files.replace_file(out, blob)
    scaling = found.scaling
    about = {
        "path": out, "bytes": len(blob), "budget": size, "onnx_bytes": found.float_bytes,
        "float_accuracy": found.float_accuracy, "pruned_accuracy": found.pruned_accuracy,
        "accuracy": result.accuracy,
        "validation_accuracy": result.validation_accuracy if result.held_out else None,
        "held_out": result.held_out,
        "scaling": scaling.name, "scaling_accuracy": found.scaling_accuracy,
        "mean": scaling.mean.tolist(), "std": scaling.std.tolist(),
        "channels": found.channels, "moved": list(found.moved),
        "network": spec_of(result.network), "layers": bytemap.layer_rows(result.network),
        "trunk": bytemap.trunk_rows(result.network), "rewired": result.rewired,
        "epochs": len(result.history), "steps": result.steps,
        "planned_steps": result.planned_steps, "seed": seed, "no_guard": result.no_guard,
        "seconds": round(result.seconds, 3), "interrupted": result.interrupted,
    }  # fmt: skip
    if as_json:
        print_json(about)
    else:
        _say_import(to, about, result.best_epoch)


def _numbers(name: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--{name} {text!r} is no list of numbers.", "Write it as 0.5 or 0.5,0.4,0.4."
        ) from None


def _say_import(to: Screen, about: dict[str, Any], kept: int) -> None:
    def shown(accuracy: float | None) -> str:
        return "-" if accuracy is None else f"{accuracy:.2%}"

    if about["interrupted"]:
        to.line(f"Interrupted: epoch {kept} of {about['epochs']} is kept.", "yellow")
    rows = [
        ("float, as it came", f"{about['onnx_bytes']:,}", shown(about["float_accuracy"])),
        ("cut to fit", f"{about['bytes']:,}", shown(about["pruned_accuracy"])),
        ("trained on, in integers", f"{about['bytes']:,}", shown(about["accuracy"])),
    ]
    table(to, ("", "bytes", "test accuracy"), rows, right=(1, 2))
    to.line()
    to.line(f"Network: {about['network']}")
    to.line(
        f"Input: {about['scaling']}, with which the float network has "
        f"{about['scaling_accuracy']:.2%} of training rows right."
    )
    if about["moved"]:
        to.line(
            f"Windows of {len(about['moved'])} of its layers begin a little later here than in "
            "the ONNX file; training made up for it as far as it could.", "yellow",
        )  # fmt: skip
    to.spans([
        ("Wrote ", ""), (about["path"], "bold"),
        (f": {about['bytes']:,} of {about['budget']:,} bytes, {about['seconds']:.1f} s.", ""),
    ])  # fmt: skip
    _say_no_guard(to, about["no_guard"])


# ---- adapt ----


@main.command(epilog=ENDS)
@file_argument
@click.argument("data")
@click.option("--out", metavar="FILE", help="File to write [default: the model file itself].")
@click.option("--rewire", type=click.Choice(files.STRATEGIES), help="[default: as in the file]")
@click.option("--remember", type=click.Choice(files.KEEP), help="[default: as in the file]")
@click.option("--steps", type=click.IntRange(1), help="Re-read the samples for so many steps.")
@click.option("--eval", "evaluation", metavar="DATA", help="Measure on these [default: a fifth].")
@click.option("--rate", type=float, help="Rate to begin with; it falls to a tenth.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@hop_option
@label_option
@data_dir_option
@json_option
def adapt(
    file: str,
    data: str,
    out: str | None,
    rewire: str | None,
    remember: str | None,
    steps: int | None,
    evaluation: str | None,
    rate: float | None,
    seed: int,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Go on learning from labelled DATA, rewiring on the way, inside the same bytes.

    Each sample is learned once, with remembered ones, or with --steps again and again in batches.
    """
    from zgedge.runtime.adapting import adapt as run

    out = file if out is None else out
    _check_writable(out)
    model = Model.open(file)
    learner = Learner(model, keep=remember)
    x, y = _labelled(model, data, hop, label, data_dir, part="train")
    if evaluation is not None:
        x_held, y_held = _labelled(model, evaluation, hop, label, data_dir)
    else:
        x_held, y_held = _labelled(model, data, hop, label, data_dir)
        if x.shape == x_held.shape and np.array_equal(x, x_held):  # no test part of their own
            order = np.random.default_rng(seed).permutation(len(x))
            held, kept = order[: len(x) // 5], order[len(x) // 5 :]
            x_held, y_held, x, y = x[held], y[held], x[kept], y[kept]
    if not len(x_held):
        raise DataError(f"{data} has too few rows to keep some back.", "Give --eval DATA.")

    def accuracy() -> float:
        return float((model.predict_index(x_held)[0] == y_held).mean())

    before = accuracy()
    labels = np.array(model.classes)[y]
    with _steps("learning", quiet=as_json) as progress:
        done = run(
            learner, x, labels, steps=steps, rate=rate, strategy=rewire, seed=seed,
            progress=lambda step, total, _: progress(step, total),
        )  # fmt: skip
    after = accuracy()
    model.save(out)
    if as_json:
        print_json({
            "before": before, "after": after, "steps": done.steps, "rewired": done.rewired,
            "samples": done.samples, "held_out": len(y_held), "path": out,
            "bytes": len(model.arena.buffer), "generation": model.arena.generation,
        })  # fmt: skip
        return
    to = screen()
    style = "bold green" if after >= before else "bold red"
    to.spans([
        (f"accuracy {before:.2%} -> ", ""), (f"{after:.2%}", style),
        (f" on {len(y_held):,} samples " + (f"of {evaluation}" if evaluation else "kept back"), ""),
    ])  # fmt: skip
    to.line(f"{done.steps:,} steps, {done.samples:,} samples, {done.rewired:,} connections rewired")
    to.line(f"Wrote {out}: {len(model.arena.buffer):,} bytes, as before.")


@contextmanager
def _steps(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that moves a bar on standard error, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with click.progressbar(length=1000, label=what, file=sys.stderr, show_pos=False) as bar:

        def show(done: int, total: int) -> None:
            bar.update(1000 * done // max(1, total) - bar.pos)

        yield show
        bar.update(1000 - bar.pos)


@contextmanager
def _reading(quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A callback (read, in all) with a bar where pictures take more than a second to read."""
    began = time.monotonic()
    with ExitStack() as stack:
        show: Callable[[int, int], None] | None = None

        def tell(read: int, total: int) -> None:
            nonlocal show
            if show is None and time.monotonic() - began > 1.0:
                show = stack.enter_context(_steps("reading pictures", quiet))
            if show is not None:
                show(read, total)

        yield tell


def _note(text: str) -> None:
    """Say what was done to somebody's data, beside the output."""
    click.echo(f"note: {clean(text)}", err=True)


# ---- prove ----


@main.command(epilog=ENDS)
@file_argument
@click.option("--steps", required=True, type=int, metavar="N", help="Learning steps to run.")
@click.option(
    "--data", metavar="DATA",
    help="Learn from these [default: what the file remembers; with convolutions made-up samples, "
    "as it remembers features of pictures].",
)  # fmt: skip
@click.option("--leak", default=0, metavar="BYTES", help="Plant a leak: the proof must fail.")
@hop_option
@label_option
@data_dir_option
@json_option
def prove(
    file: str,
    steps: int,
    data: str | None,
    leak: int,
    hop: int | None,
    label: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Learn and rewire for N steps under a ceiling that the kernel enforces; prove that memory does
    not grow. The file is not changed."""
    from zgedge.runtime import prover

    model = Model.open(file)
    Learner(model)
    samples = None
    if data is not None:
        x, y = _labelled(model, data, hop, label, data_dir, part="train")
        samples = x[:4096], model.classes[y[:4096]].tolist()
    with _steps("proving", quiet=as_json) as progress:
        found = prover.prove(
            file, steps, samples=samples, leak=leak,
            reading=lambda row: progress(row["step"], steps),
        )  # fmt: skip
    if as_json:
        record = found.pop("record")
        print_json({**found, "record": record})
    else:
        _say_proof(screen(), found)
    if not found["passed"]:
        click.get_current_context().exit(ProofError.exit_code)


def _say_proof(to: Screen, found: dict[str, Any]) -> None:
    from zgedge.report.chart import growth_chart

    record = found["record"]
    growth = [max(0, value - record["rss"][0]) for value in record["rss"]]
    to.line(f"RSS beyond its value after warm-up ({found['warmup_steps']:,} steps)", "bold")
    encoding = (sys.stdout.encoding or "").lower()
    for line in growth_chart(
        record["step"], growth, width=to.width - 2, unicode="utf" in encoding, text=format_size
    ):
        to.line("  " + line)
    to.line()
    rows = [
        ("steps", f"{found['steps']:,} ({found['steps_per_second']:,} a second)"),
        ("connections rewired", f"{found['rewired']:,}"),
        ("arena changed", "yes" if found["arena_changed"] else "no"),
        ("RSS growth", f"{found['rss_growth']:,} bytes"),
        ("USS growth", f"{found['uss_growth']:,} bytes"),
        ("peak", format_size(found["peak"])),
        ("ceiling of data memory", f"{found['ceiling']:,} bytes, enforced by the kernel"),
        ("page faults", f"{found['minor_faults']:,} minor, {found['major_faults']:,} major"),
        (
            "threads, open files",
            "{} -> {}, {} -> {}".format(*found["threads"], *found["open_files"]),
        ),
        ("learned from", f"{found['data']} samples"),
    ]
    table(to, ("", ""), rows)
    to.line()
    if found["passed"]:
        to.line("PROVED: it learned and rewired, and its memory did not grow.", "bold green")
        return
    to.line("NOT PROVED:", "bold red")
    for reason in found["reasons"]:
        to.line(f"  - {reason}")


# ---- data ----


@main.group(cls=Commands, epilog=ENDS)
def data() -> None:
    """List data sets, check a person's file, fetch a data set."""


@data.command("list", cls=Command, epilog=ENDS)
@data_dir_option
@json_option
def data_list(data_dir: str | None, as_json: bool) -> None:
    """List the named data sets, and the forms of files that can be read."""
    from zgedge import data as sources

    entries = sources.catalog(data_dir)
    if as_json:
        rows = [
            {"name": e.name, "summary": e.summary, "named": e.named, "place": e.place}
            for e in entries
        ]
        print_json({"data": rows, "folder": str(sources.data_folder(data_dir))})
        return
    to = screen()
    to.line("Named data sets", "bold")
    named = [(e.name, e.place or "not here", e.summary) for e in entries if e.named]
    table(to, ("name", "where", "what"), named)
    to.line()
    to.line("Your own data", "bold")
    table(to, ("form", "what"), [(e.name, e.summary) for e in entries if not e.named])
    to.line()
    to.line(f"Named sets are looked for in {sources.data_folder(data_dir)} (--data-dir).")


@data.command("check", cls=Command, epilog=ENDS)
@click.argument("data")
@click.option("--window", type=int, metavar="N", help="Rows of a window, for a stream of rows.")
@hop_option
@label_option
@side_option
@data_dir_option
@json_option
def data_check(
    data: str,
    window: int | None,
    hop: int | None,
    label: str | None,
    side: int | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Say everything that is wrong with DATA: row, column and value."""
    from zgedge import data as sources

    with _reading(quiet=as_json) as progress:
        report = sources.check(
            data, data_dir=data_dir, label=label, window=window, hop=hop, side=side,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(report.as_dict())
    else:
        to = screen()
        to.line(f"{data}: {report.rows:,} rows of {report.features:,} values", "bold")
        table(to, ("class", "rows"), [(n, f"{c:,}") for n, c in report.class_counts.items()])
        for note in report.notes:
            to.line(f"note: {note.message}" + (f" {note.hint}" if note.hint else ""), "yellow")
        for error in report.errors:
            to.line(f"fault: {error.message}" + (f" {error.hint}" if error.hint else ""), "red")
        more = report.error_count - len(report.errors)
        if more:
            to.line(f"and {more:,} more")
        if report.ok:
            to.line("Good to train on.", "bold green")
    if not report.ok:
        click.get_current_context().exit(DataError.exit_code)


@data.command("get", cls=Command, epilog=ENDS)
@click.argument("name")
@click.option("--url", help="Address of the file, http or https.")
@click.option("--sha256", help="Checksum that the file must have.")
@data_dir_option
@json_option
def data_get(
    name: str, url: str | None, sha256: str | None, data_dir: str | None, as_json: bool
) -> None:
    """Fetch a file of data set NAME from a stated address; an interrupted fetch is resumed."""
    from zgedge import data as sources
    from zgedge.data import get

    with _steps("fetching", quiet=as_json) as progress:
        path = get(
            name, url, sha256, dest=sources.data_folder(data_dir) / name,
            progress=lambda done, total: progress(done, total or 2 * done + 1),
        )  # fmt: skip
    size = path.stat().st_size
    if as_json:
        print_json({"path": str(path), "bytes": size})
    else:
        click.echo(f"{path}: {size:,} bytes")


# ---- bench ----


@main.group(cls=Commands, epilog=ENDS)
def bench() -> None:
    """Measure accuracy tables: what bytes buy, and what else could be had for them."""


budgets_option = click.option(
    "--budget", default="12KB,48KB,256KB", show_default=True, metavar="SIZES",
    help="Sizes, with commas between them.",
)  # fmt: skip
seeds_option = click.option(
    "--seeds", default="0,1,2,3,4", show_default=True, metavar="SEEDS",
    help="Seeds, with commas between them.",
)  # fmt: skip
rows_option = click.option(
    "--rows", metavar="ROWS", help="Rows to measure, with semicolons between them."
)
runs_option = click.option(
    "--log", metavar="RUNS", help="Keep the runs as JSON lines; those it has are not made again."
)
page_option = click.option("--out", metavar="PAGE", help="Write the table as Markdown.")
bench_epochs_option = click.option(
    "--epochs", type=click.IntRange(1), help="Passes over the data [default: by its size]."
)
bench_data_option = click.option("--data", default="digits", show_default=True, metavar="DATA",
                                 help="Data to train and test on.")  # fmt: skip


@bench.command("equal-bytes", cls=Command, epilog=ENDS)
@bench_data_option
@budgets_option
@seeds_option
@rows_option
@runs_option
@page_option
@click.option("--plot", metavar="PICTURE", help="Draw accuracy against bytes (.png, .svg, .pdf).")
@bench_epochs_option
@label_option
@data_dir_option
@json_option
def bench_equal_bytes(
    data: str,
    budget: str,
    seeds: str,
    rows: str | None,
    log: str | None,
    out: str | None,
    plot: str | None,
    epochs: int | None,
    label: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Train what could stand in so many bytes, and compare: fixed sparse, rewired sparse by every
    strategy, dense int8, on pictures a convolution, and fixed features with an analytic head."""
    _table_of_accuracy(
        "equal-bytes", data, budget, seeds, rows, log, out, plot, epochs, label, data_dir, as_json
    )


@bench.command("budgets", cls=Command, epilog=ENDS)
@bench_data_option
@budgets_option
@seeds_option
@runs_option
@page_option
@bench_epochs_option
@label_option
@data_dir_option
@json_option
def bench_budgets(
    data: str,
    budget: str,
    seeds: str,
    log: str | None,
    out: str | None,
    epochs: int | None,
    label: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Train the planned network, which can learn, at each of several budgets."""
    _table_of_accuracy(
        "budgets", data, budget, seeds, None, log, out, None, epochs, label, data_dir, as_json
    )


def _table_of_accuracy(
    name: str,
    data: str,
    budget: str,
    seeds: str,
    rows: str | None,
    log: str | None,
    out: str | None,
    plot: str | None,
    epochs: int | None,
    label: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    from dataclasses import asdict
    from pathlib import Path

    from zgedge import data as sources
    from zgedge.bench import accuracy, accuracy_plot

    budgets = [parse_size(size) for size in budget.split(",")]
    numbers = accuracy.numbers_of(seeds)
    kind = _plot_kind(out, plot, log)
    with _reading(quiet=as_json) as reading:
        dataset = sources.load(data, data_dir=data_dir, label=label, say=_note, progress=reading)
    asked = None if rows is None else accuracy.rows_named(rows, dataset)
    found = accuracy.collect(
        name, dataset, budgets, numbers, rows=asked, log=None if log is None else Path(log),
        epochs=epochs, say=lambda text: click.echo(text, err=True),
        watch=lambda run: _steps(run, quiet=as_json),
    )  # fmt: skip
    given = {
        "--data": data, "--budget": budget, "--seeds": seeds, "--rows": rows, "--epochs": epochs,
        "--label": label, "--log": log, "--out": out, "--plot": plot,
    }  # fmt: skip
    words = [name, *_given(given, {"--seeds": "0,1,2,3,4"})]
    text = _table_written(
        out, plot, lambda seen: accuracy.markdown(found, _bench_command(words), seen),
        lambda: accuracy_plot.draw(found, kind), bool(found.runs),
    )  # fmt: skip
    if as_json:
        print_json({
            "table": name, "data": dataset.name, "budgets": budgets, "seeds": numbers,
            "rows": accuracy.summary(found), "runs": [asdict(run) for run in found.runs],
            "missing": [
                {"budget": size, "row": row, "why": why} for size, row, why in found.missing
            ],
            "complete": found.complete,
        })  # fmt: skip
    elif found.runs:
        click.echo(text, nl=False)
    if not found.complete:
        where = f"; the same command goes on from {log}" if log else ""
        click.echo(f"{len(found.runs)} of {found.cells} runs were made{where}.", err=True)
        raise KeyboardInterrupt


def _plot_kind(out: str | None, plot: str | None, log: str | None) -> str:
    """The format of a plot, by its name. Raises UsageError for one that there is not, or where the
    plot or another file cannot be written."""
    from zgedge.bench.accuracy_plot import FORMATS

    kind = os.path.splitext(plot or "plot.png")[1].removeprefix(".").lower()
    if kind not in FORMATS:
        raise UsageError(f"A plot cannot be {plot}.", "End its name with .png, .svg or .pdf.")
    for path in (out, plot, log):
        if path is not None:
            _check_writable(path)
    return kind


def _given(options: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """The words of options that were given and are not the usual ones."""
    return [
        word for option, value in options.items() if value not in (None, usual.get(option))
        for word in (option, str(value))
    ]  # fmt: skip


def _bench_command(words: list[str]) -> str:
    return shlex.join(["zgedge", "bench", *words])


def _table_written(
    out: str | None,
    plot: str | None,
    page: Callable[[str | None], list[str]],
    draw: Callable[[], bytes],
    runs: bool,
) -> str:
    """The text of a table, which is written with its plot where there are `runs`. `page` gives its
    lines, told where the page finds the plot."""
    seen = os.path.relpath(plot, os.path.dirname(out) or ".") if plot and out else None
    text = "\n".join(page(seen)).rstrip() + "\n"
    if runs and out is not None:
        files.replace_file(out, text.encode())
    if runs and plot is not None:
        files.replace_file(plot, draw())
    return text


@bench.command("continual", cls=Command, epilog=ENDS)
@click.option("--stream", "names", metavar="NAMES",
              help="Streams, with commas between them, each as split-mnist: what is done "
              "(split, permuted, permuted20, rotated, sensors, dead, drift, new-class, poisoned), "
              "and to which data [default: nine of them].")  # fmt: skip
@click.option("--budget", default="256KB", show_default=True, metavar="SIZE",
              help="Bytes of a row, everything included.")  # fmt: skip
@seeds_option
@rows_option
@click.option("--samples", type=click.IntRange(1), metavar="N",
              help="At most so many samples of each task.")  # fmt: skip
@click.option("--held-out", is_flag=True,
              help="Test on held-out training rows, where settings are chosen.")  # fmt: skip
@click.option("--quick", is_flag=True, help="One seed, 300 samples a task: does it run?")
@runs_option
@page_option
@click.option("--plot", metavar="PICTURE", help="Draw accuracy over tasks (.png, .svg, .pdf).")
@data_dir_option
@json_option
def bench_continual(
    names: str | None,
    budget: str,
    seeds: str,
    rows: str | None,
    samples: int | None,
    held_out: bool,
    quick: bool,
    log: str | None,
    out: str | None,
    plot: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Learn streams of tasks and shifts of the world, each sample once, everything in one file of
    the budget; compare head only, weights only, every rewiring strategy, dense int8, a seeded
    convolution, an analytic head and GDumb."""
    from dataclasses import asdict
    from pathlib import Path

    from zgedge import data as sources
    from zgedge.bench import accuracy, continual, continual_plot

    chosen = tuple(names.split(",")) if names else continual.DEFAULT
    size = parse_size(budget)
    numbers = [0] if quick else accuracy.numbers_of(seeds)
    kind = _plot_kind(out, plot, log)
    loaded: dict[str, Any] = {}

    def load(name: str) -> Any:
        if name not in loaded:
            with _reading(quiet=as_json) as reading:
                loaded[name] = sources.load(name, data_dir=data_dir, say=_note, progress=reading)
        return loaded[name]

    found = continual.collect(
        chosen, load, size, numbers, log=None if log is None else Path(log),
        samples=300 if quick and samples is None else samples,
        rows=None if rows is None else [row.strip() for row in rows.split(";")],
        held=held_out, steps=100 if quick else None,
        say=lambda text: click.echo(text, err=True), watch=lambda run: _steps(run, quiet=as_json),
    )  # fmt: skip
    given = {
        "--stream": names, "--budget": budget, "--seeds": seeds, "--rows": rows,
        "--samples": samples, "--log": log, "--out": out, "--plot": plot,
    }  # fmt: skip
    words = ["continual", *_given(given, {"--seeds": "0,1,2,3,4", "--budget": "256KB"})]
    words += [word for word, is_on in (("--held-out", held_out), ("--quick", quick)) if is_on]
    text = _table_written(
        out, plot, lambda seen: continual.markdown(found, _bench_command(words), seen),
        lambda: continual_plot.draw(found, kind), bool(found.runs),
    )  # fmt: skip
    if as_json:
        print_json({
            "streams": list(chosen), "budget": size, "seeds": numbers,
            "rows": continual.summary(found), "runs": [asdict(run) for run in found.runs],
            "missing": [
                {"stream": name, "row": row, "why": why} for name, row, why in found.missing
            ],
            "complete": found.complete,
        })  # fmt: skip
    elif found.runs:
        click.echo(text, nl=False)
    if not found.complete:
        where = f"; the same command goes on from {log}" if log else ""
        click.echo(f"{len(found.runs)} runs were made{where}.", err=True)
        raise KeyboardInterrupt


# ---- doctor ----


@main.command(epilog=ENDS)
@data_dir_option
@json_option
def doctor(data_dir: str | None, as_json: bool) -> None:
    """Check this installation and this machine."""
    found = _examine(data_dir)
    if as_json:
        print_json(found)
    else:
        _say_doctor(screen(), found)
    if not found["ok"]:
        click.get_current_context().exit(1)


def _examine(data_dir: str | None) -> dict[str, Any]:
    import importlib.util
    import platform

    from zgedge import data as sources
    from zgedge.runtime import core_library as core
    from zgedge.runtime import selftest

    extras = {
        "train": ("torch", "sklearn", "PIL", "rich", "matplotlib"),
        "export": ("onnx", "onnxruntime", "tflite", "flatbuffers", "ai_edge_litert"),
        "mqtt": ("paho",),
        "deploy": ("ziglang",),
    }
    missing = {
        extra: [name for name in names if importlib.util.find_spec(name) is None]
        for extra, names in extras.items()
    }
    agree = selftest.run_all()
    folder = sources.data_folder(data_dir)
    disk = shutil.disk_usage(os.getcwd())
    return {
        "ok": all(agree.values()),
        "zgedge": zgedge.__version__,
        "core": core.version(),
        "variant": core.variant(),
        "variants": core.variants(),
        "self_test": agree,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "exact_memory": os.path.exists("/proc/self/smaps_rollup"),
        "group_counts_memory": _group_counts_memory(),
        "disk_free": disk.free,
        "missing": missing,
        "data_folder": str(folder),
        "data": {e.name: e.place for e in sources.catalog(data_dir) if e.named},
    }


def _group_counts_memory() -> bool:
    """Whether the control group of this process counts memory, so that MemoryMax= would hold."""
    try:
        with open("/proc/self/cgroup", encoding="ascii") as f:
            lines = f.read().splitlines()
    except OSError:
        return False
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return True
        if not controllers and os.path.exists(f"/sys/fs/cgroup{path}/memory.current"):
            return True
    return False


def _say_doctor(to: Screen, found: dict[str, Any]) -> None:
    def yes(good: bool, text: str) -> tuple[str, str]:
        return ("good" if good else "MIND", text)

    to.line(f"zgedge {found['zgedge']}, core {found['core']}, Python {found['python']}", "bold")
    usable = ", ".join(name for name, can in found["variants"].items() if can)
    rows = [
        yes(found["ok"], "self test: a small model learns to the very bytes that it must, in "
            + ", ".join(f"{n} ({'same' if same else 'DIFFERENT'})"
                        for n, same in found["self_test"].items())),
        yes(True, f"kernel variant {found['variant']}; usable here: {usable}"),
        yes(found["exact_memory"], "the kernel tells a process its exact memory, as `prove` needs"),
        yes(True, "the control group counts memory" if found["group_counts_memory"] else
            "the control group does not count memory: MemoryMax= would not hold, LimitDATA= does"),
        yes(found["disk_free"] > 1 << 26, f"{found['disk_free'] >> 20:,} MB free on this disk"),
    ]  # fmt: skip
    for extra, names in found["missing"].items():
        text = f"extra {extra}: " + (f"missing {', '.join(names)}" if names else "complete")
        rows.append(yes(not names, text + (f"; pip install 'zgedge[{extra}]'" if names else "")))
    for name, place in found["data"].items():
        lacks = f"not here; looked for in {found['data_folder']}"
        where = place or ("comes with scikit-learn" if name == "digits" else lacks)
        rows.append(("good" if place else "-", f"data set {name}: {where}"))
    table(to, ("", ""), rows)


register(main)
register_device(main)
register_deploy(main)


if __name__ == "__main__":
    main()
