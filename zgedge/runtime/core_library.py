"""The C core behind ctypes: one shared library, its calls typed, its errors turned into ours.

`core/zge.h` is the manual of every call. Pointers that a hot loop passes are made once by the
caller and kept; a call then costs some 200 ns.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import (
    POINTER,
    c_char_p,
    c_float,
    c_int32,
    c_size_t,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)

from zgedge import network as net
from zgedge.errors import DataError, ModelError, UsageError, ZgedgeError

OK = 0
E_ARGUMENT, E_INPUT, E_LABEL, E_NO_LEARNING, E_VARIANT, E_NO_GUARD = -1, -14, -15, -16, -17, -18
E_ROOM, E_NAME, E_ID = -19, -20, -21
HINTS = {
    -2: "Check the path: a model file is written by `zgedge train`.",
    -3: "Install the version of zgedge that wrote it.",
    -4: "Copy the file again, whole.",
    -5: "Copy the file again, or take the last good copy.",
}


class Tick(ctypes.Structure):
    """zge_tick: what a learning step reports."""

    _fields_ = [
        (name, c_uint32)
        for name in (
            "correct", "rewired", "clamped", "replayed", "anchored", "drift", "guard",
        )
    ]  # fmt: skip


class Fault(ctypes.Structure):
    """zge_fault: where a check failed."""

    _fields_ = [
        ("status", c_int32),
        ("section", c_uint32),
        ("layer", c_uint32),
        ("offset", c_uint32),
    ]


class Config(ctypes.Structure):
    """zge_config: how a learner learns."""

    _fields_ = [
        ("rate", c_float),
        ("learn", c_uint32),
        ("strategy", c_uint32),
        ("swaps", c_uint32),
        ("gather", c_uint32),
        ("keep", c_uint32),
    ]


_CALLS = {
    "zge_version": (c_uint32, []),
    "zge_model_bytes": (c_size_t, []),
    "zge_status_text": (c_char_p, [c_int32]),
    "zge_model_open": (c_int32, [c_void_p, c_void_p, c_size_t, POINTER(Fault)]),
    "zge_model_seal": (c_int32, [c_void_p]),
    "zge_model_predict_f32": (c_int32, [c_void_p, c_void_p, c_uint32, c_void_p, c_void_p]),
    "zge_model_predict_u8": (c_int32, [c_void_p, c_void_p, c_uint32, c_void_p, c_void_p]),
    "zge_model_logits_f32": (c_int32, [c_void_p, c_void_p, c_uint32, c_void_p]),
    "zge_model_scores_f32": (c_int32, [c_void_p, c_void_p, c_uint32, c_void_p]),
    "zge_learner_configure": (c_int32, [c_void_p, POINTER(Config)]),
    "zge_learner_config": (c_int32, [c_void_p, POINTER(Config)]),
    "zge_learner_step_f32": (
        c_int32,
        [c_void_p, c_void_p, c_void_p, c_uint32, c_uint32, c_void_p, c_void_p],
    ),
    "zge_learner_step_u8": (
        c_int32,
        [c_void_p, c_void_p, c_void_p, c_uint32, c_uint32, c_void_p, c_void_p],
    ),
    "zge_replay_store_f32": (c_int32, [c_void_p, c_void_p, c_void_p, c_uint32]),
    "zge_replay_clear": (c_int32, [c_void_p]),
    "zge_learner_watch_f32": (c_int32, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "zge_learner_watch_u8": (c_int32, [c_void_p, c_void_p, c_void_p, c_void_p]),
    "zge_learner_accept": (c_int32, [c_void_p]),
    "zge_learner_rollback": (c_int32, [c_void_p]),
    "zge_learner_hold_f32": (c_int32, [c_void_p, c_uint64, c_void_p, c_void_p]),
    "zge_learner_hold_u8": (c_int32, [c_void_p, c_uint64, c_void_p, c_void_p]),
    "zge_learner_settle": (
        c_int32,
        [c_void_p, c_uint64, c_uint16, c_uint32, c_void_p, c_void_p],
    ),
    "zge_learner_add_class": (c_int32, [c_void_p, c_char_p, c_uint32, c_void_p]),
    "zge_learner_solve": (c_int32, [c_void_p, c_uint32]),
    "zge_variant_count": (c_uint32, []),
    "zge_variant_name": (c_char_p, [c_uint32]),
    "zge_variant_usable": (c_int32, [c_uint32]),
    "zge_variant_current": (c_char_p, []),
    "zge_variant_select": (c_int32, [c_char_p]),
}


def library_path() -> str:
    """Where the shared library is."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "libzge.so")


def _load() -> ctypes.CDLL:
    path = library_path()
    try:
        library = ctypes.CDLL(path)
    except OSError as e:
        raise ZgedgeError(
            f"The core {path} cannot be loaded: {e}.", "Install zgedge again: pip install ."
        ) from e
    for name, (result, arguments) in _CALLS.items():
        call = getattr(library, name)
        call.restype = result
        call.argtypes = arguments
    return library


lib = _load()


def status_text(status: int) -> str:
    text: bytes = lib.zge_status_text(status)
    return text.decode()


def version() -> str:
    """Version of the core, as text."""
    v = lib.zge_version()
    return f"{v >> 16}.{v >> 8 & 255}.{v & 255}"


def variants() -> dict[str, bool]:
    """Kernel variants in this library, and whether this processor can run each."""
    return {
        lib.zge_variant_name(i).decode(): bool(lib.zge_variant_usable(i))
        for i in range(lib.zge_variant_count())
    }


def variant() -> str:
    """The kernel variant in use."""
    name: bytes = lib.zge_variant_current()
    return name.decode()


def select_variant(name: str) -> None:
    """Use a kernel variant, for the whole process. Raises UsageError where it cannot run here."""
    if lib.zge_variant_select(name.encode()) != OK:
        usable = ", ".join(n for n, ok in variants().items() if ok)
        raise UsageError(f"Kernel variant {name!r} cannot run here.", f"Take one of: {usable}.")


def model_error(status: int, where: str, fault: Fault | None = None) -> ModelError:
    """The error for a file that the core refused."""
    text = status_text(status)
    place = ""
    if fault is not None and fault.section:
        place = f" (section {net.SECTION_NAMES.get(fault.section, fault.section)}"
        place += f", layer {fault.layer}" if fault.layer else ""
        place += f", byte {fault.offset})"
    elif fault is not None and fault.offset:
        place = f" (byte {fault.offset})"
    return ModelError(f"{where}: {text}{place}.", HINTS.get(status), status=status)


def check(status: int, where: str) -> None:
    """Raise what a failed call on an open arena means."""
    if status == OK:
        return
    text = f"{where}: {status_text(status)}."
    if status == E_INPUT:
        raise DataError(text, "Remove or fill in those values; `zgedge data check` lists them.")
    if status in (E_LABEL, E_NAME, E_ID):
        raise DataError(text)
    if status == E_NO_LEARNING:
        raise ModelError(text, "Train it without --no-learning.", status=status)
    if status == E_NO_GUARD:
        raise ModelError(
            text,
            "Train it on more rows, or to a larger budget: `zgedge train` says why there is no "
            "guard.",
            status=status,
        )
    raise UsageError(text)
