"""zgedge info, predict, eval, adapt, prove, data and doctor."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.cli.conftest import csv_text, process, refused, run, run_json, table
from zgedge.cli_common import READER_GONE
from zgedge.data import load
from zgedge.runtime import Learner, Model


@pytest.fixture(scope="module")
def permuted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits whose pixels a new sensor reads in another order."""
    x, y = load_digits(return_X_y=True)
    path = tmp_path_factory.mktemp("permuted") / "permuted.npz"
    np.savez(path, x=x[:, np.random.default_rng(7).permutation(64)], y=y)
    return path


# ---- info ----


def test_info_draws_the_byte_map(model: Path) -> None:
    said = run("info", model).stdout
    assert "16,383 bytes" in said
    for words in ("Byte map", "to predict", "to learn", "weights", "replay", "sparsity"):
        assert words in said


def test_info_json_sections_add_up(model: Path, fixed: Path) -> None:
    for path in (model, fixed):
        found = run_json("info", path)
        assert sum(found["sections"].values()) == found["bytes"] == path.stat().st_size
        assert found["budget"] == 16384
        assert found["path"] == str(path)
        assert sum(layer["connections"] for layer in found["layers"]) == found["connections"]


def test_info_strips_samples_from_a_copy(model: Path, tmp_path: Path) -> None:
    before, copy = model.read_bytes(), tmp_path / "copy.zge"
    found = run_json("info", model, "--out", copy, "--strip-samples")
    assert found["remembered"] > 0
    assert found["copy"] == {"path": str(copy), "remembered": 0, "anchors": 0, "waiting": 0}
    assert model.read_bytes() == before
    assert copy.stat().st_size == len(before)
    about = run_json("info", copy)
    assert about["remembered"] == 0
    remembered = Model.open(copy).arena.section(12)
    x = load("digits").x_test
    assert not remembered.any()
    assert (Model.open(copy).predict(x) == Model.open(model).predict(x)).all()
    assert "without samples" in run("info", model, "--out", copy, "--strip-samples").stdout


def test_info_strips_nothing_from_a_model_without_learning(fixed: Path, tmp_path: Path) -> None:
    run("info", fixed, "--out", tmp_path / "copy.zge", "--strip-samples")
    assert (tmp_path / "copy.zge").stat().st_size == fixed.stat().st_size


@pytest.mark.parametrize("args", [("--strip-samples",), ("--out", "copy.zge")])
def test_info_out_and_strip_samples_go_together(model: Path, args: tuple[str, ...]) -> None:
    assert "go together" in refused("info", model, *args, code=2)


# ---- predict, eval ----


def test_predict_a_label_and_a_score_a_line(model: Path) -> None:
    lines = [line.split("\t") for line in run("predict", model, "digits").stdout.splitlines()]
    expected = Model.open(model).predict(load("digits").x_test)
    assert [int(label) for label, _ in lines] == expected.tolist()
    assert all(0 < float(score) <= 1 for _, score in lines)


def test_predict_json(model: Path) -> None:
    found = run_json("predict", model, "digits")
    expected = Model.open(model).predict(load("digits").x_test)
    assert found["labels"] == expected.tolist()
    assert found["samples"] == len(found["scores"]) == len(expected)
    assert found["unknown"] == 0


def test_predict_rows_without_labels(model: Path, tmp_path: Path) -> None:
    x = load("digits").x_test[:5]
    np.savetxt(tmp_path / "new.csv", x, fmt="%g", delimiter=",")
    np.save(tmp_path / "new.npy", x)
    expected = Model.open(model).predict(x).tolist()
    for name in ("new.csv", "new.npy"):
        assert run_json("predict", model, tmp_path / name)["labels"] == expected


def test_eval_is_the_accuracy_of_predict(model: Path) -> None:
    found = run_json("eval", model, "digits")
    digits = load("digits")
    right = Model.open(model).predict(digits.x_test) == digits.y_test
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["samples"] == len(right)
    assert sum(c["right"] for c in found["classes"].values()) == right.sum()
    assert sum(c["samples"] for c in found["classes"].values()) == len(right)
    assert f"{right.mean():.2%}" in run("eval", model, "digits").stdout


def test_eval_without_labels(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "new.npy", load("digits").x_test[:5])
    assert "no labels" in refused("eval", model, tmp_path / "new.npy", code=3)


# ---- adapt ----


