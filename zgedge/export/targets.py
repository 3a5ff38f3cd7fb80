"""What a model can be exported to, what each target can be asked for, and its files."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zgedge import arena as files
from zgedge.errors import UsageError, ZgedgeError
from zgedge.runtime import Model


@dataclass(frozen=True)
class Target:
    """A kind of export.

    `suffixes` are those of its files, the first is the one that is named. `forms` begin with the
    default; `identical` are those whose integers are the core's own, as a check demands. `options`
    are what else it can be asked for.
    """

    title: str
    module: str
    suffixes: tuple[str, ...]
    forms: tuple[str, ...]
    identical: frozenset[str]
    options: frozenset[str]


TARGETS = {
    "onnx": Target(
        "ONNX", "zgedge.export.onnx", (".onnx",), ("sparse", "qoperator", "qdq"),
        frozenset(("sparse", "qoperator")), frozenset(("softmax",)),
    ),
    "tflite": Target(
        "TFLite", "zgedge.export.tflite", (".tflite",), ("dense", "sparse"),
        frozenset(("dense",)), frozenset(("softmax", "input-type")),
    ),
    "c": Target(
        "C", "zgedge.export.c", (".c", ".h"), ("source",), frozenset(("source",)),
        frozenset(("learning", "samples")),
    ),
}  # fmt: skip


def form_of(target: str, form: str | None) -> str:
    """The form to export, the target's default where None. Raises UsageError for an unknown one."""
    kind = TARGETS[target]
    if form is None:
        return kind.forms[0]
    if form not in kind.forms:
        there = f"There are {', '.join(kind.forms)}." if len(kind.forms) > 1 else "Leave it out."
        raise UsageError(f"{kind.title} has no form {form!r}.", there)
    return form


def check_options(target: str, given: dict[str, bool]) -> None:
    """Raises UsageError for an option, by its name, that means nothing to a target."""
    for name, wanted in given.items():
        if wanted and name not in TARGETS[target].options:
            able = [kind.title for kind in TARGETS.values() if name in kind.options]
            raise UsageError(
                f"--{name} means nothing to {TARGETS[target].title}.",
                f"It is for {' and '.join(able)}.",
            )


def paths(target: str, out: str) -> list[str]:
    """Files that an export to `out` writes. Raises UsageError for a name with another ending."""
    first, *others = TARGETS[target].suffixes
    stem, suffix = os.path.splitext(out)
    if suffix != first:
        raise UsageError(
            f"{out} does not end in {first}, as {TARGETS[target].title} does.",
            f"Name it {os.path.basename(stem) or 'model'}{first}.",
        )
    return [out, *(stem + other for other in others)]


def refuse_existing(written: list[str]) -> None:
    """Raises ZgedgeError where one of the files is there already."""
    for path in written:
        if os.path.lexists(path):
            raise ZgedgeError(
                f"{path} is there already.", "Give --force to replace it, or --out another name."
            )


def make(
    model: Model,
    target: str,
    form: str,
    out: str,
    *,
    softmax: bool = False,
    learning: bool = False,
    samples: bool = False,
    input_type: str | None = None,
    data: Any = None,
) -> Any:
    """What the target's exporter makes of a model. Raises what the exporter raises.

    `out` is the file to be; C names its functions after it. `samples` lets remembered samples leave
    with a learner. `input_type` is TFLite's. `data` are raw samples that the form `qdq` finds its
    scales on.
    """
    module = importlib.import_module(TARGETS[target].module)
    if target == "onnx":
        return module.to_onnx(model, form, softmax=softmax, samples=data)
    if target == "tflite":
        return module.to_tflite(model, form, softmax=softmax, input_type=input_type)
    return module.to_c(model, Path(out).stem, learning, samples=samples)


def contents(target: str, export: Any) -> list[bytes]:
    """Bytes of each file, in the order of `paths`."""
    if target == "c":
        return [export.source.encode(), export.header.encode()]
    return [export]


def write(written: list[str], parts: list[bytes]) -> None:
    """Write the files, each replaced as a whole. Raises ZgedgeError."""
    for path, part in zip(written, parts, strict=True):
        files.replace_file(path, part)
