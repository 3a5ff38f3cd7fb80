"""Packages that only a part of zgedge needs."""

from __future__ import annotations

import importlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType

from zgedge.errors import MissingExtraError


def need(module: str, extra: str, package: str | None = None) -> ModuleType:
    """The imported module, of `package` where that has another name.

    Raises MissingExtraError, with the extra that has it, where it is not installed, and
    KeyboardInterrupt at Ctrl-C, when the import has ended.
    """
    try:
        with _whole():
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(extra, package or module.partition(".")[0]) from error


@contextmanager
def _whole() -> Iterator[None]:
    """Ctrl-C waits for the end: in the middle of an import, some packages take it for a module
    that is missing, and others go on as if there had been none."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = False

    def keep(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt
