"""What is printed fits a terminal of 80 columns, and needs no rich."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import nets
from zgedge.budget import Task, sparse_plan
from zgedge.network import Network
from zgedge.report import bytemap
from zgedge.report.screen import Plain, screen, table


def network(budget: int) -> Network:
    task = Task((28, 28, 1), classes=10, names_bytes=20, groups=1, kind="picture", samples=60000)
    return sparse_plan(task, budget).network


@pytest.mark.parametrize("columns", [80, 100, 300])
@pytest.mark.parametrize("budget", [8192, 262144, 16 << 20])
def test_byte_map_and_layers_fit(
    columns: int, budget: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    out = Plain()
    bytemap.draw(out, network(budget), budget)
    bar, *lines = capsys.readouterr().out.splitlines()
    assert len(bar) == out.width - 2
    assert max(map(len, lines)) <= out.width
    bytemap.draw_layers(out, network(budget))
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert len(head) <= len(first) <= out.width
    assert first.endswith(".")  # a sparse layer: not all of the bar is wired


def test_table_breaks_its_last_column_between_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    words = "some words that are longer than the room they have"
    table(Plain(), ("", ""), [("first", words), ("2", "short")])
    assert capsys.readouterr().out.splitlines() == [
        "  first  some words that are longer than",
        "         the room they have",
        "  2      short",
    ]


def test_table_never_breaks_numbers_or_long_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    table(Plain(), ("a", "b"), [("x" * 30, "1 2 3 4 5 6 7 8 9 10 11 12")], right=(1,))
    table(Plain(), ("a", "b"), [("x", "y" * 70)])
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_info_without_rich_says_the_same(root: Path, tmp_path: Path) -> None:
    """A device has no rich: the very command, in a process that cannot import it."""
    path = tmp_path / "m.zge"
    path.write_bytes(nets.file(network(8192)))
    block = (
        "import sys\n"
        "if sys.argv.pop(1) == 'without':\n"
        "    sys.modules['rich'] = sys.modules['rich_click'] = None\n"
        "from zgedge.cli import main\n"
        "main()"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", block, kind, "info", str(path)],
            capture_output=True, text=True, check=True, cwd=root,
        ).stdout
        for kind in ("without", "with")
    ]  # fmt: skip
    assert said[0] == said[1]
    assert "Byte map" in said[0]


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for out in (Plain(), screen()):
        out.spans([("a\x1b[2Jb", ""), ("größe\x07\x9b", "bold")])
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown
    assert "a?[2Jb" in shown
    assert "größe" in shown
