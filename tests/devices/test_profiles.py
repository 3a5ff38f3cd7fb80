"""Profiles say what a board is, or the field that is wrong; a person's boards are kept whole."""

from __future__ import annotations

import json
import multiprocessing
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from zgedge.devices import boards, profiles
from zgedge.devices.boards import Board
from zgedge.devices.profiles import Profile
from zgedge.errors import UsageError, ZgedgeError

NAMES = [
    "rpi-zero2w", "rpi3", "rpi4", "rpi5", "jetson-nano", "jetson-orin-nano", "jetson-agx-orin",
    "aarch64", "armv7", "x86-64", "emulated", "emulated-armv7",
]  # fmt: skip


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path / "settings"))
    return tmp_path / "settings"


def table(name: str = "rpi4") -> dict[str, Any]:
    return tomllib.loads((profiles.BUILT_IN / f"{name}.toml").read_text())


def write(path: Path, fields: dict[str, Any]) -> Path:
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()))
    return path


# ---- profiles ----


def test_all_are_there_in_their_order() -> None:
    assert profiles.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_is_sound_and_says_where_its_figures_are_from(name: str) -> None:
    profile = profiles.load(name)
    assert profile.name == name
    text = (profiles.BUILT_IN / f"{name}.toml").read_text()
    assert len(re.findall(r"^# ", text, re.MULTILINE)) >= 2
    assert "predict_factor" in profile.estimated
    assert profile.root == "/opt/zgedge"
    if profile.runtime == "python":
        assert any(tuple(map(int, p.split("."))) >= (3, 10) for p in profile.python)
    (other,) = [p for p in [profile] if p.as_dict().keys() == table(name).keys() | {"name"}]
    assert other is profile


