"""Pictures of a training, from a log that a training really wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from zgedge import data
from zgedge.budget import Task, plan
from zgedge.errors import DataError, MissingExtraError, ZgedgeError
from zgedge.report import pictures
from zgedge.report.__main__ import main
from zgedge.report.pictures import draw, grid_of, read_log
from zgedge.train import train

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "training.jsonl"
    digits = data.load("digits")
    train(digits, plan(Task.of(digits), 4096).network, epochs=3, log=path)
    return path


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_log_of_a_training_is_read(log: Path) -> None:
    kinds = [event["event"] for event in read_log(log)]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("epoch") == 3
    assert kinds.count("wires") == 2


@pytest.mark.parametrize("ending", MAGIC)
def test_draws(log: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"picture{ending}"
    draw(log, out)
    assert out.read_bytes().startswith(MAGIC[ending])


def test_draws_a_training_that_was_cut_off(log: Path, tmp_path: Path) -> None:
    short = write(tmp_path / "short.jsonl", events(log)[:3])
    draw(short, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_layers_have_the_numbers_of_info(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(pictures, "save", lambda picture, out: drawn.append(picture))
    changed = events(log)
    for event in changed:
        if event["event"] == "start":
            event["trunk"] = [{"kind": "conv"}, {"kind": "max"}]
        if event["event"] == "epoch":
            event["rewired"] = [5, 0]
    draw(write(tmp_path / "trunk.jsonl", changed), tmp_path / "p.png")
    (legend,) = [axis.get_legend() for axis in drawn[0].axes if axis.get_legend() is not None]
    assert [text.get_text() for text in legend.get_texts()] == ["layer 3"]


def test_draws_a_table_and_no_rewiring(log: Path, tmp_path: Path) -> None:
    changed = events(log)
    for event in changed:
        if event["event"] == "wires":
            event["shape"] = [1, 64, 1]
        if event["event"] == "epoch":
            event["rewired"] = [0, 0]
    draw(write(tmp_path / "table.jsonl", changed), tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no epoch"),
        ('{"event": "start"}\n', "no epoch"),
        ("accuracy 0.9\n", "not a training log"),
        ("[1, 2]\n", "line 1"),
        ('{"epoch": 1}\n', "line 1"),
    ],
)
def test_a_file_that_is_no_log(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        draw(path, tmp_path / "p.png")
    assert not (tmp_path / "p.png").exists()


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\x89ZGE\xff\xfe")
    with pytest.raises(DataError, match="not a training log"):
        read_log(path)


def test_no_log(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read"):
        read_log(tmp_path / "none.jsonl")


def test_a_form_of_picture_that_is_none(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ZgedgeError, match="svg"):
        draw(log, tmp_path / "picture.doc")


def test_a_folder_that_is_not_there(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ZgedgeError, match="Cannot write"):
        draw(log, tmp_path / "none" / "picture.png")


def test_without_matplotlib_the_extra_is_named(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"zgedge\[report\]"):
        draw(log, tmp_path / "picture.png")


def test_command(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.svg"
    done = CliRunner().invoke(main, [str(log), "--out", str(out)])
    assert done.exit_code == 0
    assert out.exists()
    done = CliRunner().invoke(main, [str(tmp_path / "none"), "--out", str(out)])
    assert done.exit_code == DataError.exit_code
    assert "Cannot read" in done.stderr


def test_channels_of_a_single_place_are_shown_apart() -> None:
    assert grid_of((1, 1, 3), [4, 5, 6]).tolist() == [[4.0, 5.0, 6.0]]
    assert grid_of((2, 1, 2), [1, 2, 3, 4]).tolist() == [[3.0], [7.0]]
