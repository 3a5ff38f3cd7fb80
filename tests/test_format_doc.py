"""docs/format.md is enough to read a .zge file, and says what the core's headers say.

The reader here is a second one, written from docs/format.md alone: it takes its offsets from the
tables of that page and shares no code with the package. What it computes is compared with the core.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests import nets
from tools import make_golden
from zgedge.errors import ModelError
from zgedge.runtime import Model
from zgedge.runtime import core_library as core

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "format.md").read_text()
CORE = ROOT / "zgedge" / "runtime" / "core"
Ints = npt.NDArray[np.int64]

# ---- the tables of the page ----

SIZES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "f32": "f"}
Fields = dict[str, tuple[int, str, int]]  # name: offset, type, count


def offset_table(heading: str, which: int = 0) -> Fields:
    """The offset table number `which` under a heading of the page."""
    part = re.split(r"^#{2,3} ", TEXT.split(heading, 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    table = part.split("| offset | type | name | content |")[1 + which]
    rows = re.findall(r"^\| (\d+) \| (\w+?)(?:\[(\d+)\])? \| `(\w+)` \|", table, re.MULTILINE)
    return {name: (int(at), kind, int(count or 1)) for at, kind, count, name in rows}


HEADER = offset_table("### 2.1 Header")
ENTRY = offset_table("### 2.2 Section table")
NET = offset_table("## 3 Section 1, NET")
LAYER = offset_table("### 3.1 Layer record")
TRUNK = offset_table("### 3.2 Trunk record")
LEARNER = offset_table("### 5.2 Section 11, LEARNER")
RATE = offset_table("### 5.2 Section 11, LEARNER", 1)
TRACES = offset_table("### 5.5 Section 16, TRACES")
ANCHORS = offset_table("### 5.6 Section 12, ANCHORS")
WATCH = offset_table("### 5.7 Section 13, WATCH")
DETECTOR = offset_table("### 5.7 Section 13, WATCH", 1)
ANALYTIC = offset_table("### 5.9 Section 15, ANALYTIC")
PENDING = offset_table("### 5.10 Section 17, PENDING")


def size(fields: Fields) -> int:
    at, kind, count = list(fields.values())[-1]
    return at + struct.calcsize(SIZES[kind]) * count


def unpack(blob: bytes, start: int, fields: Fields) -> dict[str, Any]:
    out = {}
    for name, (at, kind, count) in fields.items():
        layout = f"<{count}{SIZES[kind]}"
        values = struct.unpack_from(layout, blob, start + at)
        out[name] = values[0] if count == 1 else values
    return out


# ---- the reader ----


class RefusedError(Exception):
    """The file breaks a rule of the page; the text is the status's name."""


def need(rule: object, status: str) -> None:
    if not rule:
        raise RefusedError(status)


