"""The planner's choice against random networks of its own space, at equal bytes and training.

    python -m zgedge.bench.choice --data digits --budget 12KB --out docs/results/choice.md

The choice is made as `zgedge train` makes it, held-out rows and short trainings included; then it
and the random networks are trained for the same steps, and ranked by their accuracy on the test
rows, which the planner never saw. Runs are kept as JSON lines beside the page and go on from there.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

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


def run(
    dataset: Dataset, budget: int, steps: int, seed: int, log: Path, *, learning: bool
) -> list[dict[str, Any]]:
    """The rows of the table, the most accurate first."""
    task = Task.of(dataset)
    chosen = choose(
        dataset, budget, learning=learning, seed=seed, memory=log.with_suffix(".search")
    )
    specs = [(chosen.spec, "chosen")]
    specs += [
        (c.spec, "random")
        for c in rivals(task, budget, RIVALS, seed, learning=learning)
        if c.spec != chosen.spec
    ]
    key = [dataset.name, budget, steps, seed, learning]
    known = {}
    if log.exists():
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        known = {row["network"]: row for row in rows if row["key"] == key}
    out = []
    for spec, who in specs:
        if spec not in known:
            network = named(task, budget, spec, learning=learning).network
            done = train(dataset, network, seed=seed, steps=steps)
            known[spec] = {
                "key": key, "network": spec, "bytes": network.file_bytes,
                "operations": network.operations, "accuracy": done.accuracy,
                "seconds": round(done.seconds, 1),
            }  # fmt: skip
            with log.open("a") as file:
                file.write(json.dumps(known[spec]) + "\n")
        out.append({**known[spec], "who": who})
    return sorted(out, key=lambda row: -float(row["accuracy"]))


def as_markdown(rows: list[dict[str, Any]], name: str, budget: int, steps: int) -> list[str]:
    """A section of the results file."""
    rank = 1 + next(i for i, row in enumerate(rows) if row["who"] == "chosen")
    own = rows[rank - 1]["accuracy"]
    rank = 1 + sum(row["accuracy"] > own for row in rows)
    table = [
        (i, row["who"], f"{100 * row['accuracy']:.2f}", f"{row['bytes']:,}",
         f"{row['operations']:,}", f"`{row['network']}`")
        for i, row in enumerate(rows, 1)
    ]  # fmt: skip
    head = ("rank", "who", "test accuracy, %", "bytes", "multiply-adds", "network")
    return [
        f"## {name}, {format_size(budget)}, {steps:,} steps each",
        "",
        f"**The planner's choice is number {rank} of {len(rows)}.**",
        "",
        *results.table(head, table),
        "",
    ]


@click.command()
@click.option("--data", "source", required=True, help="A data set or a folder of pictures.")
@click.option("--budget", required=True, metavar="SIZE")
@click.option("--steps", default=600, show_default=True, help="Training steps of each.")
@click.option("--seed", default=0, show_default=True)
@click.option("--learning", is_flag=True, help="Count what learning on a device needs.")
@click.option("--data-dir", metavar="DIR")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(
    source: str, budget: str, steps: int, seed: int, learning: bool, data_dir: str | None, out: Path
) -> None:
    """Rank the planner's choice among random networks of its own space; adds a section to OUT."""
    dataset = data.load(source, data_dir=data_dir)
    size = parse_size(budget)
    name = source if source in ("digits", "mnist", "cifar10") else "made-up pictures"
    log = out.with_suffix(".jsonl")
    section = as_markdown(
        run(dataset, size, steps, seed, log, learning=learning), name, size, steps
    )
    before = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    if not before:
        before = results.heading(
            "The planner's choice against random networks",
            "python -m zgedge.bench.choice --data DATA --budget SIZE --steps N --out FILE",
            [seed], packages=("numpy", "torch", "zgedge"),
        )  # fmt: skip
        before += [
            "- Method: equal bytes, equal steps, one seed. Random networks are drawn from all that "
            "the planner's families hold, each as wide as the budget allows. The choice is made "
            f"from held-out rows, or by the prior alone where these are fewer than {FEWEST_HELD}.",
            "",
        ]
    results.write(out, [*before, "", *section])
    click.echo("\n".join(section))


if __name__ == "__main__":
    main()
