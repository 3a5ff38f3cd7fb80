"""Learning without an end: tasks that come one after another, and worlds that change.

A stream is learned by the core, each sample once, everything inside one file of at most the budget:
weights, what learning needs, and the samples that are remembered. After each task all tasks are
tested. Runs are kept as JSON lines under a key of all that decides them, so that an interrupted
table goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge import arena
from zgedge.bench import contenders, results, streams, timing
from zgedge.bench.contenders import Row, Settings
from zgedge.bench.streams import CLASSES, SHIFT, Stream, Task
from zgedge.budget import Task as Planned
from zgedge.budget import plan
from zgedge.data import Dataset
from zgedge.errors import BudgetError, UsageError
from zgedge.network import Network
from zgedge.runtime import Learner, Model
from zgedge.spec import spec_of

PACKAGES = ("numpy", "torch", "zgedge")
DEFAULT = (
    "split-mnist", "split-cifar10", "permuted-mnist", "rotated-mnist", "sensors-mnist",
    "dead-mnist", "drift-mnist", "new-class-mnist", "poisoned-mnist",
)  # fmt: skip
CHECKS = 20  # checkpoints of a shift
ANNEAL_EVERY = 16
GDUMB_FILE = 16 * 1024  # of the budget for the network that is trained at the end
GDUMB_STEPS = 1500


@dataclass(frozen=True)
class Run:
    """One row, one stream, one seed.

    bytes     length of the written file; of GDumb also of what it remembers
    replay    samples that it has room for
    samples   of the stream
    matrix    accuracy on each task, before the first and after each task: [tasks + 1][tasks];
              a line of None where nothing was measured
    masked    the same where the task of a test sample is known; empty where tasks share classes
    curve     (samples met, accuracy) after the world changed; empty in a stream of tasks
    before    accuracy in the world before it changed, or None
    """

    stream: str
    row: str
    seed: int
    budget: int
    key: str
    bytes: int
    network: str
    replay: int
    samples: int
    matrix: list[list[float | None]]
    masked: list[list[float | None]]
    curve: list[list[float]]
    before: float | None
    rewired: int
    seconds: float


# ---- What is said of a run ----


def average(matrix: Sequence[Sequence[float | None]]) -> float:
    """Mean accuracy over all tasks after the last."""
    return statistics.fmean(_numbers(matrix[-1]))


def forgetting(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """Mean over all tasks but the last of the best accuracy that there was after learning it or a
    later one, less the last (Chaudhry et al. 2018); None where that was not measured."""
    if len(matrix) < 3 or any(None in line for line in matrix[1:]):
        return None
    lines = [_numbers(line) for line in matrix]
    tasks = len(lines[0]) if lines[0] else len(lines[-1])
    return statistics.fmean(
        max(lines[t][j] for t in range(j + 1, tasks)) - lines[-1][j] for j in range(tasks - 1)
    )


def forward(matrix: Sequence[Sequence[float | None]]) -> float | None:
    """Mean over all tasks but the first of the accuracy just before it is learned, less that
    before anything was (Lopez-Paz and Ranzato 2017); None where that was not measured."""
    if len(matrix) < 3 or any(None in line for line in matrix):
        return None
    lines = [_numbers(line) for line in matrix]
    return statistics.fmean(lines[j][j] - lines[0][j] for j in range(1, len(lines[0])))


def over_tasks(run: Run) -> list[float]:
    """After each task, the mean accuracy over those that came so far."""
    return [
        statistics.fmean(_numbers(line[: t + 1]))
        for t, line in enumerate(run.matrix[1:])
        if None not in line
    ]


def final(run: Run) -> float:
    """The accuracy that a run ends with."""
    return run.curve[-1][1] if run.curve else average(run.matrix)


def mean_of_curve(run: Run) -> float:
    """Mean accuracy over the checkpoints after the world changed."""
    return statistics.fmean(point[1] for point in run.curve)


def _numbers(line: Sequence[float | None]) -> list[float]:
    return [value for value in line if value is not None]


# ---- A run ----


def measure(
    stream: Stream,
    row: Row,
    seed: int,
    budget: int,
    settings: Settings,
    progress: Callable[[int, int], None] = lambda done, total: None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Learn a stream, and what is said of it. `steps` are those of GDumb's training.

    Raises BudgetError where the row's network does not fit.
    """
    if row.network == "gdumb":
        return _gdumb(stream, seed, budget, settings, steps or GDUMB_STEPS)
    started = monotonic()
    if row.network not in (*contenders.TRUNKS, contenders.UNITS):
        stream = contenders.coarse(stream, settings)
    network = contenders.network_of(stream, row, budget, settings)
    run = _shifted if stream.kind == SHIFT else _learned
    model, found = run(stream, row, network, settings, seed, progress)
    file = model.to_bytes()
    if len(file) > budget:
        raise AssertionError(f"{row.name} took {len(file):,} of {budget:,} bytes")
    return {
        "bytes": len(file), "network": spec_of(network), "replay": network.replay_samples,
        "rewired": int((model.arena.learner() or {})["rewired"]),
        "seconds": round(monotonic() - started, 1), **found,
    }  # fmt: skip


