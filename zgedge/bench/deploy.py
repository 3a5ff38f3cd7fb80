"""What a deployment does on emulated boards, as it really printed and took: three commands, a model
that adapts there, one that answers wrongly, and a fleet whose second board is bad.

python -m zgedge.bench.deploy [--json] [--out docs/results/deploy.md]

Needs what `zgedge device emulate` needs. Settings, cache and boards are its own, so that what a
person has stays as it is, and are gone afterwards; only what boards' disks begin as is shared.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from zgedge import data
from zgedge.bench import results
from zgedge.devices import boards, desk, emulated
from zgedge.devices.deploy import find_target
from zgedge.devices.places import make_folder
from zgedge.runtime import Learner, Model

SAMPLES = 1400  # of the stream with other inputs
BATCH = 100
BUDGET = "64KB"


class Desk:
    """Runs commands as a person does, in a folder, with settings that are their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.environ["ZGEDGE_CONFIG"] = str(folder / "config")
        built = [path for path in emulated.default_cache().glob("emulated-*/root") if path.is_dir()]
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        make_folder(emulated.default_cache())
        for root in built:
            (emulated.default_cache() / root.parent.name).symlink_to(root.parent)
        self.said: list[str] = []

    def run(self, *words: str, code: int = 0, note: bool = False) -> str:
        """What a command printed, both streams in their order; it must end with `code`."""
        done = subprocess.run(
            [sys.executable, "-m", "zgedge", *words], cwd=self.folder, text=True, timeout=1800,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        )  # fmt: skip
        if done.returncode != code:
            raise RuntimeError(f"zgedge {' '.join(words)}: {done.returncode}\n{done.stdout}")
        if note:
            text = done.stdout.replace(str(self.folder), "~")
            self.said.append(f"$ zgedge {' '.join(words)}\n{text}")
        return done.stdout

    def take(self) -> str:
        """What was noted since the last time, as a block."""
        text = "\n".join(self.said)
        self.said.clear()
        return f"```text\n{text.rstrip()}\n```"


@contextmanager
def emulated_boards(where: Desk, *names: str) -> Iterator[None]:
    try:
        for name in names:
            where.run("device", "emulate", "--name", name, "--new")
        yield
    finally:
        for name in names:
            board = emulated.running_board("emulated", name)
            if board is not None:
                board.stop()


@contextmanager
def polled(host: str, rows: npt.NDArray[np.float32]) -> Iterator[dict[str, float]]:
    """Ask the service again and again, and note the longest time without an answer."""
    found = {"answers": 0.0, "longest": 0.0}
    stop = threading.Event()

    def poll() -> None:
        last = time.monotonic()
        with desk.service(find_target(host, None), "model") as agent:
            model = desk.served_model(agent)
            while not stop.is_set():
                try:
                    desk.predict(agent, model, rows[:1])
                except Exception:  # whatever it is, it is no answer
                    continue
                now = time.monotonic()
                found["answers"] += 1
                found["longest"] = max(found["longest"], now - last)
                last = now

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def three_commands(where: Desk) -> str:
    where.run("train", "digits", "--budget", BUDGET, "--seed", "1", note=True)
    where.run("device", "emulate", "--stop")  # its disk is empty: the deployment starts it again
    where.run("deploy", "--device", "emulated", "--runtime", "native", note=True)
    text = where.run("predict", "digits", "--host", "emulated")
    lines = text.splitlines()
    where.said.append("\n".join(["$ zgedge predict digits --host emulated", *lines[:5], "..."]))
    return where.take()


def permuted() -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    digits = data.load("digits")
    order = np.random.default_rng(7).permutation(digits.features)
    names = np.array([int(name) for name in digits.classes])
    return (
        digits.x_train[:, order], names[digits.y_train], digits.x_test[:, order],
        names[digits.y_test],
    )  # fmt: skip


