"""The core's text in generated programs: its very lines, and only those that are needed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.export import models
from zgedge.errors import ZgedgeError
from zgedge.export import c_core, to_c

LEARNING = ("zge_step_any", "zge_update_layer", "zge_error", "zge_visit", "zge_model_open")
PICTURES = ("zge_trunk_run", "zge_conv_row", "zge_mean_row", "zge_take_pictures", "zge_trunk_plan")


def functions(source: str) -> set[str]:
    """Names of the functions that a source defines."""
    return set(re.findall(r"^[a-zA-Z][\w *]*?\b(zge_\w+)\([^;{]*\) \{", source, re.MULTILINE))


def source(name: str, learning: bool = False) -> str:
    return to_c(models.opened(models.NETWORKS[name]), learning=learning).source


def test_only_what_is_needed_is_there() -> None:
    plain, pictures = functions(source("sparse-b4")), functions(source("residual"))
    learner, both = functions(source("sparse-b4", True)), functions(source("residual", True))
    assert not plain & {*LEARNING, *PICTURES}
    assert {"zge_trunk_run", "zge_conv_row"} <= pictures
    assert not pictures & set(LEARNING)
    assert set(LEARNING) <= learner
    assert not learner & set(PICTURES)
    assert {*LEARNING, *PICTURES} <= both
    for names in (plain, pictures, learner, both):
        assert not {"zge_kernels_now", "zge_variant_select", "zge_model_predict_f32"} & names


def test_the_whole_core_can_be_one_source(cc: str, tmp_path: Path) -> None:
    """No two of its files give two things one name: a program may need any of them together."""
    text = "".join(c_core.read(name) for name in c_core.FILES if name.endswith(".c"))
    (tmp_path / "all.c").write_text(text)
    done = subprocess.run(
        [cc, "-std=c11", "-fsyntax-only", "-DZGE_VARIANT=portable", f"-I{c_core.FOLDER}",
         tmp_path / "all.c"], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "learning"), [("sparse-b1", False), ("residual", True)])
def test_every_line_of_the_arithmetic_is_a_line_of_the_core(name: str, learning: bool) -> None:
    """Kernels are called by name and not through the table, functions are static, what is kept is
    const, limits are the network's: nothing else differs."""
    members = "|".join(c_core._kernels())

    def plain(line: str) -> str:
        line = re.sub(rf"\b(k|kernels|zge_kernels_now\(\))->({members})\(", r"CALL \2(", line)
        for member, function in c_core._kernels().items():
            line = re.sub(rf"^( .*)\b{function}\(", rf"\1CALL {member}(", line)
        line = re.sub(r"^(static|ZGE_API) |ZGE_KEPT |const (?=\w+ \*(weights|indices|bias|multi))|"
                      r"const (?=uint8_t \*nibbles)", "", line)  # fmt: skip
        return re.sub(r"(#define ZGE_MAX_\w+) \d+u", r"\1", line).strip()

    core = {plain(line) for file in c_core.FILES for line in c_core.read(file).splitlines()}
    text = source(name, learning)
    part = text[text.index("/* ---- the core ---- */") : text.index("/* ---- the network ---- */")]
    lines = [plain(line) for line in part.splitlines()[1:]]
    assert len(lines) > 300
    assert [line for line in lines if line not in core] == []


def test_limits_are_those_of_the_network() -> None:
    text = source("sparse-b1", learning=True)
    limits = dict(re.findall(r"#define (ZGE_MAX_\w+) (\d+)u", text))
    assert limits["ZGE_MAX_INPUTS"] == "64"
    assert limits["ZGE_MAX_CLASSES"] == "10"
    assert limits["ZGE_MAX_LAYERS"] == "3"
    assert limits["ZGE_MAX_BATCH"] == "16"


def test_weights_are_const_without_learning() -> None:
    assert "const int8_t *weights;   /* [outputs][width] */" in source("sparse-b1")
    assert "    int8_t *weights;   /* [outputs][width] */" in source("sparse-b1", learning=True)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("#if defined(ZGE_HAVE_X)\na\n#else\nb\n#endif\n", "b\n"),
        ("#if defined(ZGE_SIMD_X86)\na\n#elif defined(ZGE_SIMD_ARM)\nb\n#endif\nc\n", "c\n"),
        ("#ifndef ZGE_H\n#define ZGE_H\n#include <a.h>\na\n#endif\n", "#define ZGE_H\na\n"),
        ("#if !defined(ZGE_NO_TRUNK) /* why */\na\n#endif\n", "a\n"),
        *[("#if defined(__GNUC__)\na\n#else\nb\n#endif\n",) * 2],
        ("#ifdef ZGE_NEEDS\n#if defined(__GNUC__)\na\n#endif\n#endif\nb\n", "b\n"),
        ("#if defined(__A__)\n#ifdef ZGE_NEEDS\na\n#else\nb\n#endif\n#endif\n",
         "#if defined(__A__)\nb\n#endif\n"),
    ],
)  # fmt: skip
def test_conditions(text: str, left: str) -> None:
    assert c_core.resolved(text, frozenset()) == left
    without = c_core.resolved(
        "#if !defined(ZGE_NO_TRUNK)\na\n#endif\nb\n", frozenset(["ZGE_NO_TRUNK"])
    )
    assert without == "b\n"


def test_an_installation_without_the_sources_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setattr(c_core, "FOLDER", tmp_path)
    with pytest.raises(
        ZgedgeError, match="The core's source zge.h is not in .* Install zgedge again"
    ):
        source("dense")