def _open(network: Network, parameters: arena.Parameters) -> Model:
    return Model(arena.in_memory(arena.write(network, parameters)), "continual")


def _learned(
    stream: Stream, row: Row, network: Network, settings: Settings, seed: int,
    progress: Callable[[int, int], None],
) -> tuple[Model, dict[str, Any]]:  # fmt: skip
    x, y = stream.tasks[0].train()
    model = _open(network, contenders.begin(network, x, row, settings, seed))
    learner = Learner(model)
    whole, masked = [_tested(model, stream)], []
    sizes = [0]
    for number, task in enumerate(stream.tasks):
        x, y = task.train()
        _pass(
            learner, settings, x, y, (number / len(stream.tasks), (number + 1) / len(stream.tasks))
        )
        sizes.append(len(y))
        whole.append(_tested(model, stream))
        progress(number + 1, len(stream.tasks))
    if stream.kind == CLASSES:
        masked = [[pair[1] for pair in line] for line in whole]
    return model, {
        "matrix": [[pair[0] for pair in line] for line in whole], "masked": masked, "curve": [],
        "before": None, "samples": sum(sizes),
    }  # fmt: skip


def _pass(
    learner: Learner, settings: Settings, x: npt.NDArray[Any], y: npt.NDArray[np.int64],
    share: tuple[float, float] | None,
) -> None:  # fmt: skip
    """Each sample once; `share` is the part of the whole stream that these are."""
    for i in range(len(y)):
        if settings.anneal and share is not None and i % ANNEAL_EVERY == 0:
            done = share[0] + (share[1] - share[0]) * i / len(y)
            learner.anneal(done, rate=settings.rate)
        learner.learn_one(x[i], int(y[i]))


def _tested(model: Model, stream: Stream) -> list[tuple[float, float]]:
    """Of each task: accuracy among all classes, and among the task's own."""
    return [_accuracy(model, task) for task in stream.tasks]


def _accuracy(model: Model, task: Task) -> tuple[float, float]:
    x, y = task.test()
    logits = model.logits(x)
    own = np.asarray(task.classes)
    known = own[logits[:, own].argmax(axis=1)]
    return float((logits.argmax(axis=1) == y).mean()), float((known == y).mean())