def adaptation(where: Desk, say: Any) -> dict[str, Any]:
    """The same stream on the board and here: accuracy before and after, and the bytes."""
    x, y, x_test, y_test = permuted()
    x, y = x[:SAMPLES], y[:SAMPLES]
    where.run("train", "digits", "--budget", "16KB", "--epochs", "5", "--out", "adapts.zge")
    where.run(
        "deploy", "adapts.zge", "--host", "emulated", "--runtime", "native", "--watch", "3",
    )  # fmt: skip
    model = where.folder / "adapts.zge"
    learner = Learner(model)

    def right(model: Model) -> float:
        return float((model.predict(x_test) == y_test).mean())

    here = [right(Model.open(model))]
    for row, label in zip(x, y, strict=True):
        learner.learn_one(row, label)
    target = find_target("emulated", None)
    with desk.service(target, "adapts") as agent:
        served = desk.served_model(agent)
        rows = served.rows(x)
        for i in range(0, len(rows), BATCH):
            desk.ask(agent, [
                {"op": "learn", "x": row.tolist(), "y": int(label)}
                for row, label in zip(rows[i : i + BATCH], y[i : i + BATCH], strict=True)
            ])  # fmt: skip
            while desk.ask(agent, [{"op": "status"}])[0]["queue"]["waiting"]:
                time.sleep(0.2)
        where.run("pull", "--host", "emulated", "--name", "adapts", note=True)
        status = desk.ask(agent, [{"op": "status"}])[0]

        def accuracy() -> float:
            replies = desk.predict(agent, served, x_test)
            return float(np.mean([r["label"] == t for r, t in zip(replies, y_test, strict=True)]))

        there = [accuracy()]
        # The process is killed, as the kernel kills one; who watches it starts it again.
        with target.remote() as remote:
            remote.check("kill -9 $(cut -d' ' -f1 /opt/zgedge/adapts/init.child)")
        killed = time.monotonic()
        while True:
            time.sleep(0.5)
            try:
                again = desk.ask(agent, [{"op": "status"}])[0]
            except Exception:  # it has not started again yet
                continue
            if again["uptime"] < status["uptime"]:
                break
        restarted = time.monotonic() - killed
        there.append(accuracy())
    where.run("diff", "adapts.zge", "pulled.zge", note=True)
    pulled = (where.folder / "pulled.zge").read_bytes()
    generation = Model.open(where.folder / "pulled.zge").arena.generation
    while learner.model.arena.generation < generation:
        learner.model.seal()  # a commit seals once more than a save does
    same = learner.model.arena.buffer.tobytes() == pulled
    here.append(right(learner.model))
    return {
        "here": here, "there": there, "restarted_s": round(restarted, 1),
        "started_from": again["started_from"], "same_bytes": same, "bytes": len(pulled),
    }  # fmt: skip


def wrong_answers(where: Desk) -> dict[str, Any]:
    """A model that was trained on labels that are wrong: whole, signed, and worse."""
    digits = data.load("digits")
    wrong = (digits.y_train + 1) % len(digits.classes)
    np.savez(where.folder / "wrong.npz", x=digits.x_train, y=wrong)
    where.run("train", "wrong.npz", "--budget", "16KB", "--epochs", "5", "--out", "model2.zge")
    x = np.asarray(digits.x_test, np.float32)
    since = time.monotonic()
    with polled("emulated", x) as polls:
        where.run(
            "deploy", "model2.zge", "--name", "model", "--runtime", "native", "--data", "digits",
            "--host", "emulated", code=1, note=True,
        )  # fmt: skip
        seconds = time.monotonic() - since
    return {
        "seconds": round(seconds, 1), "longest_without_answer_s": round(polls["longest"], 1),
        "answers": int(polls["answers"]), "serves": json.loads(
            where.run("status", "--host", "emulated", "--name", "model", "--json"))["version"],
    }  # fmt: skip


