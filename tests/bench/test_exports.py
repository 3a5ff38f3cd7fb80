"""The benchmark of exports: what it counts, that all it times compute the same, its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from click.testing import CliRunner

from zgedge.bench import exports
from zgedge.bench.nets import random_zge


@pytest.mark.parametrize("block", [1, 16])
def test_all_that_is_timed_gives_the_same_classes(block: int) -> None:
    found = exports.runners(random_zge((784, 256, 10), 32, block, learning=False))
    names = [runner.name for runner in found]
    assert names[:4] == [
        "zgedge, Model.predict_one", "onnxruntime, sparse", "onnxruntime, qoperator",
        "LiteRT, dense",
    ]  # fmt: skip
    assert names[-1] == "zgedge, C core, from C"
    answers = [runner.check().tolist() for runner in found]
    assert len(set(answers[0])) > 1
    assert all(answer == answers[0] for answer in answers[:4] + answers[-1:])


def test_page_and_json(tmp_path: Path) -> None:
    out = tmp_path / "exports.md"
    done = CliRunner().invoke(
        exports.main,
        ["--data", "digits", "--steps", "150", "--quick", "--json", "--out", str(out)],
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    for network in found["sizes"]:
        by = {(e["target"], e["form"]): e for e in network["exports"]}
        assert {("onnx", "sparse"), ("onnx", "qoperator"), ("tflite", "dense")} <= set(by)
        for key in (
            ("onnx", "sparse"),
            ("onnx", "qoperator"),
            ("tflite", "dense"),
            ("c", "source"),
        ):
            assert by[key]["differing"] == 0
            assert by[key]["accuracy"] == network["accuracy"]
        assert by["onnx", "qdq"]["differing"] > 0
        if network["dense_units"] is not None:
            assert network["dense_accuracy"] >= network["accuracy"]
            assert network["dense_bytes"] > 64 * network["dense_units"]
    page = out.read_text()
    assert page.startswith("# Exports")
    for head in ("## Bytes", "## Integers", "## Latency", "### Blocks of 16"):
        assert head in page