@functools.lru_cache(maxsize=4)
def _deployed(
    stream: Stream, network: Network, settings: Settings, seed: int, strategy: str
) -> bytes:
    """The file of what learned the world before it changed; rows of one network share it.

    With a guard the last samples are not learned: they are its anchors.
    """
    assert stream.before is not None
    x, y = stream.before.train()
    row = Row("deployed", strategy=strategy)
    plain = replace(network, anchors=0, watch=False)
    parameters = contenders.begin(plain, x, row, settings, seed)
    learner = Learner(_open(plain, parameters))
    kept = len(y) - network.anchors
    _pass(learner, settings, x[:kept], y[:kept], (0.0, 1.0))
    if not network.anchors:
        return learner.model.to_bytes()
    held = learner.model.arena
    scale, center = held.input_coding()
    zero = parameters.layers[0].z_in
    codes = np.clip(np.rint((x[kept:] - center) * scale) + zero, 0, 255).astype(np.uint8)
    right = learner.model.predict_index(x[kept:])[0] == y[kept:]
    learned = replace(
        parameters,
        layers=[
            replace(
                layer, weights=held.weights(i).copy(), indices=held.indices(i),
                bias=held.rows(i)[0].copy(),
            )
            for i, layer in enumerate(parameters.layers)
        ],
        anchors=(codes, y[kept:], right), accuracy=float(right.mean()),
        learner=arena.LearnerParameters(key=seed),
    )  # fmt: skip
    guarded = Learner(_open(network, learned))
    at = max(0, kept - network.replay_samples)
    guarded.remember(x[at:kept], y[at:kept])
    return guarded.model.to_bytes()


def _shifted(
    stream: Stream, row: Row, network: Network, settings: Settings, seed: int,
    progress: Callable[[int, int], None],
) -> tuple[Model, dict[str, Any]]:  # fmt: skip
    assert stream.before is not None
    strategy = "static" if row.network == "dense" else "rigl"
    model = Model(arena.in_memory(_deployed(stream, network, settings, seed, strategy)), "shift")
    before = _accuracy(model, stream.before)[0]
    learner = Learner(model, strategy=row.strategy)
    learner.configure(learn=row.learn)
    task = stream.tasks[0]
    x, y = task.train()
    curve = [[0, _accuracy(model, task)[0]]]
    edges = np.linspace(0, len(y), CHECKS + 1).astype(int)
    for number, (start, end) in enumerate(itertools.pairwise(edges)):
        # A guard sets rate and rewiring itself, by what it sees.
        share = None if network.anchors else (start / len(y), end / len(y))
        _pass(learner, settings, x[start:end], y[start:end], share)
        curve.append([int(end), _accuracy(model, task)[0]])
        progress(number + 1, CHECKS)
    return model, {
        "matrix": [], "masked": [], "curve": curve, "before": before, "samples": len(y),
    }  # fmt: skip


# ---- GDumb ----


class Memory:
    """The greedy balanced memory of GDumb (Prabhu et al. 2020): a sample of a class that has
    fewer than others is kept, in place of a random one of the fullest class."""

    def __init__(self, room: int, rng: np.random.Generator) -> None:
        self.room = room
        self._rng = rng
        self._of: dict[int, list[int]] = {}

    def offer(self, number: int, label: int) -> None:
        """Sample `number` of class `label` has come."""
        held = sum(map(len, self._of.values()))
        mine = self._of.setdefault(label, [])
        if held >= self.room:
            fullest = max(self._of, key=lambda c: len(self._of[c]))
            if len(mine) + 1 > len(self._of[fullest]) or fullest == label:
                return
            self._of[fullest].pop(int(self._rng.integers(len(self._of[fullest]))))
        mine.append(number)

    def samples(self) -> list[int]:
        return sorted(number for mine in self._of.values() for number in mine)


