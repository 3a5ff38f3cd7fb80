"""Bad input: each ends with its exit code and a message, and harms nothing."""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.cli.conftest import csv_text, process, refused, run, run_json, table, to_the_end
from zgedge.arena import replace_file
from zgedge.cli_common import READER_GONE
from zgedge.errors import ZgedgeError

PR_CAPBSET_DROP = 24
BAD_MODEL = 4
BAD_DATA = 3


def on_model(model: Path, data: Path | str = "digits") -> list[tuple[object, ...]]:
    """Every command that opens a model."""
    return [
        ("info", model),
        ("predict", model, data),
        ("eval", model, data),
        ("adapt", model, data),
        ("prove", model, "--steps", 1000),
    ]


# ---- budgets ----


@pytest.mark.parametrize(
    "budget",
    ["12", "0", "-5KB", "1TB", "abc", "", "KB", "1e6", "256 K B", "0x100", "1023", "17MB", "nan",
     "256KB256KB", "٢٥٦KBx", "9" * 400],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_budget_that_is_no_size(tmp_path: Path, budget: str) -> None:
    said = refused("train", "--budget", budget, "--out", tmp_path / "m.zge", code=2)
    assert "2KB to 16MB" in said or "256KB or 1MB" in said
    assert not list(tmp_path.iterdir())


def test_budget_too_small_names_the_smallest_that_works(tmp_path: Path) -> None:
    data = tmp_path / "wide.npz"
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.normal(size=(60, 900)), y=np.arange(60) % 30)
    args = ("train", data, "--budget", "2KB", "--out", tmp_path / "m.zge", "--epochs", 1)
    said = refused(*args, code=5)
    smallest = said.split("smallest budget that works is ")[1].split(" ")[0].replace(",", "")
    assert not (tmp_path / "m.zge").exists()
    found = run_json(*(smallest if a == "2KB" else a for a in args))
    assert found["bytes"] <= int(smallest)


# ---- where to write ----


@pytest.mark.parametrize("verb", ["train", "adapt", "info"])
def test_output_folder_is_missing(model: Path, tmp_path: Path, verb: str) -> None:
    out = tmp_path / "none" / "m.zge"
    args = {
        "train": ("train", "--budget", "4KB", "--epochs", 1, "--out", out),
        "adapt": ("adapt", model, "digits", "--steps", 1, "--out", out),
        "info": ("info", model, "--strip-samples", "--out", out),
    }[verb]
    assert "Cannot write" in refused(*args, code=1)
    assert not out.parent.exists()


@pytest.mark.parametrize("verb", ["train", "adapt", "info"])
def test_output_is_a_folder(model: Path, tmp_path: Path, verb: str) -> None:
    out = tmp_path / "folder"
    out.mkdir()
    args = {
        "train": ("train", "--budget", "4KB", "--epochs", 1, "--out", out),
        "adapt": ("adapt", model, "digits", "--steps", 1, "--out", out),
        "info": ("info", model, "--strip-samples", "--out", out),
    }[verb]
    run(*args, code=2 if verb == "info" else 1)
    assert not list(out.iterdir())


def test_output_folder_is_read_only(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)

    def like_anybody() -> None:
        # Root may write into any folder, until it gives the capability away (CAP_DAC_OVERRIDE).
        if os.geteuid() == 0:
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, 1, 0, 0, 0)

    for args in (
        ("info", model, "--strip-samples"),
        ("adapt", model, "digits", "--steps", 1),
        ("train", "--budget", "4KB", "--epochs", 1),
    ):
        child = process(*args, "--out", folder / "m.zge", preexec_fn=like_anybody)
        _, said = to_the_end(child)
        assert child.returncode == 1, said
        assert "Cannot write" in said
        assert "Traceback" not in said
    assert not list(folder.iterdir())


