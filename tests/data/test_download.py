"""Fetching from a server that the test starts and that does every wrong thing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.conftest import Server
from zgedge.data import get
from zgedge.errors import DataError, UsageError, ZgedgeError

BODY = np.random.default_rng(0).bytes(1 << 20)


@pytest.fixture
def served(server: Server) -> Server:
    server.body = BODY
    return server


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_fetch_with_progress_and_checksum(served: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = get("mnist", served.url, served.sha256, tmp_path, lambda *p: seen.append(p))
    assert path == tmp_path / "data.bin"
    assert path.read_bytes() == BODY
    assert left(tmp_path) == ["data.bin"]
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert served.requests[0]["Accept-Encoding"] == "identity"


def test_goes_to_the_data_folder(
    served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZGEDGE_DATA", str(tmp_path))
    assert get("mnist", served.url) == tmp_path / "mnist" / "data.bin"


def test_file_that_is_there_is_kept(served: Server, tmp_path: Path) -> None:
    get("mnist", served.url, dest=tmp_path)
    get("mnist", served.url, dest=tmp_path)
    get("mnist", served.url, served.sha256.upper(), tmp_path)
    assert len(served.requests) == 1


def test_file_that_is_there_and_wrong_is_replaced(served: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"old")
    assert get("mnist", served.url, served.sha256, tmp_path).read_bytes() == BODY


def test_cut_connection_is_resumed_at_once(served: Server, tmp_path: Path) -> None:
    served.cut_after = [1000, 5000]
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == BODY
    assert [r.get("Range") for r in served.requests] == [None, "bytes=1000-", "bytes=6000-"]
    assert left(tmp_path) == ["data.bin"]


def test_cut_again_and_again_is_resumed_by_a_later_call(served: Server, tmp_path: Path) -> None:
    served.cut_after = [1000, 1000, 1000]
    with pytest.raises(ZgedgeError, match="ended after 3000 of 1048576 bytes") as caught:
        get("mnist", served.url, dest=tmp_path)
    assert "Run it again" in str(caught.value)
    assert left(tmp_path) == ["data.bin.part", "data.bin.part.json"]
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == BODY
    assert served.requests[-1]["Range"] == "bytes=3000-"


def test_interrupted_by_the_person(served: Server, tmp_path: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        if done > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get("mnist", served.url, dest=tmp_path, progress=stop)
    assert left(tmp_path) == ["data.bin.part", "data.bin.part.json"]
    seen: list[int] = []
    path = get("mnist", served.url, dest=tmp_path, progress=lambda done, _: seen.append(done))
    assert path.read_bytes() == BODY
    assert seen[0] > 500_000


def test_server_without_ranges_starts_again(served: Server, tmp_path: Path) -> None:
    served.ranges, served.cut_after = False, [300_000]
    assert get("mnist", served.url, served.sha256, tmp_path).read_bytes() == BODY
    assert len(served.requests) == 2


def test_server_without_validators_is_never_resumed(served: Server, tmp_path: Path) -> None:
    served.etag, served.cut_after = None, [300_000]
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == BODY
    assert served.requests[1].get("Range") is None


def test_weak_tags_do_not_count_and_dates_do(served: Server, tmp_path: Path) -> None:
    served.etag, served.cut_after = 'W/"one"', [300_000]
    served.last_modified = "Wed, 01 Jan 2020 00:00:00 GMT"
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == BODY
    assert served.requests[1]["If-Range"] == served.last_modified


def cut_short(served: Server, folder: Path) -> None:
    """Leave 3,000 bytes of a fetch behind."""
    served.cut_after = [1000, 1000, 1000]
    with pytest.raises(ZgedgeError):
        get("mnist", served.url, dest=folder)


def test_changed_file_starts_again(served: Server, tmp_path: Path) -> None:
    cut_short(served, tmp_path)
    served.body, served.etag = BODY[::-1], '"two"'
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == BODY[::-1]


def test_changed_file_under_the_same_tag_is_seen_by_its_length(
    served: Server, tmp_path: Path
) -> None:
    cut_short(served, tmp_path)
    served.body = BODY[::-1] + b"more"
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == served.body


def test_changed_file_under_the_same_tag_is_seen_by_its_checksum(
    served: Server, tmp_path: Path
) -> None:
    cut_short(served, tmp_path)
    served.body = BODY[::-1]
    assert get("mnist", served.url, served.sha256, tmp_path).read_bytes() == BODY[::-1]


def test_file_that_became_shorter(served: Server, tmp_path: Path) -> None:
    cut_short(served, tmp_path)
    served.body = b"short"
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == b"short"


def test_whole_part_is_finished_without_a_body(served: Server, tmp_path: Path) -> None:
    cut_short(served, tmp_path)
    served.body = BODY[:3000]
    assert get("mnist", served.url, served.sha256, tmp_path).read_bytes() == BODY[:3000]


def test_another_piece_than_asked_for(served: Server, tmp_path: Path) -> None:
    cut_short(served, tmp_path)
    served.wrong_range = True
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == BODY
    assert served.requests[-1].get("Range") is None


def test_damaged_state_starts_again(served: Server, tmp_path: Path) -> None:
    cut_short(served, tmp_path)
    (tmp_path / "data.bin.part.json").write_text("{")
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == BODY


def test_part_of_another_address_starts_again(served: Server, tmp_path: Path) -> None:
    cut_short(served, tmp_path)
    served.url = served.url.replace("/files/", "/others/")
    served.body = BODY[::-1]
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == BODY[::-1]


def test_truncated_body_without_a_stated_length(served: Server, tmp_path: Path) -> None:
    served.state_length, served.cut_after = False, [1000]
    seen: list[Any] = []
    with pytest.raises(DataError, match="checksum"):
        get("mnist", served.url, served.sha256, tmp_path, lambda *p: seen.append(p))
    assert seen[-1] == (1000, None)


def test_wrong_checksum(served: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"checksum {served.sha256}, not {'0' * 64}"):
        get("mnist", served.url, "0" * 64, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("status", [404, 403, 500])
def test_server_says_no(served: Server, tmp_path: Path, status: int) -> None:
    served.status = status
    with pytest.raises(ZgedgeError, match=f"answered {status}") as caught:
        get("mnist", served.url, dest=tmp_path)
    assert caught.value.exit_code == 1
    assert left(tmp_path) == []


def test_no_server(served: Server, tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/data.bin"  # the discard port, where nothing listens
    with pytest.raises(ZgedgeError, match="could not be fetched"):
        get("mnist", url, dest=tmp_path)


def test_folder_that_cannot_be_written(served: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ZgedgeError, match="cannot be written"):
        get("mnist", served.url, dest=tmp_path / "file")


def test_full_disk(served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ZgedgeError, match="cannot be written: No space left"):
        get("mnist", served.url, dest=tmp_path)
    assert not (tmp_path / "data.bin").exists()
    monkeypatch.undo()
    assert get("mnist", served.url, dest=tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("name", "url", "sha256"),
    [
        ("mnist", None, None),
        ("mnist", "file:///etc/passwd", None),
        ("mnist", "ftp://host/data.bin", None),
        ("mnist", "data.bin", None),
        ("mnist", "http://host/", None),
        ("mnist", "http://host/a/..", None),
        ("mnist", "http://host/%2e%2e%2fpasswd/%2F", None),
        ("mnist", "http://host/.bashrc", None),
        ("mnist", "http://host/data.bin", "abc"),
        ("../mnist", "http://host/data.bin", None),
        ("", "http://host/data.bin", None),
    ],
)
def test_addresses_names_and_checksums_that_mean_nothing(
    name: str, url: str | None, sha256: str | None
) -> None:
    with pytest.raises(UsageError):
        get(name, url, sha256)
