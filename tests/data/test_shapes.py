"""Made-up pictures: the same again from the same seed, different otherwise, readable as data."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from zgedge.data import load, shapes
from zgedge.errors import MissingExtraError, UsageError

pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


def test_folder_is_read_as_pictures(tmp_path: Path) -> None:
    assert shapes.make(tmp_path, 0, 16, 5) == tuple(sorted(shapes.SHAPES))
    data = load(tmp_path)
    assert (data.shape, data.kind, data.classes) == ((16, 16, 3), "picture", tuple(shapes.SHAPES))
    assert (len(data.x_train), len(data.x_test)) == (32, 8)


def test_same_seed_same_files_and_a_longer_set_begins_with_the_shorter(tmp_path: Path) -> None:
    shapes.make(tmp_path / "a", 3, 16, 2)
    shapes.make(tmp_path / "b", 3, 16, 4)
    shapes.make(tmp_path / "c", 4, 16, 2)
    short, long, other = (digest(tmp_path / name) for name in "abc")
    assert short.items() <= long.items()
    assert not set(short.values()) & set(other.values())


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_every_shape_is_seen_and_no_two_pictures_are_alike(name: str) -> None:
    pixels = [shapes.picture(name, i, size=64) for i in range(6)]
    assert len({p.tobytes() for p in pixels}) == 6
    # Without ground, light and noise a shape of radius r covers its share of the picture.
    rows, columns = (np.mgrid[0:200, 0:200] + 0.5) / 100 - 1
    share = float((shapes.SHAPES[name](columns, rows) < 0).mean())
    assert 0.15 < share < 0.75


@pytest.mark.parametrize(("size", "count"), [(7, 1), (5000, 1), (16, 0)])
def test_sizes_and_counts_that_mean_nothing(tmp_path: Path, size: int, count: int) -> None:
    with pytest.raises(UsageError):
        shapes.make(tmp_path / "s", 0, size, count)
    assert not (tmp_path / "s").exists()


def test_pillow_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"zgedge\[train\]"):
        shapes.make(tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_tool_writes_the_folder(tmp_path: Path) -> None:
    tool = ROOT / "tools" / "make_shapes.py"
    command = [sys.executable, str(tool), str(tmp_path / "s"), "--count", "2", "--size", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "2 pictures each of circle, crescent" in done.stdout
    assert len(digest(tmp_path / "s")) == 16
    (tmp_path / "file").write_text("")
    command[2] = str(tmp_path / "file" / "s")
    failed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: Cannot write")