@pytest.mark.parametrize("verb", ["train", "adapt", "info"])
def test_disk_is_full(model: Path, tmp_path: Path, verb: str) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    out = folder / "m.zge"
    out.write_bytes(b"what was there")
    args = {
        "train": ("train", "--budget", "16KB", "--epochs", 1, "--out", out),
        "adapt": ("adapt", model, "digits", "--steps", 1, "--out", out),
        "info": ("info", model, "--strip-samples", "--out", out),
    }[verb]

    def four_kilobytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    # Python itself would leave cut bytecode in this environment, which nothing imports any more.
    env = {"TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    child = process(*args, preexec_fn=four_kilobytes, env=env)
    _, said = to_the_end(child)
    assert child.returncode == 1
    assert "Cannot write" in said
    assert "Traceback" not in said
    assert [p.name for p in folder.iterdir()] == ["m.zge"]
    assert out.read_bytes() == b"what was there"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full")
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize("verb", ["info", "predict", "eval", "data"])
def test_output_has_no_room(model: Path, verb: str, form: tuple[str, ...]) -> None:
    args: tuple[object, ...] = {
        "info": ("info", model),
        "predict": ("predict", model, "digits"),
        "eval": ("eval", model, "digits"),
        "data": ("data", "list"),
    }[verb]
    with open("/dev/full", "w") as full:
        child = process(*args, *form, stdout=full)
        _, said = to_the_end(child)
    assert child.returncode == 1
    assert said == "Error: Cannot write the output: No space left on device.\n"


def test_reader_of_the_output_has_gone(model: Path) -> None:
    child = process("predict", model, "digits")
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    said = child.stderr.read()
    child.stderr.close()
    assert child.wait() == READER_GONE
    assert said == ""


def test_a_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ZgedgeError, match="not a file"):
        replace_file(pipe, b"x")
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_link_stays_a_link(model: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.zge"
    link.symlink_to(model.name)
    before = model.read_bytes()
    run("adapt", link, "digits", "--steps", 20)
    assert link.is_symlink()
    assert model.read_bytes() != before


@pytest.mark.parametrize("how", ["--out", "by default", "--log", "a link"])
def test_an_import_never_replaces_what_it_reads(tmp_path: Path, how: str) -> None:
    float_network = tmp_path / ("net.zge" if how == "by default" else "net.onnx")
    float_network.write_bytes(b"the only copy")
    (tmp_path / "link").symlink_to(float_network)
    options = {"by default": (), "a link": ("--out", tmp_path / "link")}.get(
        how, (how, float_network)
    )
    said = refused("import", float_network, "--budget", "8KB", "--steps", 1, *options, code=2)
    assert "would overwrite" in said
    assert float_network.read_bytes() == b"the only copy"


def test_export_of_a_model_that_is_not_there(tmp_path: Path) -> None:
    said = refused("export", tmp_path / "none" / "m.zge", "--to", "onnx", code=BAD_MODEL)
    assert "Cannot read" in said


def test_log_cannot_be_written(tmp_path: Path) -> None:
    out = tmp_path / "m.zge"
    log = tmp_path / "none" / "log.jsonl"
    args = ("train", "--budget", "4KB", "--epochs", 1, "--out", out, "--log", log)
    assert "Cannot write" in refused(*args, code=1)


# ---- model files ----


FAULTS = {
    "empty": lambda blob: b"",
    "no zge file": lambda blob: b"PK\x03\x04" + blob[4:],
    "text": lambda blob: b"name,value\n1,2\n",
    "cut": lambda blob: blob[:-1],
    "cut in the header": lambda blob: blob[:20],
    "padded": lambda blob: blob + b"\0",
    "flipped": lambda blob: blob[:999] + bytes([blob[999] ^ 4]) + blob[1000:],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_model_file_is_damaged(model: Path, fault: str) -> None:
    model.write_bytes(FAULTS[fault](model.read_bytes()))
    before = model.read_bytes()
    for args in on_model(model):
        assert str(model) in refused(*args, code=BAD_MODEL)
    assert model.read_bytes() == before


def test_model_file_is_missing(tmp_path: Path) -> None:
    for args in on_model(tmp_path / "none.zge"):
        assert "No such file" in refused(*args, code=BAD_MODEL)


def test_model_file_is_a_folder(tmp_path: Path) -> None:
    for args in on_model(tmp_path):
        run(*args, code=2)


# ---- data ----


def test_labels_seen_only_at_prediction(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "new.npz"
    rng = np.random.default_rng(0)
    np.savez(data, x=rng.integers(0, 17, (20, 64)), y=np.arange(20) % 12)
    before = model.read_bytes()
    for verb in ("eval", "adapt"):
        said = refused(verb, model, data, code=BAD_DATA)
        assert "10, 11" in said
    said = refused("prove", model, "--steps", 1000, "--data", data, code=BAD_DATA)
    assert "10, 11" in said
    assert model.read_bytes() == before
    assert len(run_json("predict", model, data)["labels"]) == 20, "predicting needs no label"


def _rows(tmp_path: Path, x: object, y: object = None) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, **{"x": x} if y is None else {"x": x, "y": y})
    return path


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_no_numbers(model: Path, tmp_path: Path, value: float) -> None:
    x = np.zeros((30, 64))
    x[7, 3] = value
    data = _rows(tmp_path, x, np.arange(30) % 10)
    before = model.read_bytes()
    for args in on_model(model, data)[1:4]:
        assert "x[7, 3]" in refused(*args, code=BAD_DATA)
    args = ("train", data, "--budget", "4KB", "--out", tmp_path / "m.zge")
    assert "x[7, 3]" in refused(*args, code=BAD_DATA)
    assert not (tmp_path / "m.zge").exists()
    assert model.read_bytes() == before


@pytest.mark.parametrize("columns", [1, 63, 65, 128])
def test_rows_of_another_width(model: Path, tmp_path: Path, columns: int) -> None:
    data = _rows(tmp_path, np.zeros((30, columns)), np.arange(30) % 10)
    for args in on_model(model, data)[1:4]:
        said = refused(*args, code=BAD_DATA)
        assert "64" in said
        assert str(columns) in said


def test_no_rows(model: Path, tmp_path: Path) -> None:
    data = _rows(tmp_path, np.zeros((0, 64)), np.zeros(0, int))
    for args in on_model(model, data)[1:4]:
        assert "no rows" in refused(*args, code=BAD_DATA)
    refused("train", data, "--budget", "4KB", "--out", tmp_path / "m.zge", code=BAD_DATA)


def test_one_class(tmp_path: Path) -> None:
    data = _rows(tmp_path, np.zeros((30, 8)), np.ones(30, int))
    args = ("train", data, "--budget", "4KB", "--out", tmp_path / "m.zge")
    assert "one class" in refused(*args, code=BAD_DATA)


def test_too_many_features(tmp_path: Path) -> None:
    data = _rows(tmp_path, np.zeros((4, 65_537), np.uint8), np.arange(4) % 2)
    args = ("train", data, "--budget", "1MB", "--out", tmp_path / "m.zge")
    assert "65" in refused(*args, code=BAD_DATA)


def test_too_many_classes(tmp_path: Path) -> None:
    data = _rows(tmp_path, np.zeros((8200, 2)), np.arange(8200) // 2)
    args = ("train", data, "--budget", "1MB", "--out", tmp_path / "m.zge")
    assert "4,096" in refused(*args, code=BAD_DATA).replace("4096", "4,096")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("\n", "\n", ""),
        ("b,", "b,text,", "row"),
        ("c,", "c,1.0,", "row"),
        ("a,", "a,,", "row"),
    ],
    ids=["sound", "text in a number column", "a row too long", "an empty value"],
)
def test_csv(tmp_path: Path, old: str, new: str, says: str) -> None:
    data = tmp_path / "d.csv"
    lines = csv_text(table(60)).splitlines(keepends=True)
    lines[11:14] = [line.replace(old, new, 1) for line in lines[11:14]]
    data.write_text("".join(lines))
    args = ("train", data, "--label", "kind", "--budget", "4KB", "--epochs", 1,
            "--out", tmp_path / "m.zge")  # fmt: skip
    if not says:
        run(*args)
        return
    said = refused(*args, code=BAD_DATA)
    assert any(f"{line}" in said for line in (12, 13, 14)), said
    assert not (tmp_path / "m.zge").exists()


def test_label_column_that_is_not_there(tmp_path: Path) -> None:
    data = tmp_path / "d.csv"
    data.write_text(csv_text(table(60)))
    args = ("train", data, "--label", "nosuch", "--budget", "4KB", "--out", tmp_path / "m.zge")
    assert "nosuch" in refused(*args, code=BAD_DATA)


# ---- interruption ----


def test_interrupted_before_anything_can_be_kept(tmp_path: Path) -> None:
    out = tmp_path / "m.zge"
    child = process("train", "--budget", "256KB", "--out", out)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("Plan"):
            break
    child.send_signal(signal.SIGINT)
    _, said = to_the_end(child)
    assert child.returncode == 130
    assert "Interrupted" in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_interrupted_training_keeps_the_best_so_far(tmp_path: Path) -> None:
    out = tmp_path / "m.zge"
    child = process("train", "--budget", "4KB", "--epochs", 5000, "--out", out)
    assert child.stderr is not None
    for line in child.stderr:
        if "epoch" in line:
            break
    child.send_signal(signal.SIGINT)
    said, _ = to_the_end(child)
    assert child.returncode == 0
    assert re.search(r"Interrupted: epoch \d+ of \d+ is kept", said)
    assert out.stat().st_size <= 4096
    assert run_json("eval", out, "digits")["samples"] == 359


def test_interrupted_adaptation_changes_nothing(model: Path) -> None:
    before = model.read_bytes()
    child = process("adapt", model, "digits", "--steps", 100_000_000)
    # Time of the processor and not of the clock: how long a start takes depends on what else runs.
    while sum(psutil.Process(child.pid).cpu_times()[:2]) < 4:
        assert child.poll() is None
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, said = to_the_end(child)
    assert child.returncode == 130
    assert "Traceback" not in said
    assert model.read_bytes() == before
    assert [p.name for p in model.parent.iterdir()] == [model.name]


@pytest.mark.parametrize("verb", ["train", "adapt", "prove"])
def test_interrupted_with_json_prints_one_object(model: Path, verb: str) -> None:
    args: dict[str, tuple[object, ...]] = {
        # Its first epoch takes long, so that there is nothing to keep.
        "train": (
            "digits", "--budget", "4MB", "--network", "c5x150 c5x150 c5x150 d", "--out", "m.zge",
        ),
        "adapt": (model, "digits", "--steps", 100_000_000),
        "prove": (model, "--steps", 100_000_000),
    }  # fmt: skip
    child = process(verb, *args[verb], "--json", cwd=model.parent, start_new_session=True)
    processes = [psutil.Process(child.pid)]
    while sum(sum(p.cpu_times()[:2]) for p in processes) < 4:
        assert child.poll() is None
        time.sleep(0.1)
        processes = [processes[0], *processes[0].children()]
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: `prove` has a process of its own
    told, said = to_the_end(child)
    assert child.returncode == 130
    assert told.count("\n") == 1
    assert json.loads(told) == {"error": "Interrupted.", "hint": None, "exit_code": 130}
    assert "Traceback" not in said
    assert [p.name for p in model.parent.iterdir()] == [model.name]
