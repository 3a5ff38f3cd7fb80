"""The speed tables: learning against torch and numpy, prediction against LiteRT.

    python -m zgedge.bench.speed [--json] [--out docs/results/speed.md] [--quick]

Everything is measured in one process, on one core, with one thread, in turn (`timing.measure`).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from zgedge.bench import ours, peers, timing
from zgedge.bench.nets import random_zge
from zgedge.bench.tflite_model import random_dense
from zgedge.bench.timing import Runner, Spread
from zgedge.runtime import core_library as core

FAN_IN = 32
PACKAGES = ("numpy", "torch", "ai-edge-litert")
LEARNING_GOAL = 10.0  # times faster than torch in eager mode
# torch.compile of the loss was tried and left out: per call it is slower than eager at this size.


@dataclass(frozen=True)
class Table:
    """One table, our rows first; `goal` is what the ratio of `rival` to the first must exceed."""

    key: str
    title: str
    rows: tuple[Spread, ...]
    rival: str
    goal: float
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = field(default=())

    def ratios(self, row: Spread) -> tuple[float, float, float]:
        """How many times longer `row` takes than our first row: median, least and most."""
        return timing.ratio(row, self.rows[0])

    @property
    def passed(self) -> bool | None:
        """Whether the goal is met; None where the rival could not be run."""
        for row in self.rows:
            if row.name == self.rival:
                return self.ratios(row)[0] > self.goal
        return None

    def as_json(self) -> dict[str, Any]:
        """Rows with ratios, and the verdict."""
        return {
            "title": self.title,
            "rows": [
                {**row.as_json(), "ratio": round(self.ratios(row)[0], 3)} for row in self.rows
            ],
            "rival": self.rival,
            "goal": self.goal,
            "passed": self.passed,
            "notes": list(self.notes),
            "missing": list(self.missing),
        }

    def as_markdown(self) -> str:
        """The table and its notes."""
        lines = [f"## {self.title}", "", "| what | median µs | min-max µs | against ours |"]
        lines.append("| --- | ---: | ---: | ---: |")
        for row in self.rows:
            middle, least, most = self.ratios(row)
            against = f"{middle:.2f} x ({least:.2f}-{most:.2f})"
            lines.append(
                f"| {row.name} | {_us(row.median)} | {_us(row.least)}-{_us(row.most)} | {against} |"
            )
        lines.append("")
        lines += [f"{note}\n" for note in self.notes]
        lines += [f"Not measured here: {text}\n" for text in self.missing]
        passed = {True: "met", False: "**not met**", None: "not measured"}[self.passed]
        lines.append(f"Goal: more than {self.goal:g} x faster than {self.rival}: {passed}.\n")
        return "\n".join(lines)


def _us(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _ready(makers: Sequence[Callable[[], Runner]]) -> tuple[list[Runner], list[str]]:
    """Set the peers up; those that cannot run here are named with the reason."""
    runners, missing = [], []
    for make in makers:
        try:
            runners.append(make())
        except peers.PeerUnavailableError as error:
            missing.append(error.message)
    return runners, missing


def learning(batch: int, rounds: int, slice_ms: float) -> Table:
    """One learning step of `batch` samples: ours with backward pass, update and a row rewired."""
    call = "learn_one" if batch == 1 else "learn_many"
    mine = [
        ours.LearnerRunner(
            random_zge(peers.WIDTHS, FAN_IN, pixels=pixels, batch=16),
            batch,
            f"zgedge, Learner.{call}, {kind}",
            pixels=pixels,
        )
        for pixels, kind in ((False, "float32 samples"), (True, "uint8 samples"))
    ]
    makers = (peers.torch_step, peers.torch_lean_step, peers.torch_manual_step, peers.numpy_step)
    others, missing = _ready([lambda make=make: make(batch) for make in makers])  # type: ignore[misc]
    rows = timing.measure([m.runner for m in mine] + others, rounds, slice_ms)
    rewired = " and ".join(f"{m.rewired_per_step:.2f}" for m in mine)
    return Table(
        f"learning_{batch}",
        f"Learning step, batch {batch}",
        tuple(rows),
        "torch, eager",
        LEARNING_GOAL,
        (
            f"Ours predicts, goes backward, updates all weights and rewires one row at every step "
            f"({rewired} connections replaced per step), remembers the samples, and is called "
            f"through the Python API. The peers' step is forward, cross entropy, backward, update "
            f"of the dense float32 network. Connections of ours: {FAN_IN} a hidden unit.",
        ),
        tuple(missing),
    )


def _samples() -> tuple[Any, Any]:
    """64 inputs, as pixels uint8 for ours and as the same numbers in LiteRT's int8."""
    pixels = np.random.default_rng(5).integers(0, 256, (64, peers.WIDTHS[0]), np.uint8)
    return pixels, (pixels.astype(np.int16) - 128).astype(np.int8)


