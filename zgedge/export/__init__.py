"""A model for other runtimes: ONNX, TFLite and plain C, with the very same integers.

Each exporter takes an open `zgedge.runtime.Model` and returns what is to be written. The numbers
are those of the file; nothing is computed again from floats, but for the form `qdq` of ONNX. What
packages an exporter needs is imported when it is called: `pip install 'zgedge[export]'`.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["to_c", "to_onnx", "to_tflite"]

_HOMES = {
    "to_onnx": "zgedge.export.onnx",
    "to_tflite": "zgedge.export.tflite",
    "to_c": "zgedge.export.c",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'zgedge.export' has no attribute {name!r}")
