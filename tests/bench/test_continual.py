"""`zgedge bench continual`: what its streams bring and when, what its rows cost, what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from zgedge import arena, data
from zgedge.bench import contenders, continual, continual_plot, streams
from zgedge.bench.contenders import Row
from zgedge.cli import main
from zgedge.data import Dataset
from zgedge.errors import BudgetError, UsageError

BUDGET = 32 * 1024
SAMPLES = 40


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


def test_a_split_brings_two_classes_at_a_time_and_never_one_of_a_later_task(
    digits: Dataset,
) -> None:
    stream = streams.make("split-digits", digits, 0)
    assert [task.classes for task in stream.tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    met = 0
    for task in stream.tasks:
        x, y = task.train()
        assert set(y.tolist()) == set(task.classes) == set(task.test()[1].tolist())
        assert len(x) == len(y)
        met += len(y)
    assert met == len(digits.y_train)  # each sample once


def test_each_task_of_a_permutation_has_one_order_of_its_own(digits: Dataset) -> None:
    stream = streams.make("permuted-digits", digits, 3)
    assert len(stream.tasks) == 10
    tests = [task.test()[0] for task in stream.tasks]
    for x in tests:
        assert np.array_equal(np.sort(x, axis=1), np.sort(digits.x_test, axis=1))
    assert len({x.tobytes() for x in tests}) == 10
    x, y = stream.tasks[4].train()
    # Test and training rows are in the same order: what varies in one varies in the other.
    assert np.allclose(x.std(axis=0), tests[4].std(axis=0), atol=1.5)
    assert len(y) == len(digits.y_train)
    assert len(streams.make("permuted20-digits", digits, 3).tasks) == 20


def test_a_turn_of_ninety_degrees_is_exact_and_one_of_none_changes_nothing() -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, 25), np.uint8)
    assert np.array_equal(streams.turn(x, (5, 5, 1), 0.0), x)
    turned = streams.turn(x, (5, 5, 1), 90.0).reshape(3, 5, 5)
    squares = x.reshape(3, 5, 5)
    assert any(np.array_equal(turned, np.rot90(squares, k, axes=(1, 2))) for k in (1, 3))


def test_rotated_pictures_keep_their_labels(digits: Dataset) -> None:
    stream = streams.make("rotated-digits", digits, 1)
    assert len(stream.tasks) == 10
    assert all(np.array_equal(t.test()[1], digits.y_test) for t in stream.tasks)
    assert len({t.test()[0].tobytes() for t in stream.tasks}) == 10


@pytest.mark.parametrize("kind", ["sensors", "dead", "drift", "new-class", "poisoned"])
def test_a_shift_is_what_it_says(digits: Dataset, kind: str) -> None:
    stream = streams.make(f"{kind}-digits", digits, 2)
    assert stream.kind == streams.SHIFT
    assert stream.before is not None
    (after,) = stream.tasks
    x0, y0 = stream.before.train()
    x1, y1 = after.train()
    t0, t1 = stream.before.test()[0], after.test()[0]
    if kind == "sensors":
        assert x0.shape[1] == 64 + 3000
        assert np.array_equal(np.sort(t0, axis=1), np.sort(t1, axis=1))
        assert not np.array_equal(t0, t1)
    elif kind == "dead":
        gone = (t1 == 0).all(axis=0) & (x1 == 0).all(axis=0)
        assert gone.sum() >= 32
        assert not (t0[:, gone] == 0).all()
    elif kind == "drift":
        assert np.abs(t1 - t0).mean() > 0.2
        assert x1[0].tobytes() in {row.tobytes() for row in digits.x_train}  # nothing at first
        assert x1[-1].tobytes() not in {row.tobytes() for row in digits.x_train}
    elif kind == "new-class":
        new = set(range(10)) - set(y0.tolist())
        assert len(new) == 1
        assert new < set(y1.tolist())
        assert new < set(after.test()[1].tolist())
    else:
        assert np.array_equal(t0, t1)
        true = {row.tobytes(): label for row, label in zip(digits.x_train, digits.y_train,
                                                           strict=True)}  # fmt: skip
        wrong = np.mean([true[row.tobytes()] != label for row, label in zip(x1, y1, strict=True)])
        assert 0.3 < wrong < 0.5
        assert all(true[row.tobytes()] == label for row, label in zip(x0, y0, strict=True))


def test_no_sample_is_met_on_both_sides_of_a_shift(digits: Dataset) -> None:
    stream = streams.make("poisoned-digits", digits, 0)
    assert stream.before is not None
    before = {row.tobytes() for row in stream.before.train()[0]}
    assert not before & {row.tobytes() for row in stream.tasks[0].train()[0]}


def test_settings_are_chosen_without_a_look_at_the_test_rows(digits: Dataset) -> None:
    blind = replace(digits, x_test=np.full_like(digits.x_test, 7))
    stream = streams.make("split-digits", blind, 100, held=True)
    assert not any((task.test()[0] == 7).all(axis=1).any() for task in stream.tasks)
    held = {row.tobytes() for task in stream.tasks for row in task.test()[0]}
    met = {row.tobytes() for task in stream.tasks for row in task.train()[0]}
    assert not held & met


@pytest.mark.parametrize("name", ["digits", "split", "split-", "torn-digits"])
def test_a_name_that_is_no_stream_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        streams.parse(name)


def test_the_same_seed_gives_the_same_stream_and_another_another(digits: Dataset) -> None:
    one, two, other = (streams.make("split-digits", digits, seed) for seed in (1, 1, 2))
    assert one.digest == two.digest != other.digest
    assert np.array_equal(one.tasks[0].train()[0], two.tasks[0].train()[0])
    assert not np.array_equal(one.tasks[0].train()[0], other.tasks[0].train()[0])
    assert streams.make("split-digits", digits, 1, samples=5).digest != one.digest


def test_every_strategy_of_the_core_has_a_row(digits: Dataset) -> None:
    rows = contenders.rows_of(streams.make("split-digits", digits, 0))
    assert {row.strategy for row in rows} == set(arena.STRATEGIES)
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize("budget", [26_000, BUDGET])
def test_rows_fill_the_same_bytes_and_never_more(digits: Dataset, budget: int) -> None:
    stream = streams.make("split-digits", digits, 0, samples=SAMPLES)
    settings = contenders.settings_of(stream)
    for row in contenders.rows_of(stream):
        if row.network == "gdumb":
            continue
        found = continual.measure(stream, row, 0, budget, settings)
        if row.name == contenders.ANALYTIC:  # whole units, and no samples
            assert 0.97 * budget < found["bytes"] <= budget
            continue
        assert budget - 64 < found["bytes"] <= budget, row.name
        assert found["replay"] >= 10


def test_a_budget_in_which_nothing_fits_is_refused(digits: Dataset) -> None:
    with pytest.raises(BudgetError):
        continual.collect(["split-digits"], lambda _: digits, 2000, [0], rows=["weights only"])


@pytest.mark.parametrize("rows", [["wieghts only", "dense int8"], [""], []])
def test_rows_that_are_none_are_refused(digits: Dataset, rows: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        continual.collect(["split-digits"], lambda _: digits, BUDGET, [0], rows=rows)
    assert "head only; weights only; rewired, set" in (refused.value.hint or "")


def test_a_row_that_means_nothing_for_a_stream_is_named(digits: Dataset) -> None:
    table = continual.collect(
        ["poisoned-digits"], lambda _: digits, BUDGET, [0], samples=SAMPLES,
        rows=["weights only", "GDumb", "analytic head"],
    )  # fmt: skip
    assert [run.row for run in table.runs] == ["weights only", "analytic head"]
    assert [(name, row) for name, row, _ in table.missing] == [("poisoned-digits", "GDumb")]


def test_guarded_rows_are_measured_again_where_the_guard_is_another(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = streams.make("poisoned-digits", digits, 0)
    settings = contenders.settings_of(stream)

    def keys() -> dict[str, str]:
        return {
            row.name: continual.key_of(stream, row, 0, BUDGET, settings, None)
            for row in contenders.rows_of(stream)
        }

    first = keys()
    assert first == keys()
    monkeypatch.setattr(continual, "guard_digest", lambda: "another")
    other = {name for name, key in keys().items() if key != first[name]}
    assert other == {contenders.GUARDED}


def test_what_learns_the_head_only_keeps_the_other_weights(digits: Dataset) -> None:
    stream = streams.make("split-digits", digits, 0, samples=SAMPLES)
    settings = contenders.settings_of(stream)
    stream = contenders.coarse(stream, settings)
    x, _ = stream.tasks[0].train()
    for learn, changes in (("head", False), ("all", True)):
        row = Row("row", learn=learn)
        network = contenders.network_of(stream, row, BUDGET, settings)
        parameters = contenders.begin(network, x, row, settings, 0)
        model, _ = continual._learned(stream, row, network, settings, 0, lambda a, b: None)
        kept = np.array_equal(model.arena.weights(0), parameters.layers[0].weights)
        assert kept != changes


def test_colours_and_what_is_behind_a_convolution_have_rates_of_their_own(digits: Dataset) -> None:
    colours = replace(
        digits, shape=(8, 8, 3),
        x_train=np.repeat(digits.x_train, 3, axis=1), x_test=np.repeat(digits.x_test, 3, axis=1),
    )  # fmt: skip
    found = {}
    for name, dataset in (("grey", digits), ("colours", colours)):
        stream = streams.make("split-digits", dataset, 0, samples=SAMPLES)
        settings = replace(contenders.settings_of(stream), kernel=3, cells=1)
        x, _ = stream.tasks[0].train()
        for row in (Row("weights only"), Row("seeded convolution", network="seeded")):
            network = contenders.network_of(stream, row, 8 * BUDGET, settings)
            learner = contenders.begin(network, x, row, settings, 0).learner
            assert learner is not None
            found[name, row.network] = learner.rate
    assert found["colours", "sparse"] < found["grey", "sparse"] / 5
    assert found["grey", "seeded"] < found["grey", "sparse"]
    assert found["colours", "seeded"] <= found["colours", "sparse"]


def test_what_is_seen_remembered_and_tested_is_coded_alike(digits: Dataset) -> None:
    stream = streams.make("split-digits", digits, 0)
    settings = replace(contenders.settings_of(stream), bits=2, pool=2)
    seen = contenders.coarse(stream, settings)
    assert seen.shape == (4, 4, 1)
    for x, _ in (seen.tasks[2].train(), seen.tasks[2].test()):
        assert x.shape[1] == 16
        assert set(np.unique(x).tolist()) <= {0, 85, 170, 255}


def test_a_known_task_is_judged_among_its_own_classes(digits: Dataset) -> None:
    stream = streams.make("split-digits", digits, 0)
    row = Row("weights only")
    found = continual.measure(stream, row, 0, BUDGET, contenders.settings_of(stream))
    assert continual.average(found["masked"]) > 0.9
    assert continual.average(found["masked"]) >= continual.average(found["matrix"])
    assert continual.average(found["matrix"]) > 0.6  # of five tasks; the last alone would be 0.2


def test_under_wrong_labels_the_guarded_row_keeps_what_it_had(digits: Dataset) -> None:
    stream = streams.make("poisoned-digits", digits, 0)
    settings = contenders.settings_of(stream)
    rows = {row.name: row for row in contenders.rows_of(stream)}
    lowest = {}
    for name in (contenders.GUARDED, contenders.REWIRED + "rigl"):
        found = continual.measure(stream, rows[name], 0, 64 * 1024, settings)
        assert found["bytes"] <= 64 * 1024
        assert len(found["curve"]) == continual.CHECKS + 1
        lowest[name] = min(point[1] for point in found["curve"])
    assert lowest[contenders.GUARDED] > lowest[contenders.REWIRED + "rigl"] + 0.03


def test_the_analytic_head_learns_large_pictures_in_the_same_bytes(digits: Dataset) -> None:
    def larger(x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, 8, 8).repeat(3, axis=1).repeat(3, axis=2).reshape(len(x), -1)

    large = replace(
        digits, x_train=larger(digits.x_train), x_test=larger(digits.x_test), shape=(24, 24, 1)
    )
    stream = streams.make("split-digits", large, 0, samples=100)
    rows = {row.name: row for row in contenders.rows_of(stream)}
    assert {contenders.ANALYTIC, contenders.SEEDED} <= set(rows)
    settings = contenders.settings_of(stream)
    found = continual.measure(stream, rows[contenders.ANALYTIC], 0, 128 * 1024, settings)
    assert 0.9 * 128 * 1024 < found["bytes"] <= 128 * 1024
    assert found["replay"] == 0
    assert continual.average(found["matrix"]) > 0.8


def test_metrics_of_matrices_made_by_hand() -> None:
    matrix = [[0.1, 0.2, 0.1], [0.9, 0.3, 0.1], [0.7, 0.8, 0.4], [0.8, 0.6, 1.0]]
    assert continual.average(matrix) == pytest.approx(0.8)
    # The first was best at 0.9, the second at 0.8.
    assert continual.forgetting(matrix) == pytest.approx((0.1 + 0.2) / 2)
    # Just before the second 0.3 instead of 0.2, before the third 0.4 instead of 0.1.
    assert continual.forward(matrix) == pytest.approx((0.1 + 0.3) / 2)
    blank: list[list[float | None]] = [[None] * 3, [None] * 3, [None] * 3, [0.5, 0.5, 0.8]]
    assert continual.average(blank) == pytest.approx(0.6)
    assert continual.forgetting(blank) is None
    assert continual.forward(blank) is None


def test_gdumb_keeps_classes_as_equal_as_they_can_be() -> None:
    memory = continual.Memory(12, np.random.default_rng(0))
    labels = [0] * 30 + [1] * 30 + [2] * 2 + [3] * 30
    for number, label in enumerate(labels):
        memory.offer(number, label)
    kept = memory.samples()
    assert len(kept) == 12
    counts = np.bincount([labels[number] for number in kept])
    assert counts[2] == 2
    assert counts.max() - counts[[0, 1, 3]].min() <= 1


def run_of(row: str, seed: int, accuracy: float) -> continual.Run:
    return continual.Run(
        "split-digits", row, seed, BUDGET, f"{row}{seed}", BUDGET - 5, "s8:4", 20, 100,
        [[0.1, 0.1], [0.9, 0.2], [accuracy, accuracy]], [], [], None, 0, 1.0,
    )  # fmt: skip


def test_an_interval_with_zero_in_it_is_printed_as_no_gain() -> None:
    runs = [run_of("weights only", s, 0.5 + 0.01 * s) for s in range(3)]
    runs += [run_of("rewired, rigl", s, 0.6 + 0.01 * s + 0.001 * (s == 1)) for s in range(3)]
    runs += [run_of("rewired, set", s, 0.5 + 0.02 * s) for s in range(3)]
    table = continual.Table(("split-digits",), BUDGET, (0, 1, 2), tuple(runs), (), 9, True)
    page = "\n".join(continual.markdown(table, "zgedge bench continual"))
    rigl = next(line for line in page.splitlines() if line.startswith("| rewired, rigl"))
    assert "+10.0" in rigl
    assert "no gain" not in rigl
    assert "no gain" in next(x for x in page.splitlines() if x.startswith("| rewired, set"))
    met, accuracy = continual_plot.points(runs[:3])
    assert met == [1, 2]
    assert accuracy == pytest.approx([90, 51])


def test_a_table_goes_on_where_it_stopped(digits: Dataset, tmp_path: Path) -> None:
    log = tmp_path / "runs.jsonl"
    said: list[str] = []

    def collect(seeds: list[int], samples: int = SAMPLES) -> continual.Table:
        said.clear()
        return continual.collect(
            ["split-digits"], lambda _: digits, BUDGET, seeds, log=log, samples=samples,
            rows=["weights only", "rewired, rigl"], say=said.append,
        )  # fmt: skip

    first = collect([0])
    assert len(said) == 2
    again = collect([0, 1])
    assert len(said) == 2  # those of seed 1 alone
    assert again.runs[:2] == first.runs
    assert again.complete
    assert again.cells == 4
    collect([0], samples=SAMPLES - 1)
    assert len(said) == 2  # another stream is another run


def test_the_command_runs_end_to_end(tmp_path: Path) -> None:
    page, plot, log = (tmp_path / name for name in ("page.md", "page.png", "runs.jsonl"))
    words = [
        "bench", "continual", "--stream", "split-digits,dead-digits", "--budget", "32KB", "--quick",
        "--log", str(log), "--out", str(page), "--plot", str(plot), "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["complete"]
    rows = {(row["stream"], row["row"]) for row in found["rows"]}
    assert ("split-digits", "GDumb") in rows
    assert ("dead-digits", "rewired, rigl") in rows
    assert all(row["bytes"] <= 32 * 1024 for row in found["rows"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "![Accuracy over tasks, and recovery after shifts](page.png)" in text
    assert "--quick" in text


def test_the_command_refuses_a_stream_that_there_is_not() -> None:
    result = CliRunner().invoke(main, ["bench", "continual", "--stream", "torn-digits"])
    assert result.exit_code != 0
    assert "torn-digits" in result.output