def prediction_c(rounds: int, slice_ms: float) -> Table:
    """Prediction of one sample, called from C loops."""
    pixels, codes = _samples()
    dense = random_dense(peers.WIDTHS)
    mine = [
        ours.predict_c(random_zge(peers.WIDTHS, FAN_IN, block, learning=False), pixels, name)
        for block, name in (
            (1, "zgedge, C core"),
            (4, "zgedge, C core, indices for blocks of 4"),
            (16, "zgedge, C core, indices for blocks of 16"),
        )
    ]
    others, missing = _ready(
        [
            lambda: peers.litert_invoke(dense, codes),
            lambda: peers.litert_invoke(dense, codes, copy=False),
            lambda: peers.litert_compiled(dense, codes),
        ]
    )
    return Table(
        "prediction_c",
        "Prediction, batch 1, C to C",
        tuple(timing.measure(mine + others, rounds, slice_ms)),
        "LiteRT, C++ Interpreter::Invoke",
        1.0,
        (
            "Every call takes another of 64 inputs. Ours quantizes raw uint8 values, runs the "
            "layers and gives the class with its score; LiteRT's copies the int8 input in, invokes "
            "and copies the int8 output out, but for the row that invokes alone. "
            "`Interpreter::Invoke` is LiteRT's fastest way in: its C API adds tensor buffers.",
        ),
        tuple(missing),
    )


def prediction_python(rounds: int, slice_ms: float) -> Table:
    """Prediction of one sample through both Python APIs."""
    pixels, codes = _samples()
    mine = ours.predict_python(random_zge(peers.WIDTHS, FAN_IN, learning=False), pixels)
    others, missing = _ready([lambda: peers.litert_python(random_dense(peers.WIDTHS), codes)])
    return Table(
        "prediction_python",
        "Prediction, batch 1, Python API to Python API",
        tuple(timing.measure([mine, *others], rounds, slice_ms)),
        "LiteRT, Python API",
        1.0,
        (
            "Ours: `Model.predict_one(x)`, raw uint8 in, label out. LiteRT: `set_tensor`, "
            "`invoke`, `get_tensor`, int8 in and out.",
        ),
        tuple(missing),
    )


def run(rounds: int, slice_ms: float) -> dict[str, Any]:
    """Measure all tables. Returns what `--json` prints, with Table objects under "tables"."""
    timing.pin()
    about = timing.machine()
    tables = [
        prediction_c(rounds, slice_ms),
        prediction_python(rounds, slice_ms),
        learning(1, rounds, slice_ms),
        learning(16, rounds, slice_ms),
    ]
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": about,
        "versions": {**timing.versions(*PACKAGES), "zgedge core": core.version()},
        "variant": core.variant(),
        "rounds": rounds,
        "tables": tables,
    }


def as_markdown(result: dict[str, Any]) -> str:
    """The results file."""
    about, versions = result["machine"], result["versions"]
    lines = [
        "# Speed",
        "",
        "Written by `python -m zgedge.bench.speed --out docs/results/speed.md`; do not edit.",
        "",
        f"- Network: {'-'.join(map(str, peers.WIDTHS))}; ours with fan-in {FAN_IN} and a dense "
        "head, LiteRT's dense int8, torch's and numpy's dense float32.",
        f"- Machine: {about['processor']}, {about['cores']} cores, one used, one thread; "
        f"{about['system']}, {about['instructions']}.",
        f"- Versions: {', '.join(f'{name} {number}' for name, number in versions.items())}; "
        f"kernel variant `{result['variant']}`.",
        f"- Date: {result['date']}. Load before the run: {about['load']}.",
        f"- Method: one process, everything in turn, {result['rounds']} rounds; medians and "
        "extremes over the rounds. A ratio is the median of the rounds' own ratios to our first "
        "row.",
        "",
    ]
    lines += [table.as_markdown() for table in result["tables"]]
    return "\n".join(lines).rstrip() + "\n"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the tables as Markdown to this file.",
)
@click.option("--quick", is_flag=True, help="A short run: figures are rough.")
def main(as_json: bool, out: Path | None, quick: bool) -> None:
    """Time one learning step and one prediction, ours against torch, numpy and LiteRT."""
    result = run(3, 2.0) if quick else run(41, 25.0)
    text = as_markdown(result)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    if as_json:
        tables = {table.key: table.as_json() for table in result.pop("tables")}
        click.echo(json.dumps({**result, "tables": tables}))
    else:
        click.echo(text, nl=False)


if __name__ == "__main__":
    timing.restart_clean("zgedge.bench.speed")
    main()
