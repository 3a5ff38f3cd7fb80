"""Signatures are OpenSSH's, bound to one purpose; wheels come out the same each time."""

from __future__ import annotations

import io
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from zgedge.devices import cross, keys, wheels
from zgedge.errors import UsageError, ZgedgeError


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZGEDGE_CONFIG", str(tmp_path / "config"))


def test_a_signature_is_for_one_text_one_purpose_and_trusted_keys() -> None:
    keys.new("a")
    known = keys.allowed_signers(keys.trusted())
    signature = keys.sign(b"text")
    assert signature == keys.sign(b"text")
    assert keys.verify(b"text", signature, known)
    assert not keys.verify(b"texT", signature, known)
    assert not keys.verify(b"text", signature, known, keys.TRUST)
    assert not keys.verify(b"text", signature[:-40], known)
    assert not keys.verify(b"text", b"", known)
    assert not keys.verify(b"text", signature, b"")
    # ssh-keygen verifies it by itself, as a board does.
    folder = keys.config_folder()
    (folder / "sig").write_bytes(signature)
    subprocess.run(
        ["ssh-keygen", "-Y", "verify", "-f", folder / "trusted", "-I", "zgedge", "-n",
         "zgedge-bundle", "-s", folder / "sig"], input=b"text", check=True, capture_output=True,
    )  # fmt: skip


def test_another_key_and_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(ZgedgeError, match="no key") as e:
        keys.sign(b"x")
    assert "key new" in (e.value.hint or "")
    for asked in (keys.own, lambda: keys.public(tmp_path / "other", "Give the file.")):
        with pytest.raises(ZgedgeError, match="There is no key") as e:
            asked()
        assert "--key" not in (e.value.hint or "")  # `key show` and `key trust` have no such option
    (tmp_path / "sensor.csv").write_text("1,2\n")
    with pytest.raises(ZgedgeError, match="sensor.csv is no public key, and there is no"):
        keys.public(tmp_path / "sensor.csv")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "mine"], check=True
    )
    keys.new("desk")
    signature = keys.sign(b"x", tmp_path / "mine")
    assert not keys.verify(b"x", signature, keys.allowed_signers(keys.trusted()))
    assert keys.trust(keys.public(tmp_path / "mine"))
    assert keys.verify(b"x", signature, keys.allowed_signers(keys.trusted()))
    said: list[str] = []
    keys.make_own(said.append)
    assert said == []


def test_a_desk_trusts_its_own_key_where_that_was_cut_off(tmp_path: Path) -> None:
    made = keys.new("desk")
    keys.trusted_path().unlink()
    keys.make_own(pytest.fail)
    assert keys.trusted() == [made]


@pytest.mark.parametrize("content", [b"\xff\xfe", f"{keys.SIGNER} {keys.OPTIONS} hello\n".encode()])
def test_a_damaged_list_of_keys_is_said(content: bytes) -> None:
    keys.new("desk")
    keys.trusted_path().write_bytes(content)
    with pytest.raises(ZgedgeError, match="trusted is damaged") as e:
        keys.trusted()
    assert e.value.exit_code == 1


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 AAA\nzgedge x", "ssh-dss AAAA x"])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(UsageError, match="no public key"):
        keys.parse(text)


def test_comments_cannot_steer_a_list_of_keys() -> None:
    assert keys.parse('ssh-ed25519 AAAA a"b c\x07d').allowed.count(" ") == 4


# ---- wheels ----


def test_a_wheel_is_a_wheel_and_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = tmp_path / "libzge.so"
    library.write_bytes(b"\x7fELFaarch64")
    monkeypatch.setattr(cross, "build", lambda *_, **__: library)
    name, data = wheels.own("aarch64")
    assert (name, data) == wheels.own("aarch64")
    assert name.endswith("-py3-none-manylinux_2_28_aarch64.whl")
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = archive.namelist()
    assert names == sorted(names)
    assert archive.read("zgedge/runtime/libzge.so") == b"\x7fELFaarch64"
    assert "zgedge/devices/agent.sh" in names
    assert not [n for n in names if "__pycache__" in n or n.endswith(".pyc")]
    record = archive.read(next(n for n in names if n.endswith("RECORD"))).decode()
    assert len(record.splitlines()) == len(names)
    metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "Requires-Dist: numpy" in metadata
    assert "torch" not in metadata
    assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_where_nothing_compiles_here_the_sources_go_along() -> None:
    name, data = wheels.own("armv7l", compiled=False)
    assert name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert "zgedge/runtime/core/zge_arm.h" in names
    assert "zgedge/runtime/libzge.so" not in names


def test_platforms_from_the_newest_down() -> None:
    tags = wheels.platforms("manylinux_2_28_aarch64")
    assert tags[0] == "manylinux_2_28_aarch64"
    assert tags[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]


def test_what_a_board_fetches_is_pinned_by_hashes() -> None:
    text = wheels.requirements({"numpy-2.0-cp311.whl": b"x", "pip-26.whl": b"y"}).decode()
    assert text.startswith("numpy==2.0 --hash=sha256:2d711642b726b044")
    assert "pip" not in text


@pytest.mark.slow
def test_a_library_for_a_board_comes_out_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("a", "b"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", os.path.expanduser("~/.cache/zig"))
        found.append(cross.build(wheels.CORE, "aarch64").read_bytes())
    assert found[0] == found[1]
    assert found[0][18:20] == b"\xb7\0"
