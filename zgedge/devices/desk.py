"""What is asked of a service on a board from the desk: how it is, what it learned, to go back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from zgedge import arena as files
from zgedge.devices import deploy, keys, profiles
from zgedge.devices.agent import Agent, DeployError, Transport
from zgedge.devices.cross import Say
from zgedge.devices.deploy import Target
from zgedge.errors import ModelError, UsageError, ZgedgeError, refused
from zgedge.runtime import Model
from zgedge.runtime.store import Header, digest

BATCH = 1 << 20  # bytes of requests that go at once
SLOTS = ("slot-a", "slot-b")


@contextmanager
def service(
    target: Target, name: str | None, transport: Transport | None = None
) -> Iterator[Agent]:
    """The agent of a service on a board: the one of that name, else the only one there. What goes
    wrong with what the board says, also in printing it, is a DeployError."""
    root = profiles.load(target.device).root if target.device else deploy.DEFAULT_ROOT
    own = transport is None
    carrier: Transport = target.remote() if transport is None else transport
    try:
        with deploy.understood():
            agent = Agent(carrier, root, name or "-")
            if name is None:
                agent.name = _only(target, agent.call("names").all("name"))
            yield agent
    finally:
        if own:
            carrier.close()


def _only(target: Target, names: Sequence[str]) -> str:
    if not names:
        raise DeployError(
            f"Nothing is deployed on {target.host}.", "Deploy first: zgedge deploy FILE --host ...",
            "nothing",
        )  # fmt: skip
    if len(names) > 1:
        raise UsageError(f"There are {len(names)} services on {target.host}.",
                         "Name one with --name: " + ", ".join(names) + ".")  # fmt: skip
    return names[0]


def ask(agent: Agent, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replies of the service to requests, in order. Raises DeployError where it does not answer,
    the ZgedgeError of its exit code for a request that it refuses."""
    out: list[dict[str, Any]] = []
    lines = [json.dumps(request).encode() + b"\n" for request in requests]
    while lines:
        size = take = 0
        while take < len(lines) and (take == 0 or size + len(lines[take]) <= BATCH):
            size += len(lines[take])
            take += 1
        batch, lines = lines[:take], lines[take:]
        replies = agent.call("ask", input=b"".join(batch), timeout=120).replies
        if len(replies) != len(batch):
            raise DeployError("The service stopped answering.", "See: zgedge logs.", "silent")
        out += [json.loads(reply) for reply in replies]
    for reply in out:
        if not reply.pop("ok"):
            hint, code = reply.get("hint"), reply.get("exit_code")
            raise refused(
                code if isinstance(code, int) else ZgedgeError.exit_code,
                str(reply.get("error") or "It was refused."),
                hint and str(hint),
            )
    return out


def status(agent: Agent) -> dict[str, Any]:
    """Everything that a board says of a service, and of itself."""
    answer = agent.call("status", timeout=60)
    told = answer.get("service", "none")
    reply = None if told == "none" else json.loads(told)
    if not isinstance(reply, dict | None):
        raise ValueError("the status of the service is none")
    current = answer.get("current")
    versions = [v.split() for v in answer.all("version")]
    of_current = next((v for v in versions if v[0] == current and len(v) == 5), [""] * 5)
    celsius = [int(t) / 1000 for t in answer.all("temperature") if t.lstrip("-").isdigit()]
    free, memory = answer.get("free"), answer.get("memory")
    return {
        "name": agent.name, "device": answer.get("device") or None, "version": current or None,
        "previous": answer.get("previous") or None, "runtime": of_current[1] or None,
        "zgedge": of_current[2] or None, "versions": [v[0] for v in versions],
        "pending": answer.get("pending") or None, "last": answer.get("last") or None,
        "temperature": max(celsius) if celsius else None,
        "throttled": throttling(answer.get("throttled")),
        "free_bytes": int(free) * 1024 if free.isdigit() else None,
        "memory_bytes": int(memory) * 1024 if memory.isdigit() else None,
        "service": reply,
    }  # fmt: skip


# Bits of `vcgencmd get_throttled`, as Raspberry Pi's documentation has them.
_THROTTLED = {0: "undervoltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit",
              16: "undervoltage before", 17: "frequency capped before", 18: "throttled before",
              19: "soft temperature limit before"}  # fmt: skip


def throttling(told: str) -> list[str] | None:
    """What holds a Raspberry Pi's processor back; None where the board does not tell."""
    try:
        bits = int(told, 16)
    except ValueError:
        return None
    return [text for bit, text in _THROTTLED.items() if bits >> bit & 1]


def rollback(agent: Agent, version: str | None, seconds: float, say: Say) -> dict[str, Any]:
    """Go back to an installed version, the one before by itself, and see that it answers."""
    with agent.locked(say):
        answer = agent.step(
            "rollback", version or "-", str(round(seconds)), timeout=seconds + deploy.BESIDE_WATCH
        )
    return deploy.told_of_change(answer)


