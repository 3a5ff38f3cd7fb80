"""Terminals: the same words with rich and without."""

from __future__ import annotations

import sys

import pytest

from tests import nets
from zgedge.report import bytemap
from zgedge.report.screen import WIDEST, Plain, Rich, Screen, screen, table


def printed(
    kind: type[Plain] | type[Rich], capsys: pytest.CaptureFixture[str], width: int, columns: str
) -> str:
    out: Screen = kind()
    assert out.width == width, f"COLUMNS={columns}"
    out.line("a title", "bold")
    out.line()
    out.spans([("one ", "red"), ("two", ""), ("   ", "")])
    table(out, ("name", "size"), [("a", "1,000"), ("longer", "2")], right=(1,))
    bytemap.draw(out, nets.network(replay_samples=3, replay_bits=4), 8192)
    bytemap.draw_layers(out, nets.network())
    out.line("x" * 300)
    return capsys.readouterr().out


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("80", 80), ("300", WIDEST)])
def test_rich_and_plain_say_the_same(
    columns: str,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    texts = [printed(kind, capsys, width, columns) for kind in (Plain, Rich)]
    assert texts[0] == texts[1]
    assert "x" * 300 in texts[0], "lines are not broken"
    assert not [line for line in texts[0].splitlines() if line != line.rstrip()]


def test_brackets_and_colons_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    Rich().line("[bold]a[/] :smile: 12")
    assert capsys.readouterr().out == "[bold]a[/] :smile: 12\n"


def test_without_rich_the_terminal_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(screen(), Plain)


def test_with_rich_the_terminal_is_rich() -> None:
    assert isinstance(screen(), Rich)


def test_table_aligns_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table(Plain(), ("name", "size"), [("a", "1,000"), ("longer", "2")], right=(1,))
    assert capsys.readouterr().out.splitlines() == [
        "  name     size",
        "  a       1,000",
        "  longer      2",
    ]


def test_table_without_heads_has_no_head_line(capsys: pytest.CaptureFixture[str]) -> None:
    table(Plain(), ("", ""), [("a", "b")])
    assert capsys.readouterr().out == "  a  b\n"


def test_table_without_rows_is_its_heads(capsys: pytest.CaptureFixture[str]) -> None:
    table(Plain(), ("class", "rows"), [])
    assert capsys.readouterr().out == "  class  rows\n"
