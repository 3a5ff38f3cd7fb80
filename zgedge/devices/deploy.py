"""From a file to a board that serves it: each step in turn, and back by itself where one fails.

Every step can be run again after it was cut. Until the switch, which is one rename, nothing that
serves is touched; after it the board itself watches the service and goes back, whether the desk is
still there or not.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import zgedge
from zgedge import arena as files
from zgedge.devices import boards, bundle, check, emulated, keys, profiles, units, wheels
from zgedge.devices.agent import Agent, Answer, DeployError, Progress, Transport
from zgedge.devices.bundle import Manifest
from zgedge.devices.cross import Say
from zgedge.devices.profiles import Profile
from zgedge.devices.ssh import Remote
from zgedge.errors import DataError, MissingExtraError, UsageError, ZgedgeError
from zgedge.runtime import Model
from zgedge.runtime.board import Golden, make_golden, run_golden

DEFAULT_MODEL = "model.zge"
DEFAULT_HOST = "raspberrypi.local"
DEFAULT_ROOT = "/opt/zgedge"
OLDEST_PYTHON = (3, 10)
USER = "zgedge"  # whom services run as where there are root rights
WATCH = 20.0  # seconds
BESIDE_WATCH = 600.0  # seconds that a switch may take besides: a slow board restarts its service
ASKED = 16  # golden samples that the service is asked
ROWS = 100  # of the person's rows
# Findings of the check that a deployment has a more exact word for, before or after it.
OTHERWISE_SAID = {"machine", "python", "signatures", "disk", "rights"}
FALL = 5  # points that answers to them may be worse than before
SLACK = 2  # bundles that the disk must have room for, at least
VENV_FACTOR = 5  # bytes of an installed environment, in times of its wheels
NATIVE_OVERHEAD, PYTHON_OVERHEAD = 512 * 1024, 40 * 1024 * 1024  # memory beyond the arena

_VERSION = re.compile(r"[0-9]{1,9}-[0-9a-f]{8}")

STEPS = (
    ("connect", "log in to {host} with your own ssh, and look at the board"),
    ("check", "compare it with the profile {device}: processor, Python, disk, signatures"),
    ("lock", "take the lock of {name} on the board"),
    ("build", "make the bundle {name}: {runtime} runtime for {machine}, signed"),
    ("copy", "copy it, from where an earlier copy stopped"),
    ("verify", "verify signature, kind of board, counter and every hash on the board"),
    ("install", "install it in a folder of its own beside what serves"),
    ("golden", "predict and learn golden samples on the board, and compare every bit"),
    ("state", "find the learned state, and compare its digest before and after"),
    ("switch", "point `current` at it, in one rename, and start it"),
    ("watch", "watch it for {watch:g} s; go back by itself where it falls short"),
)


@contextmanager
def understood() -> Iterator[None]:
    """What a board said is taken apart here. It is a stranger's, or damaged: what goes wrong with
    it is the board's fault, and said. Raises DeployError."""
    try:
        yield
    except ZgedgeError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
            RecursionError) as e:  # fmt: skip
        raise DeployError(
            f"The board gave an answer that makes no sense ({type(e).__name__}: {e}).",
            "Its disk may be damaged, or another program answers there: zgedge device check.",
            "senseless",
        ) from e


@dataclass(frozen=True)
class Target:
    """A board as one asks for it, and how it is reached."""

    host: str
    device: str | None
    port: int | None = None
    ssh_config: str | None = None
    board: str | None = None  # its name among the person's boards

    def remote(self) -> Remote:
        return Remote(self.host, port=self.port, config=self.ssh_config)


@dataclass(frozen=True)
class Request:
    """What to deploy, and how."""

    model: str
    target: Target
    profile: Profile
    name: str
    runtime: str | None = None
    watch: float = WATCH
    key: str | None = None
    counter: int | None = None
    allow_downgrade: bool = False
    desk_verifies: bool = False
    trust: bool = False
    offline: bool = True
    data: str | None = None
    at_least: float | None = None


