"""Generated C predicts as the core does, on this machine and on emulated Arm and Cortex-M4."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from tests.export import c_programs, models
from tests.export.c_programs import program
from zgedge import arena
from zgedge.errors import BudgetError, UsageError, ZgedgeError
from zgedge.export import c_run, source, to_c
from zgedge.export.check import check
from zgedge.network import conv, dense, sparse
from zgedge.runtime import Model

EMULATED = ("aarch64", "armv7", "cortex-m4")
# Of each kind of layer and of input one; the others run on this machine alone by default.
SHORT = (
    *(
        (name, "cortex-m4")
        for name in ("sparse-b1", "sparse-b16", "table", "depthwise", "residual")
    ),
    *((name, target) for name in ("sparse-b4", "residual") for target in ("aarch64", "armv7")),
)
RANDOM = ("random-trunk-3", "random-trunk-4", "random-trunk-5")
REST = tuple(x for x in itertools.product(models.NETWORKS, EMULATED) if x not in SHORT)


def every_input(model: Model) -> np.ndarray:
    """Random and extreme raw samples."""
    return np.concatenate([x for _, x in source.check_inputs(model, 24)])


def exact(model: Model, target: str, **options: object) -> None:
    built = program(to_c(model), target, **options)
    c_programs.same_as_core(built, model, every_input(model))


@pytest.mark.parametrize("name", [n for n in models.NETWORKS if n not in RANDOM])
def test_networks_give_the_cores_integers(name: str) -> None:
    exact(models.opened(models.NETWORKS[name]), "native")


@pytest.mark.parametrize(("name", "target"), SHORT)
def test_networks_give_the_cores_integers_elsewhere(name: str, target: str) -> None:
    exact(models.opened(models.NETWORKS[name]), target)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), [*REST, *((name, "native") for name in RANDOM)])
def test_all_networks_give_the_cores_integers_elsewhere(name: str, target: str) -> None:
    exact(models.opened(models.NETWORKS[name]), target)


@pytest.mark.parametrize(("name", "target"), [("sparse-b8", "cortex-m4"), ("residual", "native")])
def test_extreme_weights_give_the_cores_integers(name: str, target: str) -> None:
    network = models.NETWORKS[name]
    exact(models.opened(network, models.extreme(network, 0)), target)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_networks_give_the_cores_integers(seed: int) -> None:
    rng = np.random.default_rng((7, seed))
    shape = (int(rng.integers(3, 16)), int(rng.integers(3, 16)), int(rng.integers(1, 4)))
    trunk = nets.random_trunk(rng, shape, int(rng.integers(1, 9)))
    features = trunk[-1].outputs
    hidden = sparse(features, 13, (features + 1) // 2, 1)
    network = nets.network(shape, (hidden,), 7, trunk=trunk, task="picture")
    p = nets.parameters(network, seed)
    if seed % 2:
        p = replace(p, trunk=nets.trunk_parameters(trunk, rng, 1 / 255, extreme=True))
        steps = [p.trunk[-1].s_out, *(x.s_in for x in p.layers[1:])]
        p = replace(p, layers=[replace(x, s_in=s) for x, s in zip(p.layers, steps, strict=True)])
    exact(models.opened(network, p), ("native", "cortex-m4")[seed % 4 // 2])


def test_wide_and_deep_networks_give_the_cores_integers() -> None:
    layers = [sparse(600, 300, 24, 8), dense(300, 40), *([sparse(40, 40, 4, 1)] * 5)]
    network = nets.network((1, 600, 1), tuple(layers), 300, groups=600)
    exact(models.opened(network), "native")


def test_the_check_of_an_export_runs_it() -> None:
    for learning in (False, True):
        model = models.remembering()
        found = check(model, "c", to_c(model, learning=learning), count=8)
        assert found.identical
        assert found.sources["remembered"] == 8
    model, other = (models.opened(models.NETWORKS["dense"], seed=i) for i in range(2))
    assert not check(model, "c", to_c(other)).identical


def test_a_machine_without_a_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_run.shutil, "which", lambda *a, **k: None)
    monkeypatch.setattr(c_run.importlib.util, "find_spec", lambda name: None)
    model = models.opened(models.NETWORKS["dense"])
    with pytest.raises(c_run.MissingToolError, match="no C compiler for native"):
        check(model, "c", to_c(model))
    with pytest.raises(c_run.MissingToolError, match="no qemu-arm on this machine"):
        c_run.emulator("armv7")


# ---- input and output ----


@pytest.mark.parametrize("name", ["sparse-b4", "table", "convolution"])
def test_codes_are_those_of_the_core(name: str) -> None:
    model = models.opened(models.NETWORKS[name])
    coding = source.input_coding(model.arena)
    x = every_input(model)
    said = c_programs.coded(program(to_c(model)), x)
    assert np.array_equal(said["codes"], coding.codes(x))
    with np.errstate(over="ignore"):
        v = (x - coding.center) * coding.scale
    whole = np.rint(np.clip(v, -512, 512)) + coding.zero
    assert np.array_equal(said["result"], ((whole < 0) | (whole > 255)).sum(axis=1))
    assert said["result"].max() > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    model = models.opened(models.NETWORKS["sparse-b4"])
    x = np.zeros((2, model.inputs), np.float32)
    x[1, -1] = bad
    assert list(c_programs.coded(program(to_c(model)), x)["result"]) == [0, -2]


def test_scores_are_the_cores_shares_and_doubt_is_unknown() -> None:
    network = models.NETWORKS["sparse-b4"]
    x, _ = nets.samples(network, 200)
    _, sure = models.opened(network).predict_index(x)
    just = int(np.sort(sure)[100])  # one sample is just sure enough
    model = models.opened(network, replace(nets.parameters(network), unknown=just))
    said = c_programs.predicted(program(to_c(model)), x)
    classes, scores = model.predict_index(x)
    assert 0 < (classes < 0).sum() < len(x)
    assert np.array_equal(said["result"], classes)
    shares = model.predict_proba(x)
    assert abs(said["scores"] / 255 - shares).max() < 0.003
    assert np.array_equal(said["scores"].max(axis=1), c_programs.steps(scores))


def test_names_of_classes_are_as_in_the_file(tmp_path: Path, cc: str) -> None:
    names = ['a "quoted" one', "back\\slash", "what??/", "für", "two\nlines", "7\t8", "%s"]
    network = nets.network((1, 8, 1), (), len(names), names_bytes=len(arena.names_blob(names)))
    p = replace(nets.parameters(network), class_names=names, int_classes=False)
    to_c(models.opened(network, p), "named").write(tmp_path)
    main = '#include "named.h"\n#include <stdio.h>\nint main(void) {\n'
    main += (
        "for (int i = 0; i < NAMED_CLASSES; i++) { puts(named_class_names[i]); putchar(0); }\n}\n"
    )
    (tmp_path / "main.c").write_text(main)
    flags = [*c_run.EXACT, *c_run.WARNINGS]
    subprocess.run([cc, *flags, "main.c", "named.c", "-o", "main"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "main"], capture_output=True, check=True).stdout
    assert said.decode().split("\n\0")[:-1] == names


# ---- the text ----


def test_the_same_model_gives_the_same_text_and_stays_as_it_is() -> None:
    model = models.learned(models.NETWORKS["sparse-b1"])
    before = model.arena.buffer.copy()
    for learning in (False, True):
        assert to_c(model, learning=learning) == to_c(model, learning=learning)
    assert np.array_equal(before, model.arena.buffer)


@pytest.mark.parametrize("learning", [False, True])
def test_sizes_in_the_header(learning: bool) -> None:
    network = models.NETWORKS["residual"]
    model = models.opened(network)
    made = to_c(model, "net3", learning)
    said = {k: int(v) for k, v in re.findall(r"#define NET3_(\w+) (\d+)", made.header)}
    assert said["INPUTS"] == made.inputs == network.inputs
    assert said["CLASSES"] == made.classes == network.classes
    assert said["FLASH_BYTES"] == made.flash_bytes
    assert said["RAM_BYTES"] == made.ram_bytes
    if learning:
        assert said["ARENA_BYTES"] == made.arena_bytes == len(model.arena.buffer)
        assert said["BATCH"] == network.batch
    else:
        sizes = network.for_inference().section_bytes()
        kept = sum(sizes.get(k, 0) for k in (3, 4, 5, 6))  # input, weights, indices, rows
        # Multipliers of the head are never used, and not there.
        assert made.flash_bytes == kept - 4 * network.classes
        assert made.ram_bytes == sizes[7]


@pytest.mark.parametrize("name", models.NETWORKS)
def test_ram_is_what_the_file_format_counts(name: str) -> None:
    network = models.NETWORKS[name]
    made = to_c(models.opened(network))
    assert made.ram_bytes == network.for_inference().section_bytes()[7]


def test_the_header_serves_cplusplus(tmp_path: Path) -> None:
    if (cxx := shutil.which("g++") or shutil.which("clang++")) is None:
        pytest.skip("no C++ compiler on this machine")
    for learning in (False, True):
        to_c(models.opened(models.NETWORKS["dense"]), learning=learning).write(tmp_path)
        (tmp_path / "main.cc").write_text(
            '#include "zge.h"\nint main() { return ZGE_INPUTS - 30; }\n'
        )
        flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
        subprocess.run([cxx, *flags, "main.cc"], cwd=tmp_path, check=True)


def compile_alone(made: object, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    made.write(folder)  # type: ignore[attr-defined]
    return subprocess.run(
        [*command, "-c", "zge.c", "-o", "zge.o"], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize(
    ("level", "learning"),
    [
        ("-O0", False), ("-Os", False), ("-O0", True),
        pytest.param("-O3", False, marks=pytest.mark.slow),
        pytest.param("-O2", True, marks=pytest.mark.slow),
        pytest.param("-O3", True, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_compilers_have_nothing_to_say(
    level: str, compiler: str, learning: bool, tmp_path: Path
) -> None:
    if (found := shutil.which(compiler)) is None:
        pytest.skip(f"no {compiler} on this machine")
    more = ["-Wmissing-prototypes", "-Wstrict-prototypes", "-Wcast-qual", "-Wdouble-promotion"]
    if learning:
        more.remove("-Wcast-qual")
    for name in ("sparse-b1", "residual"):
        made = to_c(models.opened(models.NETWORKS[name]), learning=learning)
        done = compile_alone(
            made, tmp_path, found, "-std=c11", level, *c_run.WARNINGS, *more
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("learning", [False, True])
def test_no_library_is_called(learning: bool, tmp_path: Path, cc: str) -> None:
    if (nm := shutil.which("nm")) is None:
        pytest.skip("no nm on this machine")
    made = to_c(models.opened(models.NETWORKS["residual"]), learning=learning)
    options = ("-O0", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-fno-pie")
    assert compile_alone(made, tmp_path, cc, *options).returncode == 0
    said = subprocess.run([nm, "-P", "zge.o"], cwd=tmp_path, capture_output=True, text=True).stdout
    kinds = [line.split()[:2] for line in said.splitlines()]
    assert {name for name, kind in kinds if kind == "U"} <= {"memcpy", "memset"}
    seen = {name for name, kind in kinds if kind.isupper() and kind != "U"}
    declared = set(re.findall(r"\b(zge_\w+)[\[(]", made.header))
    assert seen == declared


@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-mfpmath=387"])
def test_compilers_that_would_give_other_integers_are_refused(
    flag: str, tmp_path: Path, cc: str
) -> None:
    if flag == "-mfpmath=387" and os.uname().machine != "x86_64":
        pytest.skip("only x86 has such floats")
    made = to_c(models.opened(models.NETWORKS["dense"]))
    done = compile_alone(made, tmp_path, cc, flag)
    assert done.returncode != 0
    assert "#error" in done.stderr
    assert "compile with" in done.stderr


def test_sanitizers_find_nothing() -> None:
    for name in ("sparse-b16", "residual"):
        model = models.opened(models.NETWORKS[name])
        options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Wno-error"]
        exact(model, "native", optimize="-O0", options=options)


# ---- wrong input ----


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "_a", "für", "a" * 41, "a;b", "a\n"])
def test_a_name_that_c_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot start the names of C functions.*--out"):
        to_c(models.opened(models.NETWORKS["dense"]), name)


@pytest.mark.parametrize(
    "name",
    ["zge", "net1", "int", "Zge", "main", "a_b", "net", "header", "learns", "driver", "stdint"],
)
def test_names_work(name: str) -> None:
    model = models.opened(models.NETWORKS["dense"])
    program(to_c(model, name), optimize="-O0")


@pytest.mark.parametrize("name", ["zge", "net1", "board", "learns", "string"])
def test_names_of_learners_work(name: str) -> None:
    program(to_c(models.opened(models.NETWORKS["dense"]), name, learning=True), optimize="-O0")


def test_a_name_that_meets_the_cores_is_refused() -> None:
    model = models.opened(models.NETWORKS["dense"])
    to_c(model, "net")
    with pytest.raises(UsageError, match="makes net_learn, which the generated file uses itself"):
        to_c(model, "net", learning=True)


def test_learning_of_a_network_that_cannot_is_refused() -> None:
    network = models.NETWORKS["dense"].for_inference()
    with pytest.raises(UsageError, match="was written without what learning needs"):
        to_c(models.opened(network), learning=True)


def test_a_network_that_does_not_fit_is_refused() -> None:
    model = models.opened(models.NETWORKS["dense"])
    made = to_c(model)
    assert to_c(model, flash=made.flash_bytes, ram=made.ram_bytes) == made
    with pytest.raises(BudgetError, match=r"needs [\d,]+ bytes of flash; there are") as e:
        to_c(model, flash=made.flash_bytes - 1)
    assert e.value.smallest == made.flash_bytes
    with pytest.raises(BudgetError, match=r"bytes of RAM; there are [\d,]+. .*without learning"):
        to_c(model, learning=True, ram=made.ram_bytes)


def test_programs_that_fail_are_said() -> None:
    made = to_c(models.opened(models.NETWORKS["dense"]))
    with pytest.raises(UsageError, match="no target 'z80'"):
        c_run.Program(made, "z80")
    with pytest.raises(ZgedgeError, match="refuses zge.c: .*-ffast-math"):
        program(made, options=["-ffast-math"])
    built = program(made)
    with pytest.raises(ZgedgeError, match="ended with 3"):
        built.run(c_run.start())  # a program that cannot learn has no start
    with pytest.raises(ZgedgeError, match="too few"):
        built.run(replace(c_run.stack(), count=2))
    built.path.chmod(0o600)  # as in a folder that may hold no programs
    with pytest.raises(ZgedgeError, match="Cannot run .*: Permission denied"):
        built.run(c_run.stack())
    wide = nets.network((8, 8, 64), (), 4, trunk=(conv((8, 8, 64), 8),), task="picture")
    with pytest.raises(ZgedgeError, match="refuses zge.c"):  # its rows are too many for 1 KB
        program(to_c(models.opened(wide)), "cortex-m4", ram=1024)