def _gdumb(
    stream: Stream, seed: int, budget: int, settings: Settings, steps: int
) -> dict[str, Any]:
    """Remember greedily in what the network's file leaves of the budget; train at the end."""
    from zgedge.train import train

    started = monotonic()
    stream = contenders.coarse(stream, settings)
    stride = (stream.inputs * settings.bits + 7) // 8
    tests = [task.test() for task in stream.tasks]
    data = Dataset(
        "memory", np.zeros((1, stream.inputs), np.uint8), np.zeros(1, np.int64),
        np.concatenate([x for x, _ in tests]), np.concatenate([y for _, y in tests]),
        tuple(map(str, range(len(stream.classes)))), True, stream.shape, "picture",
    )  # fmt: skip
    network = plan(Planned.of(data), min(GDUMB_FILE, budget // 4), learning=False).network
    memory = Memory((budget - network.file_bytes) // (stride + 1), np.random.default_rng(seed))
    parts, labels, count = [], [], 0
    for task in stream.tasks:
        x, y = task.train()
        for i, label in enumerate(y.tolist()):
            memory.offer(count + i, label)
        parts.append(arena.pack_codes(x, settings.bits))
        labels.append(y)
        count += len(y)
    kept = memory.samples()
    packed = np.concatenate(parts)[kept]
    data = replace(
        data, x_train=arena.unpack_codes(packed, settings.bits, stream.inputs),
        y_train=np.concatenate(labels)[kept],
    )  # fmt: skip
    result = train(data, network, strategy="rigl", seed=seed, steps=steps)
    file = arena.write(result.network, result.parameters)
    model = Model(arena.in_memory(file), "GDumb")
    last = [_accuracy(model, task) for task in stream.tasks]
    blank: list[list[float | None]] = [[None] * len(tests) for _ in tests]
    return {
        "bytes": len(file) + packed.nbytes + len(kept), "network": spec_of(network),
        "replay": memory.room, "rewired": result.rewired,
        "seconds": round(monotonic() - started, 1), "samples": count,
        "matrix": [*blank, [pair[0] for pair in last]],
        "masked": [*blank, [pair[1] for pair in last]], "curve": [], "before": None,
    }  # fmt: skip


# ---- A table ----


@dataclass(frozen=True)
class Table:
    """What was measured; `cells` are the runs that were asked for."""

    streams: tuple[str, ...]
    budget: int
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    missing: tuple[tuple[str, str, str], ...]
    cells: int
    complete: bool

    def of(self, stream: str, row: str) -> list[Run]:
        return [run for run in self.runs if (run.stream, run.row) == (stream, row)]

    def rows(self, stream: str) -> list[str]:
        return list(dict.fromkeys(run.row for run in self.runs if run.stream == stream))


@functools.lru_cache(maxsize=1)
def learner_digest() -> str:
    """A digest of how the core learns: of the bytes that each strategy leaves after some ticks."""
    rng = np.random.default_rng(5)
    x, y = rng.integers(0, 256, (96, 64), np.uint8), rng.integers(0, 4, 96)
    found = hashlib.sha256()
    settings = Settings(units=12, fan_in=8, gather=1)
    for strategy in arena.STRATEGIES:
        row = Row(strategy, strategy)
        probe = Stream("probe", CLASSES, (8, 8, 1), True, ("0", "1", "2", "3"), (), "")
        network = contenders.network_of(probe, row, 8192, settings)
        learner = Learner(_open(network, contenders.begin(network, x, row, settings, 3)))
        _pass(learner, settings, x, y, None)
        found.update(learner.model.arena.buffer.tobytes())
    return found.hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def guard_digest() -> str:
    """A digest of how the core guards: of the bytes that are left where a class comes new, inputs
    die, labels are wrong, and then another world begins."""
    rng = np.random.default_rng(6)
    settings = Settings(units=12, fan_in=8, gather=1, bits=4)
    row = Row("probe", "rigl", network="guarded")
    probe = Stream("probe", SHIFT, (8, 8, 1), True, ("0", "1", "2", "3"), (), "")
    network = contenders.network_of(probe, row, 16384, settings)
    worlds = rng.integers(0, 256, (2, 4, 64))
    parts = []
    shifts = ((0, 3, 0.0, 0), (0, 4, 0.0, 0), (0, 4, 0.0, 40), (0, 4, 0.4, 40), (1, 4, 0.0, 0))
    for world, classes, wrong, dead in shifts:
        y = rng.integers(0, classes, 1000)
        x = np.clip(worlds[world][y] + rng.normal(0, 30, (1000, 64)), 0, 255).astype(np.uint8)
        x[:, :dead] = 0
        y[rng.random(1000) < wrong] = 0
        parts.append((x, y))
    parameters = contenders.begin(network, parts[0][0], row, settings, 3)
    learner = Learner(_open(network, parameters))
    for x, y in parts:
        _pass(learner, settings, x, y, None)
    return hashlib.sha256(learner.model.arena.buffer.tobytes()).hexdigest()[:16]


def key_of(
    stream: Stream, row: Row, seed: int, budget: int, settings: Settings, steps: int | None
) -> str:
    """Stands for all that decides a run."""
    what: list[Any] = [stream.digest, asdict(row), seed, budget, asdict(settings)]
    if row.network == "gdumb":
        what += [steps or GDUMB_STEPS, GDUMB_FILE, timing.versions(*PACKAGES)]
    else:
        what.append(learner_digest())
        if row.network == "guarded":
            what.append(guard_digest())
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def collect(
    names: Sequence[str],
    load: Callable[[str], Dataset],
    budget: int,
    seeds: Sequence[int],
    *,
    log: Path | None = None,
    samples: int | None = None,
    rows: Sequence[str] | None = None,
    held: bool = False,
    steps: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    watch: Callable[[str], AbstractContextManager[Callable[[int, int], None]]] | None = None,
) -> Table:
    """Measure streams, seed by seed; runs that the log has are not made again.

    load     gives the data set of a name
    samples  at most so many of each task; `rows` those to measure, None for all
    held     on held-out training rows, to choose settings
    steps    of GDumb's training
    say      called with a line for each run; `watch` a context for a run of that name

    Ctrl-C ends it, and the table holds what was measured. Raises UsageError for a name that is no
    stream and for a row that there is not, BudgetError where nothing of a stream fits.
    """
    if rows is not None:
        _check_rows(rows)
    kept = {name: load(streams.parse(name)[1]) for name in names}
    done = {run.key: run for run in results.read_log(log, Run)}
    runs: list[Run] = []
    missing: dict[tuple[str, str], str] = {}
    cells, complete = 0, True
    for seed in seeds:
        for name in names:
            stream = streams.make(name, kept[name], seed, samples=samples, held=held)
            settings = contenders.settings_of(stream)
            every = contenders.rows_of(stream)
            for row in (contenders.Row(asked) for asked in rows or ()):
                if row.name not in {one.name for one in every}:
                    missing[name, row.name] = "It means nothing for such a stream."
            for row in every:
                if (rows is not None and row.name not in rows) or (name, row.name) in missing:
                    continue
                key = key_of(stream, row, seed, budget, settings, steps)
                cells += 1
                if key in done:
                    runs.append(done[key])
                    continue
                if not complete:  # interrupted: the table still holds what the log has
                    continue
                title = f"{name}, {row.name}, seed {seed}"
                show = contextlib.nullcontext(_ignore) if watch is None else watch(title)
                try:
                    with show as progress:
                        found = measure(stream, row, seed, budget, settings, progress, steps)
                except BudgetError as error:
                    missing[name, row.name] = error.message
                    cells -= 1
                    continue
                except KeyboardInterrupt:
                    complete = False
                    continue
                run = Run(name, row.name, seed, budget, key, **found)
                runs.append(run)
                results.append(log, run)
                say(f"{title}: {100 * final(run):.2f} %, {run.bytes:,} bytes, {run.seconds:.0f} s")
            _deployed.cache_clear()
    for name in names:
        if complete and not any(run.stream == name for run in runs):
            raise BudgetError(
                f"Nothing of {name} fits {budget:,} bytes.", "Give it a larger --budget."
            )
    return Table(
        tuple(names), budget, tuple(seeds), tuple(runs),
        tuple((*where, why) for where, why in missing.items()), cells, complete,
    )  # fmt: skip


def _ignore(done: int, total: int) -> None:
    pass


def _check_rows(rows: Sequence[str]) -> None:
    every = contenders.ROWS
    for name in rows:
        if name not in every:
            raise UsageError(f"{name!r} is no row.", f"There are: {'; '.join(every)}.")
    if not rows:
        raise UsageError("There is no row to measure.", f"There are: {'; '.join(every)}.")


def summary(table: Table) -> list[dict[str, Any]]:
    """A record for each stream and row. Shares are means over seeds; `gain` is that over the row
    that learns weights only, in points, paired over seeds, with its 95 % interval."""
    out = []
    for name in table.streams:
        plain = {run.seed: final(run) for run in table.of(name, contenders.WEIGHTS)}
        for row in table.rows(name):
            mine = table.of(name, row)
            pairs = [(final(run), plain[run.seed]) for run in mine if run.seed in plain]
            gain = None
            if pairs and row != contenders.WEIGHTS:
                gain = results.paired(*zip(*pairs, strict=True))
            half = None if gain is None else gain[1]
            values = [final(run) for run in mine]
            record: dict[str, Any] = {
                "stream": name, "row": row, "seeds": len(mine), "network": mine[0].network,
                "bytes": max(run.bytes for run in mine), "replay": mine[0].replay,
                "samples": mine[0].samples, "accuracy": statistics.fmean(values),
                "deviation": statistics.stdev(values) if len(values) > 1 else None,
                "gain": None if gain is None else gain[0],
                "low": None if gain is None or half is None else gain[0] - half,
                "high": None if gain is None or half is None else gain[0] + half,
                "no_gain": None if gain is None or half is None else abs(gain[0]) <= half,
                "seconds": round(statistics.fmean(run.seconds for run in mine), 1),
            }  # fmt: skip
            if mine[0].curve:
                record |= {
                    "before": _mean(run.before for run in mine),
                    "changed": _mean(run.curve[0][1] for run in mine),
                    "curve": _mean(mean_of_curve(run) for run in mine),
                    "lowest": _mean(min(p[1] for p in run.curve) for run in mine),
                }
            else:
                record |= {
                    "task_incremental": _mean(average(r.masked) for r in mine if r.masked),
                    "forgetting": _mean(forgetting(run.matrix) for run in mine),
                    "forward": _mean(forward(run.matrix) for run in mine),
                    "after": [_mean(v) for v in zip(*map(over_tasks, mine), strict=True)],
                }
            out.append(record)
    return out


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.fmean(found) if found else None


def markdown(table: Table, command: str, plot: str | None = None) -> list[str]:
    """The page; `plot` is the place of its picture, as seen from the page."""
    lines = results.heading(
        "Continual learning at equal bytes", command, table.seeds, packages=PACKAGES
    )
    lines += [
        f"- Every row is one file of at most {table.budget:,} bytes, everything included: weights, "
        "what learning needs, and the samples that it remembers. Its bytes are those of the file "
        "written at the end; GDumb's are its network's file and its memory.",
        "- Each sample is learned once, by the core, in integers. Nothing was trained before the "
        "stream: weights, wires and convolutions begin at random from the seed; scales are those "
        "of the first samples. A shift follows what the same network learned, in the same way, of "
        "the world before it.",
        "- Settings were chosen on other seeds (100 and up), on training rows that were held out; "
        "the streams, and how to read the tables: [continual.md](../continual.md).",
        "- *gain* is over the row that learns weights only, in points, paired over seeds, with its "
        "95 % interval; one that includes 0 is no gain.",
    ]
    if len(table.runs) < table.cells or not table.complete:
        lines.append("- Not all runs were made yet; the same command goes on.")
    lines.append("")
    if plot is not None:
        lines += [f"![Accuracy over tasks, and recovery after shifts]({plot})", ""]
    records = summary(table)
    for name in table.streams:
        mine = [record for record in records if record["stream"] == name]
        if not mine:
            continue
        lines += [f"## {name}", "", f"{mine[0]['samples']:,} samples, each once.", ""]
        write = _shift_table if "curve" in mine[0] else _task_table
        lines += [*write(table, mine), ""]
        lines += _published(table, name, mine)
    for name, row, why in table.missing:
        lines.append(f"- Missing in {name}: {row}. {why}")
    return lines


def _points(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _gain(record: dict[str, Any]) -> str:
    if record["gain"] is None:
        return ""
    half = None if record["high"] is None else record["high"] - record["gain"]
    return results.gain_text(record["gain"], half)


def _task_table(table: Table, records: list[dict[str, Any]]) -> list[str]:
    split = any(record["task_incremental"] is not None for record in records)
    head = ["", "network", "bytes", "remembered", "accuracy"]
    head += ["task known"] if split else []
    head += ["gain", "forgetting", "forward", "after each task", "seeds"]
    body = []
    for record in records:
        values = [final(run) for run in table.of(record["stream"], record["row"])]
        line = [
            record["row"], f"`{record['network']}`", f"{record['bytes']:,}",
            f"{record['replay']:,}", results.percent(values),
        ]  # fmt: skip
        line += [_points(record["task_incremental"])] if split else []
        line += [
            _gain(record), _points(record["forgetting"]), _points(record["forward"]),
            " ".join(_points(v) for v in record["after"]), record["seeds"],
        ]  # fmt: skip
        body.append(line)
    return results.table(head, body)


def _shift_table(table: Table, records: list[dict[str, Any]]) -> list[str]:
    body = []
    for record in records:
        values = [final(run) for run in table.of(record["stream"], record["row"])]
        body.append([
            record["row"], f"`{record['network']}`", f"{record['bytes']:,}",
            f"{record['replay']:,}", _points(record["before"]), _points(record["changed"]),
            results.percent(values), _gain(record), _points(record["curve"]),
            _points(record["lowest"]), record["seeds"],
        ])  # fmt: skip
    return results.table(
        ["", "network", "bytes", "remembered", "before", "at the change", "at the end", "gain",
         "mean of the curve", "lowest", "seeds"], body,
    )  # fmt: skip


_DER = "Buzzega et al.: Dark Experience, NeurIPS 2020"
# Class-incremental unless said otherwise; what a method keeps besides its samples is its network,
# the ResNet-18 of these papers 11.2 million float32 weights.
PUBLISHED: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    "split-mnist": (
        ("GDumb", "91.9", "500 samples, 0.4 MB, and a network of 400 + 400 units, 1.9 MB",
         "Prabhu, Torr, Dokania: GDumb, ECCV 2020"),
    ),
    "split-cifar10": (
        ("DER++", "64.88", "200 samples, 0.6 MB, and a ResNet-18, 45 MB", _DER),
        ("DER++, task known", "91.92", "the same", _DER),
        ("GDumb", "61.3", "1,000 samples, 3.1 MB, and a ResNet-18, 45 MB",
         "Prabhu, Torr, Dokania: GDumb, ECCV 2020"),
    ),
    "permuted20-mnist": (
        ("DER++, 20 tasks", "83.58", "200 samples, 0.16 MB, and 100 + 100 units, 0.36 MB", _DER),
    ),
    "rotated-mnist": (
        ("DER++, 20 tasks", "90.43", "200 samples, 0.16 MB, and 100 + 100 units, 0.36 MB", _DER),
    ),
}  # fmt: skip
PUBLISHED["permuted-mnist"] = PUBLISHED["permuted20-mnist"]


def _published(table: Table, name: str, records: list[dict[str, Any]]) -> list[str]:
    """The best row next to what papers state for this stream."""
    if name not in PUBLISHED:
        return []
    best = max(records, key=lambda record: float(record["accuracy"]))
    body = [[f"here: {best['row']}", _points(best["accuracy"]), f"{best['bytes']:,} bytes", ""]]
    body += [list(line) for line in PUBLISHED[name]]
    return [*results.table(["", "accuracy", "keeps", "paper"], body), ""]