def remove(agent: Agent, *, with_state: bool, say: Say) -> bool:
    """Stop a service and take it off the board; whether what it learned is kept there."""
    with agent.locked(say):
        answer = agent.step("remove", "with-state" if with_state else "-")
    return bool(answer.all("kept"))


def teach_keys(agent: Agent) -> None:
    """Let a board trust the keys that this desk trusts. One of ours has to be trusted there."""
    number = 1 + int(agent.call("keys").get("number") or 0)
    listed = f"# {number}\n".encode() + keys.allowed_signers(keys.trusted())
    signature = keys.sign(listed, namespace=keys.TRUST)
    agent.step("retrust", str(len(listed)), str(len(signature)), input=listed + signature)


# ---- what was learned comes home ----


def states(agent: Agent) -> list[dict[str, Any]]:
    """The learned states on the board: `state`, and whether it is the `current` one."""
    found = [line.split() for line in agent.call("states").all("state")]
    return [{"state": words[0], "current": words[1] == "current"} for words in found]


def pull(agent: Agent, state: str | None, out: str, say: Say) -> dict[str, Any]:
    """Bring a learned state home as a model file: the current one, committed first, or `state`.

    Raises UsageError for a state that is not there, DeployError where nothing was committed to it,
    ModelError where no slot of it is whole.
    """
    fresh = state is not None or commit(agent, say)
    there = states(agent)
    if state is None:
        chosen = next((s["state"] for s in there if s["current"]), None)
        if chosen is None:
            raise _nothing_kept()
    elif state in [s["state"] for s in there]:
        chosen = state
    else:
        raise UsageError(
            f"There is no state {state} on the board.",
            "There are: " + (", ".join(s["state"] for s in there) or "none") + ".",
        )
    generation, data = newest([agent.fetch("slot", chosen, slot) for slot in SLOTS], chosen)
    if not fresh:
        say("Nothing new was committed: what was committed last is taken.")
    model = Model(files.in_memory(data), f"state {chosen}")
    files.replace_file(out, data)
    return {
        "path": out, "bytes": len(data), "state": chosen, "commit": generation,
        "carried": carried(model), "states": there,
    }  # fmt: skip


def _nothing_kept() -> DeployError:
    return DeployError("The service has learned nothing that is kept yet.",
                       "It commits once a minute while it learns.", "nothing")  # fmt: skip


def commit(agent: Agent, say: Say) -> bool:
    """Let the service commit what it has learned, which it has done when it answers. False where
    there was nothing new; where none answers, that is said."""
    found = deploy.service_status(agent)
    if found is None or not found.get("store"):
        say("No service answers: what it committed last is taken.")
        return True
    ask(agent, [{"op": "control", "do": "commit"}])
    after = deploy.service_status(agent)
    return after is None or after["store"]["commits"] > found["store"]["commits"]


def newest(slots: Sequence[bytes], name: str) -> tuple[int, bytes]:
    """Generation and bytes of the newest whole state in two slots. Raises ModelError, or
    DeployError where nothing was written to them since they were laid out."""
    best: tuple[int, bytes] | None = None
    for raw in slots:
        head = Header.unpack(raw)
        if head is None:
            continue
        data = raw[head.payload_at : head.payload_at + head.payload_bytes]
        whole = len(data) == head.payload_bytes and digest(data) == head.payload
        if whole and (best is None or head.generation > best[0]):
            best = head.generation, data
    if best is None and not any(raw.strip(b"\0") for raw in slots):
        raise _nothing_kept()
    if best is None:
        raise ModelError(f"No slot of the state {name} is whole.", "Nothing was written.")
    return best


def carried(model: Model) -> dict[str, int]:
    """Samples of people that a file carries."""
    arena = model.arena
    learner, guard = arena.learner(), arena.watch()
    return {
        "remembered": learner["remembered"] if learner else 0,
        "anchors": guard["anchors"] if guard else 0,
        "waiting": arena.pending()["pending"],
    }


# ---- predictions ----


def served_model(agent: Agent) -> Model:
    """The model file that serves there: it knows what its inputs are."""
    data = agent.fetch("model")
    return Model(files.in_memory(data), f"the model of {agent.name}")


def predict(agent: Agent, model: Model, x: Any) -> list[dict[str, Any]]:
    """`label` and `score` for each row, by the service with what it has learned."""
    rows = np.asarray(model.rows(x), np.float32)
    return ask(agent, [{"op": "predict", "x": row.tolist(), "watch": False} for row in rows])


def write_logs(agent: Agent, lines: int) -> dict[str, list[str]]:
    """The service's last log lines, and what was deployed there."""
    answer = agent.call("logs", str(lines))
    return {"log": answer.all("log"), "history": answer.all("history")}
