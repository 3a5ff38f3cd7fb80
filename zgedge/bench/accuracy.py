"""Accuracy tables: what a byte budget buys, next to the baselines at equal bytes.

`equal-bytes` trains, at each budget of inference bytes, fixed sparse, rewired sparse (every
strategy), dense int8, on pictures the planner's convolution, and fixed seeded features with an
analytic head. `budgets` trains the planned network at each budget, learning included. Bytes are the
length of the written file, accuracy is that of the file, opened again.

Runs are kept as JSON lines, each under a key of all that decides its result, so that a table that
was interrupted goes on where it stopped and never takes over what another network, another data set
or another way of training gave.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from zgedge import arena
from zgedge.bench import results, timing
from zgedge.budget import Task, format_size, plan, sparse_plan
from zgedge.data import Dataset
from zgedge.errors import BudgetError, UsageError
from zgedge.network import Network, dense
from zgedge.runtime import Model
from zgedge.spec import spec_of
from zgedge.train import AnalyticHead, fit_analytic, strategies, train
from zgedge.train.analytic import features_for

PACKAGES = ("numpy", "torch", "zgedge")
# Modules of the package that trains which no run of a table goes through: the network that a search
# found is in a run's key itself.
NOT_IN_A_RUN = frozenset(
    {
        "duration", "estimator", "fixed", "float_network", "importing", "prune", "read_onnx",
        "room", "search", "seeded",
    }
)  # fmt: skip
FIXED, DENSE, ANALYTIC, CONVOLUTION = (
    "fixed sparse", "dense int8", "analytic head", "convolution",
)  # fmt: skip
REWIRED = "rewired sparse, "
PLANNED = "planned"
TITLES = {
    "equal-bytes": "accuracy at equal bytes",
    "budgets": "what a budget buys",
}


@dataclass(frozen=True)
class Run:
    """One trained network: its place in a table, and what was measured on its written file.

    `key` stands for all that decides the result; `bytes` is the length of the file, `accuracy` that
    of the opened file on the test rows, `shadow` that of the float network behind it (None where
    there is none), `rewired` the connections replaced, `seconds` the training's.
    """

    table: str
    data: str
    budget: int
    row: str
    seed: int
    key: str
    bytes: int
    accuracy: float
    shadow: float | None
    rewired: int
    seconds: float
    network: str


@dataclass(frozen=True)
class Cell:
    """What a row trains at a budget. `network` is None for the analytic head."""

    budget: int
    network: Network | None
    strategy: str = "static"


@dataclass(frozen=True)
class Table:
    """A table as far as it was measured.

    `asked` are its rows, `missing` those that no file of a budget holds, with the reason;
    `complete` is False where the measuring was interrupted.
    """

    name: str
    data: str
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    asked: tuple[str, ...]
    runs: tuple[Run, ...]
    missing: tuple[tuple[int, str, str], ...]
    complete: bool
    cells: int

    def of(self, budget: int, row: str) -> list[Run]:
        return [run for run in self.runs if run.budget == budget and run.row == row]

    def rows(self, budget: int) -> list[str]:
        """Rows that have a run at a budget, in their order."""
        return list(dict.fromkeys(run.row for run in self.runs if run.budget == budget))


def equal_rows(dataset: Dataset) -> tuple[str, ...]:
    """The rows of the equal-bytes table: every strategy that there is, convolutions on pictures."""
    rewired = [REWIRED + name for name in strategies() if name != "static"]
    picture = [CONVOLUTION] if dataset.kind == "picture" else []
    return (FIXED, *rewired, DENSE, *picture, ANALYTIC)


def rows_named(text: str, dataset: Dataset) -> tuple[str, ...]:
    """Rows of the equal-bytes table from a list with semicolons, in the table's order.

    Raises UsageError for a name that is no row of these data.
    """
    every = equal_rows(dataset)
    names = [name.strip() for name in text.split(";")]
    for name in names:
        if name not in every:
            raise UsageError(
                f"{name!r} is no row for these data.", f"There are: {'; '.join(every)}."
            )
    return tuple(row for row in every if row in names)


def dense_network(task: Task, budget: int) -> Network:
    """The dense network of one hidden layer with the most units in that many inference bytes.

    Raises BudgetError where none fits.
    """
    template = sparse_plan(task, budget, learning=False).network

    def of(units: int) -> Network:
        layers = (dense(task.inputs, units), dense(units, task.classes))
        return replace(template, layers=layers)

    smallest = of(1).file_bytes
    if smallest > budget:
        raise BudgetError(
            f"No dense network fits {budget:,} bytes.",
            f"The smallest takes {smallest:,} bytes.",
            smallest=smallest,
        )
    units = 1
    while of(units + 1).file_bytes <= budget:
        units += 1
    return of(units)


def cell_of(dataset: Dataset, row: str, budget: int) -> Cell:
    """What a row trains at a budget. Raises BudgetError where nothing of its kind fits."""
    # Names of columns tell no way of training from another, and an analytic head has none.
    task = replace(Task.of(dataset), column_bytes=0)
    if row == ANALYTIC:
        features_for(dataset, budget)
        return Cell(budget, None)
    if row == DENSE:
        return Cell(budget, dense_network(task, budget))
    if row in (PLANNED, CONVOLUTION):
        network = plan(task, budget, learning=row == PLANNED).network
        if row == CONVOLUTION and not network.trunk:
            raise BudgetError(f"The planner finds no convolution in {budget:,} bytes.")
        return Cell(budget, network, "rigl")
    network = sparse_plan(task, budget, learning=False).network
    return Cell(budget, network, row.removeprefix(REWIRED) if row.startswith(REWIRED) else "static")


def fingerprint(dataset: Dataset) -> str:
    """A digest of all rows, labels and names."""
    digest = hashlib.sha256(repr((dataset.classes, dataset.shape, dataset.kind)).encode())
    for array in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test):
        digest.update(str((array.dtype, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def recipe() -> str:
    """A digest of the way of training: the versions that compute, and the sources of the package
    that trains, but for those that no run goes through."""
    versions = timing.versions(*PACKAGES)
    digest = hashlib.sha256(json.dumps(versions, sort_keys=True).encode())
    folder = Path(__file__).resolve().parent.parent / "train"
    for path in sorted(folder.rglob("*.py")):
        if path.stem in NOT_IN_A_RUN:
            continue
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _key(cell: Cell, data: str, how: str, seed: int, epochs: int | None) -> str:
    what = f"analytic {cell.budget}" if cell.network is None else repr(cell.network)
    return hashlib.sha256(
        json.dumps([what, cell.strategy, data, how, seed, epochs]).encode()
    ).hexdigest()[:16]


def measure(
    dataset: Dataset,
    cell: Cell,
    seed: int,
    epochs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Train a cell, write its file, open what was written, and measure there.

    `progress` is called with epochs done and epochs in all. Raises KeyboardInterrupt at Ctrl-C:
    a network that was not trained to its end belongs in no table.
    """
    found: npt.NDArray[Any]
    if cell.network is None:
        file = fit_analytic(dataset, cell.budget, seed=seed).write()
        head = AnalyticHead.read(file)
        found = head.predict_index(dataset.x_test)
        about: dict[str, Any] = {
            "shadow": None, "rewired": 0, "seconds": 0.0,
            "network": f"{head.features} features, LDA",
        }  # fmt: skip
    else:
        result = train(
            dataset, cell.network, strategy=cell.strategy, seed=seed, epochs=epochs,
            progress=None if progress is None else lambda e: progress(e.epoch, e.epochs),
        )  # fmt: skip
        if result.interrupted:
            raise KeyboardInterrupt
        file = arena.write(result.network, result.parameters)
        buffer = arena.in_memory(file)
        found, _ = Model(buffer, dataset.name).predict_index(dataset.x_test)
        about = {
            "shadow": result.shadow_accuracy, "rewired": result.rewired,
            "seconds": round(result.seconds, 1), "network": spec_of(result.network),
        }  # fmt: skip
    return {"bytes": len(file), "accuracy": float((found == dataset.y_test).mean()), **about}


