"""Which bytes of a .zge file opening, predicting and learning touch.

    python tools/coverage_of_arena.py FILE [--data digits] [--json] [--least 97]
    python tools/coverage_of_arena.py --results docs/results/bytes_used.md

Runs the portable core with every access to memory traced (tests/platform/trace.c) over a stream of
samples, long enough to fill the replay, to draw each remembered sample and to visit each row that
can be rewired. Reading bytes for a checksum, or to see that padding is zero, does not count; nor
does sealing.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.platform import builds  # noqa: E402
from zgedge import arena, budget  # noqa: E402
from zgedge import network as net  # noqa: E402
from zgedge.errors import BudgetError  # noqa: E402

SEED = 1
OPENED, PREDICTED, LEARNED = 3, 12, 48  # bits of a mark: read and written, see trace.c
BUDGETS = ("2KB", "4KB", "16KB", "64KB", "256KB", "1MB")


@dataclass(frozen=True)
class Part:
    """Bytes of one section: how many there are, and how many were touched by what."""

    name: str
    bytes: int
    opened: int
    predicted: int
    learned: int
    at_work: int  # by predicting or learning
    touched: int  # by any of the three

    @classmethod
    def of(cls, name: str, marks: npt.NDArray[np.uint8]) -> Part:
        def count(bits: int) -> int:
            return int(np.count_nonzero(marks & bits))

        return cls(
            name, len(marks), count(OPENED), count(PREDICTED), count(LEARNED),
            count(PREDICTED | LEARNED), count(255),
        )  # fmt: skip


@dataclass(frozen=True)
class Coverage:
    """What of a file was touched. `parts` are in file order, the padding between sections last."""

    parts: tuple[Part, ...]
    whole: Part
    steps: int
    rewired: int

    @property
    def share(self) -> float:
        """Touched by opening, predicting or learning, of all bytes of the file."""
        return self.whole.touched / self.whole.bytes

    @property
    def share_at_work(self) -> float:
        """The same without opening."""
        return self.whole.at_work / self.whole.bytes


def enough_steps(network: net.Network, gather: int) -> int:
    """Steps after which the replay was full, each remembered sample was most likely drawn or
    replaced (coupon collector, failing once in e^5 runs), and each row had its visit."""
    if not network.learning:
        return 50
    rows = sum(x.outputs for x in network.layers if x.kind == net.SPARSE)
    steps = rows * math.ceil(gather / network.batch) + 8
    if held := network.replay_samples:
        new = max(1, network.batch // 2)
        steps += math.ceil(held / new) + math.ceil(held * (math.log(held) + 5) / network.batch)
    return steps


def random_stream(file: arena.Arena, samples: int = 512) -> bytes:
    """Samples whose codes are uniform in 0..255, of classes in random order."""
    rng = np.random.default_rng(SEED)
    network = file.network
    samples = max(net.MAX_BATCH + 1, min(samples, (8 << 20) // network.inputs))
    scale, center = file.input_coding()
    codes = rng.integers(0, 256, (samples, network.inputs)) - file.scales[0][3]
    x = (codes / scale + center).astype(np.float32)
    return builds.stream(x, rng.permutation(np.arange(samples) % network.classes))


def measure(data: bytes, stream: bytes | None = None, steps: int | None = None) -> Coverage:
    """Trace a file over a stream of samples (builds.stream), or over random ones.

    Raises builds.MissingToolError without gcc, CalledProcessError where the core refuses the file.
    """
    buffer = arena.aligned(len(data))
    buffer[:] = np.frombuffer(data, np.uint8)
    file = arena.Arena(buffer)
    network = file.network
    learner = file.learner()
    if steps is None:
        steps = enough_steps(network, learner["gather"] if learner else 1)
    with tempfile.TemporaryDirectory() as folder:
        new = max(1, network.batch // 2)
        result = builds.replay(
            [builds.traced()], data, stream or random_stream(file), Path(folder), "portable",
            steps, new, network.batch - new,
        )  # fmt: skip
    marks = np.frombuffer(result.data, np.uint8)
    between = np.ones(len(marks), bool)
    sections = list(network.sections())
    places = [("header and table", 0, net.HEADER_BYTES + net.ENTRY_BYTES * len(sections))]
    places += [(net.SECTION_NAMES[kind], offset, size) for kind, offset, size in sections]
    parts = []
    for name, offset, size in places:
        between[offset : offset + size] = False
        parts.append(Part.of(name, marks[offset : offset + size]))
    parts.append(Part.of("padding", marks[between]))
    return Coverage(tuple(parts), Part.of("all", marks), steps, result.rewired)


def planned_file(task: budget.Task, size: str, learning: bool) -> bytes:
    """What the planner makes of a budget, with random weights."""
    from tests import nets

    network = budget.plan(task, budget.parse_size(size), learning=learning).network
    names = [str(i) for i in range(task.classes)]
    names[0] += "x" * (task.names_bytes - len(arena.names_blob(names)))
    p = replace(nets.parameters(network, SEED), class_names=names, int_classes=False)
    # A visit each step: as many visits in fewer steps.
    learner = arena.LearnerParameters(key=SEED, rate=0.1, gather=network.batch)
    return arena.write(network, replace(p, learner=learner))


def tasks() -> dict[str, budget.Task]:
    """Tasks whose plans are measured: those of digits, of MNIST, and of a small table."""
    return {
        "digits": budget.Task((8, 8, 1), 10, 20, 1, "picture", 1_438),
        "MNIST": budget.Task((28, 28, 1), 10, 20, 1, "picture", 60_000),
        "table, 30 columns": budget.Task((1, 30, 1), 2, 17, 30, "table", 455),
    }


def lines_of(coverage: Coverage) -> list[str]:
    """A plain table, a line a section."""
    head = ("section", "bytes", "opening", "predicting", "learning", "at work", "any")
    out = ["{:<17}{:>9}{:>10}{:>12}{:>10}{:>9}{:>9}".format(*head)]
    for x in (*coverage.parts, coverage.whole):
        shares = [
            f"{n / x.bytes:.1%}" if x.bytes else "-"
            for n in (x.opened, x.predicted, x.learned, x.at_work, x.touched)
        ]
        out.append("{:<17}{:>9,}{:>10}{:>12}{:>10}{:>9}{:>9}".format(x.name, x.bytes, *shares))
    out.append(f"{coverage.steps:,} steps, {coverage.rewired:,} connections rewired")
    return out


def as_json(coverage: Coverage) -> dict[str, Any]:
    return {
        "share": coverage.share,
        "share_at_work": coverage.share_at_work,
        "steps": coverage.steps,
        "rewired": coverage.rewired,
        "sections": [vars(x) for x in coverage.parts],
    }


def results() -> list[str]:
    """The page of docs/results: planner outputs of some tasks, with learning and without."""
    from zgedge.bench import results as pages

    rows = []
    seen: dict[bytes, Coverage] = {}
    for name, task in tasks().items():
        for learning in (True, False):
            for size in BUDGETS:
                try:
                    data = planned_file(task, size, learning)
                except BudgetError:
                    continue  # the planner refuses it
                if data not in seen:
                    seen[data] = measure(data)
                x = seen[data]
                rows.append(
                    (
                        name, size.replace("KB", " KB").replace("MB", " MB"),
                        "yes" if learning else "no", f"{len(data):,}", f"{x.share:.2%}",
                        f"{x.share_at_work:.2%}", f"{x.whole.bytes - x.whole.touched:,}",
                        f"{x.steps:,}",
                    )
                )  # fmt: skip
    head = (
        "task", "budget", "learning", "bytes of the file", "touched", "touched at work",
        "bytes never touched", "steps",
    )  # fmt: skip
    lines = pages.heading(
        "Bytes that are used",
        "python tools/coverage_of_arena.py --results docs/results/bytes_used.md",
        [SEED],
        packages=["numpy"],
    )
    lines[-1] = lines[-1].split(" Seeds:")[0] + f" Seed: {SEED}; the trace is exact."
    lines += [
        "",
        "An exact trace of every read and write of the portable core in networks that the planner",
        "makes, with random weights and samples. *Touched*: read or written by opening, predicting",
        "or learning; *at work*: by predicting or learning alone. Reading for a checksum or to see",
        "that padding is zero, and sealing, do not count. What opening alone reads is the header,",
        "the section table, the shapes, the names (predicting returns their numbers) and the",
        "multipliers of the head: under 400 bytes, which show in the smallest files. What nothing",
        "touches are reserved and descriptive fields, padding between sections, and residual bits",
        "of units that no sample of the stream makes active.",
        "",
        *pages.table(head, rows),
    ]
    return lines


@click.command()
@click.argument("file", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--data", help="Learn from this data set instead of random samples.")
@click.option("--steps", type=click.IntRange(min=1), help="Learning steps; default: enough.")
@click.option("--json", "to_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--least", type=float, default=0.0, help="Fail below this share, in percent.")
@click.option("--results", "page", type=click.Path(path_type=Path), help="Write the results page.")
def main(
    file: Path | None, data: str | None, steps: int | None, to_json: bool, least: float,
    page: Path | None,
) -> None:  # fmt: skip
    """Print which bytes of FILE opening, predicting and learning touch."""
    if page is not None:
        from zgedge.bench import results as pages

        pages.write(page, results())
        return
    if file is None:
        raise click.UsageError("Name a file, or --results.")
    stream = None
    if data is not None:
        from zgedge.data import load

        loaded = load(data)
        stream = builds.stream(loaded.x_train.astype(np.float32), loaded.y_train)
    coverage = measure(file.read_bytes(), stream, steps)
    print(json.dumps(as_json(coverage)) if to_json else "\n".join(lines_of(coverage)))
    if 100 * coverage.share < least:
        sys.exit(1)


if __name__ == "__main__":
    main()
