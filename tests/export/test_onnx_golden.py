"""Golden exports: the bytes that are pinned, and the answers that were pinned with the files.

A failure of the bytes alone is a change of an export: where it is meant,
`python tools/make_golden_exports.py` renews the pins. The answers never change.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.export.test_onnx import EXACT, outputs
from tools import make_golden, make_golden_exports
from tools.make_golden_exports import differences, pins
from zgedge.export import to_onnx
from zgedge.runtime import Model

FOLDER = Path(__file__).resolve().parent.parent / "golden"
ANSWERS = json.loads((FOLDER / "golden.json").read_text())


@pytest.mark.parametrize("target", ["onnx", "tflite", "c"])
def test_bytes_are_as_pinned(target: str) -> None:
    pinned = json.loads((FOLDER / "exports.json").read_text())
    mine = {
        file: {name: found for name, found in names.items() if name.split()[0] == target}
        for file, names in pinned.items()
    }
    assert differences(pins((target,)), mine) == []
    assert sum(map(len, mine.values())) >= len(ANSWERS)


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_those_of_old(name: str, form: str) -> None:
    x, _ = make_golden.stream(make_golden.GOLDEN[name], make_golden.SAMPLES, seed=2)
    data = to_onnx(Model.open(FOLDER / f"{name}.zge"), form)
    assert np.array_equal(outputs(data, x.astype(np.float32))[0], ANSWERS[name]["logits"])


def test_the_command_says_what_changed_and_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (FOLDER / "exports.json").read_text()
    copy = tmp_path / "exports.json"
    copy.write_text(re.sub(r'"bytes": \d+', '"bytes": 1', whole, count=1))
    monkeypatch.setattr(make_golden_exports, "PINS", copy)
    monkeypatch.setattr(make_golden_exports, "pins", lambda: json.loads(whole))
    changed = copy.read_text()
    done = CliRunner().invoke(make_golden_exports.main, ["--check"])
    assert done.exit_code == 1
    assert "1 bytes pinned" in done.output
    assert copy.read_text() == changed
    done = CliRunner().invoke(make_golden_exports.main)
    assert done.exit_code == 0
    assert "1 bytes pinned" in done.output
    assert copy.read_text() == whole
    assert "as pinned" in CliRunner().invoke(make_golden_exports.main, ["--check"]).output
