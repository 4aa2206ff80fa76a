"""One step from a case to a broken one: by what each file is, as a document where it still is one, else as bytes."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import lru_cache
from typing import Any

import yaml

from fuzzing.blobs import MOST_BYTES, PIECES, mutate_bytes
from fuzzing.case import Case
from fuzzing.gguf_parts import mutate_gguf, put_together, take_apart
from fuzzing.trees import Chance, hostile, mutate_tree

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def mutate(case: Case, other: Case, chance: Chance, words: list[str]) -> Case:
    """A broken copy of `case`. other: where parts are taken from; words: keys worth trying."""
    names = list(case)
    name = names[0] if len(names) == 1 or chance.random() < 0.5 else chance.choice(names)
    pool = [data for key, data in other.items() if key.rpartition(".")[2] == name.rpartition(".")[2]]
    changed = dict(case)
    changed[name] = _mutated(name, case[name], pool[0] if pool else b"", chance, words)[:MOST_BYTES]
    if len(names) > 1 and chance.random() < 0.05:
        del changed[chance.choice(names[1:])]
    return changed


def _mutated(name: str, data: bytes, other: bytes, chance: Chance, words: list[str]) -> bytes:
    kind = name.rpartition(".")[2]
    if name == "call.json":
        return _call(read_tree(data), read_tree(other), chance, words)
    if kind == "gguf":
        parts = take_apart(data) if chance.random() < 0.85 else None
        if parts is None:
            return mutate_bytes(data, chance, other, text=False)
        return put_together(mutate_gguf(parts, chance, words, take_apart(other) if other else None))
    if kind == "safetensors":
        return _safetensors(data, other, chance, words)
    if kind in ("json", "yaml") and chance.random() < 0.8:
        tree = read_tree(data)
        if tree is not None:
            with suppress(RecursionError):  # nested too deep for the mutator, which then knows only bytes
                return written(mutate_tree(tree, chance, words, read_tree(other)), chance, as_json=kind == "json")
    if kind == "jsonl" and chance.random() < 0.6:
        return _one_line(data, chance, words)
    return mutate_bytes(data, chance, other, text=True)


@lru_cache(maxsize=4000)
def read_tree(data: bytes) -> Any:
    """The document in some bytes, not to be changed in place; None where there is none (or one too large)."""
    if len(data) > 60_000:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        pass
    if b"!!" in data or b"&" in data or data.lstrip()[:1] in (b"{", b"["):
        return None
    try:
        tree = yaml.load(data, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError, TypeError):
        return None
    return tree if isinstance(tree, dict | list) else None


def written(tree: Any, chance: Chance, *, as_json: bool) -> bytes:
    """A document as text: JSON, or YAML in either style, now and then with a key twice or an alias."""
    try:
        if as_json or chance.random() < 0.6:
            return _doubled(json.dumps(tree, default=str), chance)
        text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
        if chance.random() < 0.05:
            text += chance.choice(("name: again\n", "extra: &a [1]\nmore: *a\n", "<<: {layers: 3}\n", "--- {}\n"))
        return text.encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError, yaml.YAMLError):
        return chance.choice(PIECES)


def _doubled(text: str, chance: Chance) -> bytes:
    if chance.random() < 0.04 and text.startswith("{") and ":" in text:
        text = "{" + text[1:].split(",", maxsplit=1)[0].rstrip("}") + "," + text[1:]
    return text.encode("utf-8", "surrogatepass")


def _call(call: list[str], other: list[str], chance: Chance, words: list[str]) -> bytes:
    """Words of a command line lost, moved, exchanged for hostile ones; options added, with a value or without."""
    call = list(call)
    for _ in range(chance.choice((1, 1, 2, 3))):
        place = chance.randrange(1, len(call) + 1)
        word = str(hostile(chance))[:300] if chance.random() < 0.7 else chance.choice([*other, *words])
        what = chance.randrange(6)
        if what == 0 and place < len(call):
            del call[place]
        elif what <= 2 and place < len(call):
            call[place] = word
        elif what == 3:
            call.insert(place, chance.choice(words))
        elif what == 4:
            call += [chance.choice(words), word]
        else:
            call.append(f"{chance.choice(words)}={word}")
    return json.dumps(call[:40] or [""]).encode()


def _one_line(data: bytes, chance: Chance, words: list[str]) -> bytes:
    """One record of JSON lines, changed as a document."""
    lines = data.split(b"\n")
    place = chance.randrange(len(lines))
    tree = read_tree(lines[place])
    lines[place] = json.dumps(hostile(chance) if tree is None else mutate_tree(tree, chance, words, tree)).encode()
    return b"\n".join(lines)


def _safetensors(data: bytes, other: bytes, chance: Chance, words: list[str]) -> bytes:
    """The header changed as a document, its length made right again (mostly), the data left as it was."""
    length = int.from_bytes(data[:8], "little")
    tree = read_tree(data[8 : 8 + length]) if 2 <= length <= len(data) and chance.random() < 0.8 else None
    if tree is None:
        return mutate_bytes(data, chance, other, text=False)
    header = json.dumps(mutate_tree(tree, chance, words, tree)).encode("utf-8", "surrogatepass")
    stated = len(header) if chance.random() < 0.95 else chance.choice((0, 1, len(header) - 1, 2**31, 2**63, 2**64 - 1))
    return stated.to_bytes(8, "little") + header + data[8 + length :]
