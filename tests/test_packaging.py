"""What is installed: the wheel, its library, and that a bare device can use it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

import zgedge
from tests import nets
from zgedge.export import c_core, c_run

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "sklearn", "scipy", "onnx", "onnxruntime", "tflite", "ai_edge_litert", "PIL",
         "matplotlib", "rich", "rich_click")  # fmt: skip
MACHINES = {"x86_64": (2, 62), "aarch64": (2, 183), "armv7l": (1, 40)}  # ELF class, e_machine


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, cc: str) -> Path:
    """The wheel for this machine, built from the source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    done = run(*pip, "wheel", ROOT, "--no-deps", "--no-build-isolation", "-w", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The `bin` of an environment that holds numpy, psutil, click and zgedge, and nothing else."""
    folder = tmp_path_factory.mktemp("device") / "env"
    venv.EnvBuilder(symlinks=True).create(folder)
    (site,) = folder.glob("lib/python3*/site-packages")
    for name in ("numpy", "psutil", "click"):
        files = importlib.metadata.files(name)
        assert files, f"{name} has no list of its files"
        here = Path(str(files[0].locate())).parents[len(files[0].parts) - 1]
        for top in sorted({f.parts[0] for f in files} - {"..", "__pycache__"}):
            (site / top).symlink_to(here / top)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    python = folder / "bin" / "python"
    done = run(*pip, "--python", python, "install", "--no-index", "--no-deps", wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bin"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file, and samples beside it that fit."""
    folder = tmp_path_factory.mktemp("model")
    net = nets.network()
    (folder / "model.zge").write_bytes(nets.file(net))
    x, y = nets.samples(net, 20)
    np.savez(folder / "data.npz", x=x, y=y)
    return folder / "model.zge"


# ---- the wheel ----


def test_wheel_is_for_every_python_on_this_processor(wheel: Path) -> None:
    assert re.fullmatch(r"zgedge-[\d.]+-py3-none-\w*linux\w*_\w+\.whl", wheel.name)
    assert wheel.name.split("-")[1] == zgedge.__version__


def test_wheel_holds_the_package_and_the_sources_that_exports_and_boards_need(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"zgedge/py.typed", "zgedge/runtime/libzge.so", "zgedge/runtime/core/zge.h"} <= names
    assert {
        f"zgedge/{p.relative_to(ROOT / 'zgedge')}" for p in ROOT.glob("zgedge/**/*.py")
    } <= names
    for folder in ("core", "native"):
        here = {p.name for p in (ROOT / "zgedge/runtime" / folder).glob("*.[ch]")}
        there = {Path(n).name for n in names if n.startswith(f"zgedge/runtime/{folder}/")}
        assert there == here
        assert here
    assert {f"zgedge/runtime/core/{name}" for name in c_core.FILES} <= names
    assert {f"zgedge/export/c_board/{p.name}" for p in c_run.BOARD.iterdir()} <= names
    assert not [n for n in names if n.split("/")[0] in ("tests", "docs", "tools", "cmake")]
    assert [n for n in names if n.endswith("licenses/LICENSE")]


def test_library_exports_its_header_and_takes_two_functions_of_libc(
    wheel: Path, tmp_path: Path
) -> None:
    if (nm := shutil.which("nm")) is None:
        pytest.skip("no nm on this machine")
    library = zipfile.ZipFile(wheel).extract("zgedge/runtime/libzge.so", tmp_path)
    header = (ROOT / "zgedge/runtime/core/zge.h").read_text()
    declared = set(re.findall(r"^ZGE_API [^;(]*?(\w+)\(", header, re.MULTILINE))

    def names(which: str) -> set[str]:
        lines = run(nm, "-D", which, "--format=posix", library).stdout.splitlines()
        return {line.split()[0].split("@")[0] for line in lines if line.split()[1] not in "wv"}

    assert names("--defined-only") == declared
    # The checked twins and the stack guard are what some systems' compilers make of the same calls.
    allowed = {"memcpy", "memset", "__memcpy_chk", "__memset_chk", "__stack_chk_fail", "getauxval"}
    assert names("--undefined-only") <= allowed


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    header = (ROOT / "zgedge/runtime/core/zge.h").read_text()
    found = re.search(r"#define ZGE_VERSION 0x([0-9a-f]{6})u", header)
    assert found is not None
    v = int(found[1], 16)
    assert f"{v >> 16}.{v >> 8 & 255}.{v & 255}" == project["version"] == zgedge.__version__
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert {"train", "export", "report", "deploy", "dev", "all"} <= set(extras)
    for name in set(extras) - {"all"}:
        assert name in extras["all"][0]


@pytest.mark.parametrize("processor", ["aarch64", "armv7l"])
def test_cross_built_wheel(processor: str, zig: str, tmp_path: Path) -> None:
    script = ROOT / "tools" / "cross_wheel.sh"
    done = run("env", f"PYTHON={sys.executable}", script, processor, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob(f"zgedge-*-py3-none-manylinux_2_*_{processor}.whl")
    packed = zipfile.ZipFile(path)
    elf = packed.read("zgedge/runtime/libzge.so")
    assert elf[:4] == b"\x7fELF"
    assert (elf[4], struct.unpack_from("<H", elf, 18)[0]) == MACHINES[processor]
    (tags,) = [n for n in packed.namelist() if n.endswith(".dist-info/WHEEL")]
    assert (
        f"Tag: {path.stem.removeprefix('zgedge-').split('-', 1)[1]}" in packed.read(tags).decode()
    )
    wanted = {b"portable", *((b"neon", b"dotprod") if processor == "aarch64" else ())}
    assert wanted <= set(elf.split(b"\0"))


# ---- a bare device ----


def test_import_brings_nothing_heavy(device: Path, tmp_path: Path) -> None:
    code = f"""
import sys, zgedge, zgedge.arena, zgedge.budget, zgedge.data, zgedge.network
heavy = {HEAVY!r}
print([m for m in heavy if m in sys.modules])
print([m for m in sys.modules if m.startswith(("zgedge.train", "zgedge.bench", "zgedge.report"))])
print(zgedge.__file__)
"""
    # Once where none of it is installed, once where all of it is.
    for python in (device / "python", Path(sys.executable)):
        done = run(python, "-c", code, cwd=tmp_path if python.parent == device else ROOT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[:2] == ["[]", "[]"]


def test_device_has_nothing_else(device: Path, tmp_path: Path) -> None:
    code = f"import importlib.util as u; print([m for m in {HEAVY!r} if u.find_spec(m)])"
    assert run(device / "python", "-c", code, cwd=tmp_path).stdout == "[]\n"


def test_device_predicts_and_learns(device: Path, model: Path, tmp_path: Path) -> None:
    code = f"""
import numpy as np, zgedge
data = np.load({str(model.parent / "data.npz")!r})
path = {str(model)!r}
model = zgedge.Model.open(path)
print(model.predict(data["x"]).tolist())
learner = zgedge.Learner(path)
for x, y in zip(data["x"], data["y"]):
    learner.learn_one(x, y)
learner.save("after.zge")
print(learner.status()["steps"])
"""
    done = run(device / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    predicted, steps = done.stdout.splitlines()
    x = np.load(model.parent / "data.npz")["x"]
    assert json.loads(predicted) == zgedge.Model.open(model).predict(x).tolist()
    assert steps == "20"
    after = (tmp_path / "after.zge").read_bytes()
    assert len(after) == model.stat().st_size
    assert after != model.read_bytes()


@pytest.mark.slow
def test_installed_package_compiles_for_a_board(device: Path, zig: str, tmp_path: Path) -> None:
    """A desk deploys from what pip has installed: the source tree is not there."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for source in (Path(zig).parent, *Path(zig).parent.parent.glob("ziglang-*.dist-info")):
        (packages / source.name).symlink_to(source)
    code = f"""
import os, sys
os.environ["XDG_CACHE_HOME"] = {str(tmp_path)!r}
sys.path.append({str(packages)!r})
from zgedge.devices import native, wheels
name, data = wheels.own("armv7l")
open(name, "wb").write(data)
print(native.build("armv7l"))
"""
    done = run(device / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    library = zipfile.ZipFile(wheel).read("zgedge/runtime/libzge.so")
    for made in (library, Path(done.stdout.strip()).read_bytes()):
        assert (made[4], int.from_bytes(made[18:20], "little")) == MACHINES["armv7l"]


def test_device_command_line(device: Path, model: Path, tmp_path: Path) -> None:
    done = run(device / "zgedge", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for verb in ("train", "info", "predict", "eval", "adapt", "prove", "data", "doctor"):
        assert re.search(rf"\b{verb}\b", done.stdout)
    for verb in ("predict", "eval"):
        done = run(
            device / "zgedge", verb, model, model.parent / "data.npz", "--json", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
    done = run(device / "zgedge", "info", model, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["bytes"] == model.stat().st_size


def test_missing_extra_is_named(device: Path, model: Path, tmp_path: Path) -> None:
    for arguments in (
        ("train", model.parent / "data.npz", "--budget", "16KB"),
        ("eval", model, "digits"),
    ):
        done = run(device / "zgedge", *arguments, cwd=tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        # A terminal's width may break the line between any two words.
        assert "pip install 'zgedge[train]'" in " ".join((done.stdout + done.stderr).split())
        assert "Traceback" not in done.stderr
