"""Folders of pictures: what is read, and each fault by its name."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zgedge.data import check, load, load_inputs
from zgedge.errors import DataError, MissingExtraError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def save(path: Path, value: int = 0, *, size: tuple[int, int] = (5, 4), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in ("L", "1", "I;16", "I", "F") else (value,) * len(mode)
              ).save(path)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of five grey pictures, 5 wide and 4 high."""
    root = tmp_path / "pets"
    for c, name in enumerate(("cat", "dog")):
        for i in range(5):
            save(root / name / f"{i}.png", 100 * c + i)
    return root


def fails(root: Path, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        load(root)
    for part in parts:
        assert part in caught.value.message


def test_grey(folder: Path) -> None:
    data = load(folder)
    assert (data.shape, data.kind, data.name) == ((4, 5, 1), "picture", "pets")
    assert (data.classes, data.int_classes) == (("cat", "dog"), False)
    assert (len(data.x_train), len(data.x_test)) == (8, 2)
    assert data.x_train.dtype == np.uint8
    assert data.x_train[:, 0].tolist() == [
        100 * y + i for y in (0, 1) for i in range(5)
        if 100 * y + i not in data.x_test[:, 0]
    ]  # fmt: skip


def test_colour_and_pixels_row_by_row(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 5, 3), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    x, labels = load_inputs(tmp_path, features=60)
    assert labels == ["a", "a", "b", "b"]
    assert np.array_equal(x, pixels[[0, 2, 1, 3]].reshape(4, -1))
    assert load(tmp_path).shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3)]
)
def test_modes(tmp_path: Path, mode: str, channels: int) -> None:
    for name in "ab":
        for i in range(2):
            save(tmp_path / name / f"{i}.png", 1, mode=mode)
    assert load(tmp_path).shape == (4, 5, channels)


def test_sixteen_bits_keep_the_high_byte(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(2):
            save(tmp_path / name / f"{i}.png", 0x1280, mode="I;16")
    data = load(tmp_path)
    assert np.unique(data.x_train).tolist() == [0x12]
    assert np.unique(load_inputs(tmp_path, features=60)[0]).tolist() == [0x12]


def test_grey_among_colour_becomes_colour(folder: Path) -> None:
    save(folder / "cat" / "red.png", 9, mode="RGB")
    assert load(folder).shape == (4, 5, 3)


def test_own_test_part(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "train")
    save(tmp_path / "test" / "cat" / "t.png", 77)
    data = load(tmp_path)
    assert (len(data.x_train), data.x_test[:, 0].tolist()) == (10, [77])
    x, labels = load_inputs(tmp_path, features=20)
    assert (x[:, 0].tolist(), labels) == ([77], ["cat"])


def test_classes_called_train_and_test(tmp_path: Path) -> None:
    for name in ("train", "test"):
        for i in range(3):
            save(tmp_path / name / f"{i}.png")
    assert load(tmp_path).classes == ("test", "train")


def test_pictures_to_predict(folder: Path) -> None:
    x, labels = load_inputs(folder / "dog", features=20)
    assert (x[:, 0].tolist(), labels) == ([100, 101, 102, 103, 104], None)
    x, labels = load_inputs(folder / "dog" / "3.png", features=20)
    assert (x[:, 0].tolist(), labels) == ([103], None)
    assert load_inputs(folder / "dog", features=60)[0][:, 2].tolist() == [100, 101, 102, 103, 104]


def test_other_files_are_passed_over(folder: Path) -> None:
    (folder / "cat" / "notes.txt").write_text("meow")
    (folder / "cat" / ".hidden.png").write_text("no picture")
    (folder / ".thumbs").mkdir()
    assert load(folder).classes == ("cat", "dog")


def test_other_size(folder: Path) -> None:
    save(folder / "dog" / "9.png", size=(6, 4))
    fails(folder, "9.png is 6 x 4", "0.png is 5 x 4")


def test_test_part_of_another_size(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "train")
    save(tmp_path / "test" / "cat" / "t.png", size=(4, 5))
    fails(tmp_path, "(4, 5, 1)", "(5, 4, 1)")


def test_picture_too_large(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / name / "0.png", size=(257, 256))
    fails(tmp_path, "0.png is 257 x 256", "65792 values", "65536")


def test_file_that_is_no_picture(folder: Path) -> None:
    (folder / "dog" / "0.png").write_text("no picture")
    fails(folder, "0.png cannot be read as a picture")


def test_cut_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            noise = rng.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{i}.png")
    path = tmp_path / "b" / "1.png"
    path.write_bytes(path.read_bytes()[:500])
    fails(tmp_path, "1.png cannot be decoded")


def test_pixels_of_32_bits(folder: Path) -> None:
    save(folder / "dog" / "0.tif", mode="F")
    fails(folder, "0.tif has 32-bit pixels")


def test_empty_class_folder(folder: Path) -> None:
    (folder / "emu").mkdir()
    fails(folder, "emu holds no picture")


def test_empty_folder(tmp_path: Path) -> None:
    fails(tmp_path, "holds no folders with pictures")


def test_one_class(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "cat" / f"{i}.png")
    fails(tmp_path, "one class only, 'cat'")


def test_other_size_than_the_model(folder: Path) -> None:
    with pytest.raises(DataError, match="20 values in grey, 60 in colour; the model has 64"):
        load_inputs(folder, features=64)


def test_check_lists_every_bad_picture(folder: Path) -> None:
    save(folder / "dog" / "9.png", size=(6, 4))
    (folder / "cat" / "1.png").write_text("no picture")
    (folder / "emu").mkdir()
    report = check(folder)
    assert report.error_count == 3
    assert {error.value for error in report.errors} == {"emu", "1.png", "6x4"}


def test_check_when_no_picture_can_be_read(folder: Path) -> None:
    for path in folder.glob("*/*.png"):
        path.write_text("no picture")
    assert check(folder).error_count == 11


def test_pillow_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"zgedge\[train\]"):
        load(folder)