def test_adapt_learns_permuted_inputs_in_the_same_bytes(model: Path, permuted: Path) -> None:
    before, size = model.read_bytes(), model.stat().st_size
    found = run_json("adapt", model, permuted, "--steps", "1500")
    assert set(found) >= {"before", "after", "steps", "rewired"}
    assert found["after"] > found["before"] + 0.3
    assert found["steps"] == 1500
    assert found["rewired"] > 0
    assert found["bytes"] == model.stat().st_size == size
    assert model.read_bytes() != before
    about = run_json("info", model)
    assert about["learner"]["steps"] == 1500
    assert about["learner"]["rewired"] == found["rewired"]


def test_adapt_once_through(model: Path, permuted: Path) -> None:
    found = run_json("adapt", model, permuted)
    assert found["steps"] == found["samples"] == 1797 - 1797 // 5
    assert found["held_out"] == 1797 // 5
    assert found["after"] > found["before"] + 0.15


def test_adapt_into_another_file(model: Path, permuted: Path, tmp_path: Path) -> None:
    before, out = model.read_bytes(), tmp_path / "adapted.zge"
    said = run("adapt", model, permuted, "--steps", "50", "--out", out).stdout
    assert model.read_bytes() == before
    assert f"Wrote {out}" in said
    assert out.stat().st_size == len(before)
    first = Model.open(model).arena.generation
    assert run_json("info", out)["generation"] > first
    second = run_json("adapt", out, permuted, "--steps", "50")
    assert second["generation"] == run_json("info", out)["generation"] > first + 1


def test_adapt_measured_on_other_data(model: Path, permuted: Path) -> None:
    found = run_json("adapt", model, permuted, "--steps", "20", "--eval", "digits")
    assert found["held_out"] == len(load("digits").x_test)
    assert found["before"] > 0.5
    assert found["samples"] == 20 * Learner(model).batch


def test_adapt_says_which_rows_it_was_measured_on(model: Path, permuted: Path) -> None:
    said = run("adapt", model, permuted, "--steps", "20", "--eval", "digits").stdout
    assert "samples of digits" in said
    assert "kept back" not in said
    assert "samples kept back" in run("adapt", model, permuted, "--steps", "20").stdout


def test_eval_claims_no_certainty(model: Path, tmp_path: Path) -> None:
    digits = load("digits")
    found = Model.open(model).predict(digits.x_test)
    kept = np.flatnonzero(found == np.array(digits.classes, int)[digits.y_test])[:50]
    np.savez(tmp_path / "d.npz", x=digits.x_test[kept], y=digits.y_test[kept])
    said = run("eval", model, tmp_path / "d.npz").stdout
    assert "accuracy 100.00% (95 % interval 92.87 to 100.00) on 50 samples" in said


def test_adapt_without_rewiring(model: Path, permuted: Path) -> None:
    assert run_json("adapt", model, permuted, "--steps", "50", "--rewire", "static")["rewired"] == 0
    assert run_json("info", model)["learner"]["strategy"] == "rigl"  # for this run only


def test_adapt_a_model_without_learning(fixed: Path, permuted: Path) -> None:
    before = fixed.read_bytes()
    assert "learn" in refused("adapt", fixed, permuted, code=4)
    assert fixed.read_bytes() == before


# ---- prove ----

PROOF = {
    "passed", "steps", "warmup_steps", "rss_growth", "uss_growth", "peak", "ceiling", "rewired",
    "arena_changed",
}  # fmt: skip


def test_prove(model: Path) -> None:
    before = model.read_bytes()
    found = run_json("prove", model, "--steps", "10000")
    assert set(found) >= PROOF
    assert found["passed"] is found["arena_changed"] is True
    assert found["rss_growth"] == found["uss_growth"] == 0
    assert (found["steps"], found["warmup_steps"]) == (10000, 100)
    assert found["rewired"] > 1000
    assert found["data"] == "remembered"
    assert model.read_bytes() == before


def test_peak_of_a_proof_is_its_own_not_that_of_the_process_that_asks(model: Path) -> None:
    here = np.ones(100 << 20, np.uint8)
    found = run_json("prove", model, "--steps", "100")
    assert found["rss"] <= found["peak"] < here.nbytes


def test_prove_in_words(model: Path) -> None:
    said = run("prove", model, "--steps", "2000", "--data", "digits").stdout
    assert "PROVED: it learned" in said
    assert "NOT PROVED" not in said
    assert "given samples" in said
    assert "┤" in said


def test_prove_finds_a_planted_leak(model: Path) -> None:
    found = run_json("prove", model, "--steps", "10000", "--leak", "64", code=6)
    assert set(found) >= PROOF
    assert found["passed"] is False
    assert found["rss_growth"] > 0
    assert found["reasons"]
    said = run("prove", model, "--steps", "10000", "--leak", "64", code=6).stdout
    assert "NOT PROVED" in said


