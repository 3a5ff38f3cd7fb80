"""The cost model: prices that are fitted, kept, and never below 0."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from zgedge.bench import latency
from zgedge.devices import profiles
from zgedge.errors import UsageError
from zgedge.runtime import core_library as core
from zgedge.train.duration import format_latency


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures: the arithmetic is the same."""
    monkeypatch.setattr(latency, "SHAPES", ((8, 8, 1), (12, 12, 3)))
    monkeypatch.setattr(latency, "BUDGETS", ("8KB", "16KB"))
    monkeypatch.setattr(latency, "ROUNDS", 3)


def test_prices_are_found_again() -> None:
    networks = latency.random_networks(60, seed=3)
    counted = np.array([latency.counts(n) for n in networks])
    prices = np.linspace(1e-10, 3e-9, counted.shape[1])
    model = latency.fit(networks, (counted @ prices).tolist())
    others = latency.random_networks(10, seed=4)
    for network in others:
        assert model.seconds(network) == pytest.approx(latency.counts(network) @ prices, rel=0.02)
    assert min(model.prices) >= 0.0


def test_a_network_that_does_more_is_dearer() -> None:
    networks = latency.random_networks(30, seed=5)
    model = latency.fit(networks, latency.time_all(networks))
    work = [n.operations for n in networks]
    assert model.seconds(networks[int(np.argmax(work))]) > model.seconds(
        networks[int(np.argmin(work))]
    )


def test_prices_are_kept_for_each_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = latency.cache_file(latency.host_key())
    path.parent.mkdir()
    prices = [float(i) for i in range(len(latency.PARTS))]
    path.write_text(json.dumps({"key": latency.host_key(), "prices": prices}))
    assert latency.of_host().prices == tuple(prices)
    assert latency.cache_file("another host") != path


def test_times_are_read_and_written_as_people_do() -> None:
    assert latency.parse_latency("5ms") == pytest.approx(5e-3)
    assert latency.parse_latency("300 us") == pytest.approx(3e-4)
    assert latency.parse_latency("0.5s") == pytest.approx(0.5)
    assert [format_latency(t) for t in (2.5e-5, 4.2e-3, 1.5)] == [
        "25 us",
        "4.2 ms",
        "1.5 s",
    ]
    for text in ("5", "ms", "-1ms", "0ms", "5m", "nan"):
        with pytest.raises(UsageError):
            latency.parse_latency(text)


def test_boards_are_slower_where_their_clock_and_vectors_are() -> None:
    pi4, pi5 = latency.BOARDS["rpi4"], latency.BOARDS["rpi5"]
    assert latency.board_factor(pi4, "avx2", 3.0) > latency.board_factor(pi5, "avx2", 3.0) > 1.0
    assert latency.board_factor(pi4, "avx2", 3.0) == pytest.approx(4.0)
    assert latency.factor_of("rpi4") > 0
    assert latency.factor_of("rpi-zero2") == latency.factor_of("rpi-zero2w")
    for name in latency.BOARDS:  # as `zgedge device list` has them
        assert profiles.load(name).name == name
    assert core.variant()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (9.996e-4, "1 ms"), (0.99996, "1 s"), (3.9213e-6, "3.93 us"),
        (3.92 * 1e-6, "3.92 us"), (300 * 1e-6, "300 us"), (1e-3, "1 ms"), (1.0, "1 s"),
        (1234.0, "1240 s"), (999.9, "1000 s"), (0.0, "0 us"), (4.5e-10, "0.00045 us"),
    ],
)  # fmt: skip
def test_a_time_is_rounded_up_in_its_unit(seconds: float, text: str) -> None:
    assert format_latency(seconds) == text


def test_a_time_that_is_written_is_accepted_as_the_most() -> None:
    rng = np.random.default_rng(0)
    for seconds in 10.0 ** rng.uniform(-7, 1, 2000):
        text = format_latency(seconds)
        assert seconds <= latency.parse_latency(text) <= 1.01 * seconds
        assert "e" not in text