def fleet(where: Desk) -> dict[str, Any]:
    """Three boards. On the second one runs what is better than the new model."""
    for name, steps in (("weak", "30"), ("middle", "300")):
        where.run("train", "digits", "--budget", "4KB", "--steps", steps, "--out", f"{name}.zge")
    names = ("belt-1", "belt-2", "belt-3")
    common = ("--runtime", "native", "--name", "belt", "--watch", "3")
    with emulated_boards(where, *names):
        for name, model in zip(names, ("weak", "model", "weak"), strict=True):
            where.run("deploy", f"{model}.zge", "--host", name, *common)
        (where.folder / "hosts").write_text("".join(f"{name}\n" for name in names))
        where.run(
            "deploy", "middle.zge", "--hosts", "hosts", "--waves", "1,2,3", "--data", "digits",
            *common, code=1, note=True,
        )  # fmt: skip
        return {
            name: json.loads(where.run("status", "--host", name, "--json"))["version"]
            for name in names
        }


def measure(folder: Path, say: Any) -> dict[str, Any]:
    where = Desk(folder)
    found: dict[str, Any] = {}
    with emulated_boards(where, "emulated"):
        say("three commands ...")
        found["commands"] = three_commands(where)
        say("adaptation ...")
        found["adaptation"] = adaptation(where, say)
        found["adaptation_text"] = where.take()
        say("a model that answers wrongly ...")
        found["wrong"] = wrong_answers(where)
        found["wrong_text"] = where.take()
    say("a fleet ...")
    found["fleet"] = fleet(where)
    found["fleet_text"] = where.take()
    return found


def page(found: dict[str, Any]) -> str:
    a, w = found["adaptation"], found["wrong"]

    def shares(values: Sequence[float]) -> str:
        return " | ".join(f"{100 * x:.1f}" for x in values)

    there, here = shares(a["there"]), shares(a["here"])
    same = "the same" if a["same_bytes"] else "NOT the same"
    head = results.heading(
        "Deployments to emulated boards", "python -m zgedge.bench.deploy", [], packages=["numpy"]
    )
    text = "\n".join(head)
    return f"""{text}

Boards are those of `zgedge device emulate`: 64-bit Arm programs translated by qemu behind a real
SSH server. What takes time there is the emulator: take order and outcome from here, and no speed.

## Three commands

{found["commands"]}

## A model that adapts on the board

All inputs of digits change places; {SAMPLES:,} labelled samples pass once. The same file and
samples are learned here too, in Python on this machine.

| accuracy, % | before | after | after SIGKILL |
| --- | --- | --- | --- |
| on the board, native program | | {there} |
| here | {here} | |

The file that `zgedge pull` brought home and the one that was learned here are {same}
{a["bytes"]:,} bytes. After it was killed the service answered again in {a["restarted_s"]} s, from
{a["started_from"]}.

{found["adaptation_text"]}

## A model that answers wrongly

Trained on labels that are all wrong by one: the file is whole, signed, and computes as it must. The
board compares its answers to 100 rows of digits with those of what ran before.

{found["wrong_text"]}

{w["seconds"]} s from the command to the old version serving again ({w["serves"]}), nobody doing
anything. Asked without a pause, {w["answers"]:,} answers came; the longest time without one was
{w["longest_without_answer_s"]} s, the emulator's ssh included.

## A fleet

Three boards; on the second one runs a model that is better than the new one.

{found["fleet_text"]}

Afterwards: {", ".join(f"{name} runs {version}" for name, version in found["fleet"].items())}.
"""


@click.command()
@click.option("--out", type=click.Path(dir_okay=False), help="Write the page there.")
@click.option("--json", "as_json", is_flag=True, help="Print what was measured.")
def main(out: str | None, as_json: bool) -> None:
    """Deploy to emulated boards, and record it."""
    folder = Path(tempfile.mkdtemp(prefix="zgedge-desk-"))
    try:
        found = measure(folder, lambda text: click.echo(text, err=True))
    finally:
        for board in boards.load():
            boards.remove(board.name)
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        click.echo(json.dumps(found))
    text = page(found)
    if out is not None:
        Path(out).write_text(text)
    elif not as_json:
        click.echo(text)


if __name__ == "__main__":
    main()
