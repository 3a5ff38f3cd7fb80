"""Packages that only a part of zgedge needs."""

from __future__ import annotations

import importlib
import signal
import sys
from types import ModuleType

from zgedge.errors import MissingExtraError
from zgedge.interrupts import Interrupts


def need(module: str, extra: str, package: str | None = None) -> ModuleType:
    """The imported module, of `package` where that has another name.

    Raises MissingExtraError, with the extra that has it, where it is not installed, and
    KeyboardInterrupt at Ctrl-C, when the import has ended.
    """
    # In the middle of an import, some packages take Ctrl-C for a module that is missing, and others
    # go on as if there had been none. Where it means something else already, it is left alone, and
    # so it is where nothing is to be imported: this is asked for each picture of a folder.
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with Interrupts(held=usual and module not in sys.modules) as interrupts:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise MissingExtraError(extra, package or module.partition(".")[0]) from error
        finally:
            if interrupts.asked():
                raise KeyboardInterrupt
