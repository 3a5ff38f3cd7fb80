"""C for a microcontroller: one .c and one .h that compute what the core computes.

The weights are constants, for flash; what a prediction works in is one static array, the RAM. The
arithmetic is not written a second time: the core's own sources are in the file, cut down to what
the network needs (`zgedge.export.c_core`). With `learning` the whole arena is in RAM, and the file
holds the learner too.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

import zgedge
from zgedge import arena as files
from zgedge import network as net
from zgedge.errors import BudgetError, UsageError
from zgedge.export import c_core, c_texts
from zgedge.export.source import named
from zgedge.network import Network
from zgedge.runtime import Model
from zgedge.runtime import core_library as core

LONGEST_NAME = 40
ZERO_RUN = 64  # zero bytes in a row that an image leaves out
HANDLE_BYTES = (384, 128)  # of a learner's handle in RAM at most: in all, and for each layer

_PREDICT_ROOTS = (
    "zge_forward", "zge_softmax", "zge_share", "zge_fetch_run", "zge_check_finite", "zge_column",
    "zge_model", "ZGE_C_F32", "ZGE_C_CODES",
)  # fmt: skip
_LEARN_ROOTS = (
    "zge_step_any", "zge_model_open", "zge_model_seal", "zge_replay_clear",
    "zge_learner_configure", "zge_learner_config", "zge_take",
)  # fmt: skip


@dataclass(frozen=True)
class CSource:
    """A generated program: `header` is the text of NAME.h, `source` that of NAME.c.

    `flash_bytes` are the constants of the network, to which the code comes; `ram_bytes` what it
    works in, the stack apart. `samples` counts the person's samples that are in the text.
    """

    name: str
    header: str
    source: str
    inputs: int
    classes: int
    flash_bytes: int
    ram_bytes: int
    arena_bytes: int = 0
    batch: int = 1
    samples: int = 0

    @property
    def learning(self) -> bool:
        return self.arena_bytes > 0

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """NAME.h and NAME.c in a folder that is there, replaced atomically. Raises ZgedgeError."""
        header, source = (Path(folder, f"{self.name}.{end}") for end in "hc")
        files.replace_file(header, self.header.encode())
        files.replace_file(source, self.source.encode())
        return header, source


def to_c(
    model: Model,
    name: str = "zge",
    learning: bool = False,
    *,
    samples: bool = False,
    flash: int | None = None,
    ram: int | None = None,
) -> CSource:
    """C that predicts as `model` does, and with `learning` learns as it does.

    `name` starts every public name. Samples that the model remembers are left out of a learner
    unless `samples` is set. `flash` and `ram` are what there is room for, in bytes.

    Raises UsageError for a name that C cannot have and for `learning` of a model that cannot,
    BudgetError where `flash` or `ram` do not suffice.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or len(name) > LONGEST_NAME:
        raise UsageError(
            f"{name!r} cannot start the names of C functions, which the files are named like.",
            f"Use letters, digits and _, a letter first, at most {LONGEST_NAME} of them (--out).",
        )
    if learning and not model.arena.network.learning:
        raise UsageError(
            f"{model.name} was written without what learning needs.",
            "Train it without --no-learning, or export it without learning.",
        )
    out = _learner(model, name, samples) if learning else _predictor(named(model), name)
    for what, have, need in (("flash", flash, out.flash_bytes), ("RAM", ram, out.ram_bytes)):
        if have is not None and need > have:
            hint = "Train to a smaller budget"
            hint += ", or export it without learning." if learning else "."
            raise BudgetError(
                f"{model.name} needs {need:,} bytes of {what}; there are {have:,}.", hint, need
            )
    return out


# ---- texts of C ----


def _float(value: Any) -> str:
    """A float32 as C has it, to the last bit."""
    digits, _, power = float(np.float32(value)).hex().partition("p")
    return f"{digits.rstrip('0').rstrip('.') if '.' in digits else digits}p{power}f"


def _string(text: str) -> str:
    """A C string of the text's UTF-8 bytes."""
    out = ""
    for byte in text.encode():
        plain = 32 <= byte < 127 and byte not in b'"\\?'
        out += chr(byte) if plain else f"\\{byte:03o}"
    return f'"{out}"'


