"""Folders of pictures: what is read, and each fault by its name."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zgedge.data import check, load, load_inputs
from zgedge.data.sources import pictures
from zgedge.errors import DataError, MissingExtraError, UsageError

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


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of three photographs, 120 wide and 90 high, the left half darker."""
    root = tmp_path / "photos"
    for c, name in enumerate(("day", "night")):
        for i in range(3):
            pixels = np.full((90, 120, 3), (200 - 100 * c, 90, 30 + i), np.uint8)
            pixels[:, :60] //= 2
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def said(root: Path, **options: Any) -> str:
    """What loading says that it did."""
    notes: list[str] = []
    load(root, say=notes.append, **options)
    return "\n".join(notes)


def fails(root: Path, *parts: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        load(root, **options)
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


def test_test_rows_have_their_files(folder: Path) -> None:
    data = load(folder)
    paths = [Path(path) for path in data.files_test or ()]
    names = [100 * ("cat", "dog").index(path.parent.name) + int(path.stem) for path in paths]
    assert names == data.x_test[:, 0].tolist()
    assert all(path.is_file() for path in paths)
    for part in ("train", "test"):
        shutil.copytree(folder, folder.parent / "parts" / part)
    (folder.parent / "parts" / "test" / "dog" / "2.png").unlink()
    data = load(folder.parent / "parts")
    assert data.files_test is not None
    assert len(data.files_test) == len(data.x_test) == 9
    assert all("test" in Path(path).parts for path in data.files_test)
    assert load("digits").files_test is None


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
    ("mode", "colour", "channels"),
    [
        ("1", 1, 1), ("L", 9, 1), ("LA", (9, 255), 1), ("RGB", (9, 8, 7), 3),
        ("RGBA", (9, 8, 7, 255), 3), ("P", 5, 3),
    ],
)  # fmt: skip
def test_modes(tmp_path: Path, mode: str, colour: Any, channels: int) -> None:
    for name in "ab":
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            picture = Image.new(mode, (5, 4), colour)
            if mode == "P":
                picture.putpalette([9, 8, 7] * 256)
            picture.save(tmp_path / name / f"{i}.png")
    data = load(tmp_path)
    assert data.shape == (4, 5, channels)
    assert (
        data.x_train[0, :channels].tolist()
        == [[255] if mode == "1" else [9], [9, 8, 7]][channels == 3]
    )


def test_colour_that_is_all_grey_is_read_as_grey(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(2):
            save(tmp_path / name / f"{i}.png", 10 + i, mode="RGB")
    assert load(tmp_path).shape == (4, 5, 1)
    assert "4 colour pictures are read as grey" in said(tmp_path)
    x, _ = load_inputs(tmp_path / "a", features=20, shape=(4, 5, 1))
    assert x[:, 0].tolist() == [10, 11]


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("RGBA", (200, 0, 0, 0), [255, 255, 255]), ("RGBA", (200, 0, 0, 51), [244, 204, 204]),
        ("LA", (0, 0), [255, 255, 255]), ("CMYK", (0, 255, 255, 0), [255, 0, 0]),
    ],
)  # fmt: skip
def test_four_channels(folder: Path, mode: str, colour: Any, seen: list[int]) -> None:
    path = folder / "cat" / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new(mode, (5, 4), colour).save(path)
    x, _ = load_inputs(path, features=60, shape=(4, 5, 3))
    assert x[0, :3].tolist() == seen
    assert ("1 pictures with transparency are put on white" in said(folder)) == (mode != "CMYK")


def test_transparent_colour_of_a_palette_is_white(folder: Path) -> None:
    picture = Image.new("P", (5, 4), 1)
    picture.putpalette([9, 9, 9, 80, 90, 100])
    picture.save(folder / "cat" / "x.gif", transparency=1)
    x, _ = load_inputs(folder / "cat" / "x.gif", features=60, shape=(4, 5, 3))
    assert x[0, :3].tolist() == [255, 255, 255]


def test_sixteen_bits_keep_the_high_byte(tmp_path: Path) -> None:
    for name in "ab":
        for i in range(2):
            save(tmp_path / name / f"{i}.png", 0x1280, mode="I;16")
    # Pillow says that this one has 32 bits.
    (tmp_path / "a" / "2.pgm").write_bytes(b"P5 5 4 65535\n" + b"\x12\x80" * 20)
    data = load(tmp_path)
    assert np.unique(data.x_train).tolist() == [0x12]
    assert np.unique(load_inputs(tmp_path, features=60)[0]).tolist() == [0x12]


