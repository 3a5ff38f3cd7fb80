"""What Android's tools read from a TFLite file: the entry TFLITE_METADATA and the file of labels.

The entry is a flatbuffer of its own, by tflite-support's metadata_schema.fbs, of which no package
of ours has a writer: numbers of fields are those of that schema. Associated files lie in a ZIP
archive behind the model, where every reader of flatbuffers ignores them.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zgedge.export.source import need
from zgedge.export.tflite_file import Layouts, end_table

ENTRY = "TFLITE_METADATA"
LABELS = "labels.txt"
_IDENTIFIER = b"M001"
_PARSER = "1.0.0"  # the first version of the schema
_AXIS_LABELS = 2  # of AssociatedFileType
_FEATURES, _IMAGE = 1, 2  # of ContentProperties
_COLORS = {3: 1, 1: 2}  # ColorSpaceType by channels: RGB, grayscale
_NORMALIZATION = 1  # of ProcessUnitOptions


@dataclass(frozen=True)
class About:
    """A tensor of the signature.

    `picture` is (height, width, channels) where it is one. A normalized input is (x - mean) / std.
    `labels` names the file whose lines are the places of the last axis.
    """

    name: str
    description: str
    picture: tuple[int, int, int] | None = None
    mean: float | None = None
    std: float = 1.0
    labels: str | None = None


def entry(
    name: str, description: str, version: str, inputs: Sequence[About], outputs: Sequence[About]
) -> bytes:
    """The bytes of TFLITE_METADATA, about a model of one subgraph."""
    w = _Writer()
    subgraph = w.table(8, {
        2: w.tables([w.about(tensor) for tensor in inputs]),
        3: w.tables([w.about(tensor) for tensor in outputs]),
    })  # fmt: skip
    root = w.table(8, {
        0: w.text(name), 1: w.text(description), 2: w.text(version), 3: w.tables([subgraph]),
        7: w.text(_PARSER),
    })  # fmt: skip
    w.b.Finish(root, _IDENTIFIER)
    return bytes(w.b.Output())


def with_labels(model: bytes, class_names: Sequence[str]) -> bytes:
    """The model with its classes behind it, one a line, as the associated file `labels.txt`."""
    lines = "".join(" ".join(name.splitlines()) + "\n" for name in class_names)
    whole = io.BytesIO(model)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS), lines.encode())  # dated 1980, so always the same
    return whole.getvalue()


class _Writer:
    def __init__(self) -> None:
        self.b: Any = need("flatbuffers").Builder(1 << 10)
        self.layouts: Layouts = {}

    def text(self, value: str) -> int:
        return int(self.b.CreateString(value))

    def tables(self, offsets: Sequence[int]) -> int:
        self.b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.b.PrependUOffsetTRelative(offset)
        return int(self.b.EndVector())

    def table(
        self, fields: int, offsets: dict[int, int], small: dict[int, int] | None = None
    ) -> int:
        """A table of so many fields: offsets by number, and numbers of one byte by number."""
        self.b.Prep(4, 0)  # a table without fields would have the length of what aligns it
        self.b.StartObject(fields)
        for field, offset in offsets.items():
            self.b.PrependUOffsetTRelativeSlot(field, offset, 0)
        for field, value in (small or {}).items():
            self.b.PrependUint8Slot(field, value, 0)
        return self.end()

    def end(self) -> int:
        return end_table(self.b, self.layouts, type(self.b).EndObject)

    def about(self, tensor: About) -> int:
        fields = {
            0: self.text(tensor.name),
            1: self.text(tensor.description),
            3: self.content(tensor.picture),
        }
        if tensor.mean is not None:
            mean, std = (
                int(self.b.CreateNumpyVector(np.array([value], np.float32)))
                for value in (tensor.mean, tensor.std)
            )
            options = self.table(2, {0: mean, 1: std})
            unit = self.table(2, {1: options}, {0: _NORMALIZATION})
            fields[4] = self.tables([unit])
        if tensor.labels is not None:
            name, what = self.text(tensor.labels), self.text("The classes, in order.")
            fields[6] = self.tables([self.table(5, {0: name, 1: what}, {2: _AXIS_LABELS})])
        return self.table(7, fields)

    def content(self, picture: tuple[int, int, int] | None) -> int:
        if picture is None:
            return self.table(3, {1: self.table(0, {})}, {0: _FEATURES})
        height, width, channels = picture
        self.b.StartObject(2)
        self.b.PrependUint32Slot(0, width, 0)
        self.b.PrependUint32Slot(1, height, 0)
        size = self.end()
        image = self.table(2, {1: size}, {0: _COLORS.get(channels, 0)})
        return self.table(3, {1: image}, {0: _IMAGE})
