"""Data sets and streams: reading, checking, fetching, and made-up shifts (`zgedge.data.shifts`).

Needs numpy only; scikit-learn (for `digits`) and Pillow (for pictures) are imported when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zgedge.data.dataset import Dataset, class_names, data_folder, encode, label_text
from zgedge.data.findings import CheckReport, Finding
from zgedge.data.loading import Entry, catalog, check, load, load_inputs

if TYPE_CHECKING:
    from zgedge.data.download import get

__all__ = [
    "CheckReport",
    "Dataset",
    "Entry",
    "Finding",
    "catalog",
    "check",
    "class_names",
    "data_folder",
    "encode",
    "get",
    "label_text",
    "load",
    "load_inputs",
]


def __getattr__(name: str) -> Any:
    # The network modules of the standard library hold 4 MB that a device which only reads its
    # data should not pay for.
    if name == "get":
        from zgedge.data.download import get

        return get
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
