"""The native program by itself: its reader of requests against Python's, sanitizers, its memory."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import nets
from tests.runtime.native_program import Served
from tests.runtime.test_conformance_service import MODELS, lines
from zgedge import Model, arena
from zgedge.devices.units import limit_data
from zgedge.network import sparse
from zgedge.runtime.board import make_golden

Serve = Callable[..., Served]
NOT_UTF8, NOT_JSON, NO_OBJECT = 1, 2, 3
ABSENT, NULL, FALSE, TRUE, WHOLE, REAL, TEXT, NESTED = range(8)
GRAINS = [
    b'{"op": "predict", "x": [1, -2.5e3, 0.1, 1e-7], "id": "a\\u00e4\\n"}', b'{"x": [1, 2, 3, 4]}',
    b'{"op": "learn", "x": [0.30000001192092896, 123456789012345678, 1e22, 1e23], "y": 3}',
    b'{"op": "label", "id": 18446744073709551615, "y": "\xc3\xa4\xe2\x98\x83\xf0\x9f\x98\x80"}',
    b'{"a": [{"b": [[], {}, [{}], "x\\"y\\\\"]}, null, true, false], "op": "s\\ud83d\\ude00"}',
    b"[1, [2, [3]]]", b'"text"', b"-0.5e-3", b'{"y": NaN, "id": -Infinity, "op": Infinity}', b"{}",
    b' {"op" :\t"status" , "history":true }\r',
    b'{"x": [], "op": "\\ud83d", "y": 1.7976931348623157e308}',
]  # fmt: skip
PIECES = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"e", b"-", b".", b"0", b"9" * 30,
    b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\n", b"null", b"NaN", b" ", b"[" * 40,
]  # fmt: skip


def cases(n: int, seed: int = 0) -> list[bytes]:
    """Lines that are nearly requests."""
    rng = random.Random(seed)
    out = list(GRAINS)
    for _ in range(n // 10):  # numbers of any length, which are to be read to the last bit
        digits = "".join(rng.choices("0123456789", k=rng.randint(1, 22))).lstrip("0") or "0"
        at = rng.randint(0, len(digits) - 1)
        text = f"{digits[:at]}.{digits[at:]}" if at else digits
        text += rng.choice(["", "", f"e{rng.randint(-30, 30)}", f"E+{rng.randint(0, 9)}"])
        out.append(f'{{"y": {rng.choice(["", "-"])}{text}, "x": [{text}]}}'.encode())
    while len(out) < n:
        line = bytearray(rng.choice(GRAINS))
        for _ in range(rng.randint(1, 4)):
            at = rng.randint(0, len(line))
            kind = rng.random()
            if kind < 0.4:
                line[at:at] = rng.choice(PIECES)
            elif kind < 0.6:
                del line[at : at + rng.randint(1, 3)]
            elif kind < 0.8 and at < len(line):
                line[at] = rng.randrange(256)
            else:
                other = rng.choice(GRAINS)
                line[at:] = other[rng.randint(0, len(other)) :]
        out.append(bytes(line))
    return out


def wanted(line: bytes) -> tuple[int, Any]:
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return NOT_UTF8, None
    except (ValueError, RecursionError):
        return NOT_JSON, None
    return (0, found) if isinstance(found, dict) else (NO_OBJECT, None)


def shown(value: Any, there: bool) -> str:
    """A value as json_fuzz.c prints it."""
    if not there:
        return f" {ABSENT}:"
    if value is None or isinstance(value, bool):
        return f" {NULL if value is None else TRUE if value else FALSE}:"
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        broken = any(0xD800 <= ord(c) < 0xE000 for c in value)
        return f" {TEXT}{'!' if broken else ''}:{raw.hex()}"
    if isinstance(value, int | float):
        return f" {WHOLE if isinstance(value, int) else REAL}:"
    return f" {NESTED}:"


def test_requests_are_read_as_python_reads_json(json_fuzz: str) -> None:
    """Thousands of lines that are nearly requests, under sanitizers: the same are refused, and the
    others mean the same."""
    sent = cases(8000)
    data = b"".join(struct.pack("<I", len(line)) + line for line in sent)
    done = subprocess.run([json_fuzz], input=data, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    got = done.stdout.decode().splitlines()
    assert len(got) == len(sent)
    seen = dict.fromkeys(range(4), 0)
    for line, text in zip(sent, got, strict=True):
        code, found = wanted(line)
        head, _, tail = text.partition(" |")
        words = head.split()
        assert int(words[0]) == code, (line, text)
        seen[code] += 1
        if code:
            continue
        x = found.get("x")
        assert words[1] == str(int(isinstance(x, list))), (line, text)
        if isinstance(x, list):
            assert int(words[2]) == len(x), (line, text)
            numbers = all(v is None or isinstance(v, int | float) for v in x)
            assert (words[3] == "2") == (not numbers or any(_huge(v) for v in x)), (line, text)
            if words[3] == "0":
                with np.errstate(over="ignore"):
                    bits = [f"{b:08x}" for b in np.array(x[:4], np.float32).view(np.uint32)]
                assert words[4:] == bits, (line, text)
        for name, own in zip(("op", "id", "y"), tail.split(" ")[1:], strict=True):
            value = found.get(name)
            kind = shown(value, name in found).strip()
            if kind not in (f"{WHOLE}:", f"{REAL}:"):
                assert own == kind, (line, text)
                continue
            assert own.startswith(kind), (line, text)
            if not _huge(value) and value == value:
                assert float.fromhex(own.partition(":")[2]) == float(value), (line, text)
    assert all(n > 100 for n in seen.values()), seen


def _huge(value: Any) -> bool:
    """A whole number that no float holds."""
    try:
        float(value or 0)
    except OverflowError:
        return True
    return False


@pytest.mark.parametrize("kind", ["names", "pending"])
def test_bad_requests_under_sanitizers(
    kind: str, native_sanitized: str, tmp_path: Path, serve: Serve
) -> None:
    path = tmp_path / "m.zge"
    path.write_bytes(MODELS[kind]())
    run = serve(native_sanitized, path, "a", "--commit-every", "0")
    run.send(lines(kind, Model.open(path).inputs))
    for line in cases(300, seed=1):
        run.send([line.replace(b"\n", b" ")])
    assert run.ask(op="status", history=True)["ok"]
    assert run.ask(op="metrics")["ok"]
    run.stop()
    run = serve(native_sanitized, path)
    assert run.ask(op="status")["started_from"].startswith("commit")
    run.stop()


def test_classes_of_any_length_stay_inside_the_hint(
    native_sanitized: str, tmp_path: Path, serve: Serve
) -> None:
    net = nets.network(shape=(1, 8, 1), hidden=(), classes=4, replay_samples=4, replay_bits=4)
    x = [0.0] * 8
    for length in range(186, 200):
        names = ("a" * 40, "b" * length, "c", "d" * 9)
        parameters = replace(nets.parameters(net), class_names=names, int_classes=False)
        path = tmp_path / f"{length}.zge"
        named = replace(net, names_bytes=len(arena.names_blob(names)))
        path.write_bytes(arena.write(named, parameters))
        run = serve(native_sanitized, path, str(length))
        hint = run.ask(op="learn", x=x, y="none of them")["hint"]
        run.stop()
        assert hint.startswith(f"Its classes are {'a' * 40}, ")
        assert hint.endswith("....")
        assert len(hint) < 256


def test_bad_files_under_sanitizers(native_sanitized: str, tmp_path: Path) -> None:
    """Every byte of a golden file and of a slot changed, and files that are cut."""
    net = nets.network(shape=(1, 8, 1), hidden=(), replay_samples=4, replay_bits=4, batch=4)
    model, golden = tmp_path / "m.zge", tmp_path / "g"
    model.write_bytes(nets.file(net))
    good = make_golden(model, *nets.samples(net, 3))
    rng = random.Random(0)
    for at in [*range(0, 36, 2), *rng.sample(range(36, len(good)), 9)]:
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        golden.write_bytes(bad)
        done = subprocess.run([native_sanitized, "golden", model, golden], capture_output=True)
        assert done.returncode == 3, (at, done)
        assert json.loads(done.stdout)["exit_code"] == 3
    for cut in (0, 3, 31, 40, len(good) - 1):
        golden.write_bytes(good[:cut])
        done = subprocess.run([native_sanitized, "golden", model, golden], capture_output=True)
        assert done.returncode == 3, (cut, done)
    golden.write_bytes(good)
    blob = model.read_bytes()
    for at in rng.sample(range(len(blob)), 20):
        bad = bytearray(blob)
        bad[at] ^= 1 << rng.randrange(8)
        (tmp_path / "bad.zge").write_bytes(bad)
        command = [native_sanitized, "golden", tmp_path / "bad.zge", golden]
        done = subprocess.run(command, capture_output=True)
        assert done.returncode == 4, (at, done)


def test_resident_memory_stays_near_the_arena_and_does_not_grow(
    native: str, tmp_path: Path, serve: Serve
) -> None:
    """Short; `zgedge.bench.native` measures a million steps of the program that is deployed."""
    net = nets.network(shape=(1, 784, 1), replay_samples=600, replay_bits=4, batch=8)
    path = tmp_path / "m.zge"
    path.write_bytes(nets.file(net))
    run = serve(native, path, "a", "--commit-every", "0")
    x, y = nets.samples(net, 100)

    def rss() -> int:
        text = Path(f"/proc/{run.process.pid}/smaps_rollup").read_text()
        return 1024 * int(text.split("Anonymous:")[1].split()[0])

    run.learn(x, y)
    first = rss()
    assert first <= path.stat().st_size + 400 * 1024
    for _ in range(3):
        run.learn(x, y)
        status = run.wait(lambda status: status["uncommitted"] == 0)
    assert status["store"]["generation"] > 2
    assert rss() == first
    run.stop()


@pytest.mark.parametrize("inputs", [8, 12_288, 65_536])
def test_its_ceiling_leaves_it_room(inputs: int, native: str, tmp_path: Path, serve: Serve) -> None:
    """Under the LimitDATA= that its unit has, with lines of any length that there is."""
    net = nets.network(shape=(1, inputs, 1), hidden=(sparse(inputs, 4, 4),), batch=2)
    path = tmp_path / "m.zge"
    path.write_bytes(nets.file(net))
    run = serve(native, path)
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    used = 1024 * int(status.split("VmData:")[1].split()[0])
    assert used < limit_data("native", path.stat().st_size)
    x, y = nets.samples(net, 3)
    run.learn(x, y)
    assert run.ask(op="predict", x=x[0].tolist())["ok"]
    run.stop()
