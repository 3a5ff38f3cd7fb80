"""Small data sets in every form, made by the tests, and a server that can misbehave."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    if not (SHARED / "mnist").is_dir():
        pytest.skip(f"the real data sets are not in {SHARED}")
    return SHARED


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """write("a.csv", text) -> path."""

    def put(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, "utf-8", newline="")
        return str(path)

    return put


@pytest.fixture
def savez(tmp_path: Path) -> Callable[..., str]:
    """savez(x=..., y=...) -> path of an .npz file."""

    def put(**arrays: Any) -> str:
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return str(path)

    return put


def idx_bytes(values: np.ndarray) -> bytes:
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_mnist(
    folder: Path, *, samples: int = 20, gzipped: bool = False, dotted: bool = False
) -> None:
    """The four files of MNIST, small: pictures of 4 x 3."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for stem, n in (("train", samples), ("t10k", samples // 2)):
        pictures = rng.integers(0, 256, (n, 4, 3))
        for kind, values in (("images-idx3", pictures), ("labels-idx1", np.arange(n) % 10)):
            name = f"{stem}-{kind.replace('-', '.') if dotted else kind}-ubyte"
            body = idx_bytes(values)
            if gzipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(body))
            else:
                (folder / name).write_bytes(body)


CIFAR_BATCHES = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")


def cifar_batch(k: int) -> tuple[np.ndarray, list[int]]:
    """(n, 3072) bytes and labels of the made-up batch `k`."""
    rng = np.random.default_rng(k)
    return rng.integers(0, 256, (10, 3072), dtype=np.uint8), [(k + i) % 10 for i in range(10)]


def cifar_body(k: int, form: str) -> bytes:
    x, y = cifar_batch(k)
    if form == "binary":
        return b"".join(bytes([label]) + row.tobytes() for row, label in zip(x, y, strict=True))
    if form == "python 3":
        return pickle.dumps({b"data": x, b"labels": y}, protocol=2)
    # As Python 2 wrote the published files: text strings hold the bytes.
    return (
        b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray"
        b"\nq\x03K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01J"
        + struct.pack("<i", len(x))
        + b"M\x00\x0c\x86q\x08cnumpy\ndtype\nq\tU\x02u1q\nK\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01|q\r"
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89T"
        + struct.pack("<i", x.size)
        + x.tobytes()
        + b"tq\x0fbU\x06labelsq\x10]q\x11("
        + b"".join(b"K" + bytes([label]) for label in y)
        + b"eu."
    )


def write_cifar(folder: Path, form: str) -> None:
    """The six batches, small. `form`: "binary", "python 2" or "python 3"."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(CIFAR_BATCHES):
        suffix = ".bin" if form == "binary" else ""
        (folder / f"{name}{suffix}").write_bytes(cifar_body(k, form))


def write_cifar_archive(path: Path, form: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        # Not in the order in which they are read, as in the published archive.
        for k, name in reversed(list(enumerate(CIFAR_BATCHES))):
            body = cifar_body(k, form)
            suffix = ".bin" if form == "binary" else ""
            member = tarfile.TarInfo(f"cifar-10-batches/{name}{suffix}")
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))


@dataclass
class Server:
    """A web server on this machine with one file, and switches for what it does wrong."""

    url: str = ""
    body: bytes = b""
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # one per answer, bytes until it hangs up
    state_length: bool = True
    status: int | None = None
    wrong_range: bool = False
    requests: list[dict[str, str]] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    settings = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            settings.requests.append(dict(self.headers.items()))
            if settings.status is not None:
                self.send_error(settings.status)
                return
            body, start = settings.body, 0
            condition = self.headers.get("If-Range")
            asked = self.headers.get("Range")
            same = condition in (None, settings.etag, settings.last_modified)
            if asked and settings.ranges and same:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                claimed = start + settings.wrong_range
                self.send_header("Content-Range", f"bytes {claimed}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if settings.state_length:
                self.send_header("Content-Length", str(len(body) - start))
            if settings.etag:
                self.send_header("ETag", settings.etag)
            if settings.last_modified:
                self.send_header("Last-Modified", settings.last_modified)
            self.end_headers()
            piece = body[start:]
            if settings.cut_after:
                piece = piece[: settings.cut_after.pop(0)]
            self.wfile.write(piece)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        settings.url = f"http://127.0.0.1:{http.server_port}/files/data.bin"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield settings
        http.shutdown()
        thread.join()
