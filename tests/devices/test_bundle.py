"""The bundle: what is refused, that the same inputs give the same bytes, and that nothing can
leave a folder, on the desk and in the board's shell."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import nets
from tests.devices.local import Local, local
from zgedge.devices import bundle, keys
from zgedge.devices.bundle import BundleError, Manifest
from zgedge.errors import UsageError

MODEL = nets.file(nets.network())
GOLDEN = b"golden"


def made(**changes: object) -> tuple[Manifest, dict[str, bytes]]:
    options: dict[str, object] = {
        "name": "m", "device": "rpi4", "machine": "aarch64", "runtime": "native", "counter": 3,
        "version": "0.5.0", "others": [(bundle.PROGRAM, b"program" * 50)], **changes,
    }  # fmt: skip
    return bundle.make(MODEL, GOLDEN, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole() -> bytes:
    return bundle.pack(*made())


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    os.environ["ZGEDGE_CONFIG"] = str(tmp_path)
    keys.new("a")
    manifest, contents = made()
    signed = [bundle.pack(manifest, contents, keys.sign(manifest.pack())) for _ in range(2)]
    assert signed[0] == signed[1]
    assert bundle.pack(*made(others=reversed([(bundle.PROGRAM, b"program" * 50)]))) == bundle.pack(
        *made()
    )
    read = bundle.read(signed[0])
    assert (read.manifest, read.contents) == (manifest, contents)
    assert keys.verify(read.raw, read.signature, keys.allowed_signers(keys.trusted()))


def test_a_version_is_named_by_counter_and_hash() -> None:
    manifest, _ = made()
    digest = hashlib.sha256(manifest.pack()).hexdigest()
    assert manifest.version == f"3-{digest[:8]}"


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("zgedge-manifest 1", "zgedge-manifest 2"), ("name m", "name M"), ("name m", "name -m"),
        ("name m", "name m m"), ("device rpi4", "device "), ("machine aarch64", "machine riscv64"),
        ("runtime native", "runtime java"), ("counter 3", "counter 03"),
        ("counter 3", "counter -3"), ("counter 3", "counter 9999999999"),
        ("zgedge 0.5.0", "zgedge x"), ("runtime native", "runtime python"),
        (" model.zge", " ../model.zge"), (" model.zge", " /etc/passwd"),
        (" model.zge", " bin/../x"), (" model.zge", " wheels/.hidden"), (" model.zge", " a/b/c"),
        (" golden.bin", " model.zge"), (" 755 ", " 4755 "), (" 755 ", " 777 "),
        (" golden.bin", " golden.bin x"), (" golden.bin", ""),
    ],
)  # fmt: skip
def test_manifests_that_are_refused(line: str, instead: str) -> None:
    text = made()[0].pack().decode()
    assert line in text
    with pytest.raises(BundleError, match=r"manifest|bundle"):
        bundle.parse_manifest(text.replace(line, instead, 1).encode())


def test_bundles_that_are_refused(whole: bytes) -> None:
    for data in (b"", b"PK\3\4", whole[:40], whole[:-1], whole + b"x",
                 whole.replace(b"zgedge-bundle 1", b"zgedge-bundle 2", 1),
                 whole[:-1] + bytes([whole[-1] ^ 1])):  # fmt: skip
        with pytest.raises(BundleError):
            bundle.read(data)
    manifest, contents = made()
    with pytest.raises(BundleError, match="not those"):
        bundle.pack(manifest, {**contents, "golden.bin": b"other"})
    with pytest.raises(BundleError):
        replace(manifest, name="a\nname b").pack()
    with pytest.raises(UsageError, match="counter"):
        made(counter=0)
    with pytest.raises(UsageError, match="cannot name"):
        made(name="A")


def test_names_of_services() -> None:
    assert bundle.name_of("/x/My Model_2.zge") == "my-model-2"
    assert bundle.name_of("___.zge") == "model"
    assert len(bundle.name_of("x" * 99)) == 32


def mutations(data: bytes, seed: int, many: int) -> Iterator[bytes]:
    """Bundles with bytes flipped, cut, doubled or inserted, most of them in the first lines."""
    rng = random.Random(seed)
    words = (b"../", b"/", b"\0", b"\n", b"file ", b" ", b"999999999", b"$(touch x)", b"`id`", b"*",
             b"%s", b"-n", b"\xff", b"wheels/", b"bin/../../x", b"\r")  # fmt: skip
    for _ in range(many):
        out = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(min(len(out), 700) if rng.random() < 0.8 else len(out))
            kind = rng.randrange(4)
            if kind == 0:
                out[at] = rng.randrange(256)
            elif kind == 1:
                del out[at : at + rng.randint(1, 40)]
            elif kind == 2:
                out[at:at] = rng.choice(words)
            else:
                out[at:at] = out[at : at + rng.randint(1, 90)]
        yield bytes(out)


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_fuzzed_bundles_are_refused_in_words(whole: bytes, seed: int) -> None:
    for data in mutations(whole, seed, 4):
        try:
            read = bundle.read(data)
        except BundleError:
            continue
        assert read.manifest.pack() == read.raw
        for path in read.contents:
            assert ".." not in path.split("/")


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_fuzzed_manifests_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(BundleError):
        bundle.parse_manifest(data)


def shell_refuses(board: Local, whole: bytes, count: int, seed: int) -> None:
    """Mutated bundles under the board's shell, which trusts them all: none writes a file outside
    its folder, and the shell and the desk agree on which are good."""
    # A verifier that believes everything, so that all of the parser is reached.
    board.tool("ssh-keygen", "exit 0")
    board.tool("uname", "echo x86_64")
    base = board.root / "m"

    def say(*words: str, input: bytes = b"") -> str:
        return board.agent(*words, input=input).text

    assert "ok" in say("lock", "t.1.1")
    assert "ok" in say("begin", "t.1.1", "rpi4")
    assert "ok" in say("trust", "t.1.1", input=b"any key\n")

    def outside() -> set[str]:
        inside = ("incoming", "versions", "lock")
        return {
            str(p.relative_to(board.home)) for p in board.home.rglob("*")
            if not (p.is_relative_to(base) and p.relative_to(base).parts[:1] in
                    [(name,) for name in inside])
        }  # fmt: skip

    before = outside()
    good = 0
    for data in [whole, *mutations(whole, seed, count)]:
        for version in (base / "versions").iterdir():
            shutil.rmtree(version)  # what is installed already is not unpacked again
        digest = hashlib.sha256(data).hexdigest()
        (base / "incoming" / f"{digest}.zgb").write_bytes(data)
        text = say("unpack", "t.1.1", digest, "-", "-")
        try:
            read = bundle.read(data)
            fits = (read.manifest.name, read.manifest.device) == ("m", "rpi4")
            fits = fits and len(read.signature) > 0
        except BundleError:
            fits = False
        last = text.splitlines()[-1]
        assert last == "ok" or last.startswith("error "), text
        if last == "ok":
            good += 1
            assert fits, data[:600]
        elif fits:
            assert last.split()[1] in ("machine", "older"), (last, data[:600])
        assert outside() == before
    assert good >= 1


@pytest.fixture
def signed_here() -> bytes:
    """A bundle for this very machine, with something in the place of a signature."""
    import platform

    manifest, contents = made(machine=platform.machine())
    return bundle.pack(manifest, contents, b"signature\n")


def test_fuzzed_bundles_under_dash(signed_here: bytes) -> None:
    with local() as board:
        shell_refuses(board, signed_here, 25, 1)


@pytest.mark.slow
def test_many_fuzzed_bundles_under_dash(signed_here: bytes) -> None:
    with local() as board:
        shell_refuses(board, signed_here, 400, 2)


@pytest.mark.slow
def test_fuzzed_bundles_under_busybox(signed_here: bytes, busybox: Callable[[], str]) -> None:
    with local((busybox(), "ash")) as board:
        shell_refuses(board, signed_here, 200, 3)
