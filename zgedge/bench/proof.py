"""The proof's table: models of digits learn for a million steps, and leak where that is planted.

python -m zgedge.bench.proof [--json] [--out docs/results/proof.md]
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from zgedge import arena, data
from zgedge.bench import results
from zgedge.budget import Task, format_size, parse_size, plan
from zgedge.errors import ProofError
from zgedge.runtime import prover

EPOCHS = 20
LEAK = 64
SHORT = 10_000


def measure(
    seeds: list[int], budget: int, steps: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Train a model of digits for each seed and prove it: sound, and with a leak that is planted.

    Returns what `zgedge.runtime.prover.prove` does, less the readings, with `seed` and `leak`.
    """
    from zgedge.train import train

    digits = data.load("digits")
    network = plan(Task.of(digits), budget).network
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            result = train(digits, network, seed=seed, epochs=EPOCHS)
            path = Path(folder, f"{seed}.zge")
            path.write_bytes(arena.write(network, replace(result.parameters, budget=budget)))
            for run, leak in ((steps, 0), (steps, LEAK), (min(steps, SHORT), LEAK)):
                proof = prover.prove(str(path), run, leak=leak)
                del proof["record"]
                found.append({"seed": seed, "leak": leak, **proof})
                say(f"seed {seed}, {run:,} steps, leak {leak}: passed {proof['passed']}, "
                    f"growth {proof['rss_growth']:,}")  # fmt: skip
    return found


def markdown(found: list[dict[str, Any]], budget: int) -> list[str]:
    """The results file."""
    seeds = sorted({row["seed"] for row in found})
    lines = results.heading(
        "Proof: memory does not grow",
        f"python -m zgedge.bench.proof --budget {budget} --out docs/results/proof.md",
        seeds,
        packages=("python", "numpy", "psutil", "zgedge"),
    )
    lines += [
        f"- Models: digits in {format_size(budget)}, {EPOCHS} epochs; each learns the samples that "
        "it remembers, one new and a batch of remembered ones a step, by `zgedge prove`.",
        "- Growth is the most after warm-up (a hundredth of the steps) less the value at its end, "
        "in bytes, the highest over the seeds for a sound run and the lowest for a leaking one.",
        "",
    ]
    runs = sorted({(row["leak"], row["steps"]) for row in found}, key=lambda r: (r[0], -r[1]))
    body = []
    for leak, steps in runs:
        rows = [row for row in found if (row["leak"], row["steps"]) == (leak, steps)]
        judge = min if leak else max
        body.append(
            [
                f"{steps:,}",
                leak or "none",
                f"{sum(row['passed'] for row in rows)} of {len(rows)}",
                f"{judge(row['rss_growth'] for row in rows):,}",
                f"{judge(row['uss_growth'] for row in rows):,}",
                f"{max(row['minor_faults'] + row['major_faults'] for row in rows):,}",
                f"{statistics.fmean(row['rewired'] for row in rows):,.0f}",
                f"{statistics.fmean(row['steps_per_second'] for row in rows):,.0f}",
                f"{max(row['peak'] for row in rows) / 2**20:.1f}",
            ]
        )  # fmt: skip
    head = ["steps", "leak, bytes a step", "proved", "RSS growth", "USS growth", "page faults",
            "connections rewired", "steps a second", "peak, MB"]  # fmt: skip
    return lines + results.table(head, body)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file.")
@click.option("--seeds", default=5, show_default=True, help="How many seeds, from 0.")
@click.option("--steps", default=1_000_000, show_default=True, help="Learning steps of a proof.")
@click.option("--budget", default="256KB", show_default=True, help="Size of the models.")
def main(as_json: bool, out: Path | None, seeds: int, steps: int, budget: str) -> None:
    """Prove that models which learn do not grow, and that a planted leak is found."""
    size = parse_size(budget)
    found = measure(list(range(seeds)), size, steps, lambda text: click.echo(text, err=True))
    lines = markdown(found, size)
    if out is not None:
        results.write(out, lines)
    click.echo(json.dumps({"budget": size, "runs": found}) if as_json else "\n".join(lines))
    wrong = [row for row in found if row["passed"] == bool(row["leak"])]
    if wrong:
        raise SystemExit(ProofError.exit_code)


if __name__ == "__main__":
    main()
