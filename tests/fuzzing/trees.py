"""Mutations of parsed documents: types exchanged, numbers out of range, keys lost, renamed, doubled, nested."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

Chance = random.Random
#: The container of a value and its key or index there.
Place = tuple[Any, Any]

NUMBERS: list[Any] = [
    0, 1, 2, 3, 7, -1, -2, 128, 255, 4096, 65536, 2**20, 2**20 + 1, 2**31 - 1, 2**31, 2**32, 2**40, 2**40 + 1, 2**60,
    2**63 - 1, 2**63, 2**64, 10**24, 10**30, -(2**63), 0.0, -0.0, 0.5, 1.0, 1.5, 1e-300, 1e15, 1e308, math.nan,
    math.inf, -math.inf,
]  # fmt: skip
WORDS: list[Any] = [
    "", " ", "0", "1", "-1", "1e9", "nan", "NaN", "null", "none", "true", "auto", "full_attention", "bfloat16", "fp8",
    "a*3", "a*0", "a*99999999999999999999", "none*2", "../../no/where", "\x1b[31mred", "\x00", "\ud800", "\u202e",
    "é" * 30, "x" * 300, "x" * 25_000, "k=1,v=2", "{}", "[]", "%s%n", "a\nb", "\u0663", "__class__", "kind",
]  # fmt: skip
OTHERS: list[Any] = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [{}],
    {"": ""},
    [None],
    [0],
    [-1],
    {"kind": "gqa"},
    {"a": {"b": 1}},
]
#: Names that mean something to some reader; a format's own are learnt from its seeds.
KEYS = ["", "kind", "layers", "pattern", "text_config", "model_type", "layer_types", "head_dim", "of", "indexer", "ä"]


def hostile(chance: Chance) -> Any:
    return copy.deepcopy(chance.choice(chance.choice((NUMBERS, NUMBERS, WORDS, OTHERS))))


def places(tree: Any) -> Iterator[Place]:
    """Every place in the tree, outermost first."""
    waiting = [tree]
    for part in waiting:
        for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
            yield part, key
            waiting.append(part[key])


def mutate_tree(tree: Any, chance: Chance, words: list[str], other: Any) -> Any:
    """A changed copy. words: keys worth trying; other: a tree to take parts from."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
        found = list(places(tree))
        if not found or chance.random() < 0.01:
            tree = hostile(chance)
            continue
        chance.choice(_STEPS)(chance.choice(found), chance, words, other)
    return tree


def _exchange(place: Place, chance: Chance, words: list[str], other: Any) -> None:
    place[0][place[1]] = hostile(chance)


def _nudge(place: Place, chance: Chance, words: list[str], other: Any) -> None:
    """A number near the one that is there: what passes for sound."""
    value = place[0][place[1]]
    if type(value) is not int:
        return _exchange(place, chance, words, other)
    steps = (value + 1, value - 1, value * 2, value // 2, -value, value * value, value * 1024, value + 7, value * 3)
    place[0][place[1]] = chance.choice(steps)
    return None


def _retype(place: Place, chance: Chance, words: list[str], other: Any) -> None:
    """The same value as another type."""
    value = place[0][place[1]]
    as_float = float(value) if type(value) is int and abs(value) < 2**1000 else value
    inside = value[0] if isinstance(value, list) and value else value
    forms = (str(value)[:1000], [value], {"value": value}, as_float, bool(value), inside, [value, value])
    place[0][place[1]] = chance.choice(forms)


def _drop(place: Place, chance: Chance, words: list[str], other: Any) -> None:
    del place[0][place[1]]


def _rename(place: Place, chance: Chance, words: list[str], other: Any) -> None:
    if isinstance(place[0], dict):
        value = place[0].pop(place[1])
        name = str(place[1])  # a graft may have brought a key that is no text
        spelt = (name + "s", name.upper(), name[:-1], name + " ", chance.choice(words or KEYS))
        place[0][chance.choice(spelt)] = value
    else:
        place[0].insert(chance.randrange(len(place[0]) + 1), copy.deepcopy(place[0][place[1]]))


def _add(place: Place, chance: Chance, words: list[str], other: Any) -> None:
    """A key that some reader knows, here."""
    target = place[0][place[1]] if isinstance(place[0][place[1]], dict) else place[0]
    if isinstance(target, dict):
        target[chance.choice(words or KEYS)] = chance.choice((hostile(chance), chance.randrange(1, 300), True))
    else:
        target.append(hostile(chance))


def _swap(place: Place, chance: Chance, words: list[str], other: Any) -> None:
    keys = list(place[0]) if isinstance(place[0], dict) else list(range(len(place[0])))
    key = chance.choice(keys)
    place[0][place[1]], place[0][key] = place[0][key], place[0][place[1]]


def _graft(place: Place, chance: Chance, words: list[str], other: Any) -> None:
    """A part of another document, under the same key where it has that."""
    found = list(places(other))
    alike = [item for item in found if item[1] == place[1]]
    if found:
        source = chance.choice(alike if alike and chance.random() < 0.8 else found)
        place[0][place[1]] = copy.deepcopy(source[0][source[1]])


def _stretch(place: Place, chance: Chance, words: list[str], other: Any) -> None:
    """A list longer, shorter, shuffled; a mapping nested; a value buried deep."""
    value = place[0][place[1]]
    if isinstance(value, list) and value:
        cut = value[: chance.randrange(len(value) + 1)]
        place[0][place[1]] = chance.choice(
            (cut, value * 2, value[::-1], value[:64] * chance.choice((3, 500)), value[1:])
        )
    elif isinstance(value, dict) and chance.random() < 0.5:
        place[0][place[1]] = dict(reversed(list(value.items())))
    else:
        for _ in range(chance.choice((1, 5, 30, 300))):
            value = [value] if chance.random() < 0.5 else {"a": value}
        place[0][place[1]] = value


_STEPS: list[Callable[[Place, Chance, list[str], Any], None]] = [
    _exchange, _exchange, _nudge, _nudge, _nudge, _retype, _drop, _drop, _rename, _add, _add, _swap, _graft, _graft,
    _stretch,
]  # fmt: skip
