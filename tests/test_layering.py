"""Dependencies point one way, and the device side needs numpy, psutil and click alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "zgedge"

# A part may import its own layer and those below it; nothing above.
LAYERS = (
    {"errors", "interrupts", "extras", "columns", "network", "arena", "spec", "space", "budget"},
    {"runtime", "data"},
    {"train", "export", "devices", "report", "bench"},
    {"cli", "cli_common", "cli_deploy", "cli_device", "cli_service", "__main__"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# On the same level, and still not for each other.
FORBIDDEN = {("runtime", "data"), ("train", "bench")}
ON_A_DEVICE = (
    "errors",
    "interrupts",
    "extras",
    "columns",
    "network",
    "arena",
    "spec",
    "space",
    "budget",
    "runtime",
    "data",
    "report",
    "cli",
    "cli_common",
    "cli_device",
    "cli_service",
    "cli_deploy",
    "__main__",
)
TERMINAL = {"rich", "rich_click"}  # plain click takes their place on a device
ALWAYS_THERE = {"numpy", "psutil", "click", "zgedge"} | set(sys.stdlib_module_names)


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(tree: ast.AST, *, lazy: bool) -> Iterator[tuple[str, int]]:
    """Dotted names that a module imports, with their lines; those in functions where `lazy`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports are not used here"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, lazy=lazy)


def test_every_part_has_a_layer() -> None:
    assert {part_of(path) for path in modules()} <= set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    for name, line in imports(ast.parse(path.read_text()), lazy=True):
        at = f"{path.relative_to(ROOT)}:{line} imports {name}"
        words = name.split(".")
        if words[0] != "zgedge" or words[1:] in ([], ["__version__"]):
            continue
        assert words[1] in LEVEL, f"{at}, which is no part of the package"
        assert LEVEL[words[1]] <= LEVEL[part], f"{at}, which is above it"
        assert (part, words[1]) not in FORBIDDEN, at


@pytest.mark.parametrize(
    "path",
    [p for p in modules() if part_of(p) in ON_A_DEVICE],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_device_side_needs_three_packages(path: Path) -> None:
    for name, line in imports(ast.parse(path.read_text()), lazy=False):
        at = f"{path.relative_to(ROOT)}:{line} imports {name}"
        allowed = (
            ALWAYS_THERE | TERMINAL if part_of(path).startswith(("report", "cli")) else ALWAYS_THERE
        )
        assert name.split(".")[0] in allowed, at
        if name.startswith("zgedge."):
            assert name.split(".")[1] in (*ON_A_DEVICE, "__version__"), at


def test_the_import_reader_sees_what_it_should() -> None:
    source = """
import torch
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import onnx
try:
    import rich
except ImportError:
    rich = None
class A:
    def f(self):
        from zgedge.train import train
"""
    tree = ast.parse(source)
    assert [n for n, _ in imports(tree, lazy=False)] == ["torch", "typing.TYPE_CHECKING", "rich"]
    assert [n for n, _ in imports(tree, lazy=True)][-1] == "zgedge.train.train"
