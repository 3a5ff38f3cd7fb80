"""What convolutions reach on pictures at fixed inference bytes, and what a training time buys.

MNIST over five seeds at two budgets; CIFAR-10 once in ten minutes, search included, with the curve
of held-out accuracy against time. Bytes are the length of the written file, accuracy is that of the
core on the test pictures. Runs are kept as JSON lines, those that are there are not made again.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from zgedge import arena, data
from zgedge.bench import results, timing
from zgedge.budget import format_size
from zgedge.data import Dataset
from zgedge.network import KB, Network
from zgedge.runtime import Model
from zgedge.spec import spec_of
from zgedge.train import Epoch, train
from zgedge.train.fit import device_for
from zgedge.train.search import SEARCH_SHARE, choose

PACKAGES = ("numpy", "torch", "zgedge")


@dataclass(frozen=True)
class Setting:
    """A row: data, inference bytes, the network (None: the planner's), and how long it trains.

    `epochs` passes or `steps`, the planner's network by its prior; or `seconds`, of which the
    search takes its share.
    """

    data: str
    budget: int
    seeds: tuple[int, ...]
    network: str | None = None
    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None

    @property
    def length(self) -> str:
        if self.seconds is not None:
            return f"{self.seconds / 60:g} minutes"
        return f"{self.steps:,} steps" if self.steps is not None else f"{self.epochs} epochs"


SETTINGS = (
    Setting("mnist", 12 * KB, (0, 1, 2, 3, 4), epochs=8),
    Setting("mnist", 32 * KB, (0, 1, 2, 3, 4), "c5/2x16 c3x24 p2 c3x40 c3x40+ m", epochs=8),
    Setting("cifar10", 96 * KB, (0,), seconds=600.0),
    Setting("cifar10", 96 * KB, (0,), steps=22_500),
    Setting(
        "cifar10",
        256 * KB,
        (0,),
        "c3x24 c3x24 c3x24+1 c3x24 c3x24+1 p2 c3x40 c3x40 c3x40+1 c3x40 c3x40+1 p2 "
        "c3x56 c3x56 c3x56+1 c3x56 c3x56+1 m",
        steps=21_677,
    ),
    Setting(
        "cifar10",
        256 * KB,
        (0,),
        "c3x40 c3x40 c3x40+1 p2 c3x56 c3x56 c3x56+1 p2 c3x68 c3x68 c3x68+1 m",
        steps=25_111,
    ),
)


@dataclass(frozen=True)
class Run:
    """One trained network. `curve` are pairs (seconds, held-out accuracy), search included; `on` is
    the kind of device that trained it."""

    data: str
    budget: int
    seed: int
    length: str
    bytes: int
    network: str
    operations: int
    steps: int
    threads: int
    accuracy: float
    shadow: float
    seconds: float
    curve: Sequence[Sequence[float]]
    on: str


def measure(dataset: Dataset, setting: Setting, seed: int, say: Callable[[str], None]) -> Run:
    """Train one cell, write the file, open it, and measure there.

    What trains for a time has every core, as `zgedge train` takes them; else one, whose sums are
    the same everywhere.
    """
    torch.set_num_threads(1 if setting.seconds is None else len(os.sched_getaffinity(0)))
    share = None if setting.seconds is None else SEARCH_SHARE * setting.seconds
    choice = choose(
        dataset, setting.budget, learning=False, network=setting.network, seconds=share,
        trials=setting.seconds is not None, seed=seed,
        progress=lambda done, total, what: say(f"search {done} of {total}: {what}"),
    )  # fmt: skip
    network = choice.plan.network
    curve = []

    def show(epoch: Epoch) -> None:
        curve.append((round(choice.seconds + epoch.seconds, 1), epoch.accuracy))
        say(f"epoch {epoch.epoch} of {epoch.epochs}: {epoch.accuracy:.2%}")

    left = None if setting.seconds is None else setting.seconds - choice.seconds
    result = train(
        dataset, network, seed=seed, epochs=setting.epochs,
        steps=setting.steps, train_time=left, progress=show,
    )  # fmt: skip
    if result.interrupted:
        raise KeyboardInterrupt  # what was not trained to its end belongs in no table
    blob = arena.write(result.network, result.parameters)
    buffer = arena.in_memory(blob)
    found, _ = Model(buffer, dataset.name).predict_index(dataset.x_test)
    return Run(
        data=dataset.name, budget=setting.budget, seed=seed, length=setting.length,
        bytes=len(blob), network=spec_of(network), operations=network.operations,
        steps=result.planned_steps, threads=result.threads,
        accuracy=float((found == dataset.y_test).mean()), shadow=result.shadow_accuracy or 0.0,
        seconds=round(choice.seconds + result.seconds, 1), curve=tuple(curve),
        on=_device(network),
    )  # fmt: skip


def _device(network: Network) -> str:
    device = device_for(network)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def markdown(runs: list[Run]) -> list[str]:
    """A row for each data set and budget, then the curves of what was trained for a time."""
    groups: dict[tuple[str, int, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.data, run.budget, run.length, run.network), []).append(run)
    body = []
    for (name, budget, length, network), mine in groups.items():
        body.append(
            [name, format_size(budget), f"{max(r.bytes for r in mine):,}", f"`{network}`",
             f"{mine[0].operations / 1e6:.2f}", length,
             results.percent([r.accuracy for r in mine]),
             results.percent([r.shadow for r in mine]), len(mine),
             f"{sum(r.seconds for r in mine) / len(mine):.0f}", mine[0].on]
        )  # fmt: skip
    heads = [
        "data", "budget", "file, bytes", "network", "million multiply-adds", "training",
        "test accuracy, %", "float behind it, %", "seeds", "s", "trained on",
    ]  # fmt: skip
    lines = results.table(heads, body)
    for run in runs:
        if "epochs" not in run.length:
            lines += ["", f"## {run.data}, {format_size(run.budget)}, {run.length}", ""]
            lines += [
                f"Seed {run.seed}, {run.threads} threads, {run.on}, {run.steps:,} steps after the "
                "search. Accuracy on held-out pictures:",
                "",
            ]
            lines += results.table(
                ["seconds", "accuracy, %"], [[f"{s:.0f}", f"{100 * a:.2f}"] for s, a in run.curve]
            )
    return lines


def _say(what: str) -> Callable[[str], None]:
    return lambda text: click.echo(f"{what}: {text}", err=True)


@click.command()
@click.option("--data", "only", help="Only the rows of this data set.")
@click.option(
    "--length", type=click.Choice(sorted({setting.length for setting in SETTINGS})),
    help="Only the rows that train for so long.",
)  # fmt: skip
@click.option("--data-dir", help="Folder of mnist and cifar10.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="JSON lines to keep.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
@click.option("--no-training", is_flag=True, help="Write what the log has.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def main(
    only: str | None,
    length: str | None,
    data_dir: str | None,
    log: Path | None,
    out: Path | None,
    no_training: bool,
    as_json: bool,
) -> None:
    """Train every row and measure it on the written files."""
    runs = [run for run in results.read_log(log, Run) if length in (None, run.length)]
    done = {(run.data, run.budget, run.length, run.seed) for run in runs}
    sets: dict[str, Dataset] = {}
    for setting in () if no_training else SETTINGS:
        for seed in setting.seeds:
            key = (setting.data, setting.budget, setting.length, seed)
            if only not in (None, setting.data) or length not in (None, setting.length):
                continue
            if key in done:
                continue
            if setting.data not in sets:
                sets[setting.data] = data.load(setting.data, data_dir=data_dir)
            what = f"{setting.data} {format_size(setting.budget)} seed {seed}"
            run = measure(sets[setting.data], setting, seed, _say(what))
            click.echo(f"{what}: {run.accuracy:.2%}", err=True)
            runs.append(run)
            results.append(log, run)
    seeds = sorted({run.seed for run in runs})
    length_words = "" if length is None else f"--length {shlex.quote(length)} "
    lines = results.heading(
        "Pictures: what convolutions reach",
        f"python -m zgedge.bench.pictures {length_words}--out {out}", seeds, packages=PACKAGES,
    )  # fmt: skip
    lines.append("- Accuracy is that of the core on the written file; bytes are its length,")
    lines.append("  activations included, written with `--no-learning`.")
    lines.append("")
    lines += markdown(runs)
    if out is not None:
        results.write(out, lines)
    if as_json:
        click.echo(json.dumps({"runs": [asdict(run) for run in runs]}))
    elif out is None:
        click.echo("\n".join(lines))


if __name__ == "__main__":
    timing.restart_clean("zgedge.bench.pictures")
    main()