def collect(
    name: str,
    dataset: Dataset,
    budgets: Sequence[int],
    seeds: Sequence[int],
    *,
    rows: Sequence[str] | None = None,
    log: Path | None = None,
    epochs: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    watch: Callable[[str], AbstractContextManager[Callable[[int, int], None]]] | None = None,
) -> Table:
    """Measure all cells of a table, those of the log not again; seed by seed, so that what an
    interruption leaves are whole seeds.

    rows    those to measure; else those of the table
    say     called with a line for each run
    watch   a context for a run of that name: it gives a callback for epochs done and in all

    Ctrl-C ends it, and the table holds what was measured, now or before. Raises BudgetError where
    nothing at all fits a budget, ZgedgeError where the log cannot be written.
    """
    rows = rows or (equal_rows(dataset) if name == "equal-bytes" else (PLANNED,))
    cells: list[tuple[int, str, Cell]] = []
    missing = []
    for budget in budgets:
        refused: list[BudgetError] = []
        for row in rows:
            try:
                cells.append((budget, row, cell_of(dataset, row, budget)))
            except BudgetError as error:
                refused.append(error)
                missing.append((budget, row, error.message))
        if len(refused) == len(rows):
            raise refused[0]
    data, how = fingerprint(dataset), recipe()
    done = {run.key: run for run in results.read_log(log, Run)}
    wanted: list[tuple[dict[str, Any], Cell]] = [
        ({"table": name, "data": dataset.name, "budget": budget, "row": row, "seed": seed}, cell)
        for seed in seeds
        for budget, row, cell in cells
    ]
    keys = [_key(cell, data, how, place["seed"], epochs) for place, cell in wanted]
    with suppress(KeyboardInterrupt):
        for number, ((place, cell), key) in enumerate(zip(wanted, keys, strict=True), 1):
            if key in done:
                continue
            seed = place["seed"]
            title = f"{format_size(place['budget'])}, {place['row']}, seed {seed}"
            if watch is None:
                found = measure(dataset, cell, seed, epochs)
            else:
                with watch(title) as progress:
                    found = measure(dataset, cell, seed, epochs, progress)
            done[key] = Run(**place, key=key, **found)
            results.append(log, done[key])
            say(
                f"[{number}/{len(wanted)}] {title}: {100 * found['accuracy']:.2f} %, "
                f"{found['bytes']:,} bytes, {found['seconds']:.0f} s"
            )
    runs = [
        replace(done[key], **place)
        for (place, _), key in zip(wanted, keys, strict=True)
        if key in done
    ]
    return Table(
        name, dataset.name, tuple(budgets), tuple(seeds), tuple(rows), tuple(runs), tuple(missing),
        len(runs) == len(wanted), len(wanted),
    )  # fmt: skip


