"""A minimal GGUF writer for tests: header, metadata and tensor infos, no tensor data.

Layout: ggml/include/gguf.h, llama.cpp 0c1e57098. Everything here is written by hand on purpose: the importer must not
be tested against its own code.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
_PACK = {
    UINT8: "B", INT8: "b", UINT16: "H", INT16: "h", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?",
    UINT64: "Q", INT64: "q", FLOAT64: "d",
}  # fmt: skip

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Typed:
    """A value written with a GGUF type of its own (element type for a sequence)."""

    type: int
    value: Scalar | Sequence[Scalar]


Value = Scalar | Sequence[Scalar] | Typed


@dataclass(frozen=True)
class TensorInfo:
    """One entry of the tensor table: `shape` in GGUF order (fastest dimension first)."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int = 0


def _type_of(value: Scalar) -> int:
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return INT32 if value < 0 else UINT32 if value < 2**32 else UINT64
    return FLOAT32 if isinstance(value, float) else STRING


class Writer:
    """Bytes of one GGUF file in either byte order."""

    def __init__(self, *, version: int = 3, order: str = "<") -> None:
        self.version = version
        self.order = order

    def pack(self, form: str, *values: object) -> bytes:
        return struct.pack(self.order + form, *values)

    def string(self, text: str) -> bytes:
        raw = text.encode()
        return self.pack("Q", len(raw)) + raw

    def scalar(self, kind: int, value: Scalar) -> bytes:
        return self.string(str(value)) if kind == STRING else self.pack(_PACK[kind], value)

    def value(self, value: Value) -> bytes:
        kind = value.type if isinstance(value, Typed) else None
        plain = value.value if isinstance(value, Typed) else value
        if isinstance(plain, str) or not isinstance(plain, Sequence):
            kind = _type_of(plain) if kind is None else kind
            return self.pack("I", kind) + self.scalar(kind, plain)
        kind = max((_type_of(item) for item in plain), default=UINT32) if kind is None else kind
        body = b"".join(self.scalar(kind, item) for item in plain)
        return self.pack("IIQ", ARRAY, kind, len(plain)) + body

    def file(self, metadata: Mapping[str, Value], tensors: Sequence[TensorInfo] = ()) -> bytes:
        head = b"GGUF" + self.pack("IQQ", self.version, len(tensors), len(metadata))
        keys = b"".join(self.string(key) + self.value(value) for key, value in metadata.items())
        infos = b"".join(
            self.string(info.name)
            + self.pack("I", len(info.shape))
            + b"".join(self.pack("Q", size) for size in info.shape)
            + self.pack("IQ", info.type, info.offset)
            for info in tensors
        )
        return head + keys + infos


def gguf_bytes(metadata: Mapping[str, Value], tensors: Sequence[TensorInfo] = ()) -> bytes:
    """A little-endian GGUF v3 file."""
    return Writer().file(metadata, tensors)
