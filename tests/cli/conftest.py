"""Commands in process, and small models that they are tried on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.conftest import ROOT
from zgedge.cli import main

# Without a trunk: what is looked at are the sparse layers.
TRAIN = ("--budget", "16KB", "--epochs", "3", "--network", "s136:20/4 b4 r99")


def run(*args: object, code: int = 0) -> Result:
    """Run a command in this process; it must end with `code`."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, f"{result.exit_code}: {result.stdout}{result.stderr}"
    return result


def run_json(*args: object, code: int = 0) -> dict[str, Any]:
    """Run a command with --json: one object on standard output, on one line, and nothing else."""
    result = run(*args, "--json", code=code)
    assert result.stdout.count("\n") == 1
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def refused(*args: object, code: int) -> str:
    """Run a command that must be refused with `code`, said on standard error; returns what is said.

    With --json the same words come on standard output.
    """
    said = run(*args, code=code).stderr
    found = run_json(*args, code=code)
    assert found["exit_code"] == code
    assert found["error"] in said
    assert found["hint"] is None or found["hint"] in said
    return said


def process(*args: object, **options: Any) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "zgedge.cli", *map(str, args)],
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **options.pop("env", {})},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def to_the_end(child: subprocess.Popen[str], seconds: float = 300) -> tuple[str, str]:
    """What a process printed on both streams; one that does not end in that time is killed."""
    try:
        return child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise


@pytest.fixture(scope="session")
def _models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("models")
    run("train", *TRAIN, "--out", folder / "learning.zge")
    run("train", *TRAIN, "--no-learning", "--out", folder / "fixed.zge")
    return {path.stem: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def model(_models: dict[str, bytes], tmp_path: Path) -> Path:
    """A small model of digits that learns; a file of the test's own."""
    path = tmp_path / "learning.zge"
    path.write_bytes(_models["learning"])
    return path


@pytest.fixture
def fixed(_models: dict[str, bytes], tmp_path: Path) -> Path:
    """The same without learning."""
    path = tmp_path / "fixed.zge"
    path.write_bytes(_models["fixed"])
    return path


def table(rows: int, *, columns: int = 6, classes: int = 3, seed: int = 0) -> np.ndarray:
    """Measurements that tell classes apart, [rows, columns + 1], the class in the last column."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    centers = np.random.default_rng(99).normal(size=(classes, columns)) * 3
    x = centers[y] + rng.normal(size=(rows, columns))
    return np.column_stack([x, y])


def csv_text(rows: np.ndarray, *, label: str = "kind", names: str = "abc") -> str:
    """A table as a person saves it: a header, and the label column first."""
    head = ",".join([label, *(f"s{i}" for i in range(rows.shape[1] - 1))])
    lines = [
        ",".join([names[int(row[-1])], *(f"{value:.4f}" for value in row[:-1])]) for row in rows
    ]
    return "\n".join([head, *lines]) + "\n"
