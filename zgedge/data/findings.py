"""What is wrong with a person's data, found once and used twice.

Every reader reports faults to a `Findings`. Loading stops at the first fault; checking collects
them, so that a person sees the whole list. One code path, so the two can never disagree.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from zgedge.errors import DataError


@dataclass(frozen=True)
class Finding:
    """One fault or remark.

    `message` is a sentence that says what and where. `row` and `column` are as the person counts
    them: lines of a text file from 1, indices of an array from 0. `value` is the text of the
    offending value.
    """

    message: str
    hint: str | None = None
    row: int | None = None
    column: int | str | None = None
    value: str | None = None


class Findings:
    """Collects faults, or raises the first one.

    `keep` is the number of faults to keep in full; further ones are only counted. `None` means
    strict: the first fault is raised as a `DataError`.
    """

    def __init__(self, keep: int | None = None) -> None:
        self._keep = keep
        self.errors: list[Finding] = []
        self.notes: list[Finding] = []
        self.error_count = 0

    @property
    def strict(self) -> bool:
        return self._keep is None

    @property
    def room(self) -> int:
        """How many more faults will be kept in full."""
        return 1 if self._keep is None else self._keep - len(self.errors)

    def error(
        self,
        message: str,
        hint: str | None = None,
        *,
        row: int | None = None,
        column: int | str | None = None,
        value: str | None = None,
    ) -> None:
        """Report a fault that makes the data unusable. Raises `DataError` when strict."""
        if self.strict:
            raise DataError(message, hint)
        self.error_count += 1
        if self.room > 0:
            self.errors.append(Finding(message, hint, row, column, value))

    def count_only(self, faults: int) -> None:
        """Count faults that there is no room to describe."""
        self.error_count += faults

    def note(self, message: str, hint: str | None = None) -> None:
        """Report something that the person should know but that stops nothing."""
        self.notes.append(Finding(message, hint))


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    `errors` holds the first faults in full and `error_count` says how many there are in all.
    `rows`, `features` and `class_counts` describe the data as far as they could be read (rows are
    windows where the data are a series).
    """

    spec: str
    source: str | None
    rows: int
    features: int
    class_counts: dict[str, int]
    errors: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    error_count: int

    @property
    def ok(self) -> bool:
        """True when the data can be trained on."""
        return self.error_count == 0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        return {**asdict(self), "ok": self.ok}
