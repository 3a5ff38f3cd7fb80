"""Ctrl-C at a moment of our own."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupts:
    """Holds Ctrl-C back: who enters it looks with `asked` where an end does no harm.

    A second Ctrl-C is not held back. Where `held` is False, or outside the main thread, which
    alone is told of signals, nothing changes.
    """

    def __init__(self, held: bool) -> None:
        self._held = held and threading.current_thread() is threading.main_thread()
        self._asked = False
        self._before: Callable[[int, FrameType | None], Any] | int | None = None

    def __enter__(self) -> Interrupts:
        if self._held:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._held:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def asked(self) -> bool:
        """Whether Ctrl-C was pressed."""
        return self._asked
