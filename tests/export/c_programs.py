"""Generated C as programs, for tests: skipped with a reason where a tool is missing."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import ROOT
from zgedge.export import c_run
from zgedge.export.c import CSource
from zgedge.runtime import Model

# Emulators that tools/get_qemu.sh brought.
os.environ.setdefault("ZGEDGE_QEMU", str(ROOT / ".cache" / "qemu"))


def program(export: CSource, target: str = "native", **options: Any) -> c_run.Program:
    """The export as a program for a target, made small: that compiles fastest.

    But with the C library of zig, which would be built once more for that level.
    """
    level = "-O2" if target in ("aarch64", "armv7") else "-Os"
    try:
        return c_run.Program(export, target, **{"optimize": level, **options})
    except c_run.MissingToolError as e:
        pytest.skip(str(e))


def begin(export: CSource) -> list[c_run.Command]:
    return [c_run.start()] if export.learning else []


def coded(built: c_run.Program, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Records of `result` and `codes` of raw samples."""
    return built.run(*begin(built.export), c_run.quantize(built.export, x))[-1]


def predicted(built: c_run.Program, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Records of `result`, `scores` and `logits` of raw samples."""
    codes = coded(built, x)["codes"]
    return built.run(*begin(built.export), c_run.predict(built.export, codes))[-1]


def same_as_core(built: c_run.Program, model: Model, x: npt.NDArray[np.float32]) -> None:
    """Assert that a program gives what the core gives: logits, classes and scores."""
    said = predicted(built, x)
    assert np.array_equal(said["logits"], model.logits(x))
    classes, scores = model.predict_index(x)
    assert np.array_equal(said["result"], classes)
    assert np.array_equal(said["scores"].max(axis=1), steps(scores))


def steps(shares: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """Shares of 32,768 in steps of 1/255."""
    return (shares.astype(np.int64) * 255 + 16384) >> 15
