"""Generated C on an emulated Cortex-M4: its memories, trained networks, and the tables of it."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests import nets
from tests.conftest import ROOT
from tests.export import c_programs, models
from tests.export.c_programs import program
from tests.export.test_c_learning import taught
from zgedge import arena
from zgedge.errors import ZgedgeError
from zgedge.export import c_run, to_c
from zgedge.network import Network, conv, dense, depthwise, mean_pool, sparse
from zgedge.runtime import Model

RAM = 65536


def test_weights_stay_in_flash() -> None:
    for name in ("sparse-b1", "residual"):
        made = to_c(models.opened(models.NETWORKS[name]))
        sizes = program(made, "cortex-m4").sections()
        assert sizes[".program.data"] == 0
        assert made.ram_bytes <= sizes[".program.bss"] <= made.ram_bytes + 7
        assert made.flash_bytes <= sizes[".program.rodata"]
        assert sizes[".program.text"] < 4096


def test_instructions_are_counted() -> None:
    """The same each time, and growing with the connections as they should."""
    network = models.NETWORKS["sparse-b4"]
    made = to_c(models.opened(network))
    codes = np.random.default_rng(0).integers(0, 256, (5, network.inputs)).astype(np.uint8)
    (said,) = program(made, "cortex-m4").run(c_run.predict(made, codes))
    spent = said["instructions"]
    assert spent.max() - spent.min() <= 80  # the timer's steps are 40
    assert 2 * network.operations < spent[0] < 30 * network.operations


@pytest.mark.slow  # the compiler makes its helpers for each of them first
@pytest.mark.parametrize("processor", ["cortex_m3", "cortex_m4"])
def test_without_a_floating_point_unit_the_integers_are_the_same(processor: str) -> None:
    try:
        zig = c_run.compiler("cortex-m4")[0]
    except c_run.MissingToolError as e:
        pytest.skip(str(e))
    command = [zig, "cc", "-target", "thumb-freestanding-eabi", f"-mcpu={processor}"]
    for name in ("table", "residual"):
        model = models.opened(models.NETWORKS[name])
        built = program(to_c(model), "cortex-m4", command=command)
        x, _ = nets.samples(models.NETWORKS[name], 40)
        c_programs.same_as_core(built, model, x)


def mnist_shaped() -> Network:
    """A learner of pictures of MNIST's size, as large as 64 KB take it."""
    return nets.network(
        (28, 28, 1), (sparse(784, 96, 64, 4),), 10, task="picture", batch=8,
        replay_samples=80, replay_bits=4,
    )  # fmt: skip


def test_a_learner_of_mnists_size_runs_in_64_kb() -> None:
    network = mnist_shaped()
    x, y = nets.samples(network, 20)
    made = to_c(models.opened(network), learning=True, ram=RAM)
    built = program(made, "cortex-m4", ram=RAM)
    _, said, deep, sealed = built.run(
        c_run.start(), c_run.learn(made, x, y, 7), c_run.stack(), c_run.seal(made)
    )
    was, model = taught(network, x, y, 7)
    assert list(said["result"]) == was
    assert sealed["arena"][0].tobytes() == model.to_bytes()
    sizes = built.sections()
    assert sizes[".program.data"] == 0
    assert made.arena_bytes < sizes[".program.bss"] <= made.ram_bytes
    assert made.flash_bytes <= sizes[".program.rodata"]
    static = sizes[".program.bss"] + sizes[".bss"] + sizes[".data"]
    assert RAM * 0.9 < static + deep["result"][0] <= RAM
    assert deep["result"][0] < 2048
    with pytest.raises(ZgedgeError, match="refuses zge.c"):
        program(made, "cortex-m4", ram=RAM - 4096)


# ---- pictures of people's digits ----


@pytest.fixture(scope="module")
def digits() -> Any:
    pytest.importorskip("sklearn")
    from zgedge import data

    return data.load("digits")


DIGITS = {
    "sparse": ((sparse(64, 48, 16, 4), dense(48, 10)), ()),
    "pictures": (
        (dense(12, 10),),
        (
            conv((8, 8, 1), 8), conv((8, 8, 8), 8, add=1), depthwise((8, 8, 8), 3, 2),
            conv((4, 4, 8), 12, 1), mean_pool((4, 4, 12)),
        ),
    ),
}  # fmt: skip


def for_digits(kind: str, digits: Any) -> Network:
    layers, trunk = DIGITS[kind]
    names = len(arena.names_blob(digits.classes))
    return Network(
        (8, 8, 1), 10, layers, names, task="picture", learning=False, batch=1, trunk=trunk
    )


def exact_on(digits: Any, model: Model, targets: tuple[str, ...]) -> None:
    x = model.rows(digits.x_test).astype(np.float32)
    for target in targets:
        c_programs.same_as_core(program(to_c(model), target), model, x)


@pytest.mark.parametrize("kind", DIGITS)
def test_all_digits_give_the_cores_integers(kind: str, digits: Any) -> None:
    network = for_digits(kind, digits)
    p = nets.parameters(network)
    p = replace(p, input_scale=np.full(1, 255 / 16, np.float32))
    exact_on(digits, models.opened(network, p), ("cortex-m4",))