def numbers_of(text: str) -> list[int]:
    """Seeds of a list such as "0,1,2". Raises UsageError for anything else."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) != len(seeds) or not all(0 <= s < 2**32 for s in seeds):
        raise UsageError(
            f"{text!r} is no list of seeds.", "Write different numbers from 0 up, as in 0,1,2."
        )
    return seeds


def summary(table: Table) -> list[dict[str, Any]]:
    """A record for each row and budget: bytes, accuracy with its spread, and in the equal-bytes
    table the gain over fixed sparse in points, paired over seeds, with its 95 % interval."""
    out = []
    for budget in table.budgets:
        fixed = {run.seed: run.accuracy for run in table.of(budget, FIXED)}
        for row in table.rows(budget):
            mine = table.of(budget, row)
            pairs = [(r.accuracy, fixed[r.seed]) for r in mine if r.seed in fixed and row != FIXED]
            gain = results.paired(*zip(*pairs, strict=True)) if pairs else None
            values = [run.accuracy for run in mine]
            low, high = (None, None) if gain is None or gain[1] is None else (
                gain[0] - gain[1], gain[0] + gain[1],
            )  # fmt: skip
            out.append({
                "budget": budget, "row": row, "bytes": max(run.bytes for run in mine),
                "network": mine[0].network, "seeds": len(mine),
                "accuracy": statistics.fmean(values),
                "deviation": statistics.stdev(values) if len(values) > 1 else None,
                "gain": None if gain is None else gain[0], "low": low, "high": high,
                "no_gain": None if low is None or high is None else low <= 0 <= high,
                "rewired": round(statistics.fmean(run.rewired for run in mine)),
                "seconds": round(statistics.fmean(run.seconds for run in mine), 1),
            })  # fmt: skip
    return out


def markdown(table: Table, command: str, plot: str | None = None) -> list[str]:
    """The page of a table: heading, what is missing, and a table a budget or a row a budget.

    `plot` is the place of its picture, as seen from the page.
    """
    lines = results.heading(
        f"{table.data}: {TITLES[table.name]}", command, table.seeds, packages=PACKAGES
    )
    lines.append("- Bytes are the length of the written file, accuracy is that of the file.")
    lines.append(
        "- Networks are written as for `--network`: `s96:64/4` is 96 sparse units of fan-in 64 in "
        "blocks of 4, `d13` are 13 dense ones, `c3x8` is a 3 x 3 convolution of 8 channels, and a "
        "dense head comes last."
    )
    if len(table.runs) < table.cells:
        lines.append(
            f"- Measured so far: {len(table.runs)} of {table.cells} runs; the column of seeds says "
            "how many a figure has. The same command goes on."
        )
    lines.append("")
    if plot is not None:
        lines += [f"![Accuracy against bytes]({plot})", ""]
    return lines + (_equal(table) if table.name == "equal-bytes" else _budgets(table))


def _equal(table: Table) -> list[str]:
    """One table a budget; the gains are over fixed sparse."""
    lines: list[str] = []
    found = summary(table)
    for budget in table.budgets:
        body = []
        for record in (r for r in found if r["budget"] == budget):
            mine = table.of(budget, record["row"])
            body.append([
                record["row"], f"`{record['network']}`", f"{record['bytes']:,}",
                results.percent([run.accuracy for run in mine]), _gain(record), len(mine),
                f"{record['rewired']:,}", f"{record['seconds']:.0f}",
            ])  # fmt: skip
        lines += [f"## {format_size(budget)} inference bytes", ""]
        if body:
            lines += results.table(
                ["", "network", "bytes", "test accuracy, %", "gain over fixed, points", "seeds",
                 "connections rewired", "s"],
                body,
            )  # fmt: skip
            lines.append("")
        gone = {row: why for size, row, why in table.missing if size == budget}
        for row, why in gone.items():
            lines += [f"No {row}: {why}", ""]
        if late := [row for row in table.asked if row not in gone and not table.of(budget, row)]:
            lines += [f"Not measured yet: {'; '.join(late)}.", ""]
    return lines


def _gain(record: dict[str, Any]) -> str:
    if record["gain"] is None:
        return ""
    half = None if record["low"] is None else record["gain"] - record["low"]
    return results.gain_text(record["gain"], half)


def _budgets(table: Table) -> list[str]:
    """One row a budget, with the gap between the core and the float network behind it."""
    body = []
    for budget in table.budgets:
        mine = table.of(budget, PLANNED)
        if not mine:
            continue
        gap = [100 * (r.accuracy - r.shadow) for r in mine if r.shadow is not None]
        body.append([
            format_size(budget), f"{max(r.bytes for r in mine):,}", f"`{mine[0].network}`",
            results.percent([r.accuracy for r in mine]),
            results.percent([r.shadow for r in mine if r.shadow is not None]),
            f"{statistics.fmean(gap):+.2f}", f"{sum(r.rewired for r in mine) // len(mine):,}",
            f"{math.ceil(max(r.seconds for r in mine))}",
        ])  # fmt: skip
    return results.table(
        ["budget", "file, bytes", "network", "test accuracy, %", "float shadow, %",
         "core less shadow, points", "connections rewired", "s, most"],
        body,
    )  # fmt: skip
