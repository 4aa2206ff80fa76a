"""Tables of the engine pages: options, and the log lines that `kvcalc explain-log` reads with what they mean.

Made from the engines' own option lists and from the patterns of `kvcalc.explain_log`, so neither can be forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as codes  # the parser of `re` itself: a pattern is shown as the line it matches
from re import _parser
from typing import Any

_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)


def _table(titles: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def options(name: str) -> str:
    """The engine's options under its own names."""
    from kvcalc.engines import get_engine

    engine = get_engine(name)[0]
    rows = [
        [
            f"`{option.name}`",
            option.parse,
            "the engine's own" if option.default is None else f"`{str(option.default).lower()}`",
            option.help,
        ]
        for option in engine.options
    ]
    return _table(["`-o` option", "takes", "default", "meaning"], rows)


def log_lines(name: str) -> str:
    """The lines of an engine's log that are read, as a template, and the meaning of each number."""
    from kvcalc.explain_log.meanings import REFUSALS, meaning
    from kvcalc.explain_log.wording import READERS

    reader = next(reader for reader in READERS if reader.engine == name)
    rows = []
    for rule in reader.rules:
        names = {group: fact for group, (fact, _) in rule.reads.items()}
        texts = [(fact, meaning(name, fact, by_blocks=False)) for fact in dict.fromkeys(names.values())]
        said = "; ".join(f"`{fact}`: {text}" if text else f"`{fact}`" for fact, text in texts)
        rows.append([f"`{template(rule.pattern, names)}`", said])
    for pattern, what in reader.refusals:
        rows.append([f"`{template(pattern, {})}`", f"refusal: {REFUSALS[what]}"])
    return _table(["line", "numbers"], rows)


def template(pattern: re.Pattern[str], names: dict[str, str]) -> str:
    """The line a pattern matches, its numbers replaced by <names>, what it skips by an ellipsis.

    >>> template(re.compile(r"size: (?P<t>[0-9]{1,9}) tokens?"), {"t": "kv_cache_tokens"})
    'size: <kv_cache_tokens> tokens'
    """
    groups = {number: names.get(group, "") for group, number in pattern.groupindex.items()}
    text = "".join(_piece(op, what, groups) for op, what in _parser.parse(pattern.pattern, pattern.flags))
    return re.sub(r" +", " ", text).replace("|", "\\|").strip()


def _piece(op: Any, what: Any, groups: dict[int, str]) -> str:
    """One element of a parsed pattern as text."""
    if op is codes.LITERAL:
        return chr(what)
    if op is codes.ANY:
        return "…"
    if op is codes.SUBPATTERN:
        number, _, _, inside = what
        if groups.get(number):
            return f"<{groups[number]}>"
        return "".join(_piece(*item, groups) for item in inside)
    if op is codes.BRANCH:
        return "".join(_piece(*item, groups) for item in what[1][0])
    if op is codes.IN:
        return _one_of(what)
    if op in _REPEATS:
        least, _, inside = what
        once = "".join(_piece(*item, groups) for item in inside)
        return "…" if "…" in once or (least == 0 and len(once) > 1 and "<" not in once) else once
    return ""


def _one_of(choices: list[tuple[Any, Any]]) -> str:
    """The first letter of a set; letters and digits of any kind are left out."""
    op, what = choices[0]
    return chr(what) if op is codes.LITERAL else "…" if op is codes.CATEGORY else ""