def find_target(
    host: str | None,
    device: str | None,
    port: int | None = None,
    ssh_config: str | None = None,
    say: Say = lambda _: None,
) -> Target:
    """The board that is meant: the one of that name or host, else of that kind the one that was
    used last, else the one that this machine emulates for an emulated kind, or
    `raspberrypi.local`. Says what it took where that was not asked for."""
    if host is not None:
        known = boards.find(host)
        if known is None:
            if device is None and host in emulated.KINDS:
                device = host
            return Target(host, device, port, ssh_config)
        return Target(known.host, device or known.device, port or known.port,
                      ssh_config or known.ssh_config, known.name)  # fmt: skip
    board = boards.last_used(device)
    if board is not None:
        say(f"Takes the board {board.name} ({board.host}, {board.device}), used last.")
        return Target(board.host, board.device, port or board.port,
                      ssh_config or board.ssh_config, board.name)  # fmt: skip
    host = device if device in emulated.KINDS else DEFAULT_HOST
    say(f"Takes {host}: no board{f' of kind {device}' if device else ''} is known yet.")
    return Target(host, device, port, ssh_config)


def start_emulated(
    host: str | None, device: str | None, say: Say, progress: emulated.Progress | None = None
) -> bool:
    """Whether the board that is meant is one that this machine emulates; then it runs."""
    board = boards.last_used(device) if host is None else boards.find(host)
    kind, name = (host or device, None) if board is None else (board.device, board.name)
    if kind not in emulated.KINDS or (board is None and device not in (None, kind)):
        return False
    if board is not None and not emulated.is_own(board):
        return False  # it is another one, or somebody started it in another place
    there = emulated.running_board(kind, name)
    if there is None or not there.running:
        say(f"Starting the emulated board {name or kind} ...")
        emulated.bring_up(kind, name, progress=progress)
    return True


def find_model(model: str | None, say: Say = lambda _: None) -> str:
    """The model file: that one, or `model.zge` here. Raises ModelError for what is none."""
    if model is None:
        if not os.path.exists(DEFAULT_MODEL):
            raise UsageError(
                f"There is no {DEFAULT_MODEL} here.", "Name the file: zgedge deploy FILE ..."
            )
        say(f"Takes {DEFAULT_MODEL}.")
        model = DEFAULT_MODEL
    Model.open(model)
    return model


def needs_device(target: Target) -> Profile:
    """The profile of a target. Raises UsageError where its kind is not known."""
    if target.device is None:
        raise UsageError(
            f"What kind of board is {target.host}?",
            "Give --device, one of: " + ", ".join(profiles.names()) + ".",
        )
    return profiles.load(target.device)


# ---- what the board is asked once the new version serves ----


@dataclass(frozen=True)
class Questions:
    """Rows as requests, and the answers that are right, as the service writes them."""

    requests: bytes
    answers: bytes
    ascii: bytes

    @classmethod
    def of(cls, x: npt.NDArray[np.float32], labels: Sequence[Any]) -> Questions:
        lines = [json.dumps({"op": "predict", "x": row.tolist(), "watch": False}) for row in x]
        plain = [_plain(label) for label in labels]
        return cls(
            _lines(lines),
            _lines([json.dumps(label, ensure_ascii=False) for label in plain]),
            _lines([json.dumps(label) for label in plain]),
        )


