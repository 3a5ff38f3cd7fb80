"""The accuracy and adaptation tables on short runs: every row, counted from real files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from click.testing import CliRunner, Result
from PIL import Image

from tests.cli.conftest import process
from zgedge import data
from zgedge.bench import accuracy, accuracy_plot, adaptation, results
from zgedge.budget import Task
from zgedge.cli import main
from zgedge.data import Dataset
from zgedge.errors import BudgetError, UsageError
from zgedge.train.rewiring import STRATEGIES


def test_gain_with_an_interval_that_has_zero_is_no_gain() -> None:
    assert results.gain([0.9, 0.8, 0.7], [0.8, 0.9, 0.7]).startswith("no gain")
    # Gains of 1, 2 and 3 points: mean 2, half width 4.303 * 1 / sqrt(3).
    assert results.gain([0.91, 0.92, 0.93], [0.9, 0.9, 0.9]) == "no gain: +2.00 [-0.48, +4.48]"
    assert results.gain([0.910, 0.911, 0.912], [0.9, 0.9, 0.9]) == "+1.10 [+0.85, +1.35]"


def test_a_page_names_the_options_of_its_command() -> None:
    page = "docs/results/x.md"
    assert results.command("a.b", page, seeds=(5, 5)) == f"python -m a.b --out {page}"
    assert results.command("a.b", page, seeds=(2, 5)) == f"python -m a.b --seeds 2 --out {page}"


def test_mean_and_spread_are_in_percent() -> None:
    assert results.percent([0.9, 0.92]) == "91.00 ± 1.41"
    assert results.percent([0.5]) == "50.00"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return data.load("digits")


def equal_bytes(*arguments: object, code: int = 0) -> Result:
    """The command on digits, trained for one epoch: real runs and real files."""
    words = ["bench", "equal-bytes", "--epochs", "1", *map(str, arguments)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    return done


def test_equal_bytes_has_every_row_within_its_bytes_and_resumes(tmp_path: Path) -> None:
    log, out, plot = tmp_path / "runs.jsonl", tmp_path / "table.md", tmp_path / "plot.png"
    call = ("--budget", "4KB,8KB", "--seeds", "0,1", "--log", log, "--out", out, "--plot", plot)
    found = json.loads(equal_bytes(*call, "--json").stdout)
    rows = set(accuracy.equal_rows(data.load("digits")))
    assert {row.removeprefix(accuracy.REWIRED) for row in rows} == {
        accuracy.FIXED, accuracy.DENSE, accuracy.CONVOLUTION, accuracy.ANALYTIC,
        *(name for name in STRATEGIES if name != "static"),
    }  # fmt: skip
    without = {(gone["budget"], gone["row"]) for gone in found["missing"]}
    assert {row for _, row in without} <= {accuracy.CONVOLUTION}
    runs = found["runs"]
    made = {(run["budget"], run["row"]) for run in runs}
    assert made | without == {(budget, row) for budget in (4096, 8192) for row in rows}
    assert len(runs) == 2 * len(made)
    assert found["complete"]
    assert all(0.9 * run["budget"] < run["bytes"] <= run["budget"] for run in runs)
    # Tickets are found before; few signs flip in an epoch.
    still = (accuracy.CONVOLUTION, accuracy.REWIRED + "lottery", accuracy.REWIRED + "deepr")
    assert all((run["rewired"] > 0) == run["row"].startswith("rewired") for run in runs
               if run["row"] not in still)  # fmt: skip
    text = out.read_text()
    assert all(f"| {row} |" in text for row in {run["row"] for run in runs})
    assert "no gain: " in text
    assert "](plot.png)" in text
    with Image.open(plot) as drawn:
        assert min(drawn.size) > 400
    kept = log.read_bytes()
    equal_bytes(*call)
    assert log.read_bytes() == kept  # nothing was trained again


def test_only_the_rows_asked_for_are_measured_and_the_page_says_how(tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    names = f"{accuracy.ANALYTIC}; {accuracy.FIXED}"
    call = ("--budget", "4KB", "--seeds", "0", "--rows", names, "--out", out)
    found = json.loads(equal_bytes(*call, "--json").stdout)
    assert [run["row"] for run in found["runs"]] == [accuracy.FIXED, accuracy.ANALYTIC]
    assert found["complete"]
    assert f"--rows '{names}'" in out.read_text()
    said = equal_bytes("--rows", "fixed sparse;dense", code=2).stderr
    assert "'dense'" in said
    assert accuracy.DENSE in said


def test_log_that_was_cut_loses_one_run_and_no_more(tmp_path: Path) -> None:
    log = tmp_path / "runs.jsonl"
    call = ("--budget", "4KB", "--seeds", "0", "--log", log, "--json")
    whole = json.loads(equal_bytes(*call).stdout)["runs"]
    lines = log.read_bytes().splitlines()
    log.write_bytes(b"\n".join(lines)[:-40])
    done = equal_bytes(*call)
    again = json.loads(done.stdout)["runs"]
    assert done.stderr.count("seed 0") == 1
    for old, new in zip(whole, again, strict=True):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}
    lines = log.read_bytes().splitlines()
    assert len(lines) == len(whole) + 1
    assert json.loads(lines[-1])["row"] == whole[-1]["row"]
    log.write_bytes(b'\xff\n[]\n{"table": 1}\n\n' + log.read_bytes())
    assert "seed 0" not in equal_bytes(*call).stderr


def test_a_run_is_taken_over_only_where_all_that_decides_it_is_the_same(
    tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "runs.jsonl"

    def trained(
        dataset: Dataset = digits, budget: int = 4096, seed: int = 0, epochs: int = 1
    ) -> int:
        said: list[str] = []
        accuracy.collect(
            "equal-bytes", dataset, [budget], [seed], rows=[accuracy.FIXED], log=log,
            epochs=epochs, say=said.append,
        )  # fmt: skip
        return len(said)

    assert trained() == 1
    assert trained() == 0
    other = replace(digits, x_test=digits.x_test[::-1], y_test=digits.y_test[::-1])
    assert [trained(other), trained(budget=8192), trained(seed=1), trained(epochs=2)] == [1] * 4
    assert trained(other) == 0
    monkeypatch.setattr(accuracy, "recipe", lambda: "another")
    assert trained() == 1


def test_recipe_follows_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "train").mkdir()
    monkeypatch.setattr(accuracy, "__file__", str(tmp_path / "bench" / "accuracy.py"))
    (tmp_path / "train" / "fit.py").write_text("RATE = 1")
    first = accuracy.recipe()
    assert accuracy.recipe() == first
    (tmp_path / "train" / "search.py").write_text("WIDTHS = 1")
    assert accuracy.recipe() == first
    (tmp_path / "train" / "fit.py").write_text("RATE = 2")
    assert accuracy.recipe() != first


def test_runs_of_a_table_go_through_no_module_that_their_key_leaves_out() -> None:
    script = """