def test_grey_among_colour_becomes_colour(folder: Path) -> None:
    Image.new("RGB", (5, 4), "red").save(folder / "cat" / "red.png")
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


def test_small_pictures_of_one_size_stay_as_they_are(folder: Path) -> None:
    assert said(folder) == ""
    for i, path in enumerate(folder.glob("*/*.png")):
        save(path, i, size=(64, 20))
    assert load(folder).shape == (20, 64, 1)


def test_large_pictures_are_scaled_and_a_new_one_alike(photos: Path) -> None:
    data = load(photos)
    assert data.shape == (48, 64, 3)
    assert data.x_train.reshape(-1, 48, 64, 3)[0, 20, ::63].tolist() == [
        [100, 45, 15],
        [200, 90, 30],
    ]
    assert "6 of 6 pictures are scaled to 64 x 48 pixels." in said(photos)
    larger = photos.parent / "new.png"
    with Image.open(photos / "day" / "0.png") as picture:
        picture.resize((1200, 900), Image.Resampling.NEAREST).save(larger)
    x, labels = load_inputs(larger, features=9216, shape=data.shape)
    assert labels is None
    # But for the edge in the middle, which a coarser grid blurs more.
    apart = np.any(x[0] != data.x_train[0].reshape(1, -1), axis=0).reshape(48, 64, 3)
    assert np.unique(np.nonzero(apart)[1]).tolist() in ([], [31], [32], [31, 32])


@settings(max_examples=300, deadline=None)
@example(size=(132, 58), to=(28, 28))
@example(size=(58, 132), to=(28, 28))
@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    to=st.tuples(st.integers(1, 256), st.integers(1, 256)),
)
def test_the_middle_lies_inside_the_picture(size: tuple[int, int], to: tuple[int, int]) -> None:
    (width, height), scale = size, min(size[0] / to[0], size[1] / to[1])
    left, top, right, bottom = pictures._middle(*size, *to)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert np.allclose((right - left, bottom - top), (scale * to[0], scale * to[1]))
    # But for what roundings put outside, it is what it always was: files give the same bytes.
    if (plain := (width - scale * to[0]) / 2) >= 0:
        assert left == plain