def _array(kind: str, name: str, values: Iterable[Any]) -> str:
    words = [_float(v) if kind == "float" else str(int(v)) for v in values]
    body = textwrap.fill(", ".join(words), 100, initial_indent="    ", subsequent_indent="    ")
    return f"static const {kind} {name}[{len(words)}] = {{\n{body}}};\n"


def _fields(**values: Any) -> str:
    """Fields of a structure, each `.name = value`; those of value None stay zero."""
    words = [f".{k} = {v}" for k, v in values.items() if v is not None]
    return textwrap.fill(
        ", ".join(words), 100, initial_indent="        ", subsequent_indent="        ",
        break_long_words=False,
    )  # fmt: skip


def _limits(network: Network) -> dict[str, int]:
    """Limits of the format that are sizes of arrays, as this network needs them."""
    layers: list[net.TrunkLayer | net.Layer] = [*network.trunk, *network.layers]
    return {
        "ZGE_MAX_INPUTS": max(max(x.inputs, x.outputs) for x in layers),
        "ZGE_MAX_CLASSES": network.classes,
        "ZGE_MAX_ANALYTIC": network.layers[-1].inputs,
        "ZGE_MAX_LAYERS": len(network.layers),
        "ZGE_MAX_TRUNK": max(1, len(network.trunk)),
        "ZGE_MAX_BATCH": max(16, network.batch),  # rows of one sample are summed 16 at a time
    }


def _parts(network: Network) -> list[str]:
    """Parts of the core that this network needs, of those that a program can do without."""
    has = {
        "trunk": bool(network.trunk), "traces": bool(network.traces), "watch": network.watch,
        "analytic": network.head == net.ANALYTIC_HEAD,
        "pending": bool(network.pending),
    }  # fmt: skip
    return [name for name in c_core.PARTS if has[name]]


def _about(model: Model, learning: bool) -> str:
    n = model.arena.network
    kinds = [x.kind.replace("_", " ") for x in n.trunk]
    kinds += [
        f"{x.kind} {x.outputs}" if x.kind == net.DENSE else f"{x.kind} {x.outputs} x {x.width}"
        for x in n.layers
    ]
    what = "predicts and learns" if learning else "predicts"
    text = (
        f"A network that {what}: {n.inputs} inputs, {n.classes} classes; {', '.join(kinds)}. "
        f"Generated by zgedge {zgedge.__version__}."
    )
    return textwrap.fill(text, 96).replace("\n", "\n * ")


def _filled(
    model: Model, name: str, learning: bool, parts: Sequence[str], **words: Any
) -> tuple[str, str]:
    """Texts of the header and of the source. Raises UsageError where their names meet."""
    n = model.arena.network
    words |= dict(zip(("height", "width", "channels"), n.shape, strict=True))
    words |= {
        "name": name, "NAME": name.upper(), "about": _about(model, learning), "inputs": n.inputs,
        "classes": n.classes, "licence": c_texts.LICENCE,
        "class_names": ",\n    ".join(
            _string(x) for x in (*model.arena.class_names, *[""] * (n.classes - len(model.classes)))
        ),
        "ram_note": " at most" if learning else "",
        "run": c_texts.RUN_TRUNK if n.trunk else c_texts.RUN,
    }  # fmt: skip
    for word, text in (
        ("ready", c_texts.READY),
        ("errors", c_texts.LEARNER_ERRORS),
        ("not_started", ", or ${NAME}_ERROR_NOT_STARTED"),
        ("null_before", "; null before ${name}_start"),
    ):
        words[word] = Template(text).substitute(words) if learning else ""
    head = [c_texts.HEADER, c_texts.LEARNER_HEADER if learning else "", c_texts.HEADER_END]
    header = Template("".join(head)).substitute(words)
    source = Template("".join([c_texts.TOP, *parts])).substitute(words)
    public = set(re.findall(rf"\b(?:{name}|{name.upper()})_\w+", header))
    own = set(re.findall(r"\b(?:zge|ZGE|net)_\w+", f"{words['core']}{words['constants']}"))
    own |= {"net_ram", "net_arena", "net_pieces", "net_learn"}
    if meets := sorted(own & public):
        raise UsageError(
            f"The name {name!r} makes {meets[0]}, which the generated file uses itself.",
            "Choose another name.",
        )
    return header, source


