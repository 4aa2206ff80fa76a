"""Mutations of bytes and of lines of text, for whatever is no document any more."""

from __future__ import annotations

import re
from collections.abc import Callable

from fuzzing.trees import NUMBERS, WORDS, Chance

_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
MOST_BYTES = 400_000
#: Pieces of text that some parser treats in a way of its own.
PIECES = [
    b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3\x28", b"\r", b"\n", b"\t", b"'", b'"', b"{", b"}", b"[", b"]", b",",
    b": ", b"&a ", b"*a", b"<<: *a", b"!!python/object:os.system", b"!!binary ", b"!!set ", b"! ", b"---\n", b"...\n",
    b"%YAML 1.1\n", b"? ", b"| ", b">-\n", b"# ", b"- ", b"=", b".nan", b"-.inf", b"0x1F", b"0o17", b"1_000", b"1:30",
    b"yes", b"no", b"~", b"2001-01-01", b"\\ud800", b"\\", b"a: &x [*x]\n", b"[" * 60, b"{a: " * 60, b"[" * 3000,
    b'{"a":' * 3000, b"9" * 30, b"9" * 5000, b"1e400", b"\x1b[2J", b"\xe2\x80\xa8", b"\xc2\x85",
]  # fmt: skip
Step = Callable[[bytes, Chance, bytes], bytes]


def mutate_bytes(data: bytes, chance: Chance, other: bytes, *, text: bool) -> bytes:
    """Changed bytes. text: pieces, numbers and lines are exchanged too."""
    steps = [*_BINARY, *_TEXT] if text else _BINARY
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        data = chance.choice(steps)(data, chance, other)[:MOST_BYTES]
    return data


def _cut(data: bytes, chance: Chance) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 2, 4, 8, 30, 400)))


def _flip(data: bytes, chance: Chance, other: bytes) -> bytes:
    if not data:
        return b"\x00"
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def _overwrite(data: bytes, chance: Chance, other: bytes) -> bytes:
    start, end = _cut(data, chance)
    byte = chance.choice((0, 0xFF, 0x7F, 0x80, chance.randrange(256)))
    return data[:start] + bytes([byte]) * (end - start) + data[end:]


def _truncate(data: bytes, chance: Chance, other: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _remove(data: bytes, chance: Chance, other: bytes) -> bytes:
    start, end = _cut(data, chance)
    return data[:start] + data[end:]


def _repeat(data: bytes, chance: Chance, other: bytes) -> bytes:
    start, end = _cut(data, chance)
    return data[:end] + data[start:end] * chance.choice((1, 3, 50)) + data[end:]


def _splice(data: bytes, chance: Chance, other: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _insert(data: bytes, chance: Chance, other: bytes) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.choice(PIECES) + data[place:]


def _renumber(data: bytes, chance: Chance, other: bytes) -> bytes:
    """One number of the text becomes another."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return _insert(data, chance, other)
    spot = chance.choice(found)
    new = str(chance.choice((*NUMBERS, *(word for word in WORDS if len(word) < 30)))).encode("utf-8", "replace")
    return data[: spot.start()] + new + data[spot.end() :]


def _lines(data: bytes, chance: Chance, other: bytes) -> bytes:
    """A line lost, doubled, moved, or taken from elsewhere."""
    lines = data.split(b"\n")
    place = chance.randrange(len(lines))
    line = lines[place]
    what = chance.randrange(4)
    if what == 0:
        del lines[place]
    elif what == 1:
        lines.insert(chance.randrange(len(lines) + 1), line)
    elif what == 2:
        lines[place] = chance.choice(other.split(b"\n"))
    else:
        lines.insert(place, chance.choice(other.split(b"\n")))
    return b"\n".join(lines)


_BINARY: list[Step] = [_flip, _flip, _flip, _overwrite, _overwrite, _truncate, _remove, _repeat, _splice]
_TEXT: list[Step] = [_insert, _insert, _renumber, _renumber, _renumber, _renumber, _lines, _lines, _lines]
