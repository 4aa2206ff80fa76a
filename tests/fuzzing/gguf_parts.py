"""A GGUF header taken apart into typed entries and put together again, so that single values can be broken.

Written apart from the importer on purpose: it must not be fed by its own code.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gguf_bytes import ARRAY, BOOL, FLOAT32, STRING, UINT32

from fuzzing.trees import NUMBERS, WORDS, Chance

_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_RANGES = {0: (0, 2**8), 1: (-(2**7), 2**8), 2: (0, 2**16), 3: (-(2**15), 2**16), 4: (0, 2**32), 5: (-(2**31), 2**32)}
_RANGES |= {7: (0, 256), 10: (0, 2**64), 11: (-(2**63), 2**64)}


@dataclass
class Entry:
    """One metadata entry: `inner` is the element type where `type` is an array."""

    key: bytes
    type: int
    value: Any
    inner: int = 0


@dataclass
class Parts:
    """A header. counts: what it claims, where that is not the truth."""

    version: int = 3
    order: str = "<"
    entries: list[Entry] = field(default_factory=list)
    tensors: list[tuple[bytes, list[int], int, int]] = field(default_factory=list)
    counts: tuple[int, int] | None = None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.order = data, 0, "<"

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(self.order + form, self.data, self.at)
        self.at += struct.calcsize(self.order + form)
        return value

    def text(self) -> bytes:
        length = self.number("Q")
        if length > len(self.data):
            raise ValueError
        self.at += length
        return self.data[self.at - length : self.at]

    def array(self, kind: int, count: int) -> list[Any]:
        if kind not in _FORMS:
            return [self.value(kind) for _ in range(count)]
        form = f"{self.order}{count}{_FORMS[kind]}"
        self.at += struct.calcsize(form)
        return list(struct.unpack_from(form, self.data, self.at - struct.calcsize(form)))

    def value(self, kind: int) -> Any:
        return self.text() if kind == STRING else self.number(_FORMS[kind])


def take_apart(data: bytes) -> Parts | None:
    """The parts of a sound header, None for anything else."""
    reader = _Reader(data)
    try:
        if data[:4] != b"GGUF":
            return None
        reader.at, reader.order = 4, "<" if data[4] else ">"
        parts = Parts(version=reader.number("I"), order=reader.order)
        tensors, keys = reader.number("Q"), reader.number("Q")
        for _ in range(keys):
            key, kind, inner = reader.text(), reader.number("I"), 0
            if kind == ARRAY:
                inner = reader.number("I")
                value = reader.array(inner, reader.number("Q"))
            else:
                value = reader.value(kind)
            parts.entries.append(Entry(key, kind, value, inner))
        for _ in range(tensors):
            name = reader.text()
            shape = [reader.number("Q") for _ in range(reader.number("I"))]
            parts.tensors.append((name, shape, reader.number("I"), reader.number("Q")))
    except (struct.error, ValueError, KeyError, IndexError):
        return None
    return parts


def put_together(parts: Parts) -> bytes:
    """The bytes of the header; a value that its type cannot hold is wrapped into it."""

    def pack(form: str, *values: Any) -> bytes:
        return struct.pack(parts.order + form, *values)

    def text(raw: bytes) -> bytes:
        return pack("Q", len(raw)) + raw

    def scalar(kind: int, value: Any) -> bytes:
        if kind == STRING:
            return text(value if isinstance(value, bytes) else str(value).encode("utf-8", "replace"))
        if kind in (FLOAT32, 12):
            number = float(value) if isinstance(value, int | float) and not abs(value) >= 1e38 else 3e38  # nan stays
            return pack("f" if kind == FLOAT32 else "d", number)
        if kind not in _FORMS:
            return pack("I", 0)
        number = int(value) if isinstance(value, int | float) and abs(value) < 1e300 else 0
        low, span = _RANGES[kind]
        return pack(_FORMS[kind], (number - low) % span + low)

    def array(kind: int, values: list[Any]) -> bytes:
        with suppress(struct.error, KeyError, OverflowError):  # a value the type cannot hold goes one by one
            return pack(f"{len(values)}{_FORMS[kind]}", *values)
        return b"".join(scalar(kind, item) for item in values)

    tensors, keys = parts.counts or (len(parts.tensors), len(parts.entries))
    out = [b"GGUF", pack("IQQ", parts.version % 2**32, tensors % 2**64, keys % 2**64)]
    for entry in parts.entries:
        out += [text(entry.key), pack("I", entry.type % 2**32)]
        if entry.type == ARRAY:
            values = entry.value if isinstance(entry.value, list) else [entry.value]
            out += [pack("IQ", entry.inner % 2**32, len(values)), array(entry.inner, values)]
        else:
            out.append(scalar(entry.type, entry.value))
    for name, shape, kind, offset in parts.tensors:
        sizes = b"".join(pack("Q", size % 2**64) for size in shape)
        out += [text(name), pack("I", len(shape)), sizes, pack("IQ", kind % 2**32, offset % 2**64)]
    return b"".join(out)


def mutate_gguf(parts: Parts, chance: Chance, keys: list[str], other: Parts | None) -> Parts:
    """The parts with a few entries, tensors or counts changed, in place."""
    for _ in range(chance.choice((1, 1, 2, 2, 4))):
        what = chance.random()
        if what < 0.08:
            _mutate_frame(parts, chance)
        elif what < 0.2 and parts.tensors:
            _mutate_tensor(parts, chance)
        elif what < 0.35:
            _add_entry(parts, chance, keys, other)
        elif parts.entries:
            _mutate_entry(parts, chance, keys)
    return parts


def _number(chance: Chance, near: object = None) -> Any:
    if type(near) is int and chance.random() < 0.5:
        return chance.choice((near + 1, near - 1, near * 2, near // 2, near * 3, near * near, -near, 1, 0))
    return chance.choice((*NUMBERS, *range(1, 12)))


def _mutate_frame(parts: Parts, chance: Chance) -> None:
    what = chance.randrange(4)
    if what == 0:
        parts.version = chance.choice((0, 1, 2, 3, 4, 2**31, 2**32 - 1, 65536))
    elif what == 1:
        parts.order = ">"
    elif what == 2:
        counts = (len(parts.tensors), 0, 1, 2**16, 2**20 + 1, 2**31, 2**63, 2**64 - 1)
        parts.counts = (chance.choice(counts), chance.choice((len(parts.entries), *counts)))
    else:
        chance.shuffle(parts.entries)


def _mutate_tensor(parts: Parts, chance: Chance) -> None:
    place = chance.randrange(len(parts.tensors))
    name, shape, kind, offset = parts.tensors[place]
    what = chance.randrange(4)
    if what == 0 and shape:
        shape = list(shape)
        number = _number(chance, shape[0])
        shape[chance.randrange(len(shape))] = int(number) if isinstance(number, int) else 0
    elif what == 1:
        shape = shape * chance.choice((0, 2, 5, 90))
    elif what == 2:
        kind = chance.choice((*range(-1, 45), 2**31))
    else:
        name = chance.choice((b"", b"blk.0.nextn.eh_proj.weight", name * 20, b"\xff", name))
    parts.tensors[place] = (name, shape, kind, offset)
    if chance.random() < 0.2:
        parts.tensors.append(parts.tensors[place])


def _add_entry(parts: Parts, chance: Chance, keys: list[str], other: Parts | None) -> None:
    """A key of the same architecture with some value, a key of another file, or a part number."""
    architecture = next((item.value for item in parts.entries if item.key == b"general.architecture"), b"llama")
    prefix = architecture if isinstance(architecture, bytes) else b"llama"
    if other is not None and other.entries and chance.random() < 0.3:
        entry = chance.choice(other.entries)
        key = prefix + b"." + entry.key.partition(b".")[2] if chance.random() < 0.7 else entry.key
        parts.entries.append(Entry(key, entry.type, entry.value, entry.inner))
        return
    key = chance.choice((prefix + b"." + chance.choice(keys).encode(), b"split.count", b"split.no", b"general.name"))
    if chance.random() < 0.3:
        values = [_number(chance) for _ in range(chance.choice((0, 1, 3, 32)))] or [_number(chance)] * 5000
        parts.entries.append(Entry(key, ARRAY, values, chance.choice((UINT32, 5, BOOL, FLOAT32, STRING, ARRAY))))
    else:
        parts.entries.append(Entry(key, chance.choice((UINT32, UINT32, *range(14))), _number(chance)))


def _mutate_entry(parts: Parts, chance: Chance, keys: list[str]) -> None:
    place = chance.randrange(len(parts.entries))
    entry = parts.entries[place]
    what = chance.randrange(9)
    if what == 0:
        del parts.entries[place]
    elif what == 1:
        entry.type = chance.choice((*range(14), 255, 2**31))
    elif what == 2:
        entry.key = chance.choice(
            (b"", entry.key + b"x", entry.key * 9, b"\xff" + entry.key, chance.choice(keys).encode())
        )
    elif what == 3 and entry.type != ARRAY:
        parts.entries[place] = Entry(
            entry.key, ARRAY, [entry.value] * chance.choice((0, 1, 2, 31, 33, 513)), entry.type
        )
    elif isinstance(entry.value, list) and entry.value:
        if what < 6:
            entry.value = chance.choice((entry.value[:-1], entry.value * 2, entry.value[::-1], entry.value[0:1]))
        else:
            entry.value = list(entry.value)
            entry.value[chance.randrange(len(entry.value))] = _number(chance, entry.value[0])
    elif isinstance(entry.value, bytes):
        entry.value = chance.choice(
            (str(chance.choice(WORDS)).encode("utf-8", "replace"), b"\xff\xfe", entry.value[:-1])
        )
    else:
        entry.value = _number(chance, entry.value)