import sys
from zgedge.bench import accuracy
from zgedge.data import load

digits = load("digits")
table = accuracy.collect("equal-bytes", digits, [20_000], [0], epochs=1)
assert len({run.row for run in table.runs}) == len(accuracy.equal_rows(digits))
print(*(name.rsplit(".", 1)[1] for name in sys.modules if name.startswith("zgedge.train.")))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert {"fit", "lottery", "analytic", "trunk"} <= loaded
    assert not loaded & accuracy.NOT_IN_A_RUN
    folder = Path(accuracy.__file__).parent.parent / "train"
    assert all((folder / f"{stem}.py").exists() for stem in accuracy.NOT_IN_A_RUN)


def test_same_network_at_two_budgets_is_trained_once(digits: Dataset) -> None:
    said: list[str] = []
    found = accuracy.collect(
        "equal-bytes", digits, [300_000, 400_000], [0], rows=[accuracy.FIXED], epochs=1,
        say=said.append,
    )  # fmt: skip
    assert [run.budget for run in found.runs] == [300_000, 400_000]
    assert found.runs[0].network == found.runs[1].network
    assert len(said) == 1


def test_interruption_leaves_whole_runs_and_a_partial_table(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = accuracy.train

    def train(*args: Any, seed: int, **options: Any) -> Any:
        result = real(*args, seed=seed, **options)
        return replace(result, interrupted=seed == 1)

    monkeypatch.setattr(accuracy, "train", train)
    rows = [accuracy.FIXED, accuracy.ANALYTIC]
    found = accuracy.collect("equal-bytes", digits, [4096], [0, 1], rows=rows, epochs=1)
    assert not found.complete
    assert [(run.seed, run.row) for run in found.runs] == [(0, row) for row in rows]
    text = "\n".join(accuracy.markdown(found, "zgedge bench equal-bytes"))
    assert "2 of 4 runs" in text
    assert "(one seed)" in text
    assert "Not measured yet" not in text
    text = "\n".join(accuracy.markdown(replace(found, runs=found.runs[:1]), "c"))
    assert f"Not measured yet: {accuracy.ANALYTIC}." in text


def test_interrupted_table_holds_what_the_log_had(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "runs.jsonl"
    measured = {"rows": [accuracy.ANALYTIC], "log": log}
    later = accuracy.collect("equal-bytes", digits, [4096], [7], **measured)

    def interrupted(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy, "train", interrupted)
    rows = [accuracy.ANALYTIC, accuracy.FIXED]
    found = accuracy.collect("equal-bytes", digits, [4096], [0, 7], rows=rows, log=log)
    assert [(run.seed, run.row) for run in found.runs] == [(seed, rows[0]) for seed in (0, 7)]
    assert found.runs[1] == later.runs[0]
    assert not found.complete


@pytest.mark.slow
def test_ctrl_c_ends_with_what_was_measured(tmp_path: Path) -> None:
    log, out = tmp_path / "runs.jsonl", tmp_path / "table.md"
    command = ["bench", "equal-bytes", "--budget", "4KB", "--log", log, "--out", out, "--json"]
    running = process(*command)
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 1):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    printed, said = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    found = json.loads(printed)
    assert not found["complete"]
    assert len(found["runs"]) == log.read_bytes().count(b"\n")
    assert "runs; the column of seeds" in out.read_text()


def test_gains_are_paired_over_the_seeds_that_both_have() -> None:
    def run(row: str, seed: int, share: float) -> accuracy.Run:
        return accuracy.Run(
            "equal-bytes",
            "made up",
            4096,
            row,
            seed,
            f"{row}{seed}",
            4000,
            share,
            None,
            0,
            1.0,
            "d",
        )

    runs = [run(accuracy.FIXED, i, share) for i, share in enumerate((0.90, 0.80, 0.70))]
    runs += [run(accuracy.DENSE, i, share) for i, share in ((1, 0.81), (2, 0.72))]
    table = accuracy.Table(
        "equal-bytes", "made up", (4096,), (0, 1, 2), (), tuple(runs), (), False, 6
    )
    fixed, other = accuracy.summary(table)
    assert (fixed["gain"], fixed["seeds"], other["seeds"]) == (None, 3, 2)
    assert other["gain"] == pytest.approx(1.5)
    assert other["high"] - other["gain"] == pytest.approx(12.706 * 0.5)
    assert other["no_gain"]


def test_rows_that_no_file_holds_are_named(digits: Dataset) -> None:
    wide = replace(
        digits, x_train=np.tile(digits.x_train, 40), x_test=np.tile(digits.x_test, 40),
        shape=(1, 2560, 1), kind="series",
    )  # fmt: skip
    found = accuracy.collect("equal-bytes", wide, [24_000], [0], epochs=1)
    gone = {row: why for _, row, why in found.missing}
    assert accuracy.CONVOLUTION not in gone  # not of a series
    assert "No dense network fits 24,000 bytes" in gone[accuracy.DENSE]
    text = "\n".join(accuracy.markdown(found, "c"))
    assert f"No {accuracy.DENSE}: No dense network" in text
    with pytest.raises(BudgetError):
        accuracy.collect("equal-bytes", wide, [2048], [0], epochs=1)


@pytest.mark.parametrize("seeds", ["", "a", "0,0", "-1", "1.5", "0,,1"])
def test_seeds_that_are_none(seeds: str) -> None:
    assert "no list of seeds" in equal_bytes("--seeds", seeds, code=2).stderr


@pytest.mark.parametrize("option", ["--log", "--out", "--plot"])
def test_a_place_that_cannot_be_written_is_said_first(tmp_path: Path, option: str) -> None:
    said = equal_bytes(option, tmp_path / "nowhere" / "x.png", code=1).stderr
    assert "there is no folder" in said
    assert "seed" not in said


def test_plot_of_another_form(tmp_path: Path) -> None:
    assert ".png, .svg or .pdf" in equal_bytes("--plot", tmp_path / "x.txt", code=2).stderr


@pytest.mark.parametrize("kind", accuracy_plot.FORMATS)
def test_plot_has_a_line_for_every_row(digits: Dataset, kind: str) -> None:
    rows = [accuracy.FIXED, accuracy.ANALYTIC]
    found = accuracy.collect("equal-bytes", digits, [4096, 8192], [0, 1], rows=rows, epochs=1)
    drawn = accuracy_plot.draw(found, kind)
    assert drawn.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind])
    if kind == "svg":
        assert all(f"<!-- {row} -->" in drawn.decode() for row in rows)
    with pytest.raises(UsageError, match="no run to plot"):
        accuracy_plot.draw(replace(found, runs=()), kind)


