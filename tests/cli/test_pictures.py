"""A folder of photographs as a person has it, in processes of their own: trained with no option but
the budget, and then used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import process
from zgedge.data import shapes


def ended(*args: object, code: int = 0) -> tuple[str, str]:
    """Standard output and error of a command that must end with `code`."""
    running = process(*args)
    printed, said = running.communicate(timeout=300)
    assert running.returncode == code, said
    assert "Traceback" not in said
    return printed, said


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three shapes, eight of each: of all sizes and forms, turned by the camera, in folders."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    exif = Image.Exif()
    for name in ("circle", "cross", "star"):
        (root / name / "2024").mkdir(parents=True)
        for i in range(8):
            width, height = rng.integers(16, 40, 2)
            picture = Image.fromarray(shapes.picture(name, i, size=100)).resize((width, height))
            exif[0x0112] = int(rng.choice([1, 3, 6]))
            picture.save(root / name / ("2024" if i % 2 else ".") / f"IMG {i}.jpg", exif=exif)
        (root / name / "Thumbs.db").write_bytes(b"\0")
    return root


def test_trained_with_no_option_but_the_budget_and_used(photos: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.zge"
    printed, said = ended("train", photos, "--budget", "24KB", "--out", model, "--json")
    found = json.loads(printed)
    assert "pictures are scaled to" in said
    assert model.stat().st_size == found["bytes"] <= 24 * 1024
    height, width, channels = json.loads(ended("info", model, "--json")[0])["shape"]
    assert 16 <= height == width <= 40
    assert channels == 3
    larger = tmp_path / "new.png"
    Image.fromarray(shapes.picture("star", 99, size=700)).convert("RGBA").save(larger)
    printed, said = ended("predict", model, larger)
    assert printed.split("\t")[0] in ("circle", "cross", "star")
    assert f"1 of 1 pictures are scaled to {width} x {height} pixels." in said
    assert printed.rstrip("\n").split("\t")[2] == str(larger)
    every = json.loads(ended("predict", model, photos, "--json")[0])
    paths = [str(path) for path in sorted(photos.rglob("*.jpg"))]
    assert every["files"] == paths
    assert len(every["labels"]) == len(paths) == 24
    measured = json.loads(ended("eval", model, photos, "--json")[0])
    assert measured["samples"] == 24
    assert measured["accuracy"] > 0.5  # most of them it was trained on


def test_broken_photographs_are_named(photos: Path, tmp_path: Path) -> None:
    broken = photos / "cross" / "IMG 2.jpg"
    broken.write_bytes(broken.read_bytes()[:-60])
    (photos / "star" / "IMG 0.jpg").write_bytes(b"")
    printed, said = ended("train", photos, "--budget", "24KB", "--out", tmp_path / "m", code=3)
    assert "IMG 0.jpg cannot be read as a picture: the file is empty" in said
    assert not printed
    printed, _ = ended("data", "check", photos, "--json", code=3)
    assert {error["value"] for error in json.loads(printed)["errors"]} >= {"IMG 0.jpg"}
    (photos / "star" / "IMG 0.jpg").unlink()
    printed, said = ended("train", photos, "--budget", "24KB", "--out", tmp_path / "m", code=3)
    assert "cross/IMG 2.jpg cannot be decoded" in said
    assert not (tmp_path / "m").exists()