@pytest.mark.slow
@pytest.mark.parametrize("kind", DIGITS)
def test_trained_networks_give_the_cores_integers_on_all_digits(kind: str, digits: Any) -> None:
    pytest.importorskip("torch")
    from zgedge.train import train

    result = train(digits, for_digits(kind, digits), steps=300)
    model = Model(nets.buffer(arena.write(result.network, result.parameters)))
    assert (model.logits(digits.x_test).argmax(axis=1) == digits.y_test).mean() > 0.6
    exact_on(digits, model, ("native", "aarch64", "armv7", "cortex-m4"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", ["s32:48/1", "s32:48/4", "s32:48/8", "s32:48/16", "c3/2x8 c3x8+ dw3/2 m"]
)
def test_trained_networks_give_the_cores_integers_on_all_of_mnist(
    spec: str, mnist_dir: Path
) -> None:
    pytest.importorskip("torch")
    from zgedge import data
    from zgedge.budget import Task, named
    from zgedge.train import train

    mnist = data.load("mnist", data_dir=mnist_dir.parent)
    network = named(Task.of(mnist), 1 << 20, spec, learning=False).network
    result = train(mnist, network, steps=100)
    model = Model(nets.buffer(arena.write(result.network, result.parameters)))
    exact_on(mnist, model, ("native",))
    part = replace(mnist, x_test=mnist.x_test[:300])
    exact_on(part, model, ("aarch64", "armv7", "cortex-m4"))


# ---- the table ----


@pytest.mark.slow
def test_the_table_of_microcontrollers(digits: Any) -> None:
    pytest.importorskip("torch")
    from zgedge.bench import mcu

    try:
        rows = mcu.predicting(digits, {"one": "s24:16/4", "two": "c3/2x4 c3x4+"}, 60, 12)
        one = mcu.learning(digits, "s32:16/4 b8 r40", 200, 400, 0.1)
    except c_run.MissingToolError as e:
        pytest.skip(str(e))
    assert [row.compared for row in rows] == [120, 120]
    small, fast = rows[0].built
    assert small.code < fast.code
    assert fast.instructions < small.instructions
    assert one.rewired > 0
    assert one.last > one.first + 0.1
    assert one.after > one.shifted + 0.3


def test_the_page_of_microcontrollers() -> None:
    from zgedge.bench import mcu

    levels = [mcu.Built(level, 1000 + i, 2000, 3000, 400, 50_000) for i, level in enumerate("ab")]
    row = mcu.Row("two", "c3/2x4", 9999, 0.5, 25_000, 120, tuple(levels))
    numbers = (0.1, 0.2, 0.3, 0.4, 0.51)
    one = mcu.Learning("s32:16/4", 6652, 8, 40, levels[0], 1_234_567, 400, 176, *numbers)
    text = "\n".join(mcu.as_markdown("the command", "digits", 60, [row], one))
    assert "Written by `the command`; do not edit." in text
    assert "| two `c3/2x4` | 50.00 | 9,999 | 25,000 | `a` | 1,000 | 2,000 | 3,000 | 400 |" in text
    assert "|  |  |  |  | `b` | 1,001 | 2,000 | 3,000 | 400 | 50,000 | 2.0 | all 120 |" in text
    assert "| `a` | 1,000 | 2,000 | 3,000 | 400 | 50,000 | 1,234,567 |" in text
    assert "| permuted, after the stream | 51.0 |" in text


@pytest.mark.slow
def test_mnist_is_learned_again_in_64_kb(mnist_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from zgedge.bench import mcu

    options = ["--data-dir", str(mnist_dir.parent), "--quick", "--json"]
    done = CliRunner().invoke(mcu.main, [*options, "--out", str(tmp_path / "mcu.md")])
    assert done.exit_code == 0, done.output
    said = json.loads(done.output)["learning"]
    assert said["built"]["static"] + said["built"]["stack"] <= RAM
    assert said["after"] > said["shifted"] + 0.3
    assert "## Learning in 65,536 bytes of RAM" in (tmp_path / "mcu.md").read_text()


# ---- the page ----

STUBS = """
#include <stdlib.h>
#include <string.h>
static uint8_t kept[MODEL_ARENA_BYTES];
static int samples, stored, shown;
void board_sample(float *to) {
    if (samples++ == 2500) {
        exit(stored == 2 && shown > 2000 ? 0 : 1);
    }
    for (int i = 0; i < MODEL_INPUTS; i++) {
        to[i] = (float)((samples * 7 + i * samples) % 10) / 10.0f;
    }
}
int board_label(void) { return samples % 3 == 0 ? samples % MODEL_CLASSES : -1; }
const uint8_t *board_stored(void) { return stored ? kept : NULL; }
void board_store(const uint8_t *bytes, size_t count) {
    memcpy(kept, bytes, count);
    stored++;
}
void board_show(const char *name, uint8_t score) { shown += name[0] != 0 && score > 0; }
"""


def test_the_program_of_the_page_works(tmp_path: Path, cc: str) -> None:
    page = (ROOT / "docs" / "export_c.md").read_text()
    (block,) = re.findall(r"^```c\n(.*?)^```", page, re.M | re.S)
    to_c(models.opened(models.NETWORKS["sparse-b4"]), "model", learning=True).write(tmp_path)
    (tmp_path / "main.c").write_text(block + STUBS)
    flags = ["-std=c11", "-O1", *c_run.WARNINGS]
    compiled = ["main.c", "model.c", "-o", "program"]
    subprocess.run([cc, *flags, *compiled], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "program"], check=True, timeout=60)


def test_the_page_names_what_the_header_has() -> None:
    page = (ROOT / "docs" / "export_c.md").read_text()
    header = to_c(models.opened(models.NETWORKS["dense"]), "model", learning=True).header
    named = set(re.findall(r"\b(?:model|MODEL)_\w+", page))
    assert {name for name in named if name not in header} == set()
