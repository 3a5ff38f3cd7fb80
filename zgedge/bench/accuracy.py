"""Accuracy tables: what a byte budget buys, next to the baselines at equal bytes.

`equal-bytes` trains, at each budget of inference bytes, fixed sparse, rewired sparse (every
strategy), dense int8, and fixed seeded features with an analytic head. `budgets` trains the default
network at each budget, learning included. Bytes are the length of the written file. Runs are kept
as JSON lines, so that a table that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from zgedge import arena, data
from zgedge.bench import results, timing
from zgedge.budget import Task, format_size, parse_size, plan
from zgedge.data import Dataset
from zgedge.errors import UsageError
from zgedge.network import Network, dense
from zgedge.runtime import Model
from zgedge.train import fit_analytic, train

PACKAGES = ("numpy", "torch", "zgedge")
FIXED, DENSE, ANALYTIC = "fixed sparse", "dense int8", "analytic head"
REWIRED = {"rewired sparse, set": "set", "rewired sparse, rigl": "rigl"}
EQUAL_ROWS = (FIXED, *REWIRED, DENSE, ANALYTIC)


@dataclass(frozen=True)
class Run:
    """One trained network: the key of its row, and what was measured on its written file."""

    table: str
    data: str
    budget: int
    row: str
    seed: int
    bytes: int
    accuracy: float
    shadow: float | None
    rewired: int
    seconds: float
    network: str

    @property
    def key(self) -> tuple[str, str, int, str, int]:
        return self.table, self.data, self.budget, self.row, self.seed


def describe(network: Network) -> str:
    """A network's shape in a few characters: 784 -64/4- 96 - 10 is fan-in 64 in blocks of 4."""
    text = f"{network.inputs:,}"
    for layer in network.layers:
        wires = f"-{layer.width}/{layer.block}-" if layer.per_row else "-"
        text += f" {wires} {layer.outputs:,}"
    return text


def dense_network(task: Task, budget: int) -> Network:
    """The dense network of one hidden layer with the most units in that many inference bytes."""
    template = plan(task, budget, learning=False).network

    def of(units: int) -> Network:
        layers = (dense(task.inputs, units), dense(units, task.classes))
        return Network(
            shape=task.shape, classes=task.classes, layers=layers, names_bytes=task.names_bytes,
            groups=task.groups, task=task.kind, learning=False, batch=1, align=template.align,
        )  # fmt: skip

    units = 1
    while of(units + 1).file_bytes <= budget:
        units += 1
    if of(units).file_bytes > budget:
        raise UsageError(f"No dense network fits {budget:,} bytes.")
    return of(units)


def _written(dataset: Dataset, network: Network, strategy: str, seed: int) -> dict[str, Any]:
    """Train, write, open the written bytes with the core, and measure there."""
    result = train(dataset, network, strategy=strategy, seed=seed)
    blob = arena.write(result.network, result.parameters)
    buffer = arena.aligned(len(blob))
    buffer.data[:] = blob
    found, _ = Model(buffer, dataset.name).predict_index(dataset.x_test)
    return {
        "bytes": len(blob),
        "accuracy": float((found == dataset.y_test).mean()),
        "shadow": result.shadow_accuracy,
        "rewired": result.rewired,
        "seconds": round(result.seconds, 1),
        "network": describe(network),
    }


def measure(table: str, dataset: Dataset, budget: int, row: str, seed: int) -> Run:
    """Train and measure one cell of a table."""
    task = Task.of(dataset)
    if row == ANALYTIC:
        head = fit_analytic(dataset, budget, seed=seed)
        found: dict[str, Any] = {
            "bytes": head.bytes, "accuracy": head.accuracy, "shadow": None, "rewired": 0,
            "seconds": 0.0, "network": f"{task.inputs:,} - {head.features:,} features - LDA",
        }  # fmt: skip
    elif row == DENSE:
        found = _written(dataset, dense_network(task, budget), "static", seed)
    else:
        network = plan(task, budget, learning=table == "budgets").network
        strategy = "static" if row == FIXED else REWIRED.get(row, "rigl")
        found = _written(dataset, network, strategy, seed)
    return Run(table, dataset.name, budget, row, seed, **found)


