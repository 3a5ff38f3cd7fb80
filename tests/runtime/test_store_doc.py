"""docs/store.md has every byte of a slot and of the event log: a reader made from its tables."""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from pathlib import Path

import pytest

from tests.runtime.test_store import BLOB, states
from zgedge.runtime import disk, events, store
from zgedge.runtime.store import Store

TYPES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q"}


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "store.md").read_text()


def fields(page: str, head: str) -> dict[str, tuple[int, str]]:
    """Offset and struct code of each name in the table under a head; no gap between two."""
    part = page.split(f"\n## {head}")[1]
    found, at = {}, 0
    for offset, kind, name in re.findall(
        r"^\| (\d+) \| (\w+(?:\[\d+\])?) \| `(\w+)` \|", part.split("\n## ")[0], re.MULTILINE
    ):
        assert int(offset) == at, name
        base, _, count = kind.partition("[")
        code = f"{count[:-1]}s" if count else TYPES[base]
        found[name] = (at, code)
        at += struct.calcsize("<" + code)
    assert at == 128
    return found


def test_a_slot(page: str, tmp_path: Path) -> None:
    table = fields(page, "1 A slot")
    now = 100.0
    with Store.open(tmp_path, BLOB, clock=lambda: now) as kept:
        kept.log.add("started")
        for state in states(3):
            now += 2.5
            kept.commit(state)
    raw = (tmp_path / "slot-a").read_bytes()
    assert len(raw) == 131_072
    got = {n: struct.unpack_from("<" + code, raw, at)[0] for n, (at, code) in table.items()}

    def digest(data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=16).digest()

    assert got.pop("magic") == b"\x89ZGS"
    assert got.pop("model") == digest(BLOB)
    assert got.pop("reserved") == bytes(16)
    assert got.pop("header") == digest(raw[:112])
    start = got["payload_at"]
    payload = raw[start : start + got["payload_bytes"]]
    assert payload == bytes(state)
    assert got.pop("payload") == digest(payload)
    pages = 4096 + -(-len(BLOB) // 4096) * 4096
    written = 3 * pages + 4096
    assert got == {
        "version": 1, "header_bytes": 128, "generation": 3, "payload_at": 4096,
        "payload_bytes": len(BLOB), "commits": 3, "written": written, "seconds": 7,
        "today": written, "day_before": 0,
    }  # fmt: skip
    assert not any(raw[128:4096])
    assert not any(raw[4096 + len(BLOB) :])


def test_an_event(page: str, tmp_path: Path) -> None:
    table = fields(page, "2 The event log")
    log = events.EventLog(wall=lambda: 1.25)
    log.attach(disk.open_file(str(tmp_path / "events"), events.LOG_BYTES))
    log.add("bad input", "x")
    log.add("drift", "größer", step=5, value=-1, more=3)
    raw = (tmp_path / "events").read_bytes()
    assert len(raw) == 2048 * 128 == 262_144
    record = raw[128:256]
    got = {n: struct.unpack_from("<" + code, record, at)[0] for n, (at, code) in table.items()}
    assert got.pop("text").rstrip(b"\0").decode() == "größer"
    assert got.pop("checksum") == zlib.crc32(record[:124])
    kinds = dict(re.findall(r"(\d+) ([a-z ]+)[,|]", page.split("`kind` | ")[1].split("\n")[0]))
    assert kinds[str(got.pop("kind"))].strip() == "drift"
    assert got == {
        "text_bytes": 8, "reserved": 0, "number": 2, "time": 1250, "step": 5, "value": -1,
        "more": 3,
    }  # fmt: skip


def test_every_kind_of_event_is_named(page: str) -> None:
    (line,) = re.findall(r"`kind` \| (.*) \|", page)
    told = {int(n): kind for n, kind in re.findall(r"(\d+) ([a-z ]+)", line)}
    assert told == {n: kind for n, kind in enumerate(events.KINDS) if n}


def test_figures(page: str) -> None:
    assert f"at most {store.PIECE:,} bytes" in page
    least, most = int(store.RETRY_LEAST), int(store.RETRY_MOST / 60)
    assert f"after {least} seconds, {2 * least}, {4 * least}, up to {most} minutes" in page
    day = 1440 * (4096 + 256 * 1024) / 1e6
    assert f"writes {day:.0f} MB a day" in page
