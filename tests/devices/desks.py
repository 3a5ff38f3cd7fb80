"""A desk of a test: settings of its own, small models, and a board on this machine to deploy to."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests import nets
from tests.devices.local import Local, local
from tests.platform import builds
from tests.platform.needed import or_skip
from zgedge.devices import boards, bundle, deploy, keys, profiles
from zgedge.devices.deploy import Deployment, Request, Target
from zgedge.runtime import Model

NET = nets.network()
KINDS = {"x86_64": "x86-64", "aarch64": "aarch64", "armv7l": "armv7"}


def native_program(target: str = builds.NATIVE) -> bytes:
    """The native program, built once for all tests; skips where there is no compiler."""
    return or_skip(lambda: builds.cmake(target, "zgedge-native")).read_bytes()


@dataclass
class Desk:
    """Deploys models to a local board, with a program that stands in for the native one."""

    board: Local
    folder: Path
    real: bytes
    program: bytes | None = None  # instead of the real one
    said: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def model(self, seed: int = 0) -> Path:
        path = self.folder / f"model-{seed}.zge"
        if not path.exists():
            path.write_bytes(nets.file(NET, seed))
        return path

    def request(self, seed: int = 0, **options: Any) -> Request:
        kind = KINDS[platform.machine()]
        made = Request(
            str(self.model(seed)), Target("local", kind), profiles.load(kind), "m",
            runtime="native", watch=1, trust=True,
        )  # fmt: skip
        return replace(made, **{**self.options, **options})

    def deploy(self, seed: int = 0, **options: Any) -> dict[str, Any]:
        return Deployment(
            self.request(seed, **options), self.said.append, transport=self.board
        ).run()

    def files(self, *_: Any, **__: Any) -> dict[str, bytes]:
        return {bundle.PROGRAM: self.real if self.program is None else self.program}

    def wrapped(self, cases: Mapping[str, str]) -> bytes:
        """A program that is the real one but for some of its commands, which are a shell's. It
        finds the real one in $REAL."""
        real = self.board.home / "real"
        if not real.exists():
            real.write_bytes(self.real)
            real.chmod(0o755)
        text = "".join(f"    {word}) {script} ;;\n" for word, script in cases.items())
        return f'#!/bin/sh\nREAL={real}\ncase $1 in\n{text}esac\nexec $REAL "$@"\n'.encode()


def make_desk(board: Local, folder: Path, patch: pytest.MonkeyPatch) -> Desk:
    patch.setenv("ZGEDGE_CONFIG", str(folder / "config"))
    desk = Desk(board, folder, native_program())
    patch.setattr(deploy, "runtime_files", desk.files)
    keys.new("desk")
    return desk


@contextmanager
def served_board(folder: Path) -> Iterator[Desk]:
    """A board that serves a second version of `m`, which has learned a little, and the settings
    that commands find it by: it is the board `far`, which was used last."""
    with pytest.MonkeyPatch.context() as patch, local() as board:
        desk = make_desk(board, folder, patch)
        kind = KINDS[platform.machine()]
        boards.add(boards.Board("far", "pi@far.local", kind))
        patch.setattr(Target, "remote", lambda _: board)
        for seed in (1, 0):
            assert desk.deploy(seed)["outcome"] == "healthy"
        x, y = nets.samples(NET, 20)
        names = Model.open(desk.model()).classes.tolist()
        for row, number in zip(x, y, strict=True):
            board.ask({"op": "learn", "x": row.tolist(), "y": names[number]})
        yield desk


def bundle_of(desk: Desk, seed: int = 0, counter: int = 1, **changes: Any) -> deploy.Made:
    """A signed bundle of a model, some lines of whose manifest are changed."""
    request = desk.request(seed, counter=counter)
    made = deploy.make(request, "native", "", [], lambda _: None)
    if not changes:
        return made
    manifest = replace(made.manifest, **changes)
    contents = bundle.read(made.data).contents
    return deploy.Made(manifest, bundle.pack(manifest, contents, keys.sign(manifest.pack())))


def rows(n: int = 4, seed: int = 1) -> Sequence[Sequence[float]]:
    return nets.samples(NET, n, seed)[0].tolist()  # type: ignore[no-any-return]
