"""One tree of errors. Each class carries the exit code that the command line ends with.

| code | class | meaning |
| --- | --- | --- |
| 0 | | done |
| 1 | ZgedgeError, MissingExtraError | failed |
| 2 | UsageError | the command or the call was wrong |
| 3 | DataError | the person's data cannot be used |
| 4 | ModelError | the model file cannot be used |
| 5 | BudgetError | the budget is too small for the task |
| 6 | ProofError | the proof that memory does not grow failed |
| 7 | RemoteError | a board cannot be reached, or the connection to it was cut |
"""

from __future__ import annotations


class ZgedgeError(Exception):
    """Base of every error that zgedge raises.

    `message` says what is wrong and where; `hint` says what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class UsageError(ZgedgeError, ValueError):
    """An option or argument has a value that means nothing."""

    exit_code = 2


class DataError(ZgedgeError, ValueError):
    """Data have the wrong form: shape, type, NaN, unknown label, unreadable file."""

    exit_code = 3


class ModelError(ZgedgeError):
    """A model file is not one, is damaged, or is too new. `status` is the core's code."""

    exit_code = 4

    def __init__(self, message: str, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message, hint)
        self.status = status


class BudgetError(ZgedgeError, ValueError):
    """No network for this task fits. `smallest` is the least budget in bytes that works."""

    exit_code = 5

    def __init__(self, message: str, hint: str | None = None, smallest: int | None = None) -> None:
        super().__init__(message, hint)
        self.smallest = smallest


class ProofError(ZgedgeError):
    """The record of memory shows growth, or the run did not really learn."""

    exit_code = 6


class RemoteError(ZgedgeError):
    """A board cannot be reached, or a command failed there. `reason` is one word for it."""

    exit_code = 7

    def __init__(self, message: str, hint: str | None = None, reason: str = "other") -> None:
        super().__init__(message, hint)
        self.reason = reason


def refused(code: int, message: str, hint: str | None = None) -> ZgedgeError:
    """The error for what a service refused with an exit code, with which a command ends too."""
    kinds = (UsageError, DataError, ModelError)
    kind = next((kind for kind in kinds if kind.exit_code == code), ZgedgeError)
    return kind(message, hint)


class MissingExtraError(ZgedgeError, ImportError):
    """A part of zgedge needs packages that are not installed. `package` is the first of them."""

    package = "what it needs"

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f"{package} is not installed; this part of zgedge needs it.",
            f"Install it with: pip install 'zgedge[{extra}]'",
        )
        self.package = package
