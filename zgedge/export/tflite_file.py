"""A TFLite file under construction: tensors and operators in the order in which they are added.

The schema is that of the package `tflite`; nothing here knows of networks. Same calls, same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zgedge.export.source import need

SCHEMA_VERSION = 3
SIGNATURE = "serving_default"
NONE, RELU = 0, 1  # of ActivationFunctionType
# Versions of FULLY_CONNECTED: the first that takes int8, a sparse int8 matrix, and a scale for each
# row. A runtime that is too old refuses a version that it does not know.
INT8_FULLY_CONNECTED, SPARSE_FULLY_CONNECTED, ROWS_FULLY_CONNECTED = 4, 8, 12
_BEFORE_BUILTIN_CODE = 127  # the largest operator code that fits the schema's old field

Layouts = dict[int, dict[Any, int]]  # of tables, by their length


@dataclass(frozen=True)
class Blocks:
    """A matrix of which only blocks of neighbours in a row are stored.

    values  [blocks, block]; block j of row r lies between starts[r] and starts[r + 1], at
            places[j] * block
    """

    values: npt.NDArray[np.int8]
    starts: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


def end_table(builder: Any, layouts: Layouts, end: Callable[[Any], int]) -> int:
    """End the table that is being written; returns its offset.

    Tables share the layout that flatbuffers looks up in `vtables`. Some versions let those of
    different lengths share one, others do not; so none can here, and all write the same bytes.
    """
    builder.vtables = layouts.setdefault(builder.Offset() - builder.objectEnd, {})
    return int(end(builder))


class TfliteFile:
    """Children come before parents in a flatbuffer, so what is added is written at once."""

    def __init__(self) -> None:
        self.t: Any = need("tflite")
        self.builder: Any = need("flatbuffers").Builder(1 << 16)
        self.codes: list[tuple[int, int]] = []
        self._layouts: Layouts = {}
        self._buffers: list[bytes] = [b""]  # TFLite wants the first one empty
        self._tensors: list[int] = []
        self._operators: list[int] = []

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: str = "INT8",
        content: npt.NDArray[Any] | Blocks | None = None,
        *,
        scale: npt.ArrayLike | None = None,
        zero: int = 0,
        axis: int = 0,
        batch: bool = False,
    ) -> int:
        """Append a tensor; returns its number.

        `kind` is a name of TensorType. Constants have `content`. `scale` is a number, or one for
        each place along `axis`; None where the tensor is not quantized. `batch`: the first
        dimension may be resized.
        """
        t, b = self.t, self.builder
        sparsity = self._sparsity(content, *shape) if isinstance(content, Blocks) else 0
        if isinstance(content, Blocks):
            content = content.values
        buffer = 0
        if content is not None:
            little = np.ascontiguousarray(content).astype(content.dtype.newbyteorder("<"))
            self._buffers.append(little.tobytes())
            buffer = len(self._buffers) - 1
        quantization = 0
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            scale_at = b.CreateNumpyVector(scales)
            zero_at = b.CreateNumpyVector(np.full(scales.shape, zero, np.int64))
            t.QuantizationParametersStart(b)
            t.QuantizationParametersAddScale(b, scale_at)
            t.QuantizationParametersAddZeroPoint(b, zero_at)
            t.QuantizationParametersAddQuantizedDimension(b, axis)
            quantization = self._end(t.QuantizationParametersEnd)
        name_at, shape_at = b.CreateString(name), self._ints(shape)
        signature_at = self._ints([-1, *shape[1:]]) if batch else 0
        t.TensorStart(b)
        t.TensorAddShape(b, shape_at)
        t.TensorAddType(b, getattr(t.TensorType, kind))
        t.TensorAddBuffer(b, buffer)
        t.TensorAddName(b, name_at)
        if quantization:
            t.TensorAddQuantization(b, quantization)
        if sparsity:
            t.TensorAddSparsity(b, sparsity)
        if signature_at:
            t.TensorAddShapeSignature(b, signature_at)
        self._tensors.append(self._end(t.TensorEnd))
        return len(self._tensors) - 1

    def operator(
        self, code: str, inputs: Sequence[int], output: int, version: int = 1, **options: Any
    ) -> int:
        """Append an operator that writes tensor `output`, and return that.

        `code` is a name of BuiltinOperator, `version` the first in which the operator does what
        its tensors ask of it. `options` are fields of the operator's table of options; the key
        `table` names it.
        """
        t, b = self.t, self.builder
        key = (getattr(t.BuiltinOperator, code), version)
        if key not in self.codes:
            self.codes.append(key)
        table = options.pop("table", None)
        options_at = 0
        if table is not None:
            b.Prep(4, 0)  # a table without fields would have the length of what aligns it
            getattr(t, f"{table}Start")(b)
            for field, value in options.items():
                getattr(t, f"{table}Add{field}")(b, value)
            options_at = self._end(getattr(t, f"{table}End"))
        inputs_at, outputs_at = self._ints(inputs), self._ints([output])
        t.OperatorStart(b)
        t.OperatorAddOpcodeIndex(b, self.codes.index(key))
        t.OperatorAddInputs(b, inputs_at)
        t.OperatorAddOutputs(b, outputs_at)
        if table is not None:
            t.OperatorAddBuiltinOptionsType(b, getattr(t.BuiltinOptions, table))
            t.OperatorAddBuiltinOptions(b, options_at)
        self._operators.append(self._end(t.OperatorEnd))
        return output

    def finish(
        self,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        *,
        description: str = "",
        metadata: Mapping[str, bytes] | None = None,
    ) -> bytes:
        """The whole file; `inputs` and `outputs` are tensors by the names that its one signature
        gives them, `metadata` contents by name."""
        t, b = self.t, self.builder
        subgraphs_at = self._tables([self._subgraph(inputs, outputs)])
        signatures_at = self._tables([self._signature(inputs, outputs)])
        codes_at = self._tables([self._operator_code(*key) for key in self.codes])
        metadata_at = self._tables([self._metadata(*item) for item in (metadata or {}).items()])
        buffers_at = self._tables([self._buffer(content) for content in self._buffers])
        description_at = b.CreateString(description)
        t.ModelStart(b)
        t.ModelAddVersion(b, SCHEMA_VERSION)
        t.ModelAddOperatorCodes(b, codes_at)
        t.ModelAddSubgraphs(b, subgraphs_at)
        t.ModelAddDescription(b, description_at)
        t.ModelAddBuffers(b, buffers_at)
        t.ModelAddMetadata(b, metadata_at)
        t.ModelAddSignatureDefs(b, signatures_at)
        b.Finish(self._end(t.ModelEnd), b"TFL3")
        return bytes(b.Output())

    def _end(self, end: Callable[[Any], int]) -> int:
        return end_table(self.builder, self._layouts, end)

    def _tables(self, offsets: Sequence[int]) -> int:
        b = self.builder
        b.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            b.PrependUOffsetTRelative(offset)
        return int(b.EndVector())

    def _ints(self, values: Sequence[int]) -> int:
        return int(self.builder.CreateNumpyVector(np.asarray(values, np.int32)))

    def _sparsity(self, blocks: Blocks, rows: int, columns: int) -> int:
        """Rows dense, blocks of a row as compressed sparse rows, the values of a block dense."""
        t, b = self.t, self.builder
        block = blocks.values.shape[1]
        starts = self._index_vector(blocks.starts)
        places = self._index_vector(blocks.places)
        dimensions = [
            self._dimension(rows, None),
            self._dimension(columns // block, (starts, places)),
            self._dimension(block, None),
        ]
        order_at, map_at = self._ints([0, 1, 2]), self._ints([1])
        dimensions_at = self._tables(dimensions)
        t.SparsityParametersStart(b)
        t.SparsityParametersAddTraversalOrder(b, order_at)
        t.SparsityParametersAddBlockMap(b, map_at)
        t.SparsityParametersAddDimMetadata(b, dimensions_at)
        return self._end(t.SparsityParametersEnd)

    def _dimension(self, size: int, sparse: tuple[tuple[int, int], tuple[int, int]] | None) -> int:
        t, b = self.t, self.builder
        t.DimensionMetadataStart(b)
        t.DimensionMetadataAddFormat(
            b, t.DimensionType.DENSE if sparse is None else t.DimensionType.SPARSE_CSR
        )
        if sparse is None:
            t.DimensionMetadataAddDenseSize(b, size)
        else:
            (starts_kind, starts_at), (places_kind, places_at) = sparse
            t.DimensionMetadataAddArraySegmentsType(b, starts_kind)
            t.DimensionMetadataAddArraySegments(b, starts_at)
            t.DimensionMetadataAddArrayIndicesType(b, places_kind)
            t.DimensionMetadataAddArrayIndices(b, places_at)
        return self._end(t.DimensionMetadataEnd)

    def _index_vector(self, values: npt.NDArray[np.int64]) -> tuple[int, int]:
        """Kind and offset of the narrowest vector that holds these numbers."""
        t, b = self.t, self.builder
        largest = int(values.max(initial=0))
        kind, dtype = next(
            (kind, dtype)
            for kind, dtype, most in (
                ("Uint8Vector", np.uint8, 255),
                ("Uint16Vector", np.uint16, 65535),
                ("Int32Vector", np.int32, 2**31 - 1),
            )
            if largest <= most
        )
        values_at = b.CreateNumpyVector(values.astype(dtype))
        getattr(t, f"{kind}Start")(b)
        getattr(t, f"{kind}AddValues")(b, values_at)
        return getattr(t.SparseIndexVector, kind), self._end(getattr(t, f"{kind}End"))

    def _subgraph(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> int:
        t, b = self.t, self.builder
        tensors_at, operators_at = self._tables(self._tensors), self._tables(self._operators)
        inputs_at = self._ints(list(inputs.values()))
        outputs_at = self._ints(list(outputs.values()))
        name_at = b.CreateString("main")
        t.SubGraphStart(b)
        t.SubGraphAddTensors(b, tensors_at)
        t.SubGraphAddInputs(b, inputs_at)
        t.SubGraphAddOutputs(b, outputs_at)
        t.SubGraphAddOperators(b, operators_at)
        t.SubGraphAddName(b, name_at)
        return self._end(t.SubGraphEnd)

    def _signature(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> int:
        t, b = self.t, self.builder
        maps = []
        for tensors in (inputs, outputs):
            entries = []
            for name, number in tensors.items():
                name_at = b.CreateString(name)
                t.TensorMapStart(b)
                t.TensorMapAddName(b, name_at)
                t.TensorMapAddTensorIndex(b, number)
                entries.append(self._end(t.TensorMapEnd))
            maps.append(self._tables(entries))
        key_at = b.CreateString(SIGNATURE)
        t.SignatureDefStart(b)
        t.SignatureDefAddInputs(b, maps[0])
        t.SignatureDefAddOutputs(b, maps[1])
        t.SignatureDefAddSignatureKey(b, key_at)
        return self._end(t.SignatureDefEnd)

    def _operator_code(self, code: int, version: int) -> int:
        t, b = self.t, self.builder
        t.OperatorCodeStart(b)
        t.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, _BEFORE_BUILTIN_CODE))
        t.OperatorCodeAddBuiltinCode(b, code)
        t.OperatorCodeAddVersion(b, version)
        return self._end(t.OperatorCodeEnd)

    def _metadata(self, name: str, content: bytes) -> int:
        t, b = self.t, self.builder
        self._buffers.append(content)
        name_at = b.CreateString(name)
        t.MetadataStart(b)
        t.MetadataAddName(b, name_at)
        t.MetadataAddBuffer(b, len(self._buffers) - 1)
        return self._end(t.MetadataEnd)

    def _buffer(self, content: bytes) -> int:
        t, b = self.t, self.builder
        data_at = 0
        if content:
            # CreateByteVector would align to 1 byte; the runtime wants weights at 16.
            b.StartVector(1, len(content), 16)
            b.head -= len(content)
            b.Bytes[b.head : b.head + len(content)] = content
            data_at = b.EndVector()
        t.BufferStart(b)
        if content:
            t.BufferAddData(b, data_at)
        return self._end(t.BufferEnd)
