"""zgedge export: what it writes, what it says, what it refuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.cli.conftest import csv_text, refused, run, run_json, table
from zgedge.data import load
from zgedge.export import onnx as onnx_export
from zgedge.export import to_onnx, to_tflite
from zgedge.runtime import Model


def logits(path: Path, x: Any) -> Any:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    x = np.asarray(x, np.float32).reshape(len(x), *given.shape[1:])
    return session.run(["logits"], {given.name: x})[0]


# ---- what it writes ----


@pytest.mark.parametrize("form", [None, "sparse", "qoperator"])
def test_onnx_has_the_models_integers(model: Path, form: str | None) -> None:
    found = run_json("export", model, "--to", "onnx", *(["--form", form] if form else []))
    out = model.with_suffix(".onnx")
    assert found["path"] == str(out)
    assert found["files"] == {str(out): out.stat().st_size}
    assert found["form"] == (form or "sparse")
    assert found["model_bytes"] == model.stat().st_size
    assert found["check"]["identical"]
    x = load("digits").x_test
    assert np.array_equal(logits(out, x), Model.open(model).logits(x))


def test_python_writes_the_same_bytes(model: Path) -> None:
    run("export", model, "--to", "onnx")
    assert model.with_suffix(".onnx").read_bytes() == to_onnx(Model.open(model))


def test_the_model_itself_stays_as_it_is(model: Path) -> None:
    before = model.read_bytes()
    for target in ("onnx", "tflite", "c"):
        run("export", model, "--to", target)
    assert model.read_bytes() == before


@pytest.mark.parametrize(("target", "endings"), [("tflite", [".tflite"]), ("c", [".c", ".h"])])
def test_other_targets(model: Path, target: str, endings: list[str]) -> None:
    found = run_json("export", model, "--to", target)
    assert found["files"] == {
        str(model.with_suffix(end)): model.with_suffix(end).stat().st_size for end in endings
    }
    assert found["bytes"] == sum(found["files"].values())
    assert found["check"]["identical"], found


def test_a_chosen_name(model: Path, tmp_path: Path) -> None:
    run("export", model, "--to", "onnx", "--out", tmp_path / "other.onnx")
    assert not model.with_suffix(".onnx").exists()
    assert (tmp_path / "other.onnx").exists()


def test_softmax_gives_probabilities_and_the_class(model: Path) -> None:
    run("export", model, "--to", "onnx", "--softmax")
    outputs = onnx.load(model.with_suffix(".onnx")).graph.output
    assert [o.name for o in outputs] == ["logits", "probabilities", "label"]


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_tflite_takes_in_what_is_asked_for(model: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "m.tflite"
    found = run_json("export", model, "--to", "tflite", "--input-type", kind, "--out", out)
    assert found["check"]["identical"]
    assert out.read_bytes() == to_tflite(Model.open(model), input_type=kind)
    said = refused("export", model, "--to", "onnx", "--input-type", kind, code=2)
    assert "--input-type means nothing to ONNX" in said


def test_a_learned_file_is_exported_the_same_way(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", x=load("digits").x_train[:300] * 0.5,
             y=load("digits").y_train[:300])  # fmt: skip
    run("adapt", model, tmp_path / "new.npz", "--out", tmp_path / "learned.zge", "--steps", "40")
    found = run_json("export", tmp_path / "learned.zge", "--to", "onnx")
    assert found["check"]["identical"]
    assert (tmp_path / "learned.onnx").read_bytes() != to_onnx(Model.open(model))


# ---- what it says ----


def test_says_what_was_compared_and_that_no_sample_left(model: Path) -> None:
    said = run("export", model, "--to", "onnx").stdout
    kept = run_json("info", model)["remembered"]
    assert kept > 0
    assert f"None of {kept} remembered samples left" in said
    assert "Checked: " in said
    assert "64 random, 25 extreme" in said
    assert "All are the core's own." in said


def test_samples_are_counted(model: Path, fixed: Path) -> None:
    kept = run_json("info", model)["remembered"]
    found = run_json("export", model, "--to", "onnx")
    assert (found["remembered"], found["samples"]) == (kept, 0)
    assert found["check"]["sources"] == {"remembered": min(kept, 64), "random": 64, "extreme": 25}
    found = run_json("export", fixed, "--to", "onnx")
    assert (found["remembered"], found["samples"]) == (0, 0)
    assert "remembered" not in run("export", fixed, "--to", "onnx", "--force").stdout


def test_qdq_is_judged_on_data(model: Path) -> None:
    found = run_json("export", model, "--to", "onnx", "--form", "qdq", "--data", "digits")
    assert not found["check"]["identical"]
    assert found["check"]["sources"]["data"] == len(load("digits").x_test)
    assert abs(found["accuracy"]["core"] - found["accuracy"]["export"]) <= 0.005
    assert found["accuracy"]["core"] == run_json("eval", model, "digits")["accuracy"]
    again = run("export", model, "--to", "onnx", "--form", "qdq", "--data", "digits", "--force")
    assert "differ, by at most" in again.stdout
    assert "Accuracy on the data: " in again.stdout


def test_data_of_a_person(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(csv_text(table(300)))
    run("train", tmp_path / "rows.csv", "--budget", "4KB", "--label", "kind", "--epochs", "2",
        "--out", tmp_path / "m.zge")  # fmt: skip
    found = run_json(
        "export", tmp_path / "m.zge", "--to", "onnx", "--data", tmp_path / "rows.csv", "--label",
        "kind",
    )  # fmt: skip
    assert found["check"]["identical"]
    assert found["accuracy"]["core"] == found["accuracy"]["export"]


def test_no_check(model: Path) -> None:
    found = run_json("export", model, "--to", "onnx", "--no-check")
    assert found["check"] is None
    assert found["unchecked"] == "not asked for"
    assert "Not checked" in run("export", model, "--to", "onnx", "--no-check", "--force").stdout


def test_without_its_runtime_it_is_written_unchecked(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = run_json("export", model, "--to", "onnx")
    assert found["check"] is None
    assert "onnxruntime is not installed" in found["unchecked"]
    assert "zgedge[export]" in refused(
        "export", model, "--to", "onnx", "--check", "--force", code=1
    )


def test_without_a_compiler_c_is_written_unchecked(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setitem(sys.modules, "ziglang", None)
    found = run_json("export", model, "--to", "c")
    assert found["check"] is None
    assert "compiler" in found["unchecked"]
    assert "compiler" in refused("export", model, "--to", "c", "--check", "--force", code=1)


# ---- what it refuses ----


def test_an_existing_file_stays(model: Path) -> None:
    out = model.with_suffix(".onnx")
    out.write_text("mine")
    assert "--force" in refused("export", model, "--to", "onnx", code=1)
    assert out.read_text() == "mine"
    run("export", model, "--to", "onnx", "--force")
    assert onnx.load(out).graph.name == "zgedge"


def test_an_existing_header_stays(model: Path) -> None:
    header = model.with_suffix(".h")
    header.write_text("mine")
    assert str(header) in refused("export", model, "--to", "c", code=1)
    assert header.read_text() == "mine"
    assert not model.with_suffix(".c").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--to", "onnx", "--form", "dense"), 2, "sparse, qoperator, qdq"),
        (("--to", "tflite", "--form", "qdq"), 2, "dense, sparse"),
        (("--to", "c", "--form", "dense"), 2, "no form"),
        (("--to", "coreml"), 2, "coreml"),
        ((), 2, "--to"),
        (("--to", "c", "--softmax"), 2, "ONNX and TFLite"),
        (("--to", "onnx", "--learning"), 2, "It is for C"),
        (("--to", "onnx", "--samples"), 2, "It is for C"),
        (("--to", "c", "--samples"), 2, "--learning"),
        (("--to", "onnx", "--form", "qdq", "--softmax"), 2, "ends at the logits"),
        (("--to", "onnx", "--out", "x.tflite"), 2, "does not end in .onnx"),
        (("--to", "onnx", "--out", "no/x.onnx"), 1, "no folder no"),
        (("--to", "onnx", "--data", "nosuch.csv"), 3, "nosuch.csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)  # fmt: skip
def test_refused(
    model: Path, options: tuple[str, ...], code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    before = sorted(os.listdir())
    result = run("export", model, *options, code=code)
    assert words in " ".join(result.stderr.split())
    assert sorted(os.listdir()) == before


def test_the_model_itself_is_never_replaced(model: Path) -> None:
    odd = model.rename(model.with_suffix(".onnx"))
    before = odd.read_bytes()
    assert "the model itself" in refused("export", odd, "--to", "onnx", "--force", code=2)
    link = odd.with_name("link.onnx")
    link.symlink_to(odd)
    refused("export", odd, "--to", "onnx", "--out", link, "--force", code=2)
    assert odd.read_bytes() == before


def test_a_folder_in_its_place(model: Path) -> None:
    model.with_suffix(".onnx").mkdir()
    assert "is a folder" in refused("export", model, "--to", "onnx", code=1)


def test_a_damaged_model(model: Path) -> None:
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    refused("export", model, "--to", "onnx", code=4)
    refused("export", model.with_name("none.zge"), "--to", "onnx", code=4)
    assert not model.with_suffix(".onnx").exists()


@pytest.mark.parametrize(
    ("target", "package"), [("onnx", "onnx"), ("tflite", "tflite"), ("tflite", "flatbuffers")]
)
def test_a_missing_extra_is_named(
    model: Path, target: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = refused("export", model, "--to", target, code=1)
    assert f"{package} is not installed" in said
    assert "pip install 'zgedge[export]'" in said


def test_other_integers_are_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that gives one other integer is not written."""
    real = onnx_export.pair

    def off_by_one(*args: Any) -> Any:
        both = real(*args)

        def pair(x: Any) -> Any:
            ours, theirs = both(x)
            theirs[0, 0] += 1
            return ours, theirs

        return pair

    monkeypatch.setattr(onnx_export, "pair", off_by_one)
    said = refused("export", model, "--to", "onnx", code=1)
    assert "other integers: 3 of" in said
    assert "by at most 1." in said
    assert not model.with_suffix(".onnx").exists()
    run("export", model, "--to", "onnx", "--no-check")