def test_prove_a_model_without_learning(fixed: Path) -> None:
    assert "learn" in refused("prove", fixed, "--steps", "1000", code=4)


# ---- data ----


def test_data_list(tmp_path: Path) -> None:
    found = run_json("data", "list", "--data-dir", tmp_path)
    places = {entry["name"]: entry["place"] for entry in found["data"] if entry["named"]}
    assert set(places) == {"digits", "mnist", "cifar10"}
    assert places["mnist"] is None
    assert found["folder"] == str(tmp_path)
    said = run("data", "list", "--data-dir", tmp_path).stdout
    assert all(entry["name"] in said for entry in found["data"])


def test_data_check_good(tmp_path: Path) -> None:
    path = tmp_path / "good.csv"
    path.write_text(csv_text(table(60)))
    found = run_json("data", "check", path, "--label", "kind")
    assert found["ok"]
    assert found["class_counts"] == {"a": 20, "b": 20, "c": 20}
    assert "Good to train on" in run("data", "check", path, "--label", "kind").stdout


def test_data_check_bad_names_row_column_and_value(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("x,y,kind\n1,2,a\n3,oops,b\n4,nan,a\n" + "5,6,b\n" * 30)
    found = run_json("data", "check", path, code=3)
    assert not found["ok"]
    assert [(e["row"], e["column"], e["value"]) for e in found["errors"]] == [
        (3, "y", "oops"),
        (4, "y", "nan"),
    ]
    said = run("data", "check", path, code=3).stdout
    assert "oops" in said
    assert "Good" not in said


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


def test_data_get(tmp_path: Path) -> None:
    body = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "set.bin").write_bytes(body)
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "there"))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/set.bin"
        args = ("data", "get", "mnist", "--url", url, "--data-dir", tmp_path / "here")
        wrong = refused(*args, "--sha256", "0" * 64, code=3)
        assert hashlib.sha256(body).hexdigest() in wrong
        found = run_json(*args, "--sha256", hashlib.sha256(body).hexdigest())
        assert found == {"path": str(tmp_path / "here" / "mnist" / "set.bin"), "bytes": len(body)}
        assert Path(found["path"]).read_bytes() == body
        assert "100,000 bytes" in run(*args).stdout
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# ---- doctor ----


def test_doctor() -> None:
    found = run_json("doctor")
    assert found["ok"] is True
    assert found["self_test"][found["variant"]] is True
    assert json.dumps(found)
    said = run("doctor").stdout
    assert "self test" in said
    assert found["variant"] in said


def test_doctor_without_data_sets(tmp_path: Path) -> None:
    said = run("doctor", "--data-dir", tmp_path).stdout
    assert "not here; looked for in" in said
    assert not re.search(r"good +data set mnist", said)


# ---- what is said in JSON, and to a reader who leaves ----


def test_wrong_usage_is_said_in_json_too() -> None:
    for args in (
        ("train",),
        ("predict", "m.zge"),
        ("data", "nosuch"),
        ("prove", "m", "--step", "x"),
    ):
        found = run_json(*args, code=2)
        assert found["exit_code"] == 2
        assert found["error"]


