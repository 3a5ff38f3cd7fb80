"""A short run of the fuzzer under the sanitizers, every kernel variant; a long one is recorded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def fuzz(cc: str) -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "tools" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_file_harms_the_core_and_every_check_is_reached(fuzz: ModuleType) -> None:
    found = fuzz.run(12, seed=7)
    assert found["findings"] == 0
    assert found["executions"] > 10_000
    assert found["accepted"] > 1000
    assert "portable" in found["variants"]
    # All rejections of a file but the unaligned arena, which the driver does not make.
    assert len(found["statuses"]) == 12


@pytest.mark.slow
def test_finding_ends_the_run(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # An arena one byte shorter than it says is read beyond its end: the sanitizer must see that.
    monkeypatch.setattr(fuzz, "FLAGS", [*fuzz.FLAGS, "-DMISSING=1"])
    with pytest.raises(SystemExit, match="AddressSanitizer"):
        fuzz.run(2, seed=1)