def test_old_systems_get_the_native_program() -> None:
    assert profiles.load("jetson-nano").runtime == "native"
    assert profiles.load("armv7").runtime == "native"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4", "rpi4"), ("Raspberry Pi 5 Model B Rev 1.0", "rpi5"),
        ("Raspberry Pi Zero 2 W Rev 1.0", "rpi-zero2w"), ("Raspberry Pi 3 Model B Plus", "rpi3"),
        ("NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit", "jetson-orin-nano"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin"),
        ("Emulated 64-bit board", "emulated"), ("Emulated 32-bit board", "emulated-armv7"),
        ("Raspberry Pi Model B Rev 2", None), ("", None),
    ],
)  # fmt: skip
def test_boards_are_known_by_what_they_call_themselves(model: str, name: str | None) -> None:
    found = profiles.of_model(model)
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("machine", "vax"), ("machine", 4), ("cpu", "Cortex A72"), ("cores", 0), ("cores", 1.5),
        ("cores", True), ("features", "fp"), ("features", ["FP!"]), ("libc", "musl"),
        ("python", ["2.7"]), ("runtime", "perl"), ("wheel_platform", "linux_aarch64"),
        ("wheel_platform", "manylinux_2_28_x86_64"), ("wheel_platform", ""), ("memory_mb", 1),
        ("page_bytes", 5000), ("erase_block", 3 << 12), ("service", "upstart"), ("root", "opt"),
        ("root", "/opt/a b"), ("needs_sudo", "yes"), ("predict_factor", 0), ("title", ""),
        ("predict_factor", "fast"), ("estimated", ["everything"]), ("surprise", 1),
        ("title", "a\nb"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_field_is_named(tmp_path: Path, field: str, value: object) -> None:
    path = write(tmp_path / "kiosk.toml", {**table(), field: value})
    with pytest.raises(UsageError) as caught:
        profiles.read(path)
    assert str(path) in caught.value.message
    told = "runtime" if (field, value) == ("wheel_platform", "") else field
    assert f": {told} " in caught.value.message


@pytest.mark.parametrize("field", table().keys())
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    fields = table()
    del fields[field]
    with pytest.raises(UsageError, match=f": {field} is missing"):
        profiles.read(write(tmp_path / "kiosk.toml", fields))


def test_what_is_no_profile(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "b.toml").write_text("machine = ")
    (tmp_path / "c.toml").write_text("#" * (profiles.LARGEST + 1))
    for name, what in (("a", "no TOML"), ("b", "no TOML"), ("c", "too long")):
        with pytest.raises(UsageError, match=what):
            profiles.read(tmp_path / f"{name}.toml")
    with pytest.raises(ZgedgeError, match="Cannot read"):
        profiles.read(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="no name of a profile"):
        profiles.read(write(tmp_path / "Kiosk 1.toml", table()))


@pytest.mark.parametrize("name", ["pi", "", "../rpi4", "rpi4/", "RPI4"])
def test_an_unknown_device_is_said_with_those_there_are(name: str) -> None:
    with pytest.raises(UsageError, match="rpi-zero2w, rpi3, rpi4"):
        profiles.load(name)


def test_another_name_of_a_board() -> None:
    assert profiles.load("rpi-zero2") == profiles.load("rpi-zero2w")


def test_ones_own_profile(tmp_path: Path, settings: Path) -> None:
    added = profiles.add(write(tmp_path / "kiosk.toml", {**table(), "title": "A kiosk"}))
    assert added == profiles.load("kiosk")
    assert profiles.names() == [*NAMES, "kiosk"]
    profiles.add(write(tmp_path / "rpi4.toml", {**table(), "memory_mb": 2048}))
    assert profiles.load("rpi4").memory_mb == 2048
    assert profiles.names() == [*NAMES, "kiosk"]
    with pytest.raises(UsageError):
        profiles.add(write(tmp_path / "bad.toml", {**table(), "machine": "vax"}))
    assert sorted(path.name for path in (settings / "profiles").iterdir()) == [
        "kiosk.toml", "rpi4.toml",
    ]  # fmt: skip


def test_fields_are_those_of_the_page() -> None:
    page = (ROOT / "docs/devices.md").read_text()
    section = page.split("| field | meaning |")[1].split("\n\n")[0]
    told = set(re.findall(r"`(\w+)`", " ".join(r.split(" | ")[0] for r in section.splitlines())))
    assert told == set(Profile.__dataclass_fields__) - {"name"}
    kinds = page.split("| device | processor |")[1].split("\n\n")[0]
    first = " ".join(row.split(" | ")[0] for row in kinds.splitlines())
    assert set(re.findall(r"`([\w-]+)`", first)) == set(NAMES)


# ---- boards ----


def test_boards_are_kept_and_found(settings: Path) -> None:
    assert boards.load() == []
    assert boards.last_used() is None
    boards.add(Board("kitchen", "pi@kitchen.local", "rpi4"))
    boards.add(Board("hall", "10.0.0.7", "rpi5", "/etc/config", 2222))
    assert [b.name for b in boards.load()] == ["hall", "kitchen"]
    assert boards.find("hall") == Board("hall", "10.0.0.7", "rpi5", "/etc/config", 2222, 2)
    for name in ("kitchen", "pi@kitchen.local", "kitchen.local"):
        found = boards.find(name)
        assert found is not None
        assert found.name == "kitchen"
    assert boards.find("cellar") is None
    boards.used("kitchen")
    assert [b.name for b in boards.load()] == ["kitchen", "hall"]
    last = boards.last_used("rpi5")
    assert last is not None
    assert last.name == "hall"
    assert boards.last_used("rpi3") is None
    boards.add(Board("kitchen", "new", "rpi3"))
    assert [b.host for b in boards.load()] == ["new", "10.0.0.7"]
    assert boards.remove("kitchen")
    assert not boards.remove("kitchen")
    assert {path.name for path in settings.iterdir()} == {"boards.json", ".boards.lock"}


@pytest.mark.parametrize(
    "board",
    [Board("", "h", "rpi4"), Board("a b", "h", "rpi4"), Board("-a", "h", "rpi4"),
     Board("a", "-oProxyCommand=x", "rpi4"), Board("a", "", "rpi4"), Board("a", "h\n", "rpi4"),
     Board("a", "h", "rpi4", None, 0), Board("a", "h", "rpi4", None, 70000)],
    ids=str,
)  # fmt: skip
def test_what_is_no_board_is_refused(board: Board) -> None:
    with pytest.raises(UsageError):
        boards.add(board)
    assert boards.load() == []


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"version": 2, "boards": []}', '{"version": 1, "boards": [1]}',
     '{"version": 1, "boards": [{"name": "a"}]}', "\x00",
     '{"version": 1, "boards": [{"name": 1, "host": "h", "device": "d", "ssh_config": null, '
     '"port": null, "last_used": 1}]}'],
)  # fmt: skip
def test_a_damaged_file_is_said_and_left_as_it_is(settings: Path, text: str) -> None:
    settings.mkdir()
    boards.path().write_text(text)
    for call in (boards.load, lambda: boards.add(Board("a", "h", "rpi4"))):
        with pytest.raises(ZgedgeError, match="damaged"):
            call()
    assert boards.path().read_text() == text


def _add_many(number: int) -> None:
    for i in range(10):
        boards.add(Board(f"b{number}-{i}", "h", "rpi4"))


def test_several_at_once_lose_nothing() -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_add_many, args=(n,)) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert len(boards.load()) == 30
    assert len({b.last_used for b in boards.load()}) == 30


def test_settings_that_cannot_be_written_are_said(settings: Path) -> None:
    settings.write_text("a file")
    with pytest.raises(ZgedgeError, match="Cannot"):
        boards.add(Board("a", "h", "rpi4"))