# ---- a network that only predicts ----


class _Ram:
    """Places in the one array that a prediction works in, each at a multiple of 4 after `round`."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, size: int, kind: str = "uint8_t", whole: bool = True) -> str:
        """A pointer to `size` more bytes."""
        at = f"net_ram + {self.bytes}"
        self.bytes += size
        if whole:
            self.round()
        return at if kind == "uint8_t" else f"({kind} *)(void *)({at})"

    def round(self) -> None:
        self.bytes = (self.bytes + 3) // 4 * 4


def _predictor(model: Model, name: str) -> CSource:
    a = model.arena
    n = a.network.for_inference()
    ram = _Ram()
    constants: list[str] = []
    flash = 0

    def keep(kind: str, label: str, values: npt.NDArray[Any]) -> str:
        nonlocal flash
        constants.append(_array(kind, label, values.ravel()))
        flash += values.nbytes
        return label

    scale, center = a.input_coding()
    fields = {
        "input_scale": keep("float", "net_input_scale", scale),
        "input_center": keep("float", "net_input_center", center),
    }
    # No bytes without a mean pool, but a place: compilers see that null would be cleared.
    mean = n.trunk[-1].channels if n.trunk and n.trunk[-1].kind == net.MEAN_POOL else 0
    sums = ram.take(4 * mean, "int32_t")
    convs = list(_convs(model, ram, keep))
    ram.round()
    layers = list(_layers(model, ram, keep))
    logits = ram.take(4 * n.classes, "int32_t")
    head = _fields(
        inputs=n.inputs, classes=n.classes, known=n.classes, layers=len(layers),
        groups=n.groups, trunk=len(convs), features=n.features, batch=1, unknown=a.unknown,
        **fields, logits=logits, sums=sums,
    )  # fmt: skip
    body = (
        f"{head.replace('        ', '    ')},\n    .layer = {{{{\n" + "}, {\n".join(layers) + "}},"
    )
    if convs:
        body += "\n    .conv = {{\n" + "}, {\n".join(convs) + "}},"
    core_text = c_core.amalgam(
        {*_PREDICT_ROOTS, "zge_trunk_run" if convs else "zge_quantize_columns"},
        limits=_limits(n), parts=_parts(n), constant=True,
    )  # fmt: skip
    header, source = _filled(
        model, name, False, [c_texts.PREDICTOR, c_texts.PREDICT], core=core_text, flash=flash,
        ram=ram.bytes, constants="\n".join(constants), fields=body,
    )  # fmt: skip
    return CSource(name, header, source, n.inputs, n.classes, flash, ram.bytes)


Keep = Callable[[str, str, npt.NDArray[Any]], str]


def _convs(model: Model, ram: _Ram, keep: Keep) -> Iterator[str]:
    """Fields of each trunk layer."""
    a = model.arena
    for i, (t, held) in enumerate(
        zip(a.network.trunk, net.held_rows(a.network.trunk), strict=True)
    ):
        bias, multiplier = a.trunk_rows(i)
        weights = a.trunk_weights(i)
        s_in, s_out = a.trunk_scales[i]
        out = t.out_shape
        yield _fields(
            kind=files.KINDS[t.kind], kernel=t.kernel, stride=t.stride, height=t.shape[0],
            width=t.shape[1], channels=t.shape[2], out_height=out[0], out_width=out[1],
            out_channels=out[2], top=t.padding[0], left=t.padding[1], taps=t.taps,
            add=0 if t.add is None else t.add + 1, held=held, s_in=_float(s_in),
            s_w=_float(a.trunk_steps[i]), s_out=_float(s_out),
            weights=None if weights is None else keep("int8_t", f"net_trunk_{i}_weights", weights),
            bias=None if weights is None else keep("int32_t", f"net_trunk_{i}_bias", bias),
            multiplier=None if weights is None
            else keep("float", f"net_trunk_{i}_multiplier", multiplier),
            rows=ram.take(held * t.shape[1] * t.shape[2], whole=False),
        )  # fmt: skip


def _layers(model: Model, ram: _Ram, keep: Keep) -> Iterator[str]:
    """Fields of each layer behind the trunk."""
    a = model.arena
    for i, layer in enumerate(a.network.layers):
        bias, multiplier = a.rows(i)
        indices = a.indices(i)
        s_in, s_w, s_out, z_in = a.scales[i]
        last = i + 1 == len(a.network.layers)
        sparse = indices is not None
        yield _fields(
            kind=files.KINDS[layer.kind], block=layer.block, inputs=layer.inputs,
            outputs=layer.outputs, width=layer.width, per_row=layer.per_row if sparse else 0,
            index_mask=(1 << layer.index_bits) - 1 if sparse else 0,
            index_bits=layer.index_bits if sparse else 0, z_in=z_in, s_in=_float(s_in),
            s_w=_float(s_w), s_out=_float(s_out),
            weights=keep("int8_t", f"net_{i}_weights", a.weights(i)),
            indices=None if indices is None else keep("uint16_t", f"net_{i}_indices", indices),
            bias=keep("int32_t", f"net_{i}_bias", bias),
            multiplier=None if last else keep("float", f"net_{i}_multiplier", multiplier),
            x=ram.take(layer.inputs),
        )  # fmt: skip


# ---- a network that learns ----


def _image(model: Model, samples: bool) -> tuple[files.UInt8, int]:
    """The model's file as `save` writes it, but of the same generation, and how many samples it
    remembers. The model itself is not touched."""
    copy = files.aligned(len(model.arena.buffer))
    copy[:] = model.arena.buffer
    files.sign(copy.data)
    twin = Model(copy, model.name)
    if not samples:
        core.check(core.lib.zge_replay_clear(twin._handle), model.name)
        twin.arena.clear_anchors()
        twin.arena.clear_pending()
    twin.seal()
    copy[16:24] = model.arena.buffer[16:24]
    files.sign(copy.data)
    state = twin.arena.learner()
    return copy, int(state["remembered"]) if state else 0


def _runs(image: files.UInt8) -> list[tuple[int, int]]:
    """Offset and length of what is not zero, without runs of ZERO_RUN zeros and more."""
    filled = np.flatnonzero(image)
    ends = np.flatnonzero(np.diff(filled) > ZERO_RUN)
    starts = [filled[0], *filled[ends + 1]]
    return [
        (int(a), int(b) + 1 - int(a))
        for a, b in zip(starts, [*filled[ends], filled[-1]], strict=True)
    ]


def _learner(model: Model, name: str, samples: bool) -> CSource:
    n = model.arena.network
    image, held = _image(model, samples)
    runs = _runs(image)
    kept = np.concatenate([image[at : at + size] for at, size in runs])
    flash = len(kept) + 8 * len(runs)
    ram = len(image) + HANDLE_BYTES[0] + HANDLE_BYTES[1] * (len(n.layers) + max(1, len(n.trunk)))
    core_text = c_core.amalgam(
        {*_PREDICT_ROOTS, *_LEARN_ROOTS},
        limits=_limits(n), parts=_parts(n), constant=False,
    )  # fmt: skip
    header, source = _filled(
        model, name, True, [c_texts.LEARNER, c_texts.PREDICT, c_texts.LEARN], core=core_text,
        flash=flash, ram=ram, constants=_array("uint8_t", "net_image", kept), arena=len(image),
        batch=n.batch, pieces=", ".join(f"{{{at}, {size}}}" for at, size in runs),
    )  # fmt: skip
    return CSource(name, header, source, n.inputs, n.classes, flash, ram, len(image), n.batch, held)


def pair(
    model: Model, export: CSource
) -> Callable[[npt.NDArray[np.float32]], tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """What `zgedge.export.check` compares: logits of the core, and of the compiled program.

    The program is compiled and run on this machine. Raises MissingExtraError where it has no C
    compiler.
    """
    from zgedge.export import c_run

    program = c_run.Program(export, optimize="-O1")

    def both(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        begin = [c_run.start()] if export.learning else []
        *_, coded = program.run(*begin, c_run.quantize(export, x))
        *_, said = program.run(*begin, c_run.predict(export, coded["codes"]))
        return model.logits(x), said["logits"][:, : len(model.classes)]

    return both