def test_budget_too_small_names_the_smallest_in_json(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", x=np.random.default_rng(0).normal(size=(60, 900)), y=[0, 1] * 30)
    args = ("train", tmp_path / "w.npz", "--budget")
    found = run_json(*args, "2KB", "--out", tmp_path / "m.zge", code=5)
    assert f"{found['smallest']:,}" in found["hint"]
    run(*args, found["smallest"] - 1, "--out", tmp_path / "m.zge", code=5)


def test_output_that_cannot_be_written_is_found_before_the_work(model: Path) -> None:
    """No permission forbids a file in /proc, and yet it cannot be."""
    said = run("train", "--budget", "4KB", "--out", "/proc/zgedge.zge", code=1)
    assert "Cannot write /proc/zgedge.zge" in said.stderr
    assert "epoch" not in said.stderr
    assert "Cannot write" in refused("adapt", model, "digits", "--out", "/proc/m.zge", code=1)


def test_coloured_output_ends_as_plain_output_does_when_its_reader_has_gone(model: Path) -> None:
    child = process("info", model)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    said = child.stderr.read()
    child.stderr.close()
    assert child.wait() == READER_GONE
    assert said == ""


def test_file_of_a_newer_version(model: Path) -> None:
    blob = bytearray(model.read_bytes())
    blob[4:6] = (99).to_bytes(2, "little")
    model.write_bytes(blob)
    for args in (
        ("info", model),
        ("predict", model, "digits"),
        ("prove", model, "--steps", "1000"),
    ):
        said = refused(*args, code=4)
        assert str(model) in said
        assert "newer" in said


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--steps", "99"), "99 steps"),
        (("--steps", "0"), "0 steps"),
        (("--steps", "-5"), "-5 steps"),
        (("--steps", "1000", "--leak", "-1"), "-1 bytes"),
        (("--steps", "1000", "--hop", "4", "--data", "digits"), "not trained on windows"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_proof_that_means_nothing(model: Path, args: tuple[str, ...], says: str) -> None:
    assert says in refused("prove", model, *args, code=2)


@pytest.mark.parametrize("name", ["mnst", "none.csv", "none.npz", "none.npy,no.npy", "no/folder/"])
def test_data_that_are_not_there(model: Path, name: str) -> None:
    assert name.split(",")[0].rstrip("/") in refused("predict", model, name, code=3)
    refused("train", name, "--budget", "4KB", "--out", model.parent / "m.zge", code=3)
    assert not (model.parent / "m.zge").exists()
    found = run_json("data", "check", name, code=3)
    assert found["error_count"] == 1
    assert "Did you mean mnist" in refused("predict", model, "mnst", code=3)


def test_a_proof_is_only_suggested_where_connections_can_move(tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text(csv_text(table(90, columns=3)))
    for data, told in ((tmp_path / "few.csv", False), ("digits", True)):
        said = run(
            "train", data, "--budget", "4KB", "--epochs", "1", "--out", tmp_path / "m.zge",
            *(() if told else ("--label", "kind")),
        ).stdout  # fmt: skip
        assert ("zgedge prove" in said) == told
        assert ("--label kind" in said) != told


def _folder_of_pictures(root: Path, side: int, *, length: int = 0) -> Path:
    """Noise in two classes; names are of `length` characters."""
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (root / name).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (side, side)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{'p' * length}{i:03}.png")
    return root


def test_pictures_for_a_model_of_tables_are_named_by_their_files(tmp_path: Path) -> None:
    source, out, page = tmp_path / "t.npz", tmp_path / "m.zge", tmp_path / "r.html"
    x = np.random.default_rng(1).integers(0, 256, (60, 64)).astype(np.uint8)
    np.savez(source, x=x, y=np.array(["dark", "light"] * 30))
    run("train", source, "--budget", "4KB", "--epochs", 1, "--out", out)
    folder = _folder_of_pictures(tmp_path / ("deep" * 50) / "shots", 8, length=60)
    assert run_json("report", out, "--data", folder, "--out", page)["wrong"]
    text = page.read_text()
    shown = re.findall(r'<th scope="row"><bdi title="([^"]*)">([^<]*)</bdi>', text)
    assert shown
    for path, name in shown:
        assert len(name) == 24
        assert re.fullmatch("p+…p+00[0-5]\\.png", name)
        assert len(path) == 200
        assert any(str(file).endswith(path.removeprefix("…")) for file in folder.rglob("*.png"))
        assert path.endswith(name[-7:])
    assert ">file</th>" in text
    assert "numbered from 0" not in text


def test_pictures_for_a_model_of_windows_are_rows_of_a_stream(tmp_path: Path) -> None:
    source, out, page = tmp_path / "s.npz", tmp_path / "m.zge", tmp_path / "r.html"
    x = np.random.default_rng(1).normal(size=(400, 16)).astype(np.float32)
    np.savez(source, x=x, y=np.repeat(["dark", "light"] * 10, 20))
    run("train", source, "--window", 4, "--budget", "4KB", "--epochs", 1, "--out", out)
    folder = _folder_of_pictures(tmp_path / "shots", 4)
    found = run_json("predict", out, folder)
    assert (len(found["labels"]), found["files"]) == (3, None)
    assert len(run("predict", out, folder).stdout.splitlines()) == 3
    run("report", out, "--data", folder, "--out", page)
    assert ".png" not in page.read_text()


@pytest.mark.parametrize("verb", ["eval", "report"])
def test_pictures_without_classes_are_to_be_put_in_folders(
    model: Path, tmp_path: Path, verb: str
) -> None:
    folder = _folder_of_pictures(tmp_path / "shots", 8) / "dark"
    option = ("--data",) if verb == "report" else ()
    for data in (folder, folder / "000.png"):
        said = refused(verb, model, *option, data, code=3)
        assert "a folder of pictures for each class" in said
        assert "column" not in said
