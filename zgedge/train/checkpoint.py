"""A training that was interrupted goes on from its checkpoint, and ends with the same bytes.

One file holds what the run is (`identity`: data, network, options) and where it stands. It is
replaced atomically, so that a kill at any moment leaves the old one or the new one.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from typing import Any

import numpy as np
import torch

import zgedge
from zgedge.arena import replace_file
from zgedge.data.dataset import Dataset
from zgedge.errors import UsageError, ZgedgeError
from zgedge.network import Network

KIND = "zgedge checkpoint"
MARK = f"{KIND} 3"
EVERY_SECONDS = 60.0

State = dict[str, Any]


def identity(dataset: Dataset, network: Network | None, **options: Any) -> dict[str, str]:
    """What makes a run that run and no other: another value would give other bytes.

    Without a network: what is known of it before that is chosen."""
    digest = hashlib.sha256()
    for part in (dataset.x_train, dataset.y_train):
        digest.update(np.ascontiguousarray(part).data)
    return {
        "data": f"{dataset.name} {digest.hexdigest()[:16]}",
        **({} if network is None else {"network": repr(network)}),
        "version of zgedge": zgedge.__version__,
        "version of torch": str(torch.__version__),  # a class of its own, which no load allows
        **{name.replace("_", " "): str(value) for name, value in options.items()},
    }


class Checkpoint:
    """Where a run is kept. Nothing is where the path is None.

    `state` is what `save` was last given, also by an earlier process; None at a fresh start.
    Raises UsageError where the file is of another run, ZgedgeError where it is none or unreadable.
    """

    def __init__(self, path: str | os.PathLike[str] | None, run: dict[str, str]) -> None:
        self._path = path
        self._run = run
        self._saved = time.monotonic()
        self.state: State | None = None
        if path is not None and os.path.lexists(path):
            self.state = self._load(path)

    def _load(self, path: str | os.PathLike[str]) -> State:
        try:
            with open(path, "rb") as f:
                held = torch.load(io.BytesIO(f.read()), weights_only=True, map_location="cpu")
        except OSError as e:
            raise ZgedgeError(f"Cannot read the checkpoint {path}: {e.strerror}.") from e
        except Exception as e:  # a damaged pickle fails in ways of all kinds
            raise self._no_checkpoint(path) from e
        mark = str(held.get("mark")) if isinstance(held, dict) else ""
        if not mark.startswith(KIND + " "):
            raise self._no_checkpoint(path)
        if mark != MARK:
            raise UsageError(
                f"The checkpoint {path} is of another version of zgedge.",
                "Go on with that version, or name another file.",
            )
        run, state = held.get("run"), held.get("state")
        if not isinstance(run, dict) or not isinstance(state, dict):
            raise self._no_checkpoint(path)
        for name, value in self._run.items():
            if run.get(name) != value:
                raise UsageError(
                    f"The checkpoint {path} is of another run: its {name} is not the same.",
                    "Run the command that wrote it, or name another file.",
                )
        return state

    @staticmethod
    def _no_checkpoint(path: str | os.PathLike[str]) -> ZgedgeError:
        return ZgedgeError(
            f"{path} is not a checkpoint, or is damaged.", "Name another file, or delete it."
        )

    def due(self) -> bool:
        """Whether it is time to save again."""
        return self._path is not None and time.monotonic() - self._saved >= EVERY_SECONDS

    def save(self, state: State) -> None:
        """Replace the file atomically. Raises ZgedgeError where it cannot be written."""
        self.state = state
        if self._path is None:
            return
        out = io.BytesIO()
        torch.save({"mark": MARK, "run": self._run, "state": state}, out)
        replace_file(self._path, out.getvalue())
        self._saved = time.monotonic()
