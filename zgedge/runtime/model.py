"""Model: open a .zge file and predict."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge import arena as files
from zgedge.arena import Arena
from zgedge.errors import DataError, ModelError, UsageError
from zgedge.runtime import core_library as core

UNKNOWN = "unknown"
UNKNOWN_INT = -1
NUMBERS = "fiub"  # kinds of numpy's types that are copied to float32 or uint8 as they are


class Model:
    """An open model.

    Everything that predicting touches is in one buffer of the file's length, held privately: the
    file itself is not written. A model serves one thread at a time.
    """

    def __init__(self, buffer: files.UInt8, name: str = "model") -> None:
        """Open an arena in memory: uint8, its start a multiple of 8 bytes, not copied.

        Raises ModelError where it is not a whole, sound model, UsageError where it is not writable
        bytes that follow each other.
        """
        whole = isinstance(buffer, np.ndarray) and buffer.dtype == np.uint8 and buffer.ndim == 1
        if not (whole and buffer.flags.c_contiguous and buffer.flags.writeable):
            raise UsageError(
                f"{name}: a model is opened in a writable array of bytes.",
                "Use Model.open(path), or zgedge.arena.aligned for memory of your own.",
            )
        self.name = name
        self._handle_memory = ctypes.create_string_buffer(core.lib.zge_model_bytes() + 64)
        start = ctypes.addressof(self._handle_memory)
        self._handle = ctypes.c_void_p(start + -start % 64)
        fault = core.Fault()
        status = core.lib.zge_model_open(
            self._handle, buffer.ctypes.data, len(buffer), ctypes.byref(fault)
        )
        if status != core.OK:
            raise core.model_error(status, name, fault)
        try:
            self.arena = Arena(buffer)
        except (UnicodeDecodeError, KeyError, ValueError) as e:
            raise ModelError(f"{name}: {e}.", status=-12) from e
        self.inputs = self.arena.network.inputs
        self.int_classes = self.arena.int_classes
        self._name_classes()
        self._class = ctypes.c_int32()
        self._score = ctypes.c_uint16()
        self._class_at = ctypes.c_void_p(ctypes.addressof(self._class))
        self._score_at = ctypes.c_void_p(ctypes.addressof(self._score))
        self._one_u8 = np.zeros(self.inputs, np.uint8)
        self._one_f32 = np.zeros(self.inputs, np.float32)
        self._one_u8_at = ctypes.c_void_p(self._one_u8.ctypes.data)
        self._one_f32_at = ctypes.c_void_p(self._one_f32.ctypes.data)
        self._shape = (self.inputs,)

    def _name_classes(self) -> None:
        """Take the names of the classes from the arena."""
        names: Sequence[Any] = self.arena.class_names
        if self.int_classes:
            try:
                names = [int(n) for n in names]
            except ValueError as e:
                raise ModelError(
                    f"{self.name}: a class name is not an integer: {e}.", status=-12
                ) from e
        self.classes = np.array(names)
        # The core answers -1 for unknown, which is also the last place of this tuple.
        self._labels = (*names, UNKNOWN_INT if self.int_classes else UNKNOWN)
        self._label_array = np.array(self._labels)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Model:
        """Read and check a .zge file. Raises ModelError."""
        return cls(files.read_file(path), os.fspath(path))

    def rows(self, x: Any) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8]:
        """Samples as the core takes them: [n, inputs], uint8 as it is, all else as float32.

        Raises DataError for another shape or something that is no number.
        """
        if isinstance(x, np.ndarray) and x.dtype == np.uint8:
            out: Any = np.ascontiguousarray(x)
        else:
            try:
                if np.iscomplexobj(x):
                    raise TypeError("Complex data not supported")
                with np.errstate(over="ignore"):
                    out = np.ascontiguousarray(x, dtype=np.float32)
            except (TypeError, ValueError, OverflowError) as e:
                raise DataError(f"The samples are not numbers: {e}.") from e
        if out.ndim > 2:
            out = out.reshape(len(out), int(np.prod(out.shape[1:])))
        if out.ndim != 2 or out.shape[1] != self.inputs:
            raise DataError(
                f"The samples have shape {np.shape(x)}; {self.name} takes (n, {self.inputs}).",
                "Give one row of that many numbers for each sample.",
            )
        return out  # type: ignore[no-any-return]

    def predict_index(self, x: Any) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint16]]:
        """Class numbers [n] (-1: unknown) and scores [n] (softmax times 32,768) of x [n, inputs].

        Raises DataError for a wrong shape, NaN or infinities.
        """
        x = self.rows(x)
        classes = np.empty(len(x), np.int32)
        scores = np.empty(len(x), np.uint16)
        call = (
            core.lib.zge_model_predict_u8 if x.dtype == np.uint8 else core.lib.zge_model_predict_f32
        )
        status = call(self._handle, x.ctypes.data, len(x), classes.ctypes.data, scores.ctypes.data)
        core.check(status, self.name)
        return classes, scores

    def predict(self, x: Any) -> npt.NDArray[Any]:
        """Labels [n] of samples x [n, inputs], raw values as the training data had them.

        A sample under the model's threshold gets "unknown" (-1 where classes are integers).
        Raises DataError for a wrong shape, NaN or infinities.
        """
        labels: npt.NDArray[Any] = self._label_array[self.predict_index(x)[0]]
        return labels

    def predict_one(self, x: Any) -> Any:
        """Label of one sample x [inputs]. Raises DataError as `predict` does."""
        if type(x) is np.ndarray and x.shape == self._shape and x.dtype.kind in NUMBERS:
            if x.dtype == np.uint8:
                self._one_u8[:] = x
                status = core.lib.zge_model_predict_u8(
                    self._handle, self._one_u8_at, 1, self._class_at, self._score_at
                )
            else:
                if x.dtype == np.float32:
                    self._one_f32[:] = x
                else:
                    with np.errstate(over="ignore"):  # infinities are refused by the core
                        self._one_f32[:] = x
                status = core.lib.zge_model_predict_f32(
                    self._handle, self._one_f32_at, 1, self._class_at, self._score_at
                )
            if status:
                core.check(status, self.name)
            return self._labels[self._class.value]
        return self.predict(x[None] if isinstance(x, np.ndarray) else [x])[0]

    def predict_proba(self, x: Any) -> npt.NDArray[np.float64]:
        """Softmax [n, classes that have a name] of samples x [n, inputs]; each row sums to 1.

        The shares are the core's integers, of which a row's sum may miss 32,768 by rounding.
        """
        x = np.asarray(self.rows(x), np.float32)
        scores = np.empty((len(x), self.arena.network.classes), np.uint16)
        status = core.lib.zge_model_scores_f32(
            self._handle, x.ctypes.data, len(x), scores.ctypes.data
        )
        core.check(status, self.name)
        share = scores[:, : len(self.classes)].astype(np.float64)
        # Logits closer than a step of the table have equal shares; the class is still the larger.
        share[np.arange(len(x)), self.logits(x).argmax(axis=1)] += 0.5
        proba: npt.NDArray[np.float64] = share / share.sum(axis=1, keepdims=True)
        return proba

    def logits(self, x: Any) -> npt.NDArray[np.int32]:
        """Integer logits [n, classes that have a name] of samples x [n, inputs], in steps of
        s_in * s_w."""
        x = np.asarray(self.rows(x), np.float32)
        logits = np.empty((len(x), self.arena.network.classes), np.int32)
        status = core.lib.zge_model_logits_f32(
            self._handle, x.ctypes.data, len(x), logits.ctypes.data
        )
        core.check(status, self.name)
        return logits[:, : len(self.classes)]

    def seal(self) -> None:
        """Make the arena's bytes a valid file again: scratch zeroed, checksums renewed, the
        generation counted up. Predicting and learning write into the arena."""
        core.check(core.lib.zge_model_seal(self._handle), self.name)

    def to_bytes(self) -> bytes:
        """The arena as a file's bytes."""
        self.seal()
        return self.arena.buffer.tobytes()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the arena as a file, atomically. Raises ZgedgeError where that fails."""
        self.seal()
        files.replace_file(path, self.arena.buffer)
