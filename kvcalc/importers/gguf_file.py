"""The header of a GGUF file: metadata and tensor table, streamed. Standard library only; tensor data is never read.

Long arrays (vocabularies, merges) are walked over, not kept, so that a header of 250,000 tokens costs a fraction of a
second and one buffer of memory. Every length is checked against the bytes that are left before it is used.

Source: ggml/include/gguf.h and ggml/src/gguf.cpp (gguf_init_from_file), llama.cpp 0c1e57098.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path

from kvcalc.errors import ModelFileError, short

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 counted in 32 bits and is refused by llama.cpp too
#: A per-layer array is kept, a vocabulary is not (llama-hparams.h LLAMA_MAX_LAYERS is 512).
KEPT_ELEMENTS = 4096
KEPT_CHARACTERS = 4096
#: gguf.cpp: names of tensors are shorter than this, tensors have at most 4 dimensions.
MAX_NAME, MAX_DIMS = 128, 4
#: More strings than any vocabulary and its merges have; walking over them is what takes time.
MAX_STRINGS = 2_000_000
MAX_KEYS = 65_536
MAX_TENSORS = 1_000_000
_CHUNK = 1 << 20

_UINT8, _BOOL, _STRING, _ARRAY = 0, 7, 8, 9
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}

#: ggml type -> (elements, bytes) of one block (gguf-py constants.py GGML_QUANT_SIZES, llama.cpp 0c1e57098).
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Skipped:
    """An array (or a text) too long to keep: only its length is known."""

    count: int


Scalar = bool | int | float | str
Value = Scalar | tuple[bool | int | float, ...] | Skipped


@dataclass(slots=True)
class Tensors:
    """The tensor table, summed up. bytes is None where a tensor's type is not known.

    has_mtp: the weights of multi-token-prediction layers are in the file.
    """

    count: int = 0
    elements: int = 0
    bytes: int | None = 0
    has_mtp: bool = False
    unknown_types: set[int] = field(default_factory=set)

    def add(self, name: str, shape: tuple[int, ...], kind: int) -> None:
        self.count += 1
        self.has_mtp = self.has_mtp or name.endswith(".nextn.eh_proj.weight")
        elements = 1
        for size in shape:
            elements *= size
        self.elements += elements
        block = BLOCKS.get(kind)
        if block is None:
            self.unknown_types.add(kind)
            self.bytes = None
        elif self.bytes is not None:
            # Blocks run along the first dimension, which llama.cpp requires to be a whole number of them.
            self.bytes += -(-shape[0] // block[0]) * block[1] * (elements // shape[0] if shape[0] else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a GGUF file says before its data."""

    file: str
    version: int
    big_endian: bool
    metadata: Mapping[str, Value]
    tensors: Tensors


class _Stream:
    """A file read forwards in chunks; every read is checked against the bytes that are left."""

    def __init__(self, handle: BufferedIOBase, size: int, file: str) -> None:
        self.handle, self.size, self.file = handle, size, file
        self.order = "<"
        self.buffer = b""
        self.start = 0  # place of buffer[0] in the file
        self.at = 0  # place in the buffer

    @property
    def left(self) -> int:
        return self.size - self.start - self.at

    def error(self, what: str, fix: str = "download the file again", key: str | None = None) -> ModelFileError:
        return ModelFileError(f"{what} (byte {self.start + self.at:,})", fix=fix, file=self.file, field=key)

    def need(self, count: int, what: str) -> None:
        """Have `count` bytes in the buffer."""
        if count > self.left:
            raise self.error(f"truncated: {what} needs {count:,} bytes, {max(self.left, 0):,} are left")
        if self.at + count > len(self.buffer):
            rest = self.buffer[self.at :]
            self.start += self.at
            self.buffer = rest + self.handle.read(max(_CHUNK, count - len(rest)))
            self.at = 0
            if len(self.buffer) < count:
                raise self.error(f"truncated: {what} needs {count:,} bytes")

    def unpack(self, form: str, what: str) -> tuple[int, ...]:
        form = self.order + form
        size = struct.calcsize(form)
        self.need(size, what)
        values = struct.unpack_from(form, self.buffer, self.at)
        self.at += size
        return values

    def skip(self, count: int, what: str) -> None:
        if count > self.left:
            raise self.error(f"truncated: {what} needs {count:,} bytes, {max(self.left, 0):,} are left")
        ahead = self.at + count - len(self.buffer)
        if ahead <= 0:
            self.at += count
            return
        self.start += self.at + count
        self.handle.seek(self.start)
        self.buffer, self.at = b"", 0

    def text(self, what: str, most: int) -> str | Skipped:
        (length,) = self.unpack("Q", what)
        if length > most:
            self.skip(length, what)
            return Skipped(length)
        self.need(length, what)
        raw = self.buffer[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8", "replace")

    def skip_texts(self, count: int, what: str) -> None:
        """Walk over `count` strings: the one hot loop of a header."""
        read = struct.Struct(self.order + "Q").unpack_from
        while count:
            self.need(8, what)
            buffer, at, last = self.buffer, self.at, len(self.buffer) - 8
            while count and at <= last:
                at += 8 + read(buffer, at)[0]
                count -= 1
            ahead = at - len(buffer)
            if ahead <= 0:
                self.at = at
            else:
                self.at = len(buffer)
                self.skip(ahead, what)


def read_header(path: Path) -> Header:
    """Metadata and tensor table of one GGUF file.

    Raises: ModelFileError for anything that is not a whole, sound header.
    """
    if not path.is_file():
        raise ModelFileError(f"{path} is no file", fix="check the path", file=str(path))
    try:
        with path.open("rb") as handle:
            return _read(_Stream(handle, path.stat().st_size, str(path)))
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}", fix="check the path", file=str(path)) from None