def collect(
    table: str,
    dataset: Dataset,
    budgets: list[int],
    rows: tuple[str, ...],
    seeds: list[int],
    log: Path | None,
    say: Callable[[str], None],
) -> list[Run]:
    """All cells, those of the log not trained again."""
    done = {run.key: run for run in _read(log)}
    runs = []
    for seed in seeds:
        for budget in budgets:
            for row in rows:
                run = done.get((table, dataset.name, budget, row, seed))
                if run is None:
                    run = measure(table, dataset, budget, row, seed)
                    say(f"{format_size(budget)} {row} seed {seed}: {100 * run.accuracy:.2f} %")
                    if log is not None:
                        with log.open("a", encoding="utf-8") as f:
                            f.write(json.dumps(asdict(run)) + "\n")
                runs.append(run)
    return runs


def _read(log: Path | None) -> Iterator[Run]:
    if log is not None and log.exists():
        for line in log.read_text(encoding="utf-8").splitlines():
            yield Run(**json.loads(line))


def equal_bytes_markdown(runs: list[Run], budgets: list[int]) -> list[str]:
    """One table a budget; the gains are over fixed sparse, paired over seeds."""
    lines: list[str] = []
    for budget in budgets:
        fixed = [r.accuracy for r in runs if r.budget == budget and r.row == FIXED]
        body = []
        for row in EQUAL_ROWS:
            mine = [r for r in runs if r.budget == budget and r.row == row]
            values = [r.accuracy for r in mine]
            gain = "" if row == FIXED else results.gain(values, fixed)
            rewired = round(sum(r.rewired for r in mine) / len(mine))
            body.append(
                [row, f"`{mine[0].network}`", f"{max(r.bytes for r in mine):,}",
                 results.percent(values), gain, f"{rewired:,}",
                 f"{sum(r.seconds for r in mine) / len(mine):.0f}"]
            )  # fmt: skip
        lines += [f"## {format_size(budget)} inference bytes", ""]
        lines += results.table(
            ["", "network", "bytes", "test accuracy, %", "gain over fixed, points",
             "connections rewired", "s"],
            body,
        )  # fmt: skip
        lines.append("")
    return lines


def budgets_markdown(runs: list[Run], budgets: list[int]) -> list[str]:
    """One row a budget, with the gap between the core and the float network behind it."""
    body = []
    for budget in budgets:
        mine = [r for r in runs if r.budget == budget]
        gap = [100 * (r.accuracy - (r.shadow or 0.0)) for r in mine]
        body.append(
            [format_size(budget), f"{max(r.bytes for r in mine):,}", f"`{mine[0].network}`",
             results.percent([r.accuracy for r in mine]),
             results.percent([r.shadow or 0.0 for r in mine]), f"{sum(gap) / len(gap):+.2f}",
             f"{sum(r.rewired for r in mine) // len(mine):,}",
             f"{max(r.seconds for r in mine):.0f}"]
        )  # fmt: skip
    return results.table(
        ["budget", "file, bytes", "network", "test accuracy, %", "float shadow, %",
         "core less shadow, points", "connections rewired", "s, most"],
        body,
    )  # fmt: skip


@click.command()
@click.argument("table", type=click.Choice(["equal-bytes", "budgets"]))
@click.option("--data", "name", default="digits", show_default=True, help="Data set.")
@click.option("--budget", default="12KB,48KB", show_default=True, help="Sizes, comma-separated.")
@click.option("--seeds", default="0,1,2,3,4", show_default=True, help="Seeds, comma-separated.")
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="JSON lines to keep.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def main(
    table: str,
    name: str,
    budget: str,
    seeds: str,
    log: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Train every row of a table and measure it on the written files."""
    dataset = data.load(name)
    budgets = [parse_size(size) for size in budget.split(",")]
    numbers = [int(seed) for seed in seeds.split(",")]
    rows = EQUAL_ROWS if table == "equal-bytes" else ("default",)
    runs = collect(
        table, dataset, budgets, rows, numbers, log, lambda text: click.echo(text, err=True)
    )
    command = f"python -m zgedge.bench.accuracy {table} --data {name} --budget {budget}"
    title = f"{dataset.name}: " + (
        "accuracy at equal bytes" if table == "equal-bytes" else "what a budget buys"
    )
    lines = results.heading(title, f"{command} --out {out or 'FILE'}", numbers, packages=PACKAGES)
    lines.append("- Accuracy is that of the core on the written file; bytes are its length.")
    lines.append("")
    make = equal_bytes_markdown if table == "equal-bytes" else budgets_markdown
    lines += make(runs, budgets)
    if out is not None:
        results.write(out, lines)
    if as_json:
        click.echo(json.dumps({"table": table, "runs": [asdict(run) for run in runs]}))
    else:
        click.echo("\n".join(lines))


if __name__ == "__main__":
    timing.restart_clean("zgedge.bench.accuracy")
    main()
