"""`jq` where the machine has none: the same library through its Python binding, for the options the pages use."""

from __future__ import annotations

import json
import sys

import jq


def main(arguments: list[str]) -> int:
    flags = {flag for word in arguments if word.startswith("-") for flag in word[1:]}
    program = next(word for word in arguments if not word.startswith("-"))
    found = jq.compile(program).input_text(sys.stdin.read()).all()
    for value in found:
        plain = isinstance(value, str) and "r" in flags
        compact = {"separators": (",", ":")} if "c" in flags else {"indent": 2}
        print(value if plain else json.dumps(value, ensure_ascii=False, **compact))
    return 1 if "e" in flags and (not found or found[-1] in (None, False)) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