def _read(stream: _Stream) -> Header:
    version = _version(stream)
    tensors, keys = stream.unpack("QQ", "the counts")
    # Every key takes 13 bytes or more, every tensor 24: absurd counts end here, not in a loop.
    if keys > MAX_KEYS or keys * 13 > stream.left:
        raise stream.error(f"the header claims {keys:,} metadata keys", "this is no sound GGUF")
    if tensors > MAX_TENSORS or tensors * 24 > stream.left:
        raise stream.error(f"the header claims {tensors:,} tensors", "this is no sound GGUF")
    metadata: dict[str, Value] = {}
    for _ in range(keys):
        key = stream.text("a metadata key", KEPT_CHARACTERS)
        if not isinstance(key, str) or not key:
            raise stream.error("a metadata key has an impossible length", "this is no sound GGUF")
        if key in metadata:
            raise stream.error(f"metadata key {short(key)} comes twice", "this is no sound GGUF", key)
        metadata[key] = _value(stream, key)
    table = Tensors()
    for _ in range(tensors):
        _tensor(stream, table)
    return Header(file=stream.file, version=version, big_endian=stream.order == ">", metadata=metadata, tensors=table)


def _version(stream: _Stream) -> int:
    """Magic and version. A big-endian file shows its version in the upper half of the little-endian word."""
    if stream.size < 24:
        raise stream.error("truncated: a GGUF header has at least 24 bytes")
    stream.need(8, "the magic")
    magic = stream.buffer[:4]
    if magic != MAGIC:
        fix = (
            "old GGML/GGJT files must be converted anew" if magic in (b"lmgg", b"tjgg", b"fmgg") else "name a GGUF file"
        )
        raise stream.error(f"not a GGUF file: it begins with {magic!r}", fix)
    stream.at = 4
    if struct.unpack_from("<I", stream.buffer, 4)[0] & 0xFFFF == 0:
        stream.order = ">"
    (version,) = stream.unpack("I", "the version")
    if version not in VERSIONS:
        raise stream.error(f"GGUF version {version} cannot be read", f"versions: {', '.join(map(str, VERSIONS))}")
    return version


def _value(stream: _Stream, key: str) -> Value:
    what = f"the value of {short(key)}"
    (kind,) = stream.unpack("I", what)
    if kind == _STRING:
        return stream.text(what, KEPT_CHARACTERS)
    if kind == _ARRAY:
        return _array(stream, key, what)
    if kind not in _FORMS:
        raise stream.error(f"metadata key {short(key)} has unknown type {kind}", "this is no sound GGUF", key)
    (value,) = stream.unpack(_FORMS[kind], what)
    return bool(value) if kind == _BOOL else value


def _array(stream: _Stream, key: str, what: str) -> Value:
    kind, count = stream.unpack("IQ", what)
    if kind == _STRING:
        if count > MAX_STRINGS or count * 8 > stream.left:
            raise stream.error(f"metadata key {short(key)} claims {count:,} strings", "this is no sound GGUF", key)
        stream.skip_texts(count, what)
        return Skipped(count)
    if kind not in _FORMS:
        raise stream.error(
            f"metadata key {short(key)} is an array of unknown type {kind}", "this is no sound GGUF", key
        )
    width = struct.calcsize(_FORMS[kind])
    if count * width > stream.left:
        raise stream.error(f"truncated: metadata key {short(key)} claims {count:,} elements", key=key)
    if count > KEPT_ELEMENTS:
        stream.skip(count * width, what)
        return Skipped(count)
    values = stream.unpack(f"{count}{_FORMS[kind]}", what)
    return tuple(bool(value) for value in values) if kind == _BOOL else values


def _tensor(stream: _Stream, table: Tensors) -> None:
    name = stream.text("a tensor's name", MAX_NAME)
    if not isinstance(name, str):
        raise stream.error("a tensor's name has an impossible length", "this is no sound GGUF")
    (dims,) = stream.unpack("I", f"tensor {short(name)}")
    if not 1 <= dims <= MAX_DIMS:
        raise stream.error(f"tensor {short(name)} has {dims} dimensions", "this is no sound GGUF")
    shape = stream.unpack(f"{dims}Q", f"tensor {short(name)}")
    kind, _offset = stream.unpack("IQ", f"tensor {short(name)}")
    total = 1
    for size in shape:
        total *= size
    if total > 2**62:
        raise stream.error(f"tensor {short(name)} claims {shape} elements", "this is no sound GGUF")
    table.add(name, shape, kind)
