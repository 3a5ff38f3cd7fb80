"""Runtimes that zgedge[export] names: the oldest, and those installed here."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def test_installed_versions_are_in_the_range() -> None:
    from tools.oldest_runtimes import lowest

    found = dict(requirement.split("==") for requirement in lowest())
    assert set(found) == {"onnx", "onnxruntime", "tflite", "flatbuffers", "ai-edge-litert"}
    for name, oldest in found.items():
        assert numbers(metadata.version(name)) >= numbers(oldest)


@pytest.mark.slow
def test_exports_run_in_the_oldest_versions(root: Path, tmp_path: Path) -> None:
    """A copy of the packages is fetched: without a registry in reach this is skipped."""
    command = [sys.executable, "tools/oldest_runtimes.py", "--folder", str(tmp_path / "oldest")]
    done = subprocess.run(
        [*command, "-m", "not slow"], cwd=root, capture_output=True, text=True, timeout=1200
    )
    if "pip" in done.stderr and "CalledProcessError" in done.stderr:
        pytest.skip(f"the packages cannot be fetched: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"\d{3} passed", done.stdout)
