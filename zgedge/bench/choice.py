"""The planner's choice against random networks of its own space, at equal bytes and training.

    python -m zgedge.bench.choice --data digits --budget 12KB --out docs/results/choice.md

The choice is made as `zgedge train` makes it, held-out rows and short trainings included; then it
and the random networks are trained for the same steps, and ranked by their mean accuracy on the
test rows, which the planner never saw. Runs are kept as JSON lines and go on from there.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from zgedge import data
from zgedge.bench import results
from zgedge.budget import Candidate, Task, fitted, format_size, named, parse_size
from zgedge.data import Dataset
from zgedge.space import families
from zgedge.train import train
from zgedge.train.search import FEWEST_HELD, choose

RIVALS = 20


def rivals(task: Task, budget: int, count: int, seed: int, *, learning: bool) -> list[Candidate]:
    """Random networks of the whole space, each as wide as the budget allows; none twice."""
    rng = random.Random(seed)
    every = list(families(task.shape))
    rng.shuffle(every)
    out: dict[str, Candidate] = {}
    for family in every:
        found = fitted(task, budget, family, learning=learning)
        if found is not None and len(out) < count:
            out.setdefault(found.spec, found)
    return list(out.values())


@dataclass(frozen=True)
class Run:
    """One training: of which network, on what, and how it went."""

    data: str
    budget: int
    learning: bool
    network: str
    steps: int
    seed: int
    bytes: int
    operations: int
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Row:
    """A network and its runs, one for each seed."""

    who: str
    runs: tuple[Run, ...]

    @property
    def accuracy(self) -> float:
        return sum(run.accuracy for run in self.runs) / len(self.runs)


def measure(
    dataset: Dataset,
    budget: int,
    steps: int,
    seeds: Sequence[int],
    log: Path | None,
    *,
    learning: bool,
) -> list[Row]:
    """The rows of the table, the most accurate first. The first seed is the planner's."""
    task = Task.of(dataset)
    memory = None if log is None else log.with_suffix(".search")
    chosen = choose(dataset, budget, learning=learning, seed=seeds[0], memory=memory)
    who = {chosen.spec: "chosen"}
    for rival in rivals(task, budget, RIVALS, seeds[0], learning=learning):
        who.setdefault(rival.spec, "random")
    known = {}
    for run in results.read_log(log, Run):
        known[run.data, run.budget, run.learning, run.network, run.steps, run.seed] = run
    rows: dict[str, list[Run]] = {spec: [] for spec in who}
    for seed, spec in itertools.product(seeds, who):
        key = (dataset.name, budget, learning, spec, steps, seed)
        if key not in known:
            network = named(task, budget, spec, learning=learning).network
            done = train(dataset, network, seed=seed, steps=steps)
            if done.interrupted:
                raise KeyboardInterrupt
            known[key] = Run(
                dataset.name, budget, learning, spec, steps, seed, network.file_bytes,
                network.operations, float(done.accuracy or 0.0), round(done.seconds, 1),
            )  # fmt: skip
            results.append(log, known[key])
            click.echo(f"seed {seed}, {who[spec]}, {spec}: {known[key].accuracy:.2%}", err=True)
        rows[spec].append(known[key])
    found = [Row(who[spec], tuple(runs)) for spec, runs in rows.items()]
    return sorted(found, key=lambda row: -row.accuracy)


def _surely_better(rows: list[Row], own: Row) -> int | None:
    """How many are ahead of the chosen one by more than chance; None where one seed cannot say."""
    chosen, count = [run.accuracy for run in own.runs], 0
    for row in rows:
        mean, half = results.paired([run.accuracy for run in row.runs], chosen)
        if half is None:
            return None
        count += row is not own and mean > half
    return count


def as_markdown(rows: list[Row], name: str, budget: int, steps: int) -> list[str]:
    """A section of the results file."""
    own = next(row for row in rows if row.who == "chosen")
    rank = 1 + sum(row.accuracy > own.accuracy for row in rows)
    told = f"**The planner's choice is number {rank} of {len(rows)}.**"
    if rank > 1 and (surely := _surely_better(rows, own)) is not None:
        told += f" Better by more than chance, paired over seeds at 95 %: {surely}."
    table = [
        (i, row.who, results.percent([run.accuracy for run in row.runs]),
         f"{row.runs[0].bytes:,}", f"{row.runs[0].operations:,}", f"`{row.runs[0].network}`")
        for i, row in enumerate(rows, 1)
    ]  # fmt: skip
    head = ("rank", "who", "test accuracy, %", "bytes", "multiply-adds", "network")
    seeds = ", ".join(str(run.seed) for run in rows[0].runs)
    return [
        f"## {name}, {format_size(budget)}, {steps:,} steps each, seeds {seeds}",
        "",
        told,
        "",
        *results.table(head, table),
        "",
    ]


@click.command()
@click.option("--data", "source", required=True, help="A data set or a folder of pictures.")
@click.option("--budget", required=True, metavar="SIZE")
@click.option("--steps", default=600, show_default=True, help="Training steps of each.")
@click.option("--seeds", default="0", show_default=True, help="With commas between them.")
@click.option("--learning", is_flag=True, help="Count what learning on a device needs.")
@click.option("--data-dir", metavar="DIR")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="JSON lines to keep.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(
    source: str, budget: str, steps: int, seeds: str, learning: bool, data_dir: str | None,
    log: Path | None, out: Path,
) -> None:  # fmt: skip
    """Rank the planner's choice among random networks of its own space; adds a section to OUT."""
    dataset = data.load(source, data_dir=data_dir)
    size = parse_size(budget)
    name = source if source in ("digits", "mnist", "cifar10") else "made-up pictures"
    numbers = [int(seed) for seed in seeds.split(",")]
    rows = measure(dataset, size, steps, numbers, log, learning=learning)
    section = as_markdown(rows, name, size, steps)
    before = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    if not before:
        before = results.heading(
            "The planner's choice against random networks",
            "python -m zgedge.bench.choice --data DATA --budget SIZE --steps N --out FILE",
            (), packages=("numpy", "torch", "zgedge"),
        )  # fmt: skip
        before += [
            "- Method: equal bytes, equal steps. Random networks are drawn from all that "
            "the planner's families hold, each as wide as the budget allows. The choice is made "
            f"from held-out rows, or by the prior alone where these are fewer than {FEWEST_HELD}.",
            "",
        ]
    results.write(out, [*before, "", *section])
    click.echo("\n".join(section))


if __name__ == "__main__":
    main()
