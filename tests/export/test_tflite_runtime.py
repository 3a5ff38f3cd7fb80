"""TFLite in tflite-runtime, LiteRT's predecessor: in an environment of its own, for its numpy."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from tests.export.models import NETWORKS, opened
from zgedge.export import to_tflite
from zgedge.export.source import check_inputs
from zgedge.export.tflite import runner

pytest.importorskip("tflite")
pytest.importorskip("ai_edge_litert")

PACKAGES = ("tflite-runtime==2.14.0", "numpy<2")
RUN = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
interpreter = Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
(given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
out = []
for row in np.load(sys.argv[2]):
    interpreter.set_tensor(given["index"], row.reshape(given["shape"]))
    interpreter.invoke()
    out.append(interpreter.get_tensor(made["index"])[0])
np.save(sys.argv[3], np.array(out))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.version_info[:2] > (3, 11):
        pytest.skip("tflite-runtime was last built for Python 3.11")
    folder = tmp_path_factory.mktemp("tflite-runtime")
    venv.create(folder, with_pip=True)
    program = folder / "bin" / "python"
    command = [program, "-m", "pip", "install", "--quiet", *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"tflite-runtime cannot be installed here: {done.stderr.strip()[-200:]}")
    return program


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_it_answers_as_litert_without_xnnpack(name: str, python: Path, tmp_path: Path) -> None:
    model = opened(NETWORKS[name])
    data = to_tflite(model)
    x = np.concatenate([rows for _, rows in check_inputs(model)])
    (tmp_path / "model.tflite").write_bytes(data)
    np.save(tmp_path / "x.npy", x)
    files = [str(tmp_path / name) for name in ("model.tflite", "x.npy", "y.npy")]
    subprocess.run([python, "-c", RUN, *files], check=True, capture_output=True)
    theirs = np.load(files[2]).astype(np.int64)
    ours = model.logits(x)
    assert (theirs.argmax(axis=1) == ours.argmax(axis=1)).mean() >= 0.95
    if not NETWORKS[name].trunk:  # its kernels of convolutions are other ones
        assert np.array_equal(theirs, runner(model, data, "optimized")(x))
