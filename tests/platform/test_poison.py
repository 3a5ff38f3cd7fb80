"""Scratch is scratch: what it held before a call changes nothing that comes out."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from tests.platform import builds, networks
from tests.platform.networks import Case
from tests.platform.test_replay import assert_same, run
from zgedge import arena
from zgedge import network as net

pytestmark = pytest.mark.xdist_group("platform")

POISONS = (0xA5, 0x5A)
STEPS = 500
CASES = (*networks.SMALL, *(x for x in networks.LARGE if x.name in ("digits", "large-batch")))
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def gradient_row(network: net.Network) -> tuple[int, int]:
    """First byte and length of the gradient row, which is state (docs/format.md)."""
    start = next(offset for kind, offset, _ in network.sections() if kind == net.SCRATCH)
    hidden = max((x.inputs for x in network.layers[1:]), default=0)
    rewirable = max((x.inputs for x in network.layers if x.kind == net.SPARSE), default=0)
    return start + 4 * hidden * network.batch, 4 * rewirable


def poisoned(data: bytes, network: net.Network, byte: int) -> bytes:
    """The file with all scratch but the gradient row filled; checksums renewed."""
    out = bytearray(data)
    first, length = gradient_row(network)
    kept = bytes(out[first : first + length])
    for kind, offset, size in network.sections():
        if kind in (net.ACTIVATIONS, net.SCRATCH):
            out[offset : offset + size] = bytes([byte]) * size
    out[first : first + length] = kept
    arena.sign(memoryview(out))
    return bytes(out)


def gathered(data: bytes, network: net.Network, samples: int, largest: int) -> bytes:
    """The file in the middle of gathering: so many samples, the gradients random up to `largest`
    in size, which one of them has; checksums renewed."""
    out = bytearray(data)
    learner = next(offset for kind, offset, _ in network.sections() if kind == net.LEARNER)
    struct.pack_into("<I", out, learner + 52, samples)
    first, length = gradient_row(network)
    row = np.random.default_rng(0).integers(-largest, largest, length // 4, endpoint=True)
    row[-1] = -largest
    out[first : first + length] = row.astype("<i4").tobytes()
    arena.sign(memoryview(out))
    return bytes(out)


@each_case
def test_before_every_call(case: Case, native: list[Path], tmp_path: Path) -> None:
    clean = run(native, case, tmp_path, "portable", steps=STEPS)
    for variant in (name for name, works in clean.variants.items() if works):
        for byte in POISONS:
            got = run(native, case, tmp_path, variant, steps=STEPS, options=(f"poison={byte}",))
            assert_same(got, clean)


@each_case
def test_before_every_call_on_aarch64(
    case: Case, native: list[Path], aarch64: list[Path], tmp_path: Path
) -> None:
    clean = run(native, case, tmp_path, "portable", steps=100)
    for variant in ("neon", "dotprod"):
        got = run(
            aarch64, case, tmp_path, variant, {"QEMU_CPU": "max"}, 100,
            (f"poison={POISONS[0]}",),
        )  # fmt: skip
        assert_same(got, clean)


@each_case
def test_in_the_file(case: Case, native: list[Path], tmp_path: Path) -> None:
    clean = run(native, case, tmp_path, steps=STEPS)
    for byte in POISONS:
        file = poisoned(case.file(), case.network, byte)
        assert file != case.file()
        got = builds.replay(
            native, file, case.stream(), tmp_path, "best", STEPS, case.new, case.replayed
        )
        assert_same(got, clean)


@pytest.mark.parametrize("case", networks.SMALL, ids=lambda case: case.name)
def test_of_a_file_that_only_predicts(case: Case, native: list[Path], tmp_path: Path) -> None:
    network = case.network.for_inference()
    file = arena.write(network, nets.parameters(network, networks.SEED))
    clean = builds.replay(native, file, case.stream(), tmp_path, "portable", 100)
    assert clean.data[32:] == file[32:]  # nothing but the generation and its checksum moved
    for variant in (name for name, works in clean.variants.items() if works):
        got = builds.replay(
            native, file, case.stream(), tmp_path, variant, 100,
            options=(f"poison={POISONS[0]}",),
        )  # fmt: skip
        assert_same(got, clean)


def test_but_the_gradient_row_is_state(native: list[Path], tmp_path: Path) -> None:
    """It gathers over several steps, so other bytes there must lead to other wiring."""
    case = networks.SMALL[0]
    clean = run(native, case, tmp_path, steps=100)
    file = gathered(case.file(), case.network, 40, 40 * 255 * 127)
    got = builds.replay(native, file, case.stream(), tmp_path, "best", 100, case.new, case.replayed)
    assert got.data != clean.data


@pytest.mark.parametrize("samples", [0, 1, 40, 4_096])
def test_a_gradient_beyond_what_was_gathered_is_refused(
    samples: int, native: list[Path], tmp_path: Path
) -> None:
    """One of -2^31 had no size, and sums of large ones would overflow."""
    case = networks.SMALL[0]
    largest = samples * 255 * 127
    for too_large in (largest + 1, 2**31):
        with pytest.raises(subprocess.CalledProcessError) as failed:
            builds.replay(
                native, gathered(case.file(), case.network, samples, too_large), case.stream(),
                tmp_path, steps=1,
            )  # fmt: skip
        assert "contradict themselves" in failed.value.stderr
    file = gathered(case.file(), case.network, samples, largest)
    builds.replay(native, file, case.stream(), tmp_path, steps=1)


def test_scratch_is_zero_in_a_sealed_file(native: list[Path], tmp_path: Path) -> None:
    case = networks.SMALL[0]
    got = run(native, case, tmp_path, steps=STEPS, options=(f"poison={POISONS[1]}",))
    first, length = gradient_row(case.network)
    for kind, offset, size in case.network.sections():
        if kind in (net.ACTIVATIONS, net.SCRATCH):
            held = bytearray(got.data[offset : offset + size])
            if kind == net.SCRATCH:
                held[first - offset : first - offset + length] = bytes(length)
            assert not any(held)