def _lines(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def golden_questions(model: Model, golden: bytes, folder: str) -> Questions:
    path = Path(folder, "golden.bin")
    path.write_bytes(golden)
    x = Golden.read(path).x[:ASKED]
    return Questions.of(x, list(model.predict(x)))


def rows_of(model: Model, data: str) -> tuple[npt.NDArray[np.float32], list[Any]]:
    """Rows of a person's labelled data that a board is tried with, and their labels as the service
    writes them. Raises DataError for no labels, or labels that the model has not."""
    from zgedge import data as sources

    network = model.arena.network
    x, texts = sources.load_inputs(
        data, features=model.inputs, shape=network.shape if network.task == "picture" else None,
        window=network.shape[0] if network.task == "series" else None,
        names=model.arena.feature_names,
    )  # fmt: skip
    names = {str(name): _plain(name) for name in model.classes}
    if texts is None or set(texts) - set(names):
        raise DataError(
            f"{data} has no labels." if texts is None else f"{data} has labels that {model.name} "
            "has not.", "Give labelled rows of the model's own classes with --data.",
        )  # fmt: skip
    take = np.unique(np.linspace(0, len(x) - 1, ROWS).astype(np.int64))
    rows = np.asarray(model.rows(x[take]), np.float32)
    return rows, [names[texts[i]] for i in take]


# ---- the bundle for a board ----


@dataclass(frozen=True)
class Made:
    """A bundle, packed."""

    manifest: Manifest
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def runtime_files(
    profile: Profile, runtime: str, python: str, *, offline: bool, board_compiles: bool, say: Say
) -> dict[str, bytes]:
    """The files of a bundle besides the model: the program, or wheels, without the compiled core
    where there is no compiler here but one on the board. Raises MissingExtraError for none."""
    if runtime == "native":
        from zgedge.devices import native

        return {bundle.PROGRAM: native.build(profile.machine, say=say).read_bytes()}
    if not profile.wheel_platform:
        raise UsageError(f"There are no wheels for {profile.title}.", "Take --runtime native.")
    try:
        name, own = wheels.own(profile.machine, say=say)
    except MissingExtraError:
        if not board_compiles:
            raise
        say("No cross compiler here (pip install 'zgedge[deploy]'): the board compiles the core.")
        name, own = wheels.own(profile.machine, compiled=False)
    found = wheels.dependencies(profile.machine, python, profile.wheel_platform, say)
    out = {f"wheels/{name}": own}
    if offline:
        out.update({f"wheels/{file}": content for file, content in found.items()})
    else:
        out["wheels/requirements.txt"] = wheels.requirements(found)
        out.update({f"wheels/{f}": c for f, c in found.items() if f.startswith("pip-")})
    return out


def make(
    request: Request, runtime: str, python: str, known: Sequence[tuple[str, str]], say: Say,
    board_compiles: bool = False,
) -> Made:  # fmt: skip
    """The bundle for a board that has the versions `known` (version, hash of its manifest)
    already: one of those where nothing has changed, else one with the next counter."""
    data = files.read_file(request.model).tobytes()
    golden = make_golden(request.model)
    others = runtime_files(
        request.profile, runtime, python, offline=request.offline, board_compiles=board_compiles,
        say=say,
    )  # fmt: skip

    def manifest(counter: int) -> tuple[Manifest, dict[str, bytes]]:
        return bundle.make(
            data, golden, name=request.name, device=request.profile.name,
            machine=request.profile.machine, runtime=runtime, counter=counter,
            version=zgedge.__version__, others=others.items(),
        )  # fmt: skip

    counters = [int(version.partition("-")[0]) for version, _ in known]
    chosen = request.counter
    if chosen is None:
        chosen = max(counters, default=0) + 1
        first, contents = manifest(chosen)
        for counter, (_, digest) in zip(counters, known, strict=True):
            again = replace(first, counter=counter)
            if hashlib.sha256(again.pack()).hexdigest() == digest:
                chosen = counter
    found, contents = manifest(chosen)
    raw = found.pack()
    signature = keys.sign(raw, request.key)
    signers = keys.allowed_signers([*keys.trusted(), *([keys.public(request.key)] if request.key
                                                      else [])])  # fmt: skip
    if not keys.verify(raw, signature, signers):
        raise ZgedgeError("The signature that was made does not verify.", "See: zgedge key show.")
    return Made(found, bundle.pack(found, contents, signature))


# ---- a deployment ----


@dataclass
class _Facts:
    """What the board says of itself."""

    machine: str
    kernel: str
    python: str  # "3.11", or empty
    verifier: bool
    trusted: bool
    free: int  # bytes; -1: not told
    manager: str
    current: str
    versions: list[list[str]]  # version, runtime, zgedge, model, hash of the manifest
    pending: str
    compiler: bool

    @classmethod
    def of(cls, answer: Answer) -> _Facts:
        free = answer.get("free")
        words = answer.get("python").split()
        versions = [v.split() for v in answer.all("version")]
        for v in versions:
            if not _VERSION.fullmatch(v[0] if v else ""):
                raise ValueError(f"{' '.join(v)[:60]!r} is no version")
        return cls(
            answer.get("machine"), answer.get("kernel"), words[1] if len(words) == 2 else "",
            answer.get("verifier") == "yes", answer.get("trusted") == "yes",
            int(free) * 1024 if free.isdigit() else -1, answer.get("manager"),
            answer.get("current"), versions, answer.get("pending"), answer.get("cc") == "yes",
        )  # fmt: skip


class Deployment:
    """One deployment to one board. `say` is told what happens, `progress` of the copy."""

    def __init__(
        self,
        request: Request,
        say: Say = lambda _: None,
        progress: Progress | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.request = request
        self.say = say
        self.progress = progress
        self._own = transport is None
        self.transport: Transport = request.target.remote() if transport is None else transport
        self.agent = Agent(self.transport, request.profile.root, request.name)
        self.found: dict[str, Any] = {
            "name": request.name, "host": request.target.host, "device": request.profile.name,
            "model": request.model, "version": None, "runtime": None, "root": None,
            "outcome": "failed", "steps": [], "bundle_bytes": None, "copied_bytes": None,
            "golden": None, "predicted": None, "state": None, "before": None, "rows": None,
            "reason": None, "back_to": None, "serves": None, "seconds": None,
        }  # fmt: skip

    def run(self) -> dict[str, Any]:
        """Deploy. Returns what came of it; `outcome` is `healthy`, `unchanged`, `rolled-back` or
        `withdrawn`. Raises RemoteError, DeployError where a step failed before the switch."""
        since = time.monotonic()
        try:
            self._run()
        finally:
            self.found["seconds"] = round(time.monotonic() - since, 1)
            if self._own:
                self.transport.close()
        return self.found

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        since = time.monotonic()
        try:
            with nullcontext() if name == "build" else understood():  # that is made here
                yield
        except ZgedgeError as e:
            e.args = (f"{name}: {e.message}",)
            self.found["reason"] = e.message
            raise
        self.found["steps"].append({"step": name, "seconds": round(time.monotonic() - since, 2)})

    def _run(self) -> None:
        request, agent = self.request, self.agent
        with self._step("connect"):
            agent.connect()
            facts = self._facts()
            self.found["root"] = agent.root
            self.say(f"Connected to {request.target.host}: {facts.kernel}, "
                     f"Python {facts.python or 'none'}.")  # fmt: skip
            if agent.at_home:
                self.say(f"No root rights there: everything goes to {agent.root}, and nothing "
                         "starts it when the board starts.")  # fmt: skip
        with self._step("check"):
            runtime = self._check(facts)
            self.found["runtime"] = runtime
        with self._step("lock"):
            lock = agent.locked(self.say)
            lock.__enter__()
        try:
            self._locked(runtime)
        finally:
            lock.__exit__(None, None, None)

    def _check(self, facts: _Facts) -> str:
        """Whether the board is what its profile says, and which runtime it gets."""
        request, profile = self.request, self.request.profile
        if facts.machine != profile.machine:
            raise DeployError(
                f"{request.target.host} runs programs for {facts.machine}; "
                f"{profile.name} is {profile.machine} (its kernel says {facts.kernel}).",
                "Take the --device that it is; `zgedge device list` has them.", "machine",
            )  # fmt: skip
        if not facts.verifier and not request.desk_verifies:
            raise DeployError(
                "The board cannot verify signatures: it has no ssh-keygen -Y (OpenSSH 8.2).",
                "Install openssh-client there, or add --desk-verifies: then this desk alone does.",
                "verifier",
            )  # fmt: skip
        if facts.verifier and not facts.trusted and not request.trust:
            raise DeployError(
                "The board trusts no key yet.",
                "On first contact add --trust: it learns this desk's keys over your login.",
                "untrusting",
            )  # fmt: skip
        looked = check.look(self.transport, profile)
        runtime = request.runtime or self._runtime(facts, looked)
        if runtime == "python" and not _usable(facts.python):
            raise DeployError(
                f"The board has {'Python ' + facts.python if facts.python else 'no Python'}; "
                "3.10 or newer is needed.", "Take --runtime native.", "python",
            )  # fmt: skip
        for finding in check.judge(looked, profile, runtime):
            if finding.name in OTHERWISE_SAID:
                continue
            if finding.level == check.FAULT:
                raise DeployError(finding.what, finding.mend, finding.name)
            if finding.level == check.WARNING:
                self.say(f"Mind the {finding.name}: {finding.what}"
                         + (f" {finding.mend}" if finding.mend else ""))  # fmt: skip
        return runtime

    def _runtime(self, facts: _Facts, looked: check.Facts) -> str:
        """What the board can run, by the profile and by its Python."""
        profile = self.request.profile
        runtime = check.choose(looked, profile) if _usable(facts.python) else "native"
        if runtime == profile.runtime:
            self.say(f"Takes the {runtime} runtime, as the profile {profile.name} says.")
        elif not _usable(facts.python):
            told = f"Python {facts.python} is too old" if facts.python else "it has no Python"
            self.say(f"Takes the native program: {told} (3.10 or newer is needed).")
        else:
            self.say(f"Takes the native program: glibc {looked.glibc or 'is not there'}, and "
                     f"wheels need {profile.libc}.")  # fmt: skip
        return runtime

    def _facts(self) -> _Facts:
        with understood():
            return _Facts.of(self.agent.call("facts"))

    def _locked(self, runtime: str) -> None:
        request, agent = self.request, self.agent
        # Until the lock was taken another deployment, or the board itself, may have changed all.
        facts = self._facts()
        if facts.pending:
            self.say("The last switch was cut off by a restart of the board; looking at it first.")
            # For as long as that switch was to be watched.
            end = agent.step("resolve", timeout=None).get("end")
            self.say(f"It ended as: {end}.")
            facts = self._facts()
        with self._step("build"):
            known = [(v[0], v[4]) for v in facts.versions if len(v) == 5]
            made = make(request, runtime, facts.python, known, self.say, facts.compiler)
            version = made.manifest.version
            self.found["version"] = version
            self.found["bundle_bytes"] = len(made.data)
            self._room(facts, made)
        with self._step("copy"):
            agent.step("begin", request.profile.name)
            if facts.verifier and not facts.trusted and request.trust:
                agent.step("trust", input=keys.allowed_signers(self._keys()))
                self.say("The board trusts the keys of this desk from now on, and no others.")
            if version in [v for v, _ in known]:
                self.say(f"Version {version} is there already.")
                self.found["copied_bytes"] = 0
            else:
                self._copy(made)
        with self._step("verify"):
            if version not in [v for v, _ in known]:
                answer = agent.step(
                    "unpack", made.sha256, "downgrade" if request.allow_downgrade else "-",
                    "unverified" if request.desk_verifies else "-",
                )  # fmt: skip
                if answer.all("unverified"):
                    self.say("The board could not verify the signature; this desk did.")
        with self._step("install"):
            self.say("Installing ...")
            answer = agent.step("install", version, "offline" if request.offline else "online")
            for _ in answer.all("compiling"):
                self.say("The core was compiled on the board.")
        with self._step("golden"):
            self._golden(agent.step("golden", version))
        if version == facts.current:
            self._unchanged(version)
            return
        with self._step("state"):
            self._prepare(made, facts, version)
        with self._step("switch"):
            self._switch(version)

    def _keys(self) -> list[keys.Key]:
        known = keys.trusted()
        if self.request.key is not None:
            extra = keys.public(self.request.key)
            known += [extra] if all(k.body != extra.body for k in known) else []
        return known

    def _room(self, facts: _Facts, made: Made) -> None:
        inside = sum(e.size for e in made.manifest.files if e.path.startswith("wheels/"))
        need = SLACK * len(made.data) + VENV_FACTOR * inside
        if 0 <= facts.free < need and facts.current != made.manifest.version:
            raise DeployError(
                f"The board's disk has {facts.free:,} bytes free; this needs {need:,}.",
                "Make room there (old logs, apt clean), or take --runtime native.", "full",
            )  # fmt: skip

    def _copy(self, made: Made) -> None:
        agent, size = self.agent, len(made.data)
        words = agent.step("offset", made.sha256).get("have").split()
        if words == ["whole"]:
            self.say("The bundle is there already.")
            self.found["copied_bytes"] = 0
            return
        at = int(words[0])
        if at and (at > size or hashlib.sha256(made.data[:at]).hexdigest() != words[1]):
            at = 0
        if at:
            self.say(f"Goes on with the copy at {at:,} of {size:,} bytes.")
        else:
            self.say(f"Copying {size:,} bytes ...")
        agent.step(
            "receive", made.sha256, str(size), str(at),
            source=io.BytesIO(made.data[at:]), size=size - at, progress=self.progress,
        )  # fmt: skip
        self.found["copied_bytes"] = size - at

    def _golden(self, answer: Answer) -> None:
        """What the golden test measured, next to what was expected."""
        there = json.loads(answer.get("golden"))
        here = self._here()
        factor = self.request.profile.predict_factor
        over = NATIVE_OVERHEAD if self.found["runtime"] == "native" else PYTHON_OVERHEAD
        expected = {
            "p50_us": round(here["p50_us"] * factor, 1),
            "learn_p50_us": None if here["learn_p50_us"] is None
            else round(here["learn_p50_us"] * factor, 1),
            "rss_bytes": there["arena_bytes"] + over,
        }  # fmt: skip
        self.found["golden"], self.found["predicted"] = there, expected
        self.say(f"Golden test: {there['samples']} samples bit-identical"
                 + (f", {there['learned']} learned" if there["learned"] else "")
                 + f"; a prediction takes {there['p50_us']:,.1f} us (estimated "
                 f"{expected['p50_us']:,.1f}), memory {there['rss_bytes']:,} bytes (estimated "
                 f"{expected['rss_bytes']:,}).")  # fmt: skip

    def _here(self) -> dict[str, Any]:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "golden.bin")
            path.write_bytes(make_golden(self.request.model))
            return run_golden(self.request.model, str(path))

    def _unchanged(self, version: str) -> None:
        reply = service_status(self.agent)
        if reply is None:
            self.say("It is installed, and no service answers; starting it ...")
            with self._step("state"):
                self._put_service()
            with self._step("switch"):
                self._switch(version)
            return
        self.found["outcome"] = "unchanged"
        self.say(f"{version} serves already; nothing was switched.")

    def _put_service(self) -> None:
        agent, request = self.agent, self.request
        version = self.found["version"]
        manager = "init" if agent.at_home else request.profile.service
        user = "-" if agent.at_home else USER
        write = units.systemd_unit if manager == "systemd" else units.init_script
        text = write(
            request.name, root=agent.root, runtime=self.found["runtime"], user=user,
            arena_bytes=os.path.getsize(request.model), erase_block=request.profile.erase_block,
        )  # fmt: skip
        agent.step("put", version, "service", input=text.encode())
        agent.step("put", version, "service.kind", input=f"{manager} {user}\n".encode())

    def _prepare(self, made: Made, facts: _Facts, version: str) -> None:
        import tempfile

        agent, request = self.agent, self.request
        if facts.manager == "init" and request.profile.service == "systemd" and not agent.at_home:
            raise DeployError(
                f"{request.profile.name} boards start services by systemd; this one has none.",
                "Add a profile with service = \"init\": zgedge device add --profile FILE.",
                "manager",
            )  # fmt: skip
        self._put_service()
        model = Model.open(request.model)
        with tempfile.TemporaryDirectory() as folder:
            asked = golden_questions(model, make_golden(request.model), folder)
        self._put(version, ("requests", "answers", "answers.ascii"), asked)
        self._least = "-"
        if request.data is not None:
            x, y = rows_of(model, request.data)
            right = int(sum(_plain(a) == b for a, b in zip(model.predict(x), y, strict=True)))
            self._put(version, ("rows", "labels", "labels.ascii"), Questions.of(x, y))
            share = 100 * right / len(x)
            self.say(f"Here {share:.0f} % of {len(x)} rows of {request.data} are answered rightly.")
            if request.at_least is not None:
                self._least = str(int(request.at_least))
        told = agent.step("state", version).get("state")
        self.found["state"] = told.split()[0] if told else None
        self._say_state(told)

    def _say_state(self, told: str) -> None:
        words = told.split()
        if words[:1] == ["kept"]:
            if "nothing learned" in told:
                self.say("It goes on from the same state: nothing was learned yet.")
            else:
                self.say(f"What was learned is kept: {json.loads(told.split(' ', 2)[2])['from']}, "
                         "the same answers and bytes by both versions.")  # fmt: skip
        elif words[:1] == ["archived"]:
            self.say(f"What was learned before is kept on the board as {words[1]} and not used: "
                     "it belongs to another model, or did not come out the same. "
                     f"`zgedge pull --state {words[1]}` brings it home.")  # fmt: skip
        else:
            self.say("It starts from the deployed model.")

    def _put(self, version: str, names: Sequence[str], asked: Questions) -> None:
        for name, content in zip(names, (asked.requests, asked.answers, asked.ascii), strict=True):
            self.agent.step("put", version, name, input=content)

    def _switch(self, version: str) -> None:
        request = self.request
        self.say(f"Switching to {version}, and watching it for {request.watch:g} s ...")
        least = getattr(self, "_least", "-")
        answer = self.agent.step(
            "change", version, str(round(request.watch)), least,
            timeout=request.watch + BESIDE_WATCH,
        )  # fmt: skip
        self.found.update(told_of_change(answer))
        if self.found["outcome"] == "healthy":
            self.say("It is healthy.")


def told_of_change(answer: Answer) -> dict[str, Any]:
    """What a switch came to: `outcome`, `reason`, `before` (right rows before, of all)."""
    words = answer.get("end").split()
    outcome = words[0] if words else "failed"
    return {
        "outcome": outcome,
        "reason": answer.get("bad") or None,
        "before": [int(n) for n in answer.get("before").split()] or None,
        "rows": [int(n) for n in answer.get("rows").split()] or None,
        "back_to": words[1] if outcome == "rolled-back" else None,
        "serves": words[2:] != ["silent"] if outcome == "rolled-back" else None,
    }


def _usable(python: str) -> bool:
    parts = python.split(".")
    return (
        len(parts) == 2
        and all(p.isdigit() for p in parts)
        and ((int(parts[0]), int(parts[1])) >= OLDEST_PYTHON)
    )


def raise_for(found: dict[str, Any]) -> None:
    """Raise DeployError for a deployment that went back by itself."""
    if found["outcome"] == "rolled-back":
        serves = "serves again" if found["serves"] else "is back, and does not answer"
        raise DeployError(
            f"The new version fell short: {found['reason']}. {found['back_to']} {serves}.",
            _why(found), "rolled-back",
        )  # fmt: skip
    if found["outcome"] not in ("healthy", "unchanged"):
        raise DeployError(
            f"The new version fell short: {found['reason'] or 'the switch did not end'}. There "
            "was none before it.", _why(found), found["outcome"],
        )  # fmt: skip


def _why(found: dict[str, Any]) -> str:
    return f"See why: zgedge logs{' --host ' + found['host'] if found.get('host') else ''}"


def plan(request: Request) -> list[str]:
    """Each step as a sentence; nothing is done."""
    runtime = request.runtime or request.profile.runtime
    values = {
        "host": request.target.host, "device": request.profile.name, "name": request.name,
        "runtime": runtime, "machine": request.profile.machine, "watch": request.watch,
    }  # fmt: skip
    return [f"{step}: {text.format(**values)}" for step, text in STEPS]


def service_status(agent: Agent) -> dict[str, Any] | None:
    """What the service says of itself; None where none answers."""
    try:
        answer = agent.call("ask", input=b'{"op": "status"}\n', timeout=60)
        reply = json.loads(answer.replies[0])
    except (DeployError, ValueError, IndexError, RecursionError):
        return None
    return reply if isinstance(reply, dict) and reply.get("ok") else None


def remember(target: Target, profile: Profile) -> None:
    """Note the board as the one that was used last."""
    known = target.board or target.host.rpartition("@")[2]
    if target.board is not None:
        boards.used(target.board)
    elif boards.NAME.fullmatch(known):
        config = target.ssh_config
        if config not in (None, "none"):  # ssh's word for no file at all
            config = os.path.abspath(config)
        boards.add(boards.Board(known, target.host, profile.name, config, target.port))