@pytest.mark.parametrize("side", [28, 50, 60, 64])
def test_healthy_pictures_of_any_size_are_read(tmp_path: Path, side: int) -> None:
    rng = np.random.default_rng(side)
    sizes = [(132, 58), *map(tuple, rng.integers(side // 4, 400, (120, 2)).tolist())]
    path = tmp_path / "x.bmp"
    for size in sizes:
        Image.new("L", size, 77).save(path)
        x, _ = load_inputs(path, features=side * side, shape=(side, side, 1))
        assert np.unique(x).tolist() == [77]


def test_a_mistake_of_ours_is_not_called_a_damaged_file(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_middle", lambda *sizes: (-1.0, 0.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="negative"):
        load(photos)


def test_side_asks_for_another_size(photos: Path) -> None:
    assert load(photos, side=16).shape == (12, 16, 3)
    assert load(photos, side=120).shape == (90, 120, 3)
    assert said(photos, side=120) == ""
    fails(photos, "300 x 225 with 3 channels", "202,500", "65,536", side=300)
    for side in (0, -3):
        with pytest.raises(UsageError, match=f"side of {side}") as caught:
            load(photos, side=side)
        assert str(caught.value.hint).startswith("Use 1 or more")
    assert load(photos, side=1).shape == (1, 1, 3)  # as the hint says


def test_mixed_sizes_become_a_square_with_the_middle_kept(photos: Path) -> None:
    with Image.open(photos / "day" / "0.png") as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(photos / "day" / "0.png")
    pixels = np.zeros((90, 300, 3), np.uint8)
    pixels[:, 105:195] = (250, 120, 60)
    Image.fromarray(pixels).save(photos / "night" / "9.png")
    data = load(photos)
    assert data.shape == (64, 64, 3)
    assert "7 of 7 pictures are scaled to 64 x 64 pixels; 7 of another form" in said(photos)
    x, _ = load_inputs(photos / "night" / "9.png", features=12288, shape=data.shape)
    assert np.unique(x.reshape(64, 64, 3)[:, 1:-1].reshape(-1, 3), axis=0).tolist() == [
        [250, 120, 60]
    ]


def test_small_pictures_of_mixed_sizes_get_the_usual_one(folder: Path) -> None:
    save(folder / "dog" / "9.png", size=(6, 4))
    data = load(folder)
    assert data.shape == (5, 5, 1)
    save(folder / "dog" / "9.png", size=(10, 8))
    assert load(folder).shape == (4, 5, 1)
    assert "1 of 11 pictures are scaled to 5 x 4 pixels." in said(folder)


def test_test_part_is_scaled_to_the_training_part(photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "train")
    save(tmp_path / "test" / "day" / "t.png", 7, size=(200, 300), mode="RGB")
    data = load(tmp_path)
    assert (data.shape, data.x_test.shape) == ((48, 64, 3), (1, 9216))
    for part, rows in (("test", 1), ("train", 6)):
        x, _ = load_inputs(tmp_path, features=9216, shape=data.shape, part=part)
        assert len(x) == rows


@pytest.mark.parametrize("name", ["val", "Valid", "validation"])
def test_other_names_of_a_test_part(photos: Path, tmp_path: Path, name: str) -> None:
    photos.rename(tmp_path / "Train")
    save(tmp_path / name / "day" / "t.png", 7, size=(20, 30), mode="RGB")
    data = load(tmp_path)
    assert (data.classes, len(data.x_test)) == (("day", "night"), 1)


def test_test_part_without_classes_is_left_out(photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "train")
    save(tmp_path / "test" / "t.png")
    assert load(tmp_path).classes == ("day", "night")
    assert "no folders of classes" in said(tmp_path)


def test_photograph_of_a_phone(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (4000, 4000), colour).save(tmp_path / name / f"{i}.jpg", quality=30)
    data = load(tmp_path)
    assert data.shape == (64, 64, 3)
    assert np.abs(data.x_train[0].reshape(-1, 3) - [254, 0, 0]).max() < 6


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp"])
def test_turned_as_the_camera_noted(tmp_path: Path, kind: str) -> None:
    upright = np.zeros((40, 20, 3), np.uint8)
    upright[:10] = (250, 0, 0)  # the sky is at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen upright, turn by a quarter clockwise
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            lying = Image.fromarray(np.rot90(upright))
            lying.save(tmp_path / name / f"{i}.{kind}", exif=exif, quality=95)
    data = load(tmp_path)
    assert data.shape == (40, 20, 3)
    pixels = data.x_train[0].reshape(40, 20, 3).astype(int)
    assert np.abs(pixels - upright)[[0, 5, 20, 39]].max() < 12


def test_notes_say_what_was_done(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for kind in ("jpg", "png", "tif"):
        Image.new("L", (5, 4), 7).save(folder / "cat" / f"turned.{kind}", exif=exif)
    save(folder / "cat" / "deep.png", 0x1280, mode="I;16")
    colour = b"P6 5 4 65535\n" + b"\x12\x80" * 60
    (folder / "cat" / "deep.ppm").write_bytes(colour)
    header = struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x12\x80" * 15) * 4)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    (folder / "cat" / "deep colour.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
    )
    for kind in ("tif", "jpg"):
        Image.new("CMYK", (5, 4), (0, 255, 255, 0)).save(folder / "cat" / f"print.{kind}")
    Image.new("LAB", (5, 4), (100, 9, 9)).save(folder / "cat" / "lab.tif")
    text = said(folder)
    assert "3 pictures are turned upright as the camera noted." in text
    assert "3 pictures have 16 bits a value; the high 8 are kept." in text
    assert "3 pictures in CMYK and LAB are converted to RGB." in text
    notes: list[str] = []
    load_inputs(folder / "cat" / "deep.ppm", features=60, shape=(4, 5, 3), say=notes.append)
    assert notes == ["1 pictures have 16 bits a value; the high 8 are kept."]


def test_no_note_of_what_loses_nothing(folder: Path) -> None:
    Image.new("1", (5, 4), 1).save(folder / "cat" / "bits.png")
    Image.new("RGB", (5, 4), "red").save(folder / "cat" / "red.jpg")
    picture = Image.new("P", (5, 4), 1)
    picture.putpalette([9, 9, 9, 80, 90, 100])
    picture.save(folder / "cat" / "palette.png")
    assert said(folder) == ""


def test_notes_count_the_test_part(folder: Path, tmp_path: Path) -> None:
    folder = folder.rename(tmp_path / "train")
    save(tmp_path / "test" / "cat" / "t.png", 77, size=(10, 8))
    assert "1 of 11 pictures are scaled to 5 x 4 pixels." in said(tmp_path)


def test_first_picture_of_a_film(folder: Path) -> None:
    frames = [Image.new("L", (5, 4), value) for value in (50, 150, 250)]
    frames[0].save(folder / "cat" / "x.gif", save_all=True, append_images=frames[1:])
    x, _ = load_inputs(folder / "cat" / "x.gif", features=20, shape=(4, 5, 1))
    assert x[0, 0] == 50
    assert "1 files hold several pictures" in said(folder)


def test_pictures_of_one_pixel_are_data_among_their_like(tmp_path: Path) -> None:
    for c, name in enumerate("ab"):
        for i in range(3):
            save(tmp_path / name / f"{i}.png", 100 * c + i, size=(1, 1))
    assert load(tmp_path).shape == (1, 1, 1)


def test_picture_of_one_pixel_among_others(photos: Path) -> None:
    save(photos / "day" / "dot.png", size=(1, 1))
    fails(photos, "dot.png is 1 x 1 pixels, too few to be enlarged to 64 x 64")
    with pytest.raises(DataError, match="too few"):
        load_inputs(photos / "day" / "dot.png", features=9216, shape=(48, 64, 3))


def test_class_with_one_picture(folder: Path) -> None:
    save(folder / "emu" / "0.png", 7)
    data = load(folder)
    emu = data.classes.index("emu")
    assert (data.y_train == emu).sum() == 1
    assert not (data.y_test == emu).any()
    assert "1 of its classes has a single sample and is not tested: emu" in said(folder)


def test_folders_in_the_folder_of_a_class(folder: Path) -> None:
    save(folder / "cat" / "2024" / "may" / "x.png", 99)
    save(folder / "cat" / ".cache" / "y.png", 98)
    x, labels = load_inputs(folder, features=20, shape=(4, 5, 1))
    assert labels == ["cat"] * 6 + ["dog"] * 5
    assert 99 in x[:, 0]
    assert 98 not in x[:, 0]


def test_one_more_folder_around_all(folder: Path) -> None:
    save(folder.parent / "__MACOSX" / "pets" / "._0.png")
    assert load(folder.parent).classes == ("cat", "dog")


def test_pictures_beside_the_folders(folder: Path) -> None:
    save(folder / "cover.png")
    assert len(load(folder).x_train) == 8
    assert "1 pictures that lie beside" in said(folder)


def test_leftovers_of_other_systems(folder: Path) -> None:
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
        (folder / "cat" / name).write_bytes(b"\0\1")
    assert len(load(folder).x_train) == 8
    assert said(folder) == ""


def test_forms_that_are_not_read(folder: Path) -> None:
    (folder / "cat" / "IMG_1.HEIC").write_bytes(b"ftypheic")
    assert "1 files in" in said(folder)
    assert ".heic is not read" in said(folder)
    for path in (folder / "dog").glob("*.png"):
        path.rename(path.with_suffix(".heic"))
    fails(folder, "dog holds no picture")


def test_links(folder: Path) -> None:
    (folder / "emu").symlink_to(folder / "cat")
    (folder / "dog" / "again").symlink_to(folder / "dog")
    (folder / "dog" / "5.png").symlink_to(folder / "cat" / "3.png")
    x, labels = load_inputs(folder, features=20, shape=(4, 5, 1))
    assert labels == ["cat"] * 5 + ["dog"] * 6 + ["emu"] * 5
    assert x[10, 0] == 3
    (folder / "dog" / "6.png").symlink_to(folder / "nowhere.png")
    fails(folder, "6.png is a link to nothing")


def test_names_in_any_script(tmp_path: Path) -> None:
    for name in ("猫", "cafe\u0301", "caf\u00e9", "a b'c"):
        for i in range(2):
            save(tmp_path / name / f"{name} {i}.png", i)
    assert load(tmp_path).classes == ("a b'c", "caf\u00e9", "猫")


def test_name_that_is_no_text(folder: Path) -> None:
    os.rename(folder / "dog", os.fsencode(folder) + b"/\xff\xfe")
    fails(folder, "\\udcff\\udcfe is no readable text")


def test_folder_that_may_not_be_read(folder: Path) -> None:
    (folder / "dog").chmod(0)
    try:
        if os.access(folder / "dog", os.R_OK):
            pytest.skip("nothing is forbidden to this user")
        fails(folder, "dog cannot be read: Permission denied")
    finally:
        (folder / "dog").chmod(0o755)


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


def test_more_pixels_than_are_read(folder: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(folder / "dog" / "0.png")
    with pytest.raises(DataError) as caught:
        load(folder)
    path = folder / "dog" / "0.png"
    most = 2 * Image.MAX_IMAGE_PIXELS
    assert caught.value.message == (f"{path} has 400,000,000 pixels; at most {most:,} are read.")
    assert "Save it smaller" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["it is broken..", "it is broken", ""])
def test_words_of_a_decoder_end_with_one_full_stop(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError(text)

    monkeypatch.setattr(Image, "open", broken)
    fails(folder, f"as a picture: {text.rstrip('.') or 'ValueError'}.")
    with pytest.raises(DataError) as caught:
        load_inputs(folder / "dog" / "0.png", features=20, shape=(4, 5, 1))
    assert not caught.value.message.endswith("..")


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


def test_other_size_than_a_model_whose_shape_is_not_told(folder: Path) -> None:
    with pytest.raises(DataError, match="20 values in grey, 60 in colour; the model has 64"):
        load_inputs(folder, features=64)
    save(folder / "dog" / "9.png", size=(10, 2))
    with pytest.raises(DataError, match="pictures of several sizes: 10 x 2, 5 x 4"):
        load_inputs(folder, features=20)


def test_model_of_channels_that_no_file_has(folder: Path) -> None:
    with pytest.raises(DataError, match="4 channels; files hold 1 or 3"):
        load_inputs(folder, features=80, shape=(4, 5, 4))


def test_bad_pictures_are_named_together(folder: Path) -> None:
    (folder / "cat" / "1.png").write_bytes(b"")
    (folder / "dog" / "2.png").write_text("no picture")
    fails(folder, "2 pictures cannot be used", "cat/1.png", "dog/2.png", "the file is empty")


def test_all_that_is_wrong_is_named_at_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    folder = folder.rename(tmp_path / "all" / "train")
    save(tmp_path / "all" / "test" / "cat" / "t.png")
    for path in (folder / "dog" / "2.png", tmp_path / "all" / "test" / "cat" / "t.png"):
        path.write_bytes(path.read_bytes()[:44])  # the header is whole
    (folder / "cat" / "1.png").write_bytes(b"")
    (folder / "cat" / "7.png").symlink_to(folder / "nowhere.png")
    (folder / "emu").mkdir()
    bad = ("cat/1.png", "dog/2.png", "cat/7.png", "train/emu", "cat/t.png")
    fails(tmp_path / "all", "5 files and folders cannot be used", *bad)
    report = check(tmp_path / "all")
    assert {error.value for error in report.errors} == {path.split("/")[1] for path in bad}
    assert report.error_count == 5
    # Also where there is no picture to go on with.
    for path in folder.glob("*/*.png"):
        path.unlink()
        path.write_bytes(b"")
    fails(tmp_path / "all", "12 files and folders cannot be used", "train/emu", "dog/4.png")


def test_many_bad_pictures_are_counted_and_the_check_is_named(folder: Path) -> None:
    for i in range(30):
        (folder / "cat" / f"bad {i:02}.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load(folder)
    assert "30 pictures cannot be used" in caught.value.message
    assert "bad 19.png and 10 more. The first: " in caught.value.message
    assert "zgedge data check" in str(caught.value.hint)


def test_damaged_pictures_never_bring_out_another_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    outcomes = set()
    for kind in ("png", "jpg", "gif", "bmp", "ppm", "webp"):
        path = tmp_path / f"x.{kind}"
        picture.save(path, exif=exif)
        whole = path.read_bytes()
        for _ in range(40):
            body = bytearray(whole)
            for at in rng.integers(0, min(len(body), 300), rng.integers(1, 6)):
                body[at] = rng.integers(0, 256)
            path.write_bytes(body[: rng.integers(1, 2 * len(body))])
            try:
                load_inputs(path, features=3072, shape=(32, 32, 3))
                outcomes.add("read")
            except DataError:
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_progress_counts_the_pictures(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    load(folder, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 10) for i in range(10)]


def test_check_lists_every_bad_picture(folder: Path) -> None:
    whole = (folder / "dog" / "2.png").read_bytes()
    (folder / "dog" / "2.png").write_bytes(whole[:44])
    (folder / "cat" / "1.png").write_text("no picture")
    (folder / "emu").mkdir()
    report = check(folder)
    assert report.error_count == 3
    assert {error.value for error in report.errors} == {"emu", "1.png", "2.png"}


def test_check_when_no_picture_can_be_read(folder: Path) -> None:
    for path in folder.glob("*/*.png"):
        path.write_text("no picture")
    assert check(folder).error_count == 11


def test_pillow_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"zgedge\[train\]"):
        load(folder)


def test_a_side_that_was_chosen_is_not_asked_for_again(photos: Path) -> None:
    said: dict[int | None, str] = {}
    for side in (None, 32):
        notes: list[str] = []
        load(photos, side=side, say=notes.append)
        (said[side],) = [note for note in notes if "are scaled to" in note]
    assert "--side" in said[None]
    assert "--side" not in said[32]