def test_budgets_table(tmp_path: Path) -> None:
    out = tmp_path / "digits.md"
    words = ["bench", "budgets", "--epochs", "1", "--budget", "2KB,16KB", "--seeds", "0"]
    done = CliRunner().invoke(main, [*words, "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    assert out.read_text() == done.stdout
    assert "| 16 KB |" in done.stdout
    assert (
        "`zgedge bench budgets --data digits --budget 2KB,16KB --seeds 0 --epochs 1" in done.stdout
    )


def test_dense_network_is_the_largest_that_fits(digits: Dataset) -> None:
    network = accuracy.dense_network(Task.of(digits), 4096)
    assert network.file_bytes <= 4096
    assert 4096 - network.file_bytes < network.layers[0].inputs + network.classes + 16


def test_adaptation_wins_back_what_a_permutation_took(mnist_dir: Path) -> None:
    mnist = data.load("mnist", data_dir=mnist_dir.parent)
    world = adaptation.world(mnist, seed=0, epochs=1)
    before = adaptation._accuracy(world.model(0), world.before)
    shifted = adaptation._accuracy(world.model(0), world.after)
    frozen = adaptation.reread(world, 0, 200, "weights only")
    rewired = adaptation.reread(world, 0, 200, "rewired")
    assert before > 0.8
    assert shifted < 0.3
    assert rewired > frozen + 0.05
    assert adaptation.one_pass(world, 64, "rewired") > 0.6
