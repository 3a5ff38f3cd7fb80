"""The training log: JSON lines, from which pictures of a training are drawn.

    {"event": "start", "data", "strategy", "seed", "epochs", "steps", "batch", "threads",
     "held_out", "trunk", "layers"}
    {"event": "teacher", "steps", "trunk", "layers"}   before it, where there is one
    {"event": "wires", "when": "start" | "end", "shape", "counts"}   wires on each input, or feature
    {"event": "epoch", "epoch", "accuracy", "loss", "rate", "rewired", "seconds"}
    {"event": "end", "best_epoch", "accuracy", "validation_accuracy", "shadow_accuracy", "steps",
     "seconds", "interrupted"}

`held_out` are the rows that an epoch's accuracy is of; where they are 0, it is of training rows,
and `validation_accuracy` is null. Accuracies are shares, 0..1; `rewired` are connections for each
layer; seconds are since the start.
A run that goes on from its checkpoint writes the whole log anew: the checkpoint holds all epochs,
and the wires that training began with.
"""

from __future__ import annotations

import json
import os
from typing import Any, TextIO

from zgedge.errors import ZgedgeError


class TrainingLog:
    """Writes events to a file, or nowhere where the path is None.

    Raises ZgedgeError where the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = path
        self._file: TextIO | None = None
        if path is not None:
            try:
                self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise self._fault(error) from error

    def write(self, event: str, **fields: Any) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps({"event": event, **fields}) + "\n")
                self._file.flush()
            except OSError as error:
                raise self._fault(error) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _fault(self, error: OSError) -> ZgedgeError:
        return ZgedgeError(
            f"Cannot write the log {os.fspath(self._path or '')}: {error.strerror}.",
            "Check that its folder exists, can be written and has room.",
        )
