"""The detectors find changes where river's Page-Hinkley does, on the streams that papers use.

The core's detectors are those of the second learner to the bit (test_guard.py); that one is
compared here. River counts in float64, this in 16.16 fixed point, so a detection may differ by a
sample or two where a sum grazes its bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.core.reference_guard import ONE, Detector

drift = pytest.importorskip("river.drift", reason="pip install river")
PASS, BOUND = 3277, 15 * ONE
Floats = npt.NDArray[np.float64]


def streams(seed: int) -> dict[str, Floats]:
    """Errors that rise at once or slowly, that stay, and values of a normal distribution."""
    rng = np.random.default_rng(seed)
    slow = np.linspace(0.05, 0.6, 1500)
    return {
        "abrupt": (rng.random(2000) < np.repeat([0.05, 0.4], 1000)).astype(float),
        "large": (rng.random(1200) < np.repeat([0.03, 0.88], 600)).astype(float),
        "gradual": (rng.random(1500) < slow).astype(float),
        "stationary": (rng.random(5000) < 0.2).astype(float),
        "normal": np.clip(rng.normal(np.repeat([0.3, 0.6], 800), 0.1), 0, 2),
    }


def found_by_river(values: Floats) -> list[int]:
    detector: Any = drift.PageHinkley(
        min_instances=30, delta=PASS / ONE, threshold=BOUND / ONE, alpha=1.0, mode="up"
    )
    found = []
    for i, v in enumerate(values):
        detector.update(float(v))
        if detector.drift_detected:
            found.append(i)
    return found


def found_here(values: Floats) -> list[int]:
    detector = Detector(PASS, BOUND)
    found = []
    for i, v in enumerate(values):
        detector.feed(round(v * ONE))
        if detector.held:
            found.append(i)
            detector.held = 0  # river starts anew at once
    return found


@pytest.mark.parametrize("name", ["abrupt", "large", "gradual", "stationary", "normal"])
def test_same_detections(name: str) -> None:
    for seed in range(10):
        values = streams(seed)[name]
        mine, rivers = found_here(values), found_by_river(values)
        assert len(mine) == len(rivers), seed
        assert np.abs(np.array(mine) - np.array(rivers)).max(initial=0) <= 2, seed


def test_delay_and_false_alarms() -> None:
    """A jump from 3 to 88 % is found within 30 samples and not before; 20 % that stay are an alarm
    twice in 100,000 samples."""
    alarms = 0
    for seed in range(20):
        found = found_here(streams(seed)["large"])
        assert 600 < found[0] <= 630
        alarms += len(found_here(streams(seed)["stationary"]))
    assert alarms == 2
