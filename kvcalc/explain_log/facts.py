"""What a log line says: a named number with its unit, the line it stands in, and how far it was rounded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Unit = Literal["bytes", "tokens", "blocks", "sessions", "count", "fraction", "text"]

#: A log is read line by line; longer lines (and logs) are cut, so that nothing pasted can stall the reader.
MAX_LINE = 4_000
MAX_LINES = 200_000

_FACTORS = {"b": 1, "bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


class Fact(NamedTuple):
    """One number of a log. `within`: half of the last printed digit, in the same unit (0: exact)."""

    name: str
    value: int | float | str
    unit: Unit
    line: int
    text: str
    within: float = 0

    def as_dict(self) -> dict[str, object]:
        return {"name": self.name, "value": self.value, "unit": self.unit, "line": self.line, "text": self.text}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A pattern and what its groups mean.

    pattern: with named groups; `reads`: group name -> (fact name, unit). Sizes take their unit from the group
    `<name>_unit`, or from `size_unit` (engines that print GiB and call it GB).
    """

    pattern: re.Pattern[str]
    reads: dict[str, tuple[str, Unit]]
    size_unit: str = "gib"

    def facts(self, line: str, number: int) -> Iterable[Fact]:
        for match in self.pattern.finditer(line):
            for group, (name, unit) in self.reads.items():
                text = match.groupdict().get(group)
                if text is not None:
                    said = match.groupdict().get(f"{group}_unit")
                    value, within = read_number(text, unit, said or self.size_unit)
                    yield Fact(name, value, unit, number, line.strip()[:400], within)


def rule(pattern: str, size_unit: str = "gib", **reads: tuple[str, Unit]) -> Rule:
    """A rule of one pattern; letter case as printed."""
    return Rule(pattern=re.compile(pattern), reads=reads, size_unit=size_unit)


def read_number(text: str, unit: Unit, said: str) -> tuple[int | float | str, float]:
    """The number `text` and half of its last printed digit; sizes, said in `said`, become bytes."""
    if unit == "text":
        return text, 0
    plain = text.replace(",", "").replace("_", "")
    digits = len(plain.partition(".")[2])
    if unit == "bytes":
        factor = _FACTORS[said.lower()]
        step = factor / 10**digits
        return round(float(plain) * factor), 0 if factor == 1 else step / 2
    if unit in ("fraction", "sessions") or digits:
        return float(plain), 0.5 / 10**digits if unit == "sessions" else 0
    return int(plain), 0


def once(facts: list[Fact]) -> list[Fact]:
    """Each (name, value) once: tensor-parallel ranks repeat their lines."""
    kept: dict[tuple[str, object], Fact] = {}
    for fact in facts:
        kept.setdefault((fact.name, fact.value), fact)
    return list(kept.values())


class Found(NamedTuple):
    """All facts of a log."""

    facts: list[Fact]

    def first(self, name: str) -> Fact | None:
        return next((fact for fact in self.facts if fact.name == name), None)

    def last(self, name: str) -> Fact | None:
        return next((fact for fact in reversed(self.facts) if fact.name == name), None)

    def all(self, name: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.name == name]

    def number(self, name: str) -> int | None:
        """A whole number by name, the last one printed."""
        fact = self.last(name)
        return int(fact.value) if fact is not None and not isinstance(fact.value, str) else None


class Reader(NamedTuple):
    """One engine's wording. `words`: a line without any of them is not looked at further; `ranks`: every rank prints
    the same lines, of which one is kept.
    """

    engine: str
    rules: tuple[Rule, ...]
    refusals: tuple[tuple[re.Pattern[str], str], ...]
    words: tuple[str, ...]
    ranks: bool = False

    def read(self, lines: list[str]) -> Found:
        facts: list[Fact] = []
        for number, line in enumerate(lines, 1):
            if not any(word in line for word in self.words):
                continue
            for each in self.rules:
                facts.extend(each.facts(line, number))
            facts.extend(
                Fact("refusal", what, "text", number, line.strip()[:400])
                for pattern, what in self.refusals
                if pattern.search(line)
            )
        return Found(once(facts) if self.ranks else facts)


def split_lines(text: str) -> list[str]:
    """Lines without terminal colours, cut to a length no rule needs more of."""
    plain = re.sub(r"\x1b\[[0-9;]{0,20}[A-Za-z]", "", text)
    return [line[:MAX_LINE] for line in plain.splitlines()[:MAX_LINES]]