def round4(n: int) -> int:
    return -(-n // 4) * 4


def halves(data: npt.NDArray[np.uint8]) -> Ints:
    """Two numbers of 4 bits from each byte, the low half first."""
    both = np.stack([data & 15, data >> 4], axis=-1)
    return both.reshape(*data.shape[:-1], -1).astype(np.int64)


@dataclass
class File:
    head: dict[str, Any]
    sections: dict[int, bytes]
    net: dict[str, Any]
    trunk: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    names: list[str]
    scale: npt.NDArray[np.float32]
    center: npt.NDArray[np.float32]
    learner: dict[str, Any] = field(default_factory=dict)
    rates: list[dict[str, Any]] = field(default_factory=list)
    gradient: Ints | None = None
    replay: tuple[Ints, Ints] | None = None  # features [filled, features], labels [filled]


def read(blob: bytes) -> File:
    """Read a file and check what section 8 of the page demands."""
    need(blob[:4] == b"\x89ZGE", "MAGIC")
    need(len(blob) >= size(HEADER), "SIZE")
    head = unpack(blob, 0, HEADER)
    need(head["version"] == 1, "VERSION")
    need(head["bytes"] == len(blob) <= 2**30, "SIZE")
    need(1 <= head["sections"] <= 18, "SECTION")
    end = size(HEADER) + head["sections"] * size(ENTRY)
    need(end <= len(blob), "SECTION")
    signed = bytearray(blob[:end])
    signed[24:28] = bytes(4)
    need(zlib.crc32(signed) == head["checksum"], "CHECKSUM")
    need(head["align"] in (8, 16, 32, 64) and not any(head["reserved"]), "SECTION")
    need(head["flags"] <= 1, "SECTION")
    sections: dict[int, bytes] = {}
    for i in range(head["sections"]):
        entry = unpack(blob, size(HEADER) + i * size(ENTRY), ENTRY)
        at, stop = entry["offset"], entry["offset"] + entry["bytes"]
        known = 1 <= entry["kind"] <= 17
        need(known and entry["kind"] not in sections, "SECTION")
        need(entry["flags"] == 0, "SECTION")
        need(end <= at and stop <= len(blob) and at % head["align"] == 0, "SECTION")
        need(not any(blob[end:at]), "CHECKSUM")
        need(zlib.crc32(blob[at:stop]) == entry["checksum"], "CHECKSUM")
        sections[entry["kind"]], end = blob[at:stop], stop
    need(end == len(blob) and {1, 2} <= set(sections) and all(sections.values()), "SECTION")
    net, trunk, layers = read_net(sections[1], bool(head["flags"]))
    found = {k: len(v) for k, v in sections.items() if k != 2}
    need(found == lengths(net, trunk, layers, sections), "SECTION")
    texts = sections[2].split(b"\0")
    count = net["classes"] + (net["inputs"] if net["flags"] & 2 else 0)
    need(len(texts) == count + 1 and texts[-1] == b"", "STATE")
    coding = np.frombuffer(sections[3], "<f4").reshape(2, net["groups"])
    need(np.isfinite(coding).all() and (coding[0] > 0).all(), "SCALE")
    try:
        for i, t in enumerate(texts[: net["classes"]]):
            bare = t.rstrip(b"\xff")
            need(b"\xff" not in bare, "STATE")
            if net["known"]:
                need(bool(t) and bool(bare) == (i < net["known"]), "STATE")
            else:
                need(bool(bare) or not t, "STATE")
        names = [t.rstrip(b"\xff").decode() for t in texts[:-1]]
    except ValueError:
        raise RefusedError("STATE") from None
    labels: Sequence[str | int] = names[: net["known"] or net["classes"]]
    if net["flags"] & 1:
        need(all(re.fullmatch("-?[0-9]+", name) for name in labels), "STATE")
        labels = [int(name) for name in labels]
    need(len(set(labels)) == len(labels), "STATE")
    out = File(head, sections, net, trunk, layers, names, *coding)
    read_layers(out)
    if head["flags"]:
        read_learner(out)
        if 13 in out.sections:
            read_guard(out)
    return out


Records = list[dict[str, Any]]


def read_net(blob: bytes, learning: bool) -> tuple[dict[str, Any], Records, Records]:
    net = unpack(blob, 0, NET)
    need(1 <= net["inputs"] <= 65536 and 2 <= net["classes"] <= 4096, "SHAPE")
    need(1 <= net["layers"] <= 32 + 8 and net["groups"] in (1, net["inputs"]), "SHAPE")
    need(net["height"] * net["width"] * net["channels"] == net["inputs"], "SHAPE")
    need(net["task"] <= 2 and net["unknown"] <= 32768, "SHAPE")
    need(net["batch"] in ((1, 2, 4, 8, 16, 32, 64) if learning else (1,)), "SHAPE")
    need(net["replay_bits"] in ((1, 2, 4, 8) if net["replay"] else (0,)), "SHAPE")
    need(net["replay"] <= (65535 if learning else 0), "SHAPE")
    need(net["head"] <= 1 and net["known"] <= net["classes"], "SHAPE")
    need(net["flags"] <= 3 and -1 <= net["accuracy"] <= 1, "STATE")
    need(len(blob) == size(NET) + net["layers"] * size(LAYER), "SECTION")
    records = [blob[at : at + size(LAYER)] for at in range(size(NET), len(blob), size(LAYER))]
    trunk: Records = []
    while len(trunk) < len(records) and 17 <= records[len(trunk)][0] <= 20:
        need(len(trunk) < 32 and net["groups"] == 1, "SHAPE")
        trunk.append(read_trunk_record(records[len(trunk)], net, trunk))
    need(1 <= len(records) - len(trunk) <= 8, "SHAPE")
    pictures = net["replay"] and not trunk and net["groups"] == 1
    need(net["replay_pool"] in ((0, 2) if pictures else (0,)), "SHAPE")
    layers: Records = []
    width = trunk[-1]["outputs"] if trunk else net["inputs"]
    for record in records[len(trunk) :]:
        layer = unpack(record, 0, LAYER)
        need(layer["kind"] in (1, 2), "KIND")
        sparse = layer["kind"] == 1
        need(layer["inputs"] == width and 1 <= layer["outputs"] <= 65536, "SHAPE")
        need(1 <= layer["width"] <= width and (sparse or layer["width"] == width), "SHAPE")
        need(layer["block"] in ((1, 4, 8, 16) if sparse else (1,)), "SHAPE")
        need(width % layer["block"] == layer["width"] % layer["block"] == 0, "SHAPE")
        need(layer["reserved"] == 0 and (not (trunk or layers) or layer["z_in"] == 0), "SHAPE")
        layer["per_row"] = layer["width"] // layer["block"] if sparse else 0
        bits = 0
        while 2**bits < width // layer["block"]:
            bits += 1
        layer["bits"] = bits
        in_index = sparse and layer["block"] == 1 and bits <= 12
        need(
            layer["residual"] == ((1 if in_index else 2) if learning and not net["head"] else 0),
            "SHAPE",
        )
        scales = [np.float32(layer[s]) for s in ("s_in", "s_w", "s_out")]
        with np.errstate(all="ignore"):
            scales.append(np.float32(16) * scales[0] * scales[1])
        need(all(0 < s <= 3e38 for s in scales), "SCALE")
        layers.append(layer)
        width = layer["outputs"]
    need(width == net["classes"], "SHAPE")
    if net["head"]:
        alone = learning and not net["replay"] and net["classes"] <= 256
        need(alone and layers[-1]["kind"] == 2 and layers[-1]["inputs"] <= 511, "SHAPE")
    return net, trunk, layers


def read_trunk_record(record: bytes, net: dict[str, Any], before: Records) -> dict[str, Any]:
    """Section 3.2 of the page; adds the shapes that stand in no record."""
    x = unpack(record, 0, TRUNK)
    pool, mean, k, stride = x["kind"] >= 19, x["kind"] == 20, x["kernel"], x["stride"]
    shape = before[-1]["out"] if before else (net["height"], net["width"], net["channels"])
    kernels = (1,) if mean else range(2, 9) if pool else (1, 3, 5, 7)
    need(k in kernels and 1 <= stride <= (1 if mean else 4), "SHAPE")
    need(x["same"] == 1 or (x["same"] == 0 and not mean and k <= min(shape[:2])), "SHAPE")
    need(x["residual"] == x["z_in"] == x["zero"] == 0, "SHAPE")
    need(not before or before[-1]["kind"] != 20, "SHAPE")
    need(x["inputs"] == shape[0] * shape[1] * shape[2], "SHAPE")
    outs, pads = [], []
    for n in shape[:2]:
        out = -(-n // stride) if x["same"] else (n - k) // stride + 1
        outs.append(1 if mean else out)
        pads.append(max(0, (out - 1) * stride + k - n) // 2 if x["same"] else 0)
    need(1 <= x["outputs"] <= 65536 and x["outputs"] % (outs[0] * outs[1]) == 0, "SHAPE")
    x["shape"], x["out"] = shape, (*outs, x["outputs"] // (outs[0] * outs[1]))
    x["top"], x["left"] = pads
    need(1 <= x["out"][2] <= 4096 and (x["kind"] == 17 or x["out"][2] == shape[2]), "SHAPE")
    taps = 0 if pool else k * k * (shape[2] if x["kind"] == 17 else 1)
    need(x["taps"] == taps <= 4096, "SHAPE")
    scales = [np.float32(x[s]) for s in ("s_in", "s_w", "s_out")]
    need(all(0 < s <= 3e38 for s in scales), "SCALE")
    if mean:
        with np.errstate(all="ignore"):
            x["mean"] = scales[0] * scales[1] / scales[2]
        need(0 < x["mean"] <= 3e38, "SCALE")
    if x["add"]:
        need(not pool and x["add"] <= len(before) + 1, "SHAPE")
        other = [*before, x][x["add"] - 1]
        need(other["shape"] == x["out"], "SHAPE")
        need(other["s_in"] == x["s_out"], "SCALE")
    return x


def held_rows(trunk: Records) -> list[int]:
    """Section 4.7 of the page, rule by rule."""
    n = len(trunk)
    made, held = [0] * (n + 1), [0] * n
    rows = [x["shape"][0] if x["kind"] == 20 else x["out"][0] for x in trunk]
    heights = [x["shape"][0] for x in trunk]

    def ready(t: int) -> bool:
        x = trunk[t]
        there = min(heights[t], made[t + 1] * x["stride"] - x["top"] + x["kernel"])
        return made[t + 1] < rows[t] and made[t] >= there

    def first(t: int, user: int) -> int:
        if made[user + 1] == rows[user]:
            return heights[t]
        if user != t:
            return made[user + 1]
        return max(0, made[t + 1] * trunk[t]["stride"] - trunk[t]["top"])

    while made[n] < rows[n - 1]:
        can = [t for t in range(n) if ready(t)]
        t = can[-1] + 1 if can else 0
        made[t] += 1
        if t < n:
            users = [t, *(u for u in range(n) if trunk[u]["add"] == t + 1)]
            held[t] = max(held[t], made[t] - min(first(t, u) for u in users))
    return held


def lengths(
    net: dict[str, Any], trunk: Records, layers: Records, sections: dict[int, bytes]
) -> dict[int, int]:
    """Section 10 of the page."""
    traces, anchors = sections.get(16, b""), sections.get(12, b"")
    batch = net["batch"]
    hidden = max((x["inputs"] for x in layers[1:]), default=0)
    rewirable = max((x["inputs"] for x in layers if x["kind"] == 1), default=0)
    values = layers[0]["inputs"]
    if net["replay_pool"]:
        values = -(-net["height"] // 2) * -(-net["width"] // 2) * net["channels"]
    stride = -(-values * (net["replay_bits"] or 4) // 8)
    label = 2 if net["classes"] > 256 else 1
    convolutions = [x for x in trunk if x["kind"] in (17, 18)]
    working = 0
    if trunk:
        for held, x in zip(held_rows(trunk), trunk, strict=True):
            working += held * x["shape"][1] * x["shape"][2]
        out_width, out_channels = trunk[-1]["out"][1:]
        if trunk[-1]["kind"] == 20:
            working += 4 * out_channels
        elif batch > 1:
            working += out_width * out_channels
    out = {
        1: 64 + 32 * (len(trunk) + len(layers)),
        3: 8 * net["groups"],
        6: sum(8 * x["out"][2] for x in convolutions) + sum(8 * x["outputs"] for x in layers),
        4: sum(x["out"][2] * x["taps"] for x in convolutions)
        + sum(x["outputs"] * x["width"] for x in layers),
        5: sum(2 * x["outputs"] * x["per_row"] for x in layers),
        7: round4(working)
        + sum(round4(x["inputs"] * batch) for x in layers)
        + 4 * net["classes"] * batch,
        8: sum(-(-x["outputs"] * x["width"] // 2) for x in layers if x["residual"] == 2),
    }
    if layers[0]["residual"]:
        out[11] = 72 + 8 * len(layers)
        out[9] = 4 * hidden * batch + 4 * rewirable
        out[9] += sum(round4(x["outputs"] * batch) for x in layers)
        if net["replay"]:
            out[10] = round4(2 * net["classes"]) + net["replay"] * (stride + label)
        if 13 in sections or anchors:
            out[13] = size(WATCH)
        if len(anchors) >= 16:
            room = unpack(anchors, 0, ANCHORS)["room"]
            need(1 <= room <= 65535, "STATE")
            out[12] = 16 + room * (label + 1 + stride)
            out[14] = (
                sum(
                    4 * x["outputs"] + 2 * x["outputs"] * x["per_row"] + x["outputs"] * x["width"]
                    for x in layers
                )
                + out[8]
            )
    if net["head"]:
        out[11] = 72 + 8 * len(layers)
        width = layers[-1]["inputs"]
        out[15] = 16 + net["classes"] * (12 + 8 * width) + 2 * width * (width + 1)
    if 17 in sections:
        entries = unpack(sections[17], 0, PENDING)["entries"] if len(sections[17]) >= 32 else 0
        need(11 in out and 1 <= entries <= 4096, "SECTION")
        bits = net["replay_bits"] or (4 if anchors else 8)
        out[17] = 32 + entries * (16 + -(-values * bits // 8))
    if traces:
        parts = unpack(traces, 0, TRACES)["parts"] if len(traces) >= size(TRACES) else 0
        need(layers[0]["residual"] and rewirable and 1 <= parts <= 64, "SECTION")
        rows = max(x["outputs"] for x in layers if x["kind"] == 1)
        out[16] = 8 + 4 * rows + parts * (rows + rewirable)
    return {kind: n for kind, n in out.items() if n}


def read_layers(file: File) -> None:
    """Weights, indices, rows and residuals of each layer, as int64 arrays in its record; of the
    trunk weights and rows."""
    at = {4: 0, 5: 0, 6: 0, 8: 0}

    def take(kind: int, layout: str, *shape: int) -> Any:
        values = np.frombuffer(file.sections[kind], layout, int(np.prod(shape)), at[kind])
        at[kind] += values.nbytes
        return values.reshape(shape)

    def numbers(x: dict[str, Any], shape: tuple[int, ...], outputs: int, width: int) -> Any:
        w = x["weights"] = take(4, "i1", *shape).astype(np.int64)
        x["bias"] = take(6, "<i4", outputs).astype(np.int64)
        x["multiplier"] = take(6, "<f4", outputs)
        need((w >= -127).all(), "SCALE")
        need((abs(x["bias"]) + width * 255 * 127 < 2**31).all(), "SCALE")
        need((x["multiplier"] > 0).all() and (x["multiplier"] <= 3e38).all(), "SCALE")

    for x in file.trunk:
        k, channels = x["kernel"], x["out"][2]
        if x["kind"] == 17:
            numbers(x, (channels, k, k, x["shape"][2]), channels, x["taps"])
        elif x["kind"] == 18:
            numbers(x, (k, k, channels), channels, x["taps"])
    for layer in file.layers:
        outputs, width, block = layer["outputs"], layer["width"], layer["block"]
        numbers(layer, (outputs, width), outputs, width)
        layer["at"] = np.broadcast_to(np.arange(width), (outputs, width))
        layer["residuals"] = np.zeros((outputs, width), np.int64)
        if layer["per_row"]:
            raw = take(5, "<u2", outputs, layer["per_row"]).astype(np.int64)
            index = raw & (2 ** layer["bits"] - 1)
            spare = raw & 0xFFF if layer["residual"] == 1 else raw
            need((spare == index).all() and (index < layer["inputs"] // block).all(), "INDEX")
            need(all(len(set(row)) == len(row) for row in index.tolist()), "DUPLICATE")
            layer["at"] = np.repeat(index, block, axis=1) * block + np.arange(width) % block
            if layer["residual"] == 1:
                layer["residuals"] = raw.astype(np.uint16).view(np.int16).astype(np.int64) >> 12
        if layer["residual"] == 2:
            nibbles = halves(take(8, "u1", -(-outputs * width // 2)))[: outputs * width]
            layer["residuals"] = ((nibbles ^ 8) - 8).reshape(outputs, width)


def read_learner(file: File) -> None:
    blob, net = file.sections[11], file.net
    k = file.learner = unpack(blob, 0, LEARNER)
    rows = sum(x["outputs"] for x in file.layers if x["kind"] == 1)
    need(0 < k["rate"] <= 8 and k["learn"] <= 2 and k["strategy"] <= 5, "STATE")
    need(k["strategy"] != 5 or 16 in file.sections, "STATE")
    need(k["keep"] <= 1 and 1 <= k["gather"] <= 4096 and k["gathered"] <= 4160, "STATE")
    need(k["cursor"] < max(rows, 1) and k["filled"] <= net["replay"], "STATE")
    need(k["activity"] <= 255 * k["gathered"], "STATE")
    file.rates = [
        unpack(blob, size(LEARNER) + i * size(RATE), RATE) for i in range(len(file.layers))
    ]
    need(all(0 < v <= 3e38 for rate in file.rates for v in rate.values()), "SCALE")
    if net["head"]:
        read_analytic(file)
        if 17 in file.sections:
            read_pending(file)
        return
    hidden = max((x["inputs"] for x in file.layers[1:]), default=0)
    rewirable = max((x["inputs"] for x in file.layers if x["kind"] == 1), default=0)
    start = 4 * hidden * net["batch"]
    file.gradient = np.frombuffer(file.sections[9], "<i4", rewirable, start).astype(np.int64)
    need((abs(file.gradient) <= k["gathered"] * 255 * 127).all(), "STATE")
    if 16 in file.sections:
        read_traces(file)
    if 17 in file.sections:
        read_pending(file)
    if not net["replay"]:
        return
    blob, filled = file.sections[10], k["filled"]
    counts = np.frombuffer(blob, "<u2", net["classes"])
    at = round4(2 * net["classes"])
    labels = np.frombuffer(blob, "<u2" if net["classes"] > 256 else "u1", net["replay"], at)
    data = np.frombuffer(blob, "u1", -1, at + labels.nbytes).reshape(net["replay"], -1)
    held = labels[:filled].astype(np.int64)
    need((held < net["classes"]).all(), "STATE")
    need((np.bincount(held, minlength=net["classes"]) == counts).all(), "STATE")
    bits = net["replay_bits"]
    levels = np.stack([data >> at & 2**bits - 1 for at in range(0, 8, bits)], axis=-1)
    codes = levels.reshape(len(data), -1).astype(np.int64) * (255 // (2**bits - 1))
    file.replay = (_places(net, codes[:filled]), held)


def read_analytic(file: File) -> None:
    """Section 5.9 of the page."""
    blob, classes, width = file.sections[15], file.net["classes"], file.layers[-1]["inputs"]
    state = unpack(blob, 0, ANALYTIC)
    at = size(ANALYTIC)

    def take(layout: str, *shape: int) -> Any:
        nonlocal at
        values = np.frombuffer(blob, layout, int(np.prod(shape)), at)
        at += values.nbytes
        return values.astype(np.int64).reshape(shape)

    scores, counts = take("<i8", classes), take("<u4", classes)
    sums, values = take("<i4", classes, width), take("<i4", classes, width)
    triangle = take("<i4", width * (width + 1) // 2)
    need(state["scale"] <= 16 and state["cursor"] < classes * width, "STATE")
    need(1 <= state["pace"] <= 4096, "STATE")
    now = values[state["cursor"] // width] if state["cursor"] % width else 0
    need((scores == (sums * now).sum(axis=1)).all(), "STATE")
    need(counts.sum() < 2**23 and not counts[file.net["known"] or classes :].any(), "STATE")
    need((abs(sums) <= 255 * counts[:, None]).all() and (abs(values) <= 2**23).all(), "STATE")
    need((triangle >= -(2**30)).all() and (triangle < 2**30).all(), "STATE")


def read_guard(file: File) -> None:
    """Sections 5.6 to 5.8 of the page."""
    w = unpack(file.sections[13], 0, WATCH)
    head = {"room": 0, "filled": 0, "cursor": 0, "tried": 0}
    if 12 in file.sections:
        head = unpack(file.sections[12], 0, ANCHORS)
    room = head["room"]
    need(w["trial"] <= (room >= 100) and w["caution"] <= 6 and w["age"] <= 2000, "STATE")
    rate = file.sections[13][12:16]
    need(0 < w["rate"] <= 0.5 if w["age"] < 2000 else rate == bytes(4), "STATE")
    need(w["best"] <= room and w["limit"] <= room and w["scored"] <= 65535, "STATE")
    need(w["patience"] <= 4 and w["calm"] <= 6, "STATE")
    need(all(w[name] <= 65536 for name in ("certainty", "recent", "usual")), "STATE")
    for at in (96, 120):
        d = unpack(file.sections[13], at, DETECTOR)
        need(d["seen"] <= 2**24 and d["held"] <= 256 and d["zero"] == 0, "STATE")
        need(d["total"] <= 4 * 65536 * d["seen"] and d["sum"] <= 15 * 65536, "STATE")
    if not room:
        return
    first = max(0, room - max(32, room // 4))
    filled, tried, trial = head["filled"], head["tried"], w["trial"]
    need(filled <= (first if trial else room), "STATE")
    need(tried <= (room - first if trial else 0), "STATE")
    need(head["cursor"] < max(1, tried if trial else filled), "STATE")
    need(w["best"] <= filled, "STATE")
    slots = [*range(filled), *range(first, first + tried)]
    wide = "<u2" if file.net["classes"] > 256 else "u1"
    labels = np.frombuffer(file.sections[12], wide, room, 16)
    flags = np.frombuffer(file.sections[12], "u1", room, 16 + labels.nbytes)
    need(all(labels[i] < file.net["classes"] and flags[i] <= 3 for i in slots), "STATE")
    # The accepted state, as the sections that it is a copy of.
    held, blob, at = file.layers, file.sections[14], 0

    def take(n: int) -> bytes:
        nonlocal at
        at += n
        return blob[at - n : at]

    biases = [take(4 * x["outputs"]) for x in held]
    indices = take(sum(2 * x["outputs"] * x["per_row"] for x in held))
    weights = take(sum(x["outputs"] * x["width"] for x in held))
    rows = b"".join(b + x["multiplier"].tobytes() for b, x in zip(biases, held, strict=True))
    sections = {4: weights, 5: indices, 6: rows, 8: blob[at:]}
    read_layers(replace(file, trunk=[], layers=[dict(x) for x in held], sections=sections))


def read_pending(file: File) -> None:
    blob = file.sections[17]
    head = unpack(blob, 0, PENDING)
    need(head["reserved"] == 0, "STATE")
    n = head["entries"]
    waiting = np.frombuffer(blob, "<u8", 2 * n, size(PENDING)).reshape(n, 2)
    order, ids = waiting.T
    taken = order > 0
    need((order <= head["held"]).all() and not ids[~taken].any(), "STATE")
    need(len(set(order[taken])) == len(set(ids[taken])) == taken.sum(), "STATE")


def read_traces(file: File) -> None:
    blob = file.sections[16]
    head = unpack(blob, 0, TRACES)
    held, parts = head["held"], head["parts"]
    need(held <= parts and head["next"] < parts and head["zero"] == 0, "STATE")
    need(held == parts or head["next"] == held, "STATE")
    rows = max(x["outputs"] for x in file.layers if x["kind"] == 1)
    query = np.frombuffer(blob, "<i4", rows, size(TRACES)).astype(np.int64)
    need((abs(query) <= file.learner["gathered"] * 127).all(), "STATE")
    need((np.frombuffer(blob, "i1", -1, size(TRACES) + query.size * 4) >= -127).all(), "STATE")


def _places(net: dict[str, Any], codes: Ints) -> Ints:
    """Features of remembered values."""
    if not net["replay_pool"]:
        return codes[:, : net["height"] * net["width"] * net["channels"]]
    rows, columns = -(-net["height"] // 2), -(-net["width"] // 2)
    cells = codes[:, : rows * columns * net["channels"]]
    cells = cells.reshape(len(codes), rows, columns, net["channels"])
    y, x = np.arange(net["height"]) // 2, np.arange(net["width"]) // 2
    return cells[:, y][:, :, x].reshape(len(codes), -1)


def _mean_places(net: dict[str, Any], codes: Ints) -> Ints:
    """Every place of pictures [n, features] with the mean of its 2 x 2."""
    out = codes.reshape(-1, net["height"], net["width"], net["channels"]).copy()
    for y in range(0, net["height"], 2):
        for x in range(0, net["width"], 2):
            places = out[:, y : y + 2, x : x + 2]
            n = places.shape[1] * places.shape[2]
            places[:] = (places.sum((1, 2), keepdims=True) + n // 2) // n
    return out.reshape(codes.shape)


def codes_of(file: File, x: npt.NDArray[np.float32]) -> Ints:
    """Codes of raw samples (arithmetic.md, section 2)."""
    v = np.clip((x - file.center) * file.scale, np.float32(-512), np.float32(512))
    q: Ints = np.clip(np.rint(v).astype(np.int64) + file.layers[0]["z_in"], 0, 255)
    return q


def features_of(file: File, q: Ints) -> Ints:
    """Features [n, features] of codes [n, inputs], place by place (arithmetic.md, section 3)."""
    pictures = [q.reshape(-1, file.net["height"], file.net["width"], file.net["channels"])]
    for x in file.trunk:
        q, k = pictures[-1], x["kernel"]
        (height, width, _), out = x["shape"], np.zeros((len(q), *x["out"]), np.int64)
        if x["kind"] == 20:
            total = q.sum(axis=(1, 2)).astype(np.float32)
            out[:, 0, 0] = np.rint(np.clip(total * x["mean"], 0, 255))
            pictures.append(out)
            continue
        for row, column in np.ndindex(x["out"][:2]):
            top, left = row * x["stride"] - x["top"], column * x["stride"] - x["left"]
            rows = slice(max(top, 0), min(top + k, height))
            columns = slice(max(left, 0), min(left + k, width))
            seen = q[:, rows, columns]
            if x["kind"] == 19:
                out[:, row, column] = seen.max(axis=(1, 2))
                continue
            here = (slice(rows.start - top, rows.stop - top),
                    slice(columns.start - left, columns.stop - left))  # fmt: skip
            if x["kind"] == 17:
                w = x["weights"][:, here[0], here[1]]
                acc = np.tensordot(seen, w, ((1, 2, 3), (1, 2, 3))) + x["bias"]
            else:
                acc = (seen * x["weights"][here]).sum(axis=(1, 2)) + x["bias"]
            y = acc.astype(np.float32) * x["multiplier"]
            low, high = (np.float32(-128), np.float32(127)) if x["add"] else (0, np.float32(255))
            y = np.rint(np.clip(y, low, high)).astype(np.int64)
            if x["add"]:
                y = np.clip(y + pictures[x["add"] - 1][:, row, column], 0, 255)
            out[:, row, column] = y
        pictures.append(out)
    return pictures[-1].reshape(len(q), -1)


def logits_of(file: File, q: Ints) -> Ints:
    """Logits [n, classes] of codes [n, inputs] (arithmetic.md, section 3)."""
    q = features_of(file, q)
    for layer in file.layers:
        # A [n, outputs, width] array of the activations that each weight looks at.
        acc = ((q[:, layer["at"]] - layer["z_in"]) * layer["weights"]).sum(axis=2) + layer["bias"]
        y = np.clip(acc.astype(np.float32) * layer["multiplier"], np.float32(0), np.float32(255))
        q = np.rint(y).astype(np.int64)
    out: Ints = acc
    return out


def write(file: File) -> bytes:
    """The file again, from its sections alone: alignment, table and checksums."""
    flat, entries, at = bytearray(), bytearray(), 48 + 16 * len(file.sections)
    for kind, section in file.sections.items():
        start = -(-at // file.head["align"]) * file.head["align"]
        flat += bytes(start - at) + section
        entries += struct.pack("<HHIII", kind, 0, start, len(section), zlib.crc32(section))
        at = start + len(section)
    layout = "<4sHHIIQII16x"
    values = [b"\x89ZGE", 1, len(file.sections), at, file.head["align"], file.head["generation"]]
    head = struct.pack(layout, *values, 0, file.head["flags"])
    checksum = zlib.crc32(head + entries)
    return struct.pack(layout, *values, checksum, file.head["flags"]) + bytes(entries + flat)


# ---- the reader against the core ----

NAMES = sorted(path.stem for path in make_golden.FOLDER.glob("*.zge"))
LEARNING = [name for name in NAMES if make_golden.GOLDEN[name].network.learning]


def golden(name: str) -> bytes:
    return (make_golden.FOLDER / f"{name}.zge").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_reader_computes_what_the_core_computes(name: str) -> None:
    x, _ = make_golden.stream(make_golden.GOLDEN[name], 40, seed=4)
    file = read(golden(name))
    model = Model(nets.buffer(golden(name)), name)
    logits = logits_of(file, codes_of(file, x))[:, : len(model.classes)]
    assert np.array_equal(logits, model.logits(x))


@pytest.mark.parametrize("name", LEARNING)
def test_reader_reads_what_has_learned(name: str) -> None:
    spec = make_golden.GOLDEN[name]
    before = read(golden(name))
    learned = make_golden.learn(golden(name), spec, 200, seed=5)
    file = read(learned)
    x, _ = make_golden.stream(spec, 40, seed=4)
    model = Model(nets.buffer(learned), name)
    logits = logits_of(file, codes_of(file, x))[:, : len(model.classes)]
    assert np.array_equal(logits, model.logits(x))
    for layer in file.layers:
        assert layer["residuals"].any() or file.net["head"]
        assert (abs(16 * layer["weights"] + layer["residuals"]) <= 127 * 16).all()
    assert file.head["generation"] == before.head["generation"] + 1
    # Labels of samples that waited, and a new class where there is room for one.
    spare = spec.network.classes > len(spec.class_names)
    more = 100 + spare if 17 in file.sections else 0
    assert file.learner["step"] == before.learner["step"] + 200 + more
    assert len(learned) == len(golden(name))
    assert not any(file.sections[7])
    if file.net["head"]:
        assert file.sections[15] != before.sections[15]
        return
    assert file.gradient is not None
    state = np.frombuffer(file.sections[9], "u1")
    assert np.count_nonzero(state) == np.count_nonzero(file.gradient.astype("<i4").view("u1"))


@pytest.mark.parametrize("name", [n for n in LEARNING if read(golden(n)).net["replay"]])
def test_replay_holds_the_samples_that_were_learned(name: str) -> None:
    spec = make_golden.GOLDEN[name]
    file = read(golden(name))
    assert file.replay is not None
    codes, labels = file.replay
    steps = [spec.sizes[t % len(spec.sizes)] for t in range(make_golden.WARM)]
    x, y = make_golden.stream(spec, sum(steps), seed=1)
    seen = features_of(file, codes_of(file, x))
    if file.net["replay_pool"]:
        seen = _mean_places(file.net, seen)
    step = 255 // (2 ** file.net["replay_bits"] - 1)
    seen = (seen + step // 2) // step * step
    pairs = {(*row, label) for row, label in zip(seen.tolist(), y, strict=True)}
    if spec.network.known:  # the class that got its name has learned the first row
        pairs.add((*seen[0].tolist(), spec.network.known))
    assert len(codes) == file.net["replay"]
    assert {(*row, label) for row, label in zip(codes.tolist(), labels, strict=True)} <= pairs


@pytest.mark.parametrize("name", NAMES)
def test_rates_and_multipliers_follow_from_the_scales(name: str) -> None:
    file = read(golden(name))
    for x, later in pairwise([*file.trunk, file.layers[0]]):
        assert x["s_out"] == later["s_in"]
        assert np.float32(x["s_w"]) == np.float32(
            1 / (x["shape"][0] * x["shape"][1]) if x["kind"] == 20 else 1
        )
    error = 1 / 127
    for i, layer in reversed(list(enumerate(file.layers))):
        s_in, s_w = layer["s_in"], layer["s_w"]
        assert np.allclose(layer["multiplier"], s_in * s_w / layer["s_out"], rtol=1e-6)
        if file.rates and not file.net["head"]:
            assert file.rates[i]["weight"] == pytest.approx(16 * s_in * error / s_w, rel=1e-6)
            assert file.rates[i]["bias"] == pytest.approx(error / (s_in * s_w), rel=1e-6)
        error *= s_w


@pytest.mark.parametrize("name", NAMES)
def test_file_is_its_sections_and_the_rules(name: str) -> None:
    assert write(read(golden(name))) == golden(name)


def test_reader_refuses_each_flipped_bit() -> None:
    blob = bytearray(golden("v1-tiny"))
    for bit in range(8 * len(blob)):
        blob[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RefusedError):
            read(bytes(blob))
        blob[bit // 8] ^= 1 << bit % 8


def signed_anew(blob: bytearray) -> bytes:
    """With every checksum right again, as far as the table still leads into the file."""
    head = unpack(bytes(blob), 0, HEADER)
    for i in range(min(head["sections"], (len(blob) - 48) // 16)):
        _, _, at, n, _ = struct.unpack_from("<HHIII", blob, 48 + 16 * i)
        if at + n <= len(blob):
            struct.pack_into("<I", blob, 48 + 16 * i + 12, zlib.crc32(blob[at : at + n]))
    struct.pack_into("<I", blob, 24, 0)
    struct.pack_into("<I", blob, 24, zlib.crc32(blob[: 48 + 16 * head["sections"]]))
    return bytes(blob)


@pytest.mark.parametrize("name", NAMES)
def test_reader_and_core_refuse_the_same_files(name: str) -> None:
    """A byte changed, checksums renewed: both refuse with the same status, or both read."""
    lcg = make_golden.Lcg(99)
    numbers = enums("zge.h", "ZGE_E_")
    tally: Counter[int] = Counter()
    for _ in range(800):
        blob = bytearray(golden(name))
        # The first bytes hold the shapes; many behind them are numbers that may have any value.
        at, flip = lcg.below(lcg.between(1, len(blob))), lcg.between(1, 255)
        blob[at] ^= flip
        changed = signed_anew(blob)
        mine = of_core = 0
        try:
            read(changed)
        except RefusedError as e:
            mine = numbers[str(e).lower()]
        try:
            Model(nets.buffer(changed), name)
        except ModelError as e:
            of_core = e.status or 1
        assert mine == of_core, f"byte {at} ^ {flip}"
        tally[mine] += 1
    assert tally[0] > 100
    assert len(tally) >= 8


# ---- the page against the core's headers ----


def enums(header: str, prefix: str) -> dict[str, int]:
    text = (CORE / header).read_text()
    found = re.findall(rf"^\s*(?:enum \{{ )?{prefix}([A-Z]\w*) = (-?\d+)", text, re.MULTILINE)
    return {name.lower(): int(value) for name, value in found}


@pytest.mark.parametrize(
    ("fields", "prefix", "bytes_"),
    [
        (HEADER, "ZGE_H_", 48), (ENTRY, "ZGE_T_", 16), (NET, "ZGE_N_", 64),
        (LAYER, "ZGE_L_", 32), (TRUNK, "ZGE_P_", 32), (LEARNER, "ZGE_K_", 72), (RATE, "ZGE_KL_", 8),
        (TRACES, "ZGE_A_", 8), (DETECTOR, "ZGE_D_", 24), (PENDING, "ZGE_WAIT_", 32),
    ],
    ids=["header", "entry", "net", "layer", "trunk", "learner", "rate", "traces", "detector",
         "pending"],
)  # fmt: skip
def test_offsets_are_those_of_the_core(fields: Fields, prefix: str, bytes_: int) -> None:
    of_core = enums("zge_impl.h", prefix)
    assert of_core.pop("size") == bytes_ == size(fields)
    assert {name: at for name, (at, _, _) in fields.items()} == of_core
    at = 0
    for offset, kind, count in fields.values():  # no gap, no overlap
        assert offset == at
        at += struct.calcsize(SIZES[kind]) * count


def test_types_are_those_of_the_core() -> None:
    comments = re.findall(
        r"^\s*ZGE_(H|T|N|L|P|K|KL|A)_(\w+) = \d+,\s*/\* ([uf]\d+)\b",
        (CORE / "zge_impl.h").read_text(),
        re.MULTILINE,
    )
    of_page = {
        "H": HEADER, "T": ENTRY, "N": NET, "L": LAYER, "P": TRUNK, "K": LEARNER, "KL": RATE,
        "A": TRACES,
    }  # fmt: skip
    assert len(comments) > 54
    for table, name, kind in comments:
        assert of_page[table][name.lower()][1] == kind, f"{table}_{name}"


def test_sections_are_those_of_the_core() -> None:
    table = TEXT.split("| kind | name | present | content |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", table, re.MULTILINE)
    assert {name.lower(): int(kind) for kind, name in rows} == enums("zge.h", "ZGE_S_")
    order = [int(kind) for kind, _ in rows]
    for name in NAMES:
        kinds = list(read(golden(name)).sections)
        assert kinds == [kind for kind in order if kind in kinds]


def test_statuses_are_those_of_the_core() -> None:
    part = TEXT.split("## 8 What a reader refuses")[1].split("## 9 ")[0]
    pairs = re.findall(r"^\| `([A-Z]+)` \| (-\d+) \|", part, re.MULTILINE)
    pairs += re.findall(r"\b([A-Z_]+)\s+(-\d+)", part.split("of calls, not of files")[1])
    assert {name.lower(): int(n) for name, n in pairs} == enums("zge.h", "ZGE_E_")
    for name, number in pairs:
        assert core.status_text(int(number)) != core.status_text(1), name


def test_layer_kinds_are_those_of_the_core() -> None:
    kinds = {"sparse": 1, "dense": 2}
    kinds |= {name: int(n) for n, name in re.findall(r"\b(\d+) \(`(\w+)`\)", TEXT)}
    assert kinds == enums("zge.h", "ZGE_L_")
    assert "1 sparse, 2 dense" in TEXT


def test_limits_are_those_of_the_core() -> None:
    text = (CORE / "zge.h").read_text()
    limits = dict(re.findall(r"#define ZGE_MAX_(\w+) (\w+?)u", text))
    assert {k: int(v, 0) for k, v in limits.items()} == {
        "INPUTS": 65536, "CLASSES": 4096, "LAYERS": 8, "BATCH": 64, "ARENA": 2**30,
        "TRUNK": 32, "CHANNELS": 4096, "TAPS": 4096,
        "ANALYTIC": 511, "ANALYTIC_CLASSES": 256, "PENDING": 4096,
    }  # fmt: skip
    for sentence in (
        "1 .. 65,536",
        "2 .. 4,096",
        "trunk layers, 0 .. 32, and layers, 1 .. 8,",
        "1 .. 4,096; all others keep",
        "weights of an output channel, at most 4,096",
        "32 or 64; 1 without",
        "at most 2^30",
    ):
        assert sentence in TEXT


def test_checksum_of_the_page() -> None:
    assert f"0x{zlib.crc32(b'123456789'):08X}" in TEXT


# ---- the listing ----


def listed(name: str) -> Iterator[tuple[int, bytes]]:
    block = TEXT.split(f"<!-- listing of {name} -->")[1].split("```")[1]
    for line in block.splitlines():
        found = re.match(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+)", line)
        if found:
            yield int(found[1], 16), bytes.fromhex(found[2])


@pytest.mark.parametrize("name", make_golden.LISTED)
def test_listing_is_the_file_to_the_byte(name: str) -> None:
    joined = b""
    for at, part in listed(name):
        assert at == len(joined)
        joined += part
    assert joined == golden(name)


def test_listings_are_what_the_tool_writes() -> None:
    assert make_golden.documented(TEXT) == TEXT
