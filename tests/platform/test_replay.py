"""One file and one stream leave the same bytes on every processor, with every kernel variant."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from tests.platform import builds, networks
from tests.platform.networks import Case
from zgedge import arena

pytestmark = pytest.mark.xdist_group("platform")

STEPS = 10_000
ARM64 = ("portable", "neon", "dotprod")
# Models of processors: an emulated one that has every instruction, and that of a Raspberry Pi 4,
# which has no dot product.
EVERYTHING, PI4 = {"QEMU_CPU": "max"}, {"QEMU_CPU": "cortex-a72"}
RESULTS: dict[str, builds.Result] = {}


def reference(case: Case, native: list[Path], folder: Path, steps: int) -> builds.Result:
    """What the portable kernels leave on this machine."""
    name = f"{case.name} {steps}"
    if name not in RESULTS:
        RESULTS[name] = run(native, case, folder, "portable", steps=steps)
    return RESULTS[name]


def run(
    command: list[Path],
    case: Case,
    folder: Path,
    variant: str = "best",
    env: dict[str, str] | None = None,
    steps: int = STEPS,
    options: tuple[str, ...] = (),
) -> builds.Result:
    return builds.replay(
        command, case.file(), case.stream(), folder, variant, steps, case.new, case.replayed,
        options, env,
    )  # fmt: skip


def assert_same(a: builds.Result, b: builds.Result) -> None:
    assert a.predictions == b.predictions
    assert (a.rewired, a.replayed, a.correct) == (b.rewired, b.replayed, b.correct)
    first = next((i for i, (x, y) in enumerate(zip(a.data, b.data, strict=True)) if x != y), None)
    assert first is None, f"byte {first} differs"


def cases(group: tuple[Case, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", group, ids=lambda case: case.name)


def check_native(case: Case, native: list[Path], folder: Path, steps: int) -> None:
    expected = reference(case, native, folder, steps)
    usable = [name for name, works in expected.variants.items() if works and name != "portable"]
    for variant in usable:
        assert_same(run(native, case, folder, variant, steps=steps), expected)


def check_aarch64(
    case: Case, native: list[Path], aarch64: list[Path], folder: Path, steps: int
) -> None:
    expected = reference(case, native, folder, steps)
    for variant in ARM64:
        got = run(aarch64, case, folder, variant, EVERYTHING, steps)
        assert got.variant == variant
        assert_same(got, expected)


def check_armv7(
    case: Case, native: list[Path], armv7: list[Path], folder: Path, steps: int
) -> None:
    got = run(armv7, case, folder, "portable", steps=steps)
    assert_same(got, reference(case, native, folder, steps))


@cases(networks.SMALL)
def test_learning_happens(case: Case, native: list[Path], tmp_path: Path) -> None:
    """Else the tests below would compare nothing."""
    got = reference(case, native, tmp_path, STEPS)
    file = case.file()
    assert len(got.data) == len(file)
    # Classes are told apart well above chance, although wires come and go.
    new = STEPS * (case.new + 1) / 2
    assert got.correct > 1.5 * new / case.network.classes
    assert (got.rewired > 500) == (case.strategy != "static")
    assert (got.replayed > 0) == (case.replayed > 0)


def test_every_strategy_is_among_them() -> None:
    assert {case.strategy for case in networks.SMALL} == set(arena.STRATEGIES)


@cases(networks.SMALL)
def test_every_variant_of_this_machine(case: Case, native: list[Path], tmp_path: Path) -> None:
    check_native(case, native, tmp_path, STEPS)


@cases(networks.SMALL)
def test_aarch64(case: Case, native: list[Path], aarch64: list[Path], tmp_path: Path) -> None:
    check_aarch64(case, native, aarch64, tmp_path, STEPS)


@cases(networks.SMALL)
def test_armv7(case: Case, native: list[Path], armv7: list[Path], tmp_path: Path) -> None:
    check_armv7(case, native, armv7, tmp_path, STEPS)


@pytest.mark.slow
@cases(networks.LARGE)
def test_large_networks(
    case: Case, native: list[Path], aarch64: list[Path], armv7: list[Path], tmp_path: Path
) -> None:
    check_native(case, native, tmp_path, STEPS)
    check_aarch64(case, native, aarch64, tmp_path, STEPS)
    check_armv7(case, native, armv7, tmp_path, STEPS)


@cases(networks.LARGE)
def test_large_networks_for_a_while(
    case: Case, native: list[Path], aarch64: list[Path], armv7: list[Path], tmp_path: Path
) -> None:
    check_native(case, native, tmp_path, 300)
    check_aarch64(case, native, aarch64, tmp_path, 300)
    check_armv7(case, native, armv7, tmp_path, 300)


def test_dot_product_is_chosen_where_the_processor_has_it(
    aarch64: list[Path], tmp_path: Path
) -> None:
    """In a static program the weak getauxval must be linked, or the best kernels are never seen."""
    got = run(aarch64, networks.SMALL[0], tmp_path, env=EVERYTHING, steps=10)
    assert got.variants == {"portable": True, "neon": True, "dotprod": True}
    assert got.variant == "dotprod"


def test_dot_product_is_refused_by_a_processor_without(aarch64: list[Path], tmp_path: Path) -> None:
    got = run(aarch64, networks.SMALL[0], tmp_path, env=PI4, steps=10)
    assert got.variants == {"portable": True, "neon": True, "dotprod": False}
    assert got.variant == "neon"
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run(aarch64, networks.SMALL[0], tmp_path, "dotprod", PI4, steps=10)
    assert failed.value.returncode == 1
    assert "no such kernel variant" in failed.value.stderr


@cases(networks.SMALL)
def test_a_raspberry_pi_4(
    case: Case, native: list[Path], aarch64: list[Path], tmp_path: Path
) -> None:
    """The processor's own choice of kernels, on an emulated Cortex-A72."""
    got = run(aarch64, case, tmp_path, env=PI4, steps=1_000)
    assert_same(got, reference(case, native, tmp_path, 1_000))


def test_armv7_has_the_portable_kernels_only(armv7: list[Path], tmp_path: Path) -> None:
    got = run(armv7, networks.SMALL[0], tmp_path, steps=10)
    assert got.variants == {"portable": True}


def test_all_variants_are_built_here(native: list[Path], tmp_path: Path) -> None:
    """A variant that the build drops in silence would not be tested above."""
    if platform.machine() != "x86_64":
        pytest.skip("the variants of x86-64")
    got = run(native, networks.SMALL[0], tmp_path, steps=10)
    assert list(got.variants) == ["portable", "avx2", "vnni"]
    assert got.variant == [name for name, works in got.variants.items() if works][-1]
